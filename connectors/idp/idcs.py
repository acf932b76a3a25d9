"""Oracle IDCS, or an OCI IAM identity domain, as a source: its REST API is SCIM with Oracle's additions.

https://docs.oracle.com/en/cloud/paas/iam-domains-rest-api/

Lists page by index; `totalResults` proves them whole. Members come with lists of groups, some dozens of groups at a
time: an answer with more than 10,000 members fails as a whole, so one that comes has them all. Where it fails, half
of the groups are asked for, and the members of one group alone in pages. (The groups in the records of users would
cost no request, but nothing would prove that none is missing.)
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

import orjson
from pydantic import Field

from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Polled, Scope
from connectors.errors import ConfigurationError, ForbiddenError, IncompleteError, StaleCursorError
from connectors.hook import News, id_of, named
from connectors.http import Answer, Http
from connectors.model import GroupRow, Members, MembershipRow, UserRow, pairs_of
from connectors.oauth import Tokens
from connectors.paging import Part, by_cursor, by_index, distinct, drained, meet, of_groups
from connectors.polling import Found, Point, cursor_of, points, reached
from connectors.records import (
    Doubts,
    Flaw,
    Record,
    Rows,
    address,
    as_dict,
    each,
    inner,
    listed,
    names,
    needed,
    object_of,
    optional,
    scim_path,
    text,
    truth,
)
from connectors.records import attributes as attributes_of
from connectors.source import SourceSettings, WithClientSecret, WithPolling, client

_ROOT: Final = "/admin/v1"
_USERS: Final = f"{_ROOT}/Users"
_GROUPS: Final = f"{_ROOT}/Groups"
_USER: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:user:User"
_GROUP: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:group:Group"
_SIGNED_IN: Final = "urn:ietf:params:scim:schemas:oracle:idcs:extension:userState:User:lastSuccessfulLoginDate"
_LATE: Final = timedelta(minutes=5)
"""After that time a change is certainly found."""
_LEAVES: Final = "deleteInProgress"
_APART: Final = ("recovery",)
"""Types of e-mail addresses that are nobody's for work."""
_OF_USERS: Final = ("userName", "displayName", "name", "emails", "active", "deleteInProgress", f"{_USER}:serviceUser")
_OF_GROUPS: Final = ("displayName", "deleteInProgress", f"{_GROUP}:description")
_FORM: Final = {"grant_type": "client_credentials", "scope": "urn:opc:idm:__myscopes__"}
_ACCEPT: Final = {"accept": "application/scim+json, application/json;q=0.9"}
_TOO_MANY: Final = (400, 413, 422, 500, 502, 504)
"""How an answer with too many members may fail; Oracle does not say how."""
_MANY: Final = 10_000
"""More members than that make an answer fail."""
_INSIDE: Final = 1000
_OVERLAP: Final = timedelta(minutes=15)
"""How far before now a delta begins, for clocks that differ and changes that are seen late."""
_TIME: Final = "%Y-%m-%dT%H:%M:%S.000Z"
_NO_RIGHT: Final = (
    "Give the confidential application an application role that reads users and groups, such as User Administrator "
    "(its OAuth configuration > Client configuration > App roles)."
)


class IdcsSettings(WithPolling, WithClientSecret, SourceSettings):
    """Oracle IDCS, or an OCI IAM identity domain."""

    kind: Literal["idcs"] = "idcs"
    url: str = Field(description="The domain URL: https://idcs-….identity.oraclecloud.com")
    client_id: str = Field(min_length=1, description="Client id of the confidential application.")
    page_size: int = Field(1000, ge=1, le=1000, description="Records a page.")
    groups_at_once: int = Field(50, ge=1, le=100, description="Groups whose members are asked for in one request.")
    known: ClassVar = ("client_secret",)


