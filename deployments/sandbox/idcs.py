"""Oracle IDCS, or an OCI IAM identity domain, as its REST documentation and SDK describe it.

https://docs.oracle.com/en/cloud/paas/iam-domains-rest-api/

Served: the token endpoint, and reads of `/admin/v1/Users` and `/admin/v1/Groups`: lists, `POST …/.search`, single
records, filters, sorting, projection by `attributes` and `attributeSets`, pages inside `members[…]`.

Beside the company there are always a service user, a user and a group that are being deleted (their ids start with
ff, so that they come last). Options beside `client_id` and `client_secret`:

| option | meaning |
|---|---|
| public_key | PEM: requests signed by this API key are taken, too |
| role | false: the application has no role, and every read is refused with `no_role` (403) |
| seconds | how long a token lasts, 3600 by default |
| members_cap | the most members in one answer, 10,000 by default; more fail with the status `too_many` (400) |
| strangers | the service user, and an application, are members of every group |
| restless | without `sortBy` every list comes in another order |
| limit, window | requests allowed in so many seconds (60) |

`AuditEvents` is not served: identity domains have told nothing new there since December 2024. Who signed in says so
himself, in `lastSuccessfulLoginDate`.

Not documented, and so chosen here: whether signing in changes `meta.lastModified` (it does not), message ids other than
that of the missing attribute, the statuses of too many members and of a missing role, the body of a 429 and that it
names no time to wait, that a `count` above 1000 is cut.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, overload

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from deployments.sandbox.happenings import Happenings
from deployments.sandbox.organisation import ENTERPRISE_SCHEMA, GROUP_SCHEMA, USER_SCHEMA, Organisation, Person, Team
from deployments.sandbox.server import Answer, Pages, Refusal, Request, Times, children_of, members_of

USER_EXTENSION: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:user:User"
STATE_EXTENSION: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:userState:User"
GROUP_EXTENSION: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:group:Group"
_LIST: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"
_ORACLE_ERROR: Final = "urn:ietf:params:scim:api:oracle:idcs:extension:messages:Error"
_SCOPE: Final = "urn:opc:idm:__myscopes__"
_CREATED: Final = "2025-03-01T08:00:00.000Z"
SERVICE_USER: Final = f"ff{1:030x}"
LEAVING_USER: Final = f"ff{2:030x}"
LEAVING_GROUP: Final = f"ff{3:030x}"

_ALWAYS: Final = {"Users": ("id", "userName"), "Groups": ("id", "displayName", "nonUniqueDisplayName")}
_DEFAULT: Final = {
    "Users": (
        *("schemas", "meta", "ocid", "deleteInProgress", "displayName", "name", "emails", "active", "title", "locale"),
        *("addresses", ENTERPRISE_SCHEMA, USER_EXTENSION, STATE_EXTENSION),
    ),
    "Groups": ("schemas", "meta", "ocid", "deleteInProgress", GROUP_EXTENSION),
}
_ON_REQUEST: Final = {"Users": "groups", "Groups": "members"}
_SUB_ALWAYS: Final = {"groups": {"value"}, "members": {"value", "ocid"}}
_SUB_REQUEST: Final = {
    "groups": {"type"},
    USER_EXTENSION: {"status"},
    STATE_EXTENSION: {"lastSuccessfulLoginDate"},
    GROUP_EXTENSION: {"creationMechanism"},
}
_SUBS: Final = {
    "groups": {"value", "ocid", "$ref", "display", "type"},
    "members": {"value", "ocid", "$ref", "display", "name", "type"},
    USER_EXTENSION: {"isFederatedUser", "serviceUser", "status"},
    STATE_EXTENSION: {"locked", "lastSuccessfulLoginDate"},
    GROUP_EXTENSION: {"description", "creationMechanism"},
}
_NOT_SEARCHABLE: Final = (
    "schemas",
    "meta.resourceType",
    "meta.location",
    "groups.display",
    "groups.$ref",
    "members.$ref",
)


def _hex(kind: str, key: str) -> str:
    found = blake2b(f"{kind} {key}".encode(), digest_size=16).hexdigest()
    return "e" + found[1:] if found[0] == "f" else found


def user_id(person: str) -> str:
    """The domain's id of the person with this id: 32 hex digits."""
    return _hex("user", person)


