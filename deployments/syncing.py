"""The commands that walk the road: sync, plan, apply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.settings import Settings, load
from deployments import show
from deployments.opened import blocks_named, opened_store, settings_store
from deployments.server import ended_as_by_hand, prefect_explained, prefect_there, quiet_prefect
from deployments.terminal import REFUSED, UNHEEDED, SourceName, console, errors, explained, printable
from tasks.policy import policy_of


def _source(settings: Settings, name: str) -> str:
    if name:
        settings.source(name)
        return name
    if len(settings.sources) > 1:
        raise ConfigurationError(f"there are several sources: name one of {', '.join(sorted(settings.sources))}")
    return next(iter(settings.sources))


def _run(source: str, **request: Any) -> None:
    with explained():
        settings = load()
        chosen = _source(settings, source)
        # Everything that needs no network is looked at before anything starts.
        policy_of(settings, chosen)
        with settings_store(settings):
            pass
        quiet_prefect()
        status = f"{chosen}: reading, planning{', writing' if request.get('mode') != 'preview' else ''} …"
        with console.status(status), prefect_explained(), prefect_there() as ready, ended_as_by_hand():
            if blocks_named(settings):
                ready()
            asyncio.run(_clients(settings, chosen))
            from flows.sync import SyncRequest, sync
            from tasks.tell.report import ReportedError

            ready()
            try:
                report = asyncio.run(_awaited(sync(SyncRequest(source=chosen, **request))))
            except ReportedError as error:
                show.report(console, error.report)
                raise
        show.report(console, report)
        if report.status in ("waiting", "rejected", "skipped"):
            errors.print(
                f"[bold yellow]{report.status}[/]  {escape(printable(report.why))}", soft_wrap=True, highlight=False
            )
            raise typer.Exit(REFUSED)
        if report.loud:
            errors.print("[bold red]not all is well[/]  see what the report names", soft_wrap=True, highlight=False)
            raise typer.Exit(UNHEEDED)


async def _awaited(flow: Awaitable[Any]) -> Any:
    return await flow


async def _clients(settings: Settings, source: str) -> None:
    """Addresses, secrets and certificates are there and make sense; nothing is called yet."""
    from tasks.read.connections import open_directory, open_source

    async with open_source(source, settings.source(source)), open_directory(settings.directory_of(source)):
        pass


def sync(
    source: SourceName = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop at the plan; write nothing to Crowd.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go past the policy's limits.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Read everything, not only what changed.")] = False,
    person: Annotated[str, typer.Option("--person", help="Only this one: id, username or e-mail in the IdP.")] = "",
    group: Annotated[str, typer.Option("--group", help="Only this one, by its name in Crowd.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Every source, one after the other.")] = False,
) -> None:
    """Bring Crowd in step with a source."""
    request: dict[str, Any] = {"mode": "preview" if dry_run else "sync", "force": force, "full": full}
    if person and group:
        with explained():
            raise ConfigurationError("--person and --group exclude each other; keep one")
    if not every:
        _run(source, **request, person=person, group=group)
        return
    with explained():
        if source or person or group:
            raise ConfigurationError("--all goes with no source, --person or --group; leave these out")
        names = sorted(load().sources)
    quiet_prefect()
    worst = 0
    with explained(), prefect_explained(), prefect_there() as ready:
        ready()
        for name in names:  # one that fails does not keep the others from it
            try:
                _run(name, **request)
            except typer.Exit as ended:
                worst = max(worst, ended.exit_code)
    if worst:
        raise typer.Exit(worst)


def plan(
    source: SourceName = "",
    number: Annotated[int, typer.Option("--show", help="Show a stored plan whole instead of making one.")] = 0,
) -> None:
    """Make a plan and show it, without writing to Crowd; `crowdsync apply` carries it out."""
    if not number:
        _run(source, mode="preview")
        return
    with opened_store() as store:
        stored = store.load_plan(number)
        disclose = orjson.loads(stored.policy).get("disclose", "names")  # (the policy of then, by the rules of then)
        show.plan(console, stored, store.operations(number), disclose)


def apply(
    number: Annotated[int, typer.Argument(help="The number that `crowdsync plan` shows.", metavar="PLAN")],
    force: Annotated[bool, typer.Option("--force", help="Go past the policy's limits.")] = False,
) -> None:
    """Carry out a stored plan, if it is still true: both sides are read again and must give the same plan."""
    with opened_store() as store:
        stored = store.load_plan(number)
    _run(stored.source, mode="sync", plan=number, force=force)
