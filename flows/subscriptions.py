"""That providers go on telling who changed: Entra's subscriptions and Google's channels end, and are made again."""

# No `from __future__ import annotations` here: see flows/sync.py.
from prefect import flow
from prefect.artifacts import acreate_table_artifact

from connectors.errors import RetryableError
from connectors.settings import load
from connectors.store import Store
from tasks.read.subscribed import Row, look_after, subscribed
from tasks.tell.failure import explained
from tasks.tell.page import name_run
from tasks.tell.render import subscriptions_markdown
from tasks.tell.templates import plain


@flow(name="subscriptions", flow_run_name="subscriptions", persist_result=False)
@explained(lambda *_, **__: "subscriptions", lambda: load().templates)
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
    text = subscriptions_markdown(rows, settings.templates)
    await acreate_table_artifact(shown, key="subscriptions", description=text)
    missing = [f"{row['source']}: {row['tells of']}: {row['why']}" for row in rows if row["what"] == "missing"]
    if missing:
        raise RetryableError(f"Not told of changes by {'; '.join(missing)}")
    await name_run(f"{len(rows)} looked after")
    return rows