def group_id(team: str) -> str:
    """The domain's id of the team with this id."""
    return _hex("group", team)


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module`."""
    given = {"client_id": secrets.token_hex(16), "client_secret": f"idcscs-{secrets.token_hex(16)}"}
    _given.update(given)
    return given, {"client_secret": given["client_secret"]}


_given: dict[str, str] = {}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module`; the client id is that of the newest credentials."""
    return {"url": base, "client_id": _given.get("client_id", "")}


def emulator(base: str, options: Mapping[str, Any]) -> Idcs:
    """As `idp.Module`."""
    return Idcs(base, options)


class _Rows(Sequence[bytes]):
    """Records that are put together when their page is cut."""

    def __init__(self, order: Sequence[int], render: Callable[[Sequence[int]], list[bytes]]) -> None:
        self._order, self._render = order, render

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        return self._render(self._order[at]) if isinstance(at, slice) else self._render([self._order[at]])[0]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Attributes → sub-attributes, and the page inside `members` (first, how many)."""

    subs: Mapping[str, frozenset[str] | None]
    first: int = 1
    count: int | None = None


class _Type:
    """Users or groups: their records, and each attribute of all of them as text, made when it is first needed."""

    def __init__(self, name: str, records: list[dict[str, Any]]) -> None:
        self.name, self.records = name, records
        self.at = {record["id"]: at for at, record in enumerate(records)}
        self.order = sorted(range(len(records)), key=lambda at: records[at]["id"])
        self.more: Callable[[int], list[dict[str, Any]]] = lambda _: []
        """`groups` of a user, `members` of a group: made for filters."""
        self.parts: Callable[[int, _Wanted], bytes] = lambda _, __: b""
        """The same as text."""
        self._columns: dict[tuple[str, frozenset[str] | None], list[bytes]] = {}
        self._exact: dict[str, dict[str, set[int]]] = {}
        names = {*_ALWAYS[name], *_DEFAULT[name], _ON_REQUEST[name]}
        self.names = {one.lower(): one for one in names}
        for one in (*_ALWAYS[name], *_DEFAULT[name]):
            self._column(one, None)

    def _column(self, name: str, subs: frozenset[str] | None) -> list[bytes]:
        key = (name, subs)
        if key not in self._columns:
            if subs is None and name in _SUB_REQUEST:
                subs = frozenset(_SUBS[name] - _SUB_REQUEST[name])
            head = orjson.dumps(name) + b":"
            values = (record.get(name) for record in self.records)
            self._columns[key] = [
                b"" if (kept := _cut(value, subs)) is None else head + orjson.dumps(kept) for value in values
            ]
        return self._columns[key]

    def rows(self, wanted: _Wanted) -> Callable[[Sequence[int]], list[bytes]]:
        """A function: positions → records as text."""
        large = _ON_REQUEST[self.name]
        columns = [self._column(name, subs) for name, subs in wanted.subs.items() if name != large]

        def render(chosen: Sequence[int]) -> list[bytes]:
            found = []
            for at in chosen:
                parts = [column[at] for column in columns]
                if large in wanted.subs:
                    parts.append(self.parts(at, wanted))
                found.append(b"{" + b",".join(filter(None, parts)) + b"}")
            return found

        return render

    def equal(self, path: str, value: str) -> set[int]:
        """Positions of the records with this value, without regard to case."""
        if path not in self._exact:
            exact: dict[str, set[int]] = {}
            for at, record in enumerate(self.records):
                for one in _values(record, path):
                    exact.setdefault(str(one).lower(), set()).add(at)
            self._exact[path] = exact
        return self._exact[path].get(value.lower(), set())

    def path(self, given: str) -> str:
        """An attribute path as the schema spells it. Raises `KeyError`."""
        name, sub = _split(given)
        name = self.names[name.lower()]
        path = f"{name}.{sub}" if sub else name
        if path in _NOT_SEARCHABLE:
            raise KeyError(given)
        return path

    def whole(self, at: int, path: str) -> dict[str, Any]:
        """A record with all that a filter may look at."""
        large = _ON_REQUEST[self.name]
        return {**self.records[at], large: self.more(at)} if path.startswith(large) else self.records[at]


