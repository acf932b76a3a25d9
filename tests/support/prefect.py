"""What tests on a Prefect server share."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deployments.demo import prefect_server
from deployments.server import PrefectServer

PASSWORD, TOKEN = "pass-of-crowd-7Qz", "token-of-acme-9Xk"
SERVICES = (
    "CANCELLATION_CLEANUP",
    "CLEANUP_RECONCILER",
    "FOREMAN",
    "LATE_RUNS",
    "PAUSE_EXPIRATIONS",
    "REPOSSESSOR",
    "SCHEDULER",
    "TRIGGERS",
)
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], seconds: float = 40) -> Found:
    """What `look` finds, as soon as it finds something: Prefect records what happened a little later."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.25)
    return found


def serving(deployment: Mapping[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    """A process that serves the flow `sync` as this deployment (see served.py), with these options of Popen."""
    command = [sys.executable, "-m", "tests.support.served", json.dumps(deployment)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], **options)


@contextmanager
def fresh_server(place: Path, *services: str) -> Iterator[PrefectServer]:
    """A Prefect server, starting, with its runs kept in a folder of `place`, which pytest made. Of the services that
    look around every few seconds it has only those that are named: all together are a quarter of a processor.

    Its database is a copy of one that Prefect made for all: each would run a hundred migrations, for four seconds.
    """
    assert set(services) <= set(SERVICES)
    for name in SERVICES:
        os.environ[f"PREFECT_SERVER_SERVICES_{name}_ENABLED"] = str(name in services).lower()
    home = place / "prefect"
    home.mkdir()
    shutil.copy(_migrated(place.parent), home / "prefect.db")
    with prefect_server(home) as starting:
        yield starting


def _migrated(base: Path) -> Path:
    # The folder of this session, which all worker processes of pytest-xdist share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    made = shared / "prefect-migrated.db"
    with (shared / "prefect-migrated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            making = shared / "prefect-migrating.db"
            env = {**os.environ, "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{making}"}
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env={**env, "PREFECT_HOME": str(shared)}, check=True, capture_output=True)
            making.rename(made)
    return made
