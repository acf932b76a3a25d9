"""OneLogin, API version 2 (and groups, which only version 1 has), as its documentation and SDK describe it.

https://developers.onelogin.com/api-docs/2/getting-started/dev-overview

A company's teams are OneLogin roles. Its departments are OneLogin groups, of which a person has at most one. Every
second role carries the app `APP`, and one person in 16 has it without any role.

Options beside `client_id` and `client_secret`:

| option | meaning |
|---|---|
| scope | what the credentials may do, "Read Users" by default; see `_SCOPES` |
| orphan | the person who made the credentials is gone: every call fails with 500 |
| seconds | how long a token lasts, 36000 by default; the same token is given until then |
| users_cap, members_cap | the most users and role members a page, 50 and 100 by default |
| bare_cursor | cursors hold page and size only, and not the filters of the first request |
| end_cursor | the last page has an empty After-Cursor rather than none |
| lists_without_roles | lists never have `role_ids`, though `fields` asks for them |
| without_username | every n-th person has no `username` |
| manager | how `manager_user_id` comes: text (default), number, or mixed |
| status | one user in 50 has this `status`, whatever it means |
| no_events | the credentials may not read events |
| limit, window | calls allowed in so many seconds (3600) |

Not documented, and so chosen here: the body of a 429, which scope events need (Read Users will do), their order (the
newest first), whether `since` includes its moment (no), how long they are kept, and that a `limit` above the maximum is
cut to it.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

import numpy as np
import orjson

from deployments.sandbox.happenings import Happening, Happenings
from deployments.sandbox.organisation import Organisation, Person
from deployments.sandbox.server import Answer, Pages, Refusal, Request, Times

APP: Final = 771001
OTHER_APP: Final = 771002
_ACCOUNT: Final = 92920
_SCOPES: Final = {"Authentication Only": 0, "Read Users": 1, "Manage users": 1, "Read All": 2, "Manage All": 2}
_NAMES: Final = {
    400: "BadRequestError",
    401: "UnauthorizedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "TooManyRequestsError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
_THIN: Final[tuple[str, ...]] = (
    *("id", "username", "email", "firstname", "lastname", "phone", "state", "status", "group_id", "directory_id"),
    *("samaccountname", "member_of", "distinguished_name", "external_id", "activated_at", "last_login"),
    *("invitation_sent_at", "updated_at", "created_at", "invalid_login_attempts", "locked_until"),
    "password_changed_at",
)
"""What a list of users says of each if no `fields` are asked for; one user read alone has all fields."""
_CREATED: Final = "2025-03-01T08:00:00.000Z"
_TEXTS: Final = ("firstname", "lastname", "email", "username", "samaccountname", "external_id")


def _number(kind: str, key: str) -> int:
    return int.from_bytes(blake2b(f"{kind} {key}".encode(), digest_size=6).digest()) + 1


def user_id(person: str) -> int:
    """OneLogin's id of the person with this id."""
    return _number("user", person)


def role_id(team: str) -> int:
    """OneLogin's id of the role that stands for the team with this id."""
    return _number("role", team)


def group_id(department: str) -> int | None:
    """OneLogin's id of the group that stands for a department."""
    return _number("group", department) % 10**6 if department else None


def has_app(role: int) -> bool:
    """Whether a role carries `APP`."""
    return role % 2 == 0


