"""The sandbox, kept running: the UI with every deployment, a worker, and what real time needs."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from connectors.errors import RetryableError
from deployments.demo import Sandbox, sandbox
from deployments.process import ending, tied
from deployments.sandbox.provider import RealTime, write_exports
from deployments.server import free_port

EXPORTS: Final = "env"
"""The file in the sandbox's folder that another terminal reads."""


def up(console: Console, people: int, home: Path, port: int, kind: str = "scim") -> None:
    """The sandbox, the UI with every deployment, a worker, and what real time needs, until Ctrl-C."""
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "2")  # how long a run may wait for its worker
    told = RealTime(free_port(), b64encode(secrets.token_bytes(32)).decode())
    with (
        suppress(KeyboardInterrupt),
        sandbox(people, home, kind, port, told) as running,
        in_real_time(home.resolve(), told) as beside,
    ):
        from deployments import serving
        from deployments.sandbox import moving

        with moving.listening(running.idp, people) as address:
            os.environ[moving.ADDRESS] = address

            def ready() -> None:
                beside.wait()
                exports = home / EXPORTS
                write_exports(exports, running.variables)
                _tell(console, running, told, home, exports)

            async def whole() -> None:
                await asyncio.gather(serving.serve(ready, moving.DEPLOYMENTS), beside.last())

            asyncio.run(whole())


def _tell(console: Console, running: Sandbox, told: RealTime, home: Path, exports: Path) -> None:
    idp = running.idp

    def line(name: str, *texts: str) -> None:
        for number, text in enumerate(texts):
            console.print(f"[bold]{'' if number else name:<13}[/]{text}", highlight=False, soft_wrap=True)

    line("Prefect UI", f"{running.ui}/deployments", "⋮ → Quick run or Custom run is the button of each")
    line("Reports", f"{running.ui}/artifacts", "crowdsync there: how everything stands")
    line("Crowd", running.crowd.url, f"application crowdsync, password {running.variables['CROWDSYNC_CROWD_PASSWORD']}")
    line("IdP", idp.page or str(idp.settings["url"]), idp.title)
    line("Real time", told.url, f"crowdsync receive and react; logs in {home}")
    console.print()
    line("First", "Quick run of sync-all fills Crowd; its schedule does so every 15 minutes.")
    line("Then", f"disable somebody at {idp.page}" if idp.page else "Quick run of some-days-later, and of sync-all",
         "and seconds later Crowd follows" if idp.page else "and Crowd follows")  # fmt: skip
    line("Or", "some-days-later moves the company on; mass-leavers disables 40 % of it:",
         "no more than the limits allow are shut out, sync waits, and Resume asks you")  # fmt: skip
    console.print()
    console.print("In another terminal, from this folder:")
    console.print(f"  . {exports}\n  crowdsync check\n  crowdsync sync", highlight=False, soft_wrap=True)
    console.print("The first line exports", ", ".join(sorted(running.variables)) + ".", highlight=False)
    console.print("\nCtrl-C ends it all.")


@dataclass(frozen=True, slots=True)
class Beside:
    """The processes of real time: their names, what each says when it works, and where."""

    processes: Mapping[str, tuple[subprocess.Popen[bytes], str, Path]]

    def wait(self) -> None:
        """Until all work. Raises `RetryableError`."""
        for process, words, log in self.processes.values():
            while words not in log.read_text(encoding="utf-8", errors="replace"):
                if process.poll() is not None:
                    break
                time.sleep(0.1)
        self.look()

    async def last(self) -> None:
        """For ever. Raises `RetryableError` where one of them ends."""
        while True:
            self.look()
            await asyncio.sleep(1)

    def look(self) -> None:
        """Raises `RetryableError` where one of them has ended."""
        for name, (process, _, log) in self.processes.items():
            if process.poll() is not None:
                raise RetryableError(f"crowdsync {name} ended (exit {process.poll()}); {log} says why")


@contextmanager
def in_real_time(home: Path, told: RealTime) -> Iterator[Beside]:
    """`crowdsync receive` and `crowdsync react`, as people start them."""
    programs = {"receive": (("--port", str(told.port)), "listening on"), "react": ((), "reacting for")}
    with ExitStack() as stack:
        processes = {}
        for name, (arguments, words) in programs.items():
            log = home / f"{name}.log"
            process = subprocess.Popen(  # noqa: S603
                tied("deployments.cli:main", name, *arguments),
                stdin=subprocess.PIPE,
                stdout=stack.enter_context(log.open("wb")),
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, who end them while Prefect's server still listens
            )
            processes[name] = stack.enter_context(ending(process, patience=25)), words, log
        yield Beside(processes)
