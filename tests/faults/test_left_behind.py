"""What is killed leaves nothing behind: no server, no run that seems to go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.errors import RetryableError
from connectors.store import Store
from deployments.process import tied
from tasks import process as processes
from tasks.process import gone, here
from tasks.run import close_gone

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}

_PARENT = """
import subprocess, sys, time
from deployments.process import tied
child = subprocess.Popen(tied("signal:pause"), stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""

_RUN = """
import sys, time
from datetime import UTC, datetime, timedelta
from connectors.store import Store
from tasks.process import here
with Store.open(sys.argv[1]) as store:
    store.start_run(run="killed", source="acme", directory="crowd", mode="sync", process=here(), at=datetime.now(UTC))
    store.take_lease("crowd", "killed", seconds=120)
    print("running", flush=True)
    time.sleep(60)
"""

_COMMAND = """
import signal, time
from deployments import cli
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is to be ignored, and that is inherited
signal.signal(signal.SIGINT, HOW)
def work():
    try:
        print("working", flush=True)
        while True:  # (not `signal.pause`: a signal that comes just before it would be waited for)
            time.sleep(0.05)
    finally:
        print("closed what it opened", flush=True)
cli.app = work
cli.main()
"""


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def there(pid: int) -> bool:
    """Whether a process is there; one that only waits to be reaped is not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def begun(script: str, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A script as a process, and the first line that it says."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=ENV, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_the_one_who_started_it(end: signal.Signals) -> None:
    parent, said = begun(_PARENT)
    child = int(said)
    try:
        assert there(child)
        time.sleep(0.3)
        assert there(child), "it lives as long as its parent does"
        parent.send_signal(end)
        parent.communicate(timeout=20)
        until(lambda: not there(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_a_program_that_ends_by_itself_says_how() -> None:
    for entry, code in ((("builtins:exit",), 0), (("os:abort", "x"), -signal.SIGABRT)):
        # (Its end of the pipe stays open meanwhile: `subprocess.run` would close it at once, and so end the program.)
        with subprocess.Popen(tied(*entry), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENV) as process:
            assert process.wait(timeout=60) == code


def test_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    from deployments.server import free_port, started

    for entry, seconds, says in (
        ("no_such_module:main", 60, r"ended as it started \(exit 1\).*No module named 'no_such_module'"),
        ("signal:pause", 0.3, r"did not start within 0 s; .*server\.log says more"),
    ):
        with (
            (tmp_path / "server.log").open("wb") as log,
            started(entry, port=free_port(), log=log, env=ENV) as server,
            pytest.raises(RetryableError, match=says),
        ):
            server.wait(seconds)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("interrupt", ["default_int_handler", "SIG_IGN"])  # (the latter with a script's `&`)
def test_a_command_that_is_ended_closes_what_it_opened(interrupt: str, end: signal.Signals) -> None:
    process, said = begun(_COMMAND.replace("HOW", f"signal.{interrupt}"))
    assert said == "working"
    process.send_signal(end)
    out, _ = process.communicate(timeout=20)
    assert "closed what it opened" in out
    assert process.returncode == 130


def test_a_run_that_was_killed_is_closed_by_the_next_one(store_url: str) -> None:
    with Store.open(store_url) as store:
        killed, said = begun(_RUN, store_url)
        assert said == "running"
        close_gone(store)
        assert store.run("killed")["status"] == "running", "it lives"
        before = store.lease("crowd")
        killed.kill()
        killed.communicate(timeout=20)
        for name, process in (("elsewhere", "another-boot/pid:[1]/7/7"), ("older", ""), ("mine", here())):
            store.start_run(
                run=name, source="acme", directory="crowd", mode="sync", process=process, at=datetime.now(UTC)
            )
        close_gone(store)
        run = store.run("killed")
        assert run["status"] == "interrupted"
        assert run["finished_at"] is not None
        assert "was killed" in run["summary"]["error"]
        assert store.run("mine")["status"] == "running"
        assert store.run("older")["status"] == "running", "nothing is known of its process"
        # Another boot: of this machine, where the store is a file; else perhaps of another one, where it goes on.
        assert store.run("elsewhere")["status"] == ("interrupted" if store.one_machine else "running")
        closed = store.audit_log()
        # Nobody waits for it for as long as its lease would have lasted, but for what may be on its way.
        after = store.lease("crowd")
        assert before is not None
        assert after is not None
        assert after.until < before.until - timedelta(seconds=60)
        assert store.take_lease("crowd", "next", seconds=60, now=after.until - timedelta(seconds=1)) is None
        assert store.take_lease("crowd", "mine", seconds=60, now=after.until) is not None
        close_gone(store)
        mine = store.lease("crowd")
        assert mine is not None
        assert mine.until == after.until + timedelta(seconds=60), "it lives"
        assert closed[["event", "subject"]].to_numpy().tolist().count(["run", "killed"]) == 1
        assert store.verify_audit() is None
        # It is not closed where it began again meanwhile, in another process.
        assert not store.interrupt_run("mine", "another", why="", at=datetime.now(UTC))


def test_a_process_is_gone_only_for_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    boot, namespace, pid, began = here().split("/")
    assert not gone(here(), one_machine=True)
    assert gone(f"{boot}/{namespace}/{pid}/1{began}", one_machine=False), "its number was given to another one"
    for unknown in ("", "x", "///", f"{boot}/pid:[1]/{2**22 + 1}/7"):
        assert not gone(unknown, one_machine=True)
    assert gone(f"{boot}/{namespace}/{2**22 + 1}/7", one_machine=False)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    until(lambda: not there(dead.pid))
    assert gone(f"{boot}/{namespace}/{dead.pid}/7", one_machine=False), "nobody has asked how it ended"
    dead.wait()
    monkeypatch.setattr(processes, "_boot", lambda: "")
    assert not gone(f"{boot}/{namespace}/{2**22 + 1}/7", one_machine=True), "a machine that does not say"
