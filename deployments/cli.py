"""The `crowdsync` command.

Exit codes: 0 done, or nothing to do · 1 failed, try again · 2 a setting or the call is wrong ·
3 refused, nothing (further) was written · 4 applied, but some operations failed · 5 done, but somebody is in or out
against the source's word.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape

# Inside functions stand only the imports that cost a command without them dearly: whatever knows Prefect (1.3 s), the
# store (0.4 s), the policy and what decides by it (0.1 s). `crowdsync --help` takes 0.9 s.
from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError
from connectors.idp import SOURCES
from connectors.model import Snapshot
from connectors.settings import DEFAULT_PATH, DirectorySettings, Settings, load
from connectors.source import secret
from deployments import govern, realtime, serving, show
from deployments.inbox import inbox
from deployments.notify import create, create_webhook
from deployments.server import ended_as_by_hand, prefect_there
from deployments.show import printable
from deployments.terminal import (
    REFUSED,
    UNHEEDED,
    code_of,
    console,
    errors,
    explained,
    opened_store,
    prefect_explained,
    quiet_prefect,
    settings_store,
)
from deployments.tokens import tokens

app = typer.Typer(
    help="Keeps Atlassian Crowd in step with a company's identity providers.",
    epilog="Exit codes: 0 done · 1 failed, try again · 2 a setting is wrong · 3 refused · 4 some operations failed · "
    "5 somebody is in or out against the source's word.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
sandbox = typer.Typer(help="A company to try crowdsync on.", no_args_is_help=True)
database = typer.Typer(help="crowdsync's own database.", no_args_is_help=True)
app.add_typer(sandbox, name="sandbox")
app.add_typer(database, name="database")
blocks = typer.Typer(help="Credentials as Prefect blocks.", no_args_is_help=True)
app.add_typer(blocks, name="blocks")
notify = typer.Typer(help="Messages to people, through automations of Prefect.", no_args_is_help=True)
app.add_typer(notify, name="notify")
for _name, _group in (("policy", govern.policy), ("links", govern.links), ("tokens", tokens)):
    app.add_typer(_group, name=_name)
for _command in (
    *(govern.explain, govern.approve, govern.reject, govern.decisions, govern.audit),
    *(realtime.receive, realtime.react, inbox),
):
    app.command()(_command)

SourceName = Annotated[str, typer.Argument(help="A source of crowdsync.toml; may be left out where there is one.")]
_IDPS = [kind for kind in SOURCES if kind != "push"]  # (what pushes is not emulated)
Idp = Annotated[str, typer.Option(help=f"Which identity provider: {', '.join(_IDPS)}.")]
Many = Annotated[int, typer.Option("--limit", "-n", help="How many rows, newest first.")]


@app.callback()
def configured(
    config: Annotated[
        str, typer.Option("--config", "-c", envvar="CROWDSYNC_CONFIG", help=f"The configuration [{DEFAULT_PATH}].")
    ] = "",
) -> None:
    """Keeps Atlassian Crowd in step with a company's identity providers."""
    if config:
        os.environ["CROWDSYNC_CONFIG"] = config  # the flow reads it too, in whatever process it runs
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a mail or a log file has no edge
    logging.getLogger("stamina").setLevel(logging.ERROR)  # how often a call was tried stands in its error


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
        from tasks.policy import policy_of

        policy_of(settings, chosen)
        with settings_store(settings):
            pass
        quiet_prefect()
        status = f"{chosen}: reading, planning{', writing' if request.get('mode') != 'preview' else ''} …"
        with console.status(status), prefect_explained(), prefect_there() as ready, ended_as_by_hand():
            if _blocks(settings):
                ready()
            asyncio.run(_clients(settings, chosen))
            from flows.sync import SyncRequest, sync

            ready()
            report = asyncio.run(_awaited(sync(SyncRequest(source=chosen, **request))))
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


def _blocks(settings: Settings) -> bool:
    """Whether some of the credentials are Prefect's blocks."""
    sources = any(settings.source(name).block for name in settings.sources)
    return sources or any(directory.block for directory in settings.all_directories())


async def _clients(settings: Settings, source: str) -> None:
    """Addresses, secrets and certificates are there and make sense; nothing is called yet."""
    from tasks.read.connections import open_directory, open_source

    async with open_source(source, settings.source(source)), open_directory(settings.directory_of(source)):
        pass


@app.command()
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


@app.command()
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


@app.command()
def apply(
    number: Annotated[int, typer.Argument(help="The number that `crowdsync plan` shows.", metavar="PLAN")],
    force: Annotated[bool, typer.Option("--force", help="Go past the policy's limits.")] = False,
) -> None:
    """Carry out a stored plan, if it is still true: both sides are read again and must give the same plan."""
    with opened_store() as store:
        stored = store.load_plan(number)
    _run(stored.source, mode="sync", plan=number, force=force)


