"""Okta as a source: https://developer.okta.com/docs/api/openapi/okta-management/management/tag/User/

Lists page by links in `Link` headers, and say no total: the end of the chain is all the proof there is, and an empty
page is asked for again. Users come through a filter that everybody passes, because the plain list leaves deactivated
people out; and through `filter` rather than `search`, which reads a store that lags behind.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, ClassVar, Final, Literal
from urllib.parse import parse_qs, quote, urlsplit

import orjson
from pydantic import Field, field_validator, model_validator

from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Polled, Scope
from connectors.errors import AuthenticationError, ConfigurationError, ForbiddenError, IncompleteError, StaleCursorError
from connectors.hook import News, id_of
from connectors.hooks import okta as hooks
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, MembershipRow, UserRow, pairs_of
from connectors.oauth import Tokens, assertion, with_assertion
from connectors.paging import Part, by_cursor, distinct, drained, of_groups
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
from connectors.source import SourceSettings, WithPolling, WithPrivateKey, WithToken, client

_USERS: Final = "/api/v1/users"
_GROUPS: Final = "/api/v1/groups"
_LOGS: Final = "/api/v1/logs"
_LOG_PAGES: Final = 50
"""Pages of the system log that are read in one poll, at most; the next one goes on."""
_TOKEN: Final = "/oauth2/v1/token"  # noqa: S105 (a path)
_CURSOR: Final = "%Y-%m-%dT%H:%M:%S.000Z"
_EVERYBODY: Final = 'lastUpdated gt "1970-01-01T00:00:00.000Z"'
_OVERLAP: Final = timedelta(minutes=5)
"""How far before Okta's now a delta begins, for changes that are seen late."""
_STATUSES: Final = {
    **dict.fromkeys(("ACTIVE", "PASSWORD_EXPIRED", "RECOVERY"), True),
    **dict.fromkeys(("STAGED", "SUSPENDED", "DEPROVISIONED"), False),
}
"""Whether an account with this status can be used; LOCKED_OUT and PROVISIONED are settings."""
_ASSIGNED: Final = {
    **dict.fromkeys(("ACTIVE", "PROVISIONED"), True),
    **dict.fromkeys(("PENDING", "STAGED", "APPROVED", "IMPORTED", "MATCHED", "UNASSIGNED", "IMPLICIT"), False),
    **dict.fromkeys(("INACTIVE", "SUSPENDED", "REVOKED", "DEPROVISIONED"), False),
}
"""The same of an assignment to an application."""
_NOT_FOUND: Final = "E0000007"
_ID: Final = re.compile("00u[0-9A-Za-z]{17}")
"""What ids of people look like; logins need not."""
_TYPES: Final = frozenset(("OKTA_GROUP", "APP_GROUP", "BUILT_IN"))


class OktaSettings(WithPolling, WithToken, WithPrivateKey, SourceSettings):
    """An Okta organisation."""

    kind: Literal["okta"] = "okta"
    url: str = Field(description="Address of the organisation: https://ORG.okta.com")
    client_id: str = Field("", description="Client id of the service app; without one, an API token is used.")
    key_id: str = Field("", description="Id (kid) of the service app's public key.")
    app: str = Field("", pattern="^[A-Za-z0-9]*$", description="Only people and groups assigned to this app, by id.")
    group_types: frozenset[Literal["OKTA_GROUP", "APP_GROUP", "BUILT_IN"]] = Field(
        frozenset(("OKTA_GROUP", "APP_GROUP")), min_length=1, description="Kinds of groups to read."
    )
    locked_out_active: bool = Field(True, description="Whether LOCKED_OUT, after wrong passwords, counts as active.")
    provisioned_active: bool = Field(False, description="Whether PROVISIONED, no password set yet, counts as active.")
    known: ClassVar = ("token", "private_key")

    @field_validator("url")
    @classmethod
    def _not_the_console(cls, url: str) -> str:
        if "-admin." in url:
            raise ValueError("this is the address of the admin console; leave out `-admin`")
        return url

    @model_validator(mode="after")
    def _key_of_client(self) -> OktaSettings:
        if self.key_id and not self.client_id:
            raise ValueError("key_id belongs to a service app: set client_id too")
        return self

    def secrets(self) -> tuple[str, ...]:
        """As `SourceSettings.secrets`: the private key of a service app, or an API token."""
        return ("private_key",) if self.client_id else ("token",)

    def scopes(self) -> tuple[str, ...]:
        """The least that a service app must be granted."""
        more = {"okta.apps.read": self.app, "okta.logs.read": self.polling}
        return ("okta.users.read", "okta.groups.read", *(name for name, needed in more.items() if needed))


