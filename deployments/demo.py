"""The demo: a company on a real SCIM server or an emulated provider, an emulated Crowd, a Prefect server, and the
road between them."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import subprocess
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from connectors.errors import RetryableError
from connectors.idp import SOURCES
from deployments import show
from deployments.process import ending, tied
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import home as sandbox_home
from deployments.sandbox import idp as sandbox_idp
from deployments.sandbox import scim as sandbox_scim
from deployments.sandbox.organisation import Organisation, changed, difficult, organisation
from deployments.server import PrefectServer, ended_as_by_hand, free_port, say_goodbye, started

PASSWORD = "sandbox"  # noqa: S105 (of a Crowd that lives as long as the demo)
TITLES = {
    "okta": "Okta",
    "entra": "Microsoft Entra ID",
    "onelogin": "OneLogin",
    "keycloak": "Keycloak",
    "google": "Google Workspace",
    "idcs": "Oracle identity domain",
}
LATER = {"joiners": 3, "leavers": 3, "disabled": 2, "renamed": 2, "updated": 4, "moved": 6, "new_groups": 1}


@dataclass(frozen=True, slots=True)
class Provider:
    """A running identity provider: `title` for people, `settings` for crowdsync.toml, `secrets` for the environment;
    `later` moves its company on by some days; `page`, where it has one, is for people to change it."""

    title: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    later: Callable[[], object]
    page: str = ""


@dataclass(frozen=True, slots=True)
class RealTime:
    """Where news come in, and the secret that proves them."""

    port: int
    secret: str

    @property
    def url(self) -> str:
        """Of `crowdsync receive`."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is running."""

    crowd: sandbox_crowd.RunningCrowd
    idp: Provider
    ui: str


