"""Keycloak's admin REST API, as a program meets it that reads one realm.

Measured on Keycloak 26.7.3; the option `old` gives what servers before 23 did: the whole group tree nested in one
list, no list of children, and a user who is locked for a while reads as disabled when asked for alone. Keycloak has
no rate limit: `limit` is that of a proxy before it, in requests a second. Beside the people there are service
accounts, some of them members of groups. A group has one parent at most: of several, the first counts.

Of its events a realm saves those of administrators, and of what people do themselves their sign-ins: by default both.
That the list has the newest first, and that reading `events/config` needs the same role as the lists, is not
documented.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote, unquote_plus

import orjson

from deployments.sandbox.happenings import Happening, Happenings
from deployments.sandbox.organisation import Organisation, Person, Team
from deployments.sandbox.server import Answer, Pages, Refusal, Request, children_of, members_of

REALM: Final = "acme"
_JSON: Final = "application/json;charset=UTF-8"
_SERVICES: Final = ("crowdsync", "jenkins", "monitoring")
"""Clients with a service account; the second one's is a member of groups."""
SERVICE_ACCOUNTS: Final = tuple(str(uuid.uuid5(uuid.NAMESPACE_DNS, client)) for client in _SERVICES)
"""Their ids."""
_IN_LISTS: Final = b',"access":{"manage":false}'
_OF_ONE: Final = (
    b',"access":{"manageGroupMembership":false,"resetPassword":false,"view":true,"mapRoles":false,'
    b'"impersonate":false,"manage":false}'
)
_OF_GROUP: Final = {
    "access": {"view": True, "viewMembers": True, "manageMembers": False, "manage": False, "manageMembership": False}
}
_NAMED: Final = ("username", "email", "firstName", "lastName")
_FILTERS: Final = (*_NAMED, "enabled", "emailVerified", "exact", "q", "idpAlias", "idpUserId")
_ROLES: Final = {"view-users": 2, "query-users": 1, "": 0}


class User(NamedTuple):
    """One user: the record in two lengths, each without its last brace, and what filters look at."""

    id: str
    username: str
    named: dict[str, str]
    enabled: bool
    verified: bool
    attributes: dict[str, list[str]]
    service: bool
    locked: bool
    brief: bytes
    full: bytes


class Group(NamedTuple):
    """One group and its place in the tree. `members` are indices into the users, by username."""

    id: str
    name: str
    path: str
    parent: str
    children: list[str]
    members: list[int]
    attributes: dict[str, list[str]]
    description: str


