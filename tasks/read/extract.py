"""Reading one side whole: pages → tables → snapshot.

A stream that ends without its last page, a second record of one id, or a membership that points at
nobody in the directory raises `IncompleteError`; nothing is concluded from such a read.
"""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from connectors.contract import Directory, Held, Page, Scope, Source
from connectors.errors import IncompleteError
from connectors.model import (
    GROUPS,
    MEMBER_KINDS,
    USERS,
    GroupRow,
    Members,
    Snapshot,
    held_frame,
    memberships_from_codes,
)

Row = TypeVar("Row")
First = TypeVar("First")
Second = TypeVar("Second")
HeldRows = list[tuple[str, ...]]
Read = tuple[pd.DataFrame, HeldRows, HeldRows]
"""A table, the records that did not make it into it, and those that did without an optional field."""

_TYPES: Mapping[str, pa.DataType] = {"active": pa.bool_()}
_KINDS: Mapping[str, int] = {kind: code for code, kind in enumerate(MEMBER_KINDS.categories)}


async def read_source(source: Source, scope: Scope) -> Snapshot:
    """One source, whole. Raises `IncompleteError`."""
    with no_collection():
        users, (groups, memberships) = await _together(
            _table("users", source.users(scope), USERS),
            _groups(source.groups(scope), lambda groups: source.memberships(list(groups["id"]))),
        )
        return _snapshot(users, groups, memberships)


async def read_directory(directory: Directory, scope: Scope) -> Snapshot:
    """One directory, whole: also, every membership must point at a user and a group that were read."""
    with no_collection():
        users, (groups, memberships) = await _together(
            _table("users", directory.users(scope), USERS),
            _groups(directory.groups(scope), lambda _: directory.memberships()),
        )
        snapshot = _snapshot(users, groups, memberships)
        _closed(snapshot)
        return snapshot


