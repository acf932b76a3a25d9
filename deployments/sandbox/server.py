"""The HTTP side that the emulated identity providers share: requests in, answers out, faults and counts.

An `Emulator` answers requests about one company. Beside its own paths every server has

    GET  /_sandbox/counts           requests by label, and bytes sent
    POST /_sandbox/reset-counts
    GET  /_sandbox/faults           the rules with how often each was seen to match, and fired
    POST /_sandbox/faults           a list of rules (see `Fault`) that replaces the one before
    POST /_sandbox/change           the arguments of `organisation.changed`: the company some days later
    POST /_sandbox/undo             the company is as it was before the last change
    POST /_sandbox/churn            {"seed", "chance", "people", "teams"}: between any two requests one leaves and one
                                    joins, by chance; {} ends it and brings the company of before back
    POST /_sandbox/sign-in          a list of ids of people of the company, who sign in (where the provider tells that)
    POST /_sandbox/forget           {"keep"}: the events but for so many newest ones are there no more
    POST /_sandbox/load             those of `organisation.organisation`: another company; `circle` nests in a circle
    *    /_sandbox/…                what the emulator itself has (`control`)
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import uuid
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import httptools
import numpy as np
import orjson

from deployments.sandbox.organisation import Organisation, Person, Team, changed, organisation


@dataclass(slots=True)
class Fault:
    """What goes wrong with the `nth` request whose path starts with the regular expression `path`, `times` times.

    | kind | what the client sees |
    |---|---|
    | cut | half of the body that Content-Length promises, then the connection closes |
    | truncated | half of the body, with a Content-Length that fits it |
    | drop | a page without its first `items` records, everything else as if whole |
    | repeat | the page before, once more |
    | empty | a page without records, as if there were no more; the total as it is, or `total` |
    | html | 200 with a web page |
    | status | the error `status`, with Retry-After if `retry_after` is set |
    | slow | the right answer after `seconds` |
    | reset | the connection is reset without an answer |
    | cursor | the page says that it is itself the next one |
    | total | another total than before, where the API tells one |
    | malformed | the first record of the page makes no sense |
    | patch | the first records of the page after the JSON merge patches (RFC 7396) that `text` lists, one each |
    | link | the link to the next page is `text` |
    | expire | the access token ends: 401, until a new one is fetched |

    Matching requests count from when the rule is set. `times` 0 is for ever. What an emulator's API has no place
    for (a total, a link) fires without effect.
    """

    kind: str
    path: str = "/"
    nth: int = 1
    times: int = 1
    items: int = 1
    total: int | None = None
    status: int = 503
    retry_after: str | None = None
    seconds: float = 1.0
    text: str = ""
    seen: int = 0
    fired: int = 0

    KINDS = (
        *("cut", "truncated", "drop", "repeat", "empty", "html", "status", "slow", "reset"),
        *("cursor", "total", "malformed", "patch", "link", "expire"),
    )

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: one of {', '.join(self.KINDS)}")

    def fires(self, path: str) -> bool:
        """Whether this request, by its path, is the one that goes wrong."""
        if not re.match(self.path, path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.fired >= self.times):
            return False
        self.fired += 1
        return True


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Header names are in lower case; of a query name that comes twice the last value counts.

    `target` is path and query as they were sent."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    fault: Fault | None = None
    target: str = ""

    def fails(self, kind: str) -> bool:
        """Whether this request is to fail in this way."""
        return self.fault is not None and self.fault.kind == kind

    def form(self) -> dict[str, str]:
        """The body as a form."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: Sequence[tuple[str, str]] = ()


class Refusal(Exception):
    """An answer in place of the one that was to be."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


class Later(Exception):
    """An answer that takes a while, because somebody else is asked first. It may raise `Refusal`."""

    def __init__(self, answer: Awaitable[Answer]) -> None:
        super().__init__()
        self.answer = answer


class Emulator(Protocol):
    """One identity provider. `answer` raises `Refusal` for errors, and `Later`."""

    company: Organisation

    def load(self, company: Organisation) -> None:
        """Show this company from now on."""
        ...

    def answer(self, request: Request) -> Answer: ...

    def label(self, request: Request) -> str:
        """What the request is counted as, e.g. `GET /users`."""
        ...

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """An error in the provider's own words."""
        ...


