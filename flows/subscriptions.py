"""That providers go on telling who changed: Entra's subscriptions and Google's channels end, and are made again."""

# No `from __future__ import annotations` here: see flows/sync.py.
from collections import Counter
from collections.abc import Sequence

from prefect import flow
from prefect.artifacts import acreate_table_artifact

from connectors.contract import Subscribable
from connectors.errors import ConfigurationError, CrowdsyncError, RetryableError
from connectors.hooks import webhook_secrets
from connectors.idp import SOURCES
from connectors.settings import Settings, load
from connectors.store import Store, in_thread
from tasks.read.connections import open_source
from tasks.read.subscriptions import Care, Cared, care_for
from tasks.tell.page import say
from tasks.tell.render import plain

Row = dict[str, str]
"""source, tells of, what (stands, renewed, made, made anew, missing; under way, left alone), until, why"""


@flow(name="subscriptions", persist_result=False)
async def subscriptions(sources: list[str] = []) -> list[Row]:  # noqa: B006 (nobody changes it; the form shows it)
    """See to it that identity providers go on telling who changed.

    What Entra and Google promise to tell ends after a time: it is renewed before, and made again where it is gone. Then
    everybody is read once, for nobody knows what was not told. A table says what stands until when.

    Args:
        sources: Only these, by their names in crowdsync.toml. Empty: all that have to be asked.
    """
    settings = load()
    for name in sources:
        settings.source(name)
    with Store.open(settings.store_url(), busy=settings.store.busy) as store:
        rows = await look_after(settings, store, sources or subscribed(settings))
    shown = [row | {"why": plain(row["why"])} for row in rows]  # some of it others said
    await acreate_table_artifact(shown, key="subscriptions", description=summary(rows))
    missing = [f"{row['source']}: {row['tells of']}: {row['why']}" for row in rows if row["what"] == "missing"]
    if missing:
        raise RetryableError(f"Not told of changes by {'; '.join(missing)}")
    return rows


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


def summary(rows: Sequence[Row]) -> str:
    """`**4 stand, 1 made anew.** …`, or that there is nothing to look after."""
    if not rows:
        return "No source has a webhook whose subscription ends: there is nothing to look after."
    counts = Counter("stand" if row["what"] == "stands" else row["what"] for row in rows)
    lines = [f"**{', '.join(f'{count} {what}' for what, count in counts.items())}**"]
    if read := sorted({row["source"] for row in rows if row["why"].endswith("everybody is read")}):
        lines.append(
            f"What changed while nobody was told is looked for now: everybody of {', '.join(read)} is read once."
        )
    if counts["missing"]:
        lines.append("What is missing is not told as it happens; the scheduled runs find it all the same.")
    return "\n\n".join(lines)
