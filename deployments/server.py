"""Prefect's server as a process of ours: the sandbox's, or one for the length of a command that needs Prefect's blocks
where none is named.

It ends with us, whatever ends us. (Prefect's own temporary server does not: each killed run would leave one behind.)
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import httpx

from connectors.errors import RetryableError
from deployments.process import ending, tied
from tasks.tell.dashboard import PASSING

STARTUP_SECONDS: Final = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
SECONDS: Final = 300
"""How long a server may take to start: seconds on an idle machine, minutes on one that is busy with other things."""


@dataclass(frozen=True, slots=True)
class PrefectServer:
    """A server process that may not answer yet."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, seconds: float = SECONDS) -> None:
        """Until it answers. Raises `RetryableError` naming its log, and what the log ends with."""
        start = time.monotonic()
        while (took := time.monotonic() - start) < seconds and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/api/health", timeout=2):  # noqa: S310 (our own address)
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        code = self.process.poll()
        how = f"did not start within {took:.0f} s" if code is None else f"ended as it started (exit {code})"
        lines = [line for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        last = f"; its log ends: {lines[-1].strip()}" if lines else ""
        raise RetryableError(f"the Prefect server {how}{last}; {self.log} says more")


@contextmanager
def started(entry: str, *arguments: str, port: int, log: IO[bytes], env: Mapping[str, str]) -> Iterator[PrefectServer]:
    """A server as a process that ends with us: the entry point and arguments of its program, which are to make it
    listen on `port`. `log` is a file with a name."""
    server = subprocess.Popen(  # noqa: S603
        tied(entry, *arguments),
        env=env,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us alone: the server ends last, when it was told everything
    )
    with ending(server, patience=15):
        yield PrefectServer(f"http://127.0.0.1:{port}", server, Path(log.name))


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def server_named() -> bool:
    """Whether a Prefect server is named: by PREFECT_API_URL, in the environment or in what Prefect reads beside it.

    Prefect itself, which takes 1.3 s to be imported, is asked only where one of these might name one.
    """
    if "prefect.settings" not in sys.modules and not (_in_environment() or any(map(_in_file, _prefect_files()))):
        return False
    from prefect.settings import get_current_settings

    return bool(get_current_settings().api.url)


def _in_environment() -> bool:
    named = (name.upper() for name, value in os.environ.items() if value)
    return any(name.startswith(("PREFECT_API", "PREFECT_PROFILE")) for name in named)


def _prefect_files() -> Iterator[tuple[Path, str]]:
    """The files that Prefect takes settings from, and what stands in one that might name a server.
    (https://docs.prefect.io/v3/concepts/settings-and-profiles)"""
    yield Path(".env"), "prefect"
    yield Path("prefect.toml"), ""
    yield Path("pyproject.toml"), "tool.prefect"
    yield Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect").expanduser() / "profiles.toml", "prefect_api"


def _in_file(place: tuple[Path, str]) -> bool:
    file, words = place
    try:
        return words in file.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:  # there is none
        return file.exists()


@contextmanager
def prefect_there() -> Iterator[Callable[[], None]]:
    """Inside, there is a Prefect server: the one that is named, or one for the length of the block. What is given waits
    until it answers, and raises `RetryableError` where it does not."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url:
        yield lambda: None
        return
    port = free_port()
    env = {
        **os.environ,
        **settings.to_environment_variables(exclude_unset=True),
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }
    arguments = ("--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port))
    with (
        tempfile.NamedTemporaryFile(prefix="crowdsync-prefect-", suffix=".log") as log,
        started("uvicorn.main:main", *arguments, "--log-level", "error", port=port, log=log, env=env) as server,
    ):
        # Prefect's own threads know no settings but those of the environment; they too must find this server.
        os.environ |= {"PREFECT_API_URL": f"{server.url}/api", PASSING: "1"}
        refresh_global_settings_context()

        def wait() -> None:
            seconds = settings.server.ephemeral.startup_timeout_seconds
            try:
                server.wait(seconds)
            except RetryableError as error:
                told = str(error).removesuffix(f"; {log.name} says more")
                raise RetryableError(
                    f"{told}. It was to be started for this command only: try again when the machine is less busy, "
                    f"give it longer with {STARTUP_SECONDS} (now {seconds} s), or start a lasting one "
                    "(`prefect server start`) and name it in PREFECT_API_URL"
                ) from None

        try:
            yield wait
        finally:
            if server.process.poll() is None:
                say_goodbye()
            del os.environ["PREFECT_API_URL"], os.environ[PASSING]
            refresh_global_settings_context()


@contextmanager
def ended_as_by_hand() -> Iterator[None]:
    """Around flows: SIGTERM ends them as Ctrl-C does; inside a flow run, Prefect makes an exception of its own
    of it."""
    from prefect.exceptions import TerminationSignal

    try:
        yield
    except TerminationSignal:
        raise KeyboardInterrupt from None


def say_goodbye() -> None:
    """Hands over Prefect's last logs and events while its server still listens; it would wait for it at exit."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=30)
    EventsWorker.drain_all(timeout=30)


@contextmanager
def prefect_explained() -> Iterator[None]:
    """What goes wrong between us and Prefect's server, in one line."""
    from prefect.exceptions import PrefectException
    from prefect.settings import get_current_settings

    try:
        yield
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "server" not in str(error) and "API" not in str(error):
            raise
        url = get_current_settings().api.url
        if not url:
            way = "it was to be started for this run only; try again, or start one: `prefect server start`"
        else:
            way = f"PREFECT_API_URL is {url}: start that server, or unset it to run without one"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RetryableError(f"Prefect's server does not answer as it should ({reason}); {way}") from None


def quiet_prefect() -> None:
    """Prefect says what it does on its page; the terminal is for the report."""
    for name, value in {
        STARTUP_SECONDS: str(SECONDS),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL": "INFO",
    }.items():
        os.environ.setdefault(name, value)
