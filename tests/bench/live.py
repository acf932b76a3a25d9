"""An emulated Crowd that notes when it was written to, and a SCIM server in which one person changes at a time.

`python -m tests.bench.live crowd|scim` with the arguments of the emulators. Beside what these answer:

    GET  /_bench/writes     of Crowd: [[seconds, method, path, query, body], …], and forgets them
    POST /_bench/change     of the SCIM server: {"at": 7, "name": "…"} or {"at": 7, "team": 3}: the display name of the
                            person at this place of the company, or a group whose member they become

Seconds are those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import Any
from unittest.mock import patch

import numpy as np
import orjson

from deployments.process import ending
from deployments.sandbox import crowd, idp, scim
from deployments.sandbox.crowd_rest import JSON
from deployments.sandbox.crowd_rest import Answer as CrowdAnswer
from deployments.sandbox.organisation import Organisation
from deployments.sandbox.server import Answer, Request
from tests.bench.child import ROOT


class NotedCrowd(crowd.Crowd):
    """Crowd, with a note of every write that it took."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.notes: list[tuple[float, str, str, str, str]] = []
        super().__init__(*args, **options)

    def respond(self, method: str, path: str, query: str, headers: Any, body: bytes, *rest: Any) -> CrowdAnswer:
        if path == "/_bench/writes":
            notes, self.notes = self.notes, []
            return CrowdAnswer(200, orjson.dumps(notes), JSON)
        answer = super().respond(method, path, query, headers, body, *rest)
        if method != "GET" and answer.status < 300:
            self.notes.append((time.monotonic(), method, path, query, body.decode()))
        return answer


class LiveScim(scim.PreparedScim):
    """A company in which one person at a time changes, at the cost of that one."""

    def load(self, company: Organisation) -> None:
        super().load(company)
        self._index("Users", "id")
        self._index("Groups", "members.value")

    def label(self, request: Request) -> str:
        return request.path if request.path.startswith("/_bench/") else super().label(request)

    def answer(self, request: Request) -> Answer:
        if request.path != "/_bench/change":
            return super().answer(request)
        self._change(**orjson.loads(request.body))
        return Answer(b"{}")

    def _change(self, at: int, name: str = "", team: int | None = None) -> None:
        person, company = self.company.people[at], self.company
        self._pages = OrderedDict()
        if team is None:
            person = company.people[at] = person._replace(display_name=name)
            self._known[person.id] = known = self._render_person(person)
            self.users[at] = known[1]
            return
        places = self._by["Groups", "members.value"].setdefault(person.id, [])
        if team in places:
            return
        places.append(team)
        bare, full = self.groups[team], self.full_groups[team]
        more = self._known[person.id][2]
        empty = len(full) == len(bare) + len(b',"members":[]')
        self.full_groups[team] = full[:-2] + (b"" if empty else b",") + more + b"]}"


def _started(*arguments: str) -> Popen[str]:
    command = [sys.executable, "-m", "tests.bench.live", *arguments]
    return Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)


def _address(process: Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("listening on "):
        raise RuntimeError(f"an emulator did not start (exit {process.wait()})")
    return line.removeprefix("listening on ").strip()


@contextmanager
def noted_crowd(application: str, password: str) -> Iterator[crowd.RunningCrowd]:
    """An empty Crowd that notes its writes, in a process of its own."""
    with ending(_started("crowd", "--until-eof", "--port", "0", "--application", f"{application}:{password}")) as it:
        yield crowd.RunningCrowd(_address(it), it)


@contextmanager
def live_scim(token: str, **sizes: int) -> Iterator[scim.RunningScim]:
    """A SCIM server whose people can be changed one by one, in a process of its own."""
    company = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    options = orjson.dumps({"token": token}).decode()
    with ending(_started("scim", "scim", "--until-stdin-closes", *company, "--options", options)) as it:
        url = _address(it)
        yield scim.RunningScim(url + scim.ROOT, token, idp.RunningIdp("scim", url, {}, {}, it))


def writes(url: str) -> list[Any]:
    """What a `NotedCrowd` noted since it was asked last."""
    origin = "/".join(url.split("/")[:3])
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{origin}/_bench/writes") as answer:
        found: list[Any] = orjson.loads(answer.read())
    return found


def spread(count: int, of: int) -> list[int]:
    """So many different places, evenly spread."""
    return [int(one) for one in np.linspace(0, of - 1, num=min(count, of))]


if __name__ == "__main__":
    which, *given = sys.argv[1:]
    if which == "crowd":
        with patch.object(crowd, "Crowd", NotedCrowd):
            crowd.main(given)
    else:
        with patch.object(scim, "PreparedScim", LiveScim):
            idp.main(given)
