"""What tests on a Prefect server share."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from deployments.demo import prefect_server
from deployments.server import PrefectServer

PASSWORD, TOKEN = "pass-of-crowd-7Qz", "token-of-acme-9Xk"
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], seconds: float = 40) -> Found:
    """What `look` finds, as soon as it finds something: Prefect records what happened a little later."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.25)
    return found


@contextmanager
def fresh_server(place: Path) -> Iterator[PrefectServer]:
    """A Prefect server, starting, with its runs kept in a folder of `place`, which pytest made.

    Its database is a copy of one that Prefect made for all: each would run a hundred migrations, for four seconds.
    """
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