@dataclass
class Pages:
    """Cuts records into pages, and spoils them where a fault says so."""

    previous: dict[str, int] = field(default_factory=dict)
    malformed: bytes = b'{"id":7}'

    def cut(self, name: str, records: Sequence[bytes], start: int, count: int, request: Request) -> Sequence[bytes]:
        """The page of `name` that starts at `start` (from 0)."""
        if request.fails("repeat") and start:  # (before the first there is none, but for that of an earlier read)
            start = self.previous.get(name, start)
        self.previous[name] = start
        chosen = records[start : start + count]
        if request.fault is None:
            return chosen
        if request.fails("drop"):
            return chosen[request.fault.items :]
        if request.fails("empty"):
            return ()
        if request.fails("malformed"):
            return [self.malformed, *chosen[1:]]
        return chosen


class Chains:
    """Lists whose pages are asked for one after another: a cursor leads on in a list as it was when that began."""

    def __init__(self) -> None:
        self._lists: OrderedDict[int, Sequence[bytes]] = OrderedDict()
        self._last = 0

    def begin(self, rows: Sequence[bytes]) -> int:
        """A number for this list."""
        self._last += 1
        self._lists[self._last] = rows[:]
        if len(self._lists) > 200:
            self._lists.popitem(last=False)
        return self._last

    def __getitem__(self, number: int) -> Sequence[bytes]:
        """The list of this number. Raises `ValueError`."""
        if number not in self._lists:
            raise ValueError(number)
        return self._lists[number]


class Churn:
    """People (or groups) who come and go while lists are read, as many as come: totals tell nothing.

    Whoever joins stands anywhere in the list, and is a member of the first group."""

    def __init__(self, company: Organisation, *, seed: int, chance: float, people: bool = True, teams: bool = False):
        self.before, self.company = company, company
        self._rng, self._chance, self._people, self._teams = random.Random(seed), chance, people, teams
        self._guests: list[str] = []
        for _ in range(4):
            self._join()

    def next(self) -> Organisation | None:
        """The company before the next request; None where nothing happens."""
        if self._rng.random() >= self._chance:
            return None
        for change in self._rng.sample((self._join, self._leave), 2):
            change()
        return self.company

    def _join(self) -> None:
        company, key = self.company, str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._guests.append(key)
        if self._people:
            at, name = self._rng.randrange(len(company.people) + 1), f"{self._rng.choice('aefjmptz')}{key[:8]}"
            more = (f"{name}@acme.example", True, "", "", key[:4], "", "")
            person = Person(key, name, "Guest", name.title(), f"Guest {name}", *more, "en")
            people = [*company.people[:at], person, *company.people[at:]]
            members = company.member_person + (company.member_person >= at)
            here = np.searchsorted(company.member_team, 1) if company.teams else 0
            self.company = replace(
                company,
                people=people,
                member_team=np.insert(company.member_team, here, [0] * bool(company.teams)).astype(np.int32),
                member_person=np.insert(members, here, [at] * bool(company.teams)).astype(np.int32),
            )
        company = self.company
        if self._teams:
            at = self._rng.randrange(len(company.teams) + 1)
            team = Team(key, f"{self._rng.choice('AEFJMPTZ')} {key[:8]}", "project", key[:8])
            self.company = replace(
                company,
                teams=[*company.teams[:at], team, *company.teams[at:]],
                **{name: side + (side >= at).astype(np.int32) for name, side in _of_teams(company).items()},
            )

    def _leave(self) -> None:
        company, key = self.company, self._guests.pop(self._rng.randrange(len(self._guests)))
        at = next((at for at, person in enumerate(company.people) if person.id == key), None)
        if at is not None:
            stays = company.member_person != at
            members = company.member_person[stays]
            self.company = company = replace(
                company,
                people=[*company.people[:at], *company.people[at + 1 :]],
                member_team=company.member_team[stays],
                member_person=(members - (members > at)).astype(np.int32),
            )
        at = next((at for at, team in enumerate(company.teams) if team.id == key), None)
        if at is not None:
            self.company = replace(
                company,
                teams=[*company.teams[:at], *company.teams[at + 1 :]],
                **{name: side - (side > at).astype(np.int32) for name, side in _of_teams(company).items()},
            )


def _of_teams(company: Organisation) -> dict[str, Any]:
    return {name: getattr(company, name) for name in ("member_team", "nest_parent", "nest_child")}


