"""`crowdsync status`: how everything stands, from a few look-ups. Needs neither pandas nor, where no server is named,
Prefect."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import orjson
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from connectors.outline import Outline, outline
from connectors.store.database import Database, ready
from connectors.store.overview import Overview, SourceState, overview
from deployments.terminal import UNHEEDED, console, explained, printable
from tasks.tell import dashboard

COLUMNS: Final = (
    *("directory", "source", "in_step", "read_whole", "running_since", "last_run", "last_run_at", "held"),
    *("hints_waiting", "hints_held", "quarantine_until", "concerns"),
)
_NO_SERVER = "no Prefect server is named (PREFECT_API_URL): nothing starts by a schedule of it"


def status(
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line per source, as CSV.")] = False,
    overdue: Annotated[
        float, typer.Option("--overdue", help="Hours without a good run after which a source is overdue.", min=0.01)
    ] = dashboard.OVERDUE.total_seconds() / 3600,
) -> None:
    """How everything stands: last good runs, and what waits for whom. Exit code 5 where something does."""
    with explained():
        where = _outlined()
        with closing(Database(where.store_url, busy=where.busy)) as database:
            ready(database)
            found = overview(database, where.sources, datetime.now(UTC))
    following = _following()
    waits = dashboard.concerns(found, timedelta(hours=overdue))
    if as_csv:
        with explained():
            _lines(found, waits, also_json=json)
    elif json:
        told = asdict(found) | {"next": following, "concerns": [asdict(one) for one in waits], "well": not waits}
        sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _show(found, waits, following)
    if waits:
        raise typer.Exit(UNHEEDED)


def _outlined() -> Outline:
    if (simple := outline()) is not None:
        return simple
    from connectors.settings import load  # a second, for what it says of a setting that is wrong

    settings = load()
    sources: Mapping[str, tuple[str, ...]] = {
        one.name: tuple(settings.sources_of(one.name)) for one in settings.all_directories()
    }
    return Outline(settings.store_url(), settings.store.busy, sources)


def _following() -> str:
    """When the schedule starts the next runs, in words."""
    if not os.environ.get("PREFECT_API_URL"):
        return _NO_SERVER
    from prefect.client.orchestration import get_client

    from tasks.tell.current import following

    async def ask() -> str:
        async with asyncio.timeout(10), get_client() as client:
            return await following(client)

    try:
        return asyncio.run(ask())
    except Exception as error:  # the rest of the page is worth as much
        return f"Prefect's server does not answer ({type(error).__name__}): see that it runs at PREFECT_API_URL"


def _lines(found: Overview, waits: list[dashboard.Concern], *, also_json: bool) -> None:
    from deployments.listing import Form, write  # pandas, a second

    said: dict[tuple[str, str], list[str]] = {}
    for wait in waits:
        said.setdefault((wait.directory, wait.source), []).append(wait.what)
    rows = []
    for directory in found.directories:
        # (What Crowd itself told is no source's: a line of its own, where something waits.)
        own = [SourceState("", inbox=directory.inbox)] if (directory.directory, "") in said else []
        rows += [_values(directory.directory, one, said) for one in (*directory.sources, *own)]
    write(Form.of(also_json, True), COLUMNS, rows)


def _values(directory: str, one: SourceState, said: Mapping[tuple[str, str], list[str]]) -> dict[str, Any]:
    """What `COLUMNS` hold of a source."""
    return asdict(one) | {
        "directory": directory,
        "last_run": one.last.status if one.last else None,
        "last_run_at": one.last.finished_at if one.last else None,
        "hints_waiting": one.inbox.waiting,
        "hints_held": one.inbox.held,
        "quarantine_until": one.quarantine.until if one.quarantine else None,
        "concerns": said.get((directory, one.source), []),
    }


def _show(found: Overview, waits: list[dashboard.Concern], following: str) -> None:
    for directory in found.directories:
        writer = f", run {directory.writer} writes" if directory.writer else ""
        console.print(f"[bold]{escape(printable(directory.directory))}[/]{writer}", highlight=False)
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("source", "last good run (UTC)", "last run (UTC)", "held", "news"):
            table.add_column(name, overflow="fold", no_wrap=name == "last good run (UTC)")
        for one in directory.sources:
            cells = (one.source, dashboard.last_good(one), dashboard.last_run(one), dashboard.held(one))
            table.add_row(*(escape(printable(cell)) for cell in (*cells, dashboard.news(one.inbox))))
        console.print(table)
    for wait in waits:
        what = f"{printable(wait.source or wait.directory)}: {printable(wait.what)}"
        console.print(f"[yellow]![/] {escape(what)}", soft_wrap=True, highlight=False)
        console.print(f"  {escape(printable(wait.way))}", soft_wrap=True, highlight=False)
    if not waits:
        console.print("[green]all is well[/]", highlight=False)
    console.print(f"next: {escape(printable(following))}", soft_wrap=True, highlight=False)
