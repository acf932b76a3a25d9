"""Messages to people, as automations of Prefect: what happened, to which source, and what to do.

Automations act on the events that the road emits (`tasks.tell.events`) and on the states of runs; they run in Prefect's
server. Where the messages go is a notification block: one that somebody made in the UI, or a webhook of our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from connectors.errors import ConfigurationError
from deployments.serving import automation

if TYPE_CHECKING:
    from prefect.automations import AutomationCore, EventTrigger
    from prefect.client.orchestration import PrefectClient

BLOCK: Final = "crowdsync"
"""The name of our own webhook block."""
OVERDUE: Final = timedelta(hours=2)

_RUN = "{% if flow_run and flow_run|ui_url %}\nThe run: {{ flow_run|ui_url }}{% endif %}"
_SOURCE = "{{ event.payload.source }}"


async def create(block: str, overdue: timedelta = OVERDUE) -> list[tuple[str, str]]:
    """Makes the automations that notify through `block` (TYPE/NAME, as in "slack-webhook/ops").

    Each with what became of it: created, updated, unchanged. Those that somebody switched off stay off.
    Raises `ConfigurationError`.
    """
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        target = await _block(client, block)
        return [(one.name, await automation(client, one)) for one in automations(target, overdue)]


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


def automations(block: UUID, overdue: timedelta = OVERDUE) -> list[AutomationCore]:
    """What people are told about, and in which words."""
    from prefect.automations import AutomationCore, EventTrigger, Posture, SendNotification

    def told(event: str) -> EventTrigger:
        return EventTrigger(expect={f"crowdsync.{event}"}, match={"prefect.resource.id": "crowdsync.source.*"})

    def one(name: str, description: str, trigger: EventTrigger, subject: str, body: str) -> AutomationCore:
        message = SendNotification(block_document_id=block, subject=f"crowdsync: {subject}", body=body)
        return AutomationCore(name=f"crowdsync: {name}", description=description, trigger=trigger, actions=[message])

    tagged = {"prefect.resource.id": "prefect.tag.crowdsync", "prefect.resource.role": "tag"}
    runs = {"prefect.resource.id": "prefect.flow-run.*"}
    return [
        one(
            "source in quarantine",
            "A source could not be read; scheduled runs leave it alone for a while.",
            told("source.quarantined"),
            f"{_SOURCE} cannot be read",
            "{{ event.payload.error }}\n"
            "Failures in a row: {{ event.payload.failures }}. "
            "Scheduled runs leave it alone until {{ event.payload.until }}.\n"
            "What to do: see to what the error names. A run that you start by hand tries at once." + _RUN,
        ),
        one(
            "source recovered",
            "A source that had failed could be read again.",
            told("source.recovered"),
            f"{_SOURCE} can be read again",
            "It had failed {{ event.payload.failures }} times in a row, since {{ event.payload.since }}.\n"
            "What to do: nothing." + _RUN,
        ),
        one(
            "plan waits for agreement",
            "A plan went past the limits of the policy, and its run waits for a person.",
            told("plan.waiting"),
            f"plan {{{{ event.payload.plan }}}} of {_SOURCE} waits for you",
            "{% for ask in event.payload.asks %}- {{ ask }}\n{% endfor %}"
            "What to do: look at the plan, then open the run and press Resume, "
            "or use `crowdsync approve {{ event.payload.plan }} --reason …` (or `reject`)." + _RUN,
        ),
        one(
            "plan refused",
            "A plan was refused; nothing of it was written.",
            told("plan.refused"),
            f"plan {{{{ event.payload.plan }}}} of {_SOURCE} was refused",
            "{% for refusal in event.payload.refusals %}- {{ refusal }}\n{% endfor %}"
            "Nothing was written. What to do: `crowdsync plan --show {{ event.payload.plan }}` shows all of it." + _RUN,
        ),
        one(
            "somebody in or out against the source's word",
            "A record that is held keeps somebody in who has left, or has been held for many runs.",
            told("source.unheeded"),
            f"{_SOURCE} is not followed",
            "{% for headline in event.payload.headlines %}- {{ headline }}\n{% endfor %}"
            "What to do: the run's report names them, each with the way out. This is told once a day." + _RUN,
        ),
        one(
            "run failed",
            "A run of crowdsync failed, or its process ended before its time.",
            EventTrigger(
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"}, match=runs, match_related=tagged
            ),
            "the run {{ flow_run.name }} {{ flow_run.state.name | lower }}",
            "{{ flow_run.state.message }}\nWhat to do: the run's page says how far it came; start it again." + _RUN,
        ),
        one(
            "no sync for too long",
            "No sync of any source was completed for a while: is a worker running, and the schedule on?",
            EventTrigger(
                posture=Posture.Proactive,
                expect={"prefect.flow-run.Completed"},
                match=runs,
                match_related=[tagged, {"prefect.resource.name": "sync", "prefect.resource.role": "flow"}],
                within=overdue,
            ),
            f"no sync was completed for {_span(overdue)}",
            "What to do: see under Work Pools whether a worker is online, and under Deployments whether the schedule "
            "of sync-all is on.",
        ),
    ]


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
