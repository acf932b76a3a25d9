"""Keycloak, one realm, by its admin REST API: https://www.keycloak.org/docs-api/latest/rest-api/index.html

Lists are read by offset from tables that move meanwhile. Each page therefore begins with the record that ended the
page before it: where a boundary moved, the two differ. Users and groups are counted before. Where fewer users are
listed than were counted, somebody may be missing; more do no harm, and come about with user federation, whose people
Keycloak lists but does not always count. A group's members have no count: an empty list of them is asked for twice.

Keycloak leaves the users that stand for clients (service accounts) out of the list of users, but not out of groups
nor of searches by name. Nothing marks them but the start of their username, which a person may bear too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

from pydantic import Field

from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Polled, Scope
from connectors.errors import ConfigurationError, ForbiddenError, IncompleteError, StaleCursorError
from connectors.hook import id_of
from connectors.hooks import keycloak as hooks
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, UserRow
from connectors.oauth import Tokens, with_secret
from connectors.paging import Part, by_cursor, by_position, in_order, of_groups
from connectors.polling import MOST_EVENTS, Found, Point, cursor_of, digest, lost, points, reached
from connectors.records import Doubts, Flaw, Record, Rows, as_dict, each, names, needed, object_of, optional, truth
from connectors.records import attributes as attributes_of
from connectors.source import SourceSettings, WithClientSecret, WithPolling, client

_SERVICE: Final = "service-account-"
_ID: Final = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|f:.+", re.IGNORECASE)  # f: from another store
_FEDERATION: Final = (
    "Keycloak counts federated users (LDAP) that it does not list: synchronise them (User federation, the provider, "
    "Sync all users); where they still differ though the list is right, set user_counts = false."
)
_GONE: Final = "is gone since it was listed; run again"
_ADMIN, _OWN = "/admin-events", "/events"
"""What administrators did; what people did themselves, such as sign in."""
_OF_ADMINS: Final = "&".join(f"resourceTypes={one}" for one in ("USER", "GROUP", "GROUP_MEMBERSHIP"))
_LATE: Final = 30_000
"""Milliseconds after which an event is certainly in its list."""
_EVENTS: Final = 20, 200
"""Events that are asked for first, and then."""
_LOOK: Final = 60
"""Polls after which it is looked again whether Keycloak saves events at all."""


class KeycloakSettings(WithPolling, WithClientSecret, SourceSettings):
    """A realm of a Keycloak server."""

    kind: Literal["keycloak"] = "keycloak"
    url: str = Field(
        description="Address of the server, with its path if it has one, e.g. https://idp.example.org/auth"
    )
    realm: str = Field(min_length=1, description="The realm whose people are read.")
    client_id: str = Field(min_length=1, description="A client with a service account that has the role view-users.")
    token_realm: str = Field("", description="The client's realm, if it is another one, such as master.")
    group_names: Literal["name", "path"] = Field(
        "name", description="What a group is called in Crowd: its name, or its path (/top/sub), which is unique."
    )
    user_counts: bool = Field(
        True,
        description="Whether as many users must be listed as Keycloak counts; federated ones it may count wrongly.",
    )
    known: ClassVar = ("client_secret",)

    def same_names(self) -> str:
        """As `SourceSettings.same_names`."""
        return 'group_names = "path"' if self.group_names == "name" else ""


class Keycloak:
    """As `Source`. `groups` remembers who is nested in whom for the `memberships` that follow."""

    name: ClassVar[str] = "keycloak"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True)
    settings: ClassVar[type[KeycloakSettings]] = KeycloakSettings

    @classmethod
    def open(cls, name: str, settings: KeycloakSettings, secrets: Mapping[str, str]) -> Keycloak:
        """As `Source.open`."""
        return cls(name, settings, secrets["client_secret"])

    def __init__(self, name: str, settings: KeycloakSettings, secret: str) -> None:
        self._settings, self._size, self._ahead = settings, settings.page_size, settings.concurrency
        realm = settings.token_realm or settings.realm
        self._login = client(name, settings)
        tokens = Tokens(
            self._login,
            f"/realms/{quote(realm, safe='')}/protocol/openid-connect/token",
            with_secret(settings.client_id, secret),
            advice=f"Check client_id and its secret, and that it is a client of the realm {realm} with client "
            "authentication and service account roles switched on.",
        )
        self._http = client(name, settings, bearer=tokens)
        self._root = f"/admin/realms/{quote(settings.realm, safe='')}"
        self._group = group_rows(settings.group_names)
        self._below: dict[str, list[str]] | None = None
        self._polls, self._remarks = 0, list[str]()

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return self._http, self._login

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All people of the realm, without service accounts."""
        rows, at = user_rows(scope.attributes), 1
        async for records, last in self._people(briefRepresentation=_brief(scope)):
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(records, f"record of the page from {at}", held, warnings), last, held, warnings)
            at += len(records)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups of all levels."""
        held: list[Held] = []
        warnings: list[Held] = []
        records = await self._tree(_brief(scope))
        yield Page(self._group(scope)(records, "group", held, warnings), True, held, warnings)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members of these groups; a nested group is a member of its parent."""
        below, self._below = self._below, None  # it is as old as the list of groups that it came with
        if below is None or not below.keys() >= set(groups):
            await self._tree("true")
            below, self._below = self._below or {}, None
        service_accounts, held = _ServiceAccounts(self), list[Held]()

        async def members(key: str) -> list[Members]:
            users: list[str] = []
            try:
                async for found, _ in by_cursor(
                    self._members(key, service_accounts), self._at("members"), first="0", sparse=True
                ):
                    users += found
            except Flaw as flaw:
                held.append(Held("group", key, "", str(flaw)))
                return []
            return [Members(key, users, below.get(key, ()))]

        pages = of_groups(groups, members, self._ahead, held)
        try:
            async for page in pages:
                yield page
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, username or e-mail address. Never by `/users/{id}`: that says of whoever is locked for a
        while after wrong passwords, on older servers, that they are disabled."""
        queries, by_id = [{"username": key, "exact": "true"}], {"search": f"id:{key}"}
        if "@" in key:
            queries.append({"email": key, "exact": "true"})
        if _ID.fullmatch(key):
            queries.insert(0, by_id)
        elif not re.search(r"\s", key):  # (spaces part the ids of a search)
            queries.append(by_id)  # a realm's import may bring ids of any form
        for query in queries if key.strip() else ():
            records = await self._found(query, brief=_brief(scope))
            if len(records) > 1:
                raise IncompleteError(f"{self._at('users')}: {key!r} is not one person's; ask by id or username.")
            if records and "search" in query and str(_id(records[0])).lower() != key.lower():
                raise IncompleteError(f"{self._at('users')}: asked for {key}, and got something else; run again.")
            if records:
                break
        else:
            return None
        if await _ServiceAccounts(self).has(records[0]):
            return None
        held: list[Held] = []
        warnings: list[Held] = []
        rows, groups = user_rows(scope.attributes)(records, "record", held, warnings), list[GroupRow]()
        if rows:
            groups = self._group(scope)(await self._groups_of(records[0], _brief(scope)), "group", held, warnings)
        if held:
            raise IncompleteError(f"{self._at('users')}: {held[0].kind} {held[0].id} cannot be read: {held[0].reason}.")
        return Person(rows[0], groups, [(group[0], rows[0][0], "user") for group in groups], warnings)

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`. Never by `/users/{id}`, which finds service accounts, too."""
        records = await self._found({"search": f"id:{identity}"})
        if records and [_id(one) for one in records] != [identity]:
            raise IncompleteError(f"{self._at('users')}: asked for {identity}, and got something else; run again.")
        return bool(records) and not await _ServiceAccounts(self).has(records[0])

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`."""
        record = await self._one(key)
        if record is None:
            return None
        held: list[Held] = []
        rows = self._group(scope)([record], "record", held)
        if held:
            raise IncompleteError(f"{self._at('groups')}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._one(identity) is not None

    async def _one(self, key: str) -> Any:
        """The record of a group; None where Keycloak itself says that there is none."""
        path = f"/groups/{quote(key, safe='')}"
        answer = await self._http.call("GET", self._root + path)
        if answer.status == 404 and answer.problem().get("error") == "Could not find group by id":
            return None
        if answer.status != 200:
            answer = await self._get(path)
        if _id(found := answer.json()) != key:
            raise IncompleteError(f"{self._at('groups')}: asked for {key}, and got something else; run again.")
        return found

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """Keycloak does not say when a user or group was changed."""
        return ""

    async def changes(self, scope: Scope, cursor: str) -> Changes:  # noqa: ARG002
        """There are none."""
        raise StaleCursorError(f"{self._at()}: no deltas; a full read is due.")

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        people, groups = await asyncio.gather(self._count("/users/count"), self._count("/groups/count"))
        lines = [
            f"{self._at()} answers client {self._settings.client_id}",
            f"users: {people} without service accounts",
            f"groups: {groups} of all levels",
        ]
        # Where the last of those counted is also the last of those listed, the two agree.
        end = self._items(
            await self._get("/users", {"first": max(people - 1, 0), "max": 2, "briefRepresentation": "true"})
        )
        if people and not end:
            await self._found({}, proved=False)
            lines.append(f"users: fewer are listed than counted. {_FEDERATION}")
        elif len(end) > min(people, 1):
            lines.append("users: more are listed than counted, as with user federation, which does no harm")
        return lines

    async def news(self, cursor: str) -> Polled:
        """As `Polls.news`, out of the lists of events that Keycloak saves where its realm says so."""
        if self._polls % _LOOK == 0 or not cursor:
            self._remarks = await self._unsaved()
        self._polls += 1
        kinds = sorted({*hooks.CHANGES, *(["LOGIN"] if self._sign_ins() else [])})
        lists = {_ADMIN: _OF_ADMINS, _OWN: "&".join(f"type={one}" for one in kinds)}
        if not cursor:
            newest = {path: (await self._events(path, query, 0, 1))[0] for path, query in lists.items()}
            start = cursor_of({path: reached(some, Point(0)) for path, some in newest.items()})
            return Polled(start, remarks=self._remarks)
        last, now, gaps = points(cursor), dict[str, Point](), list[str]()
        events = list[tuple[str, Any]]()
        for path, query in lists.items():
            begin = last.get(path, Point(0))
            found = await self._since(path, query, begin)
            now[path] = reached(found, begin)
            gaps.append(lost("admin events" if path == _ADMIN else "user events", found, begin))
            told = ((id_of("poll", path, key), hooks.news_of(one, "poll")) for key, (_, one) in found.items())
            events += [(key, [one for one in news if one]) for key, news in told]
        return Polled(cursor_of(now), events, next(filter(None, gaps), ""), self._remarks)

    # --- users ---------------------------------------------------------------------------------

    async def _people(self, **filters: str) -> AsyncIterator[tuple[Sequence[Any], bool]]:
        """Pages of the plain list of users, or of one with `search`: without service accounts."""
        chosen = {name: value for name, value in filters.items() if name == "search"}
        total = await self._count("/users/count", chosen) if self._settings.user_counts else None
        number = 0

        async def fetch(at: int, count: int) -> Answer:
            return await self._get("/users", {"first": at, "max": count, **filters})

        pages = by_position(fetch, self._items, self._at("users"), count=self._size, expected=total, ahead=self._ahead)
        try:
            async for items, last in pages:
                number += len(items)
                if total and not number:
                    raise self._blind(total)
                if last and number < (total or 0):
                    await self._compare(number, total or 0, chosen)
                yield items, last
        finally:
            await pages.aclose()  # type: ignore[attr-defined]

    async def _compare(self, listed: int, counted: int, chosen: Mapping[str, str]) -> None:
        """Raises unless the list is as long as is counted now. A second same count does not come from a change."""
        now = await self._count("/users/count", chosen)
        if now <= listed:
            return
        message = f"{self._at('users')}: {counted} counted, and {listed} listed"
        if now != counted:
            raise IncompleteError(f"{message}, then {now} counted: they changed while being read; run again.")
        raise IncompleteError(f"{message}, which is so again when counted again. {_FEDERATION}")

    async def _found(self, query: Mapping[str, str], *, proved: bool = True, brief: str = "true") -> list[Any]:
        """Users that a filter finds, two at most. Where nobody is, the count must say so too."""
        answer = await self._get("/users", {**query, "first": 0, "max": 2, "briefRepresentation": brief})
        items = self._items(answer)
        if not items and (total := await self._count("/users/count", query) if proved else 1):
            raise self._blind(total)
        return items

    def _blind(self, total: int) -> ForbiddenError:
        return ForbiddenError(
            f"{self._at('users')}: {total} counted and none shown, as to a client with too few roles. {self._grant()}"
        )

    async def _groups_of(self, record: Record, brief: str) -> list[Any]:
        path = f"/users/{quote(str(record.get('id')), safe='')}/groups"
        total = await self._count(f"{path}/count")
        items = self._items(await self._get(path, {"first": 0, "max": total + 1, "briefRepresentation": brief}))
        if len(items) != total:
            raise IncompleteError(f"{self._at('groups of a user')}: {total} counted, {len(items)} listed; run again.")
        return items

    # --- groups --------------------------------------------------------------------------------

    async def _tree(self, brief: str) -> list[Any]:
        """Every group once, each with its `parentId`; in one list where the server can do that."""
        total = await self._count("/groups/count")
        flat = {"search": "*", "populateHierarchy": "false", "subGroupsCount": "false"}
        records = await self._some("/groups", total, brief, flat)
        if len(records) != total or any(as_dict(record).get("subGroups") for record in records):
            records = await self._walk(total, brief)
        self._below = {key: [] for record in records if isinstance(key := _id(record), str)}
        for record in records:
            parent, key = as_dict(record).get("parentId"), _id(record)
            if parent in self._below and isinstance(key, str):
                self._below[parent].append(key)
        return records

    async def _walk(self, total: int, brief: str) -> list[Any]:
        """Level by level; servers before 23 give all levels in the first answer."""
        found: list[Any] = []
        level = await self._some("/groups", total, brief)
        while level and len(found) <= total:
            found += level
            below: list[Any] = []
            parents: list[Record] = []
            for record in filter(None, map(as_dict, level)):
                if nested := record.get("subGroups"):
                    below += [{"parentId": _id(record), **as_dict(child)} for child in nested]
                elif record.get("subGroupCount"):
                    parents.append(record)
            children = in_order(lambda parent: self._children(parent, brief), parents, self._ahead)
            try:
                async for some in children:
                    below += some
            finally:
                await children.aclose()  # type: ignore[attr-defined]
            level = below
        after = await self._count("/groups/count")
        if not total == len(found) == after:
            raise IncompleteError(
                f"{self._at('groups')}: {len(found)} listed; {total} counted before and {after} after; run again."
            )
        return found

    async def _children(self, parent: Record, brief: str) -> list[Any]:
        total, path = parent["subGroupCount"], f"/groups/{quote(str(_id(parent)), safe='')}/children"
        items = await self._some(path, total if type(total) is int else 0, brief)
        return [{"parentId": _id(parent), **as_dict(item)} for item in items]

    async def _some(self, path: str, total: int, brief: str, more: Mapping[str, str] | None = None) -> list[Any]:
        """Groups are not paged: several may have one name, and their order is then no order."""
        params: dict[str, str | int] = {"first": 0, "max": total + 1, "briefRepresentation": brief, **(more or {})}
        return self._items(await self._get(path, params))

    def _members(self, key: str, service_accounts: _ServiceAccounts) -> Callable[[str], Awaitable[Part]]:
        """A function offset → page of the ids of a group's members."""
        path, size = f"/groups/{quote(key, safe='')}/members", self._size
        ahead: dict[str, Any] = {}

        async def fetch(offset: str) -> Part:
            at = int(offset)
            answer = await self._get(path, {"first": at, "max": size + 1, "briefRepresentation": "true"})
            items = self._items(answer)
            if at:
                self._meet(ahead[offset], items)
            after = None
            if len(items) > size:
                after = str(at + size)
                ahead[after] = _id(items.pop())
            try:
                items = [item for item in items if not await service_accounts.has(item)]
                ids = [item["id"] for item in items]
            except (KeyError, TypeError):
                ids = [None]
            if len(items) > size:
                raise IncompleteError(f"{self._at('members')} of {key}: more members than asked for; run again.")
            if not set(map(type, ids)) <= {str}:
                raise Flaw("a member has no id, or one that is not text")
            return Part(ids, next=after)

        return fetch

    # --- events --------------------------------------------------------------------------------

    def _sign_ins(self) -> bool:
        return self._settings.polling is None or self._settings.polling.sign_ins

    async def _unsaved(self) -> list[str]:
        """What the realm does not save, and so nobody is told of. Raises `ConfigurationError` where it saves nothing
        that administrators do."""
        said = as_dict((await self._get("/events/config")).json())
        where = "Realm settings > Events"
        if said.get("adminEventsEnabled") is not True:
            raise ConfigurationError(f"{self._at()}: admin events are not saved; switch them on in {where}.")
        if said.get("eventsEnabled") is not True:
            what = "sign-ins, and what people change in their own accounts,"
            return [f"{self._at()}: user events are not saved, so that {what} are not told; see {where}"]
        kept = said.get("enabledEventTypes")
        if self._sign_ins() and isinstance(kept, list) and kept and "LOGIN" not in kept:
            return [f"{self._at()}: LOGIN is none of the event types that are saved; see {where}"]
        return []

    async def _since(self, path: str, query: str, last: Point) -> Found:
        """The events of a list since the newest that is known, and some before it. They come with the newest first, so
        that one which comes meanwhile makes others come twice."""
        found: Found = {}
        at, size = 0, _EVENTS[0]
        while True:
            some, number = await self._events(path, query, at, size)
            found |= some
            oldest = min((time for time, _ in some.values()), default=0)
            if number < size or oldest < last.time - _LATE or len(found) > MOST_EVENTS:
                return found
            at, size = at + number, _EVENTS[1]

    async def _events(self, path: str, query: str, at: int, size: int) -> tuple[Found, int]:
        """A page of a list of events, and how many came."""
        items = self._items(await self._get(f"{path}?{query}&first={at}&max={size}&direction=desc"))
        timed = ((one, time) for one in map(as_dict, items) if type(time := one.get("time")) is int)
        found = {(str(one["id"]) if one.get("id") else digest(one)): (time, one) for one, time in timed}
        return found, len(items)

    # --- requests ------------------------------------------------------------------------------

    def _meet(self, expected: Any, items: Sequence[Any]) -> None:
        """The first record of a page is the one that the page before ended with, unless one of them makes no sense."""
        first = _id(items[0]) if items else ""
        if first != expected and isinstance(first, str) and isinstance(expected, str):
            raise IncompleteError(f"{self._at()}: a list moved while it was read; run again.")

    async def _count(self, path: str, query: Mapping[str, str] | None = None) -> int:
        said = (await self._get(path, query)).json()
        number = said.get("count") if isinstance(said, dict) else said
        if type(number) is not int or number < 0:
            raise IncompleteError(f"{self._at()}: {path} is no count; run again.")
        return number

    def _items(self, answer: Answer) -> list[Any]:
        found = answer.json()
        if not isinstance(found, list):
            raise IncompleteError(f"{answer.url} is no list but a JSON {type(found).__name__}; check `url`.")
        return found

    async def _get(self, path: str, params: Mapping[str, str | int] | None = None) -> Answer:
        answer = await self._http.call("GET", self._root + path, params=params)
        if answer.status == 200:
            return answer
        error = answer.problem().get("error")
        path = path.partition("?")[0]
        message = f"{self._at()}: {answer.status} for {path}{answer.words(error) if type(error) is str else ''}"
        if answer.status == 403:
            role = "view-events" if path.startswith((_ADMIN, _OWN)) else "view-users"
            raise ForbiddenError(f"{message}. {self._grant(role)}")
        if answer.status == 404 and path.count("/") > 2:
            raise IncompleteError(f"{message}: it {_GONE}.")
        if answer.status == 404:
            raise ConfigurationError(
                f"{message}. Check `realm`, and whether `url` needs a path such as /auth at its end."
            )
        raise IncompleteError(f"{message}; run again.")

    def _grant(self, role: str = "view-users") -> str:
        own = self._settings.token_realm in ("", self._settings.realm)
        roles = "realm-management" if own else f"{self._settings.realm}-realm"
        return (
            f"Give the client {self._settings.client_id} the role {role} of {roles}: "
            "Clients, the client, Service account roles, Assign role."
        )

    def _at(self, what: str = "") -> str:
        return f"{self._http.name}: realm {self._settings.realm}{what and f', {what}'}"


class _ServiceAccounts:
    """Tells service accounts from people whose username begins alike: the plain list has only these."""

    def __init__(self, source: Keycloak) -> None:
        self._source = source
        self._people: asyncio.Task[set[Any]] | None = None

    async def has(self, record: Any) -> bool:
        """Whether this user is a service account."""
        if not str(as_dict(record).get("username")).startswith(_SERVICE):
            return False
        if self._people is None:
            self._people = asyncio.ensure_future(self._read())
        return _id(record) not in await asyncio.shield(self._people)

    async def _read(self) -> set[Any]:
        pages = self._source._people(search=_SERVICE, briefRepresentation="true")
        return {_id(record) async for records, _ in pages for record in records}


# --- record → row ------------------------------------------------------------------------------


def user_rows(attributes: frozenset[str]) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`."""
    extra = attributes_of(attributes, _steps)

    def one(record: Any, doubts: Doubts) -> UserRow:
        try:
            key, username, active = record["id"], record["username"], record["enabled"]
            get = record.get
            email, first, last = get("email", ""), get("firstName", ""), get("lastName", "")
            texts = type(key) is type(username) is type(email) is type(first) is type(last) is str
            if texts and key and username and (active is True or active is False):
                return key, username, email, first, last, f"{first} {last}".strip(), active, extra(record, doubts)
        except (KeyError, TypeError, AttributeError):
            pass
        object_of(record)
        key, username, active = needed(record, "id"), needed(record, "username"), truth(record, "enabled")
        email = optional(record, "email", doubts)
        first, last, _ = names(record, ("firstName", "lastName", ""), doubts)
        return key, username, email, first, last, f"{first} {last}".strip(), active, extra(record, doubts)

    return each(one, "user", "username", lambda record: record.get("enabled") is False)


def group_rows(title: str) -> Callable[[Scope], Rows[GroupRow]]:
    """As `user_rows`, for each scope; `title` is the field that becomes the name."""

    def of(scope: Scope) -> Rows[GroupRow]:
        extra = attributes_of(scope.attributes, _steps)

        def one(record: Any, doubts: Doubts) -> GroupRow:
            key, name = needed(object_of(record), "id"), needed(record, title)
            return key, name, optional(record, "description", doubts), extra(record, doubts)

        return each(one, "group", title)

    return of


def _steps(path: str) -> Sequence[str]:
    """`emailVerified`, or `attributes.` and the name of an attribute, dots and all."""
    head, dot, rest = path.partition(".")
    if not head or (dot and not (rest and head == "attributes")):
        raise ConfigurationError(f"keycloak: {path!r} is no path such as attributes.department or emailVerified.")
    return (head, rest) if dot else (head,)


def _brief(scope: Scope) -> str:
    return "false" if scope.attributes else "true"


def _id(record: Any) -> Any:
    return record.get("id") if isinstance(record, dict) else None
