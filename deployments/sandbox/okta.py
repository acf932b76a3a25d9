"""Okta's management API, as its documentation and SDK describe it.

https://developer.okta.com/docs/api/openapi/okta-management/guides/overview/

A company's teams are groups: some were made in Okta, some imported (`APP_GROUP`), and `Everyone` holds everybody.
Every second team is assigned the application `APP`, and one person in 16 has it without any group.

Options beside those of `credentials`:

| option | meaning |
|---|---|
| scopes | what the service app was granted, all three reading ones by default; else 400 `invalid_scope` |
| role | false: nobody gave the app or the token's owner an admin role: 403 |
| dpop | true: the token endpoint insists on a DPoP proof |
| seconds | how long an access token lasts, 3600 by default |
| users_cap, members_cap | the most users and group members a page, 200 and 1000 by default |
| short | true: pages are shorter than asked for, as they may be |
| joined_links | true: the `Link` headers come as one line, as through some proxies |
| public | the address that clients see, where that is not the emulator's own |
| hide_deprovisioned | true: lists of members leave deactivated people out |
| search_lag | true: `search` looks into the company before the last change |
| status, app_status | one user in 50 has this `status`, or assignments of the app, whatever it means |
| limit, window | calls allowed in so many seconds (60) |
| crowded | every n-th call comes while too many others run: 429 with a limit of 0 |

The system log answers polling queries only, without `filter`. Not documented, and so chosen here: that a `limit` of
users or members above the maximum is cut to it, and the words of errors; and that a cursor leads on in the list as it
was when its first page was asked for.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import jwt
import numpy as np
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployments.sandbox.happenings import Happening, Happenings
from deployments.sandbox.organisation import Organisation, Person, Team
from deployments.sandbox.server import Answer, Chains, Pages, Refusal, Request, Times

_LETTERS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SCOPES: Final = ("okta.users.read", "okta.groups.read", "okta.apps.read")
_CREATED: Final = "2025-03-01T08:00:00.000Z"
_ERRORS: Final = {
    400: ("E0000001", "Api validation failed"),
    401: ("E0000011", "Invalid token provided"),
    403: ("E0000006", "You do not have permission to perform the requested action"),
    404: ("E0000007", "Not found: Resource not found"),
    405: ("E0000022", "The endpoint does not support the provided HTTP method"),
    429: ("E0000047", "API call exceeded rate limit due to too many requests."),
}
_TOKEN: Final = re.compile(r'\s*(\(|\)|"(?:[^"\\]|\\.)*"|[^\s()"]+)')


def _key(kind: str, name: str) -> str:
    number, letters = int.from_bytes(blake2b(f"{kind} {name}".encode(), digest_size=16).digest()), ""
    for _ in range(17):
        number, at = divmod(number, len(_LETTERS))
        letters += _LETTERS[at]
    return kind + letters


def user_id(person: str) -> str:
    """Okta's id of the person with this id."""
    return _key("00u", person)


def group_id(team: str) -> str:
    """Okta's id of the group that stands for the team with this id."""
    return _key("00g", team)


APP: Final = _key("0oa", "Jira")
EVERYONE: Final = _key("00g", "Everyone")


def _number(key: str) -> int:
    return blake2b(key.encode(), digest_size=1).digest()[0]


def status_of(person: Person) -> str:
    """The account's `status`. LOCKED_OUT and PROVISIONED are a matter of opinion."""
    n = _number(user_id(person.id))
    if person.active:
        return {0: "PASSWORD_EXPIRED", 1: "RECOVERY", 2: "LOCKED_OUT"}.get(n % 12, "ACTIVE")
    return ("DEPROVISIONED", "SUSPENDED", "STAGED", "PROVISIONED")[n % 4]


def type_of(team: Team) -> str:
    """OKTA_GROUP, or APP_GROUP for what was imported."""
    return "OKTA_GROUP" if _number(group_id(team.id)) % 4 else "APP_GROUP"