class Idcs:
    """`http` leads to the domain's API, `login` to its token endpoint."""

    name: ClassVar[str] = "idcs"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True, delta=True)
    settings: ClassVar[type[IdcsSettings]] = IdcsSettings

    @classmethod
    def open(cls, name: str, settings: IdcsSettings, secrets: Mapping[str, str]) -> Idcs:
        """As `Source.open`."""
        url = settings.url.rstrip("/").removesuffix(_ROOT)
        login = client(name, settings, url, basic=(settings.client_id, secrets["client_secret"]))
        tokens = Tokens(
            login,
            "/oauth2/v1/token",
            lambda: _FORM,
            advice=f"Check client_id, the secret in {settings.place('client_secret')}, and that the application is "
            "active and allows the grant Client credentials.",
        )
        return cls(client(name, settings, url, bearer=tokens, headers=_ACCEPT), login, settings)

    def __init__(self, http: Http, login: Http, settings: IdcsSettings) -> None:
        self._http, self._login, self._settings = http, login, settings
        self._at_once = settings.groups_at_once

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return self._http, self._login

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users but service users and those being deleted."""
        rows = user_rows(_user_paths(scope))
        async for records, start, last in self._list(_USERS, {"attributes": _requested(_OF_USERS, _user_paths(scope))}):
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(_staying(records), f"user from {start}", held, warnings), last, held, warnings)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups but those being deleted."""
        rows = group_rows(_group_paths(scope))
        async for records, start, last in self._list(
            _GROUPS, {"attributes": _requested(_OF_GROUPS, _group_paths(scope))}
        ):
            held: list[Held] = []
            warnings: list[Held] = []
            yield Page(rows(_staying(records), f"group from {start}", held, warnings), last, held, warnings)

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members, users and groups, of the groups with these ids."""
        bare: list[str] = []
        held: list[Held] = []
        first = partial(self._members_of, attributes="members.value,members.type", bare=bare, held=held)
        async for page in of_groups(self._bundles(dict.fromkeys(groups)), first, self._settings.concurrency):
            yield Page(page.rows, False)
        # No members look like members that were not sent: those groups again, in the words of the documentation.
        again = partial(self._members_of, attributes="members", bare=[], held=held)
        async for page in of_groups(self._bundles(bare), again, self._settings.concurrency, held):
            yield page

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, then by username, then by e-mail address."""
        if not key:
            return None
        said = orjson.dumps(key).decode()
        query = {
            "filter": f"id eq {said} or userName eq {said} or emails.value eq {said}",
            "attributes": _requested((*_OF_USERS, "groups.value", "groups.type"), _user_paths(scope)),
        }
        pages = self._list(_USERS, query)
        records = [one async for page, *_ in pages for one in _staying(page)]
        if not all(isinstance(as_dict(one).get("id"), str) for one in records):
            raise IncompleteError(f"{self._at(_USERS)}: a user that was asked for has no id, or one that is not text.")
        for found in (
            [one for one in records if one.get("id") == key],
            [one for one in records if str(one.get("userName")).lower() == key.lower()],
            [one for one in records if address(one.get("emails"), [], _APART).lower() == key.lower()],
        ):
            if len(found) > 1:
                raise IncompleteError(f"{self._at(_USERS)}: {len(found)} people have the name or address asked for.")
            if found:
                return await self._person(found[0], scope)
        # Who has the address for recovery only is nobody; any other record is not what was asked for.
        others = [{text(as_dict(x).get("value")).lower() for x in listed(one.get("emails"))} for one in records]
        if not all(key.lower() in some for some in others):
            raise IncompleteError(f"{self._at(_USERS)}: asked for one person, and got somebody else; run again.")
        return None

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`."""
        paths = _group_paths(scope)
        record = await self._one(_GROUPS, key, _requested(_OF_GROUPS, paths))
        if record is None:
            return None
        held: list[Held] = []
        rows = group_rows(paths)([record], "group", held)
        if held:
            raise IncompleteError(f"{self._at(_GROUPS)}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`."""
        return await self._one(_USERS, identity, f"id,deleteInProgress,{_USER}:serviceUser") is not None

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._one(_GROUPS, identity, "id,deleteInProgress") is not None

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """Now, less an overlap, as SCIM writes it."""
        return (datetime.now(UTC) - _OVERLAP).strftime(_TIME)

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """Users and groups changed since `cursor`; the members of these groups whole.

        Nobody is ever named as gone: deleted users and groups leave no trace.
        """
        after = await self.cursor(scope)
        try:
            datetime.strptime(cursor, _TIME)  # noqa: DTZ007
        except ValueError:
            raise StaleCursorError(f"{self._at()}: {cursor[:40]!r} is no time to start a delta from.") from None
        since, held, warnings = {"filter": f'meta.lastModified gt "{cursor}"'}, list[Held](), list[Held]()
        rows, requested = group_rows(_group_paths(scope)), _requested(_OF_GROUPS, _group_paths(scope))
        groups: list[GroupRow] = []
        async for records, start, _ in self._list(_GROUPS, {**since, "attributes": requested}, twice=False):
            groups += rows(_staying(records), f"changed group from {start}", held, warnings)
        ids = [row[0] for row in groups]
        # Users come last: whoever joins meanwhile is then not a member whom nobody knows.
        members = pairs_of(await drained(self.memberships(ids), held))
        people, requested = user_rows(_user_paths(scope)), _requested(_OF_USERS, _user_paths(scope))
        users: list[UserRow] = []
        async for records, start, _ in self._list(_USERS, {**since, "attributes": requested}, twice=False):
            users += people(_staying(records), f"changed user from {start}", held, warnings)
        return Changes(after, users, groups, ids, members, held=held, warnings=warnings)

    async def news(self, cursor: str) -> Polled:
        """As `Polls.news`. Oracle's list of audit events has had nothing new since December 2024: it is asked who was
        changed, and who signed in. Who is deleted is not found so, and nothing says that anything is missing."""
        start = Point(int((datetime.now(UTC) - _OVERLAP).timestamp() * 1000))
        lists = {"users": (_USERS, "meta.lastModified"), "groups": (_GROUPS, "meta.lastModified")}
        if self._settings.polling is None or self._settings.polling.sign_ins:
            lists["sign-ins"] = _USERS, _SIGNED_IN
        if not cursor:
            return Polled(cursor_of(dict.fromkeys(lists, start)))
        last, now, events = points(cursor), dict[str, Point](), list[tuple[str, list[News]]]()
        for name, (path, field) in lists.items():
            begin = last.get(name, start)
            found = await self._since(path, field, begin)
            now[name] = Point(reached(found, begin).time)
            for key, (time, _) in found.items():
                one = named("group" if name == "groups" else "user", key, "sign-in" if name == "sign-ins" else "poll")
                events += [(id_of("poll", name, key, str(time)), [one])] if one else []
        return Polled(cursor_of(now), events)

    async def _since(self, path: str, field: str, last: Point) -> Found:
        """Ids of the records with a later time in this field (and some that are a little earlier), and that time."""
        moment = (datetime.fromtimestamp(last.time / 1000, UTC) - _LATE).strftime(_TIME)
        query = {"filter": f'{field} ge "{moment}"', "attributes": f"id,{field}"}
        found: Found = {}
        async for records, *_ in self._list(path, query, twice=False):
            for record in map(as_dict, records):
                schema, _, name = field.rpartition(":" if field.startswith("urn:") else ".")
                said = text(as_dict(record.get(schema)).get(name))
                try:
                    found[text(record.get("id"))] = int(datetime.fromisoformat(said).timestamp() * 1000), None
                except ValueError:
                    raise IncompleteError(f"{self._at(path)}: {field} of a record is no time. Run again.") from None
        return found

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        lines = [f"{self._at()} answers"]
        for what, path in (("users, service users among them", _USERS), ("groups", _GROUPS)):
            part = self._part(await self._get(path, {"attributes": "id", "count": 1, "startIndex": 1}))
            lines.append(f"{what}: {part.total}")
        return lines

    # --- reading -------------------------------------------------------------------------------

    async def _list(
        self, path: str, params: Mapping[str, str | int], *, twice: bool = True
    ) -> AsyncIterator[tuple[Sequence[Any], int, bool]]:
        """Every record of a list: (records, number of the first, last page?). Ids are unique.

        `twice`: an empty list is asked for again, because one wrong answer must not empty a directory.
        """

        async def fetch(start: int, count: int) -> Answer:
            return await self._get(path, {**params, "sortBy": "id", "startIndex": start, "count": count})

        pages = by_index(fetch, self._part, self._at(path), count=self._settings.page_size)
        async for records, start, last in distinct(pages, self._at(path)):
            if last and twice and start == 1 and not records and self._part(await fetch(1, 1)).items:
                raise IncompleteError(f"{self._at(path)}: empty, and when asked again not empty. Run again.")
            yield records, start, last

    async def _one(self, path: str, key: str, attributes: str) -> Record | None:
        """The record with this id; None where no list would name it."""
        answer = await self._get(f"{path}/{quote(key, safe='')}", {"attributes": attributes}, (404,))
        if answer.status == 404 and "html" not in answer.headers.get("content-type", ""):
            return None
        record = as_dict(answer.json())
        if answer.status != 200 or record.get("id") != key:
            raise IncompleteError(f"{self._at(path)}: asked for {key}, and got something else; run again.")
        return None if _leaves(record) else record

    async def _members_of(
        self, groups: Sequence[str], *, attributes: str, bare: list[str], held: list[Held]
    ) -> list[Members]:
        """Members of these groups; those that came without are added to `bare`, unreadable ones to `held`.

        Where an answer fails, it may have been too large: by halves, then, and fewer groups in the next requests."""
        found = await self._together(groups, attributes, bare, held)
        if found is None:
            self._at_once = max(1, len(groups) // 2)
            return await self._halves(groups, attributes, bare, held)
        if 4 * sum(map(len, found)) < _MANY:
            self._at_once = min(2 * self._at_once, self._settings.groups_at_once)
        return found

    async def _halves(self, groups: Sequence[str], attributes: str, bare: list[str], held: list[Held]) -> list[Members]:
        if len(groups) == 1:
            try:
                return await self._members_by_page(groups[0])
            except Flaw as flaw:
                held.append(Held("group", groups[0], "", str(flaw)))
                return []
        both: list[Members] = []
        for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :]):
            found = await self._together(half, attributes, bare, held)
            both += await self._halves(half, attributes, bare, held) if found is None else found
        return both

    async def _together(
        self, groups: Sequence[str], attributes: str, bare: list[str], held: list[Held]
    ) -> list[Members] | None:
        """Members of these groups by one request; None where its answer failed."""
        records = await self._with_ids(groups, attributes, expect=_TOO_MANY)
        if records is None:
            return None
        found: list[Members] = []
        for key, record in records.items():
            members = record.get("members")
            if members is None or members == []:
                bare.append(key)
                continue
            try:
                found.append(self._read_members(key, members))
            except Flaw as flaw:
                held.append(Held("group", key, "", str(flaw)))
        return found

    async def _with_ids(
        self, ids: Sequence[str], attributes: str, *, expect: Sequence[int] = ()
    ) -> dict[str, Record] | None:
        """The groups with these ids, all of them; None where the answer is one of `expect`."""
        condition = " or ".join(f"id eq {orjson.dumps(key).decode()}" for key in ids)
        params = {"filter": condition, "attributes": attributes, "sortBy": "id", "startIndex": "1"}
        answer = await self._get(_GROUPS, {**params, "count": len(ids)}, expect)
        if answer.status != 200:
            return None
        part = self._part(answer)
        found = {str(as_dict(one).get("id")): as_dict(one) for one in part.items}
        if part.total != len(ids) or len(part.items) != len(ids) or found.keys() != set(ids):
            raise IncompleteError(
                f"{self._at(_GROUPS)}: asked for {len(ids)} groups, got {len(part.items)} of {part.total}. "
                "They changed while being read, or the answer is damaged; run again."
            )
        return found

    async def _members_by_page(self, group: str) -> list[Members]:
        """Members of one group, in pages inside the attribute. Nothing counts them: each page begins with the member
        that ended the one before it, and the end is where there is no other."""
        path, end = f"{_GROUPS}/{quote(group, safe='')}", None

        async def fetch(start: str) -> Part:
            nonlocal end
            query = {"attributes": f"members[startIndex={start}&count={_INSIDE}]"}
            record = as_dict((await self._get(path, query)).json())
            if record.get("id") != group:
                raise IncompleteError(f"{self._at(path)}: the answer is not this group; run again.")
            members = record.get("members")
            members = [] if members is None else members
            if not isinstance(members, list):
                raise Flaw("its `members` are not a list")
            if start == "1":
                end = members[-1] if members else None
                return Part(members, next=str(len(members)) if members else None)
            meet(end, members, self._at(path))
            end = members[-1]
            return Part(members[1:], next=str(int(start) + len(members) - 1) if len(members) > 1 else None)

        pages, seen = list[Members](), set[MembershipRow]()
        async for members, _ in by_cursor(fetch, self._at(path), first="1", sparse=True):
            pages.append(self._read_members(group, members))
            seen.update(pages[-1].pairs())
            if len(seen) != sum(map(len, pages)):
                raise IncompleteError(f"{self._at(path)}: a member came twice, so another may be missing; run again.")
        return pages

    def _read_members(self, group: str, members: Any) -> Members:
        """Members that are users or groups, and no others, such as applications. Raises `Flaw`."""
        try:
            users = [one["value"] for one in members if one["type"] == "User"]
            nested = [one["value"] for one in members if one["type"] == "Group"]
        except (KeyError, TypeError):
            users, nested = [], [None]
        ids = set(users).union(nested) if set(map(type, users)) | set(map(type, nested)) <= {str} else {""}
        if "" in ids:
            raise Flaw("a member has no `value` or no `type`")
        if len(ids) != len(users) + len(nested):
            raise IncompleteError(f"{self._at(_GROUPS)}: the group {group} has a member twice; run again.")
        return Members(group, users, nested)

    async def _person(self, record: Record, scope: Scope) -> Person:
        """A record with `groups` → the person; which groups are direct is said by their type."""
        held: list[Held] = []
        warnings: list[Held] = []
        users = user_rows(_user_paths(scope))([record], "user", held, warnings)
        if held:
            raise IncompleteError(f"{self._at(_USERS)}: the user {held[0].id} cannot be read: {held[0].reason}.")
        user, entries = users[0], record.get("groups")
        if not entries:  # as in `memberships`
            path = f"{_USERS}/{quote(user[0], safe='')}"
            entries = as_dict((await self._get(path, {"attributes": "groups,groups.type"})).json()).get("groups") or []
        kinds = {as_dict(one).get("value"): as_dict(one).get("type") for one in entries}
        ids = [key for key, kind in kinds.items() if kind == "direct" and isinstance(key, str)]
        if len(ids) + list(kinds.values()).count("indirect") != len(entries):
            raise IncompleteError(f"{self._at(_USERS)}: it is not said which groups of {user[0]} are direct.")
        groups: list[GroupRow] = []
        rows, requested = group_rows(_group_paths(scope)), _requested(_OF_GROUPS, _group_paths(scope))
        for some in self._bundles(ids):
            found = await self._with_ids(some, requested) or {}
            groups += rows(_staying(found.values()), "group", held, warnings)
        if held:
            raise IncompleteError(f"{self._at(_GROUPS)}: a group of {user[0]} cannot be read: {held[0].reason}.")
        return Person(user, groups, [(group[0], user[0], "user") for group in groups], warnings)

    async def _get(self, path: str, params: Mapping[str, str | int], expect: Sequence[int] = ()) -> Answer:
        answer = await self._http.call("GET", path, params=params, expect=(401, *expect))
        if answer.status == 200 or answer.status in expect:
            return answer
        message = f"{self._at(path)}: {answer.status}{_detail(answer)}."
        if answer.status in (401, 403):  # 401 also to a new token
            raise ForbiddenError(f"{message} {_NO_RIGHT}")
        if answer.status == 404:
            raise ConfigurationError(f"{message} Set `url` to the domain URL, without a path.")
        raise IncompleteError(message)

    def _part(self, answer: Answer) -> Part:
        """A ListResponse. `itemsPerPage` is what was asked for, and says nothing."""
        found = as_dict(answer.json())
        total, start, items = found.get("totalResults"), found.get("startIndex"), found.get("Resources", [])
        if type(total) is not int or not isinstance(items, list):
            raise IncompleteError(
                f"{answer.url} is not a ListResponse; keys: {answer.scrub(', '.join(list(found)[:6])) or 'none'}."
            )
        return Part(items, total, start if type(start) is int else None)

    def _bundles(self, ids: Iterable[str]) -> Iterator[list[str]]:
        """So many at once as fit into an answer, as far as is known when each is needed."""
        every, at = list(ids), 0
        while at < len(every):
            size = self._at_once
            yield every[at : at + size]
            at += size

    def _at(self, path: str = "") -> str:
        return f"{self._http.name}: {path.removeprefix(_ROOT) or 'the identity domain'}"


# --- record → row ------------------------------------------------------------------------------


def user_rows(attributes: Iterable[str]) -> Rows[UserRow]:
    """A function (records, where they stand, held) → rows; what cannot be a row is added to `held`."""
    extra = attributes_of(attributes, scim_path("idcs"))

    def careful(record: Record, doubts: Doubts) -> UserRow:
        record = object_of(record)
        key, username, active = needed(record, "id"), needed(record, "userName"), truth(record, "active")
        first, last, _ = names(
            inner(record, "name", doubts, "first_name", "last_name"), ("givenName", "familyName", ""), doubts
        )
        display = optional(record, "displayName", doubts, "display_name") or f"{first} {last}".strip()
        email = address(record.get("emails"), doubts, _APART)
        return key, username, email, first, last, display, active, extra(record, doubts)

    def one(record: Record, doubts: Doubts) -> UserRow:
        try:
            key, username, active, name = record["id"], record["userName"], record["active"], record["name"]
            first, last, display = name.get("givenName", ""), name.get("familyName", ""), record["displayName"]
            texts = type(key) is type(username) is type(first) is type(last) is type(display) is str
        except (KeyError, TypeError, AttributeError):
            return careful(record, doubts)
        if not (texts and key and username and display and (active is True or active is False)):
            return careful(record, doubts)
        email = address(record.get("emails"), doubts, _APART)
        return key, username, email, first, last, display, active, extra(record, doubts)

    return each(one, "user", "userName", lambda record: record.get("active") is False)


def group_rows(attributes: Iterable[str]) -> Rows[GroupRow]:
    """As `user_rows`."""
    extra = attributes_of(attributes, scim_path("idcs"))

    def one(record: Record, doubts: Doubts) -> GroupRow:
        key, name = needed(object_of(record), "id"), needed(record, "displayName")
        about = optional(inner(record, _GROUP, doubts, "description"), "description", doubts)
        return key, name, about, extra(record, doubts)

    return each(one, "group", "displayName")


def _staying(records: Iterable[Any]) -> list[Any]:
    """The records without service users and what is being deleted."""
    return [one for one in records if type(one) is not dict or not ((_USER in one or _LEAVES in one) and _leaves(one))]


def _leaves(record: Record) -> bool:
    more = record.get(_USER)
    return record.get(_LEAVES) is True or (type(more) is dict and more.get("serviceUser") is True)


def _user_paths(scope: Scope) -> list[str]:
    return sorted(path for path in scope.attributes if ":Group:" not in path)


def _group_paths(scope: Scope) -> list[str]:
    return sorted(path for path in scope.attributes if ":Group:" in path)


def _requested(names: Iterable[str], paths: Iterable[str]) -> str:
    """`attributes` of a request. Raises `ConfigurationError` for what is no attribute path."""
    for path in paths:
        if not re.fullmatch(r"[\w.:$-]+", path):
            raise ConfigurationError(f"idcs: {path!r} is no attribute path such as title, name.middleName or urn:…:x.")
    return ",".join(dict.fromkeys((*names, *paths)))


def _detail(answer: Answer) -> str:
    """What Oracle says of an error, with the id that its support asks for."""
    said = answer.problem()
    more = next((as_dict(value) for key, value in said.items() if key.endswith(":messages:Error")), {})
    words = [said.get("detail"), more.get("messageId"), answer.headers.get("x-oracle-dms-ecid")]
    return answer.words(", ".join(answer.scrub(str(word)) for word in words if word))
