"""SCIM servers to read from: one prepared in memory for speed and faults, and one that we did not write.

`prepared` starts a process that serves a generated company from bytes rendered once, so that a bench
measures the reader and not the server. It can lie and break on demand:

    python -m deployments.sandbox.scim --port 0 --users 1000 --groups 50 --memberships 5000 --token secret

    GET  /v2/{Users,Groups}[?startIndex&count|cursor&count][&filter=… eq "…"][&excludedAttributes=members]
    GET  /v2/{Users,Groups}/{id}, /v2/{ServiceProviderConfig,ResourceTypes,Schemas}
    GET  /_sandbox/counts           requests by route, and bytes sent
    POST /_sandbox/reset-counts
    POST /_sandbox/faults           a list of rules (see `Fault`) that replaces the one before
    POST /_sandbox/change           the arguments of `organisation.changed`: the company some days later

`scim2_server` starts the `scim2-server` package; `fill` and `apply_change` put a company into it through
SCIM itself.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import httptools
import httpx
import numpy as np
import orjson

from deployments.sandbox.organisation import (
    ENTERPRISE_SCHEMA,
    GROUP_SCHEMA,
    USER_SCHEMA,
    Organisation,
    Person,
    Team,
    changed,
    difficult,
    organisation,
    scim_group,
    scim_user,
)

ROOT: Final = "/v2"
PAGING: Final = ("index", "cursor", "both")

_LIST: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
_PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
_CONFIG: Final = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
_CACHE_BYTES: Final = 256 * 2**20


@dataclass(slots=True)
class Fault:
    """What goes wrong with the `nth` request whose path (after `/v2`) starts with `path`, `times` times.

    | kind | what the client sees |
    |---|---|
    | cut | half of the body that Content-Length promises, then the connection closes |
    | truncated | half of the body, with a Content-Length that fits it |
    | drop | a page without its first `items` resources, everything else as if whole |
    | repeat | the page before, once more |
    | empty | a ListResponse without resources; totalResults as it is, or `total` |
    | html | 200 with a web page |
    | status | the error `status`, with Retry-After if `retry_after` is set |
    | slow | the right answer after `seconds` |
    | reset | the connection is reset without an answer |

    Matching requests count from when the rule is set. `times` 0 is for ever.
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
    seen: int = 0
    fired: int = 0

    KINDS = ("cut", "truncated", "drop", "repeat", "empty", "html", "status", "slow", "reset")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise ValueError(f"unknown fault {self.kind!r}: one of {', '.join(self.KINDS)}")

    def fires(self, path: str) -> bool:
        if not path.startswith(self.path):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times and self.fired >= self.times):
            return False
        self.fired += 1
        return True


