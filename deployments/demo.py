"""The demo: a company on a real SCIM server or an emulated provider, an emulated Crowd, and the road between them; with
a Prefect server where runs are to be shown in its UI."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from deployments import show
from deployments.process import tied
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import home as sandbox_home
from deployments.sandbox.provider import LATER, Provider, RealTime, provider, secret_variables, toml
from deployments.server import PrefectServer, free_port, say_goodbye, started
from flows.road import SyncRequest, walk
from tasks.tell.report import Report, ReportedError

PASSWORD = "sandbox"  # noqa: S105 (of a Crowd that lives as long as the demo)


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What is running, and the environment variables by which `crowdsync` finds it."""

    crowd: sandbox_crowd.RunningCrowd
    idp: Provider
    ui: str
    variables: Mapping[str, str]


def demo(console: Console, people: int, home: Path, kind: str = "scim") -> None:
    """Five scenes: everybody is new, nothing is new, some days later, a mistake in the provider, and a run that is
    killed."""
    console.width = min(console.width, 100)
    with sandbox(people, home, kind, prefect=False) as running:
        scene = Scenes(console, running)
        console.print(f"A made-up company of about {people} people on {running.idp.title}, and an empty Crowd.")
        scene.title("Import: everybody is new")
        scene.run()
        scene.title("Nothing to do")
        scene.run()
        scene.title("Some days later: joiners, leavers, renames, moves")
        running.idp.change(LATER)
        scene.run()
        scene.title("A mistake: 40 % of the company are disabled in the provider")
        running.idp.change({"disabled": people * 40 // 100})
        before = scene.active()
        scene.run()
        console.print(f"  Active accounts in Crowd: {before} before, {scene.active()} now. The mistake is taken back.")
        running.idp.undo()
        scene.title("Killed in the middle, and taken up again")
        running.idp.change({"joiners": people // 8, "updated": people // 8, "moved": people // 8})
        written = scene.killed(after=people // 8)
        console.print(f"  A run got SIGKILL after {written} writes. The next one finds out what became of each.")
        scene.run()
        console.print(f"  And the one after that: {scene.synced().status}.\n")
        console.print(f"History, plans and journal: {home}/crowdsync.db · with buttons and pages: [bold]make up[/]")
        console.print(f"Look closer: [bold]crowdsync -c {home}/crowdsync.toml runs[/] (or plans, snapshots, audit)")


@dataclass(slots=True)
class Scenes:
    """What is shown, one run after the other. Who is held, and what is warned of, is shown when it is new."""

    console: Console
    running: Sandbox
    number: int = 0
    shown: set[tuple[str, ...]] = field(default_factory=set)

    def title(self, text: str) -> None:
        """The next scene."""
        self.number += 1
        self.console.print()
        self.console.rule(f"[bold]{self.number} · {text}", align="left")

    def run(self) -> None:
        """One run, its report, and what Crowd saw of it."""
        crowd = self.running.crowd
        crowd.reset_counts()
        start = time.perf_counter()
        report = self.synced()
        took = time.perf_counter() - start
        held, warnings = self._unknown(report.held), self._unknown(report.warnings)
        lasting = self._unknown(report.lasting)
        show.report(self.console, replace(report, held=held, warnings=warnings, lasting=lasting))
        if known := len(report.held) - len(held):
            self.console.print(f"  {known} records are held as before.")
        for line in report.refusals:
            self.console.print(f"  [bold red]refused[/]  {line}", highlight=False)
        counts = crowd.counts()
        self.console.print(f"  Crowd saw {counts['reads']} reads and {counts['writes']} writes · {took:.1f} s")

    def _unknown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those that were not shown yet: kind, id, name and reason."""
        told = rows[["kind", "id", "name", "reason"]].apply(tuple, axis=1) if len(rows) else pd.Series(dtype=object)
        known = told.isin(self.shown).to_numpy(dtype=bool)
        self.shown |= set(told)
        return rows[~known]

    def synced(self) -> Report:
        """The report of a run, also of one that ends in a refusal."""
        try:
            return asyncio.run(walk(SyncRequest(source="acme")))
        except ReportedError as error:
            return error.report

    def active(self) -> int:
        """How many accounts of Crowd are active."""
        return sum(user["active"] for user in self.running.crowd.state()["users"])

    def killed(self, after: int) -> int:
        """A run in a process of its own, which is killed after so many writes; how many it came to."""
        crowd = self.running.crowd
        crowd.reset_counts()
        crowd.faults([{"kind": "slow", "delay": 0.1, "method": method} for method in ("POST", "PUT", "DELETE")])
        command = tied("deployments.cli:main", "sync", "acme")
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as run:  # noqa: S603
            while run.poll() is None and crowd.counts()["writes"] < after:
                time.sleep(0.01)
            run.kill()
        crowd.faults([])
        return int(crowd.counts()["writes"])


@contextmanager
def sandbox(
    people: int, home: Path, kind: str = "scim", port: int = 0, told: RealTime | None = None, *, prefect: bool = True
) -> Iterator[Sandbox]:
    """Starts everything at once; the environment then points at it. `told`: where the provider's news are to go;
    without `prefect` no server of Prefect is started, and none is used."""
    with ExitStack() as stack:
        own = stack.enter_context(sandbox_home.opened(home))
        ui = stack.enter_context(prefect_server(own.prefect, port)) if prefect else None
        running = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(provider(kind, people, told))
        source = toml(idp.settings) + ("\n[sources.acme.webhook]\n" if told else "")
        own.configure(_CONFIG.format(store=own.database, crowd=running.url, source=source))
        variables = {
            **secret_variables(kind, idp.secrets),
            "CROWDSYNC_CROWD_PASSWORD": PASSWORD,
            "CROWDSYNC_CONFIG": str(own.config),
            **({"PREFECT_API_URL": f"{ui.url}/api"} if ui else {}),
            **({"CROWDSYNC_WEBHOOK_SECRET": told.secret} if told else {}),
        }
        os.environ |= variables
        if not ui:
            os.environ.pop("PREFECT_API_URL", None)
        if ui:
            ui.wait()
        try:
            yield Sandbox(running, idp, ui.url if ui else "", variables)
        finally:
            if ui and ui.process.poll() is None:
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