def _split(given: str) -> tuple[str, str]:
    """`name.givenName`, `urn:…:User:department` → name of the attribute (or extension), and of what is in it."""
    if given.lower().startswith("urn:"):
        for schema in (ENTERPRISE_SCHEMA, USER_EXTENSION, STATE_EXTENSION, GROUP_EXTENSION):
            if given.lower() == schema.lower():
                return schema, ""
            if given.lower().startswith(f"{schema.lower()}:"):
                return schema, given[len(schema) + 1 :]
        given = given.rpartition(":")[2]
    name, _, sub = given.partition(".")
    return name, sub


def _cut(value: Any, subs: frozenset[str] | None) -> Any:
    """A value with these sub-attributes only; None where nothing is left."""
    if subs is None or value is None:
        return value
    if isinstance(value, list):
        return [kept for one in value if (kept := _cut(one, subs))] or None
    return {name: one for name, one in value.items() if name in subs} or None if isinstance(value, dict) else value


def _values(record: Any, path: str) -> list[Any]:
    name, _, sub = path.rpartition(".") if not path.startswith("urn:") else _urn(path)
    way = [name, *sub.split(".")] if name else [path]
    found = [record]
    for step in way:
        after: list[Any] = []
        for one in found:
            value = one.get(step) if isinstance(one, dict) else None
            after += value if isinstance(value, list) else [] if value is None else [value]
        found = after
    return found


def _urn(path: str) -> tuple[str, str, str]:
    name, sub = next((s, path[len(s) + 1 :]) for s in _SUBS | {ENTERPRISE_SCHEMA: ()} if path.startswith(s))
    return (name, ".", sub) if sub else ("", "", "")