class ScimError(Exception):
    """An error answer."""

    def __init__(self, status: int, detail: str, scim_type: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.scim_type = status, detail, scim_type

    def body(self) -> bytes:
        error: dict[str, Any] = {"schemas": [_ERROR], "status": str(self.status), "detail": self.detail}
        if self.scim_type:
            error["scimType"] = self.scim_type
        return orjson.dumps(error)


@dataclass(frozen=True, slots=True)
class _Listing:
    """One page to be: the resources of `kind` at `rows`, from `start` (0-based) on."""

    kind: str
    rows: Sequence[int]
    start: int
    count: int
    members: bool
    cursor: bool
    whole: bool  # all resources, not the outcome of a filter


class PreparedScim:
    """A company as bytes, and the answers to SCIM requests about it."""

    def __init__(
        self, company: Organisation, base: str, *, paging: str = "index", user_page: int = 1000, group_page: int = 100
    ) -> None:
        self.base = base
        self.paging = paging
        self.page_cap = {"Users": user_page, "Groups": group_page}
        self.epoch = 0
        self._known: dict[str, tuple[Person | Team, bytes, bytes]] = {}
        self.load(company)

    # rendering

    def load(self, company: Organisation) -> None:
        """Render a company. What did not change since the one before is taken over."""
        self.company = company
        self.epoch += 1
        known: dict[str, tuple[Person | Team, bytes, bytes]] = {}
        for person in company.people:
            had = self._known.get(person.id)
            known[person.id] = had if had is not None and had[0] == person else self._render_person(person)
        for team in company.teams:
            had = self._known.get(team.id)
            known[team.id] = had if had is not None and had[0] == team else self._render_team(team)
        self._known = known
        users = [known[p.id] for p in company.people]
        groups = [known[t.id] for t in company.teams]
        self.users = [entry[1] for entry in users]
        self.groups = [entry[1] for entry in groups]
        as_member = np.array([entry[2] for entry in (*users, *groups)], dtype=object)
        members = np.concatenate([company.member_person, company.nest_child + len(users)])
        owners = np.concatenate([company.member_team, company.nest_parent])
        members = members[np.argsort(owners, kind="stable")]
        ends = np.cumsum(np.bincount(owners, minlength=len(groups))).tolist()
        starts = [0, *ends][: len(groups)]
        self.full_groups = [
            bare[:-1] + b',"members":[' + b",".join(as_member[members[start:end]].tolist()) + b"]}"
            for bare, start, end in zip(self.groups, starts, ends, strict=False)
        ]
        self._by: dict[tuple[str, str], dict[str, list[int]]] = {}
        self._pages: OrderedDict[_PageKey, bytes] = OrderedDict()
        self._page_bytes = 0

    def _render_person(self, person: Person) -> tuple[Person, bytes, bytes]:
        member = {
            "value": person.id,
            "type": "User",
            "$ref": f"{self.base}/Users/{person.id}",
            "display": person.display_name,
        }
        resource = scim_user(person)
        resource["meta"]["location"] = member["$ref"]
        return person, orjson.dumps(resource), orjson.dumps(member)

    def _render_team(self, team: Team) -> tuple[Team, bytes, bytes]:
        member = {
            "value": team.id,
            "type": "Group",
            "$ref": f"{self.base}/Groups/{team.id}",
            "display": team.name,
        }
        resource = scim_group(team)
        resource["meta"]["location"] = member["$ref"]
        return team, orjson.dumps(resource), orjson.dumps(member)

    # lookups

    def _index(self, kind: str, attribute: str) -> dict[str, list[int]]:
        """Value → places of the resources that have it, made at the first use."""
        key = (kind, attribute)
        if key not in self._by:
            index: dict[str, list[int]] = {}
            for value, place in self._values(kind, attribute):
                index.setdefault(value, []).append(place)
            self._by[key] = index
        return self._by[key]

    def _values(self, kind: str, attribute: str) -> Iterator[tuple[str, int]]:
        people, teams = self.company.people, self.company.teams
        if attribute in ("members.value", "groups.value"):
            pairs = [
                (people[p].id, t)
                for t, p in zip(self.company.member_team.tolist(), self.company.member_person.tolist(), strict=True)
            ]
            if attribute == "members.value":
                nestings = zip(self.company.nest_parent.tolist(), self.company.nest_child.tolist(), strict=True)
                yield from pairs
                yield from ((teams[child].id, parent) for parent, child in nestings)
            else:
                place = {p.id: k for k, p in enumerate(people)}
                yield from ((teams[t].id, place[person]) for person, t in pairs)
            return
        if kind == "Users":
            read = _USER_FIELDS[attribute]
            yield from ((read(p), k) for k, p in enumerate(people))
        else:
            field_of = _GROUP_FIELDS[attribute]
            yield from ((field_of(t), k) for k, t in enumerate(teams))

    def _filtered(self, kind: str, text: str) -> Sequence[int]:
        match = _FILTER.match(text)
        if match is None:
            raise ScimError(400, 'This server understands one comparison: attribute eq "value"', "invalidFilter")
        attribute = match[1].lower().replace(" ", "")
        attribute = attribute.removeprefix((USER_SCHEMA if kind == "Users" else GROUP_SCHEMA).lower() + ":")
        if attribute == 'emails[typeeq"work"].value':
            attribute = "emails.value"
        try:
            value = str(orjson.loads(match[2]))
        except orjson.JSONDecodeError:
            raise ScimError(400, f"Not a JSON string: {match[2]}", "invalidFilter") from None
        known = {*_USER_FIELDS, "groups.value"} if kind == "Users" else {*_GROUP_FIELDS, "members.value"}
        if attribute not in known:
            return ()  # RFC 7644: an attribute that nobody has matches nothing
        if attribute in _CASE_INSENSITIVE:
            value = value.lower()
        return self._index(kind, attribute).get(value, ())

    # answers

    def one(self, kind: str, key: str, members: bool) -> bytes:
        places = self._index(kind, "id").get(key)
        if not places:
            raise ScimError(404, f"Resource {key} not found")
        return self._resources(kind, members)[places[0]]

    def _resources(self, kind: str, members: bool) -> list[bytes]:
        if kind == "Users":
            return self.users
        return self.full_groups if members else self.groups

    def listing(self, kind: str, query: Mapping[str, str]) -> _Listing:
        total = len(self.users if kind == "Users" else self.groups)
        whole = "filter" not in query
        rows = range(total) if whole else self._filtered(kind, query["filter"])
        cap = self.page_cap[kind]
        count = min(max(_integer(query, "count", cap), 0), cap)
        by_cursor = self.paging == "cursor" or (self.paging == "both" and "cursor" in query)
        if by_cursor:
            start = self._open_cursor(query.get("cursor", ""), kind, query)
        else:
            start = max(_integer(query, "startIndex", 1), 1) - 1
        return _Listing(kind, rows, start, count, wants_members(query), by_cursor, whole)

    def page(self, listing: _Listing, query: Mapping[str, str], drop: int = 0, total: int | None = None) -> bytes:
        """A ListResponse; `drop` and `total` are for faults."""
        key = (listing.kind, listing.start, listing.count, listing.members, listing.cursor)
        plain = listing.whole and not drop and total is None
        if plain and (cached := self._pages.get(key)) is not None:
            self._pages.move_to_end(key)
            return cached
        end = min(listing.start + listing.count, len(listing.rows))
        resources = self._resources(listing.kind, listing.members)
        if listing.whole:
            chosen = resources[listing.start : end]
        else:
            chosen = [resources[row] for row in listing.rows[listing.start : end]]
        chosen = chosen[drop:]
        head: dict[str, Any] = {
            "schemas": [_LIST],
            "totalResults": len(listing.rows) if total is None else total,
            "itemsPerPage": len(chosen),
        }
        if not listing.cursor:
            head["startIndex"] = listing.start + 1
        elif end < len(listing.rows) and listing.count:
            head["nextCursor"] = self._cursor(listing.kind, end, query)
        body = b"".join([orjson.dumps(head)[:-1], b',"Resources":[', b",".join(chosen), b"]}"])
        if plain and len(body) < _CACHE_BYTES // 4:
            self._pages[key] = body
            self._page_bytes += len(body)
            while self._page_bytes > _CACHE_BYTES:
                self._page_bytes -= len(self._pages.popitem(last=False)[1])
        return body

    def _cursor(self, kind: str, start: int, query: Mapping[str, str]) -> str:
        bound = [self.epoch, kind, start, query.get("count", ""), query.get("filter", "")]
        return base64.urlsafe_b64encode(orjson.dumps(bound)).decode().rstrip("=")

    def _open_cursor(self, cursor: str, kind: str, query: Mapping[str, str]) -> int:
        if not cursor:
            return 0
        try:
            epoch, of_kind, start, count, condition = orjson.loads(
                base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            )
        except ValueError:
            raise ScimError(400, "Not a cursor of this server", "invalidCursor") from None
        if (of_kind, condition) != (kind, query.get("filter", "")):
            raise ScimError(400, "This cursor belongs to another query", "invalidCursor")
        if epoch != self.epoch:
            raise ScimError(400, "This cursor has expired", "expiredCursor")
        if count != query.get("count", ""):
            raise ScimError(400, "count changed between pages", "invalidCount")
        return int(start)

    def discovery(self, name: str) -> bytes | None:
        """The documents of RFC 7644 section 4, as far as a reader needs them."""
        if name == "ServiceProviderConfig":
            return orjson.dumps(
                {
                    "schemas": [_CONFIG],
                    "patch": {"supported": False},
                    "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
                    "filter": {"supported": True, "maxResults": self.page_cap["Users"]},
                    "changePassword": {"supported": False},
                    "sort": {"supported": False},
                    "etag": {"supported": False},
                    "pagination": {
                        "cursor": self.paging != "index",
                        "index": self.paging != "cursor",
                        "defaultPaginationMethod": "cursor" if self.paging == "cursor" else "index",
                        "defaultPageSize": self.page_cap["Users"],
                        "maxPageSize": self.page_cap["Users"],
                    },
                    "authenticationSchemes": [
                        {"type": "oauthbearertoken", "name": "Bearer token", "description": "RFC 6750"}
                    ],
                }
            )
        if name == "ResourceTypes":
            types: list[dict[str, Any]] = [
                {
                    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
                    "id": kind,
                    "name": kind,
                    "endpoint": f"/{kind}s",
                    "schema": schema,
                }
                for kind, schema in (("User", USER_SCHEMA), ("Group", GROUP_SCHEMA))
            ]
            types[0]["schemaExtensions"] = [{"schema": ENTERPRISE_SCHEMA, "required": False}]
            return _all_in_one(types)
        if name == "Schemas":
            return _all_in_one(
                [
                    {
                        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
                        "id": schema,
                        "name": schema.rpartition(":")[2],
                        "attributes": [
                            {"name": n, "type": "string", "multiValued": False, "required": False} for n in names
                        ],
                    }
                    for schema, names in (
                        (USER_SCHEMA, ("userName", "displayName", "title", "locale")),
                        (GROUP_SCHEMA, ("displayName",)),
                        (ENTERPRISE_SCHEMA, ("employeeNumber", "department")),
                    )
                ]
            )
        return None


_PageKey = tuple[str, int, int, bool, bool]

_FILTER: Final = re.compile(r'^\s*([\w.:$-]+(?:\[[^\]]*\])?(?:\.\w+)?)\s+eq\s+("(?:[^"\\]|\\.)*")\s*$', re.IGNORECASE)
_USER_FIELDS: Final[dict[str, Callable[[Person], str]]] = {
    "id": lambda p: p.id,
    "username": lambda p: p.username.lower(),
    "displayname": lambda p: p.display_name.lower(),
    "emails.value": lambda p: p.email.lower(),
}
_GROUP_FIELDS: Final[dict[str, Callable[[Team], str]]] = {
    "id": lambda t: t.id,
    "displayname": lambda t: t.name.lower(),
}
_CASE_INSENSITIVE: Final = ("username", "displayname", "emails.value")


def _all_in_one(resources: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({"schemas": [_LIST], "totalResults": len(resources), "Resources": resources})


def _integer(query: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(query.get(name) or default)
    except ValueError:
        raise ScimError(400, f"{name} is not a whole number", "invalidValue") from None


def wants_members(query: Mapping[str, str]) -> bool:
    """Whether groups are asked for with their members. Other projections are not made."""
    excluded = query.get("excludedAttributes", "").lower().replace(" ", "").split(",")
    wanted = query.get("attributes", "").lower().replace(" ", "").split(",")
    return "members" not in excluded and (wanted == [""] or any(w.startswith("members") for w in wanted))


# --- the server process ----------------------------------------------------------------------------


@dataclass
class _State:
    """What all connections share."""

    scim: PreparedScim
    token: str
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    last_page: dict[str, bytes] = field(default_factory=dict)
    """The page sent last, by kind of resource."""


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    status: int = 200
    kind: bytes = b"application/scim+json"
    headers: bytes = b""


_REASONS: Final = {200: b"OK", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found"}


class _Connection(asyncio.Protocol):
    def __init__(self, state: _State) -> None:
        self.state = state

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self.url = b""
        self.body = b""
        self.authorization = ""

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.authorization = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        target, body, authorization = self.url.decode("latin-1"), self.body, self.authorization
        self._begin()
        path, _, raw = target.partition("?")
        method = self.parser.get_method().decode()
        if path.startswith("/_sandbox/"):
            self._send(self._control(method, path, body))
            return
        query = dict(parse_qsl(raw, keep_blank_values=True))
        route = path.removeprefix(ROOT)
        self.state.counts[f"{method} {_label(route, query)}"] += 1
        fault = next((f for f in self.state.faults if f.fires(route)), None)
        if fault is not None and fault.kind == "reset":
            linger = struct.pack("ii", 1, 0)  # close sends RST instead of FIN
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
            return
        try:
            answer = self._answer(method, path, query, authorization, fault)
        except ScimError as error:
            extra = b"WWW-Authenticate: Bearer\r\n" if error.status == 401 else b""
            answer = _Answer(error.body(), error.status, headers=extra)
        if fault is not None and fault.kind == "slow":
            # No reading meanwhile: answers keep the order of the requests.
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(fault.seconds, self._send_late, answer)
        else:
            self._send(answer, cut=fault is not None and fault.kind == "cut")

    def _send_late(self, answer: _Answer) -> None:
        if not self.transport.is_closing():
            self._send(answer)
            self.transport.resume_reading()

    def _send(self, answer: _Answer, *, cut: bool = False) -> None:
        reason = _REASONS.get(answer.status, b"Status")
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n" % (
            answer.status,
            reason,
            answer.kind,
            len(answer.body),
            answer.headers,
        )
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        self.state.counts["bytes"] += len(body)
        if len(body) < 2**16:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(memoryview(body))  # what the socket does not take at once is copied once
        if cut or not self.parser.should_keep_alive():
            self.transport.close()

    def _answer(
        self, method: str, path: str, query: Mapping[str, str], authorization: str, fault: Fault | None
    ) -> _Answer:
        scim, kind_of_fault = self.state.scim, fault.kind if fault else ""
        if fault and kind_of_fault == "status":
            retry = f"Retry-After: {fault.retry_after}\r\n".encode() if fault.retry_after is not None else b""
            error = ScimError(fault.status, "A fault on demand")
            return _Answer(error.body(), fault.status, headers=retry)
        if kind_of_fault == "html":
            return _Answer(b"<!doctype html><title>Sign in</title><p>Please sign in.", kind=b"text/html")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip(), self.state.token):
            raise ScimError(401, "A bearer token is needed")
        parts = path.removeprefix(ROOT).strip("/").split("/")
        if not path.startswith(ROOT + "/") or len(parts) > 2:
            raise ScimError(404, f"No such path: {path}")
        if method != "GET":
            raise ScimError(501, "This server only reads")
        kind = parts[0]
        if kind not in ("Users", "Groups"):
            document = scim.discovery(kind) if len(parts) == 1 else None
            if document is None:
                raise ScimError(404, f"No such path: {path}")
            if "filter" in query:
                raise ScimError(403, "A filter is not allowed here")
            return _Answer(document)
        if len(parts) == 2:
            body = scim.one(kind, unquote(parts[1]), wants_members(query))
        else:
            body = self._page(kind, query, fault)
        return _Answer(body[: len(body) // 2] if kind_of_fault == "truncated" else body)

    def _page(self, kind: str, query: Mapping[str, str], fault: Fault | None) -> bytes:
        scim, last = self.state.scim, self.state.last_page
        if fault and fault.kind == "repeat" and kind in last:
            return last[kind]
        listing = scim.listing(kind, query)
        if fault and fault.kind == "drop":
            body = scim.page(listing, query, drop=fault.items)
        elif fault and fault.kind == "empty":
            total = len(listing.rows) if fault.total is None else fault.total
            body = scim.page(listing, query, drop=listing.count, total=total)
        else:
            body = scim.page(listing, query)
        last[kind] = body
        return body

    def _control(self, method: str, path: str, body: bytes) -> _Answer:
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
                    company = changed(state.scim.company, **(given or {}))
                    state.scim.load(company)
                    answer = {
                        "users": len(company.people),
                        "groups": len(company.teams),
                        "memberships": len(company.member_team),
                        "nestings": len(company.nest_parent),
                    }
                case _:
                    return _Answer(b'{"error":"no such path"}', 404, b"application/json")
        except (TypeError, ValueError) as error:
            return _Answer(orjson.dumps({"error": str(error)}), 400, b"application/json")
        return _Answer(orjson.dumps(answer), kind=b"application/json")


def _label(route: str, query: Mapping[str, str]) -> str:
    parts = route.strip("/").split("/")
    if len(parts) > 1:
        return f"/{parts[0]}/{{id}}"
    return f"/{parts[0]}?filter" if "filter" in query else f"/{parts[0]}"


async def serve(arguments: argparse.Namespace) -> None:
    """Listen, render, say so, and serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", arguments.port), backlog=512)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}{ROOT}"
    company = organisation(
        users=arguments.users,
        groups=arguments.groups,
        memberships=arguments.memberships,
        seed=arguments.seed,
    )
    if arguments.difficult:
        company = with_difficult(company)
    scim = PreparedScim(
        company, base, paging=arguments.paging, user_page=arguments.user_page, group_page=arguments.group_page
    )
    state = _State(scim, arguments.token)
    gc.collect()
    gc.freeze()  # the company stays for good: the collector need not walk it in the middle of an answer
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    if arguments.until_stdin_closes:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    await loop.create_server(lambda: _Connection(state), sock=listener)
    sys.stdout.write(f"listening on {base}\n")
    sys.stdout.flush()
    await stop.wait()


def with_difficult(company: Organisation) -> Organisation:
    """The company and everybody awkward."""
    cases = difficult(company.seed)
    return company.including(
        [person for case in cases for person in case.people], [team for case in cases for team in case.teams]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m deployments.sandbox.scim", description="A SCIM server.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--groups", type=int, default=25)
    parser.add_argument("--memberships", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--difficult", action="store_true", help="add awkward people and groups")
    parser.add_argument("--token", default="sandbox", help="the bearer token")
    parser.add_argument("--paging", choices=PAGING, default="index")
    parser.add_argument("--user-page", type=int, default=1000, help="most users in a page")
    parser.add_argument("--group-page", type=int, default=100, help="most groups in a page")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end with the process that started this one")
    asyncio.run(serve(parser.parse_args(argv)))
    sys.stdout.flush()
    os._exit(0)  # taking a company of 100,000 apart, object by object, takes longer than running it


# --- starting it -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunningScim:
    """A prepared server as its parent sees it."""

    url: str
    token: str
    process: subprocess.Popen[str]

    def counts(self) -> dict[str, int]:
        """Requests by route (`GET /Users`, `GET /Users?filter`, `GET /Groups/{id}`), and `bytes` sent."""
        counts: dict[str, int] = self._control("GET", "counts")
        return counts

    def reset_counts(self) -> None:
        self._control("POST", "reset-counts")

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the rules (see `Fault`); none means no more faults."""
        self._control("POST", "faults", list(rules))

    def faults_state(self) -> list[dict[str, Any]]:
        """The rules with how often each was `seen` to match, and `fired`."""
        state: list[dict[str, Any]] = self._control("GET", "faults")
        return state

    def change(self, **amounts: int) -> dict[str, int]:
        """Move on to `changed(company, **amounts)`; returns the new sizes."""
        sizes: dict[str, int] = self._control("POST", "change", amounts)
        return sizes

    def _control(self, method: str, name: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310
            f"{self.url.removesuffix(ROOT)}/_sandbox/{name}",
            method=method,
            data=None if body is None else orjson.dumps(body),
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return orjson.loads(answer.read())


@contextmanager
def prepared(
    *,
    users: int,
    groups: int,
    memberships: int,
    seed: int = 1,
    token: str = "sandbox",  # noqa: S107
    paging: str = "index",
    user_page: int = 1000,
    group_page: int = 100,
    difficult: bool = False,
) -> Iterator[RunningScim]:
    """A prepared server in a process of its own. Its company is `organisation(...)` of these arguments."""
    command = [sys.executable, "-m", "deployments.sandbox.scim", "--until-stdin-closes"]
    for name, value in {
        "users": users,
        "groups": groups,
        "memberships": memberships,
        "seed": seed,
        "token": token,
        "paging": paging,
        "user-page": user_page,
        "group-page": group_page,
    }.items():
        command += [f"--{name}", str(value)]
    if difficult:
        command.append("--difficult")
    root = Path(__file__).resolve().parents[2]
    with _process(
        subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the SCIM sandbox did not start (exit {process.wait()}): {line.strip()}")
        yield RunningScim(line.removeprefix("listening on ").strip(), token, process)


@contextmanager
def _process(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A `scim2-server` process."""

    url: str
    token: str
    process: subprocess.Popen[str]


@contextmanager
def scim2_server(*, token: str = "sandbox", port: int = 0) -> Iterator[RunningServer]:  # noqa: S107
    """The `scim2-server` package, empty, in a process of its own. It pages by index, and keeps all in memory."""
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("scim2-server")), "--port", str(port), "--bearer-token", token]
    url = f"http://127.0.0.1:{port}{ROOT}"
    with _process(
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)  # noqa: S603
    ) as process:
        deadline = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"scim2-server did not start on port {port} (exit {process.poll()})")
            time.sleep(0.05)
        yield RunningServer(url, token, process)


# --- filling a real server through SCIM ------------------------------------------------------------

_BULK_SIZE: Final = 500


def fill(url: str, token: str, company: Organisation) -> dict[str, str]:
    """Create everybody and every group; returns our id → the id that the server gave."""
    mapping: dict[str, str] = {}
    with _client(url, token) as client:
        _create_people(client, company.people, mapping)
        _create_teams(client, company, range(len(company.teams)), mapping)
    return mapping


def apply_change(
    url: str, token: str, before: Organisation, after: Organisation, mapping: Mapping[str, str]
) -> dict[str, str]:
    """Turn a server that holds `before` into one that holds `after`, a request per change.

    As identity providers do it: PATCH for `active` and for members, PUT for other changes of people,
    DELETE for leavers. Returns the mapping with the new ids, and without the leavers'.
    """
    mapping = dict(mapping)
    people = {p.id: p for p in before.people}
    teams = {t.id: t for t in before.teams}
    then, now = _members(before), _members(after)
    with _client(url, token) as client:
        _create_people(client, [p for p in after.people if p.id not in people], mapping)
        for person in after.people:
            had = people.pop(person.id, None)
            if had is None or had == person:
                continue
            target = f"/Users/{mapping[person.id]}"
            if had._replace(active=person.active) == person:
                _patch(client, target, [{"op": "replace", "path": "active", "value": person.active}])
            else:
                _sure(client.put(target, content=orjson.dumps(_for_server(person, mapping))))
        new = [k for k, t in enumerate(after.teams) if t.id not in teams]
        _create_teams(client, after, new, mapping)
        for team in after.teams:
            had_team = teams.pop(team.id, None)
            if had_team is None:
                continue
            operations: list[dict[str, Any]] = []
            if had_team.name != team.name:
                operations.append({"op": "replace", "path": "displayName", "value": team.name})
            operations += [
                {"op": "remove", "path": f'members[value eq "{mapping[member]}"]'}
                for member, _ in sorted(then[team.id] - now[team.id])
            ]
            if added := sorted(now[team.id] - then[team.id]):
                members = [{"value": mapping[member], "type": kind} for member, kind in added]
                operations.append({"op": "add", "path": "members", "value": members})
            if operations:
                _patch(client, f"/Groups/{mapping[team.id]}", operations)
        for kind, gone in (("Groups", teams), ("Users", people)):
            for key in gone:
                _sure(client.delete(f"/{kind}/{mapping.pop(key)}"))
    return mapping


def _client(url: str, token: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/scim+json"}
    return httpx.Client(base_url=url, headers=headers, timeout=60)


def _sure(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise RuntimeError(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text[:500]}"
        )
    return answer


def _patch(client: httpx.Client, path: str, operations: list[dict[str, Any]]) -> None:
    _sure(client.patch(path, content=orjson.dumps({"schemas": [_PATCH], "Operations": operations})))


def _members(company: Organisation) -> dict[str, set[tuple[str, str]]]:
    members: dict[str, set[tuple[str, str]]] = {team.id: set() for team in company.teams}
    teams, people = company.teams, company.people
    for t, p in zip(company.member_team.tolist(), company.member_person.tolist(), strict=True):
        members[teams[t].id].add((people[p].id, "User"))
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        members[teams[parent].id].add((teams[child].id, "Group"))
    return members


def _for_server(person: Person, mapping: Mapping[str, str]) -> dict[str, Any]:
    """The resource with the server's ids; a manager whom it does not know yet is left out."""
    resource = scim_user(person)
    resource.pop("id")
    resource.pop("meta")
    manager = mapping.get(person.manager)
    resource[ENTERPRISE_SCHEMA].pop("manager", None)
    if manager:
        resource[ENTERPRISE_SCHEMA]["manager"] = {"value": manager}
    return resource


def _create_people(client: httpx.Client, people: Sequence[Person], mapping: dict[str, str]) -> None:
    for start in range(0, len(people), _BULK_SIZE):
        chunk = people[start : start + _BULK_SIZE]
        # A manager made in the same request has no id yet, and is named by its bulkId.
        known = mapping | {p.id: f"bulkId:{p.id}" for p in chunk}
        _create(client, "/Users", {p.id: _for_server(p, known) for p in chunk}, mapping)


def _create_teams(client: httpx.Client, company: Organisation, chosen: Sequence[int], mapping: dict[str, str]) -> None:
    """Children first, so that a group's members exist, or come in the same request."""
    children: dict[int, list[int]] = {}
    for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
        children.setdefault(parent, []).append(child)
    order: list[int] = []
    seen: set[int] = set()

    def visit(k: int) -> None:
        if k not in seen:
            seen.add(k)
            for child in children.get(k, ()):
                visit(child)
            order.append(k)

    for k in chosen:
        visit(k)
    wanted = set(chosen)
    teams = [company.teams[k] for k in order if k in wanted]
    members = _members(company)
    for start in range(0, len(teams), _BULK_SIZE):
        chunk = teams[start : start + _BULK_SIZE]
        known = mapping | {t.id: f"bulkId:{t.id}" for t in chunk}
        resources = {
            t.id: {
                "schemas": [GROUP_SCHEMA],
                "displayName": t.name,
                "members": [{"value": known[member], "type": kind} for member, kind in sorted(members[t.id])],
            }
            for t in chunk
        }
        _create(client, "/Groups", resources, mapping)


def _create(client: httpx.Client, path: str, resources: Mapping[str, dict[str, Any]], mapping: dict[str, str]) -> None:
    operations = [
        {"method": "POST", "path": path, "bulkId": key, "data": resource} for key, resource in resources.items()
    ]
    answer = _sure(client.post("/Bulk", content=orjson.dumps({"schemas": [_BULK], "Operations": operations})))
    results = orjson.loads(answer.content)["Operations"]
    for result in results:
        if str(result["status"]) != "201":
            raise RuntimeError(f"POST {path} ({result.get('bulkId')}): {result}")
        mapping[result["bulkId"]] = result["location"].rpartition("/")[2]
    if missing := resources.keys() - mapping.keys():
        raise RuntimeError(f"POST {path}: {len(missing)} of {len(resources)} without an answer")


if __name__ == "__main__":
    main()
