"""The command that tests the configuration and both connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import typer
from rich.markup import escape

from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError
from connectors.model import Snapshot
from connectors.settings import DirectorySettings, Settings, load
from deployments.opened import blocks_named, settings_store
from deployments.server import prefect_explained, prefect_there, quiet_prefect
from deployments.terminal import SourceName, code_of, console, explained, next_steps, printable, said
from tasks.decide.ownership import abandoned
from tasks.policy import policy_of
from tasks.put_back import standing
from tasks.read.connections import check_directory, check_source, open_directory, open_source


def check(source: SourceName = "") -> None:
    """Test the configuration and both connections, and say what is missing. Nothing is written."""
    failed = 0

    def step(title: str, work: Callable[[], list[str]]) -> None:
        nonlocal failed
        try:
            lines = work()
        except CrowdsyncError as error:
            failed = max(failed, code_of(error))
            said(console, f"[red]✗[/] [bold]{title}[/]")
            said(console, escape(printable(str(error))), 4, 0)
        else:
            said(console, f"[green]✓[/] [bold]{title}[/]")
            for line in lines:
                said(console, escape(printable(line)), 4, 2)

    with explained():
        settings = load()
        names = [source] if source else sorted(settings.sources)
        for name in names:
            settings.source(name)
    with ExitStack() as stack:
        if blocks_named(settings):
            quiet_prefect()
            for context in (explained(), prefect_explained()):
                stack.enter_context(context)
            stack.enter_context(prefect_there())()
        step("database", lambda: _check_store(settings, names))
        if not failed:
            step("ownership", lambda: _check_ownership(settings))
        if settings.templates:
            step("templates", lambda: _check_templates(settings))
        for name in names:
            step(f"policy of {name}", lambda name=name: _check_policy(settings, name))  # type: ignore[misc]
            step(f"source {name}", lambda name=name: asyncio.run(_check_source(settings, name)))  # type: ignore[misc]
        written = {settings.directory_of(name).name for name in names}
        for one in settings.all_directories():
            if one.name in written or not source:
                step(f"directory {one.name}", lambda one=one: asyncio.run(_check_directory(one)))  # type: ignore[misc]
    if failed:
        next_steps((f"check {source}".strip(), "again, when what stands beside ✗ is mended"))
        raise typer.Exit(failed)
    with settings_store(settings) as store:
        new = [name for name in names if store.last_sync(name) is None]
    first = (new or names)[0]
    next_steps((f"plan {first}", f"shows what {'a first' if new else 'the next'} sync would do; it writes nothing"))


def _check_store(settings: Settings, names: list[str]) -> list[str]:
    with settings_store(settings) as store:
        store.refuse_damage()
        broken = store.verify_audit()
        if broken is not None:
            raise RefusedError(
                f"the audit chain is broken at row {broken}: someone changed it; keep a copy and ask who"
            )
        known = [*standing(store, settings), *(_last_sync(store, name) for name in names)]
        return ["schema is current, the audit chain holds", *known]


def _last_sync(store: Any, name: str) -> str:
    """A source that is configured and never synced would be seen by nobody."""
    last = store.last_sync(name)
    if last is None:
        return f"{name} was never synced"
    return f"{name} was synced last at {last[1]:%Y-%m-%d %H:%M} UTC: {last[0]}"


def _check_ownership(settings: Settings) -> list[str]:
    """Nothing in Crowd, as last read, belongs to a source that is configured no more."""
    found: list[str] = []
    with settings_store(settings) as store:
        for one in settings.all_directories():
            known = settings.sources_of(one.name)
            latest = store.snapshots(f"directory:{one.name}", 1)
            snapshot = Snapshot.of() if latest.empty else store.load_snapshot(int(latest["id"].iloc[0]))
            found += abandoned(snapshot, store.links(one.name), known, one.name, known[0] if len(known) == 1 else "NEW")
    if found:
        raise ConfigurationError("; ".join(found))
    return ["what is owned belongs to sources that are configured"]


def _check_templates(settings: Settings) -> list[str]:
    from tasks.tell.templates import faults

    if found := faults(settings.templates):
        raise ConfigurationError("; ".join(found))
    return [f"those in {settings.templates} take the place of ours"]


def _check_policy(settings: Settings, name: str) -> list[str]:
    policy = policy_of(settings, name)
    off = [kind for kind, feature in policy.operations.model_dump().items() if feature != "on"]
    return [f"withheld: {', '.join(off) or 'nothing'}", f"leavers: {policy.leavers.deleted}"]


async def _check_source(settings: Settings, name: str) -> list[str]:
    chosen = settings.source(name)
    async with open_source(name, chosen) as source:
        return list(await check_source(name, chosen, source))


async def _check_directory(settings: DirectorySettings) -> list[str]:
    async with open_directory(settings) as (directory, _):
        return list(await check_directory(settings, directory))