async def _together(first: Coroutine[Any, Any, First], second: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Two reads side by side; where one fails, the other ends too."""
    task = asyncio.create_task(first)
    try:
        other = await second
        return await task, other
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _groups(
    pages: AsyncIterator[Page[GroupRow]], members: Callable[[pd.DataFrame], AsyncIterator[Page[Members]]]
) -> tuple[Read, Read]:
    groups = await _table("groups", pages, GROUPS)
    return groups, await read_memberships(members(groups[0]))


def _snapshot(users: Read, groups: Read, memberships: Read) -> Snapshot:
    known, unread = without_unread(groups[0], held_frame(memberships[1]))
    held = pd.concat([held_frame(users[1] + groups[1]), unread], ignore_index=True)
    warnings = held_frame(users[2] + groups[2] + memberships[2])
    return Snapshot.of(users[0], known, memberships[0], held, warnings)


def without_unread(groups: pd.DataFrame, held: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Groups without those whose members could not be read, and what is held, with the groups' names.

    A group that is held is left exactly as it is; one that is there would lose the members that nobody could read."""
    unread = (held["kind"] == "group").to_numpy()
    if not unread.any():
        return groups, held
    names = held["id"].map(groups.set_index("id")["name"]).fillna("").astype("str")
    held = held.assign(name=held["name"].where(~unread | (held["name"] != ""), names).astype("str"))
    return groups[~groups["id"].isin(held.loc[unread, "id"])], held


_reading = 0


@contextmanager
def no_collection() -> Iterator[None]:
    """Pages are millions of small objects and no cycles: to search them for cycles would double the time."""
    global _reading
    _reading += 1
    gc.disable()
    try:
        yield
    finally:
        _reading -= 1
        if not _reading:
            gc.enable()


def _closed(snapshot: Snapshot) -> None:
    memberships = snapshot.memberships
    if memberships.empty:
        return
    of = memberships["group_id"].cat.categories
    unknown_groups = of.difference(pd.Index(snapshot.groups["id"])).difference(_held_ids(snapshot, "group"))
    if len(unknown_groups):
        raise IncompleteError(
            f"Crowd lists members of the group {unknown_groups[0]!r} ({len(unknown_groups)} such groups) but not the "
            "group itself: the reads do not fit together; run again"
        )
    member = memberships["member_id"].cat
    for kind, records in (("user", snapshot.users), ("group", snapshot.groups)):
        used = np.unique(member.codes.to_numpy()[(memberships["member_kind"] == kind).to_numpy()])
        named = member.categories[used]
        unknown = named[pd.Index(records["id"]).get_indexer(named) < 0].difference(_held_ids(snapshot, kind))
        if len(unknown):
            raise IncompleteError(
                f"Crowd names the {kind} {unknown[0]!r} as a member ({len(unknown)} such {kind}s) but does not list it "
                f"among its {kind}s: the reads do not fit together; run again"
            )


def _held_ids(snapshot: Snapshot, kind: str) -> pd.Index:
    ids: pd.Index = pd.Index(snapshot.held.loc[snapshot.held["kind"] == kind, "id"])
    return ids


async def _table(what: str, pages: AsyncIterator[Page[Any]], columns: Sequence[str]) -> Read:
    held: HeldRows = []
    warnings: HeldRows = []
    schema = pa.schema([(name, _TYPES.get(name, pa.large_string())) for name in columns])
    batches: list[pa.RecordBatch] = []
    async for page in _whole(what, pages):
        if page.rows:
            arrays = [
                pa.array(column, type=field.type)
                for column, field in zip(zip(*page.rows, strict=True), schema, strict=True)
            ]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        held += held_rows(page.held)
        warnings += held_rows(page.warnings)
    table = pa.Table.from_batches(batches, schema)
    frame = pd.DataFrame(
        {
            name: pd.array(column.to_numpy(), dtype="bool")
            if name == "active"
            else pd.Series(pd.arrays.ArrowStringArray(column, dtype=pd.StringDtype("pyarrow", np.nan)))  # type: ignore[call-arg]
            for name, column in zip(columns, table.columns, strict=True)
        }
    )
    doubled = frame["id"][frame["id"].duplicated()]
    if len(doubled):
        raise IncompleteError(
            f"{what}: {doubled.iloc[0]!r} came twice ({len(doubled)} such); the list moved while it was read: run again"
        )
    return frame, held, warnings


class _Codes(dict[str, int]):
    """Numbers names in the order in which they are first asked for."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


async def read_memberships(pages: AsyncIterator[Page[Any]]) -> Read:
    """Pages of memberships, all of them → as `Read`. Raises `IncompleteError`."""
    held: HeldRows = []
    # Codes as they come: a million memberships are 9 MB of integers instead of 150 MB of text.
    groups, members = _Codes(), _Codes()
    group_codes, member_codes, kinds, numbers = array("i"), array("i"), array("b"), array("i")
    warnings: HeldRows = []
    async for page in _whole("memberships", pages):
        for of_group in page.rows:
            for kind, ids in ((_KINDS["group"], of_group.groups), (_KINDS["user"], of_group.users)):
                group_codes.append(groups[of_group.group])
                kinds.append(kind)
                numbers.append(len(ids))
                member_codes.fromlist(list(map(members.__getitem__, ids)))
        held += held_rows(page.held)
        warnings += held_rows(page.warnings)
    of_each, kind_of_each = np.repeat(group_codes, numbers), np.repeat(kinds, numbers)
    return memberships_from_codes(list(groups), list(members), of_each, member_codes, kind_of_each), held, warnings


async def _whole(what: str, pages: AsyncIterator[Page[Row]]) -> AsyncIterator[Page[Row]]:
    ended = False
    async for page in pages:
        if ended:
            raise IncompleteError(f"{what}: a page came after the last one; run again")
        ended = page.last
        yield page
    if not ended:
        raise IncompleteError(f"{what}: the list ended without its last page; run again")


def held_rows(found: Iterable[Held]) -> HeldRows:
    """Records that a connector held, or warns of → rows of a held frame, from this stage."""
    return [(record.kind, record.id, record.name, "extract", record.reason, record.away) for record in found]
