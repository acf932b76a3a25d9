"""A real PostgreSQL for the tests: started once a session, thrown away at its end.

PostgreSQL refuses to run as root, so under root it runs as `postgres` or `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg


def binaries() -> Path | None:
    """The folder that holds `initdb` and `postgres`: the newest under /usr/lib/postgresql, else on PATH."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda p: int(p.parts[-3]) if p.parts[-3].isdigit() else 0,
    )
    found = [str(p) for p in reversed(installed)]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(str(Path(on_path).resolve()))
    for path in found:
        if Path(path).with_name("initdb").exists():
            return Path(path).parent
    return None


def missing() -> str | None:
    """Why the PostgreSQL half cannot run here, None where it can."""
    if binaries() is None:
        return "no PostgreSQL binaries (/usr/lib/postgresql/*/bin or PATH): install the package `postgresql`"
    if os.geteuid() == 0 and (_account() is None or shutil.which("setpriv") is None):
        return "running as root, and there is no user `postgres` or `nobody` or no `setpriv` to run it as"
    return None


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `url` is that of its first database, password included."""

    url: str
    password: str

    @contextlib.contextmanager
    def database(self, like: str = "template1") -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards: empty, or a copy of the one named `like`."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            # (Files are copied at two thirds of what it takes to write them to the log, page by page.)
            how = " STRATEGY FILE_COPY" if connection.info.server_version >= 150_000 else ""
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{like}"{how}')
            try:
                yield self.url.rsplit("/", 1)[0] + f"/{name}"
            finally:
                connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """A server on a free port of 127.0.0.1, for as long as the block. It keeps nothing safe (fsync off)."""
    folder = binaries()
    assert folder is not None, missing()
    account = _account() if os.geteuid() == 0 else None
    prefix: list[str] = []
    home = Path(tempfile.mkdtemp(prefix="crowdsync-pg-"))
    password = uuid.uuid4().hex
    secret = home / "password"
    secret.write_text(password)
    if account is not None:
        prefix = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        for path in (home, secret):
            os.chown(path, account.pw_uid, account.pw_gid)
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(home)}
    data = home / "data"
    process = None
    try:
        subprocess.run(
            [
                *(*prefix, str(folder / "initdb"), "-D", str(data), "-U", "crowdsync", "-A", "scram-sha-256"),
                *(f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"),
            ],
            check=True,
            env=environment,
            cwd=home,
            capture_output=True,
            timeout=60,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": home,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_connections": 60,
            "shared_buffers": "64MB",
            "max_wal_size": "1GB",
        }
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    *(*prefix, str(folder / "postgres"), "-D", str(data)),
                    *(f"--{k}={v}" for k, v in settings.items()),
                ],
                env=environment,
                cwd=home,
                stdout=log,
                stderr=log,
            )
        url = f"postgresql://crowdsync:{password}@127.0.0.1:{port}/postgres"
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(url, connect_timeout=2).close()
                break
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("PostgreSQL did not start: " + (home / "log").read_text()[-2000:]) from None
                time.sleep(0.05)
        yield Server(url, password)
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)  # at once: nothing in it is kept
            process.wait(timeout=20)
        shutil.rmtree(home, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None