@app.command()
def plans(limit: Many = 20) -> None:
    """The stored plans and what became of them."""
    with opened_store() as store:
        show.plans(console, store.plans(limit))


@app.command()
def runs(limit: Many = 20) -> None:
    """The latest runs and how they ended."""
    with opened_store() as store:
        show.runs(console, store.runs(limit))


@app.command()
def snapshots(
    stream: Annotated[str, typer.Option("--of", help="Only source:NAME or directory:NAME.")] = "", limit: Many = 20
) -> None:
    """The snapshots in history."""
    with opened_store() as store:
        show.snapshots(console, store.snapshots(stream or None, limit))


@app.command()
def diff(
    a: Annotated[int, typer.Argument(help="The earlier snapshot.")],
    b: Annotated[int, typer.Argument(help="The later one, of the same stream.")],
) -> None:
    """What changed between two snapshots."""
    with opened_store() as store:
        show.difference(console, store.compare_snapshots(a, b))


@app.command()
def check(source: SourceName = "") -> None:
    """Test the configuration and both connections, and say what is missing. Nothing is written."""
    failed = 0

    def step(title: str, work: Callable[[], list[str]]) -> None:
        nonlocal failed
        try:
            lines = work()
        except CrowdsyncError as error:
            failed = max(failed, code_of(error))
            console.print(f"[red]✗[/] [bold]{title}[/]", highlight=False)
            console.print(f"    {escape(printable(str(error)))}", soft_wrap=True, highlight=False)
        else:
            console.print(f"[green]✓[/] [bold]{title}[/]", highlight=False)
            for line in lines:
                console.print(f"    {escape(line)}", soft_wrap=True, highlight=False)

    with explained():
        settings = load()
        names = [source] if source else sorted(settings.sources)
        for name in names:
            settings.source(name)
    with ExitStack() as stack:
        if _blocks(settings):
            quiet_prefect()
            for context in (explained(), prefect_explained()):
                stack.enter_context(context)
            stack.enter_context(prefect_there())()
        step("database", lambda: _check_store(settings, names))
        if not failed:
            step("ownership", lambda: _check_ownership(settings))
        for name in names:
            step(f"policy of {name}", lambda name=name: _check_policy(settings, name))  # type: ignore[misc]
            step(f"source {name}", lambda name=name: asyncio.run(_check_source(settings, name)))  # type: ignore[misc]
        written = {settings.directory_of(name).name for name in names}
        for one in settings.all_directories():
            if one.name in written or not source:
                step(f"directory {one.name}", lambda one=one: asyncio.run(_check_directory(one)))  # type: ignore[misc]
    if failed:
        raise typer.Exit(failed)


def _check_store(settings: Settings, names: list[str]) -> list[str]:
    with settings_store(settings) as store:
        store.refuse_damage()
        broken = store.verify_audit()
        if broken is not None:
            raise RefusedError(
                f"the audit chain is broken at row {broken}: someone changed it; keep a copy and ask who"
            )
        return ["schema is current, the audit chain holds", *(_last_sync(store, name) for name in names)]


def _last_sync(store: Any, name: str) -> str:
    """A source that is configured and never synced would be seen by nobody."""
    last = store.last_sync(name)
    if last is None:
        return f"{name} was never synced: crowdsync sync {name}"
    return f"{name} was synced last at {last[1]:%Y-%m-%d %H:%M} UTC: {last[0]}"


def _check_ownership(settings: Settings) -> list[str]:
    """Nothing in Crowd, as last read, belongs to a source that is configured no more."""
    from tasks.decide.ownership import abandoned

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


def _check_policy(settings: Settings, name: str) -> list[str]:
    from tasks.policy import policy_of

    policy = policy_of(settings, name)
    off = [kind for kind, feature in policy.operations.model_dump().items() if feature != "on"]
    return [f"withheld: {', '.join(off) or 'nothing'}", f"leavers: {policy.leavers.deleted}"]


async def _check_source(settings: Settings, name: str) -> list[str]:
    from tasks.read.connections import check_source, open_source

    chosen = settings.source(name)
    async with open_source(name, chosen) as source:
        return list(await check_source(name, chosen, source))


async def _check_directory(settings: DirectorySettings) -> list[str]:
    from tasks.read.connections import check_directory, open_directory

    async with open_directory(settings) as (directory, _):
        return list(await check_directory(settings, directory))


@database.command()
def upgrade() -> None:
    """Bring the database to this program's schema."""
    with explained():
        from connectors.store import Store

        settings = load()
        before, after = Store.upgrade(settings.store_url(), busy=settings.store.busy)
        console.print(f"schema {after}: was current" if before == after else f"schema {before or 'none'} → {after}")


@blocks.command()
def register() -> None:
    """Make the block types for credentials known to Prefect's server (PREFECT_API_URL), for its UI."""
    quiet_prefect()
    from tasks.read.blocks import register as run

    with explained(), prefect_explained(), prefect_there() as ready:
        ready()
        for name in asyncio.run(run()):
            console.print(f"[green]✓[/] {escape(name)}: fill one in under Blocks in the Prefect UI", highlight=False)


