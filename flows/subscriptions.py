"""That providers go on telling who changed: Entra's subscriptions and Google's channels end, and are made again."""

# No `from __future__ import annotations` here: see flows/sync.py.
from collections import Counter
from collections.abc import Sequence

from prefect import flow
from prefect.artifacts import acreate_table_artifact

from connectors.errors import RetryableError
from connectors.settings import load
from connectors.store import Store
from tasks.read.subscribed import Row, look_after, subscribed
from tasks.tell.render import plain


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
