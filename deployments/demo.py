"""The demo: a company on a real SCIM server or an emulated provider, an emulated Crowd, a Prefect server, and the
road between them."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments import show
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import home as sandbox_home
from deployments.sandbox.provider import LATER, Provider, RealTime, provider, secret_variables, toml
from deployments.server import PrefectServer, ended_as_by_hand, free_port, say_goodbye, started

PASSWORD = "sandbox"  # noqa: S105 (of a Crowd that lives as long as the demo)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is running, and the environment variables by which `crowdsync` finds it."""

    crowd: sandbox_crowd.RunningCrowd
    idp: Provider
    ui: str
    variables: Mapping[str, str]


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
        running.idp.change(LATER)
        run("Some days later: joiners, leavers, renames, moves")
        console.print(f"History, plans and journal: {home}/crowdsync.db · the runs in Prefect: [bold]make up[/]")
        console.print(
            f"Look closer: [bold]crowdsync -c {home}/crowdsync.toml runs[/] (or plans, snapshots, plan --show 1)"
        )


async def done(flow: Awaitable[Any]) -> Any:
    """A flow run as a coroutine, which is what asyncio runs."""
    return await flow


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
        variables = {
            **secret_variables(kind, idp.secrets),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_CONFIG": str(own.config),
            "PREFECT_API_URL": f"{ui.url}/api",
            **({"CROWDSYNC_WEBHOOK_SECRET": told.secret} if told else {}),
        }
        os.environ |= variables
        importlib.import_module("flows.sync")  # seconds, while the server starts
        ui.wait()
        try:
            yield Sandbox(running, idp, ui.url, variables)
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
