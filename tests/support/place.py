"""A source and a Crowd on this machine, and a configuration that names both: what end-to-end tests walk on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from connectors.settings import load
from connectors.store import Store
from deployments import terminal
from deployments.cli import app
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import scim as sandbox_scim
from tasks.policy import policy_of
from tasks.run import begin
from tests import road

PASSWORD, TOKEN = "pw", "tok"
RUNS = 8
_RUNS = """
import asyncio, os, sys, time
from pathlib import Path
from connectors.settings import load
from tasks.policy import policy_of
from tasks.run import SkippedError, begin
from tests import road

home = Path(sys.argv[1])

async def go():
    settings = load()
    print("ready", flush=True)
    while not (home / "go").exists():
        time.sleep(0.01)
    try:
        async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
            run.finished = True
            print("operations", len((await road.walk(run)).plan.operations))
    except SkippedError as error:
        print("skipped", error)

children = []
for number in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(home / f"{number}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        asyncio.run(go())
        sys.exit()
    children.append(child)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""
"""Runs as processes of their own. They are forked from one that has imported what they need: it takes seconds."""


class Place:
    """A source and a Crowd, and where the configuration stands."""

    def __init__(self, home: Path, crowd: sandbox_crowd.RunningCrowd, idp: sandbox_scim.RunningScim) -> None:
        self.home, self.crowd, self.idp = home, crowd, idp

    def configure(self, store: str, more: str = "") -> None:
        (self.home / "crowdsync.toml").write_text(
            f'[store]\nurl = "{store}"\nhead_file = "{self.home}/{Path(store).name}.head"\nbusy = 120\n'
            f'[directory]\nurl = "{self.crowd.url}"\napplication = "crowdsync"\n'
            f'{more}\n[sources.acme]\nkind = "scim"\nurl = "{self.idp.url}"\n',
            encoding="utf-8",
        )
        with Store.open(store):
            pass

    def at_once(self, count: int = RUNS) -> list[str]:
        """What so many runs say that start at the same moment, each a process of its own."""
        go, said = self.home / "go", [self.home / f"{number}.out" for number in range(count)]
        runs = subprocess.Popen(
            [sys.executable, "-c", _RUNS, str(self.home), str(count)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": "."},
            start_new_session=True,
        )

        def errors() -> str:
            return "".join(file.read_text() for file in self.home.glob("*.err"))

        try:
            while not all(file.exists() and file.read_text() == "ready\n" for file in said):
                assert runs.poll() is None, errors()
                time.sleep(0.05)
            go.touch()
            code = runs.wait(timeout=300)
        finally:
            go.unlink(missing_ok=True)
            with suppress(ProcessLookupError):
                os.killpg(runs.pid, signal.SIGKILL)
            runs.wait()
        assert code == 0, errors()
        return [file.read_text().removeprefix("ready\n").strip() for file in said]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", PASSWORD)
    monkeypatch.setenv("CROWDSYNC_SOURCE_TOKEN", TOKEN)
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    with ExitStack() as stack:
        crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": PASSWORD}))
        idp = stack.enter_context(sandbox_scim.prepared(users=40, groups=6, memberships=90, token=TOKEN))
        yield Place(tmp_path, crowd, idp)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 300)
    monkeypatch.setenv("COLUMNS", "300")


def deactivate(crowd: sandbox_crowd.RunningCrowd, name: str) -> None:
    """As an administrator, or a job that looks for people who are long away, does it in Crowd."""
    user = f"{crowd.url}/rest/usermanagement/1/user"
    with httpx.Client(auth=("crowdsync", PASSWORD), headers={"accept": "application/json"}) as http:
        found = http.get(user, params={"username": name}).json()
        body = {key: found[key] for key in ("name", "first-name", "last-name", "display-name", "email") if key in found}
        http.put(user, params={"username": name}, json=body | {"active": False}).raise_for_status()


def active(crowd: sandbox_crowd.RunningCrowd, name: str) -> bool:
    return bool(next(row for row in crowd.state()["users"] if row["name"] == name)["active"])


def say(*words: str, code: int = 0) -> str:
    done: Result = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


async def walked() -> road.Walked:
    settings = load()
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        return await road.walk(run)
