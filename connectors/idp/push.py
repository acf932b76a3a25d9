"""A source that pushes: users, groups and members that an identity provider gave us by SCIM, as they are in our store.

Nothing is asked for over a network. A list is read by its key, page by page, so that whoever stays is in it, whoever
comes or goes; and what changed since a cursor is told by the numbers of changes, deletions included. A record that the
provider never gave a field has none: who has no `active` is active (RFC 7643 4.1.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeVar

import orjson
from pydantic import Field, PrivateAttr

from connectors.contract import PLAIN, Capabilities, Changes, Group, Held, Page, Person, Scope
from connectors.errors import ConfigurationError, IncompleteError, RefusedError, StaleCursorError
from connectors.model import GroupRow, Members, UserRow, crowd_id
from connectors.records import Record, Rows
from connectors.scim_rows import group_rows, user_rows
from connectors.source import SourceSettings

if TYPE_CHECKING:
    from connectors.http import Http

Row = TypeVar("Row")
T = TypeVar("T")

_MEMBERS: Final = 10_000


class PushSettings(SourceSettings):
    """An identity provider that pushes by SCIM to the receiver (`crowdsync receive`)."""

    kind: Literal["push"] = "push"
    url: str = Field(
        description="Address at which the provider reaches the receiver, e.g. https://sync.example.org; SCIM is below "
        "it, at /scim/NAME/v2."
    )
    _database: tuple[Callable[[], str], float] | None = PrivateAttr(None)

    def scim_address(self, name: str) -> str:
        """What is entered at the provider as the address of this source, called `name`."""
        return f"{self.url.rstrip('/')}/scim/{name}/v2"

    def keep(self, url: Callable[[], str], busy: float) -> None:
        """Where the store is that has what was pushed: its URL, and how long to wait for another writer."""
        self._database = url, busy

    def database(self) -> tuple[str, float]:
        """As it was given to `keep`. Raises `ConfigurationError`."""
        if self._database is None:
            raise ConfigurationError("a source that pushes is read through the settings that name the store")
        url, busy = self._database
        return url(), busy


class Stored(Protocol):
    """A record as the store has it."""

    @property
    def id(self) -> str: ...
    @property
    def body(self) -> str: ...


class StoredChanges(Protocol):
    """What happened since a change."""

    @property
    def change(self) -> int: ...
    @property
    def users(self) -> Sequence[Stored]: ...
    @property
    def groups(self) -> Sequence[Stored]: ...
    @property
    def gone_users(self) -> Sequence[str]: ...
    @property
    def gone_groups(self) -> Sequence[str]: ...


class Reading(Protocol):
    """The mirror of a source in one transaction, as the store offers it (`connectors.store.mirror`)."""

    def get(self, kind: str, identity: str) -> Stored | None: ...
    def some(self, kind: str, where: Sequence[tuple[str, str]], start: int, count: int) -> Sequence[Stored]: ...
    def count(self, kind: str, where: Sequence[tuple[str, str]]) -> int: ...
    def after(self, kind: str, identity: str, count: int) -> Sequence[Stored]: ...
    def mentioning(self, kind: str, text: str, count: int) -> Sequence[Stored]: ...
    def members(self, group: str) -> Sequence[tuple[str, str]]: ...
    def change(self) -> int: ...
    def since(self, change: int) -> StoredChanges: ...


class Push:
    """`mirror` opens the source's records for one transaction."""

    name: ClassVar[str] = "push"
    capabilities: ClassVar[Capabilities] = Capabilities(nested_groups=True, delta=True)
    settings: ClassVar[type[PushSettings]] = PushSettings

    @classmethod
    def open(cls, name: str, settings: PushSettings, secrets: Mapping[str, str]) -> Push:  # noqa: ARG003
        """Its records are in the store, which no connector knows: `tasks.read.connections.open_source` opens both."""
        raise ConfigurationError(f"sources.{name}: what was pushed is in the store; open the two together")

    def __init__(
        self, name: str, mirror: Callable[[], AbstractContextManager[Reading]], *, page_size: int = 1000
    ) -> None:
        self._name, self._mirror, self._size = f"sources.{name}", mirror, page_size

    @property
    def clients(self) -> Sequence[Http]:
        """There are none: nothing is asked over a network."""
        return ()

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        """All users."""
        async for page in self._pages("user", user_rows(scope.attributes)):
            yield page

    async def groups(self, scope: Scope) -> AsyncIterator[Page[GroupRow]]:
        """All groups."""
        async for page in self._pages("group", group_rows(scope.attributes)):
            yield page

    async def memberships(self, groups: Sequence[str]) -> AsyncIterator[Page[Members]]:
        """As `Source.memberships`; also of members that nobody pushed, as the provider named them."""
        wanted, rows, number = list(dict.fromkeys(groups)), list[Members](), 0
        for key in wanted:
            rows.append(await self._read(partial(_members, group=key)))
            number += len(rows[-1])
            if number >= _MEMBERS:
                yield Page(rows, False)
                rows, number = [], 0
        yield Page(rows, True)

    async def user(self, key: str, scope: Scope = PLAIN) -> Person | None:
        """As `Source.user`."""
        found = await self._read(lambda mirror: self._person(mirror, key, scope))
        if found is None:
            return None
        record, of = found
        held: list[Held] = []
        warnings: list[Held] = []
        rows = user_rows(scope.attributes)([_record(record)], "record", held, warnings)
        groups = group_rows(scope.attributes)([_record(one) for one in of], "record", held, warnings)
        if held:
            raise IncompleteError(f"{self._name}: the {held[0].kind} {held[0].id} cannot be read: {held[0].reason}.")
        return Person(rows[0], groups, [(group[0], rows[0][0], "user") for group in groups], warnings)

    def _person(self, mirror: Reading, key: str, scope: Scope) -> tuple[Stored, Sequence[Stored]] | None:
        if "\0" in key:
            return None
        folded = crowd_id(key)
        found = [one] if (one := mirror.get("user", key)) else list(mirror.some("user", [("name", folded)], 0, 2))
        if not found and "@" in key:
            read = user_rows(scope.attributes)
            some = mirror.mentioning("user", folded, 50)
            found = [one for one in some if any(crowd_id(row[2]) == folded for row in read([_record(one)], "", []))]
        if len(found) > 1:
            raise RefusedError(f"{self._name}: {len(found)} people have this address; name one of them by id.")
        if not found:
            return None
        total = mirror.count("group", [("member", found[0].id)])
        return found[0], mirror.some("group", [("member", found[0].id)], 0, total)

    async def group(self, key: str, scope: Scope = PLAIN) -> Group | None:
        """As `Source.group`."""
        record = await self._one("group", key)
        if record is None:
            return None
        held: list[Held] = []
        rows = group_rows(scope.attributes)([_record(record)], "record", held)
        if held:
            raise IncompleteError(f"{self._name}: the group {key} cannot be read: {held[0].reason}.")
        return Group(rows[0])

    async def has_user(self, identity: str) -> bool:
        """As `Source.has_user`."""
        return await self._one("user", identity) is not None

    async def has_group(self, identity: str) -> bool:
        """As `Source.has_group`."""
        return await self._one("group", identity) is not None

    async def cursor(self, scope: Scope) -> str:  # noqa: ARG002
        """The number of the latest change."""
        return str(await self._read(lambda mirror: mirror.change()))

    async def changes(self, scope: Scope, cursor: str) -> Changes:
        """As `Source.changes`; the members of every group that changed come whole."""
        if not cursor.isdecimal() or len(cursor) > 18:
            raise StaleCursorError(f"{self._name}: {cursor[:40]!r} is no change to start from.")

        def read(mirror: Reading) -> tuple[StoredChanges, list[Members]]:
            if int(cursor) > mirror.change():  # a database of before was put back
                raise StaleCursorError(f"{self._name}: change {cursor} has not happened yet; a full read is due.")
            found = mirror.since(int(cursor))
            return found, [_members(mirror, one.id) for one in found.groups]

        found, members = await self._read(read)
        held: list[Held] = []
        warnings: list[Held] = []
        users = user_rows(scope.attributes)([_record(one) for one in found.users], "changed user", held, warnings)
        groups = group_rows(scope.attributes)([_record(one) for one in found.groups], "changed group", held, warnings)
        return Changes(
            str(found.change),
            users,
            groups,
            replaced=[one.id for one in found.groups],
            memberships=[pair for one in members for pair in one.pairs()],
            gone_users=found.gone_users,
            gone_groups=found.gone_groups,
            held=held,
            warnings=warnings,
        )

    async def check(self) -> Sequence[str]:
        """As `Source.check`."""

        def read(mirror: Reading) -> list[str]:
            users, groups = mirror.count("user", ()), mirror.count("group", ())
            never = [] if mirror.change() else ["nothing was pushed yet: see that the provider has address and token"]
            return [f"users: {users}", f"groups: {groups}", *never]

        return await self._read(read)

    # --- reading -------------------------------------------------------------------------------

    async def _pages(self, kind: str, rows: Rows[Row]) -> AsyncIterator[Page[Row]]:
        after, start = "", 1
        while True:
            found = await self._read(partial(_after, kind=kind, identity=after, count=self._size + 1))
            some, last = found[: self._size], len(found) <= self._size
            held: list[Held] = []
            warnings: list[Held] = []
            made = rows([_record(one) for one in some], f"record from {start}", held, warnings)
            yield Page(made, last, held, warnings)
            if last:
                return
            after, start = some[-1].id, start + len(some)

    async def _one(self, kind: str, identity: str) -> Stored | None:
        if "\0" in identity:
            return None
        return await self._read(lambda mirror: mirror.get(kind, identity))

    async def _read(self, read: Callable[[Reading], T]) -> T:
        def whole() -> T:
            with self._mirror() as mirror:
                return read(mirror)

        return await asyncio.to_thread(whole)


def _after(mirror: Reading, kind: str, identity: str, count: int) -> Sequence[Stored]:
    return mirror.after(kind, identity, count)


def _record(stored: Stored) -> Record:
    found: dict[str, Any] = orjson.loads(stored.body)
    return {**found, "id": stored.id}


def _members(mirror: Reading, group: str) -> Members:
    found = mirror.members(group)
    return Members(
        group, [one for one, kind in found if kind == "user"], [one for one, kind in found if kind == "group"]
    )