class Keycloak:
    """As `server.Emulator`. `options`: client_id, client_secret, role (view-users, query-users or ""), realm,
    token_realm, prefix (of all paths), lifetime (of tokens, seconds), limit, old; literal: * in a search for groups is
    but a character, as it was once; likeness: one person's username begins as those of service accounts do;
    saves: which events the realm saves, "admin", "user" or "admin user" (default); may_view_events (true); shared_mail:
    two people have one e-mail address; federation: so many more (or, below 0, fewer) users are counted than listed,
    as where a federated store has people whom the other side does not know of."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.company = Organisation(0, [], [])
        self._client = (str(options.get("client_id", "crowdsync")), str(options.get("client_secret", "")))
        self._role = _ROLES[options.get("role", "view-users")]
        self._realm = str(options.get("realm", REALM))
        self._token_realm = str(options.get("token_realm", self._realm))
        self._prefix = str(options.get("prefix", ""))
        self._lifetime = int(options.get("lifetime", 300))
        self._limit = int(options.get("limit", 0))
        self._old = bool(options.get("old", False))
        self._literal = bool(options.get("literal", False))
        self._likeness = bool(options.get("likeness", False))
        self._shared_mail = bool(options.get("shared_mail", False))
        self._saves = str(options.get("saves", "admin user")).split()
        self._may_view_events = bool(options.get("may_view_events", True))
        self.happened = Happenings()
        self._federation = int(options.get("federation", 0))
        self._tokens: dict[str, float] = {}
        self._second, self._asked = 0, 0
        self._moved: dict[str, int] = {}
        self._pages = Pages(malformed=b'{"id":7')
        self._users: list[User] = []
        self._groups: dict[str, Group] = {}

    # --- the company as the realm ----------------------------------------------------------------

    def load(self, company: Organisation) -> None:
        """As `Emulator.load`. Usernames are lower-case and unique: a second bearer would not have been let in."""
        self.company = company
        self.happened.observe(company)
        users, taken = [_service(client) for client in _SERVICES], set[str]()
        for person in self._as_wished(company):
            if (name := person.username.lower()) not in taken and len(name) <= 255:
                taken.add(name)
                users.append(_user(person))
        users.sort(key=lambda user: user.username)
        self._users = users
        self._plain = [i for i, user in enumerate(users) if not user.service]
        self._brief = [user.brief for user in users if not user.service]
        self._full = [user.full for user in users if not user.service]
        self._by_id = {user.id: i for i, user in enumerate(users)}
        self._by_name = {user.username: i for i, user in enumerate(users)}
        self._load_groups(company)

    def _as_wished(self, company: Organisation) -> Iterator[Person]:
        member = int(company.member_person[0]) if len(company.member_person) else 0
        for at, person in enumerate(company.people):
            if self._likeness and at == member:
                yield person._replace(username=f"service-account-{person.username}")
            elif self._shared_mail and at < 2:
                yield person._replace(email="shared@acme.example")
            else:
                yield person

    def _load_groups(self, company: Organisation) -> None:
        parents: dict[str, str] = {}
        for parent, nested in children_of(company).items():
            for child in nested:
                above: str | None = parent
                while above not in (None, child):
                    above = parents.get(above or "")
                if above is None:  # no circle: Keycloak's groups are a tree
                    parents.setdefault(child, parent)
        teams = {team.id: team for team in company.teams}
        below: dict[str, list[Team]] = {}
        for team in sorted(company.teams, key=lambda team: team.name):
            below.setdefault(parents.get(team.id, ""), []).append(team)
        robot = self._by_name[f"service-account-{_SERVICES[1]}"]
        members = {}
        for place, (team, ids) in enumerate(zip(company.teams, members_of(company), strict=True)):
            found = sorted(self._by_id[key] for key in ids if key in self._by_id)
            members[team.id] = sorted([*found, robot]) if place < 2 else found
        self._groups = {}
        waiting = [(team, "") for team in reversed(below.get("", []))]
        while waiting:
            team, above = waiting.pop()
            path, children = f"{above}/{team.name}", below.get(team.id, [])
            self._groups[team.id] = Group(
                team.id,
                team.name,
                path,
                parents.get(team.id, ""),
                [child.id for child in children],
                members[team.id],
                {"kind": [team.kind]} if team.kind else {},
                f"Works on {team.about}" if team.kind == "project" else "",
            )
            waiting += [(child, path) for child in reversed(children)]
        assert len(self._groups) == len(teams)
        self._top = [team.id for team in below.get("", [])]
        self._groups_of: dict[int, list[str]] = {}
        for group in self._groups.values():
            for member in group.members:
                self._groups_of.setdefault(member, []).append(group.id)

    # --- requests --------------------------------------------------------------------------------

    def label(self, request: Request) -> str:
        """As `Emulator.label`: `GET /groups/{id}/members`, `POST /token`."""
        steps = _steps(request.path.removeprefix(self._prefix))
        if steps[-1:] == ["token"]:
            return f"{request.method} /token"
        steps = ["{id}" if at == 1 and step != "count" else step for at, step in enumerate(steps[3:])]
        return f"{request.method} /{'/'.join(steps)}"

    def failure(self, status: int, detail: str, headers: Sequence[tuple[str, str]] = ()) -> Answer:
        """As `Emulator.failure`."""
        if status in (429, 502, 503, 504):  # never Keycloak's own words
            return Answer(f"<html><h1>{status}</h1></html>".encode(), status, "text/html", headers)
        return Answer(orjson.dumps({"error": detail}), status, "application/json", headers)

    def answer(self, request: Request) -> Answer:
        """As `Emulator.answer`."""
        self._throttle()
        if not request.path.startswith(f"{self._prefix}/"):
            raise self._refusal(404, "Unable to find matching target resource method")
        if "//" in request.path:
            told = {"error": "missingNormalization", "error_description": "Request path not normalized"}
            raise Refusal(Answer(orjson.dumps(told), 400))
        match _steps(request.path.removeprefix(self._prefix)):
            case ["realms", realm, "protocol", "openid-connect", "token"]:
                return self._token(request, realm)
            case ["admin", "realms", realm, *rest]:
                self._check_token(request)
                if realm != self._realm:
                    raise self._refusal(
                        *((403, "HTTP 403 Forbidden") if realm == "master" else (404, "Realm not found."))
                    )
                if request.method != "GET":
                    raise self._refusal(403, "HTTP 403 Forbidden")
                return self._read(request, rest)
        raise self._refusal(404, "Unable to find matching target resource method")

    def _throttle(self) -> None:
        if not self._limit:
            return
        now = int(time.monotonic())
        self._asked = self._asked + 1 if now == self._second else 1
        self._second = now
        if self._asked > self._limit:
            raise Refusal(self.failure(429, "", [("Retry-After", "1")]))

    def _refusal(self, status: int, detail: str) -> Refusal:
        return Refusal(self.failure(status, detail))

    def _token(self, request: Request, realm: str) -> Answer:
        def refuse(status: int, error: str, told: str = "") -> Refusal:
            body = {"error": error, **({"error_description": told} if told else {})}
            return Refusal(Answer(orjson.dumps(body), status))

        if realm not in (self._realm, self._token_realm, "master"):
            raise refuse(404, "Realm does not exist")
        if request.method != "POST":
            raise refuse(405, "HTTP 405 Method Not Allowed")
        form = request.form()
        given = (form.get("client_id", ""), form.get("client_secret", ""))
        basic = request.headers.get("authorization", "")
        if basic.startswith("Basic "):
            try:
                name, _, word = base64.b64decode(basic[6:]).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                name = word = ""
            given = (unquote_plus(name), unquote_plus(word))
        if "grant_type" not in form:
            raise refuse(400, "invalid_request", "Missing form parameter: grant_type")
        if realm != self._token_realm or given != self._client:
            known = realm == self._token_realm and given[0] == self._client[0]
            error = "unauthorized_client" if known else "invalid_client"
            raise refuse(401, error, "Invalid client or Invalid client credentials")
        if form["grant_type"] == "password":
            raise refuse(400, "unauthorized_client", "Client not allowed for direct access grants")
        if form["grant_type"] != "client_credentials":
            raise refuse(400, "unsupported_grant_type", "Unsupported grant_type")
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + self._lifetime
        self._moved.clear()  # whoever comes now has seen nothing move
        body = {
            "access_token": token,
            "expires_in": self._lifetime,
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": "profile email",
        }
        return Answer(orjson.dumps(body), headers=[("Cache-Control", "no-store"), ("Pragma", "no-cache")])

    def _check_token(self, request: Request) -> None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if request.fails("expire"):
            self._tokens.pop(token, None)
        if self._tokens.get(token, 0) <= time.monotonic():
            raise self._refusal(401, "HTTP 401 Unauthorized")

    def _read(self, request: Request, steps: list[str]) -> Answer:
        if not self._role:
            raise self._refusal(403, "HTTP 403 Forbidden")
        if self._role < 2 and steps not in ([], ["users"], ["users", "count"]):
            raise self._refusal(403, "HTTP 403 Forbidden")
        match steps:
            case []:
                return _said({"realm": self._realm, "bruteForceProtected": True, "supportedLocales": []})
            case ["users"]:
                return self._list_users(request)
            case ["users", "count"]:
                found = self._found_users(request.query)
                number = len(self._plain if found is None else found)
                return _said(self._count(number + (self._federation if found is None else 0), request))
            case ["users", key, *rest]:
                if key not in self._by_id:
                    raise self._refusal(404, "User not found")
                return self._one_user(request, self._by_id[key], rest)
            case ["groups"]:
                return self._list_groups(request)
            case ["groups", "count"]:
                words, top = request.query.get("search", ""), _flag(request, "top", False)
                number = len(self._matching(words, False)) if words else len(self._top if top else self._groups)
                return _said({"count": self._count(number, request)})
            case ["groups", key, *rest]:
                group = self._groups.get(key)
                if group is None:
                    raise self._refusal(404, "Could not find group by id")
                return self._one_group(request, group, rest)
            case ["events", "config"] | ["admin-events"] | ["events"] if not self._may_view_events:
                raise self._refusal(403, "HTTP 403 Forbidden")
            case ["events", "config"]:
                admin, user = "admin" in self._saves, "user" in self._saves
                more = {
                    "enabledEventTypes": [],
                    "eventsListeners": ["jboss-logging"],
                    "adminEventsDetailsEnabled": False,
                }
                return _said({"eventsEnabled": user, "eventsExpiration": 0, "adminEventsEnabled": admin, **more})
            case ["admin-events"]:
                return self._list_events(request, "admin", _OF_ADMINS, "resourceTypes", "resourceType")
            case ["events"]:
                return self._list_events(request, "user", _OF_USERS, "type", "type")
            case ["group-by-path", *names]:
                path = "/" + "/".join(names)
                group = next((one for one in self._groups.values() if one.path == path), None)
                if group is None:
                    raise self._refusal(404, "Group path does not exist")
                shown = self._shown(group, brief=False)
                shown.pop("access", None)
                return _said(shown)
        raise self._refusal(404, "HTTP 404 Not Found")

    def _count(self, number: int, request: Request) -> int:
        fault = request.fault
        if fault is not None and fault.kind == "total":
            return number + 1 if fault.total is None else fault.total
        return number + self._moved.pop(_kind(request), 0)

    def _window(self, request: Request, most: int) -> tuple[int, int]:
        """`first` and `max`. What is no number is not found, says Keycloak."""
        try:
            first, count = int(request.query.get("first") or -1), int(request.query.get("max") or most)
            if max(abs(first), abs(count)) >= 2**31:
                raise ValueError
        except ValueError:
            raise self._refusal(404, "HTTP 404 Not Found") from None
        if request.fails("total"):  # the list moves while it is read, which the next count will show
            self._moved[_kind(request)] = 1
        return max(0, first), count if count >= 0 else 2**31

    def _list(self, request: Request, name: str, records: Sequence[bytes], most: int, end: bytes) -> Answer:
        first, count = self._window(request, most)
        page = self._pages.cut(name, records, first, count, request)
        return Answer(b"[" + (end + b"},").join(page) + end + b"}]" if page else b"[]", kind=_JSON, headers=_NO_CACHE)

    # --- users -----------------------------------------------------------------------------------

    def _list_users(self, request: Request) -> Answer:
        if self._role < 2:
            return Answer(b"[]", kind=_JSON, headers=_NO_CACHE)
        found, brief = self._found_users(request.query), _flag(request, "briefRepresentation", False)
        if found is None:
            records = self._brief if brief else self._full
        else:
            records = [self._users[i].brief if brief else self._users[i].full for i in found]
        return self._list(request, "users", records, 100, _IN_LISTS)

    def _found_users(self, query: Mapping[str, str]) -> list[int] | None:
        """Users that match, by index; None for the plain list. Named filters find service accounts too."""
        words = query.get("search", "").strip()
        if words.startswith("id:"):
            return [self._by_id[key]] if (key := words[3:].strip()) in self._by_id else []
        if words:
            fits = [_pattern(word).fullmatch for word in words.lower().split()]
            texts = ((i, [text.lower() for text in self._users[i].named.values()]) for i in self._plain)
            return [i for i, named in texts if all(any(map(fit, named)) for fit in fits)]
        if not any(query.get(name) for name in _FILTERS):
            return None
        exact = query.get("exact", "").lower() == "true"
        if exact and query.get("username") and not any(query.get(name) for name in _FILTERS[1:] if name != "exact"):
            at = self._by_name.get(query["username"].lower())
            return [] if at is None else [at]
        found = range(len(self._users))
        return [i for i in found if self._fits(self._users[i], query, exact)]

    def _fits(self, user: User, query: Mapping[str, str], exact: bool) -> bool:
        for name in _NAMED:
            if wanted := query.get(name, "").lower():
                has = user.named.get(name, "").lower()
                if has != wanted if exact else wanted not in has:
                    return False
        for name, has_it in (("enabled", user.enabled), ("emailVerified", user.verified)):
            if (said := query.get(name)) and (said.lower() == "true") != has_it:
                return False
        pairs = (pair.partition(":") for pair in query.get("q", "").split())
        return all(value in user.attributes.get(key, ()) for key, _, value in pairs)

    def _one_user(self, request: Request, at: int, steps: list[str]) -> Answer:
        user, groups = self._users[at], self._groups_of.get(at, [])
        match steps:
            case []:
                record = user.full
                if user.locked and self._old:
                    record = record.replace(b'"enabled":true', b'"enabled":false')
                return Answer(record + _OF_ONE + b"}", kind=_JSON, headers=_NO_CACHE)
            case ["groups"]:
                words = request.query.get("search", "").lower()
                chosen = [self._groups[key] for key in groups]
                chosen = sorted((g for g in chosen if words in g.name.lower()), key=lambda group: group.name)
                brief = _flag(request, "briefRepresentation", True)
                shown = [self._shown(group, brief=brief, bare=True) for group in chosen]
                return self._list(request, "groups of a user", [orjson.dumps(one)[:-1] for one in shown], -1, b"")
            case ["groups", "count"]:
                return _said({"count": self._count(len(groups), request)})
        raise self._refusal(404, "HTTP 404 Not Found")

    # --- groups ----------------------------------------------------------------------------------

    def _shown(
        self, group: Group, *, brief: bool, bare: bool = False, counts: bool = True, below: Sequence[Any] = ()
    ) -> dict[str, Any]:
        """A group as an object; `bare` as it stands among the groups of a user."""
        shown: dict[str, Any] = {"id": group.id, "name": group.name}
        if group.description and not self._old:
            shown["description"] = group.description
        shown["path"] = group.path
        if group.parent and not self._old:
            shown["parentId"] = group.parent
        if counts and not bare and not self._old:
            shown["subGroupCount"] = len(group.children)
        shown["subGroups"] = below
        if not brief:
            shown |= {"attributes": group.attributes, "realmRoles": [], "clientRoles": {}}
        return shown if bare else {**shown, **_OF_GROUP}

    def _list_groups(self, request: Request) -> Answer:
        query, words = request.query, request.query.get("search", "").strip()
        brief, counts = _flag(request, "briefRepresentation", True), _flag(request, "subGroupsCount", True)

        def bytes_of(group: Group, below: Sequence[Any] = ()) -> bytes:
            return orjson.dumps(self._shown(group, brief=brief, counts=counts, below=below))[:-1]

        def tree(key: str) -> dict[str, Any]:
            group = self._groups[key]
            return self._shown(group, brief=brief, below=[tree(child) for child in group.children])

        if self._old and not words:
            records = [orjson.dumps(tree(key))[:-1] for key in self._top]
        elif not words and not query.get("q"):
            records = [bytes_of(self._groups[key]) for key in self._top]
        else:
            found = self._matching(words, _flag(request, "exact", False), query.get("q", ""))
            if not _flag(request, "populateHierarchy", True) and not self._old:
                records = [bytes_of(group) for group in found]
            else:
                first, count = self._window(request, -1)
                records = [bytes_of(g, below) for g, below in self._with_ancestors(found[first : first + count], brief)]
                return Answer(b"[" + b",".join(one + b"}" for one in records) + b"]", kind=_JSON, headers=_NO_CACHE)
        return self._list(request, "groups", records, -1, b"")

    def _matching(self, words: str, exact: bool, pairs: str = "") -> list[Group]:
        """Groups anywhere in the tree whose name has these words in it."""
        parts = [words] if self._literal else words.split("*")
        pattern = re.compile(".*".join(map(re.escape, parts)), re.IGNORECASE)
        wanted = [pair.partition(":") for pair in pairs.split()]
        found = [
            group
            for group in self._groups.values()
            if (group.name == words if exact and words else pattern.search(group.name))
            and all(value in group.attributes.get(key, ()) for key, _, value in wanted)
        ]
        return sorted(found, key=lambda group: group.name)

    def _with_ancestors(self, found: Sequence[Group], brief: bool) -> Iterator[tuple[Group, list[Any]]]:
        """The top-level groups above what was found, with what was found nested in them."""
        shown = {group.id for group in found}
        for group in found:
            while group.parent and group.parent not in shown:
                group = self._groups[group.parent]
                shown.add(group.id)

        def below(group: Group) -> list[Any]:
            chosen = [self._groups[key] for key in group.children if key in shown]
            return [self._shown(one, brief=brief, below=below(one)) for one in chosen]

        for key in self._top:
            if key in shown:
                yield self._groups[key], below(self._groups[key])

    def _one_group(self, request: Request, group: Group, steps: list[str]) -> Answer:
        match steps:
            case []:
                return _said(self._shown(group, brief=False))
            case ["children"] if self._old:
                raise self._refusal(405, "HTTP 405 Method Not Allowed")
            case ["children"]:
                brief, words = _flag(request, "briefRepresentation", False), request.query.get("search", "").lower()
                children = [one for key in group.children if words in (one := self._groups[key]).name.lower()]
                records = [orjson.dumps(self._shown(child, brief=brief))[:-1] for child in children]
                return self._list(request, "children", records, 10, b"")
            case ["members"]:
                brief = _flag(request, "briefRepresentation", False)
                records = [self._users[i].brief if brief else self._users[i].full for i in group.members]
                return self._list(request, "members", records, 100, b"")
        raise self._refusal(404, "HTTP 404 Not Found")

    # --- events ----------------------------------------------------------------------------------

    def _list_events(self, request: Request, of: str, shapes: Mapping[str, str], parameter: str, field: str) -> Answer:
        """Events that are saved, the newest first unless asked. Of `parameter` every value counts."""
        query = parse_qs(request.target.partition("?")[2])
        wanted = set(query.get(parameter, ()))
        if wanted - _EVENT_KINDS[of]:
            raise self._refusal(500, "unknown_error")
        saved = (_event(one, shapes) for one in self.happened.all if of in self._saves)
        events = [one for one in saved if one is not None and (not wanted or one[field] in wanted)]
        if request.query.get("direction") != "asc":
            events.reverse()
        for name, keeps in (("dateFrom", int.__ge__), ("dateTo", int.__le__)):
            if given := request.query.get(name):
                if not given.isdecimal():
                    told = f"Invalid value for '{name}', expected format is yyyy-MM-dd or an Epoch timestamp"
                    raise self._refusal(400, told)
                events = [one for one in events if keeps(one["time"], int(given))]
        first, most = int(request.query.get("first", 0)), int(request.query.get("max", 100))
        return _said(events[first : first + most])


# --- small parts -----------------------------------------------------------------------------------

_NO_CACHE: Final = (("Cache-Control", "no-cache"),)
_OF_ADMINS: Final = {
    **dict.fromkeys(("create", "update", "disable", "enable", "delete"), "USER"),
    **dict.fromkeys(("join", "leave"), "GROUP_MEMBERSHIP"),
}
_OF_USERS: Final = {"sign-in": "LOGIN"}
_EVENT_KINDS: Final = {
    "admin": {"USER", "GROUP", "GROUP_MEMBERSHIP", "REALM_ROLE_MAPPING"},
    "user": {"LOGIN", "LOGIN_ERROR", "REGISTER", "UPDATE_PROFILE", "UPDATE_EMAIL", "VERIFY_EMAIL", "DELETE_ACCOUNT"}
    | {"USER_DISABLED_BY_PERMANENT_LOCKOUT", "USER_DISABLED_BY_TEMPORARY_LOCKOUT"},
}
_OPERATIONS: Final = {"create": "CREATE", "delete": "DELETE", "join": "CREATE", "leave": "DELETE"}


def _event(one: Happening, shapes: Mapping[str, str]) -> dict[str, Any] | None:
    """As Keycloak tells it in the list of these shapes; None where it stands in the other one. Only events of
    administrators have an id, as on most servers."""
    kind = shapes.get(one.what)
    if kind is None:
        return None
    start: dict[str, Any] = {"time": one.milliseconds, "realmId": str(uuid.uuid5(uuid.NAMESPACE_DNS, REALM))}
    if kind == "LOGIN":
        assert one.person is not None
        more = {"type": kind, "clientId": "jira", "userId": one.person.id, "ipAddress": "192.0.2.1"}
        session = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"session {one.number}"))
        return {**start, **more, "sessionId": session, "details": {"username": one.person.username.lower()}}
    path = f"users/{one.person.id}" if one.person else f"groups/{one.team.id if one.team else ''}"
    path += f"/groups/{one.team.id}" if one.person and one.team else ""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"event {one.number}")),
        **start,
        "operationType": _OPERATIONS.get(one.what, "UPDATE"),
        "resourceType": kind if one.person else "GROUP",
        "resourcePath": path,
        "authDetails": {"realmId": start["realmId"], "clientId": "c", "userId": "u", "ipAddress": "192.0.2.1"},
    }


def _user(person: Person) -> User:
    mark = int(person.id[:8], 16)
    attributes = {
        "department": [person.department],
        "employeeNumber": [person.employee_number],
        "locale": [person.locale],
        "location": [person.location],
        "title": [person.title],
    }
    attributes = {name: values for name, values in attributes.items() if values[0]}
    named = {
        "username": person.username.lower(),
        "firstName": person.first_name,
        "lastName": person.last_name,
        "email": person.email.lower(),
    }
    named = {name: value for name, value in named.items() if value}  # what is unset is left out
    federated = {"federationLink": str(uuid.uuid5(uuid.NAMESPACE_DNS, "ldap"))} if mark % 7 == 0 else {}
    verified, locked = mark % 3 != 0, mark % 11 == 0
    actions = ["UPDATE_PASSWORD"] if mark % 5 == 0 else []
    brief, full = _records(person.id, named, person.active, verified, attributes, federated, actions)
    return User(
        person.id, named["username"], named, person.active, verified, attributes, False, locked, brief, full
    )  # fmt: skip


def _kind(request: Request) -> str:
    """What a list or count is one of."""
    return "groups" if "/groups" in request.path else "users"


def _service(client: str) -> User:
    named = {"username": f"service-account-{client}"}
    key = str(uuid.uuid5(uuid.NAMESPACE_DNS, client))
    return User(key, named["username"], named, True, False, {}, True, False, *_records(key, named, True, False))


def _records(
    key: str,
    named: Mapping[str, str],
    enabled: bool,
    verified: bool,
    attributes: Mapping[str, Any] | None = None,
    federated: Mapping[str, str] | None = None,
    actions: Sequence[str] = (),
) -> tuple[bytes, bytes]:
    """The record in short and whole, each without its last brace."""
    start = {"id": key, **named, "emailVerified": verified}
    end = {"enabled": enabled, "createdTimestamp": 1_600_000_000_000 + int(key[:8], 16), **(federated or {})}
    more = {"totp": False, "disableableCredentialTypes": [], "requiredActions": actions, "notBefore": 0}
    own = {"attributes": attributes} if attributes else {}
    return orjson.dumps({**start, **end})[:-1], orjson.dumps({**start, **own, **end, **more})[:-1]


def _pattern(word: str) -> re.Pattern[str]:
    """A word of `search`: the start of a field, "x" the whole of it, * anything."""
    if len(word) > 1 and word[0] == word[-1] == '"':
        return re.compile(re.escape(word[1:-1]))
    return re.compile(".*".join(map(re.escape, word.split("*"))) + ".*", re.DOTALL)


def _steps(path: str) -> list[str]:
    return [unquote(step) for step in path.strip("/").split("/") if step]


def _flag(request: Request, name: str, absent: bool) -> bool:
    given = request.query.get(name)
    return given.lower() == "true" if given else absent


def _said(value: Any) -> Answer:
    return Answer(orjson.dumps(value), kind=_JSON, headers=_NO_CACHE)


# --- deployments.sandbox.idp.Module ----------------------------------------------------------------


def emulator(base: str, options: Mapping[str, Any]) -> Keycloak:  # noqa: ARG001
    """As `idp.Module.emulator`."""
    return Keycloak(options)


def credentials() -> tuple[dict[str, Any], dict[str, str]]:
    """As `idp.Module.credentials`."""
    secret = secrets.token_urlsafe(24)
    return {"client_id": "crowdsync", "client_secret": secret}, {"client_secret": secret}


def settings(base: str) -> dict[str, Any]:
    """As `idp.Module.settings`."""
    return {"url": base, "realm": REALM, "client_id": "crowdsync"}
