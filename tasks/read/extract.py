"""Reading one side: pages → snapshot; or what changed, on top of the snapshot before.

A stream that ends without its last page, a second record of one id, or a membership that points at
nobody in the directory raises `IncompleteError`; nothing is concluded from such a read.
"""

from __future__ import annotations

import asyncio
import gc
from array import array
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from connectors.contract import Changes, Directory, Held, Page, Scope, Source
from connectors.errors import IncompleteError, StaleCursorError
from connectors.model import (
    GROUPS,
    USERS,
    GroupRow,
    MembershipRow,
    Snapshot,
    groups_frame,
    held_frame,
    memberships_frame,
    memberships_from_codes,
    sizes_only,
    users_frame,
)

Row = TypeVar("Row")
First = TypeVar("First")
Second = TypeVar("Second")
HeldRows = list[tuple[str, ...]]
Read = tuple[pd.DataFrame, HeldRows, HeldRows]
"""A table, the records that did not make it into it, and those that did without an optional field."""

_TYPES: Mapping[str, pa.DataType] = {"active": pa.bool_()}


async def read_source(source: Source, scope: Scope) -> Snapshot:
    """One source, whole. Raises `IncompleteError`."""
    with _no_collection():
        users, (groups, memberships) = await _together(
            _table("users", source.users(scope), USERS),
            _groups(source.groups(scope), lambda groups: source.memberships(list(groups["id"]))),
        )
        return _snapshot(users, groups, memberships)


async def read_directory(directory: Directory, scope: Scope) -> Snapshot:
    """One directory, whole: also, every membership must point at a user and a group that were read."""
    with _no_collection():
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
    pages: AsyncIterator[Page[GroupRow]], members: Callable[[pd.DataFrame], AsyncIterator[Page[MembershipRow]]]
) -> tuple[Read, Read]:
    groups = await _table("groups", pages, GROUPS)
    return groups, await _memberships(members(groups[0]))


def _snapshot(users: Read, groups: Read, memberships: Read) -> Snapshot:
    known, unread = _without_unread(groups[0], held_frame(memberships[1]))
    held = pd.concat([held_frame(users[1] + groups[1]), unread], ignore_index=True)
    warnings = held_frame(users[2] + groups[2] + memberships[2])
    return Snapshot.of(users[0], known, memberships[0], held, warnings)


