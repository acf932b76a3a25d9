"""Microsoft Entra ID: the parts of Microsoft Graph v1.0 about people and groups, and the token endpoint.

https://learn.microsoft.com/en-us/graph/api/overview

    POST /{tenant}/oauth2/v2.0/token
    GET  /v1.0/{users,groups}[/{id}], /v1.0/{users,groups}/delta, /v1.0/directory/deletedItems/microsoft.graph.{user,group}
    GET  /v1.0/groups/{id}/{members,transitiveMembers}, /v1.0/users/{id}/{memberOf,transitiveMemberOf}
    GET  /v1.0/servicePrincipals/{id}[/appRoleAssignedTo]
    POST /v1.0/$batch
         /v1.0/subscriptions[/{id}]  (`entra_subscriptions`)

Every third group, one person in ten, and a service principal are assigned to the application `APP`; nothing to
`OTHER_APP`. Options beside `client_secret`:

| option | meaning |
|---|---|
| certificate | PEM of the certificate whose key may sign client assertions (`certificate()`) |
| roles | the application permissions that were consented to; `ROLES` by default |
| seconds | how long a token lasts, 3599 by default |
| guests | one person in so many is a guest; none by default |
| sparse | every n-th page is empty and leads on to the real one |
| unsaid | one person in so many comes without a value of accountEnabled |
| hidden | one group in so many hides its members, who are listed only with Member.Read.Hidden |
| delta_page, delta_members | items a delta page (200), and of one group's members each time it is listed (1000) |
| delta_seconds | how long a delta token is known, 7 days by default |
| replay | what a delta says comes twice |
| minimal | a delta says only what changed, as if `Prefer: return=minimal` had been sent |
| contrary | whoever left a group or was deleted since is first said to be there, in the same round |
| limit, window | resource units allowed in so many seconds (10) |

Not documented, and so chosen here: the order of members, and that members who may not be seen are left out;
and that a link leads on in the list as it was when its first page was asked for.
"""  # noqa: E501

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

import jwt
import numpy as np
import orjson
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from deployments.sandbox.entra_subscriptions import Subscriptions
from deployments.sandbox.organisation import Organisation, Person, Team
from deployments.sandbox.server import Answer, Chains, Pages, Refusal, Request, children_of, members_of

TENANT: Final = "0f4f1ad8-6d20-4c3e-8c55-30b8a7a0c1de"
CLIENT: Final = "5b2f7d1e-7c58-4a1a-9a43-1d1d6d1f7a02"
APP: Final = "7a1c9c43-52c5-4bb4-8b52-0a6f4d0b9e11"
APP_OBJECT: Final = "c0a3a5f0-3d0e-4c2b-b0ce-6b7e6a6f2d33"
OTHER_APP: Final = "2f9b5c4e-9c07-4c39-8f0a-4f8d8f5f1c44"
ROLES: Final = ("User.Read.All", "GroupMember.Read.All", "Application.Read.All")

_DOMAIN: Final = "acme.example"
_MOST: Final = 999
_CREATED: Final = "2024-05-06T07:08:09Z"
_THIN: Final = (
    *("businessPhones", "displayName", "givenName", "id", "jobTitle", "mail", "mobilePhone", "officeLocation"),
    *("preferredLanguage", "surname", "userPrincipalName"),
)
_USER: Final = (
    *("id", "userPrincipalName", "accountEnabled", "displayName", "givenName", "surname", "mail", "otherMails"),
    *("proxyAddresses", "mailNickname", "onPremisesSamAccountName", "employeeId", "jobTitle", "department"),
    *("companyName", "officeLocation", "city", "businessPhones", "mobilePhone", "preferredLanguage", "userType"),
    *("externalUserState", "createdDateTime", "onPremisesExtensionAttributes"),
)
_GROUP: Final = (
    *("id", "displayName", "description", "mailNickname", "mail", "mailEnabled", "securityEnabled", "groupTypes"),
    *("visibility", "createdDateTime", "onPremisesSamAccountName"),
)
_SINGLE_ONLY: Final = frozenset(("aboutMe", "birthday", "hireDate", "interests", "mySite", "schools", "skills"))
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TERM: Final = r"\w+(?:/any\(\w+: ?\w+)? eq (?:'(?:[^']|'')*'|true|false|null)\)?"
_NAMED: Final = _TERM.replace(r"\w+", r"(?P<name>\w+)", 1).replace(r"(?:'(", r"(?P<value>'(", 1)
_CODES: Final = {
    400: "Request_BadRequest",
    401: "InvalidAuthenticationToken",
    403: "Authorization_RequestDenied",
    404: "Request_ResourceNotFound",
    410: "resyncRequired",
    424: "FailedDependency",
    429: "TooManyRequests",
    501: "NotImplemented",
    503: "serviceNotAvailable",
}
_PEOPLE: Final = ("User.Read.All", "Directory.Read.All")
_GROUPS: Final = ("GroupMember.Read.All", "Group.Read.All", "Directory.Read.All")
_APPS: Final = ("Application.Read.All", "Directory.Read.All")


def _number(key: str) -> int:
    return int(key.replace("-", "")[-12:], 16)


def _made(kind: str, key: str) -> str:
    return str(uuid.uuid5(uuid.UUID(TENANT), f"{kind} {key}"))


def upn(person: Person, guests: int = 0) -> str:
    """The userPrincipalName of a person where one in `guests` is a guest."""
    if is_guest(person, guests):
        return f"{(person.email or person.username).replace('@', '_')}#EXT#@acme.onmicrosoft.com"
    return f"{person.username}@{_DOMAIN}"


def is_guest(person: Person, guests: int) -> bool:
    """Whether this person is a guest where one in `guests` is."""
    return bool(guests) and _number(person.id) % guests == 0


