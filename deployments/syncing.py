"""The commands that walk the road: sync, plan, and what apply carries out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.settings import Settings, load
from deployments import show
from deployments.listing import Form
from deployments.opened import blocks_named, opened_store, settings_store
from deployments.server import ended_as_by_hand, prefect_explained, prefect_there, quiet_prefect, server_named
from deployments.terminal import REFUSED, UNHEEDED, SourceName, console, explained, next_steps, printable, told
from flows.road import SyncRequest, walk
from tasks.decide.selection import CHANGED
from tasks.policy import policy_of
from tasks.read.connections import open_directory, open_source
from tasks.tell.report import Report, ReportedError
from tasks.write.open import refuse_unless_open


def _source(settings: Settings, name: str) -> str:
    if name:
        settings.source(name)
        return name
    if len(settings.sources) > 1:
        raise ConfigurationError(f"there are several sources: name one of {', '.join(sorted(settings.sources))}")
    return next(iter(settings.sources))


def run(source: str, **request: Any) -> None:
    """One run of a source, its report, and its exit code."""
    with explained():
        settings = load()
        chosen = _source(settings, source)
        # Everything that needs no network is looked at before anything starts.
        policy_of(settings, chosen)
        with settings_store(settings):
            pass
        status = f"{chosen}: reading, planning{', writing' if request.get('mode') != 'preview' else ''} …"
        with console.status(status):
            try:
                report = _walked(settings, SyncRequest(source=chosen, **request))
            except ReportedError as error:
                show.report(console, error.report)
                raise
        show.report(console, report)
        _next(settings, report)
        if report.status in ("waiting", "rejected", "skipped"):
            told(f"[bold yellow]{report.status}[/]  {escape(printable(report.why))}")
            raise typer.Exit(REFUSED)
        if report.loud:
            told("[bold red]not all is well[/]  see what the report names")
            raise typer.Exit(UNHEEDED)


def _walked(settings: Settings, request: SyncRequest) -> Report:
    """The run: as a flow run where a Prefect server is named, plainly where none is."""
    clients = partial(_clients, settings, request.source)
    if not server_named() and not blocks_named(settings):
        asyncio.run(clients())
        return asyncio.run(walk(request))
    quiet_prefect()
    with prefect_explained(), prefect_there() as ready, ended_as_by_hand():
        if blocks_named(settings):
            ready()
        asyncio.run(clients())
        from flows.sync import sync as flow  # (Prefect takes a second and a half to be imported)

        ready()
        return asyncio.run(_awaited(flow(request)))


def _next(settings: Settings, report: Report) -> None:
    """What to do after a preview."""
    number = report.plan
    if report.status != "planned" or number is None:
        return
    with settings_store(settings) as store:
        about = store.load_plan(number).about
    look = f"plan --show {number}", "shows every operation of it"
    if about == CHANGED:  # (such a plan is not carried out later)
        next_steps(look, (f"sync {report.source}", "plans it anew, and carries it out"))
    elif report.asks:
        agree = f"approve {number} --reason WHY", "agrees to it, as it needs; reject turns it down"
        next_steps(look, agree, (f"apply {number}", "then carries it out"))
    else:
        next_steps(look, (f"apply {number}", "carries it out, if both sides are still as they were"))


async def _awaited(flow: Awaitable[Report]) -> Report:
    return await flow


async def _clients(settings: Settings, source: str) -> None:
    """Addresses, secrets and certificates are there and make sense; nothing is called yet."""
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
        run(source, **request, person=person, group=group)
        return
    with explained():
        if source or person or group:
            raise ConfigurationError("--all goes with no source, --person or --group; leave these out")
        settings = load()
    worst = 0
    with ExitStack() as stack:
        if blocks_named(settings):  # one server for all of them
            quiet_prefect()
            for context in (explained(), prefect_explained()):
                stack.enter_context(context)
            stack.enter_context(prefect_there())()
        for name in sorted(settings.sources):  # one that fails does not keep the others from it
            try:
                run(name, **request)
            except typer.Exit as ended:
                worst = max(worst, ended.exit_code)
    if worst:
        raise typer.Exit(worst)


def plan(
    source: SourceName = "",
    number: Annotated[
        int,
        typer.Option("--show", help="Show the stored plan of this number, and make none.", show_default=False),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="With --show: as JSON, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="With --show: as CSV.")] = False,
) -> None:
    """Make a plan and show it, without writing to Crowd; `crowdsync apply` carries it out."""
    with explained():
        form = Form.of(as_json, as_csv)
        if form is not Form.TEXT and not number:
            raise ConfigurationError("--json and --csv go with --show, which shows a stored plan; add its number")
    if not number:
        run(source, mode="preview")
        return
    with opened_store() as store:
        stored = store.load_plan(number)
        if source not in ("", stored.source):
            raise ConfigurationError(
                f"--show: plan {number} is one of {stored.source}, and {source!r} beside it means nothing; leave it out"
            )
        disclose = orjson.loads(stored.policy).get("disclose", "names")  # (the policy of then, by the rules of then)
        overtaken = store.plans_overtaken([number]).get(number)
        show.plan(console, stored, store.operations(number), disclose, overtaken, form)
    if form is Form.TEXT and stored.status == "planned" and not stored.about.startswith("link"):
        if overtaken or stored.about == CHANGED:
            next_steps((f"plan {stored.source}", "makes a new plan: this one is not carried out any more"))
        else:
            next_steps((f"apply {number}", "carries it out, if both sides are still as they were"))


def carry_out(number: int, force: bool) -> None:
    """`crowdsync apply`."""
    with opened_store() as store:
        stored = store.load_plan(number)
    with explained():
        refuse_unless_open(number, stored.status)
    run(stored.source, mode="sync", plan=number, force=force)