@app.command()
def deploy() -> None:
    """Make the work pool and every deployment known to Prefect's server (PREFECT_API_URL). May be run again."""
    quiet_prefect()
    with explained(), prefect_explained():
        _needs_server()
        for name in asyncio.run(serving.deploy()):
            console.print(f"[green]✓[/] {escape(name)}", highlight=False)
        console.print(
            f"Now start a worker where crowdsync.toml is: prefect worker start --pool {serving.POOL}", highlight=False
        )


@notify.command("block")
def notify_block(
    block: Annotated[
        str, typer.Argument(help="TYPE/NAME of a block made in the Prefect UI, such as slack-webhook/ops.")
    ],
) -> None:
    """Tell people through a notification block that somebody made under Blocks in the Prefect UI."""
    _notified(lambda: create(block))


@notify.command("webhook")
def notify_webhook(
    url_env: Annotated[str, typer.Option(help="Environment variable with its address.")] = "CROWDSYNC_WEBHOOK",
) -> None:
    """Tell people by a webhook that takes {"text": …}, as Slack and Mattermost do; its address is kept as a secret."""
    _notified(lambda: create_webhook(secret("the webhook's address", url_env)))


def _notified(make: Callable[[], Awaitable[list[tuple[str, str]]]]) -> None:
    quiet_prefect()
    with explained(), prefect_explained():
        _needs_server()
        for name, what in asyncio.run(_awaited(make())):
            console.print(f"[green]✓[/] {escape(name)}: {what}", highlight=False)


def _needs_server() -> None:
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise ConfigurationError("PREFECT_API_URL is not set, and this is about a lasting Prefect server; name yours")


@sandbox.command()
def crowd(
    application: Annotated[list[str], typer.Option(help="NAME:PASSWORD of an application; may be repeated.")],
    port: Annotated[int, typer.Option(help="0 chooses a free one.")] = 0,
    permissions: Annotated[
        str, typer.Option(help="What the applications may write: all, read-only, users or groups.")
    ] = "all",
) -> None:
    """An emulated Crowd, alone and empty, on the loopback address; base path /crowd, nested groups on."""
    from deployments.sandbox.crowd import serve
    from deployments.sandbox.crowd_data import PERMISSION_SETS

    known: dict[str, str] = {}
    with explained():
        for pair in application:
            name, colon, password = pair.partition(":")
            if not (name and colon and password):
                raise ConfigurationError("--application: write NAME:PASSWORD, neither of them empty")
            known[name] = password
        if permissions not in PERMISSION_SETS:
            raise ConfigurationError(f"--permissions: {permissions!r} is none of {', '.join(PERMISSION_SETS)}")
        _free(port)
    serve(port, known, permissions=permissions, announce=lambda url: print(f"listening on {url}", flush=True))  # noqa: T201


def _free(port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"--port: {port} is no port; use 0 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(f"--port: {port} cannot be used ({error.strerror}); choose another") from None


@app.command()
def demo(
    people: Annotated[int, typer.Option(help="How many people the company has.", min=10, max=2000)] = 150,
    home: Annotated[Path, typer.Option(help="Where the demo keeps its files.")] = Path(".crowdsync/demo"),
    idp: Idp = "scim",
) -> None:
    """The whole road on a made-up company: a real SCIM server or an emulated provider, Crowd, a Prefect server."""
    from deployments.demo import demo as run

    with explained():
        run(console, people, home, _kind(idp))


@app.command()
def up(
    people: Annotated[int, typer.Option(help="How many people the company has.", min=10, max=2000)] = 150,
    home: Annotated[Path, typer.Option(help="Where the sandbox keeps its files.")] = Path(".crowdsync/demo"),
    port: Annotated[int, typer.Option(help="Of the Prefect UI.")] = 4200,
    idp: Idp = "scim",
) -> None:
    """The sandbox, the Prefect server with its UI, every deployment and a worker, kept running until Ctrl-C."""
    from deployments.demo import up as run

    with explained():
        _free(port)
        run(console, people, home, port, _kind(idp))


def _kind(idp: str) -> str:
    if idp not in _IDPS:
        raise ConfigurationError(f"--idp: {idp!r} is none of {', '.join(_IDPS)}")
    return idp


def _interrupt(*_: object) -> None:
    """What Ctrl-C does, also where it does nothing: a script's shell has what it starts with `&` ignore SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Entry point. What ends a process ends a command as Ctrl-C does: it closes what it opened, and says how far it
    came."""
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is not signal.SIG_IGN:  # (as under nohup)
            signal.signal(end, _interrupt)
    try:
        app()
    except KeyboardInterrupt:
        errors.print("stopped")
        sys.exit(130)
