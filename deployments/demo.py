"""The demo: a company on a real SCIM server or an emulated provider, an emulated Crowd, a Prefect server, and the
road between them."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from connectors.idp import SOURCES
from deployments import show
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
    `later` moves its company on by some days."""

    title: str
    settings: Mapping[str, Any]
    secrets: Mapping[str, str]
    later: Callable[[], object]


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
def scim_server(people: int) -> Iterator[Provider]:
    """A SCIM server that we did not write, filled through SCIM."""
    company = company_of(people)
    with sandbox_scim.scim2_server() as server:
        ids = sandbox_scim.fill(server.url, server.token, company)

        def later() -> None:
            sandbox_scim.apply_change(server.url, server.token, company, changed(company, seed=11, **LATER), ids)

        yield Provider("scim2-server", {"kind": "scim", "url": server.url}, {"token": server.token}, later)


@contextmanager
def emulated(kind: str, people: int) -> Iterator[Provider]:
    """An emulated provider of this kind."""
    with sandbox_idp.running(kind, users=people, groups=max(people // 6, 8), memberships=people * 5, seed=7) as running:
        yield Provider(
            f"an emulated {TITLES[kind]}", running.settings, running.secrets, lambda: running.change(seed=11, **LATER)
        )


def provider(kind: str, people: int) -> AbstractContextManager[Provider]:
    """The provider of the demo: a foreign server for SCIM, an emulator for the others."""
    return scim_server(people) if kind == "scim" else emulated(kind, people)


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
    """The sandbox, the UI with every deployment, and a worker, until Ctrl-C."""
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # how long a run may wait for its worker
    with suppress(KeyboardInterrupt), sandbox(people, home, kind, port=port) as running:
        from deployments import serving

        def ready() -> None:
            console.print(f"Prefect UI   [bold]{running.ui}/deployments[/]  (⋮ → Quick run or Custom run)")
            console.print(f"Crowd        {running.crowd.url}  (application crowdsync, password {PASSWORD})")
            console.print(f"IdP          {running.idp.settings['url']}  ({running.idp.title})")
            console.print("The schedule of sync-all syncs every 15 minutes. Ctrl-C ends it all.")

        asyncio.run(serving.serve(ready))


@contextmanager
def sandbox(people: int, home: Path, kind: str = "scim", port: int = 0) -> Iterator[Sandbox]:
    """Starts everything at once; the environment then points at it."""
    with ExitStack() as stack:
        own = stack.enter_context(sandbox_home.opened(home))
        ui = stack.enter_context(prefect_server(own.prefect, port))
        running = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(provider(kind, people))
        own.configure(_CONFIG.format(store=own.database, crowd=running.url, source=toml(idp.settings)))
        fields = SOURCES[kind].settings.model_fields
        os.environ |= {fields[f"{name}_env"].default: value for name, value in idp.secrets.items()}
        os.environ |= {
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_CONFIG": str(own.config),
            "PREFECT_API_URL": f"{ui.url}/api",
        }
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
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "DO_NOT_TRACK": "1",
    }
    for name in ("TASK_RUN_RECORDER", "EVENT_PERSISTER"):
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_BATCH_SIZE"] = "100"
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_READ_BATCH_SIZE"] = "100"
    command = ("prefect.cli:app", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with (home / "server.log").open("wb") as log, started(*command, port=port, log=log, env=os.environ) as server:
        yield server
