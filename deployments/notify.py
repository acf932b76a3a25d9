"""Messages to people, as automations of Prefect: what happened, to which source, and what to do.

Automations act on the events that the road emits (`tasks.tell.events`) and on the states of runs; they run in Prefect's
server. Where the messages go is a notification block: one that somebody made in the UI, or a webhook of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from connectors.errors import ConfigurationError, CrowdsyncError
from connectors.settings import load
from deployments.serving import automation
from tasks.tell.templates import message

if TYPE_CHECKING:
    from prefect.automations import AutomationCore, EventTrigger
    from prefect.client.orchestration import PrefectClient

BLOCK: Final = "crowdsync"
"""The name of our own webhook block."""
OVERDUE: Final = timedelta(hours=2)


async def create(block: str, overdue: timedelta = OVERDUE) -> list[tuple[str, str]]:
    """Makes the automations that notify through `block` (TYPE/NAME, as in "slack-webhook/ops").

    Each with what became of it: created, updated, unchanged. Those that somebody switched off stay off. Templates of
    the admin that are broken are named after them. Raises `ConfigurationError`.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        wanted, faults = automations(await _block(client, block), overdue, _templates())
        made = [(one.name, await automation(client, one)) for one in wanted]
    return made + [(fault, "ours is sent") for fault in faults]


def _templates() -> str:
    """The folder with the admin's templates, where crowdsync.toml is at hand."""
    try:
        return load().templates
    except CrowdsyncError:
        return ""


async def create_webhook(url: str, overdue: timedelta = OVERDUE) -> list[tuple[str, str]]:
    """`create` with a webhook block of our own: `{"text": …}` is posted to `url`, which is kept as a secret."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.types import SecretDict

    if not url.startswith(("https://", "http://")):
        raise ConfigurationError("the address of the webhook: is none; it starts with https://")
    webhook = CustomWebhookNotificationBlock(
        name="crowdsync",
        url="{{url}}",
        json_data={"text": "{{subject}}\n{{body}}"},
        secrets=SecretDict({"url": url}),
    )
    await webhook.asave(BLOCK, overwrite=True)
    return await create(f"{webhook.get_block_type_slug()}/{BLOCK}", overdue)


def automations(block: UUID, overdue: timedelta = OVERDUE, folder: str = "") -> tuple[list[AutomationCore], list[str]]:
    """What people are told about, in the words of the templates (of the admin's `folder`, else ours); and which of the
    admin's were not used, and why."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification

    faults: list[str] = []

    def told(event: str) -> EventTrigger:
        return EventTrigger(expect={f"crowdsync.{event}"}, match={"prefect.resource.id": "crowdsync.source.*"})

    def one(name: str, description: str, trigger: EventTrigger, template: str) -> AutomationCore:
        subject, body, fault = message(template, folder, _refused)
        faults.extend([fault] if fault else [])
        subject = subject.replace("{{ overdue }}", _span(overdue))
        sent = SendNotification(block_document_id=block, subject=subject, body=body)
        return AutomationCore(name=f"crowdsync: {name}", description=description, trigger=trigger, actions=[sent])

    tagged = {"prefect.resource.id": "prefect.tag.crowdsync", "prefect.resource.role": "tag"}
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    failed = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, match=runs, match_related=tagged
    )
    late = EventTrigger(
        posture=Posture.Proactive,
        expect={"prefect.flow-run.Completed"},
        match=runs,
        match_related=[tagged, {"prefect.resource.name": "sync", "prefect.resource.role": "flow"}],
        within=overdue,
    )
    quarantined = "A source could not be read; scheduled runs leave it alone for a while."
    waits = "A plan went past the limits of the policy, and its run waits for a person."
    unheeded = "A record that is held keeps somebody in who has left, or has been held for many runs."
    ended = "A run of crowdsync failed, or its process ended before its time."
    nothing = "No sync of any source was completed for a while: is a worker running, and the schedule on?"
    made = [
        one("source in quarantine", quarantined, told("source.quarantined"), "quarantined.txt"),
        one(
            "source recovered",
            "A source that had failed could be read again.",
            told("source.recovered"),
            "recovered.txt",
        ),
        one("plan waits for agreement", waits, told("plan.waiting"), "waiting.txt"),
        one("plan refused", "A plan was refused; nothing of it was written.", told("plan.refused"), "refused.txt"),
        one("somebody in or out against the source's word", unheeded, told("source.unheeded"), "unheeded.txt"),
        one("run failed", ended, failed, "failed.txt"),
        one("no sync for too long", nothing, late, "overdue.txt"),
    ]
    return made, faults


def _refused(text: str) -> None:
    """Raises where Prefect's server would not take a template."""
    from prefect.server.utilities.user_templates import validate_user_template

    validate_user_template(text)


def _span(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours:g} hours" if hours >= 1 else f"{time.total_seconds():g} seconds"


async def _block(client: PrefectClient, block: str) -> UUID:
    """The id of a notification block."""
    from prefect.exceptions import ObjectNotFound

    kind, slash, name = block.partition("/")
    if not (kind and slash and name):
        raise ConfigurationError(f"{block!r} names no block; write TYPE/NAME, as in slack-webhook/ops")
    try:
        found = await client.read_block_document_by_name(name, kind, include_secrets=False)
    except ObjectNotFound:
        why = f"Prefect has no block {block}; make it under Blocks in its UI"
    else:
        if found.block_schema and "notify" in found.block_schema.capabilities:
            return found.id
        why = f"the block {block} sends no notifications; Slack, Microsoft Teams, Custom Webhook and other kinds do"
    known = ", ".join(await _known(client)) or "none"
    raise ConfigurationError(f"{why}. Blocks that can be named: {known}")


async def _known(client: PrefectClient) -> Sequence[str]:
    found = await client.read_block_documents(include_secrets=False)
    return sorted(
        f"{one.block_type.slug}/{one.name}"
        for one in found
        if one.block_type and one.name and one.block_schema and "notify" in one.block_schema.capabilities
    )