def patched(body: bytes, patches: str) -> bytes:
    """An answer whose first records are changed by JSON merge patches, a list of them as JSON, one each."""
    found = json.loads(body)  # (the plain parser: patches may hold what orjson refuses)
    inside = found
    if isinstance(found, dict) and "responses" in found:  # a batch: the one record in it, in whatever order it came
        inside = min((part["body"] for part in found["responses"]), key=lambda body: "value" in body)
    if isinstance(inside, dict):
        lists = (inside[name] for name in ("value", "Resources", "users", "data") if name in inside)
        inside = next(lists, [inside])
    for at, patch in enumerate(json.loads(patches)[: len(inside)]):
        new = _merged(inside[at], patch)
        inside[at].clear()
        inside[at].update(new)
    return json.dumps(found).encode()


def _merged(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    base = old if isinstance(old, dict) else {}
    new = {name: _merged(base.get(name), value) for name, value in patch.items() if value is not None}
    return {name: value for name, value in {**base, **new}.items() if name not in patch or patch[name] is not None}


def members_of(company: Organisation) -> list[list[str]]:
    """The ids of the people in each team, in the order of `company.teams`."""
    people = [person.id for person in company.people]
    return [
        [people[p] for p in chosen.tolist()]
        for chosen in np.split(
            company.member_person,
            np.searchsorted(company.member_team, np.arange(1, len(company.teams))),
        )
    ][: len(company.teams)]


def children_of(company: Organisation) -> dict[str, list[str]]:
    """The ids of the teams nested in each team that has any."""
    ids = [team.id for team in company.teams]
    children: dict[str, list[str]] = {}
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        children.setdefault(ids[parent], []).append(ids[child])
    return children


def in_a_circle(company: Organisation) -> Organisation:
    """The company with its first three teams nested in each other in a circle, and nothing else nested."""
    parents = np.array([0, 1, 2], dtype=np.int32)
    return replace(company, nest_parent=parents, nest_child=np.array([1, 2, 0], dtype=np.int32))


class Times:
    """When each person, team and team's membership was last changed, by id; and when who was deleted."""

    def __init__(self) -> None:
        self.people: dict[str, datetime] = {}
        self.teams: dict[str, datetime] = {}
        self.members: dict[str, datetime] = {}
        self.deleted: dict[str, datetime] = {}
        self._seen: dict[str, Any] = {}

    def observe(self, company: Organisation, at: datetime | None = None) -> None:
        """Compares with the company before. What is there from the start was changed a day ago."""
        moment = (at or datetime.now(UTC)) - (timedelta() if self._seen else timedelta(days=1))
        seen: dict[str, Any] = {}
        children = children_of(company)
        for person in company.people:
            seen[person.id] = person
            if self._seen.get(person.id) != person:
                self.people[person.id] = moment
        for team, members in zip(company.teams, members_of(company), strict=True):
            seen[team.id] = team
            if self._seen.get(team.id) != team:
                self.teams[team.id] = moment
            key = f"members of {team.id}"
            seen[key] = hash((tuple(members), tuple(children.get(team.id, ()))))
            if self._seen.get(key) != seen[key]:
                self.members[team.id] = moment
        for gone in self._seen.keys() - seen.keys():
            if not gone.startswith("members of "):
                self.deleted[gone] = moment
        self._seen = seen


@dataclass
class State:
    """What all connections of one server share."""

    emulator: Emulator
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    churn: Churn | None = None
    before: list[Organisation] = field(default_factory=list)
    """The companies before each change."""


_REASONS: Final = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, state: State) -> None:
        self.state = state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self.url = b""
        self.body = b""
        self.headers: dict[str, str] = {}

    def data_received(self, data: bytes) -> None:
        """As asyncio.Protocol."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        """As httptools."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """As httptools."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """As httptools."""
        self.body += body

    def on_message_complete(self) -> None:
        """As httptools."""
        target, body, headers = self.url.decode("latin-1"), self.body, self.headers
        self._begin()
        path, _, raw = target.partition("?")
        method = self.parser.get_method().decode()
        if path.startswith("/_sandbox/"):
            self._send(self._control(method, path, body))
            return
        fault = next((f for f in self.state.faults if f.fires(path)), None)
        request = Request(method, path, dict(parse_qsl(raw, keep_blank_values=True)), headers, body, fault, target)
        self.state.counts[self.state.emulator.label(request)] += 1
        if self.state.churn and (company := self.state.churn.next()):
            self.state.emulator.load(company)
        if request.fails("reset"):
            linger = struct.pack("ii", 1, 0)  # close sends RST instead of FIN
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
            return
        try:
            answer = self._answer(request)
        except Refusal as refusal:
            answer = refusal.answer
        except Later as later:
            self.transport.pause_reading()
            self.waiting = asyncio.ensure_future(self._send_when(later.answer, request))
            return
        if request.fails("slow"):
            assert fault is not None
            # No reading meanwhile: answers keep the order of the requests.
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(fault.seconds, self._send_late, answer)
        else:
            self._send(answer, cut=request.fails("cut"))

    def _answer(self, request: Request) -> Answer:
        fault = request.fault
        if fault is not None and fault.kind == "status":
            extra = [("Retry-After", fault.retry_after)] if fault.retry_after is not None else []
            return self.state.emulator.failure(fault.status, "A fault on demand", extra)
        if request.fails("html"):
            return Answer(b"<!doctype html><title>Sign in</title><p>Please sign in.", kind="text/html")
        answer = self.state.emulator.answer(request)
        if request.fails("patch"):
            assert fault is not None
            return replace(answer, body=patched(answer.body, fault.text))
        if request.fails("truncated"):
            return Answer(answer.body[: len(answer.body) // 2], answer.status, answer.kind, answer.headers)
        return answer

    async def _send_when(self, coming: Awaitable[Answer], request: Request) -> None:
        try:
            answer = await coming
        except Refusal as refusal:
            answer = refusal.answer
        if not self.transport.is_closing():
            self._send(answer, cut=request.fails("cut"))
            self.transport.resume_reading()

    def _send_late(self, answer: Answer) -> None:
        if not self.transport.is_closing():
            self._send(answer)
            self.transport.resume_reading()

    def _send(self, answer: Answer, *, cut: bool = False) -> None:
        head = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Status')}"]
        if answer.body or answer.status != 204:
            head += [f"Content-Type: {answer.kind}", f"Content-Length: {len(answer.body)}"]
        head += [f"{name}: {value}" for name, value in answer.headers]
        start = "\r\n".join([*head, "", ""]).encode("latin-1")
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        self.state.counts["bytes"] += len(body)
        if len(body) < 2**16:
            self.transport.write(start + body)
        else:
            self.transport.write(start)
            self.transport.write(memoryview(body))  # what the socket does not take at once is copied once
        if cut or not self.parser.should_keep_alive():
            self.transport.close()

    def _loaded(self, company: Organisation) -> dict[str, int]:
        self.state.emulator.load(company)
        return {
            "users": len(company.people),
            "groups": len(company.teams),
            "memberships": len(company.member_team),
            "nestings": len(company.nest_parent),
        }

    def _control(self, method: str, path: str, body: bytes) -> Answer:
        state = self.state
        try:
            given = orjson.loads(body) if body else None
            answer: Any
            match (method, path.removeprefix("/_sandbox/")):
                case ("GET", "counts"):
                    answer = dict(state.counts)
                case ("POST", "reset-counts"):
                    state.counts.clear()
                    answer = {}
                case ("GET", "faults"):
                    answer = [asdict(fault) for fault in state.faults]
                case ("POST", "faults"):
                    state.faults = [Fault(**rule) for rule in given or []]
                    answer = [asdict(fault) for fault in state.faults]
                case ("POST", "change"):
                    company = changed(state.emulator.company, **(given or {}))
                    state.before.append(state.emulator.company)
                    answer = self._loaded(company)
                case ("POST", "undo"):
                    if not state.before:
                        raise ValueError("nothing was changed")
                    answer = self._loaded(state.before.pop())
                case ("POST", "churn"):
                    if state.churn:
                        state.emulator.load(state.churn.before)
                    state.churn = Churn(state.emulator.company, **given) if given else None
                    answer = self._loaded(state.churn.company) if state.churn else {}
                case ("POST", "sign-in"):
                    for one in given or []:
                        state.emulator.happened.sign_in(one)  # type: ignore[attr-defined]
                    state.emulator.load(state.emulator.company)
                    answer = {}
                case ("POST", "forget"):
                    state.emulator.happened.forget(**(given or {}))  # type: ignore[attr-defined]
                    answer = {}
                case ("POST", "load"):
                    sizes = dict(given or {})
                    circle = sizes.pop("circle", False)
                    company = organisation(**sizes)
                    answer = self._loaded(in_a_circle(company) if circle else company)
                case (_, name) if control := getattr(state.emulator, "control", None):
                    answer = control(name, given)
                case _:
                    return Answer(b'{"error":"no such path"}', 404)
        except (TypeError, ValueError, AttributeError, StopIteration, re.error) as error:
            return Answer(orjson.dumps({"error": str(error)}), 400)
        return Answer(orjson.dumps(answer))
