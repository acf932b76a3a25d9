"""Google Workspace: the Directory API of the Admin SDK, and the token endpoint of Google accounts.

https://developers.google.com/workspace/admin/directory/reference/rest

A service account with domain-wide delegation reads users, groups and their members. Lists say no total; of a group
alone there is `directMembersCount`. Some groups have a member from elsewhere (EXTERNAL), every seventh has everybody
in the account (CUSTOMER, without an e-mail address). An address that somebody had before stays their alias. Changes of
people are told through channels (`google_channels`).

Options beside `email`, `key` and `key_id` (credentials):

| option | meaning |
|---|---|
| scopes | what was delegated, the three that reading needs by default |
| subject | the administrator, admin@acme.example by default; anybody else may sign in and read nothing |
| counts | what `directMembersCount` counts: users (default; no nested groups), all, or mixed: either by turns |
| off | a number added to each such count |
| short | pages with fewer rows than asked for, every third one with none |
| outsiders | the members from elsewhere come as USER, as people with an account of another company do |
| second | every n-th person and group is in the domain other.example |
| unsaid | every n-th active person comes without `archived` |
| late | activities come so many seconds after what they tell |
| limit, window | so many calls in so many seconds (60) |
| busy | the reason of the 403 that follows then, userRateLimitExceeded by default; or "429" |
| record | a file that gets a line of JSON for each request to the API |

The Reports API tells what administrators did and who signed in, the newest first.

Not documented, and so chosen here: which parameters the activities of administrators have beyond those that name
somebody, the words of most errors, that a `maxResults` above the maximum is refused for
users (where the discovery document names it) and cut for groups and members, that an unknown name in `fields` is
refused, and that a token leads on in the list as it was when its first page was asked for.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import jwt
import numpy as np
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployments.sandbox.google_channels import Channels
from deployments.sandbox.happenings import Happening, Happenings
from deployments.sandbox.organisation import Organisation, Person, Team
from deployments.sandbox.server import Answer, Chains, Pages, Refusal, Request

DOMAIN: Final = "acme.example"
OTHER_DOMAIN: Final = "other.example"
CUSTOMER: Final = "C01acme23"
ADMIN: Final = f"admin@{DOMAIN}"
AUDIENCE: Final = "https://oauth2.googleapis.com/token"
_PREFIX: Final = "https://www.googleapis.com/auth/admin.directory."
REPORTS: Final = "https://www.googleapis.com/auth/admin.reports.audit.readonly"
SCOPES: Final = tuple(f"{_PREFIX}{name}.readonly" for name in ("user", "group", "group.member"))
_ROOT: Final = "/admin/directory/v1"
_KIND: Final = "application/json; charset=UTF-8"
_CREATED: Final = "2025-03-01T08:00:00.000Z"
_COMMON: Final = frozenset(
    ("$.xgafv", "access_token", "alt", "callback", "fields", "key", "oauth_token", "prettyPrint", "quotaUser")
)
_LIST: Final = frozenset(("maxResults", "pageToken"))
_SEARCH: Final = _LIST | {"customer", "domain", "query", "orderBy", "sortOrder"}
_OF_MEMBERS: Final = frozenset(("roles", "includeDerivedMembership"))
_VIEW: Final = frozenset(("projection", "customFieldMask", "viewType"))
Member = tuple[str, int]
"""user or group and the index; external or customer and 0."""
Mask = dict[str, "Mask | None"]
"""The names chosen by `fields`; None: all below."""


def _digest(kind: str, key: str, size: int) -> int:
    return int.from_bytes(blake2b(f"{kind} {key}".encode(), digest_size=size).digest())


def user_id(person: str) -> str:
    """Google's id of the person with this id: 21 digits."""
    return f"1{_digest('user', person, 9) % 10**20:020}"


def group_id(team: str) -> str:
    """Google's id of the group that stands for the team with this id: 0 and 14 letters and digits."""
    n, text = _digest("group", team, 10), ""
    for _ in range(14):
        n, digit = divmod(n, 36)
        text += "0123456789abcdefghijklmnopqrstuvwxyz"[digit]
    return f"0{text}"


