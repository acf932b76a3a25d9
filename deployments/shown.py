"""Runs outside of Prefect, shown there afterwards: they neither wait for its server nor are forgotten where it is away.

Everything that is shown stands in our store, so that another process, or a later one, may show it. That of
`crowdsync react` has one beside it (`main`): a page costs as much of the processor as a small batch, and what is
written to Crowd does not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
import pandas as pd
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import State
from prefect.flows import flow
from prefect.settings import get_current_settings
from prefect.states import Completed, Failed

from connectors.settings import Settings, load
from connectors.store import Store, in_thread
from deployments.opened import settings_store
from tasks.policy import policy_of
from tasks.tell.current import show_current
from tasks.tell.page import key_of
from tasks.tell.render import batch_markdown, in_words, plan_table
from tasks.tell.rows import ROWS, count_line
from tasks.tell.templates import plain

AGE: Final = timedelta(hours=24)
"""What ended longer ago is not shown any more."""
AT_ONCE: Final = 50
SHOW: Final = 1.0
"""Seconds between two looks for runs that ended."""
PAGE: Final = 15.0
"""So many seconds apart, at least, the page about everything is brought up to date, where batches ended since."""
KIND: Final = 10
"""By so much the process that shows lets others go first (`os.nice`)."""

log = logging.getLogger("crowdsync.react")


@flow(name="react", persist_result=False)
async def react(source: str, hints: int) -> None:
    """News of a source, taken by the process of `crowdsync react`. Its runs are shown when they are over; this flow is
    not started by hand."""


@asynccontextmanager
async def _answering(client: PrefectClient | None = None) -> AsyncIterator[PrefectClient | None]:
    """A client, or one of the Prefect server that is named (PREFECT_API_URL); None where none is, or it does not
    answer."""
    if not _named():
        yield None
        return
    async with nullcontext(client) if client else get_client() as asked:
        yield asked if await asked.api_healthcheck() is None else None


def _named() -> bool:
    """Whether a Prefect server is named. (A client would start one otherwise.)"""
    return bool(get_current_settings().api.url)


async def prefect_answers() -> bool:
    """Whether a Prefect server is named (PREFECT_API_URL), and answers."""
    async with _answering() as client:
        return client is not None


async def show(store: Store, settings: Settings, directory: str, client: PrefectClient | None = None) -> int:
    """Makes flow runs of the batches of a directory that ended lately and that Prefect does not know; how many. Where
    it does not answer, they are shown another time. `client`: one that is open; to open one takes as long as a page."""
    runs = await in_thread(store.without_page, "react", directory, datetime.now(UTC) - AGE, AT_ONCE)
    if runs.empty:
        return 0
    shown = 0
    try:
        async with _answering(client) as asked:
            if asked is None:
                return 0
            for row in runs.to_dict("records"):
                page = await _page(asked, store, settings, row)
                await in_thread(store.set_page, row["run"], page)
                shown += 1
    except Exception as error:  # a page is not worth a hint
        log.info("Prefect cannot be shown %d runs now: %s", len(runs) - shown, error)
    return shown


async def keep_shown(store: Store, directory: str) -> None:
    """Shows what ends, and how everything stands then, until it is cancelled."""
    shown, at = 0, float("-inf")
    async with get_client() if _named() else nullcontext() as client:
        while True:
            await asyncio.sleep(SHOW)
            try:
                shown += await show(store, load(), directory, client)
                now = asyncio.get_running_loop().time()
                if shown and now - at >= PAGE:
                    shown, at = 0, now
                    await show_current(store, load())
            except Exception as error:
                log.warning("Prefect: %s", error)


def main() -> None:
    """`keep_shown` of the directory that is named, until the process is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started it, and who ends it
    with suppress(OSError):  # a service may be kept from that, as those in deployments/systemd are
        os.nice(KIND)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("crowdsync").setLevel(logging.INFO)
    with settings_store(load()) as store:
        asyncio.run(keep_shown(store, sys.argv[1]))


async def _page(client: PrefectClient, store: Store, settings: Settings, row: Mapping[Any, Any]) -> str:
    """One run of our store as a flow run: its id."""
    summary = orjson.loads(row["summary"])
    source, hints = row["source"], summary.get("hints", 0)
    news = await in_thread(store.inbox, batch=row["run"], limit=ROWS)
    who = str(news["key"].iloc[0]) if len(news) == 1 else f"{hints} changes"
    made = await client.create_flow_run(
        react,
        name=f"{source}: {who}: {_outcome(row['status'], summary)}",
        parameters={"source": source, "hints": hints},
        tags=["crowdsync", f"source:{source}"],
        state=_state(row["status"], summary),  # (at once: each further step costs as much as this one)
    )
    for kind, key, data, description in _shown(store, settings, row, summary, news):
        artifact = ArtifactCreate(key=key, type=kind, data=data, description=description, flow_run_id=made.id)
        await client.create_artifact(artifact)
    return str(made.id)


def _outcome(status: str, summary: Mapping[str, Any]) -> str:
    """What a batch came to, in a few words."""
    return count_line(summary.get("planned", {}), 3) if status in ("applied", "nothing to do") else in_words(status)


def _state(status: str, summary: Mapping[str, Any]) -> State[Any]:
    why = summary.get("error", "")
    message = f"{in_words(status)}{f': {why}' if why else ''}"
    return Failed(message=message) if status in ("failed", "stopped", "partly applied") else Completed(message=message)


def _shown(
    store: Store, settings: Settings, row: Mapping[Any, Any], summary: Mapping[str, Any], news: pd.DataFrame
) -> list[tuple[str, str, Any, str]]:
    """The artifacts of a run: type, key, data, description."""
    source = row["source"]
    key = key_of(source, "react")
    text = batch_markdown(row["status"], summary, settings.templates)
    names = store.called(row["directory"], source, {*news.loc[news["kind"] == "user", "key"]})
    told = [
        {
            "who": plain(names.get(one["key"]) or one["key"]),
            "id": plain(one["key"]),
            "what": one["kind"],
            "by": one["via"],
            "since": f"{one['received_at']:%H:%M:%S}",
            "became": plain(one["note"]),
        }
        for one in news.to_dict("records")
    ]
    found: list[tuple[str, str, Any, str]] = []  # (as few as may be: each costs Prefect as much as the run itself)
    if told:
        said = f"{text}\n\nWhat it was told, and what became of it:"
        found.append(("table", f"{key}-news", orjson.dumps(told).decode(), said))
    else:
        found.append(("markdown", key, text, text.partition("\n")[0]))
    for number in summary.get("plans", [])[:5]:
        operations = store.operations(number)
        rows = plan_table(operations, policy_of(settings, source).disclose)
        if rows:
            counts = {str(kind): int(count) for kind, count in operations["kind"].value_counts().items()}
            title = f"Plan {number}: {count_line(counts)}"
            found.append(("table", f"{key}-plan", orjson.dumps(rows).decode(), title))
    return found
