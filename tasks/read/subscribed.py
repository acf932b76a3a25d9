"""The subscriptions of several sources, looked after one by one, and what became of them in words."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.contract import Subscribable
from connectors.errors import ConfigurationError, CrowdsyncError
from connectors.hooks import webhook_secrets
from connectors.idp import SOURCES
from connectors.settings import Settings
from connectors.store import Store, in_thread
from tasks.read.connections import open_source
from tasks.read.subscriptions import Care, Cared, care_for
from tasks.tell.page import say

Row = dict[str, str]
"""source, tells of, what (stands, renewed, made, made anew, missing; under way, left alone), until, why"""


def subscribed(settings: Settings) -> list[str]:
    """The sources of which crowdsync makes the subscriptions: those that have some, with a webhook of their own."""
    return [
        name
        for name, one in sorted(settings.sources.items())
        if hasattr(SOURCES[one.kind], "subscriptions")
        and one.webhook is not None
        and one.webhook.kind is None
        and one.webhook.subscribe
    ]


async def look_after(settings: Settings, store: Store, sources: Sequence[str]) -> list[Row]:
    """Looks after the subscriptions of these sources; a row for each. Never raises because of one of them."""
    rows: list[Row] = []
    for name in sources:
        if not settings.receiver.public_url:
            why = "receiver.public_url does not say how the provider reaches crowdsync receive"
            rows.append({"source": name, "tells of": "", "what": "left alone", "until": "", "why": why})
            continue
        try:
            care = await _of_source(settings, store, name)
        except Exception as error:  # whatever it is, the other sources are looked after
            why = str(error) if isinstance(error, CrowdsyncError) else f"{type(error).__name__}: {error}"
            rows.append({"source": name, "tells of": "", "what": "missing", "until": "", "why": why})
            continue
        if care.busy:
            why = "another process looks after it just now"
            rows.append({"source": name, "tells of": "", "what": "under way", "until": "", "why": why})
        rows += [
            {
                "source": name,
                "tells of": one.of,
                "what": one.became,
                "until": f"{one.until:%Y-%m-%d %H:%M} UTC" if one.until else "",
                "why": one.why + ("; everybody is read" if care.everybody and _untold(one) else ""),
            }
            for one in care.every
        ]
    return rows


async def _of_source(settings: Settings, store: Store, name: str) -> Care:
    chosen = settings.source(name)
    if name not in subscribed(settings):
        raise ConfigurationError(
            f"sources.{name}: has no subscriptions to look after; leave it out, or give a source of Entra or Google a "
            "webhook"
        )
    (secret, *_) = await in_thread(webhook_secrets, name, chosen)
    address = f"{settings.receiver.public_url.rstrip('/')}/webhooks/{name}"
    async with open_source(name, chosen) as source:
        assert isinstance(source, Subscribable)
        care = await care_for(store, settings.directory_of(name).name, name, source, address, secret)
    if care.everybody:
        say("%s: changes may have gone untold, so that everybody is read", name)
    return care


def _untold(one: Cared) -> bool:
    """Whether it was missing for a while."""
    return one.became.startswith("made") or (one.became == "renewed" and bool(one.why))