def company_of(people: int) -> Organisation:
    """A made-up company with a few people whose names collide."""
    company = organisation(users=people, groups=max(people // 6, 8), memberships=people * 5, seed=7)
    awkward = [case for case in difficult() if "full-width" in case.why or "Cyrillic" in case.why][:2]
    return company.including(people=[person for case in awkward for person in case.people])


@contextmanager
def scim_server(people: int, told: RealTime | None = None) -> Iterator[Provider]:
    """A SCIM server that we did not write, filled through SCIM."""
    company = company_of(people)
    tell = (f"{told.url}/webhooks/acme", told.secret) if told else None
    with sandbox_scim.scim2_server(tell=tell) as server:
        ids = sandbox_scim.fill(server.url, server.token, company)

        def later() -> None:
            sandbox_scim.apply_change(server.url, server.token, company, changed(company, seed=11, **LATER), ids)

        page = server.url.removesuffix("v2") if told else ""
        yield Provider("scim2-server", {"kind": "scim", "url": server.url}, {"token": server.token}, later, page)


@contextmanager
def emulated(kind: str, people: int) -> Iterator[Provider]:
    """An emulated provider of this kind."""
    with sandbox_idp.running(kind, users=people, groups=max(people // 6, 8), memberships=people * 5, seed=7) as running:
        yield Provider(
            f"an emulated {TITLES[kind]}", running.settings, running.secrets, lambda: running.change(seed=11, **LATER)
        )


def provider(kind: str, people: int, told: RealTime | None = None) -> AbstractContextManager[Provider]:
    """The provider of the demo: a foreign server for SCIM, an emulator for the others. (Those tell nothing.)"""
    return scim_server(people, told) if kind == "scim" else emulated(kind, people)


def demo(console: Console, people: int, home: Path, kind: str = "scim") -> None:
    """Three runs: everything is new, nothing is new, and the company some days later."""
    with sandbox(people, home, kind) as running:
        from flows.sync import SyncRequest, sync

        console.print(
            f"A made-up company of about {people} people on [bold]{running.idp.title}[/], and an empty Crowd.\n",
            highlight=False,
        )

        def run(title: str) -> None:
            console.rule(f"[bold]{title}", align="left")
            start = time.perf_counter()
            with ended_as_by_hand():
                report = asyncio.run(done(sync(SyncRequest(source="acme"))))
            show.report(console, report)
            counts = running.crowd.counts()
            running.crowd.reset_counts()
            took = time.perf_counter() - start
            console.print(f"  Crowd saw {counts['reads']} reads and {counts['writes']} writes · {took:.1f} s\n")

        run("First run: everybody is new")
        run("Second run: nothing changed")
        running.idp.later()
        run("Some days later: joiners, leavers, renames, moves")
        console.print(f"History, plans and journal: {home}/crowdsync.db · the runs in Prefect: [bold]make up[/]")
        console.print(
            f"Look closer: [bold]crowdsync -c {home}/crowdsync.toml runs[/] (or plans, snapshots, plan --show 1)"
        )


async def done(flow: Awaitable[Any]) -> Any:
    """A flow run as a coroutine, which is what asyncio runs."""
    return await flow


def up(console: Console, people: int, home: Path, port: int, kind: str = "scim") -> None:
    """The sandbox, the UI with every deployment, a worker, and what real time needs, until Ctrl-C."""
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # how long a run may wait for its worker
    told = RealTime(free_port(), b64encode(secrets.token_bytes(32)).decode())
    with (
        suppress(KeyboardInterrupt),
        sandbox(people, home, kind, port, told) as running,
        in_real_time(home.resolve(), told) as beside,
    ):
        from deployments import serving

        def ready() -> None:
            beside.wait()
            idp = running.idp
            console.print(f"Prefect UI   [bold]{running.ui}/deployments[/]  (⋮ → Quick run or Custom run)")
            console.print(f"Crowd        {running.crowd.url}  (application crowdsync, password {PASSWORD})")
            console.print(f"IdP          {idp.page or idp.settings['url']}  ({idp.title})")
            console.print(f"Real time    {told.url}  (crowdsync receive and react, logs in {home})")
            news = f"disable somebody at {idp.page}" if idp.page else "run sync-person"
            console.print(f"Try          Quick run of sync-all fills Crowd; then {news}: seconds later Crowd follows.")
            console.print("The schedule of sync-all syncs every 15 minutes. Ctrl-C ends it all.")

        async def whole() -> None:
            await asyncio.gather(serving.serve(ready), beside.last())

        asyncio.run(whole())


@dataclass(frozen=True, slots=True)
class Beside:
    """The processes of real time: their names, what each says when it works, and where."""

    processes: Mapping[str, tuple[subprocess.Popen[bytes], str, Path]]

    def wait(self) -> None:
        """Until all work. Raises `RetryableError`."""
        for process, words, log in self.processes.values():
            while words not in log.read_text(encoding="utf-8", errors="replace"):
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        self.look()

    async def last(self) -> None:
        """For ever. Raises `RetryableError` where one of them ends."""
        while True:
            self.look()
            await asyncio.sleep(1)

    def look(self) -> None:
        """Raises `RetryableError` where one of them has ended."""
        for name, (process, _, log) in self.processes.items():
            if process.poll() is not None:
                raise RetryableError(f"crowdsync {name} ended (exit {process.poll()}); {log} says why")


@contextmanager
def in_real_time(home: Path, told: RealTime) -> Iterator[Beside]:
    """`crowdsync receive` and `crowdsync react`, as people start them."""
    programs = {"receive": (("--port", str(told.port)), "listening on"), "react": ((), "reacting for")}
    with ExitStack() as stack:
        processes = {}
        for name, (arguments, words) in programs.items():
            log = home / f"{name}.log"
            process = subprocess.Popen(  # noqa: S603
                tied("deployments.cli:main", name, *arguments),
                stdin=subprocess.PIPE,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, who end them while Prefect's server still listens
            )
            processes[name] = stack.enter_context(ending(process, patience=25)), words, log
        yield Beside(processes)


@contextmanager
def sandbox(
    people: int, home: Path, kind: str = "scim", port: int = 0, told: RealTime | None = None
) -> Iterator[Sandbox]:
    """Starts everything at once; the environment then points at it. `told`: where the provider's news are to go."""
    with ExitStack() as stack:
        own = stack.enter_context(sandbox_home.opened(home))
        ui = stack.enter_context(prefect_server(own.prefect, port))
        running = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(provider(kind, people, told))
        source = toml(idp.settings) + ("\n[sources.acme.webhook]\n" if told else "")
        own.configure(_CONFIG.format(store=own.database, crowd=running.url, source=source))
        fields = SOURCES[kind].settings.model_fields
        os.environ |= {fields[f"{name}_env"].default: value for name, value in idp.secrets.items()}
        os.environ |= {
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_CONFIG": str(own.config),
            "PREFECT_API_URL": f"{ui.url}/api",
        }
        if told:
            os.environ["CROWDSYNC_WEBHOOK_SECRET"] = told.secret
        importlib.import_module("flows.sync")  # seconds, while the server starts
        ui.wait()
        try:
            yield Sandbox(running, idp, ui.url)
        finally:
            if ui.process.poll() is None:
                say_goodbye()


_CONFIG = """\
# Written by `crowdsync demo`, which writes no more here once this file is changed. The secrets stand in environment
# variables.
[store]
url = "sqlite:///{store}"

[directory]
url = "{crowd}"
application = "crowdsync"

[sources.acme]
{source}
[sources.acme.policy.scope]
exclude_groups = ["Project *"]

[[sources.acme.policy.usernames.rules]]
pattern = '@acme\\.example$'
replacement = ""
"""


def toml(settings: Mapping[str, Any]) -> str:
    """Texts, numbers and truth values as lines of TOML: what JSON writes of them, TOML reads."""
    return "".join(f"{name} = {orjson.dumps(value).decode()}\n" for name, value in settings.items())


@contextmanager
def prefect_server(home: Path, port: int = 0) -> Iterator[PrefectServer]:
    """A Prefect server of its own, starting, with its runs kept in `home`."""
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    os.environ |= {
        "PREFECT_HOME": str(home),
        # A database that the environment names is somebody's: the sandbox cancels the runs that it finds unfinished.
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_UI_URL": f"http://127.0.0.1:{port}",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(7 * 24 * 3600),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
    for name in ("TASK_RUN_RECORDER", "EVENT_PERSISTER"):
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_BATCH_SIZE"] = "100"
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_READ_BATCH_SIZE"] = "100"
    command = ("prefect.cli:app", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with (home / "server.log").open("wb") as log, started(*command, port=port, log=log, env=os.environ) as server:
        yield server