def is_purged(key: str) -> bool:
    """Whether this person, when deleted, is so for good rather than for 30 days in the bin."""
    return _number(key) % 2 == 0


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module`."""
    secret = secrets.token_urlsafe(30)
    return {"client_secret": secret}, {"client_secret": secret}


def certificate() -> tuple[str, str]:
    """A new private key and its certificate, both PEM, for a client without a secret."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crowdsync")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = (
        made.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=9))
    )
    signed = made.sign(key, hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), signed.public_bytes(serialization.Encoding.PEM).decode()


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module`."""
    return {"url": base, "login_url": base, "tenant": TENANT, "client_id": CLIENT}


def emulator(base: str, options: Mapping[str, Any]) -> Entra:
    """As `idp.Module`."""
    return Entra(base, options)


Record = dict[str, Any]
Fields = tuple[str, ...]


@dataclass
class _Then:
    """What changed when one company followed another. Records are those of before; None: there was none."""

    at: float
    people: dict[str, Record | None] = field(default_factory=dict)
    teams: dict[str, Record | None] = field(default_factory=dict)
    members: dict[str, dict[str, bool]] = field(default_factory=dict)  # team → member → joined


class _Rows(Sequence[bytes]):
    """Objects as JSON, rendered when they are first shown."""

    def __init__(self, refs: Sequence[int], shown: dict[int, bytes], render: Callable[[int], bytes]) -> None:
        self._refs, self._shown, self._render = refs, shown, render

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, at: Any) -> Any:
        if not isinstance(at, slice):
            return self[at : at + 1][0]
        shown, render = self._shown, self._render
        refs = self._refs[at]
        for ref in refs:
            if ref not in shown:
                shown[ref] = render(ref)
        return [shown[ref] for ref in refs]


class Entra:
    """The emulator. Objects are known by a number: people first, then groups, then all others."""

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        self._base, self._options = base, options
        self._roles = frozenset(options.get("roles", ROLES))
        self._tokens: dict[str, float] = {}
        self._used: set[str] = set()
        self._until, self._units = 0.0, 0
        self._pages, self._member_pages, self._chains = Pages(), Pages(), Chains()
        self._history: list[_Then] = []
        self._bin: dict[str, tuple[str, Record]] = {}  # deleted people and groups: reason, last record
        self._rounds: dict[str, list[bytes]] = {}
        self._known: dict[str, Any] = {}
        self.subscriptions = Subscriptions(TENANT, CLIENT, base, self._roles, options, self._refuse)
        self._routes: list[tuple[re.Pattern[str], tuple[Fields, ...], int, Callable[..., Answer]]] = [
            (re.compile(pattern), needed, units, answer)
            for pattern, needed, units, answer in (
                (r"/users", (_PEOPLE,), 2, self._users),
                (r"/groups", (_GROUPS,), 1, self._groups),
                (r"/users/delta", (_PEOPLE,), 1, self._user_delta),
                (r"/groups/delta", (_GROUPS,), 1, self._group_delta),
                (r"/users/([^/]+)", (_PEOPLE,), 1, self._user),
                (r"/groups/([^/]+)", (_GROUPS,), 1, self._group),
                (r"/groups/([^/]+)/members", (_GROUPS,), 3, self._members),
                (r"/groups/([^/]+)/transitiveMembers(?:/(user|group))?", (_GROUPS,), 5, self._all_members),
                (r"/users/([^/]+)/memberOf(?:/(group))?", (_PEOPLE, _GROUPS), 2, self._member_of),
                (r"/users/([^/]+)/transitiveMemberOf(?:/(group))?", (_PEOPLE, _GROUPS), 5, self._all_member_of),
                (r"/servicePrincipals/([^/]+)", (_APPS,), 1, self._principal),
                (r"/servicePrincipals/([^/]+)/appRoleAssignedTo", (_APPS,), 1, self._assigned),
                (r"/directory/deletedItems(?:/(user|group))?", (_PEOPLE,), 1, self._deleted),
            )
        ]

    # --- the company ---------------------------------------------------------------------------

    def load(self, company: Organisation) -> None:
        """As `server.Emulator`."""
        people, teams = company.people, company.teams
        self.company = company
        self._at = {key: ref for ref, key in enumerate([*(p.id for p in people), *(t.id for t in teams)])}
        self._parents = {teams[ref].id for ref in company.nest_parent.tolist()}
        self._children = children_of(company)
        bounds = np.searchsorted(company.member_team, np.arange(1, max(len(teams), 1)))
        self._member_refs = np.split(company.member_person, bounds)
        self._others: list[Record] = []
        self._shown: dict[tuple[Any, ...], dict[int, bytes]] = {}
        self._indices: dict[str, dict[str, list[int]]] = {}
        self._whole: dict[tuple[str, str], list[int]] = {}
        self._compare(company)

    def _compare(self, company: Organisation) -> None:
        """Notes what a delta will have to say."""
        known: dict[str, Any] = {}
        then = _Then(time.time())
        everything: list[Person | Team] = [*company.people, *company.teams]
        for one in everything:
            known[one.id] = one
            before = self._known.get(one.id)
            if before != one:
                changed = then.people if isinstance(one, Person) else then.teams
                changed[one.id] = None if before is None else self._record_of(before)
        for team, members in zip(company.teams, members_of(company), strict=True):
            known[f"members {team.id}"] = now = [*members, *self._children.get(team.id, ())]
            was = self._known.get(f"members {team.id}", [])
            if was != now:
                joined = dict.fromkeys(set(now) - set(was), True)
                then.members[team.id] = {**dict.fromkeys(set(was) - set(now), False), **joined}
        for key in self._known.keys() - known.keys():
            if not key.startswith("members "):
                record = self._record_of(self._known[key])
                (then.people if isinstance(self._known[key], Person) else then.teams)[key] = record
                unified = "Unified" in record.get("groupTypes", ("Unified",))
                self._bin[key] = ("deleted" if is_purged(key) or not unified else "changed", record)
        for key in known:
            self._bin.pop(key, None)
        if not self._history:
            then.members = {}  # the first company is nobody's change
        self._history.append(then)
        self._known = known
        if not self.subscriptions.known:
            return
        purged = {key for key, (reason, _) in self._bin.items() if reason == "deleted"} - known.keys()
        people = [(key, key in purged) for key in then.people]
        self.subscriptions.tell(people, [(key, key in purged) for key in {**then.teams, **then.members}])

    def control(self, name: str, given: Any) -> Any:
        """As `server.Connection`: what there is, its end, and lifecycle events."""
        if name == "subscriptions":
            return list(self.subscriptions.known.values())
        if name == "unsubscribe":
            for key in given or list(self.subscriptions.known):
                self.subscriptions.known.pop(key, None)
        elif name == "lifecycle":
            self.subscriptions.lifecycle(str(given))
        else:
            raise ValueError(f"no such control: {name}")
        return {}

    def _record_of(self, one: Person | Team) -> Record:
        return self._person(one) if isinstance(one, Person) else self._team(one)

    def _person(self, person: Person) -> Record:
        """All that Graph says of one person."""
        guests = self._options.get("guests", 0)
        number, guest, name = _number(person.id), is_guest(person, guests), upn(person, guests)
        unsaid, address = self._options.get("unsaid", 0), person.email
        elsewhere = not guest and address and number % 10 == 0  # then the address is not in `mail`
        proxies = [f"smtp:{person.username}@old.{_DOMAIN}"]
        if not elsewhere or number % 20 == 0:
            proxies += [f"SMTP:{address}"] if address else []
        return {
            "id": person.id,
            "userPrincipalName": name,
            "accountEnabled": None if unsaid and number % unsaid == 0 else person.active,
            "displayName": person.display_name or name,
            "givenName": person.first_name or None,
            "surname": person.last_name or None,
            "mail": None if elsewhere else address or None,
            "otherMails": [address] if elsewhere and number % 20 else [],
            "proxyAddresses": proxies,
            "mailNickname": person.username,
            "onPremisesSamAccountName": person.username if len(person.username) <= 20 and not guest else None,
            "employeeId": person.employee_number or None,
            "jobTitle": person.title or None,
            "department": person.department or None,
            "companyName": "Acme",
            "officeLocation": person.location or None,
            "city": person.location or None,
            "businessPhones": [],
            "mobilePhone": None,
            "preferredLanguage": person.locale or None,
            "userType": "Guest" if guest else "Member",
            "externalUserState": ("Accepted" if person.active else "PendingAcceptance") if guest else None,
            "createdDateTime": _CREATED,
            "onPremisesExtensionAttributes": {"extensionAttribute1": person.location or None},
        }

    def _team(self, team: Team) -> Record:
        number = _number(team.id)
        kind = 0 if team.id in self._parents else number % 4  # a Microsoft 365 group holds no groups
        nickname = f"g{number % 10**9}"
        return {
            "id": team.id,
            "displayName": team.name,
            "description": f"Everybody in {team.about}" if number % 3 else None,
            "mailNickname": nickname,
            "mail": f"{nickname}@{_DOMAIN}" if kind % 2 else None,
            "mailEnabled": kind % 2 == 1,
            "securityEnabled": kind != 1,
            "groupTypes": [["Unified"], ["DynamicMembership"]][kind // 2 : kind // 2 + 1] if kind in (1, 2) else [],
            "visibility": "HiddenMembership" if self._hides(team) else ("Private" if kind == 1 else None),
            "createdDateTime": _CREATED,
            "onPremisesSamAccountName": None,
        }

    def _hides(self, team: Team) -> bool:
        hidden = self._options.get("hidden", 0)
        return bool(hidden) and _number(team.id) % hidden == 0

    def _object(self, ref: int) -> tuple[str, Record]:
        """Kind and record of an object."""
        people, teams = self.company.people, self.company.teams
        if ref < len(people):
            return "user", self._person(people[ref])
        if ref < len(people) + len(teams):
            return "group", self._team(teams[ref - len(people)])
        record = dict(self._others[ref - len(people) - len(teams)])
        return record.pop("kind"), record

    def _other(self, kind: str, key: str, name: str) -> int:
        """An object that is neither a person nor a group."""
        made = _made(kind, key)
        if made not in self._at:
            self._at[made] = len(self.company.people) + len(self.company.teams) + len(self._others)
            self._others.append({"kind": kind, "id": made, "displayName": name})
        return self._at[made]

    def _refs(self, team: Team) -> list[int]:
        """The direct members of a group."""
        if self._hides(team) and "Member.Read.Hidden" not in self._roles:
            return []
        at = self._at[team.id] - len(self.company.people)
        refs = []
        if _number(team.id) % 3 == 0:
            for kind in ("device", "orgContact", "servicePrincipal"):
                refs.append(self._other(kind, team.id, f"{kind} of {team.name}"))
        refs += [self._at[child] for child in self._children.get(team.id, ())]
        return refs + self._member_refs[at].tolist() if len(self._member_refs) else refs

    def _below(self, team: Team) -> list[int]:
        """Everything in a group and in the groups nested in it."""
        found: dict[int, None] = {}
        todo, first = [team], len(self.company.people)
        while todo:
            for ref in self._refs(todo.pop()):
                if ref not in found:
                    found[ref] = None
                    if first <= ref < first + len(self.company.teams):
                        todo.append(self.company.teams[ref - first])
        return list(found)

    def _above(self, ref: int, *, nested: bool) -> list[int]:
        """The groups (and what else has members) that an object is in."""
        first, company = len(self.company.people), self.company
        found: dict[int, None] = {}
        if ref < first:
            if _number(company.people[ref].id) % 4 == 0:
                found[self._other("directoryRole", "readers", "Directory Readers")] = None
                found[self._other("administrativeUnit", "hq", "Headquarters")] = None
            todo = [first + t for t in company.member_team[company.member_person == ref].tolist()]
        else:
            todo = [first + t for t in company.nest_parent[company.nest_child == ref - first].tolist()]
        while todo:
            one = todo.pop(0)
            if one not in found:
                found[one] = None
                if nested:
                    todo += [first + t for t in company.nest_parent[company.nest_child == one - first].tolist()]
        return list(found)

    # --- requests ------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `server.Emulator`."""
        path = re.sub(r"^/v1\.0", "", request.path)
        path = re.sub(r"^/[^/]+/oauth2", "/oauth2", path)
        path = re.sub(r"^/(users|groups|servicePrincipals|subscriptions)/(?!delta)[^/]+", r"/\1/{id}", path)
        return f"{request.method} {path}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `server.Emulator`."""
        return self._error(status, _CODES.get(status, "UnknownError"), detail, headers)

    def _error(self, status: int, code: str, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        inner = {
            "date": datetime.now(UTC).isoformat(timespec="seconds")[:19],
            "request-id": str(uuid.uuid4()),
            "client-request-id": str(uuid.uuid4()),
        }
        body = {"error": {"code": code, "message": detail, "innerError": inner}}
        return Answer(orjson.dumps(body), status, headers=headers)

    def _refuse(self, status: int, detail: str, code: str = "") -> Refusal:
        return Refusal(self._error(status, code or _CODES.get(status, "UnknownError"), detail))

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        if token := re.fullmatch(r"/([^/]+)/oauth2/v2\.0/token", request.path):
            return self._grant(request, token[1])
        if not request.path.startswith("/v1.0/"):
            return self.failure(404, "Invalid version")
        if request.fails("expire"):
            self._tokens.clear()
        given = re.fullmatch(r"Bearer (\S+)", request.headers.get("authorization", ""), re.IGNORECASE)
        if given is None or self._tokens.get(given[1], 0) <= time.monotonic():
            return self.failure(401, "Access token has expired or is not yet valid.")
        if request.path == "/v1.0/$batch":
            return self._batch(request)
        return self._one(request)

    def _one(self, request: Request) -> Answer:
        path = re.sub(r"/(?:microsoft\.)?graph\.", "/", request.path.removeprefix("/v1.0")).replace(
            "/delta()", "/delta"
        )
        path = re.sub(r"\((?:appId=)?'([^/]*?)'\)", lambda m: f"/={m[1]}" if "appId" in m[0] else f"/~{m[1]}", path)
        if re.fullmatch(r"/subscriptions(/[^/]+(/reauthorize)?)?", path):
            return self.subscriptions.answer(request, path)
        for pattern, needed, units, answer in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            headers = self._charge(units, request)
            if request.method != "GET":
                return self.failure(400, "Specified HTTP method is not allowed for the request target.")
            if not all(self._roles & set(any_of) for any_of in needed):
                return self.failure(403, "Insufficient privileges to complete the operation.")
            found = answer(request, *(None if part is None else unquote(part) for part in match.groups()))
            return Answer(found.body, found.status, found.kind, [*found.headers, *headers])
        return self._error(400, "BadRequest", f"Resource not found for the segment '{path.split('/')[1]}'.")

    def _charge(self, units: int, request: Request) -> list[tuple[str, str]]:
        limit, window = self._options.get("limit"), self._options.get("window", 10)
        units -= "$select" in request.query
        units -= request.query.get("$top", "20").isdigit() and int(request.query.get("$top", "20")) < 20
        units = max(1, units + ("$expand" in request.query))
        headers = [("x-ms-resource-unit", str(units))]
        if limit is None:
            return headers
        now = time.monotonic()
        if now >= self._until:
            self._until, self._units = now + window, 0
        if self._units + units > limit:
            wait = max(1, round(self._until - now))
            told = [
                ("Retry-After", str(wait)),
                ("x-ms-throttle-scope", "Application/Tenant/Read"),
                ("x-ms-throttle-information", "ResourceUnitLimitExceeded"),
            ]
            raise Refusal(self.failure(429, "Too many requests", told))
        self._units += units
        if self._units > 0.8 * limit:
            headers.append(("x-ms-throttle-limit-percentage", f"{self._units / limit:.2f}"))
        return headers

    def _batch(self, request: Request) -> Answer:
        if request.method != "POST":
            return self.failure(400, "Specified HTTP method is not allowed for the request target.")
        try:
            asked = orjson.loads(request.body)["requests"]
            ids = [str(one["id"]) for one in asked]
            for one in asked:
                if not isinstance(one["url"], str) or not isinstance(one["method"], str):
                    raise TypeError
        except (ValueError, KeyError, TypeError):
            return self._error(400, "BadRequest", "Invalid batch payload format.")
        if len(asked) > 20:
            return self._error(400, "BadRequest", "Number of batch request steps exceeds the maximum value of 20.")
        if len(set(ids)) != len(ids):
            return self._error(400, "BadRequest", "Request Id has to be unique in a batch.")
        done: dict[str, Answer] = {}
        for at, one in enumerate(asked):
            if any(done[k].status >= 400 for k in one.get("dependsOn") or () if k in done):
                done[ids[at]] = self.failure(424, "Failed Dependency")
                continue
            path, _, query = one["url"].partition("?")
            given = {str(k).lower(): str(v) for k, v in (one.get("headers") or {}).items()}
            part = Request(
                one["method"],
                f"/v1.0{path}",
                dict(parse_qsl(query, keep_blank_values=True)),
                given,
                b"",
                request.fault if at == 0 else None,
            )
            try:
                if not path.startswith("/"):
                    raise self._refuse(400, "Invalid batch payload format: url is not relative.", "BadRequest")
                if path.startswith("/subscriptions"):
                    raise self._refuse(400, "Subscriptions are not emulated in a batch.", "BadRequest")
                done[ids[at]] = self._one(part)
            except Refusal as refusal:
                done[ids[at]] = refusal.answer
        parts = [
            b'{"id":%s,"status":%d,"headers":%s,"body":%s}'
            % (
                orjson.dumps(key),
                found.status,
                orjson.dumps({**dict(found.headers), "Content-Type": found.kind}),
                found.body,
            )
            for key, found in reversed(done.items())  # in any order
        ]
        return Answer(b'{"responses":[' + b",".join(parts) + b"]}")

    # --- tokens --------------------------------------------------------------------------------

    def _grant(self, request: Request, tenant: str) -> Answer:
        form = request.form()
        if tenant.lower() not in (TENANT, _DOMAIN):
            return self._no_token(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
        if form.get("grant_type") != "client_credentials":
            return self._no_token(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if form.get("client_id") != CLIENT:
            told = f"Application with identifier '{form.get('client_id')}' was not found in the directory."
            return self._no_token(400, "unauthorized_client", 700016, told)
        if not re.fullmatch(
            r"https://graph\.microsoft\.com/\.default|http://127\.0\.0\.1:\d+/\.default", form.get("scope", "")
        ):
            return self._no_token(400, "invalid_scope", 1002012, "The provided value for scope is not valid.")
        if "client_assertion" in form:
            why = self._assertion(form, tenant)
            if why:
                return self._no_token(401, "invalid_client", 700027, f"Client assertion failed: {why}")
        elif form.get("client_secret") != self._options.get("client_secret"):
            return self._no_token(401, "invalid_client", 7000215, "Invalid client secret provided.")
        token, lasts = secrets.token_urlsafe(60), self._options.get("seconds", 3599)
        self._tokens[token] = time.monotonic() + lasts
        body = {"token_type": "Bearer", "expires_in": lasts, "ext_expires_in": lasts, "access_token": token}
        return Answer(orjson.dumps(body))

    def _assertion(self, form: Mapping[str, str], tenant: str) -> str:
        """What is wrong with a client assertion; "" if nothing."""
        pem = self._options.get("certificate")
        if not pem or form.get("client_assertion_type") != _ASSERTION:
            return "no certificate is registered, or client_assertion_type is another."
        known = x509.load_pem_x509_certificate(pem.encode())
        print_of = base64.urlsafe_b64encode(known.fingerprint(hashes.SHA256())).rstrip(b"=").decode()
        try:
            header = jwt.get_unverified_header(form["client_assertion"])
            key: Any = known.public_key()
            claims = jwt.decode(
                form["client_assertion"],
                key,
                algorithms=["PS256"],
                audience=f"{self._base}/{tenant}/oauth2/v2.0/token",
                options={"require": ["exp", "nbf", "iat", "jti", "iss", "sub", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            return f"{error}."
        if header.get("x5t#S256") != print_of or header.get("typ") != "JWT":
            return "the certificate with identifier used to sign it is not registered."
        if claims["iss"] != CLIENT or claims["sub"] != CLIENT or claims["jti"] in self._used:
            return "issuer, subject or token id."
        self._used.add(claims["jti"])
        return ""

    def _no_token(self, status: int, error: str, number: int, detail: str) -> Answer:
        body = {
            "error": error,
            "error_description": f"AADSTS{number}: {detail} Trace ID: {uuid.uuid4()}",
            "error_codes": [number],
            "timestamp": datetime.now(UTC).isoformat(" ", timespec="seconds")[:19] + "Z",
            "trace_id": str(uuid.uuid4()),
            "correlation_id": str(uuid.uuid4()),
        }
        return Answer(orjson.dumps(body), status)

    # --- lists ---------------------------------------------------------------------------------

    def _fields(self, request: Request, known: Iterable[str], default: Fields, kind: str, single: bool) -> Fields:
        said = request.query.get("$select")
        if said is None:
            return default
        fields, known = tuple(dict.fromkeys(one.strip() for one in said.split(","))), set(known)
        for name in fields:
            if name in _SINGLE_ONLY and not single:
                raise self._refuse(501, f"The property {name} cannot be selected in a collection.")
            if name not in known and name not in _SINGLE_ONLY:
                told = f"Could not find a property named '{name}' on type 'microsoft.graph.{kind}'."
                raise self._refuse(400, f"Parsing OData Select and Expand failed: {told}", "BadRequest")
        return fields

    def _show(self, refs: Sequence[int], fields: Fields | None, *, typed: bool) -> _Rows:
        def render(ref: int) -> bytes:
            kind, record = self._object(ref)
            names: Iterable[str] = fields if fields is not None else record
            if fields is None and kind == "user":
                names = _THIN
            shown = {name: record[name] for name in names if name in record}
            return orjson.dumps({"@odata.type": f"#microsoft.graph.{kind}", **shown} if typed else shown)

        return _Rows(refs, self._shown.setdefault((fields, typed), {}), render)

    def _advanced(self, request: Request) -> bool:
        eventual = request.headers.get("consistencylevel", "").lower() == "eventual"
        return eventual and request.query.get("$count") == "true"

    def _page(self, request: Request, rows: Sequence[bytes], what: str, most: int = _MOST) -> Answer:
        """One page. The place of the next one stands in its link."""
        query = request.query
        for name in ("$skip", "$expand", "$orderby", "$search"):
            if name in query and not (name in ("$orderby", "$search") and self._advanced(request)):
                raise self._refuse(400, f"'{name}' is not supported by the service.", "Request_UnsupportedQuery")
        top = query.get("$top", "100")
        if not top.isdigit() or not 1 <= int(top) <= most:
            raise self._refuse(400, f"Invalid page size specified: '{top}'. Must be between 1 and {most} inclusive.")
        count, start, leap, chain = int(top), 0, False, 0
        if "$skiptoken" in query:
            start, leap, chain = self._place(query["$skiptoken"])
            rows = self._chains[chain] if chain else rows
        sparse, number = self._options.get("sparse", 0), start // count
        hole = bool(sparse) and not leap and number % sparse == sparse - 1
        pages = self._member_pages if "embers" in request.path else self._pages
        chosen = () if hole else pages.cut(request.path, rows, start, count, request)
        more = hole or start + count < len(rows)
        chain = chain or (self._chains.begin(rows) if more else 0)
        after = (start if hole else start + count, hole, chain)
        link = self._link(request, after) if more else ""
        if request.fails("cursor"):
            link = self._link(request, (start, leap, chain))
        if request.fails("empty"):
            link = ""
        if request.fails("link") and request.fault is not None:
            link = request.fault.text
        head: Record = {"@odata.context": f"{self._base}/v1.0/$metadata#{what}"}
        if self._advanced(request) and "$skiptoken" not in query:
            head["@odata.count"] = len(rows) + request.fails("total")
        if link:
            head["@odata.nextLink"] = link
        return Answer(orjson.dumps(head)[:-1] + b',"value":[' + b",".join(chosen) + b"]}")

    def _place(self, token: str) -> tuple[int, bool, int]:
        try:
            start, leap, chain = orjson.loads(base64.urlsafe_b64decode(token.encode()))
            assert not chain or self._chains[chain] is not None
            return int(start), bool(leap), int(chain)
        except (binascii.Error, ValueError, TypeError):
            raise self._refuse(400, "Skip token is not valid.", "Directory_ExpiredPageToken") from None

    def _link(self, request: Request, place: tuple[int, bool, int]) -> str:
        token = base64.urlsafe_b64encode(orjson.dumps(place)).decode()
        kept = {name: value for name, value in request.query.items() if name != "$skiptoken"}
        query = "&".join(f"{name}={quote(value, safe=',')}" for name, value in {**kept, "$skiptoken": token}.items())
        return f"{self._base}{request.path}?{query}"

    def _filtered(self, request: Request, kind: str) -> Sequence[int]:
        """The people or groups that fulfil `$filter`: comparisons with `eq`, joined by `and` and `or`."""
        people, teams = len(self.company.people), len(self.company.teams)
        everybody = range(people) if kind == "user" else range(people, people + teams)
        said = request.query.get("$filter")
        if said is None:
            return everybody
        if re.search(r"\b(ne|not|endsWith)\b", re.sub(r"'[^']*'", "", said)) and not self._advanced(request):
            raise self._refuse(400, "Unsupported Query.", "Request_UnsupportedQuery")
        if not re.fullmatch(rf"{_TERM}(?: (?:and|or) {_TERM})*", said):
            raise self._refuse(400, "Invalid filter clause.")
        found: set[int] = set()
        matching: set[int] | None = None
        for match in re.finditer(rf"(?: (?P<joint>and|or) )?{_NAMED}", said):
            wanted = match["value"].removeprefix("'").removesuffix("'").replace("''", "'").lower()
            hits = set(self._index(kind, match["name"]).get(wanted, ()))
            if match["joint"] == "and" and matching is not None:
                matching &= hits
            else:
                found |= matching or set()
                matching = hits
        return sorted(found | (matching or set()))

    def _index(self, kind: str, name: str) -> dict[str, list[int]]:
        if f"{kind} {name}" not in self._indices:
            first = 0 if kind == "user" else len(self.company.people)
            everybody: Sequence[Person | Team] = self.company.people if kind == "user" else self.company.teams
            index: dict[str, list[int]] = {}
            for ref, one in enumerate(everybody, first):
                record = self._record_of(one)
                if name not in record:
                    raise self._refuse(400, f"Invalid filter clause: there is no property '{name}'.")
                value = record[name]
                for said in value if isinstance(value, list) else [value]:
                    key = said if isinstance(said, str) else orjson.dumps(said).decode()
                    index.setdefault(key.lower(), []).append(ref)
            self._indices[f"{kind} {name}"] = index
        return self._indices[f"{kind} {name}"]

    def _users(self, request: Request) -> Answer:
        fields = self._fields(request, _USER, _THIN, "user", False)
        return self._page(request, self._show(self._filtered(request, "user"), fields, typed=False), "users")

    def _groups(self, request: Request) -> Answer:
        fields = self._fields(request, _GROUP, _GROUP, "group", False)
        return self._page(request, self._show(self._filtered(request, "group"), fields, typed=False), "groups")

    # --- one object ----------------------------------------------------------------------------

    def _find(self, key: str, kind: str) -> int:
        """A person by id or userPrincipalName, or a group by id."""
        quoted = key.startswith("~")
        key = key.removeprefix("~").replace("''", "'") if quoted else key
        if key.startswith("$") and not quoted:
            raise self._refuse(400, "The request URI is not valid.", "BadRequest")
        people = len(self.company.people)
        ref = self._at.get(key.lower())
        if ref is not None and (ref < people) == (kind == "user") and ref < people + len(self.company.teams):
            return ref
        if kind == "user" and (refs := self._index("user", "userPrincipalName").get(key.lower())):
            return refs[0]
        raise self._refuse(404, f"Resource '{key}' does not exist or one of its queried reference-property objects.")

    def _user(self, request: Request, key: str) -> Answer:
        fields = self._fields(request, _USER, _THIN, "user", True)
        return self._alone(self._find(key, "user"), fields, "users")

    def _group(self, request: Request, key: str) -> Answer:
        fields = self._fields(request, _GROUP, _GROUP, "group", True)
        return self._alone(self._find(key, "group"), fields, "groups")

    def _alone(self, ref: int, fields: Fields, what: str) -> Answer:
        _, record = self._object(ref)
        head = {"@odata.context": f"{self._base}/v1.0/$metadata#{what}/$entity"}
        return Answer(orjson.dumps({**head, **{name: record.get(name) for name in fields}}))

    # --- members -------------------------------------------------------------------------------

    def _objects(self, request: Request, refs: list[int], cast: str | None) -> Answer:
        if (cast or "$filter" in request.query) and not self._advanced(request):
            raise self._refuse(400, "Request with OData cast needs ConsistencyLevel.", "Request_UnsupportedQuery")
        if cast:
            refs = [ref for ref in refs if self._kind(ref) == cast]
        known = {*_USER, *_GROUP}
        fields = self._fields(request, known, (), "directoryObject", False) if "$select" in request.query else None
        what = "directoryObjects" if cast is None else f"{cast}s"
        return self._page(request, self._show(refs, fields, typed=cast is None), what)

    def _kind(self, ref: int) -> str:
        people, teams = len(self.company.people), len(self.company.teams)
        if ref < people + teams:
            return "user" if ref < people else "group"
        return str(self._others[ref - people - teams]["kind"])

    def _kept(self, name: str, key: str, make: Callable[[], list[int]]) -> list[int]:
        if (name, key) not in self._whole:
            self._whole[name, key] = make()
        return self._whole[name, key]

    def _team_at(self, key: str) -> Team:
        return self.company.teams[self._find(key, "group") - len(self.company.people)]

    def _members(self, request: Request, key: str) -> Answer:
        team = self._team_at(key)
        return self._objects(request, self._kept("members", team.id, lambda: self._refs(team)), None)

    def _all_members(self, request: Request, key: str, cast: str | None) -> Answer:
        team = self._team_at(key)
        return self._objects(request, self._kept("below", team.id, lambda: self._below(team)), cast)

    def _member_of(self, request: Request, key: str, cast: str | None) -> Answer:
        ref = self._find(key, "user")
        return self._objects(request, self._above(ref, nested=False), cast)

    def _all_member_of(self, request: Request, key: str, cast: str | None) -> Answer:
        ref = self._find(key, "user")
        return self._objects(request, self._above(ref, nested=True), cast)

    def _principal(self, _: Request, key: str) -> Answer:
        app = self._app(key)
        name = {APP: "Atlassian", OTHER_APP: "Intranet"}[app]
        return Answer(
            orjson.dumps({"id": APP_OBJECT if app == APP else _made("app", app), "appId": app, "displayName": name})
        )

    def _app(self, key: str) -> str:
        if key in (f"={APP}", APP_OBJECT):
            return APP
        if key in (f"={OTHER_APP}", _made("app", OTHER_APP)):
            return OTHER_APP
        raise self._refuse(404, f"Resource '{key.lstrip('=')}' does not exist.")

    def _assigned(self, request: Request, key: str) -> Answer:
        rows: list[bytes] = []
        if self._app(key) == APP:
            principals = [("Group", t.id, t.name) for t in assigned_teams(self.company)]
            principals += [("User", p.id, p.display_name) for p in assigned_people(self.company)]
            principals.append(("ServicePrincipal", _made("servicePrincipal", "robot"), "Robot"))
            rows = [
                orjson.dumps(
                    {
                        "id": _made("assignment", one),
                        "appRoleId": str(uuid.UUID(int=0)),
                        "principalType": kind,
                        "principalId": one,
                        "principalDisplayName": name,
                        "resourceId": APP_OBJECT,
                        "resourceDisplayName": "Atlassian",
                    }
                )
                for kind, one, name in principals
            ]
        return self._page(request, rows, "appRoleAssignments")

    def _deleted(self, request: Request, cast: str | None) -> Answer:
        if cast is None:
            raise self._refuse(400, "The type of the deleted objects has to be specified.")
        rows = [
            orjson.dumps({"id": key, "displayName": record["displayName"]})
            for key, (reason, record) in self._bin.items()
            if reason == "changed" and ("accountEnabled" in record) == (cast == "user")
        ]
        return self._page(request, rows, f"{cast}s")

    # --- deltas --------------------------------------------------------------------------------

    def _user_delta(self, request: Request) -> Answer:
        return self._delta(request, "user", _USER, _THIN)

    def _group_delta(self, request: Request) -> Answer:
        return self._delta(request, "group", (*_GROUP, "members"), (*_GROUP, "members"))

    def _delta(self, request: Request, kind: str, known: Fields, default: Fields) -> Answer:
        query = request.query
        for name in ("$top", "$expand", "$orderby", "$search", "$skip"):
            if name in query:
                raise self._refuse(400, f"'{name}' is not supported in a delta query.", "Request_UnsupportedQuery")
        minimal = "return=minimal" in request.headers.get("prefer", "") or bool(self._options.get("minimal"))
        now = len(self._history)
        state: Record = {"kind": kind, "since": 0, "to": now, "at": 0, "issued": time.time()}
        token = query.get("$skiptoken") or query.get("$deltatoken")
        latest = token == "latest"  # noqa: S105
        if token is not None and not latest:
            state = self._state(token, kind)
            if "$skiptoken" not in query:
                state.update(to=now, at=0)
        else:
            state["fields"] = self._fields(request, known, default, kind, False)
        items = [] if latest else self._round(state, kind, minimal)
        count, at = self._options.get("delta_page", 200), state["at"]
        chosen = self._pages.cut(request.path, items, at, count, request)
        path = re.sub(r"/(?:microsoft\.)?(?:graph\.)?delta(?:\(\))?$", "/delta", request.path)
        follow = {**state, "at": at + count} if at + count < len(items) else None
        if request.fails("cursor"):
            follow = state
        if request.fails("empty"):
            follow = None
        if follow is not None:
            name, link = "@odata.nextLink", f"$skiptoken={self._token(follow)}"
        else:
            ended = {**state, "since": state["to"], "at": 0, "issued": time.time()}
            name, link = "@odata.deltaLink", f"$deltatoken={self._token(ended)}"
        link = f"{self._base}{path}?{link}"
        if request.fails("link") and request.fault is not None:
            link = request.fault.text
        head = {"@odata.context": f"{self._base}/v1.0/$metadata#{kind}s/$delta", name: link}
        return Answer(orjson.dumps(head)[:-1] + b',"value":[' + b",".join(chosen) + b"]}")

    def _token(self, state: Record) -> str:
        return base64.urlsafe_b64encode(orjson.dumps(state)).decode().rstrip("=")

    def _state(self, token: str, kind: str) -> Record:
        try:
            state: Record = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            if state["kind"] != kind or state["to"] > len(self._history):
                raise KeyError
        except (binascii.Error, ValueError, KeyError, TypeError):
            raise self._refuse(400, "The sync state is not known.", "syncStateNotFound") from None
        if time.time() - state["issued"] >= self._options.get("delta_seconds", 7 * 86400):
            again = [("Location", f"{self._base}/v1.0/{kind}s/delta?$deltatoken=")]
            raise Refusal(self._error(410, "resyncRequired", "Resync is required.", again))
        return state

    def _round(self, state: Record, kind: str, minimal: bool) -> list[bytes]:
        """The items of a whole round, kept while it is read."""
        key = hashlib.sha256(orjson.dumps([kind, state["since"], state["to"], state["fields"], minimal])).hexdigest()
        if key not in self._rounds:
            while len(self._rounds) > 4:
                self._rounds.pop(next(iter(self._rounds)))
            items = [orjson.dumps(item) for item in self._changed(state, kind, minimal)]
            if self._options.get("replay"):
                items = items + items[::-1]
            self._rounds[key] = items
        return self._rounds[key]

    def _changed(self, state: Record, kind: str, minimal: bool) -> list[Record]:
        since, fields = state["since"], state["fields"]
        was: dict[str, Record | None] = {}
        joined: dict[str, dict[str, bool]] = {}
        for then in self._history[since : state["to"]]:
            for key, before in (then.people if kind == "user" else then.teams).items():
                was.setdefault(key, before)
            for team, members in then.members.items():
                joined.setdefault(team, {}).update(members)
        if since == 0:
            joined = {
                t.id: dict.fromkeys([self._id(r) for r in self._refs(t) if self._id(r)], True)
                for t in (self.company.teams if kind == "group" else ())
            }
        items: list[Record] = []
        touched = {**was, **dict.fromkeys(joined)} if kind == "group" and "members" in fields else was
        for key in touched:
            if key not in self._at:
                if key in self._bin:
                    if self._options.get("contrary"):
                        items.append(
                            {name: self._bin[key][1].get(name) for name in ("id", *fields) if name != "members"}
                        )
                    items.append({"id": key, "@removed": {"reason": self._bin[key][0]}})
                continue
            _, record = self._object(self._at[key])
            before = was.get(key) if key in was else record
            old = before or {}
            new = {name: record[name] for name in fields if name in record}
            changed = [name for name in new if new[name] != old.get(name)]
            members = joined.get(key, {}) if "members" in fields else {}
            if before is not None and not changed and not members:
                continue  # nothing that was selected
            shown = {n: v for n, v in new.items() if (v not in (None, [])) or old.get(n) not in (None, [])}
            if minimal and before is not None:
                shown = {name: new[name] for name in changed}
            items += self._slices({"id": key, **shown}, members)
        return items

    def _slices(self, item: Record, members: Mapping[str, bool]) -> list[Record]:
        """A group as often as it takes to say who joined and left."""
        said = [
            {
                "@odata.type": f"#microsoft.graph.{self._kind_of(member)}",
                "id": member,
                **({} if here else {"@removed": {"reason": "deleted"}}),
            }
            for member, here in members.items()
        ]
        if self._options.get("contrary"):
            said = [{"@odata.type": one["@odata.type"], "id": one["id"]} for one in said if "@removed" in one] + said
        size = self._options.get("delta_members", 1000)
        parts = [said[at : at + size] for at in range(0, len(said), size)]
        return [{**item, "members@delta": part} for part in parts] or [item]

    def _id(self, ref: int) -> str:
        people, teams = len(self.company.people), len(self.company.teams)
        if ref < people + teams:
            return self.company.people[ref].id if ref < people else self.company.teams[ref - people].id
        return str(self._others[ref - people - teams]["id"])

    def _kind_of(self, key: str) -> str:
        if key in self._at:
            return self._kind(self._at[key])
        return "user" if "accountEnabled" in self._bin.get(key, ("", {"accountEnabled": True}))[1] else "group"


def assigned_teams(company: Organisation) -> list[Team]:
    """The groups that are assigned to `APP`."""
    return company.teams[::3]


def assigned_people(company: Organisation) -> list[Person]:
    """The people who are assigned to `APP` themselves."""
    return [person for person in company.people if _number(person.id) % 10 == 1]