def _without_unread(groups: pd.DataFrame, held: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
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
def _no_collection() -> Iterator[None]:
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
        held += _told(page.held)
        warnings += _told(page.warnings)
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


async def _memberships(pages: AsyncIterator[Page[Any]]) -> Read:
    held: HeldRows = []
    # Codes as they come: a million memberships are 9 MB of integers instead of 150 MB of text.
    groups, members = _Codes(), _Codes()
    group_codes, member_codes, kinds = array("i"), array("i"), array("b")
    kind_codes = {"group": 0, "user": 1}
    warnings: HeldRows = []
    async for page in _whole("memberships", pages):
        if page.rows:
            group, member, kind = zip(*page.rows, strict=True)
            group_codes.extend(map(groups.__getitem__, group))
            member_codes.extend(map(members.__getitem__, member))
            kinds.extend(map(kind_codes.__getitem__, kind))
        held += _told(page.held)
        warnings += _told(page.warnings)
    return memberships_from_codes(list(groups), list(members), group_codes, member_codes, kinds), held, warnings


async def _whole(what: str, pages: AsyncIterator[Page[Row]]) -> AsyncIterator[Page[Row]]:
    ended = False
    async for page in pages:
        if ended:
            raise IncompleteError(f"{what}: a page came after the last one; run again")
        ended = page.last
        yield page
    if not ended:
        raise IncompleteError(f"{what}: the list ended without its last page; run again")


def _told(found: Iterable[Held]) -> HeldRows:
    return [(record.kind, record.id, record.name, "extract", record.reason, record.away) for record in found]


@sizes_only
@dataclass(frozen=True, slots=True)
class Reading:
    """A source as it is now. `cursor` is where an incremental read may begin next, "" where none can.

    `full_at`: when it was last read whole; None says that it was now.
    """

    snapshot: Snapshot
    cursor: str = ""
    full_at: datetime | None = None


@sizes_only
@dataclass(frozen=True, slots=True)
class Since:
    """What an incremental read starts from."""

    cursor: str
    before: Snapshot
    full_at: datetime


def merged(before: Snapshot, changes: Changes) -> Snapshot:
    """A snapshot and what changed since → the snapshot of now.

    Raises `StaleCursorError` where the two do not fit together: a group or a person that nobody knows.
    """
    new_users, new_groups = users_frame(changes.users), groups_frame(changes.groups)
    fresh_held, fresh_warnings = held_frame(_told(changes.held)), held_frame(_told(changes.warnings))
    held_users = fresh_held.loc[fresh_held["kind"] == "user", "id"]
    held_groups = fresh_held.loc[fresh_held["kind"] == "group", "id"]
    _, fresh_held = _without_unread(
        pd.concat([new_groups, before.groups]).drop_duplicates("id", ignore_index=True), fresh_held
    )
    gone_users, gone_groups = (pd.Index(list(x), dtype="str") for x in (changes.gone_users, changes.gone_groups))
    for what, ids in (("user", new_users["id"]), ("group", new_groups["id"])):
        if ids.duplicated().any():
            raise StaleCursorError(f"the {what} {ids[ids.duplicated()].iloc[0]!r} changed twice while it was read")
    new_groups = new_groups[~new_groups["id"].isin(held_groups)]

    def rest(frame: pd.DataFrame, *drop: Iterable[str]) -> pd.DataFrame:
        return frame[~frame["id"].isin(pd.Index([x for ids in drop for x in ids], dtype="str"))]

    users = pd.concat([rest(before.users, new_users["id"], gone_users, held_users), new_users], ignore_index=True)
    groups = pd.concat([rest(before.groups, new_groups["id"], gone_groups, held_groups), new_groups], ignore_index=True)

    def still(old: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
        named = pd.concat([new_users["id"], new_groups["id"], fresh_held["id"]])
        kept = old[~old["id"].isin(named) & ~old["id"].isin(gone_users.append(gone_groups))]
        return pd.concat([kept, fresh], ignore_index=True)

    held, warnings = still(before.held, fresh_held), still(before.warnings, fresh_warnings)

    now = before.memberships
    replaced = pd.Index(list(changes.replaced), dtype="str").difference(pd.Index(held_groups))
    ended = (
        _codes_among(now["group_id"], replaced.append(gone_groups))
        | _codes_among(now["member_id"], gone_users) & (now["member_kind"] == "user").to_numpy()
        | _codes_among(now["member_id"], gone_groups) & (now["member_kind"] == "group").to_numpy()
    )
    joined = memberships_frame(changes.memberships)
    known = {
        "user": pd.concat([users["id"], held.loc[held["kind"] == "user", "id"]]),
        "group": pd.concat([groups["id"], held.loc[held["kind"] == "group", "id"]]),
    }
    strange = joined["group_id"].astype("str")[~joined["group_id"].isin(known["group"])]
    if len(strange):
        raise StaleCursorError(f"members of the group {strange.iloc[0]!r}, which is not known")
    for kind, ids in known.items():
        new = joined.loc[joined["member_kind"] == kind, "member_id"]
        strange = new.astype("str")[~new.isin(ids) & ~new.isin(before.memberships["member_id"].cat.categories)]
        if len(strange):
            raise StaleCursorError(f"a member {strange.iloc[0]!r} ({kind}), which is not known")
    left = memberships_frame(changes.left)
    if ended.any() or len(left) or len(joined):
        now = _altered(now, ended, left, joined)
    return Snapshot.of(users, groups, now, held, warnings)


def _altered(now: pd.DataFrame, ended: np.ndarray, left: pd.DataFrame, joined: pd.DataFrame) -> pd.DataFrame:
    """Memberships less those that ended or `left`, with those that `joined`: by integer keys, for they are many."""
    every = [frame for frame in (now, left, joined) if len(frame)]
    groups, members = (
        reduce(pd.Index.union, [frame[name].cat.categories for frame in every]) for name in ("group_id", "member_id")
    )

    def keys(frame: pd.DataFrame) -> np.ndarray:
        if frame.empty:
            return np.empty(0, dtype=np.int64)
        group = groups.get_indexer(frame["group_id"].cat.categories)[frame["group_id"].cat.codes]
        member = members.get_indexer(frame["member_id"].cat.categories)[frame["member_id"].cat.codes]
        kind = frame["member_kind"].cat.codes.to_numpy()
        pairs: np.ndarray = group.astype(np.int64) * len(members) + member
        return pairs * 2 + kind

    kept = keys(now)[~ended]
    if len(left):
        kept = kept[~np.isin(kept, keys(left))]
    pairs, kinds = np.divmod(np.union1d(kept, keys(joined)), 2)
    return memberships_from_codes(groups, members, *np.divmod(pairs, max(len(members), 1)), kinds)


def _codes_among(column: pd.Series, ids: pd.Index) -> np.ndarray:
    known = ids.get_indexer(column.cat.categories) >= 0 if len(ids) else np.zeros(len(column.cat.categories), bool)
    return known[column.cat.codes.to_numpy()] if len(known) else np.zeros(len(column), dtype=bool)


async def read_changes(source: Source, scope: Scope, since: Since) -> Reading:
    """Only what changed. Raises `StaleCursorError` where the whole source has to be read."""
    with _no_collection():
        changes = await source.changes(scope, since.cursor)
        return Reading(merged(since.before, changes), changes.cursor, since.full_at)


async def read_whole(source: Source, scope: Scope) -> Reading:
    """Everything, and where an incremental read may begin next. Raises `IncompleteError`."""
    cursor = await source.cursor(scope)  # before the read: what changes meanwhile is read again
    return Reading(await read_source(source, scope), cursor)


@task(name="extract source", task_run_name="extract-{name}", cache_policy=NO_CACHE, persist_result=False)
async def extract_source(
    source: Source,
    scope: Scope,
    name: str,  # noqa: ARG001 (names the run)
    since: Since | None = None,
) -> Reading:
    """The source as it is now: what changed `since`, or everything where that cannot be had or is in doubt."""
    if since is not None:
        try:
            return await read_changes(source, scope, since)
        except StaleCursorError as doubt:
            get_run_logger().info("Reading everything: %s", doubt)
    return await read_whole(source, scope)


@task(name="extract directory", task_run_name="extract-crowd", cache_policy=NO_CACHE, persist_result=False)
async def extract_directory(directory: Directory, scope: Scope) -> Snapshot:
    """Crowd as it is now."""
    return await read_directory(directory, scope)