def has_app(group: str) -> bool:
    """Whether a group, by Okta's id, is assigned `APP`."""
    return _number(group) % 2 == 0


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module`: an API token, and a service app with a key."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    token, client_id, key_id = f"00{secrets.token_urlsafe(30)}", _key("0oa", secrets.token_hex(8)), secrets.token_hex(8)
    _given.update(client_id=client_id, key_id=key_id)
    options = {"token": token, "client_id": client_id, "key_id": key_id, "public_key": public}
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return options, {"token": token, "private_key": pem}


_given: dict[str, str] = {}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module`, for the service app of the newest credentials."""
    return {"url": base, **_given}


def emulator(base: str, options: Mapping[str, Any]) -> Okta:
    """As `idp.Module`."""
    return Okta(base, options)


class _View:
    """Records as they are at a time: ids, rendered rows, and the values of one field at a time, for filters."""

    def __init__(self, ids: list[str], rows: list[bytes], field: Callable[[str, int], Any]) -> None:
        self.ids, self.rows, self.at = ids, rows, {key: n for n, key in enumerate(ids)}
        self._field = field
        self._columns: dict[str, list[Any]] = {}
        self._chosen: dict[tuple[str, bool], list[bytes]] = {}

    def column(self, name: str) -> list[Any]:
        """A field of all records."""
        if name not in self._columns:
            self._columns[name] = [self._field(name, n) for n in range(len(self.ids))]
        return self._columns[name]

    def matching(self, expression: str, allowed: Mapping[str, str] | None) -> list[bytes]:
        """The records that a filter (`allowed`: field → operators) or a search (None) finds. Raises ValueError."""
        key = expression, allowed is None
        if key not in self._chosen:
            tokens = _TOKEN.findall(expression)
            if not re.fullmatch(rf"(?:{_TOKEN.pattern})+\s*", expression):
                raise ValueError(expression)
            found = self._any(tokens, allowed)
            if tokens:
                raise ValueError(tokens)
            self._chosen[key] = [self.rows[n] for n in sorted(found)]
        return self._chosen[key]

    def _any(self, tokens: list[str], allowed: Mapping[str, str] | None) -> set[int]:
        found = self._all(tokens, allowed)
        while tokens and tokens[0].lower() == "or":
            tokens.pop(0)
            found |= self._all(tokens, allowed)
        return found

    def _all(self, tokens: list[str], allowed: Mapping[str, str] | None) -> set[int]:
        found = self._one(tokens, allowed)
        while tokens and tokens[0].lower() == "and":
            tokens.pop(0)
            found &= self._one(tokens, allowed)
        return found

    def _one(self, tokens: list[str], allowed: Mapping[str, str] | None) -> set[int]:
        if tokens[:1] == ["("]:
            tokens.pop(0)
            found = self._any(tokens, allowed)
            if tokens[:1] != [")"]:
                raise ValueError(tokens)
            tokens.pop(0)
            return found
        name, operator, value, *tokens[:] = (*tokens, "", "", "") if len(tokens) < 3 else tokens
        operator, said = operator.lower(), str(orjson.loads(value)) if value.startswith('"') else ""
        times = name in ("lastUpdated", "lastMembershipUpdated", "created", "statusChanged", "activated")
        operators = "eq sw gt ge lt le" if allowed is None else allowed.get(name, "")
        if allowed is None and name in ("profile.firstName", "profile.lastName", "profile.email", "profile.login"):
            operators += " co"
        if operator not in operators.split() or not value.startswith('"'):
            raise ValueError(name, operator)
        if times:
            said = _iso(datetime.fromisoformat(said))
        fold = str.lower if allowed is None else str  # a search ignores case, a filter does not
        test = _OPERATORS[operator]
        sought = fold(said)
        return {n for n, v in enumerate(self.column(name)) if isinstance(v, str) and test(fold(v), sought)}


_OPERATORS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "eq": str.__eq__,
    "sw": str.startswith,
    "co": str.__contains__,
    "gt": str.__gt__,
    "ge": str.__ge__,
    "lt": str.__lt__,
    "le": str.__le__,
}
_USER_FILTER: Final = {
    **dict.fromkeys(("status", "id", "profile.login", "profile.email", "profile.firstName", "profile.lastName"), "eq"),
    "lastUpdated": "eq gt ge lt le",
}
_GROUP_FILTER: Final = {
    **dict.fromkeys(("id", "type"), "eq"),
    **dict.fromkeys(("lastUpdated", "lastMembershipUpdated"), "eq gt ge lt le"),
}


class Okta:
    """The emulator."""

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        self._base, self._options = options.get("public") or base, options
        self._times, self.happened = Times(), Happenings()
        self._pages, self._chains = Pages(), Chains()
        self._tokens: dict[str, tuple[float, frozenset[str]]] = {}
        self._window, self._calls, self._all = 0.0, 0, 0
        self._everyone_at, self._everyone = datetime.now(UTC), frozenset[str]()
        self._users: _View | None = None
        self._routes: list[tuple[re.Pattern[str], str, Callable[..., Answer]]] = [
            (re.compile(pattern), f"okta.{scope}.read", answer)
            for pattern, scope, answer in (
                (r"/api/v1/users", "users", self._list_users),
                (r"/api/v1/users/([^/]+)", "users", self._get_user),
                (r"/api/v1/users/([^/]+)/groups", "users", self._user_groups),
                (r"/api/v1/logs", "logs", self._logs),
                (r"/api/v1/groups", "groups", self._list_groups),
                (r"/api/v1/groups/([^/]+)", "groups", self._get_group),
                (r"/api/v1/groups/([^/]+)/users", "groups", self._members),
                (r"/api/v1/apps/([^/]+)/users", "apps", self._app_users),
                (r"/api/v1/apps/([^/]+)/users/([^/]+)", "apps", self._app_user),
                (r"/api/v1/apps/([^/]+)/groups", "apps", self._app_groups),
            )
        ]

    # --- the company ---------------------------------------------------------------------------

    def load(self, company: Organisation) -> None:
        """As `server.Emulator`."""
        self.company = company
        self._times.observe(company)
        self.happened.observe(company)
        people, teams = company.people, company.teams
        before = self._users
        ids = [user_id(person.id) for person in people]
        self._at_person = {person.id: n for n, person in enumerate(people)}
        statuses = [self._status(n, person) for n, person in enumerate(people)]
        rows = [
            orjson.dumps(self._user(key, person, status))
            for key, person, status in zip(ids, people, statuses, strict=True)
        ]

        def user_field(name: str, n: int) -> Any:
            if name.startswith("profile."):
                return self._profile(people[n]).get(name[8:])
            return {"id": ids[n], "status": statuses[n]}.get(name) or self._user_times(people[n]).get(name)

        self._users = self._searched = _View(ids, rows, user_field)
        if before is not None and self._options.get("search_lag"):
            self._searched = before
        self._statuses = statuses
        self._present = [row for row, status in zip(rows, statuses, strict=True) if status != "DEPROVISIONED"]
        self._logins: dict[str, int] = {}
        short: dict[str, int | None] = {}
        for n, person in enumerate(people):
            login = _folded(_login(person))
            self._logins.setdefault(login, n)
            name = login.partition("@")[0]
            short[name] = None if name in short else n
        self._shortnames = {name: n for name, n in short.items() if n is not None}

        now = frozenset(ids)
        if now != self._everyone:  # as `Times`: at the start, a day ago
            self._everyone_at = datetime.now(UTC) - (timedelta() if self._everyone else timedelta(days=1))
            self._everyone = now
        group_ids = [*(group_id(team.id) for team in teams), EVERYONE]
        bounds = np.searchsorted(company.member_team, np.arange(1, max(len(teams), 1)))
        self._member_at = [*np.split(company.member_person, bounds)][: len(teams)]
        self._member_at.append(np.arange(len(people), dtype=np.int32))
        records = [self._group(n, team) for n, team in enumerate([*teams, None])]

        def group_field(name: str, n: int) -> Any:
            value: Any = records[n]
            for step in name.split("."):
                value = value.get(step) if isinstance(value, dict) else None
            return value

        self._groups = _View(group_ids, [orjson.dumps(record) for record in records], group_field)
        hidden = {"DEPROVISIONED"} if self._options.get("hide_deprovisioned") else set()
        self._member_rows: dict[int, list[bytes]] = {}
        self._hidden = hidden
        self._assigned: list[tuple[int, str]] | None = None
        self._assigned_rows: dict[bool, list[bytes]] = {}

    def _status(self, n: int, person: Person) -> str:
        return str(self._options["status"]) if n % 50 == 7 and "status" in self._options else status_of(person)

    def _profile(self, person: Person) -> dict[str, Any]:
        named = _number(person.id) % 3 > 0
        known = {
            "email": person.email,
            "department": person.department,
            "employeeNumber": person.employee_number,
            "locale": person.locale,
        }
        return {
            "firstName": person.first_name or None,
            "lastName": person.last_name or None,
            "mobilePhone": None,
            "secondEmail": None,
            "login": _login(person),
            "displayName": (person.display_name or None) if named else None,
            "title": person.title or None,
            "city": person.location or None,
            "managerId": user_id(person.manager) if person.manager else None,
            **{name: value for name, value in known.items() if value},  # these are never null
            "tools": ["git", "vim"] if named else [],
        }

    def _user_times(self, person: Person) -> dict[str, Any]:
        at = _iso(self._times.people[person.id])
        return {"created": _CREATED, "activated": _CREATED, "statusChanged": _CREATED, "lastUpdated": at}

    def _user(self, key: str, person: Person, status: str) -> dict[str, Any]:
        signed_in = status not in ("STAGED", "PROVISIONED")
        return {
            "id": key,
            "status": status,
            **self._user_times(person),
            "lastLogin": _CREATED if signed_in else None,
            "passwordChanged": _CREATED if signed_in else None,
            "type": {"id": "oty1a2b3c4d5e6f7g8h9"},
            "profile": self._profile(person),
            "credentials": {"provider": {"type": "OKTA", "name": "OKTA"}},
            "_links": {"self": {"href": f"{self._base}/api/v1/users/{key}"}},
        }

    def _group(self, n: int, team: Team | None) -> dict[str, Any]:
        """A team's group, or Everyone."""
        key = group_id(team.id) if team else EVERYONE
        name, kind = (team.name, type_of(team)) if team else ("Everyone", "BUILT_IN")
        profile: dict[str, Any] = {"name": name}
        if n % 3 == 0:
            profile["description"] = f"Group {name}"
        what = "okta:user_group"
        if kind == "APP_GROUP":
            what = "okta:windows_security_principal"
            name_there = f"CN={name},OU=Groups,DC=acme,DC=example"
            profile |= {"samAccountName": name, "windowsDomainQualifiedName": f"ACME\\{name}", "dn": name_there}
        at = f"{self._base}/api/v1/groups/{key}"
        return {
            "id": key,
            "created": _CREATED,
            "lastUpdated": _iso(self._times.teams[team.id]) if team else _CREATED,
            "lastMembershipUpdated": _iso(self._times.members[team.id] if team else self._everyone_at),
            "objectClass": [what],
            "type": kind,
            "profile": profile,
            "_links": {"users": {"href": f"{at}/users"}, "apps": {"href": f"{at}/apps"}},
        }

    # --- requests ------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `server.Emulator`."""
        path = re.sub(r"/(users|groups|apps)/[^/]+", r"/\1/{id}", request.path)
        return f"{request.method} {path}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `server.Emulator`."""
        code, summary = _ERRORS.get(status, ("E0000009", "Internal Server Error"))
        if status == 429:
            now = time.time()
            told = [("X-Rate-Limit-Limit", "600"), ("X-Rate-Limit-Remaining", "0")]
            headers = [*told, ("X-Rate-Limit-Reset", str(math.ceil(now + 1))), ("Date", _http_date(now)), *headers]
            detail = ""
        return _error(status, code, summary, detail, headers)

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        if request.path == "/oauth2/v1/token":
            return self._grant(request)
        if "%2f" in request.path.lower():  # logins with a slash are found by id only
            return self.failure(400, "An encoded slash in the path")
        headers = self._counted()
        for pattern, scope, answer in self._routes:
            if match := pattern.fullmatch(request.path):
                self._authorise(request, scope)
                if request.method != "GET":
                    return self.failure(405, "")
                found = answer(request, *map(unquote, match.groups()))
                return Answer(found.body, found.status, found.kind, [*headers, *found.headers])
        return self.failure(404, f"{request.path} (Path)")

    def _counted(self) -> list[tuple[str, str]]:
        """The headers of a call that is let through."""
        limit, window = self._options.get("limit", 10_000), self._options.get("window", 60)
        now = time.time()
        if now >= self._window:
            self._window, self._calls = now + window, 0
        self._calls += 1
        self._all += 1
        crowded = "crowded" in self._options and self._all % self._options["crowded"] == 0
        left = max(0, limit - self._calls) if "limit" in self._options else limit - 1
        headers = [
            ("Date", _http_date(now)),
            ("X-Okta-Request-Id", secrets.token_urlsafe(18)),
            ("X-Rate-Limit-Limit", "0" if crowded else str(limit)),
            ("X-Rate-Limit-Remaining", "0" if crowded else str(left)),
            ("X-Rate-Limit-Reset", str(math.ceil(self._window))),
        ]
        if crowded or ("limit" in self._options and self._calls > limit):
            raise Refusal(_error(429, *_ERRORS[429], "", headers))
        return headers

    def _grant(self, request: Request) -> Answer:
        """client_credentials with private_key_jwt, the only way to Okta's own scopes."""
        form = request.form()
        if request.method != "POST" or "form" not in request.headers.get("content-type", ""):
            return self.failure(405, "")
        if form.get("grant_type") != "client_credentials":
            return _refused(400, "unsupported_grant_type", "The authorization grant type is not supported.")
        if form.get("client_assertion_type") != _JWT_BEARER:
            return _refused(401, "invalid_client", "Client authentication must be private_key_jwt.")
        url, client = f"{self._base}/oauth2/v1/token", self._options.get("client_id", "")
        try:
            given = form.get("client_assertion", "")
            kid = jwt.get_unverified_header(given).get("kid", self._options.get("key_id"))
            claims = jwt.decode(
                given,
                self._options.get("public_key", ""),
                algorithms=["RS256", "RS384", "RS512"],
                audience=url,
                issuer=client,
                options={"require": ["exp", "iss", "sub", "aud"]},
            )
            if kid != self._options.get("key_id") or claims["sub"] != client or claims["exp"] > time.time() + 3600:
                raise jwt.InvalidTokenError
        except jwt.PyJWTError:
            return _refused(401, "invalid_client", "The client_assertion token is not valid.")
        if form.get("client_id", client) != client:
            return _refused(401, "invalid_client", "Another client_id than the assertion's.")
        if self._options.get("dpop") and not request.headers.get("dpop"):
            nonce = [("dpop-nonce", secrets.token_urlsafe(12))]
            return _refused(400, "use_dpop_nonce", "Authorization server requires nonce in DPoP proof.", nonce)
        scopes = form.get("scope", "").split()
        if not scopes or not set(scopes) <= set(self._options.get("scopes", _SCOPES)):
            return _refused(400, "invalid_scope", "One or more scopes are not configured for the client.")
        token, lasts = secrets.token_urlsafe(60), self._options.get("seconds", 3600)
        self._tokens[token] = time.monotonic() + lasts, frozenset(scopes)
        body = {"token_type": "Bearer", "expires_in": lasts, "access_token": token, "scope": " ".join(scopes)}
        return Answer(orjson.dumps(body), headers=[("Cache-Control", "no-store")])

    def _authorise(self, request: Request, scope: str) -> None:
        given = request.headers.get("authorization", "")
        if request.fails("expire"):
            self._tokens.clear()
            if not given.startswith("SSWS"):
                raise Refusal(self.failure(401, ""))
        if match := re.fullmatch(r"SSWS ?(\S+)", given):
            if not secrets.compare_digest(match[1], self._options.get("token", "")):
                raise Refusal(self.failure(401, ""))
        else:
            bearer = re.fullmatch(r"Bearer (\S+)", given)
            until, scopes = self._tokens.get(bearer[1] if bearer else "", (0.0, frozenset()))
            if time.monotonic() >= until:
                raise Refusal(self.failure(401, ""))
            if scope not in scopes:
                raise Refusal(self.failure(403, ""))
        if self._options.get("role") is False:
            raise Refusal(self.failure(403, ""))

    # --- answers -------------------------------------------------------------------------------

    def _page(
        self, rows: Sequence[bytes], request: Request, default: int, most: int, least: int = 1, *, cut: bool = False
    ) -> Answer:
        """One page. `cut`: a limit above the maximum is lowered to it; otherwise it is refused."""
        query = request.query
        try:
            limit = int(query.get("limit", default))
            start, chain = 0, 0
            if query.get("after"):
                start, chain = map(int, base64.urlsafe_b64decode(query["after"]).decode().split(" "))
                rows = self._chains[chain]
        except (ValueError, binascii.Error, UnicodeDecodeError):
            raise Refusal(self.failure(400, "limit or after")) from None
        if limit < least or start < 0 or (limit > most and not cut):
            raise Refusal(self.failure(400, f"limit: must be between {least} and {most}"))
        size = min(limit, most)
        if self._options.get("short"):
            size = max(1, size - 1 - start % 3)
        chosen = self._pages.cut(request.path, rows, start, size, request)
        here = f"{self._base}{request.path}"
        own = f"{here}?{urlencode(query, quote_via=quote)}" if query else here
        chain = chain or (self._chains.begin(rows) if start + size < len(rows) else 0)
        after = base64.urlsafe_b64encode(f"{start + size} {chain}".encode()).decode()
        following = f"{here}?{urlencode({**query, 'after': after, 'limit': limit}, quote_via=quote)}"
        more = start + size < len(rows) and not request.fails("empty")
        if request.fails("cursor"):
            following, more = own, True
        if request.fails("link") and request.fault is not None:
            following, more = request.fault.text, True
        links = [f'<{own}>; rel="self"', *([f'<{following}>; rel="next"'] if more else [])]
        if self._options.get("joined_links"):
            links = [", ".join(links)]
        return Answer(b"[" + b",".join(chosen) + b"]", headers=[("Link", link) for link in links])

    def _whole(self, view: _View, searched: _View, request: Request, fields: Mapping[str, str]) -> list[bytes]:
        """What `filter` or `search` finds, or everything."""
        query = request.query
        try:
            if "filter" in query:
                return view.matching(query["filter"], fields)
        except ValueError:
            raise Refusal(_error(400, "E0000053", "Invalid filter", query["filter"])) from None
        try:
            return searched.matching(query["search"], None) if "search" in query else view.rows
        except ValueError:
            raise Refusal(_error(400, "E0000031", "Invalid search criteria.", query["search"])) from None

    def _list_users(self, request: Request) -> Answer:
        assert self._users is not None
        if "q" in request.query:
            word, people = request.query["q"].lower(), self.company.people
            found = [
                row
                for row, person, status in zip(self._users.rows, people, self._statuses, strict=True)
                if status != "DEPROVISIONED"
                and any(v.lower().startswith(word) for v in (person.first_name, person.last_name, person.email))
            ]
            return self._page(found[: int(request.query.get("limit", 10))], request, 10, 200, cut=True)
        rows = self._whole(self._users, self._searched, request, _USER_FILTER)
        if not {"filter", "search"} & request.query.keys():
            rows = self._present  # deactivated people are left out
        return self._page(rows, request, 200, self._options.get("users_cap", 200), cut=True)

    # --- the system log ------------------------------------------------------------------------

    def _logs(self, request: Request) -> Answer:
        """A polling query: what was written since `since`, or after `after`; the next link is always there."""
        query = request.query
        after, since = query.get("after", ""), query.get("since", "")
        if (after and not after.isdecimal()) or (after and since) or query.get("sortOrder") != "ASCENDING":
            raise Refusal(self.failure(400, "after, since or sortOrder"))
        limit = int(query.get("limit", 100))
        if not 0 < limit <= 1000:
            raise Refusal(self.failure(400, "limit: must be between 1 and 1000"))
        number = int(after or 0)
        found = [one for one in self.happened.all if one.number > number and _iso(one.at) >= since][:limit]
        last = found[-1].number if found else number or (self.happened.all[-1].number if self.happened.all else 0)
        here = f"{self._base}{request.path}"
        more = {name: value for name, value in query.items() if name != "since"} | {"after": str(last)}
        links = [f'<{here}?{urlencode(query)}>; rel="self"', f'<{here}?{urlencode(more)}>; rel="next"']
        rows = [orjson.dumps(_log_event(one)) for one in found]
        return Answer(b"[" + b",".join(rows) + b"]", headers=[("Link", link) for link in links])

    def _find(self, key: str) -> int:
        """The person with this id, login or short login."""
        assert self._users is not None
        folded = _folded(key)
        found = self._users.at.get(key, self._logins.get(folded, self._shortnames.get(folded)))
        if key == "me" and self.company.people:
            found = 0  # whoever made the token
        if found is None:
            raise Refusal(self.failure(404, f"{key} (User)"))
        return found

    def _get_user(self, request: Request, key: str) -> Answer:  # noqa: ARG002
        assert self._users is not None
        return Answer(self._users.rows[self._find(key)])

    def _user_groups(self, request: Request, key: str) -> Answer:  # noqa: ARG002
        n = self._find(key)
        found = [row for row, members in zip(self._groups.rows, self._member_at, strict=True) if n in members]
        return Answer(b"[" + b",".join(found) + b"]")

    def _list_groups(self, request: Request) -> Answer:
        rows = self._whole(self._groups, self._groups, request, _GROUP_FILTER)
        if "q" in request.query:
            word = request.query["q"].lower()
            names = self._groups.column("profile.name")
            rows = [row for row, name in zip(self._groups.rows, names, strict=True) if name.lower().startswith(word)]
            rows = rows[:300]
        answer = self._page(rows, request, 10_000, 10_000)
        if request.query.get("expand") == "stats":
            records = orjson.loads(answer.body)
            for record in records:
                members = self._members_of(self._groups.at[record["id"]])
                record["_embedded"] = {"stats": {"usersCount": len(members)}}
            return Answer(orjson.dumps(records), headers=answer.headers)
        return answer

    def _group_at(self, key: str) -> int:
        if key not in self._groups.at:
            raise Refusal(self.failure(404, f"{key} (UserGroup)"))
        return self._groups.at[key]

    def _get_group(self, request: Request, key: str) -> Answer:  # noqa: ARG002
        return Answer(self._groups.rows[self._group_at(key)])

    def _members_of(self, at: int) -> list[bytes]:
        assert self._users is not None
        if at not in self._member_rows:
            rows, statuses, hidden = self._users.rows, self._statuses, self._hidden
            chosen = self._member_at[at].tolist()
            self._member_rows[at] = [rows[n] for n in chosen if statuses[n] not in hidden]
        return self._member_rows[at]

    def _members(self, request: Request, key: str) -> Answer:
        rows = self._members_of(self._group_at(key))
        return self._page(rows, request, 1000, self._options.get("members_cap", 1000), cut=True)

    # --- the application -----------------------------------------------------------------------

    def _with_app(self, app: str) -> list[tuple[int, str]]:
        """Positions of the people who have the application, and whether by USER or GROUP."""
        if app != APP:
            raise Refusal(self.failure(404, f"{app} (AppInstance)"))
        if self._assigned is None:
            assert self._users is not None
            scopes = {n: "USER" for n, key in enumerate(self._users.ids) if _number(key) % 16 == 0}
            for members, key in zip(self._member_at, self._groups.ids, strict=True):
                if has_app(key) and key != EVERYONE:
                    for n in members.tolist():
                        scopes.setdefault(n, "GROUP")
            # Who is deactivated loses all applications.
            self._assigned = [(n, by) for n, by in sorted(scopes.items()) if self._statuses[n] != "DEPROVISIONED"]
        return self._assigned

    def _app_user_row(self, n: int, scope: str, expand: bool) -> bytes:
        assert self._users is not None
        key, person = self._users.ids[n], self.company.people[n]
        record = {
            "id": key,
            "created": _CREATED,
            "lastUpdated": _CREATED,
            "scope": scope,
            "status": self._options.get("app_status") or ("PROVISIONED" if _number(key) % 5 == 0 else "ACTIVE"),
            "statusChanged": _CREATED,
            "syncState": "DISABLED",
            "credentials": {"userName": _login(person)},
            "profile": {"email": person.email or None, "given_name": person.first_name or None},
            "_links": {"user": {"href": f"{self._base}/api/v1/users/{key}"}},
        }
        row = orjson.dumps(record)
        return row[:-1] + b',"_embedded":{"user":' + self._users.rows[n] + b"}}" if expand else row

    def _app_users(self, request: Request, app: str) -> Answer:
        assigned, expand = self._with_app(app), request.query.get("expand") == "user"
        if expand not in self._assigned_rows:
            self._assigned_rows[expand] = [self._app_user_row(n, by, expand) for n, by in assigned]
        return self._page(self._assigned_rows[expand], request, 50, 500)

    def _app_user(self, request: Request, app: str, key: str) -> Answer:
        assigned = dict(self._with_app(app))
        assert self._users is not None
        n = self._users.at.get(key, -1)
        if n not in assigned:
            raise Refusal(self.failure(404, f"{key} (AppUser)"))
        return Answer(self._app_user_row(n, assigned[n], request.query.get("expand") == "user"))

    def _app_groups(self, request: Request, app: str) -> Answer:
        self._with_app(app)
        rows: list[bytes] = []
        for key, row in zip(self._groups.ids, self._groups.rows, strict=True):
            if has_app(key) and key != EVERYONE:
                record = {"id": key, "lastUpdated": _CREATED, "priority": len(rows), "profile": {}}
                embedded = b',"_embedded":{"group":' + row + b"}}" if request.query.get("expand") == "group" else b"}"
                rows.append(orjson.dumps(record)[:-1] + embedded)
        return self._page(rows, request, 20, 200, 20)