def group_email(team: Team, domain: str = DOMAIN) -> str:
    """The group's address, of its first name: it stays when the group is renamed."""
    return f"{re.sub(r'[^a-z0-9]+', '-', team.about.lower()).strip('-')}-{team.id[:6]}@{domain}"


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module`: the secret is the file that Google gives for a service account's key."""
    key = rsa.generate_private_key(65537, 2048)
    email, key_id = "crowdsync@acme-sync.iam.gserviceaccount.com", secrets.token_hex(20)
    file = {
        "type": "service_account",
        "project_id": "acme-sync",
        "private_key_id": key_id,
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": email,
        "client_id": str(_digest("client", key_id, 8)),
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": AUDIENCE,
    }
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return {"email": email, "key": public, "key_id": key_id}, {"private_key": orjson.dumps(file).decode()}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module`. The emulator has no quota unless asked."""
    return {"url": base, "token_url": base, "subject": ADMIN, "requests_per_second": 10_000}


def emulator(base: str, options: Mapping[str, Any]) -> Google:  # noqa: ARG001
    """As `idp.Module`."""
    return Google(options)


def _schemas(person: Person) -> dict[str, Any] | None:
    found: dict[str, Any] = {"Work": {"badge": person.employee_number, "floors": [{"type": "work", "value": "3"}]}}
    if person.location:
        found["Site"] = {"name": person.location}
    return found


def _name(person: Person) -> dict[str, Any]:
    first, last = person.first_name, person.last_name
    return {"givenName": first, "familyName": last, "fullName": f"{first} {last}"}


_TOLD: Final = {
    ("create", False): "CREATE_USER",
    ("delete", False): "DELETE_USER",
    ("disable", False): "SUSPEND_USER",
    ("enable", False): "UNSUSPEND_USER",
    ("join", False): "ADD_GROUP_MEMBER",
    ("leave", False): "REMOVE_GROUP_MEMBER",
    ("create", True): "CREATE_GROUP",
    ("delete", True): "DELETE_GROUP",
    ("update", True): "CHANGE_GROUP_NAME",
}
"""What happened, and whether to a group alone → the name of the event."""


def _suspended(person: Person) -> bool:
    return not person.active and _digest("status", person.id, 2) % 3 != 0


def _archived(person: Person) -> bool:
    return not person.active and _digest("status", person.id, 2) % 3 != 1


class Google:
    """The emulator."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.company = Organisation(0, [], [])
        self._options = options
        self._pages, self._chains, self.happened = Pages(), Chains(), Happenings()
        self._tokens: dict[str, tuple[float, frozenset[str], bool]] = {}
        self._window, self._calls = 0.0, 0
        self._former: dict[str, list[str]] = {}
        self._deleted: dict[str, tuple[Person, str]] = {}
        self._addresses: dict[str, str] = {}
        self.channels = Channels(options)
        self._routes: list[tuple[re.Pattern[str], str, frozenset[str], Callable[..., Answer]]] = [
            (re.compile(_ROOT + pattern), scope, known | _COMMON, answer)
            for pattern, scope, known, answer in (
                ("/users", "user", _SEARCH | _VIEW | {"showDeleted", "event"}, self._list_users),
                ("/users/([^/]+)", "user", _VIEW, self._one_user),
                ("/groups", "group", _SEARCH | {"userKey"}, self._list_groups),
                ("/groups/([^/]+)", "group", frozenset[str](), self._one_group),
                ("/groups/([^/]+)/members", "group.member", _LIST | _OF_MEMBERS, self._members),
                ("/groups/([^/]+)/hasMember/([^/]+)", "group.member", frozenset[str](), self._has_member),
            )
        ]  # fmt: skip
        known = _COMMON | {"eventName", "startTime", "endTime", "maxResults", "pageToken", "customerId"}
        path = re.compile(r"/admin/reports/v1/activity/users/all/applications/(admin|login)")
        self._routes.append((path, "reports", known, self._activities))
        address = self._address
        self._of_user: dict[str, Callable[[Person], Any]] = {
            "kind": lambda _: "admin#directory#user",
            "id": lambda p: user_id(p.id),
            "etag": lambda p: f'"{_digest("etag", repr(p), 12):024x}"',
            "primaryEmail": lambda p: self._addresses[p.id],
            "name": _name,
            "isAdmin": lambda _: False,
            "isDelegatedAdmin": lambda _: False,
            "suspended": _suspended,
            "suspensionReason": lambda p: "ADMIN" if _suspended(p) else None,
            "archived": lambda p: None if self._unsaid(p) else _archived(p),
            "creationTime": lambda _: _CREATED,
            "lastLoginTime": lambda p: _CREATED if p.active else "1970-01-01T00:00:00.000Z",
            "emails": self._emails,
            "aliases": lambda p: self._aliases(p) or None,
            "externalIds": lambda p: [{"value": p.employee_number, "type": "organization"}],
            "relations": lambda p: [{"value": to, "type": "manager"}] if (to := address(p.manager)) else None,
            "organizations": lambda p: [{"title": p.title, "department": p.department, "primary": True}],
            "locations": lambda p: [{"type": "desk", "area": p.location}] if p.location else None,
            "languages": lambda p: [{"languageCode": p.locale, "preference": "preferred"}],
            "customerId": lambda _: CUSTOMER,
            "orgUnitPath": lambda p: f"/{p.department}" if p.department else "/",
            "isMailboxSetup": lambda _: True,
            "includeInGlobalAddressList": lambda _: True,
            "agreedToTerms": lambda _: True,
            "customSchemas": _schemas,
            "deletionTime": lambda p: self._deleted[p.id][1] if p.id in self._deleted else None,
        }
        self._of_group: dict[str, Callable[[int], Any]] = {
            "kind": lambda _: "admin#directory#group",
            "id": lambda at: self._group_ids[at],
            "etag": lambda at: f'"{_digest("etag", f"{self._team(at)} {len(self._members_of[at])}", 12):024x}"',
            "email": lambda at: self._group_emails[at],
            "name": lambda at: self._team(at).name,
            "directMembersCount": self._counted,
            "description": lambda at: f"{self._team(at).kind}: {self._team(at).about}" if at % 2 else "",
            "adminCreated": lambda _: True,
            "aliases": lambda at: [f"alias-{self._group_emails[at]}"] if at % 5 == 0 else None,
        }

    def load(self, company: Organisation) -> None:
        """As `server.Emulator`."""
        earlier = {person.id: person for person in self.company.people}
        binned = {*self._deleted}
        self.happened.observe(company)
        present = {person.id for person in company.people}
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        for person in self.company.people:
            if person.id not in present:
                self._deleted.setdefault(person.id, (person, now))
        second = self._options.get("second", 0)
        domains = {p.id: OTHER_DOMAIN if second and at % second == 0 else DOMAIN for at, p in enumerate(company.people)}
        for person in company.people:
            address = f"{person.username}@{domains[person.id]}"
            if (before := self._addresses.get(person.id, address)) != address:
                self._former.setdefault(person.id, []).append(before)
            self._addresses[person.id] = address
        self.company = company
        self._group_ids = [group_id(team.id) for team in company.teams]
        self._group_emails = [
            group_email(team, OTHER_DOMAIN if second and at % second == 0 else DOMAIN)
            for at, team in enumerate(company.teams)
        ]
        self._group_at: dict[str, int] = {}
        for at, (key, email) in enumerate(zip(self._group_ids, self._group_emails, strict=True)):
            self._group_at |= {key: at, email.lower(): at, f"alias-{email}".lower(): at}
        self._user_at: dict[str, int] = {}
        for at, person in enumerate(company.people):
            self._user_at |= {user_id(person.id): at, self._addresses[person.id].lower(): at}
        for at, person in enumerate(company.people):
            for alias in self._aliases(person):
                self._user_at.setdefault(alias.lower(), at)
        nested: dict[int, list[int]] = {}
        for parent, child in zip(company.nest_parent.tolist(), company.nest_child.tolist(), strict=True):
            nested.setdefault(parent, []).append(child)
        bounds = np.searchsorted(company.member_team, np.arange(1, max(len(company.teams), 1)))
        people = np.split(company.member_person, bounds)
        self._members_of: list[list[Member]] = []
        self._groups_of: dict[int, list[int]] = {}
        for at, found in zip(range(len(company.teams)), people, strict=False):
            members: list[Member] = [("user", one) for one in found.tolist()]
            for _, one in members:
                self._groups_of.setdefault(one, []).append(at)
            members += [("group", child) for child in nested.get(at, ())]
            members += [("external", 0)] if at % 3 == 1 else []
            members += [("customer", 0)] if at % 7 == 2 else []
            self._members_of.append(members)
        self._rendered: dict[Any, list[bytes]] = {}
        self._member_rows: dict[Any, list[bytes]] = {}
        if not self.channels.known:
            return
        happened = [("delete", person) for key, person in earlier.items() if key not in present]
        for person in company.people:
            if earlier.get(person.id) != person:
                new = "undelete" if person.id in binned else "add"
                happened.append(("update" if person.id in earlier else new, person))
        self.channels.tell((event, self._told(person)) for event, person in happened)

    def _told(self, person: Person) -> dict[str, str]:
        """What a message says of somebody."""
        names = {"id": user_id(person.id), "primaryEmail": self._addresses[person.id]}
        return names | {"etag": self._of_user["etag"](person)}

    def control(self, name: str, given: Any) -> Any:
        """As `server.Connection`: what channels there are, and their end."""
        if name == "subscriptions":
            return self.channels.shown()
        if name != "unsubscribe":
            raise ValueError(f"no such control: {name}")
        for key in given or list(self.channels.known):
            self.channels.known.pop(key, None)
        return {}

    def _team(self, at: int) -> Team:
        return self.company.teams[at]

    def _address(self, person: str) -> str | None:
        return self._addresses.get(person)

    def _unsaid(self, person: Person) -> bool:
        every = self._options.get("unsaid", 0)
        return bool(every) and person.active and _digest("unsaid", person.id, 2) % every == 0

    def _emails(self, person: Person) -> list[dict[str, Any]]:
        emails: list[dict[str, Any]] = [{"address": self._addresses[person.id], "primary": True}]
        return emails + ([{"address": person.email, "type": "work"}] if person.email else [])

    def _aliases(self, person: Person) -> list[str]:
        own = [person.email] if person.email and person.email != self._addresses[person.id] else []
        return [*self._former.get(person.id, ()), *own]

    def _counted(self, at: int) -> str:
        members, what = self._members_of[at], self._options.get("counts", "users")
        users = sum(kind != "group" for kind, _ in members)
        whole = what == "all" or (what == "mixed" and at % 2)
        return str(max(0, (len(members) if whole else users) + self._options.get("off", 0)))

    # --- requests ------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `server.Emulator`: `GET /users`, `GET /groups/{key}/members`, `POST /token`."""
        path = re.sub(r"^(/users|/groups)/(?!watch$)[^/]+", r"\1/{key}", request.path.removeprefix(_ROOT))
        return f"{request.method} {re.sub(r'/hasMember/.*', '/hasMember/{key}', path)}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `server.Emulator`."""
        reasons = {400: "invalid", 401: "authError", 403: "forbidden", 404: "notFound", 429: "rateLimitExceeded"}
        return _error(status, detail, reasons.get(status, "backendError"), headers)

    def answer(self, request: Request) -> Answer:
        """As `server.Emulator`."""
        if request.path == "/token":
            return self._grant(request)
        if path := self._options.get("record"):
            line = {"method": request.method, "path": request.path, "query": dict(request.query)}
            with Path(path).open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")
        if request.path == f"{_ROOT}/users/watch" and request.method == "POST":
            self._authorise(request, "user")
            self._throttle()
            return self.channels.watch(request, self._where(request.query))
        if request.path == "/admin/directory_v1/channels/stop" and request.method == "POST":
            self._authorise(request, "user")
            self._throttle()
            return self.channels.stop(request)
        for pattern, scope, known, answer in self._routes:
            if match := pattern.fullmatch(request.path):
                self._authorise(request, scope)
                self._throttle()
                if request.method != "GET":
                    raise Refusal(self.failure(404, "Not Found"))
                if strange := request.query.keys() - known:
                    name = min(strange)
                    raise _invalid(
                        f'Invalid JSON payload received. Unknown name "{name}": Cannot bind query parameter.'
                    )
                return answer(request, *map(unquote, match.groups()))
        raise Refusal(self.failure(404, "Not Found"))

    def _throttle(self) -> None:
        limit, now = self._options.get("limit"), time.monotonic()
        if limit is None:
            return
        if now >= self._window:
            self._window, self._calls = now + self._options.get("window", 60), 0
        self._calls += 1
        if self._calls > limit:
            busy = str(self._options.get("busy", "userRateLimitExceeded"))
            if busy == "429":
                raise Refusal(_error(429, "Quota exceeded for quota metric 'Queries'.", "rateLimitExceeded"))
            raise Refusal(_error(403, "Request rate higher than configured.", busy, domain="usageLimits"))

    def _grant(self, request: Request) -> Answer:
        def refused(status: int, error: str, told: str) -> Answer:
            return Answer(orjson.dumps({"error": error, "error_description": told}), status, _KIND)

        form = request.form()
        if request.method != "POST":
            return Answer(b"", 404, "text/html")
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            return refused(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type', '')}")
        given, known = form.get("assertion", ""), self._options.get("email")
        try:
            head = jwt.get_unverified_header(given)
            said = jwt.decode(given, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return refused(400, "invalid_grant", "Invalid JWT: Token must be in the JWS compact form.")
        if said.get("iss") != known:
            return refused(400, "invalid_grant", "Invalid grant: account not found")
        try:
            if head.get("kid", self._options["key_id"]) != self._options["key_id"]:
                raise jwt.InvalidSignatureError
            said = jwt.decode(given, self._options["key"], algorithms=["RS256"], audience=AUDIENCE, leeway=60)
            if not 0 < said["exp"] - said["iat"] <= 3600:
                raise jwt.InvalidTokenError
        except jwt.InvalidSignatureError:
            return refused(400, "invalid_grant", "Invalid JWT Signature.")
        except jwt.InvalidAudienceError:
            return refused(400, "invalid_grant", "Invalid JWT: Failed audience check.")
        except (jwt.InvalidTokenError, KeyError):
            told = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            return refused(400, "invalid_grant", told)
        scopes, subject = frozenset(str(said.get("scope", "")).split()), str(said.get("sub", known))
        admin = str(self._options.get("subject", ADMIN))
        if not scopes:
            return refused(400, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        if subject != known and not scopes <= set(self._options.get("scopes", SCOPES)):
            told = (
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized for "
                "any of the scopes requested."
            )
            return refused(401, "unauthorized_client", told)
        if subject not in (known, admin) and subject.lower() not in self._user_at:
            return refused(400, "invalid_grant", "Invalid email or User ID")
        token = f"ya29.{secrets.token_urlsafe(48)}"
        self._tokens[token] = time.monotonic() + 3599, scopes, subject == admin
        return Answer(
            orjson.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}), kind=_KIND
        )  # fmt: skip

    def _authorise(self, request: Request, scope: str) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.fails("expire"):
            self._tokens.pop(token, None)
        until, scopes, admin = self._tokens.get(token, (0.0, frozenset[str](), False))
        if not token:
            told = "Request is missing required authentication credential."
            raise Refusal(_error(401, told, "required", status_text="UNAUTHENTICATED"))
        if until <= time.monotonic():
            told = "Request had invalid authentication credentials."
            raise Refusal(_error(401, told, "authError", status_text="UNAUTHENTICATED"))
        enough = {f"{_PREFIX}{scope}", f"{_PREFIX}{scope}.readonly"} if scope != "reports" else {REPORTS}
        if scope == "group.member":
            enough |= {f"{_PREFIX}group", f"{_PREFIX}group.readonly"}
        if not scopes & enough:
            told = "Request had insufficient authentication scopes."
            raise Refusal(_error(403, told, "insufficientPermissions", status_text="PERMISSION_DENIED"))
        if not admin:
            raise Refusal(_error(403, "Not Authorized to access this resource/api", "forbidden"))

    # --- activities ----------------------------------------------------------------------------

    def _activities(self, request: Request, application: str) -> Answer:
        query, late = request.query, float(self._options.get("late", 0))
        now = datetime.now(UTC)
        found = [one for one in reversed(self.happened.all) if (now - one.at).total_seconds() >= late]
        rows = [self._activity(one) for one in found if (one.what == "sign-in") == (application == "login")]
        for name, keeps in (("startTime", str.__ge__), ("endTime", str.__le__)):
            if given := query.get(name):
                if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", given):
                    raise _invalid(f"Invalid value for: {name}")
                rows = [one for one in rows if keeps(one["id"]["time"], given)]
        if event := query.get("eventName"):
            rows = [one for one in rows if any(told["name"] == event for told in one["events"])]
        size, start = int(query.get("maxResults", 1000)), int(query.get("pageToken", "0"))
        if not 1 <= size <= 1000:
            raise _invalid("Invalid value for: maxResults")
        chosen, more = rows[start : start + size], start + size < len(rows)
        body: dict[str, Any] = {
            "kind": "admin#reports#activities",
            "etag": '"e"',
            **({"items": chosen} if chosen else {}),
        }
        return Answer(orjson.dumps(body | ({"nextPageToken": str(start + size)} if more else {})), kind=_KIND)

    def _activity(self, one: Happening) -> dict[str, Any]:
        told = _TOLD.get((one.what, one.person is None), "CHANGE_USER_CUSTOM_FIELD")
        address = self._addresses[one.person.id] if one.person else ""
        if isinstance(one.before, Person) and one.person and one.before.username != one.person.username:
            told, address = "RENAME_USER", self._former[one.person.id][-1]
        given = [{"name": "USER_EMAIL", "value": address}] if one.person else []
        given += [{"name": "GROUP_EMAIL", "value": group_email(one.team)}] if one.team else []
        actor = {"email": ADMIN, "profileId": "100000000000000000001"}
        if one.person and one.what == "sign-in":
            told, given = "login_success", [{"name": "login_type", "value": "google_password"}]
            actor = {"email": address, "profileId": user_id(one.person.id)}
        application = "login" if told == "login_success" else "admin"
        when = one.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        unique = {"time": when, "uniqueQualifier": str(-one.number), "applicationName": application}
        return {
            "kind": "admin#reports#activity",
            "id": unique | {"customerId": CUSTOMER},
            "etag": f'"{one.number}"',
            "actor": actor,
            "ipAddress": "192.0.2.1",
            "events": [
                {"type": "login" if application == "login" else "USER_SETTINGS", "name": told, "parameters": given}
            ],
        }

    # --- users ---------------------------------------------------------------------------------

    def _list_users(self, request: Request) -> Answer:
        query, mask = request.query, _mask(request.query.get("fields"), "users", self._of_user)
        where = self._where(query)
        gone = query.get("showDeleted", "").lower() == "true"
        view = _view(query)
        key = (where, view, query.get("fields"), gone, query.get("query"), query.get("orderBy"), query.get("sortOrder"))
        if key not in self._rendered:
            people = [person for person, _ in self._deleted.values()] if gone else self.company.people
            if where:
                people = [person for person in people if self._addresses[person.id].endswith(f"@{where}")]
            people = _sorted(self._searched(people, query.get("query", "")), query, self._order)
            self._rendered[key] = self._render_users(people, view, mask.get("users", {}))
        return self._list(request, "users", mask, self._rendered[key], str(key), 100, 500)

    def _render_users(self, people: Sequence[Person], view: frozenset[str], mask: Mask | None) -> list[bytes]:
        wanted = [
            (name, self._of_user[name], (mask or {}).get(name))
            for name in self._of_user
            if (not mask or name in mask) and (name != "customSchemas" or view)
        ]
        rows = []
        for person in people:
            record = {name: value for name, get, _ in wanted if (value := get(person)) is not None}
            if "customSchemas" in record and "*" not in view:
                record["customSchemas"] = {k: v for k, v in record["customSchemas"].items() if k in view}
            for name, _, below in wanted:
                if below and name in record:
                    record[name] = _chosen(record[name], below)
            rows.append(orjson.dumps(record))
        return rows

    def _order(self, by: str) -> Callable[[Person], str]:
        order: dict[str, Callable[[Person], str]] = {
            "email": lambda p: self._addresses[p.id].lower(),
            "familyName": lambda p: p.last_name.lower(),
            "givenName": lambda p: p.first_name.lower(),
        }
        if by not in order:
            raise _invalid("Invalid Input: orderBy")
        return order[by]

    def _searched(self, people: Sequence[Person], query: str) -> list[Person]:
        for clause in re.findall(r"(?:[^\s']|'[^']*')+", query):
            found = re.fullmatch(r"(isSuspended|isArchived|orgUnitPath|email|name)([=:])'?([^']*?)(\*?)'?", clause)
            if found is None:
                raise _invalid("Invalid Input: query")
            name, how, wanted, star = found.groups()
            values: dict[str, Callable[[Person], str]] = {
                "isSuspended": lambda p: str(_suspended(p)).lower(),
                "isArchived": lambda p: str(_archived(p)).lower(),
                "orgUnitPath": lambda p: f"/{p.department}",
                "email": lambda p: self._addresses[p.id].lower(),
                "name": lambda p: f"{p.first_name} {p.last_name}".lower(),
            }
            value, wanted = values[name], wanted if name == "orgUnitPath" else wanted.lower()
            if star:
                people = [p for p in people if value(p).startswith(wanted)]
            elif how == ":" and name == "name":
                people = [p for p in people if wanted in value(p)]
            else:
                people = [p for p in people if value(p) == wanted]
        return list(people)

    def _find_user(self, key: str) -> int:
        at = self._user_at.get(key.lower())
        if at is None:
            domain = key.rpartition("@")[2].lower()
            if "@" in key and domain not in (DOMAIN, OTHER_DOMAIN):
                raise Refusal(_error(403, "Not Authorized to access this resource/api", "forbidden"))
            raise Refusal(self.failure(404, "Resource Not Found: userKey"))
        return at

    def _one_user(self, request: Request, key: str) -> Answer:
        person, view = self.company.people[self._find_user(key)], _view(request.query)
        mask = _mask(request.query.get("fields"), "", self._of_user)
        return Answer(self._render_users([person], view, mask)[0], kind=_KIND)

    # --- groups --------------------------------------------------------------------------------

    def _list_groups(self, request: Request) -> Answer:
        query, mask = request.query, _mask(request.query.get("fields"), "groups", self._of_group)
        user = query.get("userKey")
        if user is not None and "customer" in query:
            raise _invalid("Invalid Input: userKey")
        where = self._where(query) if user is None or "domain" in query else ""
        key = (
            "groups",
            where,
            query.get("fields"),
            user,
            query.get("query"),
            query.get("orderBy"),
            query.get("sortOrder"),
        )
        if key not in self._rendered:
            chosen = list(range(len(self._group_ids)))
            if user is not None:
                nested = self._group_at.get(user.lower())
                member = ("group", nested) if nested is not None else ("user", self._find_user(user))
                direct = self._groups_of.get(member[1], []) if member[0] == "user" else chosen
                chosen = [at for at in direct if member[0] == "user" or member in self._members_of[at]]
            if where:
                chosen = [at for at in chosen if self._group_emails[at].endswith(f"@{where}")]
            for name, wanted in re.findall(r"(email|name):'?([^'*]*)\*?'?", query.get("query", "")):
                field = self._of_group[name]
                chosen = [at for at in chosen if str(field(at)).lower().startswith(wanted.lower())]
            chosen = _sorted(chosen, query, lambda _: lambda at: self._group_emails[at])
            self._rendered[key] = self._render_groups(chosen, mask.get("groups", {}))
        return self._list(request, "groups", mask, self._rendered[key], str(key), 200, 200)

    def _render_groups(self, chosen: Sequence[int], mask: Mask | None) -> list[bytes]:
        wanted = [(name, get) for name, get in self._of_group.items() if not mask or name in mask]
        return [
            orjson.dumps({name: value for name, get in wanted if (value := get(at)) is not None}) for at in chosen
        ]  # fmt: skip

    def _find_group(self, key: str) -> int:
        at = self._group_at.get(key.lower())
        if at is None:
            raise Refusal(self.failure(404, "Resource Not Found: groupKey"))
        return at

    def _one_group(self, request: Request, key: str) -> Answer:
        mask = _mask(request.query.get("fields"), "", self._of_group)
        return Answer(self._render_groups([self._find_group(key)], mask)[0], kind=_KIND)

    # --- members -------------------------------------------------------------------------------

    def _members(self, request: Request, key: str) -> Answer:
        query, at = request.query, self._find_group(key)
        roles = frozenset(filter(None, query.get("roles", "").upper().split(",")))
        if roles - {"OWNER", "MANAGER", "MEMBER"}:
            raise _invalid("Invalid Input: roles")
        mask = _mask(query.get("fields"), "members", dict.fromkeys(_MEMBER_FIELDS))
        derived = query.get("includeDerivedMembership", "").lower() == "true"
        name = (at, query.get("fields"), roles, derived)
        if name not in self._rendered:
            members = self._derived(at) if derived else self._members_of[at]
            below = mask.get("members") or {}
            rows: list[bytes] = []
            for place, (kind, one) in enumerate(members):
                role = ("OWNER", "MANAGER")[place] if place < 2 and kind == "user" else "MEMBER"
                if not roles or role in roles:
                    rows.append(self._member(kind, one, role, query.get("fields"), below))
            self._rendered[name] = rows
        return self._list(request, "members", mask, self._rendered[name], str(name), 200, 200)

    def _derived(self, at: int) -> list[Member]:
        """All below, once each, and the nested groups too."""
        seen: dict[Member, None] = dict.fromkeys(self._members_of[at])
        waiting = [one for kind, one in seen if kind == "group"]
        while waiting:
            for member in self._members_of[waiting.pop()]:
                if member not in seen:
                    seen[member] = None
                    if member[0] == "group":
                        waiting.append(member[1])
        return list(seen)

    def _member(self, kind: str, at: int, role: str, fields: str | None, mask: Mask) -> bytes:
        name = (kind, role, fields)
        rows = self._member_rows.get(name)
        if rows is None:
            sizes = {"user": len(self.company.people), "group": len(self._group_ids)}
            rows = self._member_rows[name] = [b""] * sizes.get(kind, 1)
        if not rows[at]:
            record = self._member_record(kind, at, role)
            rows[at] = orjson.dumps({k: v for k, v in record.items() if not mask or k in mask})
        return rows[at]

    def _member_record(self, kind: str, at: int, role: str) -> dict[str, Any]:
        record: dict[str, Any] = {"kind": "admin#directory#member"}
        if kind == "user":
            person = self.company.people[at]
            status = "SUSPENDED" if _suspended(person) else "ARCHIVED" if _archived(person) else "ACTIVE"
            record |= {"id": user_id(person.id), "email": self._addresses[person.id], "type": "USER", "status": status}
        elif kind == "group":
            record |= {"id": self._group_ids[at], "email": self._group_emails[at], "type": "GROUP", "status": "ACTIVE"}
        elif kind == "external":
            outside = "USER" if self._options.get("outsiders") else "EXTERNAL"
            record |= {"id": user_id("somebody else"), "email": "guest@partner.example", "type": outside}
        else:
            record |= {"id": CUSTOMER, "type": "CUSTOMER", "status": "ACTIVE"}
        return {**record, "role": role, "etag": f'"{_digest("etag", str(record), 12):024x}"'}

    def _has_member(self, _: Request, group: str, key: str) -> Answer:
        at, member = self._find_group(group), self._user_at.get(key.lower())
        if member is None:  # also groups, and addresses outside the account
            raise _invalid("Invalid Input: memberKey")
        return Answer(orjson.dumps({"isMember": ("user", member) in self._derived(at)}), kind=_KIND)

    # --- lists ---------------------------------------------------------------------------------

    def _where(self, query: Mapping[str, str]) -> str:
        """The domain that was asked for, "" for the whole account."""
        if "customer" in query:
            if query["customer"] not in ("my_customer", CUSTOMER):
                raise _invalid("Invalid Input: customer")
            return ""
        domain = query.get("domain", "").lower()
        if not domain:
            raise Refusal(_error(400, "Bad Request", "badRequest"))
        if domain not in (DOMAIN, OTHER_DOMAIN):
            raise Refusal(self.failure(404, "Domain not found."))
        return domain

    def _list(
        self, request: Request, what: str, mask: Mask, rows: Sequence[bytes], name: str, default: int, most: int
    ) -> Answer:
        query = request.query
        try:
            count = int(query.get("maxResults", default))
        except ValueError:
            count = 0
        if count < 1 or (count > most and what == "users"):
            raise _invalid(f"Invalid value '{query.get('maxResults')}'. Values must be within the range: [1, {most}]")
        same = f"{_digest('page', name, 6):x}"
        start, chain = _start(query["pageToken"], same) if query.get("pageToken") else (0, 0)
        try:
            rows = self._chains[chain] if chain else rows
        except ValueError:
            raise _invalid("Invalid Input: pageToken") from None
        count, after = min(count, most), start + min(count, most)
        mark = "B"
        if self._options.get("short"):
            count = max(1, count // 2)
            after = start + count
            if start // count % 3 == 2 and not query["pageToken"].endswith("A"):
                count, after, mark = 0, start, "A"  # nobody, and the same place once more
        chosen = self._pages.cut(request.path, rows, start, count, request)
        more = after < len(rows) and not request.fails("empty")
        chain = chain or (self._chains.begin(rows) if more else 0)
        token = _token(after, same, chain, mark)
        if request.fails("cursor"):
            more, token = True, query.get("pageToken") or _token(start, same, chain, "B")
        page: list[bytes] = [] if mask and "kind" not in mask else [b'"kind":"admin#directory#' + what.encode() + b'"']
        if not mask or "etag" in mask:
            page.append(b'"etag":"\\"' + f"{_digest('etag', f'{name} {start}', 12):024x}".encode() + b'\\""')
        if chosen and (not mask or what in mask):  # no key where there is nobody
            page.append(b'"' + what.encode() + b'":[' + b",".join(chosen) + b"]")
        if more and (not mask or "nextPageToken" in mask):
            page.append(b'"nextPageToken":"' + token.encode() + b'"')
        return Answer(b"{" + b",".join(page) + b"}", kind=_KIND)


_MEMBER_FIELDS: Final = ("kind", "id", "email", "type", "status", "role", "etag", "delivery_settings")


def _view(query: Mapping[str, str]) -> frozenset[str]:
    """The custom schemas to show; * for all."""
    projection, mask = query.get("projection", "basic"), query.get("customFieldMask", "")
    if projection not in ("basic", "custom", "full"):
        raise _invalid("Invalid Input: projection")
    if (projection == "custom") != bool(mask):
        raise _invalid("Invalid Input: customFieldMask")
    return frozenset(mask.split(",")) if mask else frozenset("*" if projection == "full" else "")


def _sorted(records: list[Any], query: Mapping[str, str], order: Callable[[str], Callable[[Any], str]]) -> list[Any]:
    if by := query.get("orderBy"):
        return sorted(records, key=order(by), reverse=query.get("sortOrder", "").upper() == "DESCENDING")
    return records


def _token(start: int, same: str, chain: int, mark: str) -> str:
    """Where the next page starts, and of which list."""
    return base64.urlsafe_b64encode(f"{start:09}.{same:0>12}.{chain}".encode()).decode().rstrip("=") + mark


def _start(token: str, same: str) -> tuple[int, int]:
    try:
        start, of, chain = base64.urlsafe_b64decode(token[:-1] + "=" * (-len(token[:-1]) % 4)).decode().split(".")
        if of != f"{same:0>12}" or token[-1:] not in ("A", "B"):
            raise ValueError
        return int(start), int(chain)
    except (ValueError, binascii.Error, UnicodeDecodeError):
        raise _invalid("Invalid Input: pageToken") from None


def _mask(fields: str | None, what: str, known: Mapping[str, Any]) -> Mask:
    """`fields`, taken apart; {} is everything. Unknown names are refused."""
    if not fields or fields == "*":
        return {}
    mask = _parsed(fields)
    of_list = {"kind", "etag", "nextPageToken", "trigger_event", what} if what else set()
    below = mask.get(what) if what else mask
    strange = mask.keys() - of_list if what else set()
    strange |= (below or {}).keys() - known.keys() - {"*"}
    if strange:
        raise _invalid(f"Invalid field selection {min(strange)}", "invalidParameter")
    if what and below and "*" in below:
        mask[what] = None
    return mask


def _parsed(fields: str) -> Mask:
    tokens = re.findall(r"[A-Za-z0-9_$*-]+|[(),/]", fields)
    if "".join(tokens) != fields:
        raise _invalid(f"Invalid field selection {fields}", "invalidParameter")
    at = 0

    def several() -> Mask:
        nonlocal at
        mask: Mask = {}
        while True:
            if at >= len(tokens) or tokens[at] in "(),/":
                raise _invalid(f"Invalid field selection {fields}", "invalidParameter")
            name = tokens[at]
            below: Mask | None = None
            at += 1
            if tokens[at : at + 1] == ["/"]:
                at += 1
                rest = tokens[at]
                at += 1
                below = {rest: None}
            elif tokens[at : at + 1] == ["("]:
                at += 1
                below = several()
                at += 1  # the closing one
            mask[name] = below
            if tokens[at : at + 1] != [","]:
                return mask
            at += 1

    found = several()
    if at < len(tokens):
        raise _invalid(f"Invalid field selection {fields}", "invalidParameter")
    return found


def _chosen(value: Any, mask: Mask) -> Any:
    if isinstance(value, list):
        return [_chosen(one, mask) for one in value]
    if isinstance(value, dict):
        return {k: _chosen(v, below) if (below := mask[k]) else v for k, v in value.items() if k in mask}
    return value


def _invalid(message: str, reason: str = "invalid") -> Refusal:
    return Refusal(_error(400, message, reason))


def _error(
    status: int,
    message: str,
    reason: str,
    headers: Sequence[tuple[str, str]] = (),
    *,
    domain: str = "global",
    status_text: str = "",
) -> Answer:
    """Google's error."""
    error: dict[str, Any] = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": domain, "reason": reason}],
    }
    if status_text:
        error["status"] = status_text
    return Answer(orjson.dumps({"error": error}), status, _KIND, headers)
