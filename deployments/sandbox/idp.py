"""Emulated identity providers: one process each, filled with a made-up company.

    python -m deployments.sandbox.idp okta --users 1000 --groups 50 --memberships 5000

Each is written from the vendor's documentation, and held true by clients that we did not write. Faults, counts
and changes are those of `deployments.sandbox.server`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from deployments.process import ending
from deployments.sandbox.organisation import Organisation, difficult, organisation
from deployments.sandbox.server import Connection, Emulator, State

EMULATORS: Final[Mapping[str, str]] = {
    "scim": "deployments.sandbox.scim",
    "okta": "deployments.sandbox.okta",
    "entra": "deployments.sandbox.entra",
    "onelogin": "deployments.sandbox.onelogin",
    "keycloak": "deployments.sandbox.keycloak",
    "google": "deployments.sandbox.google",
    "idcs": "deployments.sandbox.idcs",
}
"""Kind of source → the module that emulates it (`Module`)."""


class Module(Protocol):
    """What a module of an emulator has."""

    def emulator(self, base: str, options: Mapping[str, Any]) -> Emulator:
        """The emulator, empty, at the address `base` (no path). `options` are those of `credentials`, and others
        that tests set."""
        ...

    def credentials(self) -> tuple[dict[str, Any], dict[str, str]]:
        """New credentials: the options that the emulator needs to check them, and the secrets by name
        (`SourceSettings.known`)."""
        ...

    def settings(self, base: str) -> dict[str, Any]:
        """What stands under `[sources.NAME]` for an emulator at `base`, without secrets and policy."""
        ...


def module_of(kind: str) -> Module:
    """The emulator's module."""
    module: Any = importlib.import_module(EMULATORS[kind])
    return module  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class RunningIdp:
    """An emulated identity provider as its parent sees it. `url` has no path."""

    kind: str
    url: str
    settings: dict[str, Any]
    secrets: dict[str, str]
    process: subprocess.Popen[str]

    def counts(self) -> dict[str, int]:
        """Requests by label, and `bytes` sent."""
        counts: dict[str, int] = self._control("GET", "counts")
        return counts

    def reset_counts(self) -> None:
        """Count from zero."""
        self._control("POST", "reset-counts")

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the rules (see `server.Fault`); none means no more faults."""
        self._control("POST", "faults", list(rules))

    def faults_state(self) -> list[dict[str, Any]]:
        """The rules with how often each was `seen` to match, and `fired`."""
        state: list[dict[str, Any]] = self._control("GET", "faults")
        return state

    def change(self, **amounts: int) -> dict[str, int]:
        """Move on to `changed(company, **amounts)`; returns the new sizes."""
        sizes: dict[str, int] = self._control("POST", "change", amounts)
        return sizes

    def undo(self) -> None:
        """The company is as it was before the last `change`."""
        self._control("POST", "undo")

    def sign_in(self, *people: str) -> None:
        """These people (ids in the company) sign in."""
        self._control("POST", "sign-in", list(people))

    def forget(self, keep: int = 0) -> None:
        """The provider's events, but for so many newest ones, are there no more."""
        self._control("POST", "forget", {"keep": keep})

    def churn(self, **how: Any) -> None:
        """From now on people or groups come and go between any two requests (`server.Churn`); without arguments, the
        company of before is back, and stays."""
        self._control("POST", "churn", how)

    def load(self, **sizes: Any) -> dict[str, int]:
        """Another company: the arguments of `organisation`, and `circle=True` for groups nested in a circle."""
        found: dict[str, int] = self._control("POST", "load", sizes)
        return found

    def subscriptions(self) -> list[dict[str, Any]]:
        """What the provider tells whom, as it has it itself; of Entra and Google."""
        found: list[dict[str, Any]] = self._control("GET", "subscriptions")
        return found

    def unsubscribe(self, *ids: str) -> None:
        """Ends some of these without telling anybody; all of them where none is named."""
        self._control("POST", "unsubscribe", list(ids))

    def lifecycle(self, event: str) -> None:
        """Entra: sends this lifecycle event for every subscription."""
        self._control("POST", "lifecycle", event)

    def _control(self, method: str, name: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/_sandbox/{name}", method=method, data=None if body is None else orjson.dumps(body)
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return orjson.loads(answer.read())


@contextmanager
def running(
    kind: str,
    *,
    users: int,
    groups: int,
    memberships: int,
    seed: int = 1,
    difficult: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Iterator[RunningIdp]:
    """An emulator in a process of its own, with new credentials. Its company is `organisation(...)` of these
    arguments; `options` are given to it beside those of its credentials."""
    module = module_of(kind)
    given, secrets = module.credentials()
    command = [sys.executable, "-m", "deployments.sandbox.idp", kind, "--until-stdin-closes"]
    command += ["--users", str(users), "--groups", str(groups), "--memberships", str(memberships), "--seed", str(seed)]
    command += ["--options", orjson.dumps({**given, **(options or {})}).decode()]
    if difficult:
        command.append("--difficult")
    root = Path(__file__).resolve().parents[2]
    with ending(
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the {kind} sandbox did not start (exit {process.wait()}): {line.strip()}")
        url = line.removeprefix("listening on ").strip()
        yield RunningIdp(kind, url, {"kind": kind, **module.settings(url)}, secrets, process)


def with_difficult(company: Organisation) -> Organisation:
    """The company and everybody awkward."""
    cases = difficult(company.seed)
    return company.including(
        [person for case in cases for person in case.people], [team for case in cases for team in case.teams]
    )


async def serve(
    kind: str,
    company: Organisation,
    options: Mapping[str, Any],
    port: int,
    announce: Callable[[str], object],
    *,
    until_stdin_closes: bool = False,
) -> None:
    """Listens, loads the company, calls `announce` with its address, and serves until SIGTERM."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=512)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    emulator = module_of(kind).emulator(base, options)
    emulator.load(company)
    state = State(emulator)
    gc.collect()
    gc.freeze()  # the company stays for good: the collector need not walk it in the middle of an answer
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    await loop.create_server(lambda: Connection(state), sock=listener)
    announce(base)
    await stop.wait()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.idp", description=__doc__)
    parser.add_argument("kind", choices=sorted(EMULATORS))
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--groups", type=int, default=25)
    parser.add_argument("--memberships", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--difficult", action="store_true", help="add awkward people and groups")
    parser.add_argument("--options", default="{}", help="JSON; without it, new credentials are made and shown")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    given = parser.parse_args(argv)
    company = organisation(users=given.users, groups=given.groups, memberships=given.memberships, seed=given.seed)
    if given.difficult:
        company = with_difficult(company)
    options = orjson.loads(given.options)
    if not options:
        options, secrets = module_of(given.kind).credentials()
        sys.stderr.write(f"secrets: {orjson.dumps(secrets).decode()}\n")

    def announce(base: str) -> None:
        sys.stdout.write(f"listening on {base}\n")
        sys.stdout.flush()

    asyncio.run(serve(given.kind, company, options, given.port, announce, until_stdin_closes=given.until_stdin_closes))
    sys.stdout.flush()
    os._exit(0)  # taking a company of 100,000 apart, object by object, takes longer than running it


if __name__ == "__main__":
    main()
