"""SCIM 2.0 service provider as a source: any product that lets its users and groups be read by SCIM.

Schemas https://www.rfc-editor.org/rfc/rfc7643, protocol https://www.rfc-editor.org/rfc/rfc7644,
cursor paging https://www.rfc-editor.org/rfc/rfc9865.

Members come from the list of groups. What a list says is taken at its word only where it says it:
a group that comes *without* the key `members` may be empty (RFC 7643 2.5 lets a server drop it) or
the server may leave members out of lists, so such groups are read one by one, unless
`group_members="list"`. With "get" every group is read one by one, for servers whose lists shorten
the members. `groups()` keeps the members it saw for the one `memberships()` that follows.

A record that cannot be read is held, and so is a group whose members cannot be: they stay as they are. A key that
stands twice makes the page an incomplete read: which of the two is meant, nobody knows.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal
from urllib.parse import quote

import msgspec
import orjson
from pydantic import Field

from connectors import strict_json
from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Scope
from connectors.errors import (
    ConfigurationError,
    CrowdsyncError,
    ForbiddenError,
    IncompleteError,
    RefusedError,
    StaleCursorError,
    TooLargeError,
)
from connectors.http import Answer, Http
from connectors.model import DISABLED, GroupRow, Members, UserRow
from connectors.paging import Part, by_cursor, by_index, distinct, in_order
from connectors.records import Record, as_dict, listed, text
from connectors.scim_rows import folded, group_rows, user_rows
from connectors.source import SourceSettings, WithToken, client

_ACCEPT: Final = {"accept": "application/scim+json, application/json;q=0.9"}
_SINGLES: Final = 20
"""Up to so many groups are read one by one rather than out of the whole list."""
_AT_ONCE: Final = 8
_ROWS: Final = 10_000


class ScimSettings(WithToken, SourceSettings):
    """Any SCIM 2.0 server."""

    kind: Literal["scim"] = "scim"
    url: str = Field(description="Base of the SCIM endpoint, e.g. https://idp.example.org/scim/v2")
    group_page_size: int = Field(
        200, ge=2, le=10_000, description="Groups a page, with their members, at most; fewer where these are many."
    )
    group_members: Literal["auto", "list", "get"] = Field(
        "auto", description="Members out of the list of groups (list), group by group (get), or as they come (auto)."
    )
    known: ClassVar = ("token",)


class Scim:
    """`http` leads to the SCIM root, the address above `/Users`.

    `page_size` and `group_page_size` are asked for; the server may give less. `absent_active` is
    what a user without `active` is. `paging` is auto, index or cursor.
    """

    name: ClassVar[str] = "scim"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True)
    settings: ClassVar[type[ScimSettings]] = ScimSettings

    @classmethod
    def open(cls, name: str, settings: ScimSettings, secrets: Mapping[str, str]) -> Scim:
        """As `Source.open`."""
        return cls(
            client(name, settings, bearer=secrets["token"]),
            page_size=settings.page_size,
            group_page_size=settings.group_page_size,
            group_members=settings.group_members,
        )

    def __init__(
        self,
        http: Http,
        *,
        page_size: int = 1000,
        group_page_size: int = 200,
        absent_active: bool = True,
        group_members: str = "auto",
        paging: str = "auto",
    ) -> None:
        if group_members not in ("auto", "list", "get") or paging not in ("auto", "index", "cursor"):
            raise ConfigurationError("scim: group_members is auto, list or get; paging is auto, index or cursor.")
        self._http, self._absent_active = http, absent_active
        self._sizes = {"Users": page_size, "Groups": group_page_size}
        self._how, self._paging = group_members, paging
        self._paths = {"Users": "/Users", "Groups": "/Groups"}
        self._others = {"device"}
        self._found: asyncio.Task[None] | None = None
        self._kept: dict[str, _Members | str | None] = {}
        self._same: dict[str, str] = {}
        self._group_ids: frozenset[str] = frozenset()
        self._filter_proved: bool | None = None
        self._by_name: bool | None = None
        self._proving = asyncio.Lock()

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users, a `Page` for each page of the server."""
        rows = user_rows(scope.attributes, self._absent_active)
        async for records, start, last in self._list("Users"):
            held: list[Held] = []
            warnings: list[Held] = []
            sound = _sound("user", "userName", records, held)
            yield Page(rows(sound, f"record from index {start}", held, warnings), last, held, warnings)

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups; their members are kept for `memberships` unless these are read one by one."""
        rows, kept = group_rows(scope.attributes), dict[str, _Members | str | None]()
        self._kept = {}
        params = {"excludedAttributes": "members"} if self._how == "get" else None
        async for records, start, last in self._list("Groups", params):
            held: list[Held] = []
            warnings: list[Held] = []
            sound = _sound("group", "displayName", records, held)
            page = Page(rows(sound, f"record from index {start}", held, warnings), last, held, warnings)
            self._keep(records, kept)
            if last:
                self._group_ids = frozenset(kept)
                self._kept = kept if params is None else {}
                self._same = {}
            yield page

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """Direct members, users and groups, of the groups with these ids. A group one of whose members makes no sense
        is held."""
        wanted = list(dict.fromkeys(groups))
        kept, self._kept = self._kept, {}
        await self._discover()
        if self._how != "get" and len(wanted) > _SINGLES and not all(key in kept for key in wanted):
            kept = {}
            async for records, _, _ in self._list("Groups"):
                self._keep(records, kept)
            if gone := [key for key in wanted if key not in kept]:
                raise IncompleteError(f"{self._at('Groups')}: {len(gone)} groups are gone ({gone[0]} …); run again.")
        if self._how == "list" and None in kept.values() and not await self._on_request():
            kept = {key: ([], [], []) if members is None else members for key, members in kept.items()}
        known = self._group_ids | kept.keys() | set(wanted)
        singles = in_order(self._members_of, [key for key in wanted if kept.get(key) is None], _AT_ONCE)
        rows: list[Members] = []
        number = 0
        held: list[Held] = []
        try:
            for key in wanted:
                members = kept.pop(key, None)
                members = await anext(singles) if members is None else members
                if isinstance(members, str):
                    held.append(Held("group", key, "", members))
                    continue
                users, nested, unsure = members
                users += [member for member in unsure if member not in known]
                nested += [member for member in unsure if member in known]
                rows.append(Members(key, users, nested))
                number += len(rows[-1])
                if number >= _ROWS:
                    yield Page(rows, False)
                    rows, number = [], 0
        finally:
            await singles.aclose()  # type: ignore[attr-defined]
        yield Page(rows, True, held)

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """One person by id, then by username, then by e-mail, with the groups they are a direct member of."""
        await self._discover()
        record = await self._single("Users", key)
        identity = None if record is None else folded(record).get("id")
        if record is not None and not isinstance(identity, str):
            raise IncompleteError(f"{self._at('Users')}: a user that was asked for has no id, or one that is not text.")
        if record is not None and identity != key and not (_same_name(record, key) or _same_email(record, key)):
            raise IncompleteError(f"{self._at('Users')}: asked for one person, and got somebody else; run again.")
        if record is None or (identity != key and not _same_name(record, key)):
            record = await self._found_by("userName", key, _same_name)
        if record is None and "@" in key:
            record = await self._found_by("emails.value", key, _same_email)
        if record is None:
            return None
        held: list[Held] = []
        warnings: list[Held] = []
        rows = user_rows(scope.attributes, self._absent_active)([record], "record", held, warnings)
        if held:
            raise IncompleteError(f"{self._at('Users')}: the user {held[0].id} cannot be read: {held[0].reason}.")
        found = await self._groups_of(record, rows[0][0])
        groups = group_rows(scope.attributes)(found, "record", held, warnings)
        if held:
            raise IncompleteError(f"{self._at('Groups')}: a group of the user cannot be read: {held[0].reason}.")
        return Person(rows[0], groups, [(group[0], rows[0][0], "user") for group in groups], warnings)

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`."""
        record = await self._one("Groups", key, excludedAttributes="members")
        if record is None:
            return None
        held: list[Held] = []
        rows = group_rows(scope.attributes)([record], "record", held)
        if held:
            raise IncompleteError(f"{self._at('Groups')}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`."""
        return await self._one("Users", identity) is not None

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._one("Groups", identity, excludedAttributes="members") is not None

    @property
    def clients(self) -> Sequence[Http]:
        """As `Source.clients`."""
        return (self._http,)

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """SCIM names no way to ask what changed that servers can be trusted with."""
        return ""

    async def changes(self, scope: Scope, cursor: str) -> Changes:  # noqa: ARG002
        """There are none."""
        raise StaleCursorError(f"{self._at()}: no deltas; a full read is due.")

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""
        await self._discover()
        lines = [f"{self._at()} answers, paging by {self._paging}"]
        for what in ("Users", "Groups"):
            part = self._part(await self._get(what, {"count": 1, **self._first()}), what)
            lines.append(f"{what.lower()}: {'not counted by the server' if part.total is None else part.total}")
        return lines

    # --- reading -------------------------------------------------------------------------------

    async def _discover(self) -> None:
        """What the server says of itself, once. Servers without discovery page by index."""
        if self._found is None:
            self._found = asyncio.ensure_future(self._read_discovery())
        try:
            await asyncio.shield(self._found)
        except CrowdsyncError:
            self._found = None
            raise

    async def _read_discovery(self) -> None:
        config, types = await asyncio.gather(self._optional("/ServiceProviderConfig"), self._optional("/ResourceTypes"))
        paging, most = as_dict(config.get("pagination")), as_dict(config.get("filter")).get("maxResults")
        if self._paging == "auto":
            self._paging = "cursor" if paging.get("cursor") is True and paging.get("index") is False else "index"
        for limit in (paging.get("maxPageSize"), most):
            if type(limit) is int and limit > 0:
                self._sizes = {what: min(size, limit) for what, size in self._sizes.items()}
        for kind in types.get("Resources") or ():
            name, endpoint = as_dict(kind).get("name"), as_dict(kind).get("endpoint")
            if name in ("User", "Group") and isinstance(endpoint, str) and endpoint:
                self._paths[f"{name}s"] = self._endpoint(endpoint)
            elif isinstance(name, str) and name not in ("User", "Group"):
                self._others.add(name.lower())

    def _endpoint(self, given: str) -> str:
        """Where a resource type lives: relative to the root by the RFC, in full with some servers."""
        try:
            return self._http.path_of(given)
        except RefusedError:
            if "://" in given:
                raise
            return given if given.startswith("/") else f"/{given}"

    async def _optional(self, path: str) -> Record:
        answer = await self._http.call("GET", path, headers=_ACCEPT, expect=(500,))
        try:
            found = answer.json() if answer.status == 200 else {}
        except IncompleteError:
            return {}  # a page for people: there is no discovery
        return {"Resources": found} if isinstance(found, list) else as_dict(found)

    def _first(self) -> dict[str, str | int]:
        return {"cursor": ""} if self._paging == "cursor" else {"startIndex": 1}

    async def _list(
        self, what: str, params: Mapping[str, str | int] | None = None
    ) -> AsyncIterator[tuple[Sequence[Record], int, bool]]:
        """Every record of a list: (records, index of the first, last page?). Ids are unique."""
        await self._discover()
        more, size = params or {}, self._sizes[what]

        async def indexed(start: int, count: int) -> tuple[Answer, bool]:
            query = {"startIndex": start, "count": count, **more}
            try:
                return await self._get(what, query), False
            except TooLargeError:
                if count > 2 or what == "Users" or self._how != "auto":
                    raise
            # Two groups at once are too large with their members, which then come group by group.
            return await self._get(what, {**query, "excludedAttributes": "members"}), True

        def read(answer: tuple[Answer, bool]) -> Part:
            part = self._part(answer[0], what, slim=what == "Groups")
            for record in part.items if answer[1] else ():
                for name in [name for name in as_dict(record) if name.lower() == "members"]:
                    del record[name]
            return part

        async def cursored(cursor: str) -> Part:
            nonlocal size
            while True:
                try:
                    return read((await self._get(what, {"cursor": cursor, "count": size, **more}), False))
                except TooLargeError:  # (`count` must stay the same from page to page)
                    if cursor or size == 1:
                        raise
                    size //= 2

        title = self._at(what)
        weight = (lambda answer: len(answer[0].body)) if what == "Groups" and not params else None
        if self._paging == "cursor":
            pages = by_cursor(cursored, title)
        else:
            pages = by_index(indexed, read, title, count=size, weight=weight)
        try:
            async for records, start, last in distinct(pages, title):
                if last and start == 1 and not records:
                    await self._empty(what, params)
                yield records, start, last
        except TooLargeError as error:
            raise self._large(error, what) from None

    def _large(self, error: TooLargeError, what: str) -> TooLargeError:
        smaller = "group_page_size" if what == "Groups" else "page_size"
        return TooLargeError(f"{error} Set `{smaller}` of this source lower, or its `max_megabytes` higher.")

    async def _empty(self, what: str, params: Mapping[str, str | int] | None) -> None:
        """Nothing proves an empty list, so it is asked for again: one damaged answer must not remove all."""
        query = {**self._first(), "count": self._sizes[what], **(params or {})}
        if self._part(await self._get(what, query), what).items:
            raise IncompleteError(f"{self._at(what)}: empty, and when asked again not empty. Run again.")

    async def _get(self, what: str, params: Mapping[str, str | int]) -> Answer:
        answer = await self._http.call("GET", self._paths[what], params=params, headers=_ACCEPT)
        if answer.status == 200:
            return answer
        message = f"{self._at(what)}: {answer.status}{_detail(answer)}."
        if answer.status == 403:
            raise ForbiddenError(f"{message} Give the token the right to read users and groups.")
        if answer.status == 404:
            raise ConfigurationError(f"{message} Set `url` to the SCIM root, the address above /Users.")
        raise IncompleteError(message)

    def _part(self, answer: Answer, what: str, *, slim: bool = False) -> Part:
        """A ListResponse (RFC 7644 3.4.2)."""
        found = self._slim(answer) if slim else self._plain(answer)
        if not isinstance(found, dict):
            raise IncompleteError(f"{self._at(what)}: not a ListResponse but a JSON {type(found).__name__}.")
        total, start, after = found.get("totalResults"), found.get("startIndex"), found.get("nextCursor")
        items = found.get("Resources", ())
        items = () if items is None else items
        if not isinstance(items, list | tuple) or not (total is None or type(total) is int):
            raise IncompleteError(
                f"{self._at(what)}: not a ListResponse; keys: {answer.scrub(', '.join(list(found)[:6]))}."
            )
        if not (after is None or isinstance(after, str)) or (total is None and "Resources" not in found):
            raise IncompleteError(
                f"{self._at(what)}: not a ListResponse; keys: {answer.scrub(', '.join(list(found)[:6]))}."
            )
        return Part(items, total, start if type(start) is int else None, after or None)

    def _plain(self, answer: Answer) -> Any:
        """A list as it is; where it is no whole JSON, record by record, so that only some of them are unreadable."""
        try:
            return strict_json.loads(answer.body)
        except strict_json.DoubledKeyError as error:
            wrong = answer.unreadable(error)
        except strict_json.NotJsonError:
            return self._apart(answer, lambda fields: _read(fields)[0])
        raise wrong

    def _slim(self, answer: Answer) -> Any:
        """A list of groups, taken apart group by group: as objects, the members of a whole page are many times as
        large as its bytes. `members` become `_Members`, or text that says why they cannot."""
        return self._apart(answer, self._slimmed)

    def _apart(self, answer: Answer, one: Callable[[dict[str, msgspec.Raw]], Any]) -> Any:
        """A list, record by record: `one` makes a record of its fields. Raises `IncompleteError` for a doubled key."""
        try:
            page, records = strict_json.listing(answer.body, "Resources")
            return {
                **{name: strict_json.loads(bytes(page[name])) for name in _PAGE if name in page},
                "Resources": [one(fields) for fields in records],
            }
        except strict_json.DoubledKeyError as error:
            wrong = answer.unreadable(error)
        except (KeyError, ValueError, RecursionError):  # something that is no list of objects
            return answer.json()
        raise wrong

    def _slimmed(self, fields: dict[str, msgspec.Raw]) -> Any:
        names = [name for name in fields if name.lower() == "members"]
        if len(names) > 1:
            raise strict_json.DoubledKeyError(names[1])
        listed = fields.pop(names[0]) if names else None
        record, broken = _read(fields)
        if broken or listed is None:
            return record
        members = self._of_text(bytes(listed))
        return record if members is None else {**record, "members": members}

    def _of_text(self, listed: bytes) -> _Members | str | None:
        """Members as they stand in a group; None for null."""
        try:
            some = _MEMBERS.decode(listed)
            sure = listed.count(b'"value"') == listed.count(b'"type"') == len(some) and b"\\" not in listed
        except (ValueError, RecursionError):  # a kind that is not said, or is another
            sure = False
        if not sure:  # or a key that may stand twice: with care, then
            try:
                members = strict_json.loads(listed)
            except strict_json.DoubledKeyError:
                raise
            except strict_json.NotJsonError as error:
                return f"its members are a text that {error}"
            return None if members is None else self._members(members)
        users = [one.value for one in some if one.type == "User"]
        nested = [one.value for one in some if one.type == "Group"] if len(users) < len(some) else []
        return self._same_texts(users), nested, []

    async def _one(self, what: str, key: str, **params: str) -> Record | None:
        """The record with this id; None where it is not there. An answer that does not say so clearly is refused."""
        await self._discover()
        answer = await self._http.call(
            "GET", f"{self._paths[what]}/{quote(key, safe='')}", params=params, headers=_ACCEPT
        )
        if answer.status == 404 and "html" not in answer.headers.get("content-type", ""):
            return None
        if answer.status == 403:
            raise ForbiddenError(f"{self._at(what)}: 403{_detail(answer)}. Give the token the right to read these.")
        record = as_dict(answer.json()) if answer.status == 200 else {}
        if folded(record).get("id") != key:
            raise IncompleteError(f"{self._at(what)}/…: {answer.status}{_detail(answer)}, not the record asked for.")
        return record

    def _alone(self, answer: Answer) -> Any:
        """A group that was asked for alone, as `_slimmed`."""
        try:
            return self._slimmed(strict_json.fields(answer.body))
        except strict_json.DoubledKeyError as error:
            wrong = answer.unreadable(error)
        except strict_json.NotJsonError:
            return answer.json()
        raise wrong

    async def _single(
        self, what: str, key: str, read: Callable[[Answer], Any] = Answer.json, **params: str
    ) -> Record | None:
        if not key or key in (".", ".."):
            return None
        path = f"{self._paths[what]}/{quote(key, safe='')}"
        answer = await self._http.call("GET", path, params=params, headers=_ACCEPT)
        if answer.status in (400, 404):  # 400: some servers refuse an id that has not their form
            return None
        if answer.status == 403:
            raise ForbiddenError(f"{self._at(what)}: 403{_detail(answer)}. Give the token the right to read these.")
        found = read(answer) if answer.status == 200 else None
        if isinstance(found, _Unreadable):
            found = {**found.fields, "members": found.reason}
        if not isinstance(found, dict):
            raise IncompleteError(f"{self._at(what)}/…: {answer.status}{_detail(answer)}, not a record.")
        return found

    async def _filtered(self, what: str, condition: str) -> list[Record]:
        """Records that fulfil a filter; one page must hold them all."""
        params = {"filter": condition, "count": self._sizes[what], **self._first()}
        if what == "Groups":
            params["excludedAttributes"] = "members"
        part = self._part(await self._get(what, params), what)
        records = [x for x in part.items if isinstance(x, dict)]
        if part.next or part.total not in (None, len(part.items)) or len(records) != len(part.items):
            raise IncompleteError(f"{self._at(what)}: {part.total} match a filter, {len(records)} came.")
        return records

    async def _found_by(self, attribute: str, key: str, same: Callable[[Record, str], bool]) -> Record | None:
        found = await self._filtered("Users", f"{attribute} eq {orjson.dumps(key).decode()}")
        if not found:
            return None
        if len(found) > 1 or not same(found[0], key):
            raise IncompleteError(f"{self._at('Users')}: asked for one {attribute}, got {len(found)} others.")
        return found[0]

    async def _groups_of(self, record: Record, key: str) -> list[Record]:
        """Groups of one user: by their `groups` where these say that they are direct, or by a filter."""
        entries = folded(record).get("groups")
        if isinstance(entries, list) and all(isinstance(as_dict(x).get("type"), str) for x in entries) and entries:
            ids = [x.get("value") for x in entries if x["type"].lower() == "direct"]
            return [x async for x in in_order(self._group, ids, _AT_ONCE)]
        if await self._can_filter_members(key):
            return await self._members_filtered(key)
        raise RefusedError(
            f"{self._at('Groups')}: the server neither says which groups of a user are direct nor filters "
            "groups by member, so one person cannot be read; a full run does the work."
        )

    async def _group(self, key: str) -> Record:
        found = await self._single("Groups", key, excludedAttributes="members") if isinstance(key, str) else None
        if found is None or folded(found).get("id") != key:
            raise IncompleteError(f"{self._at('Groups')}: a group of the user cannot be found; run again.")
        return found

    async def _can_filter_members(self, key: str) -> bool:
        """Whether `members.value eq` works, so that it may be asked of the user with this id: servers may ignore a
        filter (everything matches) or not know it (nothing does)."""
        async with self._proving:  # (several people may be read side by side)
            if self._filter_proved is None:
                try:
                    self._filter_proved = await self._prove_filter(key)
                except (IncompleteError, ForbiddenError, ConfigurationError):
                    self._filter_proved = False
        return bool(self._filter_proved)

    async def _prove_filter(self, key: str) -> bool | None:
        """It finds groups of this user, and none of somebody who is nowhere. Where it finds none of this user, it is
        tried on a membership that a list of groups shows: of one group first, as twenty with their members are long."""
        if await self._members_filtered(f"{uuid.uuid4()}"):
            return False
        if await self._members_filtered(key):
            return True
        for count in (1, 20):
            part = self._part(await self._get("Groups", {"count": count, **self._first()}), "Groups")
            for group in part.items:
                for member in as_dict(group).get("members") or ():
                    found = await self._members_filtered(as_dict(member).get("value"))
                    return group["id"] in {x.get("id") for x in found}
        return None

    async def _members_filtered(self, key: Any) -> list[Record]:
        """The groups that a user is a direct member of, by a filter."""
        return await self._filtered("Groups", f"members.value eq {orjson.dumps(key).decode()}")

    # --- members -------------------------------------------------------------------------------

    def _keep(self, records: Iterable[Any], kept: dict[str, _Members | str | None]) -> None:
        """Members of listed groups; None for a group that came without the key."""
        for record in records:
            if isinstance(record, dict) and type(key := record.get("id")) is str:
                members = _listed(record)
                kept[key] = members if members is None or isinstance(members, tuple | str) else self._members(members)

    async def _members_of(self, key: str) -> _Members | str:
        members = await self._alone_with(key, by_name := bool(self._by_name))
        if members is None and not by_name and await self._on_request():
            members = await self._alone_with(key, True)
        if members is None:
            return [], [], []
        return members if isinstance(members, tuple | str) else self._members(members)

    async def _alone_with(self, key: str, by_name: bool) -> Any:
        """What `_listed` says of one group; with its members asked for by name, where they are shown in no other
        way."""
        record = await self._single("Groups", key, self._alone, **({"attributes": "members"} if by_name else {}))
        if record is None or record.get("id") != key:
            raise IncompleteError(f"{self._at('Groups')}: the group {key} is gone since it was listed; run again.")
        return _listed(record)

    async def _on_request(self) -> bool:
        """Whether members are shown only where they are asked for by name: the schema of groups says so (`returned`,
        RFC 7643 7), as Keycloak's does. A group without `members` is asked about in this way before it counts as
        empty. Raises `RefusedError` where the server never shows them."""
        async with self._proving:
            if self._by_name is None:
                schema = await self._optional(f"/Schemas/{_GROUP}")
                said = [as_dict(one) for one in schema.get("attributes") or ()]
                returned = {
                    str(one.get("returned")).lower() for one in said if str(one.get("name")).lower() == "members"
                }
                if "never" in returned:
                    raise RefusedError(f"{self._at('Groups')}: by its schema, the server never says who is in a group.")
                self._by_name = "request" in returned
        return self._by_name

    def _members(self, members: Any) -> _Members | str:
        """Ids of (users, groups, those whose kind is not said), or why that cannot be said."""
        if not isinstance(members, list):
            return "its `members` are not a list"
        users: list[str] = []
        nested: list[str] = []
        unsure: list[str] = []
        try:
            for member in members:
                kind = member.get("type")
                if kind == "User":
                    users.append(member["value"])
                elif kind == "Group":
                    nested.append(member["value"])
                else:
                    into = self._kind(kind, member.get("$ref"))
                    if into:
                        (users if into == "user" else nested if into == "group" else unsure).append(member["value"])
        except (KeyError, AttributeError, TypeError):
            return f"its {len(users) + len(nested) + len(unsure) + 1}. member or one after it has no `value`"
        if not set(map(type, users)) | set(map(type, nested)) | set(map(type, unsure)) <= {str}:
            return "a member has a `value` that is not text"
        return self._same_texts(users), nested, unsure

    def _same_texts(self, users: list[str]) -> list[str]:
        """A person is a member of many groups: one text for all of them."""
        return list(map(self._same.setdefault, users, users))

    def _kind(self, kind: Any, ref: Any) -> str:
        """user, group, unsure, or "" for a device and the like, which Crowd has no place for."""
        named = kind.lower() if isinstance(kind, str) else ""
        if named in ("user", "group"):
            return named
        if isinstance(ref, str) and ref:
            parts = ref.partition("?")[0].lower().split("/")
            for into in ("user", "group"):
                if self._paths[f"{into.title()}s"].rpartition("/")[2].lower() in parts[-2:-1]:
                    return into
        return "" if named in self._others else "unsure"

    def _at(self, what: str = "") -> str:
        return f"{self._http.name}: {self._paths[what] if what else 'the SCIM root'}"


_Members = tuple[list[str], list[str], list[str]]


class _Member(msgspec.Struct, gc=False):
    value: str
    type: Literal["User", "Group"]


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A record with a field that is no JSON, and the fields that are."""

    fields: Record
    reason: str


_GROUP: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
_PAGE: Final = ("totalResults", "startIndex", "nextCursor")
_MEMBERS: Final = msgspec.json.Decoder(list[_Member])


def _read(fields: Mapping[str, msgspec.Raw]) -> tuple[Any, bool]:
    """A record of its fields, and whether one of them is unreadable. Raises `DoubledKeyError`."""
    record, wrong = Record(), ""
    for name, value in fields.items():
        try:
            record[name] = strict_json.loads(bytes(value))
        except strict_json.DoubledKeyError:
            raise
        except strict_json.NotJsonError as error:
            wrong = wrong or f"its field {name[:40]!r} is a text that {error}"
    return (_Unreadable(record, wrong), True) if wrong else (record, False)


def _sound(kind: str, title: str, records: Sequence[Any], held: list[Held]) -> Sequence[Any]:
    """The records without the unreadable ones, which are added to `held`. `title` is what they are named by."""
    if _Unreadable not in set(map(type, records)):
        return records
    for one in records:
        if isinstance(one, _Unreadable):
            found = folded(one.fields)
            away = DISABLED if kind == "user" and found.get("active") is False else ""
            held.append(Held(kind, text(found.get("id")), text(found.get(title)), one.reason, away))
    return [one for one in records if not isinstance(one, _Unreadable)]


def _listed(group: Record) -> Any:
    """The members in a group record; None where it has no such key. Names of attributes ignore case."""
    found = [value for key, value in group.items() if key.lower() == "members"]
    return "its `members` stand there twice" if len(found) > 1 else found[0] if found else None


def _same_name(record: Record, key: str) -> bool:
    return str(folded(record).get("userName")).lower() == key.lower()


def _same_email(record: Record, key: str) -> bool:
    emails = listed(folded(record).get("emails"))
    return any(str(as_dict(one).get("value", one)).lower() == key.lower() for one in emails)


def _detail(answer: Answer) -> str:
    """scimType and detail of a SCIM error (RFC 7644 3.12), as far as there are any."""
    error = answer.problem()
    return answer.words(*(text(error.get(name)) for name in ("scimType", "detail")))
