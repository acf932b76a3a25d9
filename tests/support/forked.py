"""Commands of `crowdsync` as processes of their own, forked from one that has imported what they need: that takes
seconds, and a process that is killed a hundred times has to begin a hundred times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CODE = """
import os, signal, sys
from datetime import timedelta

import great_expectations
import prefect
from connectors.store import leases
from deployments import cli, govern, react, realtime, receiver, syncing
from flows import sync

leases.AFTERWARDS = timedelta(seconds=0.2)  # (what was sent is here at once, on one machine)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while line := sys.stdin.readline():
    file, *words = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if not child:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream in (1, 2):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.argv = ["crowdsync", *words]
        try:
            cli.main()
        finally:
            print("ended", sys.exc_info()[1], file=sys.stderr, flush=True)
            os._exit(0)
    print(child, flush=True)
"""


@dataclass(slots=True)
class Started:
    """One process that was started, and the file of what it says. Numbers are given out again: `parent` tells whether
    it is still this one."""

    pid: int
    parent: int
    said: Path

    @property
    def lives(self) -> bool:
        with suppress(OSError):
            state, parent = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[:2]
            return int(parent) == self.parent and state not in "ZX"
        return False

    def kill(self) -> None:
        """SIGKILL; it is gone on return."""
        if self.lives:
            os.kill(self.pid, signal.SIGKILL)
        while self.lives:
            time.sleep(0.002)

    def until_said(self, words: str, seconds: float = 120) -> None:
        """Waits until a line of it has these words."""
        end = time.monotonic() + seconds
        while words not in self.said.read_text():
            assert time.monotonic() < end, self.said.read_text()[-3000:]
            time.sleep(0.01)


@dataclass(slots=True)
class Forked:
    """Where processes begin. `home`: for what they say."""

    process: subprocess.Popen[str]
    home: Path
    started: list[Started]

    def start(self, *words: str) -> Started:
        """`crowdsync WORDS`."""
        said = self.home / f"{len(self.started)} {words[0]}.log"
        said.touch()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(said, *words, sep="\t", file=self.process.stdin, flush=True)
        self.started.append(Started(int(self.process.stdout.readline()), self.process.pid, said))
        return self.started[-1]


@contextmanager
def forked(home: Path, environment: Mapping[str, str]) -> Iterator[Forked]:
    """Until the end, at which whatever runs still is killed."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", _CODE],
        cwd=Path(__file__).parents[2],
        env={**environment, "PYTHONPATH": "."},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    here = Forked(process, home, [])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield here
    finally:
        for one in here.started:
            one.kill()
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