def status_of(person: Person) -> tuple[int, int]:
    """`status` and `state`. With status 3 or 7 it is a matter of opinion who is active."""
    n = user_id(person.id)
    if person.active:
        return {0: 3, 1: 4, 2: 5, 3: 8}.get(n % 10, 1), 1
    return ((0, 1), (2, 1), (7, 1), (1, 0), (1, 2), (1, 3))[n % 6]


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module`."""
    given = {"client_id": secrets.token_hex(32), "client_secret": secrets.token_hex(32)}
    _given.update(given)
    return given, {"client_secret": given["client_secret"]}


_given: dict[str, str] = {}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module`; the client id is that of the newest credentials."""
    return {"url": base, "client_id": _given.get("client_id", "")}


def emulator(base: str, options: Mapping[str, Any]) -> OneLogin:
    """As `idp.Module`."""
    return OneLogin(base, options)


class OneLogin:
    """The emulator."""

    def __init__(self, base: str, options: Mapping[str, Any]) -> None:
        self._base, self._options = base, options
        self._times, self.happened = Times(), Happenings()
        self._pages, self._members = Pages(), Pages(malformed=b'{"id":null,"name":7}')
        self._token, self._until = "", 0.0
        self._window, self._calls = 0.0, 0
        self._routes: list[tuple[re.Pattern[str], int, Callable[..., Answer]]] = [
            (re.compile(pattern), scope, answer)
            for pattern, scope, answer in (
                (r"/api/2/users", 1, self._users),
                (r"/api/2/users/([^/]+)", 1, self._user),
                (r"/api/2/users/([^/]+)/apps", 2, self._user_apps),
                (r"/api/2/roles", 1, self._roles),
                (r"/api/2/roles/([^/]+)", 1, self._role),
                (r"/api/2/roles/([^/]+)/users", 1, self._role_users),
                (r"/api/2/roles/([^/]+)/apps", 1, self._role_apps),
                (r"/api/2/apps", 2, self._apps),
                (r"/api/2/apps/([^/]+)/users", 2, self._app_users),
                (r"/api/1/events", 9 if options.get("no_events") else 1, self._events),
                (r"/api/1/groups", 1, self._groups),
                (r"/api/1/groups/([^/]+)", 1, self._group),
                (r"/auth/rate_limit", 0, self._rate_limit),
            )
        ]

    def load(self, company: Organisation) -> None:
        """As `server.Emulator`."""
        self.company = company
        self._times.observe(company)
        self.happened.observe(company)
        people, teams = company.people, company.teams
        self._ids = [user_id(p.id) for p in people]
        self._at = {number: at for at, number in enumerate(self._ids)}
        self._role_ids = [role_id(t.id) for t in teams]
        self._role_at = {number: at for at, number in enumerate(self._role_ids)}
        self._rendered: dict[tuple[str, ...], list[bytes]] = {}
        self._found: dict[str, list[int]] = {}
        self._exact: dict[str, dict[str, list[int]]] = {}
        self._owned: tuple[Any, Any] | None = None
        adder = {"id": 1, "name": "Account Owner"}
        rows = [
            orjson.dumps(
                {
                    "id": number,
                    "name": f"{p.first_name} {p.last_name}",
                    "username": self._username(p, number),
                    "added_by": adder,
                    "added_at": _CREATED,
                    "assigned": True,
                }
            )
            for number, p in zip(self._ids, people, strict=True)
        ]
        self._person_rows = rows
        bounds = np.searchsorted(company.member_team, np.arange(1, max(len(teams), 1)))
        self._member_at = np.split(company.member_person, bounds)
        self._role_members = [[rows[at] for at in members.tolist()] for members in self._member_at[: len(teams)]]
        apps = [[APP, OTHER_APP] if has_app(number) else [OTHER_APP] for number in self._role_ids]
        self._role_rows = [
            orjson.dumps({"id": number, "name": t.name, "apps": carried})
            for number, t, carried in zip(self._role_ids, teams, apps, strict=True)
        ]
        names = sorted({p.department for p in people if p.department})
        self._group_rows = [orjson.dumps({"id": group_id(name), "name": name, "reference": None}) for name in names]
        self._app_people: dict[int, list[bytes]] = {}

    # --- requests ------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `server.Emulator`."""
        return f"{request.method} {re.sub(r'/[0-9]{3,}(?=/|$)', '/{id}', request.path)}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `server.Emulator`: the error of version 2."""
        body = {"statusCode": status, "name": _NAMES.get(status, "Error"), "message": detail}
        return Answer(orjson.dumps(body), status, headers=headers)

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        if request.path == "/auth/oauth2/v2/token":
            return self._grant(request)
        headers = self._counted()
        for pattern, scope, answer in self._routes:
            if match := pattern.fullmatch(request.path):
                self._authorise(request, scope)
                if request.method != "GET":
                    return self.failure(404, "Not Found")
                found = answer(request, *map(unquote, match.groups()))
                return Answer(found.body, found.status, found.kind, [*found.headers, *headers])
        return self.failure(404, "The requested resource could not be found.")

    def _counted(self) -> list[tuple[str, str]]:
        limit = self._options.get("limit")
        if limit is None:
            return []
        now, window = time.monotonic(), self._options.get("window", 3600)
        if now >= self._window:
            self._window, self._calls = now + window, 0
        self._calls += 1
        left = max(1, round(self._window - now))
        headers = [
            ("X-RateLimit-Limit", str(limit)),
            ("X-RateLimit-Remaining", str(max(0, limit - self._calls))),
            ("X-RateLimit-Reset", str(left)),  # seconds left, not a moment
        ]
        if self._calls > limit:
            raise Refusal(self.failure(429, "Rate limit exceeded", headers))
        return headers

    def _grant(self, request: Request) -> Answer:
        if request.method != "POST":
            return self.failure(404, "Not Found")
        given = request.headers.get("authorization", "")
        form: Mapping[str, Any] = request.form()
        if "json" in request.headers.get("content-type", ""):
            try:
                form = dict(orjson.loads(request.body))
            except (ValueError, TypeError):
                return self.failure(400, "The request body is not JSON")
        client, secret = str(form.get("client_id", "")), str(form.get("client_secret", ""))
        if given.lower().startswith("basic "):
            try:
                client, _, secret = base64.b64decode(given[6:], validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return self.failure(400, "The Authorization header is not valid")
        elif odd := re.fullmatch(r"client_id:\s*(\S+?),\s*client_secret:\s*(\S+)", given):
            client, secret = odd[1], odd[2]
        if form.get("grant_type") != "client_credentials":
            return self.failure(400, "grant_type must be client_credentials")
        known = self._options.get("client_id"), self._options.get("client_secret")
        if (client, secret) != known:
            return self.failure(401, "Authentication Failure")
        now, lasts = time.monotonic(), self._options.get("seconds", 36000)
        if now >= self._until:
            self._token, self._until = secrets.token_hex(32), now + lasts
        body = {
            "access_token": self._token,
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "expires_in": max(1, int(self._until - now)),
            "refresh_token": secrets.token_hex(32),
            "token_type": "bearer",
            "account_id": _ACCOUNT,
        }
        return Answer(orjson.dumps(body))

    def _authorise(self, request: Request, scope: int) -> None:
        first = request.path.startswith("/api/1/")
        if request.fails("expire"):
            self._until = 0.0
        given = re.fullmatch(r"bearer(:?)\s*(\S+)", request.headers.get("authorization", ""), re.IGNORECASE)
        if first and given is None:
            raise Refusal(_v1_error(400, "bad request", "The Authorization header is not valid"))
        if given is None or given[2] != self._token or time.monotonic() >= self._until or (given[1] and not first):
            raise Refusal(
                _v1_error(401, "Unauthorized", "Authentication Failure") if first else self.failure(401, "Unauthorized")
            )
        if self._options.get("orphan"):
            raise Refusal(self.failure(500, "Internal Server Error"))
        if _SCOPES[self._options.get("scope", "Read Users")] < scope:
            raise Refusal(
                _v1_error(401, "Unauthorized", "Insufficient Permission")
                if first
                else self.failure(401, "Insufficient Permission")
            )

    # --- paging --------------------------------------------------------------------------------

    def _query(self, request: Request) -> Mapping[str, str]:
        """The query, or the earlier one that its cursor stands for."""
        cursor = request.query.get("cursor")
        if cursor is None:
            return request.query
        try:
            earlier = dict(parse_qsl(base64.b64decode(cursor, validate=True).decode(), keep_blank_values=True))
            int(earlier["page"])
        except (binascii.Error, UnicodeDecodeError, KeyError, ValueError):
            raise Refusal(self.failure(422, 'invalid value in "cursor"')) from None
        return {**request.query, **earlier} if self._options.get("bare_cursor") else earlier

    def _cursor(self, query: Mapping[str, str], page: int, limit: int) -> str:
        kept = {} if self._options.get("bare_cursor") else {k: v for k, v in query.items() if k != "cursor"}
        return base64.b64encode(urlencode({**kept, "limit": limit, "page": page}).encode()).decode()

    def _page(
        self, rows: Sequence[bytes], query: Mapping[str, str], request: Request, cap: int, default: int, pages: Pages
    ) -> Answer:
        try:
            limit, page = min(int(query.get("limit", default)), cap), int(query.get("page", 1))
        except ValueError:
            limit = page = 0
        if limit < 1 or page < 1:
            raise Refusal(self.failure(422, 'invalid value in "limit" or "page"'))
        total, start = len(rows), (page - 1) * limit
        chosen = pages.cut(request.path, rows, start, limit, request)
        more, said = start + limit < total, total
        after = self._cursor(query, page + 1, limit) if more else ""
        if request.fails("cursor"):
            after = self._cursor(query, page, limit)
        if request.fails("empty"):
            after = ""
        if request.fault is not None and request.fault.kind in ("empty", "total"):
            said = request.fault.total if request.fault.total is not None else total
            said += request.fails("total") and said == total
        headers = [
            ("Current-Page", str(page)),
            ("Page-Items", str(len(chosen))),
            ("Total-Pages", str(-(-total // limit))),
            ("Total-Count", str(said)),
        ]
        if page > 1:
            headers.append(("Before-Cursor", self._cursor(query, page - 1, limit)))
        if after or self._options.get("end_cursor"):
            headers.append(("After-Cursor", after))
        return Answer(b"[" + b",".join(chosen) + b"]", headers=headers)

    # --- users ---------------------------------------------------------------------------------

    def _username(self, person: Person, number: int) -> str | None:
        n = self._options.get("without_username")
        return None if n and number % n == 0 else f"{person.username}@acme.example"

    def _record(self, at: int) -> dict[str, Any]:
        """All that OneLogin says of one person."""
        person, number = self.company.people[at], self._ids[at]
        status, state = status_of(person)
        if "status" in self._options and number % 50 == 0:
            status = self._options["status"]
        manager: Any = user_id(person.manager) if person.manager else None
        how = self._options.get("manager", "text")
        if manager is not None and (how == "text" or (how == "mixed" and number % 2)):
            manager = str(manager)
        updated = self._times.people[person.id].isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = person.username
        return {
            "id": number,
            "username": self._username(person, number),
            "email": person.email or None,
            "firstname": person.first_name or None,
            "lastname": person.last_name or None,
            "title": person.title or None,
            "department": person.department or None,
            "company": None,
            "comment": None,
            "group_id": group_id(person.department),
            "role_ids": self._roles_of(at),
            "phone": None,
            "state": state,
            "status": status,
            "directory_id": None,
            "trusted_idp_id": None,
            "manager_ad_id": None,
            "manager_user_id": manager,
            "samaccountname": name if len(name) <= 20 else None,
            "member_of": f"CN={person.department},OU=Groups,DC=acme,DC=example" if person.department else None,
            "userprincipalname": f"{name}@ad.acme.example",
            "distinguished_name": None,
            "external_id": person.employee_number or None,
            "activated_at": None if status in (0, 7) else _CREATED,
            "last_login": None,
            "invitation_sent_at": None,
            "updated_at": updated,
            "preferred_locale_code": person.locale or None,
            "created_at": _CREATED,
            "invalid_login_attempts": 5 if status == 3 else 0,
            "locked_until": "2099-01-01T00:00:00.000Z" if status == 3 else None,
            "password_changed_at": _CREATED,
            "custom_attributes": {"location": person.location or None, "cost_center": None},
        }

    def _roles_of(self, at: int) -> list[int]:
        if self._owned is None:
            order = np.argsort(self.company.member_person, kind="stable")
            starts = np.searchsorted(self.company.member_person[order], np.arange(len(self._ids) + 1))
            self._owned = self.company.member_team[order], starts
        teams, starts = self._owned
        return [self._role_ids[team] for team in teams[starts[at] : starts[at + 1]].tolist()]

    def _user_rows(self, fields: tuple[str, ...], chosen: list[int] | None) -> Sequence[bytes]:
        """People as records with these fields; None are all. All of them are rendered once."""

        def render(at: int) -> bytes:
            record = self._record(at)
            return orjson.dumps({name: record[name] for name in fields})

        if fields not in self._rendered:
            if chosen is not None and len(chosen) < 500:
                return [render(at) for at in chosen]
            self._rendered[fields] = [render(at) for at in range(len(self._ids))]
        rows = self._rendered[fields]
        return rows if chosen is None else [rows[at] for at in chosen]

    def _users(self, request: Request) -> Answer:
        query = self._query(request)
        fields = _THIN
        if "fields" in query:
            asked = {name.strip() for name in query["fields"].split(",")} | {"id"}
            asked -= {"role_ids"} if self._options.get("lists_without_roles") else set()
            fields = tuple(name for name in (*_THIN, *_FULL) if name in asked)
        rows = self._user_rows(tuple(dict.fromkeys(fields)), self._select(query))
        cap = self._options.get("users_cap", 50)
        return self._page(rows, query, request, cap, cap, self._pages)

    def _select(self, query: Mapping[str, str]) -> list[int] | None:
        """Who fulfils the filters of a query."""
        filters = {k: v for k, v in query.items() if k not in ("limit", "page", "cursor", "fields", "sort")}
        if not filters:
            return None
        key = urlencode(sorted(filters.items()))
        if key not in self._found:
            if len(self._found) > 50:
                self._found.clear()
            chosen: Iterable[int] = range(len(self._ids))
            for name, value in filters.items():
                chosen = self._filtered(chosen, name, value)
            self._found[key] = list(chosen)
        return self._found[key]

    def _filtered(self, among: Iterable[int], name: str, value: str) -> Iterable[int]:
        if name in ("updated_since", "updated_until", "created_since", "created_until"):
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                raise Refusal(self.failure(422, f'invalid value in "{name}"')) from None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            made, times = datetime.fromisoformat(_CREATED), self._times.people
            when = [made if name.startswith("created") else times[p.id] for p in self.company.people]
            return [at for at in among if (when[at] > moment) == name.endswith("since")]
        if name == "user_ids":
            asked = {self._at.get(int(one), -1) for one in value.split(",") if one.strip().isdigit()}
            return [at for at in among if at in asked]
        if name == "app_id":
            with_app = {orjson.loads(row)["id"] for row in self._people_with(value)}
            return [at for at in among if self._ids[at] in with_app]
        if name not in _TEXTS:
            return among  # what is not known is ignored
        if "*" in value:
            wild = re.compile(".*".join(map(re.escape, value.split("*"))), re.IGNORECASE)
            return [at for at in among if wild.fullmatch(str(self._record(at)[name] or ""))]
        if name not in self._exact:
            index = self._exact[name] = {}
            for at in range(len(self._ids)):
                if text := self._record(at)[name]:
                    index.setdefault(text.lower(), []).append(at)
        wanted = set(self._exact[name].get(value.lower(), ()))
        return [at for at in among if at in wanted]

    def _user(self, _: Request, key: str) -> Answer:
        return Answer(orjson.dumps(self._record(self._number(key, self._at))))

    def _number(self, key: str, known: Mapping[int, int]) -> int:
        """Where the record with this id is."""
        at = known.get(int(key)) if key.isascii() and key.isdigit() else None
        if at is None:
            raise Refusal(self.failure(404, "The resource with the given id could not be found"))
        return at

    # --- roles and apps ------------------------------------------------------------------------

    def _roles(self, request: Request) -> Answer:
        query, rows = self._query(request), self._role_rows
        carried = query.get("app_id")
        if carried is not None:
            rows = [
                row
                for row, number in zip(rows, self._role_ids, strict=True)
                if carried == str(OTHER_APP) or (carried == str(APP) and has_app(number))
            ]
        if name := query.get("name", query.get("role_name")):
            rows = [row for row in rows if orjson.loads(row)["name"] == name]
        if "fields" in query:
            rows = [orjson.dumps(self._whole_role(orjson.loads(row), query["fields"].split(","))) for row in rows]
        return self._page(rows, query, request, 650, 100, self._pages)

    def _whole_role(self, role: dict[str, Any], fields: Sequence[str]) -> dict[str, Any]:
        members = self._member_at[self._role_at[role["id"]]].tolist()
        full = {"apps": role["apps"], "users": [self._ids[at] for at in members], "admins": []}
        return {"id": role["id"], "name": role["name"], **{k: v for k, v in full.items() if k in fields}}

    def _role(self, _: Request, key: str) -> Answer:
        row = self._role_rows[self._number(key, self._role_at)]
        return Answer(orjson.dumps(self._whole_role(orjson.loads(row), ("apps", "users", "admins"))))

    def _role_users(self, request: Request, key: str) -> Answer:
        at, query = self._number(key, self._role_at), self._query(request)
        rows = self._role_members[at]
        if query.get("include_unassigned", "").lower() == "true":
            members = set(self._member_at[at].tolist())
            rows = [
                row if at in members else row.replace(b'"assigned":true', b'"assigned":false')
                for at, row in enumerate(self._person_rows)
            ]
        cap = self._options.get("members_cap", 100)
        return self._page(rows, query, request, cap, cap, self._members)

    def _role_apps(self, request: Request, key: str) -> Answer:
        carried = orjson.loads(self._role_rows[self._number(key, self._role_at)])["apps"]
        rows = [orjson.dumps({"id": app, "name": _app_name(app), "icon_url": None}) for app in carried]
        return self._page(rows, self._query(request), request, 100, 100, self._pages)

    def _apps(self, request: Request) -> Answer:
        rows = [orjson.dumps({"id": app, "name": _app_name(app), "visible": True}) for app in (APP, OTHER_APP)]
        return self._page(rows, self._query(request), request, 1000, 100, self._pages)

    def _people_with(self, app: str) -> list[bytes]:
        number = int(app) if app.isdigit() else 0
        if number not in (APP, OTHER_APP):
            raise Refusal(self.failure(404, "The resource with the given id could not be found"))
        if number not in self._app_people:
            chosen = {at for at, key in enumerate(self._ids) if key % 16 == 0}
            for role, members in zip(self._role_ids, self._member_at, strict=False):
                if number == OTHER_APP or has_app(role):
                    chosen.update(members.tolist())
            names = ("firstname", "id", "email", "lastname", "username")
            self._app_people[number] = list(self._user_rows(names, sorted(chosen)))
        return self._app_people[number]

    def _app_users(self, request: Request, key: str) -> Answer:
        return self._page(self._people_with(key), self._query(request), request, 1000, 100, self._pages)

    def _user_apps(self, request: Request, key: str) -> Answer:  # noqa: ARG002
        at = self._number(key, self._at)
        roles = self._roles_of(at)
        carried = [APP] if self._ids[at] % 16 == 0 or any(map(has_app, roles)) else []
        carried += [OTHER_APP] if roles or self._ids[at] % 16 == 0 else []
        return Answer(
            orjson.dumps(
                [
                    {
                        "id": app,
                        "name": _app_name(app),
                        "icon_url": None,
                        "extension": False,
                        "login_id": self._ids[at] + app,
                        "provisioning_enabled": False,
                    }
                    for app in carried
                ]
            )
        )

    # --- version 1 -----------------------------------------------------------------------------

    def _groups(self, request: Request) -> Answer:
        return self._first_version(request, self._group_rows)

    def _events(self, request: Request) -> Answer:
        events = [one for one in map(_event, reversed(self.happened.all)) if one["event_type_id"]]
        for name, keeps in (("since", str.__gt__), ("until", str.__lt__)):
            if given := request.query.get(name):
                try:
                    moment = datetime.fromisoformat(given).astimezone(UTC)
                except ValueError:
                    return _v1_error(400, "bad request", f"{name} is not valid")
                events = [one for one in events if keeps(one["created_at"], _said(moment))]
        for name in ("event_type_id", "user_id"):
            if given := request.query.get(name):
                events = [one for one in events if str(one[name]) == given]
        return self._first_version(request, list(map(orjson.dumps, events)))

    def _first_version(self, request: Request, rows: Sequence[bytes]) -> Answer:
        try:
            start = int(base64.b64decode(request.query.get("after_cursor", "MA=="), validate=True))
            limit = min(max(int(request.query.get("limit", 50)), 1), 50)
        except (binascii.Error, ValueError):
            return _v1_error(400, "bad request", "after_cursor or limit is not valid")
        chosen = self._pages.cut(request.path, rows, start, limit, request)
        after = base64.b64encode(str(start + limit).encode()).decode() if start + limit < len(rows) else None
        if request.fails("cursor"):
            after = base64.b64encode(str(start).encode()).decode()
        if request.fails("empty"):
            after = None
        link = f"{self._base}{request.path}?{urlencode({'after_cursor': after, 'limit': limit})}" if after else None
        if request.fault is not None and request.fails("link"):
            link = request.fault.text
        pagination = {"before_cursor": None, "after_cursor": after, "previous_link": None, "next_link": link}
        head = orjson.dumps({"status": _v1_status(200, "success", "Success"), "pagination": pagination})
        return Answer(head[:-1] + b',"data":[' + b",".join(chosen) + b"]}")

    def _group(self, _: Request, key: str) -> Answer:
        found = [row for row in self._group_rows if str(orjson.loads(row)["id"]) == key]
        if not found:
            return _v1_error(404, "not found", "No resource found")
        head = orjson.dumps({"status": _v1_status(200, "success", "Success")})
        return Answer(head[:-1] + b',"data":[' + found[0] + b"]}")

    def _rate_limit(self, _: Request) -> Answer:
        limit = self._options.get("limit", 5000)
        left = {
            "X-RateLimit-Limit": limit,
            "X-RateLimit-Remaining": max(0, limit - self._calls),
            "X-RateLimit-Reset": max(0, round(self._window - time.monotonic())) if "limit" in self._options else 3600,
        }
        return Answer(orjson.dumps({"status": _v1_status(200, "success", "Success"), "data": left}))


_FULL: Final[tuple[str, ...]] = (
    *("title", "department", "company", "comment", "role_ids", "trusted_idp_id", "manager_ad_id", "manager_user_id"),
    *("userprincipalname", "preferred_locale_code", "custom_attributes"),
)


_KINDS: Final = {
    "create": 13,
    "update": 14,
    "disable": 15,
    "enable": 16,
    "delete": 17,
    "join": 147,
    "leave": 148,
    "sign-in": 5,
}


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _event(one: Happening) -> dict[str, Any]:
    """As OneLogin tells it; without a type what it does not tell."""
    person, team = one.person, one.team
    return {
        "id": one.number * 7,
        "created_at": _said(one.at),
        "account_id": _ACCOUNT,
        "user_id": user_id(person.id) if person else None,
        "event_type_id": _KINDS[one.what] if person else None,
        "notes": None,
        "ipaddr": "192.0.2.1",
        "actor_user_id": 1,
        "role_id": role_id(team.id) if team else None,
        "user_name": f"{person.first_name} {person.last_name}" if person else None,
        "app-name": None,
        "group-name": None,
        "role_name": team.name if team else None,
    }


def _app_name(app: int) -> str:
    return {APP: "Jira", OTHER_APP: "Intranet"}[app]


def _v1_status(code: int, kind: str, message: str) -> dict[str, Any]:
    return {"error": code >= 400, "code": code, "type": kind, "message": message}


def _v1_error(code: int, kind: str, message: str) -> Answer:
    return Answer(orjson.dumps({"status": _v1_status(code, kind, message)}), code)
