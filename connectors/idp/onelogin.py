"""OneLogin as a source, by its API version 2: https://developers.onelogin.com/api-docs/2/getting-started/dev-overview

OneLogin's roles are the groups: a person has many of them, and they carry access to applications. What OneLogin
itself calls groups, of which a person has at most one, can be read instead (`groups = "groups"`).

Lists page by cursor; their `Total-Count` proves them whole. Lists of users hold only what `fields` asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import Any, ClassVar, Final, Literal

import orjson
from pydantic import Field

from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Polled, Scope
from connectors.errors import AuthenticationError, ConfigurationError, ForbiddenError, IncompleteError, StaleCursorError
from connectors.hook import id_of
from connectors.hooks import onelogin as hooks
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, UserRow, pairs_of
from connectors.oauth import Tokens, with_secret
from connectors.paging import Part, by_cursor, distinct, drained, in_order, of_groups
from connectors.polling import MOST_EVENTS, Found, Point, cursor_of, lost, points, reached
from connectors.records import (
    Doubts,
    Flaw,
    Record,
    Rows,
    as_dict,
    dotted,
    each,
    names,
    needed,
    object_of,
    optional,
    text,
)
from connectors.records import attributes as attributes_of
from connectors.source import SourceSettings, WithClientSecret, WithPolling, client

_USERS: Final = "/api/2/users"
_ROLES: Final = "/api/2/roles"
_GROUPS: Final = "/api/1/groups"
_EVENTS: Final = "/api/1/events"
_FIRST_VERSION: Final = (_GROUPS, _EVENTS)
_FIELDS: Final = ("id", "username", "email", "firstname", "lastname", "status", "state")
_STATUSES: Final = {0: False, 1: True, 2: False, 4: True, 5: True, 8: True}
"""Whether an approved person with this status can work; 3 (locked) and 7 (password pending) are settings."""
_APPROVED: Final = 1
_OVERLAP: Final = timedelta(minutes=15)
"""How far before now a delta begins, for clocks that differ and changes that are seen late."""
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_LATE: Final = timedelta(minutes=1)
"""After that time an event is certainly in its list."""
_NO_RIGHT: Final = "Give the API credentials the scope Read Users, or Read All where `app` is set (Developers > API Credentials)."  # fmt: skip # noqa: E501


_NO_MEMBER: Final = "a member has no id, or one that is not a number"


class OneLoginSettings(WithPolling, WithClientSecret, SourceSettings):
    """A OneLogin account."""

    kind: Literal["onelogin"] = "onelogin"
    url: str = Field(description="Address of the account: https://SUBDOMAIN.onelogin.com")
    client_id: str = Field(min_length=1, description="Client id of the API credentials.")
    app: int | None = Field(None, ge=1, description="Only people and roles with this application, by its id.")
    groups: Literal["roles", "groups"] = Field(
        "roles", description="What becomes a group: roles, or OneLogin's groups."
    )
    username: Literal["username", "email", "samaccountname", "userprincipalname"] = Field(
        "username", description="The field with the username. Where `username` is not set, the e-mail address counts."
    )
    locked_active: bool = Field(True, description="Whether a locked account (status 3) counts as active.")
    pending_active: bool = Field(False, description="Whether one whose password was never set (7) counts as active.")
    page_size: int = Field(100, ge=1, le=1000, description="Users a page; OneLogin may give fewer.")
    role_page_size: int = Field(650, ge=1, le=650, description="Roles a page; of groups, at most 50.")
    known: ClassVar = ("client_secret",)


class OneLogin:
    """`http` leads to the account's API, `login` to its token endpoint."""

    name: ClassVar[str] = "onelogin"
    capabilities: ClassVar[Capabilities] = Capabilities(delta=True)
    settings: ClassVar[type[OneLoginSettings]] = OneLoginSettings

    @classmethod
    def open(cls, name: str, settings: OneLoginSettings, secrets: Mapping[str, str]) -> OneLogin:
        """As `Source.open`."""
        login = client(name, settings)
        tokens = Tokens(
            login,
            "/auth/oauth2/v2/token",
            with_secret(settings.client_id, secrets["client_secret"]),
            advice=f"Check client_id, and the secret in {settings.place('client_secret')}.",
        )
        return cls(client(name, settings, bearer=tokens), login, settings)

    def __init__(self, http: Http, login: Http, settings: OneLoginSettings) -> None:
        self._http, self._login, self._settings = http, login, settings

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return self._http, self._login

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users, or those with the application."""
        rows, fields = user_rows(self._settings, scope.attributes), self._fields(scope.attributes)
        lists = self._users_of_app(fields) if self._settings.app else self._list(_USERS, {"fields": fields}, twice=True)
        async for records, start, last in lists:
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(records, f"user from {start}", held, warnings), last, held, warnings)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:  # noqa: ARG002
        """All roles (those with the application), or all groups. They have no attributes."""
        path, params = _GROUPS, dict[str, str | int]()
        if self._settings.groups == "roles":
            path = _ROLES
            params = {"app_id": self._settings.app} if self._settings.app else {}
        async for records, start, last in self._list(path, params, twice=True):
            held: list[Held] = []
            yield Page(group_rows(records, f"group from {start}", held), last, held)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """People in these roles, role by role; or in these groups, out of one list of all users."""
        wanted, held = dict.fromkeys(groups), list[Held]()
        if self._settings.groups == "roles":
            members = partial(self._members_of, held=held)
            async for page in of_groups(wanted, members, self._settings.concurrency, held):
                yield page
        elif not wanted:
            yield Page((), True)
        else:
            async for records, _, last in self._list(_USERS, {"fields": "id,group_id"}, twice=True):
                found = [(str(as_dict(one).get("group_id")), as_dict(one).get("id")) for one in records]
                odd = {group for group, user in found if group in wanted and type(user) is not int}
                held += [Held("group", group, "", _NO_MEMBER) for group in odd]
                members_of: dict[str, list[str]] = {}
                for group, user in found:
                    if group in wanted and group not in odd:
                        members_of.setdefault(group, []).append(str(user))
                rows = [Members(group, users) for group, users in members_of.items()]
                yield Page(rows, last, held if last else ())

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, by the field that is the username, or by e-mail address."""
        record = await self._find(key, scope)
        if record is None:
            return None
        held: list[Held] = []
        warnings: list[Held] = []
        rows = user_rows(self._settings, scope.attributes)([record], "user", held, warnings)
        if held:
            raise IncompleteError(f"{self._at(_USERS)}: the user {held[0].id} cannot be read: {held[0].reason}.")
        user = rows[0]
        if self._settings.app:
            apps = self._list(f"{_USERS}/{user[0]}/apps", {"ignore_visibility": "true"})
            if str(self._settings.app) not in [self._id_of(app, "apps") async for page, *_ in apps for app in page]:
                return None
        roles = record.get("role_ids") if self._settings.groups == "roles" else [record.get("group_id")]
        if not isinstance(roles, list):
            raise IncompleteError(f"{self._at(_USERS)}: the user {user[0]} came without a list of roles.")
        mine = {str(one) for one in roles if one is not None}
        groups: list[GroupRow] = []
        if mine:
            async for page in self.groups(scope):
                groups += [row for row in page.rows if row[0] in mine]
                held += [one for one in page.held if one.id in mine or not one.id.isdigit()]
        if held:
            raise IncompleteError(f"{self._at()}: a role or group of {user[0]} cannot be read: {held[0].reason}.")
        if len(groups) != len(mine) and not self._settings.app:
            raise IncompleteError(f"{self._at()}: a role or group of the user {user[0]} is not listed; run again.")
        return Person(user, groups, [(group[0], user[0], "user") for group in groups], warnings)

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:  # noqa: ARG002
        """As `Source.group`."""
        record = await self._group(key)
        if record is None:
            return None
        held: list[Held] = []
        rows = group_rows([record], "group", held)
        if held:
            raise IncompleteError(f"{self._at()}: the role or group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`; with `app`, whether it is among the person's applications."""
        if await self._one(f"{_USERS}/{identity}", identity) is None:
            return False
        if not self._settings.app:
            return True
        apps = self._list(f"{_USERS}/{identity}/apps", {"ignore_visibility": "true"})
        return str(self._settings.app) in [self._id_of(one, "apps") async for page, *_ in apps for one in page]

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._group(identity) is not None

    async def _group(self, key: str) -> Record | None:
        """The record of a role or group; with `app`, out of the list of the roles that have it."""
        if self._settings.groups == "groups":
            return await self._one(f"{_GROUPS}/{key}", key)
        if not self._settings.app:
            return await self._one(f"{_ROLES}/{key}", key)
        roles = self._list(_ROLES, {"app_id": self._settings.app})
        found = [as_dict(one) async for page, *_ in roles for one in page if self._id_of(one, _ROLES) == key]
        return found[0] if found else None

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """Now, less an overlap, in ISO 8601; "" where only full reads are right (`app`, `groups`)."""
        if self._settings.app or self._settings.groups != "roles":
            return ""
        return (datetime.now(UTC) - _OVERLAP).strftime(_TIME)

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """Users changed since `cursor`; roles and their members whole, for OneLogin does not say when they change.

        Nobody is ever named as gone: OneLogin forgets deleted people and roles at once.
        """
        after = await self.cursor(scope)
        try:
            datetime.strptime(cursor, _TIME)  # noqa: DTZ007
        except ValueError:
            raise StaleCursorError(f"{self._at()}: {cursor[:40]!r} is no time to start a delta from.") from None
        if not after:
            raise StaleCursorError(f"{self._at()}: no deltas with `app` or `groups`; a full read is due.")
        held: list[Held] = []
        warnings: list[Held] = []
        groups: list[GroupRow] = []
        async for page in self.groups(scope):
            groups += page.rows
            held += page.held
        ids = [row[0] for row in groups]
        # Users come last: whoever joins meanwhile is then not a member whom nobody knows.
        members = pairs_of(await drained(self.memberships(ids), held))
        rows, fields = user_rows(self._settings, scope.attributes), self._fields(scope.attributes)
        users: list[UserRow] = []
        async for records, start, _ in self._list(_USERS, {"fields": fields, "updated_since": cursor}):
            users += rows(records, f"changed user from {start}", held, warnings)
        return Changes(after, users, groups, ids, members, held=held, warnings=warnings)

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        app, lines = self._settings.app, [f"{self._at()} answers"]
        lists = {"users": _USERS, **({"roles": _ROLES} if self._settings.groups == "roles" else {"groups": _GROUPS})}
        for what, path in {**lists, **({f"people with the application {app}": self._app()} if app else {})}.items():
            part = await self._part(path, {"limit": 1}, expect=(500,))
            lines.append(f"{what}: {'not counted by OneLogin' if part.total is None else part.total}")
        return lines

    async def news(self, cursor: str) -> Polled:
        """As `Polls.news`, out of the list of events, in whatever order that comes."""
        start = Point(int((datetime.now(UTC) - _OVERLAP).timestamp() * 1000))
        last = points(cursor).get(_EVENTS, start) if cursor else start
        since = datetime.fromtimestamp(last.time / 1000, UTC) - _LATE
        query: dict[str, str | int] = {"since": since.strftime(_TIME), "limit": 50}
        found: Found = {}

        async def fetch(after: str) -> Part:
            return await self._part(_EVENTS, {**query, "after_cursor": after} if after else query)

        async for items, _ in by_cursor(fetch, self._at(_EVENTS), sparse=True):
            found |= {str(one.get("id")): (_moment(one), one) for one in map(as_dict, items)}
            if len(found) > MOST_EVENTS:
                break
        now = cursor_of({_EVENTS: reached(found, last)})
        if not cursor:
            return Polled(now)
        polling = self._settings.polling
        wanted = ("poll", "sign-in") if polling is None or polling.sign_ins else ("poll",)
        told = ((id_of("poll", key), hooks.news_of(one, "poll")) for key, (_, one) in found.items())
        events = [(key, [one for one in news if one and one.via in wanted]) for key, news in told]
        return Polled(now, events, lost("events", found, last))

    # --- reading -------------------------------------------------------------------------------

    async def _list(
        self, path: str, params: Mapping[str, str | int], *, twice: bool = False
    ) -> AsyncIterator[tuple[Sequence[Any], int, bool]]:
        """Every record of a list: (records, number of the first, last page?). Ids are unique.

        `twice`: an empty list is asked for again, because one wrong answer must not empty a directory.
        """
        roles = self._settings.role_page_size
        size = {_ROLES: roles, _GROUPS: min(50, roles), self._app(): 1000}.get(path, self._settings.page_size)
        cursor_name = "after_cursor" if path == _GROUPS else "cursor"

        async def fetch(cursor: str) -> Part:
            # The cursor is said to stand for the whole query; the filters go with it in case it does not.
            at = {cursor_name: cursor} if cursor else {"limit": size}
            return await self._part(path, {**params, **at})

        async for records, start, last in distinct(by_cursor(fetch, self._at(path), sparse=True), self._at(path), int):
            if last and twice and start == 1 and not records and (await fetch("")).items:
                raise IncompleteError(f"{self._at(path)}: empty, and when asked again not empty. Run again.")
            yield records, start, last

    async def _users_of_app(self, fields: str) -> AsyncIterator[tuple[Sequence[Any], int, bool]]:
        """People with the application, as `_list`. Its own list says who, but not their status."""
        listed = self._list(self._app(), {}, twice=True)
        ids = [self._id_of(one, self._app()) async for records, *_ in listed for one in records]
        size = self._settings.page_size

        async def some(start: int) -> list[Any]:
            some = ids[start : start + size]
            found = self._list(_USERS, {"fields": fields, "user_ids": ",".join(some)})
            records = [one async for page, *_ in found for one in page]
            strange = {str(key) for one in records if type(key := as_dict(one).get("id")) is int}.difference(some)
            if len(records) != len(some) or strange:
                raise IncompleteError(
                    f"{self._at(_USERS)}: asked for {len(some)} people of the application, got {len(records)} "
                    f"and {len(strange)} others. They changed while being read; run again."
                )
            return records

        starts = range(0, len(ids), size)
        batches = in_order(some, starts, self._settings.concurrency)
        try:
            for start in starts:
                yield await anext(batches), start + 1, start == starts[-1]
        finally:
            await batches.aclose()  # type: ignore[attr-defined]
        if not ids:
            yield (), 1, True

    async def _members_of(self, role: str, held: list[Held]) -> list[Members]:
        """People with a role. (`include_unassigned` would list everybody else, too.)"""
        path = f"{_ROLES}/{role}/users"
        users: list[str] = []
        async for records, *_ in self._list(path, {}):
            ids = [as_dict(one).get("id") for one in records if as_dict(one).get("assigned") is not False]
            if not set(map(type, ids)) <= {int}:
                held.append(Held("group", role, "", _NO_MEMBER))
                return []
            users += map(str, ids)
        return [Members(role, users)]

    async def _find(self, key: str, scope: Scope) -> Record | None:
        """The record of one person, with `role_ids` and `group_id`."""
        if key.isascii() and key.isdigit():
            answer = await self._call(f"{_USERS}/{key}", {}, expect=(404,))
            if answer.status == 200:
                return self._single(answer, key)
        names = {"userprincipalname": ("email",)}.get(self._settings.username, (self._settings.username, "email"))
        for name in dict.fromkeys(names) if key else ():
            fields = self._fields((name, "role_ids", "group_id", *scope.attributes))
            listed = self._list(_USERS, {name: key, "fields": fields})
            found = [one async for page, *_ in listed for one in map(as_dict, page) if _same(one.get(name), key)]
            if len(found) > 1:
                raise IncompleteError(f"{self._at(_USERS)}: {len(found)} people have the {name} asked for.")
            if found and self._settings.groups == "roles" and "role_ids" not in found[0]:
                user = self._id_of(found[0], _USERS)
                return self._single(await self._call(f"{_USERS}/{user}", {}), user)
            if found:
                return found[0]
        if self._settings.username == "userprincipalname" and key:
            raise IncompleteError(
                f"{self._at(_USERS)}: nobody with this id or e-mail address, and OneLogin cannot be asked for a "
                "userprincipalname; a full run does the work."
            )
        return None

    async def _one(self, path: str, key: str) -> Record | None:
        """The record of this id; None where OneLogin says in its own words that there is none."""
        if not (key.isascii() and key.isdigit()):
            return None  # no id of OneLogin's
        answer = await self._call(path, {}, expect=(404,))
        found = as_dict(answer.json())
        if answer.status == 404:
            if found.get("name") != "NotFoundError" and as_dict(found.get("status")).get("code") != 404:
                raise IncompleteError(f"{self._at(path)}: 404{_detail(answer)}, not whether it is there. Run again.")
            return None
        data = found.get("data")
        if isinstance(data, list):  # version 1
            found = as_dict(data[0]) if len(data) == 1 else {}
        if str(found.get("id")) != key:
            raise IncompleteError(f"{self._at(path)}: asked for {key}, and got something else; run again.")
        return found

    def _single(self, answer: Answer, key: str) -> Record:
        record = as_dict(answer.json())
        if str(record.get("id")) != key:
            raise IncompleteError(f"{self._at(_USERS)}: asked for the user {key}, and got something else.")
        return record

    async def _part(self, path: str, params: Mapping[str, str | int], expect: Sequence[int] = ()) -> Part:
        """A page: an array with headers in version 2, an envelope in version 1."""
        answer = await self._call(path, params, expect)
        found = answer.json()
        if path in _FIRST_VERSION:
            items, after = as_dict(found).get("data"), as_dict(as_dict(found).get("pagination")).get("after_cursor")
            total = ""
        else:
            items, after, total = found, answer.headers.get("after-cursor"), answer.headers.get("total-count", "")
        if not isinstance(items, list) or not isinstance(after, str | None) or not (total.isdecimal() or not total):
            raise IncompleteError(f"{self._at(path)}: the answer is no list of OneLogin's. Check `url`.")
        return Part(items, int(total) if total else None, None, after or None)

    async def _call(self, path: str, params: Mapping[str, str | int], expect: Sequence[int] = ()) -> Answer:
        # 401 to a new token is OneLogin's way to say that a right is missing.
        answer = await self._http.call("GET", path, params=params, expect=(401, *expect))
        if answer.status == 200 or (answer.status == 404 and 404 in expect):
            return answer
        message = f"{self._at(path)}: {answer.status}{_detail(answer)}."
        if answer.status in (401, 403):
            raise ForbiddenError(f"{message} {_NO_RIGHT}")
        if answer.status == 404 and path == self._app():
            raise ConfigurationError(f"{message} `app` is the number in the address of the application's page.")
        if answer.status == 404 and path in (_USERS, _ROLES, *_FIRST_VERSION):
            raise ConfigurationError(f"{message} Set `url` to https://SUBDOMAIN.onelogin.com, without a path.")
        if answer.status == 500:
            raise AuthenticationError(
                f"{message} If this stays, the person who made the API credentials may have been deleted: make new "
                "ones (Developers > API Credentials)."
            )
        raise IncompleteError(f"{message} Run again.")

    def _fields(self, attributes: Iterable[str]) -> str:
        """What to ask a list of users for."""
        more = (self._settings.username, *sorted(path.partition(".")[0] for path in attributes))
        return ",".join(dict.fromkeys((*_FIELDS, *more)))

    def _id_of(self, record: Any, what: str) -> str:
        key = as_dict(record).get("id")
        if type(key) is not int:
            raise IncompleteError(f"{self._at(what)}: a record has no id, or one that is not a number.")
        return str(key)

    def _app(self) -> str:
        return f"/api/2/apps/{self._settings.app}/users"

    def _at(self, path: str = "") -> str:
        return f"{self._http.name}: {path or 'OneLogin'}"


# --- record → row ------------------------------------------------------------------------------


def user_rows(settings: OneLoginSettings, attributes: Iterable[str]) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`."""
    extra, field = attributes_of(attributes, dotted("onelogin")), settings.username
    statuses = {**_STATUSES, 3: settings.locked_active, 7: settings.pending_active}
    meanings = {(status, state): on and state == _APPROVED for status, on in statuses.items() for state in range(4)}
    places = ("id", "status", "state", "email", "firstname", "lastname", field)
    take = itemgetter(*places)

    def one(record: Record, doubts: Doubts) -> UserRow:
        try:
            key, status, state, email, first, last, username = take(record)
        except (KeyError, TypeError):
            key, status, state, email, first, last, username = map(object_of(record).get, places)
        if type(key) is not int:
            raise Flaw("no id, or one that is not a number")
        active = meanings.get((status, state)) if type(status) is type(state) is int else None
        if active is None:
            raise Flaw(f"status {_shown(status)} with state {_shown(state)}, whose meaning is not known")
        if not type(email) is type(first) is type(last) is str:
            email = optional(record, "email", doubts)
            first, last, _ = names(record, ("firstname", "lastname", ""), doubts)
        if username is None and field == "username":
            username = email
        if type(username) is not str or not username:
            raise Flaw(f"no {field}, or one that is not text")
        return str(key), username, email, first, last, f"{first} {last}".strip(), active, extra(record, doubts)

    def disabled(record: Record) -> bool:
        status, state = record.get("status"), record.get("state")
        off = type(status) is int and statuses.get(status) is False  # whatever the state is
        return off or (type(status) is type(state) is int and meanings.get((status, state)) is False)

    return each(one, "user", field, disabled)


def _group_row(record: Record, _: Doubts) -> GroupRow:
    key = object_of(record).get("id")
    if type(key) is not int:
        raise Flaw("no id, or one that is not a number")
    return str(key), needed(record, "name"), "", "{}"


group_rows: Final = each(_group_row, "group", "name")
"""As `user_rows`."""


def _moment(event: Record) -> int:
    """When an event happened, in milliseconds; 0 where it does not say."""
    try:
        return int(datetime.fromisoformat(str(event.get("created_at"))).timestamp() * 1000)
    except ValueError:
        return 0


def _shown(value: Any) -> str:
    return orjson.dumps(value).decode()[:80]


def _same(value: Any, key: str) -> bool:
    return isinstance(value, str) and value.lower() == key.lower()


def _detail(answer: Answer) -> str:
    """What an error of version 2 or 1 says."""
    error = answer.problem()
    return answer.words(text(as_dict(error.get("status")).get("message") or error.get("message")))