class Idcs:
    """The emulator."""

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        self._base, self._options = base, options
        self._times, self._pages, self._inside = Times(), Pages(), Pages(malformed=b'{"type":"User"}')
        self.happened = Happenings()
        self._token, self._until = "", 0.0
        self._window, self._calls, self._lists = 0.0, 0, 0
        key = load_pem_public_key(options["public_key"].encode()) if options.get("public_key") else None
        assert key is None or isinstance(key, RSAPublicKey)
        self._key = key

    def load(self, company: Organisation) -> None:
        """As `server.Emulator`."""
        self.company = company
        self._times.observe(company)
        self.happened.observe(company)
        signed = [one for one in self.happened.all if one.what == "sign-in" and one.person]
        self._signed_in = {one.person.id: one.at for one in signed if one.person}
        names = {person.id: person.display_name for person in company.people}
        people = [self._user(person, names) for person in company.people]
        teams = [self._group(team) for team in company.teams]
        people += [
            self._extra("User", SERVICE_USER, userName="backup-job", active=True, displayName="Backup")
            | {USER_EXTENSION: {"isFederatedUser": False, "serviceUser": True}},
            self._extra("User", LEAVING_USER, userName="leaving@acme.example", active=True, deleteInProgress=True),
        ]
        gone = "A group that is being deleted"
        teams.append(self._extra("Group", LEAVING_GROUP, displayName=gone, nonUniqueDisplayName=gone))
        teams[-1]["deleteInProgress"] = True
        self._users, self._groups = _Type("Users", people), _Type("Groups", teams)
        self._types = {"Users": self._users, "Groups": self._groups}
        self._join(company)

    def _join(self, company: Organisation) -> None:
        users, groups, children = self._users, self._groups, children_of(company)
        self._direct = [[users.at[user_id(one)] for one in ids] for ids in members_of(company)] + [[]]
        self._nested = [
            *([groups.at[group_id(child)] for child in children.get(team.id, ())] for team in company.teams),
            [],
        ]
        if self._options.get("strangers"):
            for members in self._direct[:-1]:
                members.append(users.at[SERVICE_USER])
        self._groups_of: list[list[tuple[int, str]]] | None = None
        self._member_texts: dict[frozenset[str] | None, tuple[list[bytes], list[bytes]]] = {}
        groups.more, groups.parts = self._members, self._members_text
        users.more, users.parts = self._groups_of_user, self._groups_text

    def _extra(self, kind: str, key: str, **more: Any) -> dict[str, Any]:
        schema = USER_SCHEMA if kind == "User" else GROUP_SCHEMA
        return {"id": key, "schemas": [schema], "ocid": _ocid(kind, key), "meta": self._meta(kind, key, None), **more}

    def _meta(self, kind: str, key: str, changed: datetime | None) -> dict[str, str]:
        moment = _moment(changed) if changed else _CREATED
        place = f"{self._base}/admin/v1/{kind}s/{key}"
        return {"resourceType": kind, "created": _CREATED, "lastModified": moment, "location": place}

    def _user(self, person: Person, names: Mapping[str, str]) -> dict[str, Any]:
        key = user_id(person.id)
        n = int(key[:8], 16)
        private = {
            "value": f"{person.username}@private.example",
            "type": "recovery",
            "primary": False,
            "verified": True,
        }
        work = {"value": person.email, "type": "work", "primary": True, "secondary": False, "verified": True}
        emails = [one for one in (private, work) if one["value"] and (n % 2 == 0 or one is work or not person.email)]
        enterprise: dict[str, Any] = {"employeeNumber": person.employee_number, "department": person.department}
        if person.manager in names:
            boss = user_id(person.manager)
            place = f"{self._base}/admin/v1/Users/{boss}"
            enterprise["manager"] = {"value": boss, "$ref": place, "displayName": names[person.manager]}
        status = "verified" if person.active or n % 3 else "pendingVerification"
        last = self._signed_in.get(person.id)
        state: dict[str, Any] = {"lastSuccessfulLoginDate": _moment(last) if last else _CREATED}
        if n % 5 == 0:  # a lock ends by itself: the person stays active
            state["locked"] = {"on": True, "reason": 0, "lockDate": _CREATED}
        record = {
            "schemas": [USER_SCHEMA, USER_EXTENSION, STATE_EXTENSION, ENTERPRISE_SCHEMA],
            "meta": self._meta("User", key, self._times.people[person.id]),
            "id": key,
            "ocid": _ocid("User", key),
            "userName": f"{person.username}@acme.example",
            "displayName": person.display_name,
            "name": {
                "formatted": person.display_name,
                "familyName": person.last_name,
                "givenName": person.first_name,
            },
            "emails": emails,
            "active": person.active,
            "title": person.title,
            "locale": person.locale,
            "addresses": [{"type": "work", "locality": person.location}] if person.location else None,
            ENTERPRISE_SCHEMA: {name: value for name, value in enterprise.items() if value},
            USER_EXTENSION: {"isFederatedUser": n % 4 == 0, "status": status},
            STATE_EXTENSION: state,
        }
        return {name: value for name, value in record.items() if value not in ("", None)}

    def _group(self, team: Team) -> dict[str, Any]:
        key = group_id(team.id)
        return {
            "schemas": [GROUP_SCHEMA, GROUP_EXTENSION],
            "meta": self._meta("Group", key, max(self._times.teams[team.id], self._times.members[team.id])),
            "id": key,
            "ocid": _ocid("Group", key),
            "displayName": team.name,
            "nonUniqueDisplayName": team.name,
            GROUP_EXTENSION: {"description": f"{team.kind} {team.about}".strip(), "creationMechanism": "api"},
        }

    # --- members -------------------------------------------------------------------------------

    def _member(self, kind: str, at: int) -> dict[str, Any]:
        record = self._types[f"{kind}s"].records[at]
        name = record["userName" if kind == "User" else "displayName"]
        return {
            "value": record["id"],
            "ocid": record["ocid"],
            "$ref": record["meta"]["location"],
            "display": record.get("displayName", name),
            "name": name,
            "type": kind,
        }

    def _members(self, at: int) -> list[dict[str, Any]]:
        users = [self._member("User", one) for one in self._direct[at]]
        return users + [self._member("Group", one) for one in self._nested[at]]

    def _members_text(self, at: int, wanted: _Wanted, request: Request | None = None) -> bytes:
        subs = wanted.subs["members"]
        if subs not in self._member_texts:
            self._member_texts[subs] = (
                [orjson.dumps(_cut(self._member("User", one), subs)) for one in range(len(self._users.records))],
                [orjson.dumps(_cut(self._member("Group", one), subs)) for one in range(len(self._groups.records))],
            )
        users, groups = self._member_texts[subs]
        direct, nested = self._direct[at], self._nested[at]
        number = len(direct) + len(nested)
        others = [b'{"value":"%032x","type":"App"}' % at] if self._options.get("strangers") and number else []

        def render(chosen: Sequence[int]) -> list[bytes]:
            return [
                users[direct[one]]
                if one < len(direct)
                else groups[nested[one - len(direct)]]
                if one < number
                else others[0]
                for one in chosen
            ]

        every = _Rows(range(number + len(others)), render)
        start, count = wanted.first - 1, len(every) if wanted.count is None else wanted.count
        if request is None:
            chosen = every[start : start + count]
        else:
            chosen = self._inside.cut(str(at), every, start, count, request)
        return b'"members":[' + b",".join(chosen) + b"]" if chosen else b""

    def _groups_of_all(self) -> list[list[tuple[int, str]]]:
        if self._groups_of is None:
            found: list[dict[int, str]] = [{} for _ in self._users.records]
            for group, members in enumerate(self._direct):
                for one in members:
                    found[one][group] = "direct"
            parents: dict[int, list[int]] = {}
            for group, nested in enumerate(self._nested):
                for one in nested:
                    parents.setdefault(one, []).append(group)
            for groups in found:
                waiting = list(groups)
                while waiting:
                    for parent in parents.get(waiting.pop(), ()):
                        if parent not in groups:
                            groups[parent] = "indirect"
                            waiting.append(parent)
            self._groups_of = [list(groups.items()) for groups in found]
        return self._groups_of

    def _groups_of_user(self, at: int) -> list[dict[str, Any]]:
        found = []
        for group, kind in self._groups_of_all()[at]:
            record = self._groups.records[group]
            place = record["meta"]["location"]
            found.append(
                {
                    "value": record["id"],
                    "ocid": record["ocid"],
                    "$ref": place,
                    "display": record["displayName"],
                    "type": kind,
                }
            )
        return found

    def _groups_text(self, at: int, wanted: _Wanted) -> bytes:
        subs = wanted.subs["groups"] or frozenset(_SUBS["groups"] - _SUB_REQUEST["groups"])
        kept = _cut(self._groups_of_user(at), subs)
        return b'"groups":' + orjson.dumps(kept) if kept else b""

    # --- requests ------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `server.Emulator`."""
        path = re.sub(r"(Users|Groups)/(?!\.search)[^/]+$", r"\1/{id}", request.path.removeprefix("/admin/v1"))
        return f"{request.method} {path}{'?filter' if 'filter' in request.query else ''}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `server.Emulator`."""
        return self._error(status, detail, f"error.common.http.{status}", headers)

    def _error(self, status: int, detail: str, message: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        body = {
            "schemas": [_ERROR, _ORACLE_ERROR],
            "detail": detail,
            "status": str(status),
            _ORACLE_ERROR: {"messageId": message},
        }
        return Answer(orjson.dumps(body), status, "application/scim+json", [*headers, *_traces()])

    def _refuse(self, status: int, detail: str, message: str) -> Refusal:
        return Refusal(self._error(status, detail, message))

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        if request.path == "/oauth2/v1/token":
            return self._grant(request)
        self._count()
        match = re.fullmatch(r"/admin/v1/(Users|Groups)(?:/([^/]+))?", request.path)
        if not match:
            return self.failure(404, "The requested resource was not found.")
        self._authorise(request)
        kind, key = match.groups()
        query: Mapping[str, str] = request.query
        if request.method == "POST" and key == ".search":
            query, key = self._searched(request), ""
        elif request.method != "GET":
            return self.failure(405, "Only reads are emulated.")
        return self._one(kind, key, request) if key else self._list(kind, query, request)

    def _count(self) -> None:
        if "limit" not in self._options:
            return
        now = time.monotonic()
        if now >= self._window:
            self._window, self._calls = now + self._options.get("window", 60), 0
        self._calls += 1
        if self._calls > self._options["limit"]:
            raise Refusal(self.failure(429, "Too many requests."))

    def _grant(self, request: Request) -> Answer:
        def no(status: int, error: str, why: str) -> Answer:
            return Answer(orjson.dumps({"error": error, "error_description": why, "ecid": _traces()[0][1]}), status)

        if request.method != "POST":
            return self.failure(405, "Method not allowed.")
        form, given = request.form(), request.headers.get("authorization", "")
        try:
            known = base64.b64decode(given.removeprefix("Basic "), validate=True).decode().partition(":")[::2]
        except (binascii.Error, UnicodeDecodeError):
            known = ("", "")
        if known != (self._options.get("client_id"), self._options.get("client_secret")):
            return no(401, "invalid_client", "Client authentication failed.")
        if form.get("grant_type") != "client_credentials":
            return no(400, "unsupported_grant_type", "The grant type is not allowed for this client.")
        if _SCOPE not in form.get("scope", "").split():
            return no(400, "invalid_scope", "The scope is missing or unknown.")
        lasts = self._options.get("seconds", 3600)
        self._token, self._until = secrets.token_urlsafe(64), time.monotonic() + lasts
        return Answer(orjson.dumps({"access_token": self._token, "token_type": "Bearer", "expires_in": lasts}))

    def _authorise(self, request: Request) -> None:
        if request.fails("expire"):
            self._until = 0.0
        given = request.headers.get("authorization", "")
        if given.startswith("Signature "):
            if not self._signed(request, given):
                raise self._refuse(401, "The signature does not fit the request.", "error.common.http.401")
        elif given != f"Bearer {self._token}" or not self._token or time.monotonic() >= self._until:
            raise self._refuse(401, "The access token is missing, unknown or ended.", "error.common.http.401")
        if not self._options.get("role", True):
            status = self._options.get("no_role", 403)
            raise self._refuse(status, "You are not authorized to do this operation.", "error.common.http.forbidden")

    def _signed(self, request: Request, given: str) -> bool:
        """An OCI request signature: RSA with SHA-256 over the headers that it names."""
        parts = dict(re.findall(r'(\w+)="([^"]*)"', given))
        lines = []
        for name in parts.get("headers", "").split():
            target = f"{request.method.lower()} {request.target}"
            lines.append(f"{name}: {target if name == '(request-target)' else request.headers.get(name, '')}")
        needed = {"date", "(request-target)", "host"} | (
            {"content-length", "content-type", "x-content-sha256"} if request.method == "POST" else set()
        )
        if self._key is None or not needed <= set(parts.get("headers", "").split()):
            return False
        try:
            signature = base64.b64decode(parts.get("signature", ""), validate=True)
            self._key.verify(signature, "\n".join(lines).encode(), PKCS1v15(), SHA256())
        except (binascii.Error, InvalidSignature):
            return False
        return len(parts.get("keyId", "").split("/")) == 3

    def _searched(self, request: Request) -> Mapping[str, str]:
        try:
            body = dict(orjson.loads(request.body))
        except (ValueError, TypeError):
            raise self._refuse(400, "The body is not a SearchRequest.", "error.common.validation.json") from None
        return {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in body.items() if k != "schemas"}

    # --- reading -------------------------------------------------------------------------------

    def _wanted(self, kind: _Type, query: Mapping[str, str]) -> _Wanted:
        subs: dict[str, set[str] | None] = dict.fromkeys(_ALWAYS[kind.name])
        sets = {one.strip().lower() for one in query.get("attributeSets", "").split(",") if one.strip()}
        named = [one.strip() for one in re.split(r",(?![^\[]*\])", query.get("attributes", "")) if one.strip()]
        if sets & {"default", "all"} or not (named or sets):
            subs.update(dict.fromkeys(_DEFAULT[kind.name]))
        if sets & {"request", "all"}:
            subs[_ON_REQUEST[kind.name]] = None
            subs.update({name: set(_SUBS[name]) for name in _SUB_REQUEST if name in kind.names.values()})
        first, count = 1, None
        for one in named:
            page = re.fullmatch(r"([^\[]+)\[([^\]]*)\]", one)
            if page:
                bounds = dict(part.split("=", 1) for part in page[2].split("&") if "=" in part)
                first = max(1, self._integer(bounds, "startIndex", 1))
                count = self._integer(bounds, "count", 50)
            name, sub = _split(page[1] if page else one)
            name = kind.names.get(name.lower(), "")
            if not name:
                continue  # an attribute that nobody knows is in no record
            if not sub:
                known = subs.get(name)
                plain = _SUBS.get(name, set()) - _SUB_REQUEST.get(name, set())
                subs[name] = None if known is None else known | plain
            elif name not in subs or subs[name] is not None:
                subs[name] = (subs.get(name) or set()) | {sub.partition(".")[0]} | _SUB_ALWAYS.get(name, set())
            elif sub in _SUB_REQUEST.get(name, ()):
                subs[name] = _SUBS[name] - _SUB_REQUEST[name] | {sub}
        return _Wanted({k: None if v is None else frozenset(v) for k, v in subs.items()}, first, count)

    def _integer(self, query: Mapping[str, str], name: str, default: int) -> int:
        try:
            return int(query.get(name, default))
        except ValueError:
            raise self._refuse(400, f"{name} is not a whole number.", "error.common.validation.integer") from None

    def _few(self, chosen: Iterable[int], wanted: _Wanted) -> None:
        """Refuses an answer with too many members."""
        if "members" not in wanted.subs:
            return
        most, number = self._options.get("members_cap", 10_000), 0
        for at in chosen:
            rest = max(0, len(self._direct[at]) + len(self._nested[at]) - wanted.first + 1)
            number += rest if wanted.count is None else min(rest, wanted.count)
        if number > most:
            told = f"The response has more than {most} members. Use startIndex and count to page them."
            raise self._refuse(self._options.get("too_many", 400), told, "error.common.validation.tooManyMembers")

    def _one(self, kind: str, key: str, request: Request) -> Answer:
        found, wanted = self._types[kind], self._wanted(self._types[kind], request.query)
        at = found.at.get(key.lower())
        if at is None:
            return self._error(404, f"{kind[:-1]} with ID {key} was not found.", "error.common.common.resourceNotFound")
        self._few([at], wanted)
        rest = replace(wanted, subs={name: subs for name, subs in wanted.subs.items() if name != "members"})
        body = found.rows(rest)([at])[0]
        if "members" in wanted.subs and (members := self._members_text(at, wanted, request)):
            body = body[:-1] + b"," + members + b"}"
        return Answer(body, kind="application/scim+json", headers=_traces())

    def _list(self, kind: str, query: Mapping[str, str], request: Request) -> Answer:
        found, wanted = self._types[kind], self._wanted(self._types[kind], query)
        start = max(1, self._integer(query, "startIndex", 1))
        count = self._integer(query, "count", 50)
        count = 50 if count < 0 else min(count, 1000)
        order = self._ordered(found, query)
        total = len(order)
        self._few(order[start - 1 : start - 1 + count], wanted)
        rows = self._pages.cut(kind, _Rows(order, found.rows(wanted)), start - 1, count, request)
        if request.fault is not None and request.fault.kind in ("empty", "total"):
            told = request.fault.total
            total = told if told is not None else total + request.fails("total")
        head = {"schemas": [_LIST], "totalResults": total}
        tail = {"startIndex": start, "itemsPerPage": count}
        body = orjson.dumps(head)[:-1] + b',"Resources":[' + b",".join(rows) + b"]," + orjson.dumps(tail)[1:]
        return Answer(body, kind="application/scim+json", headers=_traces())

    def _ordered(self, kind: _Type, query: Mapping[str, str]) -> Sequence[int]:
        condition, by = query.get("filter", ""), query.get("sortBy", "")
        if by.lower() in ("", "id"):
            order: Sequence[int] = kind.order if by else range(len(kind.records))
        else:
            try:
                path = kind.path(by)
            except KeyError:
                raise self._refuse(400, f"{by} cannot be sorted by.", "error.common.validation.sortBy") from None
            keys = [str(next(iter(_values(record, path)), "")).lower() for record in kind.records]
            order = sorted(range(len(keys)), key=keys.__getitem__)
        if condition:
            try:
                chosen = Filter(condition, kind).matching()
            except (ValueError, KeyError, IndexError):
                told = f"Invalid filter: {condition[:100]}"
                raise self._refuse(400, told, "error.common.validation.invalidFilter") from None
            order = sorted(chosen, key=lambda at: kind.records[at]["id"]) if by.lower() == "id" else [
                at for at in order if at in chosen
            ]  # fmt: skip
        if query.get("sortOrder", "").lower() == "descending":
            order = order[::-1]
        if self._options.get("restless") and not by and len(order):
            self._lists += 1
            turn = self._lists * 7 % len(order)
            order = [*order[turn:], *order[:turn]]
        return order


_TOKEN: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[()\[\]]|[^\s()\[\]"]+)')
_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "co": lambda a, b: b in a,
    "sw": lambda a, b: a.startswith(b),
    "ew": lambda a, b: a.endswith(b),
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}
_INDEXED: Final = ("id", "userName", "displayName", "emails.value")


class Filter:
    """A filter expression (RFC 7644 3.4.2.2) over users or groups. Raises `ValueError`, `KeyError`, `IndexError`."""

    def __init__(self, condition: str, kind: _Type) -> None:
        self._kind = kind
        self._tokens: list[str] = []
        at = 0
        while match := _TOKEN.match(condition, at):
            self._tokens.append(match[1])
            at = match.end()
        if condition[at:].strip():
            raise ValueError(condition)

    def matching(self) -> set[int]:
        """The positions of the records that fulfil it."""
        found = self._either("")
        if self._tokens:
            raise ValueError(self._tokens[0])
        return found

    def _next(self, *words: str) -> bool:
        if self._tokens and self._tokens[0].lower() in words:
            self._tokens.pop(0)
            return True
        return False

    def _either(self, within: str) -> set[int]:
        found = self._both(within)
        while self._next("or"):
            found = found | self._both(within)
        return found

    def _both(self, within: str) -> set[int]:
        found = self._single(within)
        while self._next("and"):
            found = found & self._single(within)
        return found

    def _single(self, within: str) -> set[int]:
        if self._next("not"):
            return set(range(len(self._kind.records))) - self._single(within)
        if self._next("("):
            found = self._either(within)
            if not self._next(")"):
                raise ValueError
            return found
        given = self._tokens.pop(0)
        if self._next("["):  # as if each condition were about the whole record: enough for one condition
            found = self._either(f"{given}.")
            if not self._next("]"):
                raise ValueError
            return found
        path, test = self._kind.path(within + given), self._tokens.pop(0).lower()
        if test == "pr":
            return {at for at in range(len(self._kind.records)) if _values(self._kind.whole(at, path), path)}
        wanted = orjson.loads(self._tokens.pop(0))
        if test == "eq" and path in _INDEXED:
            return self._kind.equal(path, str(wanted))
        known, wanted = _TESTS[test], _comparable(path, wanted)
        return {
            at
            for at in range(len(self._kind.records))
            if any(known(_comparable(path, value), wanted) for value in _values(self._kind.whole(at, path), path))
        }


def _comparable(path: str, value: Any) -> Any:
    if path in ("meta.lastModified", "meta.created"):
        return datetime.fromisoformat(value).astimezone(UTC)
    return value.lower() if isinstance(value, str) else value


def _moment(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ocid(kind: str, key: str) -> str:
    return f"ocid1.{kind.lower()}.oc1..aaaaaaaa{key}"


def _traces() -> list[tuple[str, str]]:
    return [("X-ORACLE-DMS-ECID", secrets.token_hex(11)), ("X-ORACLE-DMS-RID", "0:1")]