class Okta:
    """`http` leads to the API, `login` to the token endpoint of a service app."""

    name: ClassVar[str] = "okta"
    capabilities: ClassVar[Capabilities] = Capabilities(delta=True)
    settings: ClassVar[type[OktaSettings]] = OktaSettings

    @classmethod
    def open(cls, name: str, settings: OktaSettings, secrets: Mapping[str, str]) -> Okta:
        """As `Source.open`."""
        headers = {"content-type": "application/json"}
        if not settings.client_id:
            headers["authorization"] = f"SSWS {secrets['token'].strip()}"
            return cls(client(name, settings, headers=headers), None, settings)
        login, scopes = client(name, settings), " ".join(settings.scopes())
        sign = assertion(
            secrets["private_key"],
            field=f"sources.{name}.private_key",
            audience=settings.url.rstrip("/") + _TOKEN,
            issuer=settings.client_id,
            subject=settings.client_id,
            headers={"kid": settings.key_id} if settings.key_id else {},
        )
        advice = (
            f"Check client_id, key_id, and the key in {settings.place('private_key')}; grant the service app the "
            f"scopes {scopes} (tab Okta API Scopes), and do not require DPoP of it."
        )
        tokens = Tokens(login, _TOKEN, with_assertion(settings.client_id, sign, scope=scopes), advice=advice)
        return cls(client(name, settings, headers=headers, bearer=tokens), login, settings)

    def __init__(self, http: Http, login: Http | None, settings: OktaSettings) -> None:
        self._http, self._login, self._settings = http, login, settings
        self._app = f"/api/v1/apps/{settings.app}"

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return (self._http, self._login) if self._login else (self._http,)

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users, also deactivated ones; or those assigned to the application."""
        rows = user_rows(self._settings, scope.attributes)
        size = self._settings.page_size
        if self._settings.app:
            lists = self._list(f"{self._app}/users", {"expand": "user", "limit": min(size, 500)})
        else:
            lists = self._list(_USERS, {"filter": _EVERYBODY, "limit": min(size, 200)})
        async for records, start, last in lists:
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(records, f"user from {start}", held, warnings), last, held, warnings)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups of the chosen types; or those of them that are assigned to the application."""
        if self._settings.app:
            size = min(max(self._settings.page_size, 20), 200)
            lists = self._list(f"{self._app}/groups", {"expand": "group", "limit": size})
        else:
            lists = self._list(_GROUPS, {"limit": min(self._settings.page_size, 200)})
        async for page in self._group_pages(lists, scope.attributes, embedded=bool(self._settings.app)):
            yield page

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Members of these groups, group by group: Okta knows no list of several."""
        held: list[Held] = []
        members = partial(self._members_of, held=held)
        async for page in of_groups(dict.fromkeys(groups), members, self._settings.concurrency, held):
            yield page

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, login or e-mail address.

        Of deactivated people a whole read may show no memberships, where Okta leaves them out of a group's members."""
        record = await self._find(key)
        if record is None:
            return None
        key = self._id_of(record)
        path = f"{_USERS}/{key}"
        if self._settings.app:
            path = f"{self._app}/users/{key}"
            answer = await self._call(path, {"expand": "user"}, expect=(404,))
            if answer.status == 404:
                return None
            record = as_dict(answer.json())
        held: list[Held] = []
        warnings: list[Held] = []
        users = user_rows(self._settings, scope.attributes)([record], "user", held, warnings)
        groups, told = list[GroupRow](), list[Held]()
        async for page in self._group_pages(self._list(f"{_USERS}/{key}/groups", {}), scope.attributes):
            groups += page.rows
            held += page.held
            told += page.warnings
        if self._settings.app and groups:  # out of the list of its groups, and no other
            mine, groups, told = {row[0] for row in groups}, [], []
            async for page in self.groups(scope):
                groups += [row for row in page.rows if row[0] in mine]
                held += [one for one in page.held if one.id in mine or not one.id]
                told += [one for one in page.warnings if one.id in mine]
        if held:
            raise IncompleteError(f"{self._at(path)}: a {held[0].kind} cannot be read: {held[0].reason}.")
        memberships: list[MembershipRow] = [(group[0], users[0][0], "user") for group in groups]
        return Person(users[0], groups, memberships, warnings + told)

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`. Deactivated people are listed, too; with `app`, only those who have it."""
        path = f"{self._app}/users" if self._settings.app else _USERS
        record = await self._one(path, identity)
        return record is not None

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`. With `app`, out of the list of its groups."""
        record = await self._group(key)
        if record is None:
            return None
        held: list[Held] = []
        rows = group_rows(scope.attributes, embedded=bool(self._settings.app))([record], "group", held)
        if held:
            raise IncompleteError(f"{self._at(_GROUPS)}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`. With `app`, out of the list of its groups."""
        return await self._group(identity) is not None

    async def _group(self, key: str) -> Record | None:
        """The record of a group of the chosen types, or of its assignment to the application."""
        if self._settings.app:
            groups = self._list(f"{self._app}/groups", {"expand": "group", "limit": 200})
            found = [one async for page, *_ in groups for one in map(as_dict, page) if one.get("id") == key]
            record = found[0] if found else None
        else:
            record = await self._one(_GROUPS, key)
        left_out = _TYPES - self._settings.group_types
        return None if record is None or _type(record, bool(self._settings.app)) in left_out else record

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """Okta's clock, less an overlap; "" where only full reads are right (`app`)."""
        if self._settings.app:
            return ""
        answer = await self._call(_GROUPS, {"limit": 1})
        try:
            return (parsedate_to_datetime(answer.headers["date"]).astimezone(UTC) - _OVERLAP).strftime(_CURSOR)
        except (KeyError, ValueError):
            return ""  # some proxy took the clock away: no deltas then

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """Users and groups changed since `cursor`, and the members of these groups whole.

        Nobody is ever named as gone: Okta forgets erased people and groups at once.
        """
        try:
            datetime.strptime(cursor, _CURSOR)  # noqa: DTZ007
        except ValueError:
            raise StaleCursorError(f"{self._at()}: {cursor[:40]!r} is no time to start a delta from.") from None
        if self._settings.app:
            raise StaleCursorError(f"{self._at()}: no deltas with `app`; a full read is due.")
        after, since = await self.cursor(scope), f'lastUpdated gt "{cursor}"'
        held: list[Held] = []
        warnings: list[Held] = []
        groups: list[GroupRow] = []
        size = min(self._settings.page_size, 200)
        changed: dict[str, str | int] = {"filter": f'{since} or lastMembershipUpdated gt "{cursor}"', "limit": size}
        async for page in self._group_pages(self._list(_GROUPS, changed), scope.attributes):
            groups += page.rows
            held += page.held
            warnings += page.warnings
        ids = [row[0] for row in groups]
        # Users come last: whoever joins meanwhile is then not a member whom nobody knows.
        members = pairs_of(await drained(self.memberships(ids), held))
        rows = user_rows(self._settings, scope.attributes)
        users: list[UserRow] = []
        async for records, start, _ in self._list(_USERS, {"filter": since, "limit": size}):
            users += rows(records, f"changed user from {start}", held, warnings)
        return Changes(after, users, groups, ids, members, held=held, warnings=warnings)

    async def news(self, cursor: str) -> Polled:
        """As `Polls.news`, out of the system log, whose polling queries are in the order in which events were written
        and always say where to go on: no event is read twice."""
        polling, events = self._settings.polling, list[tuple[str, list[News]]]()
        wanted = ("poll", "sign-in") if polling is None or polling.sign_ins else ("poll",)
        begin = (datetime.now(UTC) - _OVERLAP).strftime(_CURSOR)
        where: dict[str, str | int] = {"after": cursor} if cursor else {"since": begin}
        for _ in range(_LOG_PAGES):
            params: dict[str, str | int] = {**where, "limit": 1000, "sortOrder": "ASCENDING"}
            answer = await self._call(_LOGS, params, expect=(400,) if cursor else ())
            if answer.status == 400:
                raise StaleCursorError(f"{self._at(_LOGS)}: {cursor[:40]!r} is no place to go on from.")
            items, after = (
                self._records(answer, _LOGS),
                parse_qs(urlsplit(answer.link("next") or "").query).get("after"),
            )
            if not after:
                raise IncompleteError(
                    f"{self._at(_LOGS)}: a page of the system log says not where to go on. Run again."
                )
            where = {"after": after[0]}
            for one in map(as_dict, items):
                found = [news for news in hooks.news_of(one, "poll") if news and news.via in wanted]
                events += [(id_of("poll", one.get("uuid")), found)]
            if len(items) < 1000:
                break
        return Polled(str(where["after"]), events if cursor else ())

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        how = "a service app's key" if self._login else "an API token"
        lists = {"users": _USERS, "groups": _GROUPS}
        if app := self._settings.app:
            lists |= {f"people with the app {app}": f"{self._app}/users", f"its groups: {app}": f"{self._app}/groups"}
        for path in lists.values():
            self._records(await self._call(path, {"limit": 20}), path)
        return [f"{self._at()} answers to {how}", *(f"{what}: can be read" for what in lists)]

    # --- reading -------------------------------------------------------------------------------

    async def _list(self, path: str, params: Mapping[str, str | int]) -> AsyncIterator[tuple[Sequence[Any], int, bool]]:
        """Every record of a list: (records, number of the first, last page?). Ids are unique."""

        async def fetch(link: str) -> Part:
            answer = await (self._call(link, {}) if link else self._call(path, params))
            following = answer.link("next")
            return Part(self._records(answer, path), next=self._http.path_of(following) if following else None)

        async for page in distinct(by_cursor(fetch, self._at(path), sparse=True), self._at(path)):
            yield page

    async def _group_pages(
        self,
        lists: AsyncIterator[tuple[Sequence[Any], int, bool]],
        attributes: Iterable[str],
        *,
        embedded: bool = False,
    ) -> AsyncIterator[Page[GroupRow]]:
        """Lists of groups → pages, without the types that are not wanted. `embedded`: the groups of assignments."""
        rows, left_out = group_rows(attributes, embedded=embedded), _TYPES - self._settings.group_types
        async for records, start, last in lists:
            if left_out:
                records = [one for one in records if _type(one, embedded) not in left_out]
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(records, f"group from {start}", held, warnings), last, held, warnings)

    async def _members_of(self, group: str, held: list[Held]) -> list[Members]:
        path = f"{_GROUPS}/{group}/users"
        users: list[str] = []
        async for records, *_ in self._list(path, {"limit": min(self._settings.page_size, 1000)}):
            try:
                ids = [one["id"] for one in records]
            except (KeyError, TypeError):
                ids = [None]
            if not set(map(type, ids)) <= {str}:
                held.append(Held("group", group, "", "a member has no id, or one that is not text"))
                return []
            users += ids
        return [Members(group, users)]

    async def _find(self, key: str) -> Record | None:
        """The record of one person. Okta also takes short logins and `me`; these are not asked for here."""
        if key.isprintable() and key.strip(".") and "/" not in key:
            record = await self._get(key)
            if record is not None and (self._id_of(record) == key or _same(record, "login", key)):
                return record
            if record is not None and _ID.fullmatch(key):
                raise IncompleteError(f"{self._at(_USERS)}: asked for {key}, and got somebody else. Run again.")
        said = orjson.dumps(key).decode()
        # A filter is up to date and minds case; a search is neither, so what it finds is read again.
        for how in ("filter", "search") if key else ():
            query: dict[str, str | int] = {how: f"profile.login eq {said} or profile.email eq {said}", "limit": 200}
            found = [as_dict(one) async for records, *_ in self._list(_USERS, query) for one in records]
            named = [one for one in found if _same(one, "login", key)]
            named = named or [one for one in found if _same(one, "email", key)]
            if len(named) > 1:
                raise IncompleteError(f"{self._at(_USERS)}: {len(named)} people have the login or e-mail asked for.")
            if named:
                return named[0] if how == "filter" else await self._get(self._id_of(named[0]))
        return None

    async def _get(self, key: str) -> Record | None:
        answer = await self._call(f"{_USERS}/{quote(key, safe='')}", {}, expect=(404,))
        return as_dict(answer.json()) if answer.status == 200 else None

    async def _one(self, path: str, key: str) -> Record | None:
        """The record with this id; None where Okta says in its own words that there is none."""
        answer = await self._call(f"{path}/{quote(key, safe='')}", {}, expect=(404,))
        if answer.status == 404:
            if answer.problem().get("errorCode") != _NOT_FOUND or "(AppInstance)" in _detail(answer):
                raise IncompleteError(f"{self._at(path)}: 404{_detail(answer)}, not whether {key} is there. Run again.")
            return None
        record = as_dict(answer.json())
        if record.get("id") != key:
            raise IncompleteError(f"{self._at(path)}: asked for {key}, and got something else. Run again.")
        return record

    def _id_of(self, record: Record) -> str:
        key = record.get("id")
        if type(key) is not str or not key:
            raise IncompleteError(f"{self._at(_USERS)}: a user has no id, or one that is not text. Run again.")
        return key

    def _records(self, answer: Answer, path: str) -> list[Any]:
        found = answer.json()
        if not isinstance(found, list):
            raise IncompleteError(f"{self._at(path)}: the answer is no list of Okta's. Check `url`.")
        return found

    async def _call(self, path: str, params: Mapping[str, str | int], expect: Sequence[int] = ()) -> Answer:
        answer = await self._http.call("GET", path, params=params, expect=(401, *expect))
        if answer.status == 200 or answer.status in expect:
            return answer
        plain, by_key = path.partition("?")[0], self._login is not None
        message = f"{self._at(plain)}: {answer.status}{_detail(answer)}."
        if answer.status == 401:
            place = self._settings.place("private_key" if by_key else "token")
            way = (
                f"Check that the service app of {place} is active (Applications)."
                if by_key
                else f"Check the API token in {place}: it ends when nobody uses it for 30 days, or when the admin who "
                "made it is deactivated (Security > API > Tokens)."
            )
            raise AuthenticationError(f"{message} {way}")
        if answer.status == 403:
            scope = f"okta.{plain.split('/')[3]}.read"
            way = (
                f"Grant the service app the scope {scope} (tab Okta API Scopes) and a role that may view users and "
                "groups, such as Read-only Administrator (tab Admin roles)."
                if by_key
                else "The API token may do what its admin may: give that admin a role that may view users and groups, "
                "such as Read-only Administrator (Security > Administrators)."
            )
            raise ForbiddenError(f"{message} {way}")
        if answer.status == 404 and plain.startswith("/api/v1/apps/"):
            raise ConfigurationError(
                f"{message} `app` is the part that begins with 0oa in the address of the app's page."
            )
        if answer.status == 404 and plain in (_USERS, _GROUPS):
            raise ConfigurationError(f"{message} Set `url` to https://ORG.okta.com, without a path.")
        raise IncompleteError(f"{message} Run again.")

    def _at(self, path: str = "") -> str:
        return f"{self._http.name}: {path or 'Okta'}"


