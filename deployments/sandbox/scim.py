"""SCIM servers to read from: one prepared in memory for speed and faults, and one that we did not write.

`prepared` starts a process (`deployments.sandbox.idp`) that serves a generated company from bytes rendered once, so
that a bench measures the reader and not the server.

    GET  /v2/{Users,Groups}[?startIndex&count|cursor&count][&filter=… eq "…"][&excludedAttributes=members]
    GET  /v2/{Users,Groups}/{id}, /v2/{ServiceProviderConfig,ResourceTypes,Schemas}

`scim2_server` starts the `scim2-server` package; `fill` and `apply_change` put a company into it through
SCIM itself.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

import httpx
import numpy as np
import orjson

from deployments.process import ending, tied
from deployments.sandbox.idp import RunningIdp, running
from deployments.sandbox.organisation import (
    ENTERPRISE_SCHEMA,
    GROUP_SCHEMA,
    USER_SCHEMA,
    Organisation,
    Person,
    Team,
    scim_group,
    scim_user,
)
from deployments.sandbox.server import Answer, Refusal, Request

ROOT: Final = "/v2"
PAGING: Final = ("index", "cursor", "both")

SCIM_JSON: Final = "application/scim+json"
_LIST: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
_PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
_CONFIG: Final = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
_CACHE_BYTES: Final = 256 * 2**20


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
    """A company as bytes, and the answers to SCIM requests about it: a `server.Emulator`."""

    company: Organisation

    def __init__(
        self, base: str, *, token: str, paging: str = "index", user_page: int = 1000, group_page: int = 100
    ) -> None:
        self.base = base
        self.token = token
        self.paging = paging
        self.page_cap = {"Users": user_page, "Groups": group_page}
        self.epoch = 0
        self._known: dict[str, tuple[Person | Team, bytes, bytes]] = {}
        self._last_page: dict[str, bytes] = {}

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

    def label(self, request: Request) -> str:
        """`GET /Users`, `GET /Users?filter`, `GET /Groups/{id}`."""
        parts = request.path.removeprefix(ROOT).strip("/").split("/")
        if len(parts) > 1:
            return f"{request.method} /{parts[0]}/{{id}}"
        return f"{request.method} /{parts[0]}" + ("?filter" if "filter" in request.query else "")

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """An error as RFC 7644 3.12 has it."""
        return Answer(ScimError(status, detail).body(), status, SCIM_JSON, headers)

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        try:
            return Answer(self._answered(request), kind=SCIM_JSON)
        except ScimError as error:
            extra = [("WWW-Authenticate", "Bearer")] if error.status == 401 else []
            raise Refusal(Answer(error.body(), error.status, SCIM_JSON, extra)) from None

    def _answered(self, request: Request) -> bytes:
        path, query = request.path, request.query
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(token.strip(), self.token):
            raise ScimError(401, "A bearer token is needed")
        parts = path.removeprefix(ROOT).strip("/").split("/")
        if not path.startswith(ROOT + "/") or len(parts) > 2:
            raise ScimError(404, f"No such path: {path}")
        if request.method != "GET":
            raise ScimError(501, "This server only reads")
        kind = parts[0]
        if kind not in ("Users", "Groups"):
            document = self.discovery(kind) if len(parts) == 1 else None
            if document is None:
                raise ScimError(404, f"No such path: {path}")
            if "filter" in query:
                raise ScimError(403, "A filter is not allowed here")
            return document
        if len(parts) == 2:
            return self.one(kind, unquote(parts[1]), wants_members(query))
        return self._spoilt(kind, request)

    def _spoilt(self, kind: str, request: Request) -> bytes:
        """A page, or what a fault makes of it."""
        fault, last = request.fault, self._last_page
        if request.fails("repeat") and kind in last:
            return last[kind]
        listing = self.listing(kind, request.query)
        if fault and fault.kind == "drop":
            body = self.page(listing, request.query, drop=fault.items)
        elif fault and fault.kind == "empty":
            total = len(listing.rows) if fault.total is None else fault.total
            body = self.page(listing, request.query, drop=listing.count, total=total)
        elif fault and fault.kind == "total":
            body = self.page(listing, request.query, total=len(listing.rows) + 1)
        elif fault and fault.kind == "malformed":
            body = self.page(listing, request.query, spoil=True)
        else:
            body = self.page(listing, request.query)
        last[kind] = body
        return body

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

    def page(
        self,
        listing: _Listing,
        query: Mapping[str, str],
        drop: int = 0,
        total: int | None = None,
        spoil: bool = False,
    ) -> bytes:
        """A ListResponse; `drop`, `total` and `spoil` are for faults."""
        key = (listing.kind, listing.start, listing.count, listing.members, listing.cursor)
        plain = listing.whole and not drop and total is None and not spoil
        if plain and (cached := self._pages.get(key)) is not None:
            self._pages.move_to_end(key)
            return cached
        end = min(listing.start + listing.count, len(listing.rows))
        resources = self._resources(listing.kind, listing.members)
        if listing.whole:
            chosen = resources[listing.start : end]
        else:
            chosen = [resources[row] for row in listing.rows[listing.start : end]]
        chosen = [b'{"id":7}', *chosen[1:]] if spoil else chosen[drop:]
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


# --- the emulator ----------------------------------------------------------------------------------


def emulator(base: str, options: Mapping[str, Any]) -> PreparedScim:
    """As `idp.Module.emulator`; options: token, paging, user_page, group_page."""
    return PreparedScim(base + ROOT, **options)


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module.credentials`."""
    token = secrets.token_urlsafe()
    return {"token": token}, {"token": token}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module.settings`."""
    return {"url": base + ROOT}


# --- starting it -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunningScim:
    """A prepared server as its parent sees it: a `RunningIdp` whose `url` and fault paths start at `/v2`."""

    url: str
    token: str
    idp: RunningIdp

    @property
    def process(self) -> subprocess.Popen[str]:
        """The server's process."""
        return self.idp.process

    def counts(self) -> dict[str, int]:
        """Requests by route (`GET /Users`, `GET /Users?filter`, `GET /Groups/{id}`), and `bytes` sent."""
        return self.idp.counts()

    def reset_counts(self) -> None:
        """Count from zero."""
        self.idp.reset_counts()

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Replace the rules (see `server.Fault`); none means no more faults."""
        self.idp.faults(*({**rule, "path": ROOT + re.escape(rule.get("path", "/"))} for rule in rules))

    def faults_state(self) -> list[dict[str, Any]]:
        """The rules with how often each was `seen` to match, and `fired`."""
        return self.idp.faults_state()

    def change(self, **amounts: int) -> dict[str, int]:
        """Move on to `changed(company, **amounts)`; returns the new sizes."""
        return self.idp.change(**amounts)


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
    options = {"token": token, "paging": paging, "user_page": user_page, "group_page": group_page}
    with running(
        "scim", users=users, groups=groups, memberships=memberships, seed=seed, difficult=difficult, options=options
    ) as idp:
        yield RunningScim(idp.url + ROOT, token, idp)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A `scim2-server` process."""

    url: str
    token: str
    process: subprocess.Popen[str]


@contextmanager
def scim2_server(
    *,
    token: str = "sandbox",  # noqa: S107
    port: int = 0,
    tell: tuple[str, str] | None = None,
) -> Iterator[RunningServer]:
    """The `scim2-server` package, empty, in a process of its own. It pages by index, and keeps all in memory. It tells
    of changes to `tell`, an address and a secret (`scim_news`)."""
    if not port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
    entry = "deployments.sandbox.scim_news:main" if tell else "scim2_server.testserver.cli:main"
    command = tied(entry, "--port", str(port), "--bearer-token", token)
    env = {**os.environ, **(dict(zip(("SANDBOX_TELL", "SANDBOX_TELL_SECRET"), tell, strict=True)) if tell else {})}
    url = f"http://127.0.0.1:{port}{ROOT}"
    with ending(
        subprocess.Popen(  # noqa: S603
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
        )
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
