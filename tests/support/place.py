"""A source and a Crowd on this machine, and a configuration that names both: what end-to-end tests walk on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

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
RUNS = 20
_RUN = """
import asyncio, sys, time
from pathlib import Path
from connectors.settings import load
from tasks.policy import policy_of
from tasks.run import SkippedError, begin
from tests import road

async def go():
    settings = load()
    print("ready", flush=True)
    while not Path(sys.argv[1]).exists():
        time.sleep(0.01)
    try:
        async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
            run.finished = True
            print("operations", len((await road.walk(run)).plan.operations))
    except SkippedError as error:
        print("skipped", error)

asyncio.run(go())
"""


class Place:
    """A source and a Crowd, and where the configuration stands."""

    def __init__(self, home: Path, crowd: sandbox_crowd.RunningCrowd, idp: sandbox_scim.RunningScim) -> None:
        self.home, self.crowd, self.idp = home, crowd, idp

    def configure(self, store: str, more: str = "") -> None:
        (self.home / "crowdsync.toml").write_text(
            f'[store]\nurl = "{store}"\nbusy = 120\n[directory]\nurl = "{self.crowd.url}"\napplication = "crowdsync"\n'
            f'{more}\n[sources.acme]\nkind = "scim"\nurl = "{self.idp.url}"\n',
            encoding="utf-8",
        )
        with Store.open(store):
            pass

    def at_once(self) -> list[str]:
        """What twenty runs say that start at the same moment, each a process of its own."""
        go = self.home / "go"
        runs = [
            subprocess.Popen(
                [sys.executable, "-c", _RUN, str(go)],
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONPATH": "."},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(RUNS)
        ]
        try:
            for run in runs:
                assert run.stdout is not None
                assert run.stdout.readline() == "ready\n", run.communicate()[1]
            go.touch()
            ended = [run.communicate(timeout=300) for run in runs]
        finally:
            go.unlink(missing_ok=True)
            for run in runs:
                run.kill()
                run.wait()
        for (_, errors), run in zip(ended, runs, strict=True):
            assert run.returncode == 0, errors
        return [output.strip() for output, _ in ended]


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


def say(*words: str, code: int = 0) -> str:
    done: Result = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


async def walked() -> road.Walked:
    settings = load()
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        return await road.walk(run)