# --- record → row ------------------------------------------------------------------------------


def user_rows(settings: OktaSettings, attributes: Iterable[str]) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`.

    The records are users or, with `app`, assignments with their user in `_embedded`.
    """
    extra, app = attributes_of(attributes, dotted("okta")), bool(settings.app)
    statuses = {**_STATUSES, "LOCKED_OUT": settings.locked_out_active, "PROVISIONED": settings.provisioned_active}

    def one(record: Record, doubts: Doubts) -> UserRow:
        assigned = True
        if app:
            key, assigned = needed(object_of(record), "id"), _meaning(_ASSIGNED, record)
            record = _embedded(record, "user")
            if record.get("id") != key:
                raise Flaw("the assignment is another user's")
        try:
            key, status, profile = record["id"], record["status"], record["profile"]
            login, get = profile["login"], profile.get
            active = statuses[status]
        except (KeyError, TypeError, AttributeError):
            raise _flaw(record, statuses) from None
        if not (type(key) is type(login) is str and key and login):
            raise _flaw(record, statuses)
        email, first, last = get("email", ""), get("firstName", ""), get("lastName", "")
        display = get("displayName", "")
        if not (type(email) is type(first) is type(last) is type(display) is str):
            email = optional(profile, "email", doubts)
            first, last, display = names(profile, ("firstName", "lastName", "displayName"), doubts)
        display = display or f"{first} {last}".strip()
        return key, login, email, first, last, display, active and assigned, extra(record, doubts)

    def disabled(record: Record) -> bool:
        if app:
            if _off(_ASSIGNED, record):
                return True
            user = as_dict(as_dict(record.get("_embedded")).get("user"))
            record = user if user.get("id") == record.get("id") else {}
        return _off(statuses, record)

    return each(one, "user", "_embedded.user.profile.login" if app else "profile.login", disabled)


def _flaw(record: Any, statuses: Mapping[str, bool]) -> Flaw:
    """What is wrong with a user record."""
    try:
        needed(object_of(record), "id")
        _meaning(statuses, record)
        if not isinstance(record.get("profile"), dict):
            return Flaw("no profile")
        needed(record["profile"], "login")
        return Flaw("no user of Okta's")
    except Flaw as flaw:
        return flaw


def _off(statuses: Mapping[str, bool], record: Record) -> bool:
    status = record.get("status")
    return isinstance(status, str) and statuses.get(status) is False


def _meaning(statuses: Mapping[str, bool], record: Record) -> bool:
    status = needed(record, "status")
    if status not in statuses:
        raise Flaw(f"status {status[:40]!r}, whose meaning is not known")
    return statuses[status]


def group_rows(attributes: Iterable[str], *, embedded: bool = False) -> Rows[GroupRow]:
    """As `user_rows`; `embedded`: assignments to an application, with their group."""
    extra = attributes_of(attributes, dotted("okta"))

    def one(record: Record, doubts: Doubts) -> GroupRow:
        record = _embedded(object_of(record), "group") if embedded else object_of(record)
        key, kind, profile = needed(record, "id"), needed(record, "type"), record.get("profile")
        if kind not in _TYPES:
            raise Flaw(f"type {kind[:40]!r}, whose meaning is not known")
        if not isinstance(profile, dict):
            raise Flaw("no profile")
        return key, needed(profile, "name"), optional(profile, "description", doubts), extra(record, doubts)

    return each(one, "group", "_embedded.group.profile.name" if embedded else "profile.name")


def _embedded(record: Record, what: str) -> Record:
    found = as_dict(record.get("_embedded")).get(what)
    if not isinstance(found, dict):
        raise Flaw(f"no _embedded.{what}, which was asked for")
    return found


def _type(record: Any, embedded: bool) -> Any:
    kind = (as_dict(as_dict(as_dict(record).get("_embedded")).get("group")) if embedded else as_dict(record)).get(
        "type"
    )
    return kind if isinstance(kind, str) else None


def _same(record: Record, field: str, key: str) -> bool:
    value = as_dict(record.get("profile")).get(field)
    return isinstance(value, str) and value.lower() == key.lower()


def _detail(answer: Answer) -> str:
    """Code and summary of an error of Okta's."""
    error = answer.problem()
    return answer.words(*(text(error.get(name)) for name in ("errorCode", "errorSummary")))