_KINDS: Final = {
    "create": "user.lifecycle.create",
    "update": "user.account.update_profile",
    "disable": "user.lifecycle.deactivate",
    "enable": "user.lifecycle.activate",
    "delete": "user.lifecycle.delete.initiated",
    "sign-in": "user.session.start",
    "join": "group.user_membership.add",
    "leave": "group.user_membership.remove",
}
_OF_GROUPS: Final = {"create": "group.lifecycle.create", "delete": "group.lifecycle.delete"}


def _log_event(one: Happening) -> dict[str, Any]:
    target = [{"id": user_id(one.person.id), "type": "User", "alternateId": one.person.email}] if one.person else []
    target += [{"id": group_id(one.team.id), "type": "UserGroup", "displayName": one.team.name}] if one.team else []
    kind = _KINDS[one.what] if one.person else _OF_GROUPS.get(one.what, "group.profile.update")
    actor = target[0] if one.what == "sign-in" else {"id": "00uADMIN", "type": "User", "alternateId": "admin"}
    return {
        "uuid": f"f1d0-{one.number}",
        "published": _iso(one.at),
        "eventType": kind,
        "version": "0",
        "severity": "INFO",
        "outcome": {"result": "SUCCESS", "reason": None},
        "actor": actor,
        "target": [] if one.what == "sign-in" else target,
    }


def _login(person: Person) -> str:
    return f"{person.username}@acme.example"


def _folded(login: str) -> str:
    """Logins are unique without regard to case and diacritics."""
    plain = unicodedata.normalize("NFKD", login.lower())
    return "".join(one for one in plain if not unicodedata.combining(one))


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _http_date(now: float) -> str:
    return format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)


def _error(status: int, code: str, summary: str, detail: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    body = {
        "errorCode": code,
        "errorSummary": f"{summary}: {detail}" if detail else summary,
        "errorLink": code,
        "errorId": f"oae{secrets.token_urlsafe(15)}",
        "errorCauses": [{"errorSummary": detail}] if detail and status == 400 else [],
    }
    return Answer(orjson.dumps(body), status, headers=tuple(headers))


def _refused(status: int, error: str, detail: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """An error of the token endpoint (RFC 6749)."""
    return Answer(orjson.dumps({"error": error, "error_description": detail}), status, headers=tuple(headers))
