"""Reading one side whole: pages → snapshot.

A stream that ends without its last page, a second record of one id, or a membership that points at
nobody in the directory raises `IncompleteError`; nothing is concluded from such a read.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.contract import Directory, Held, Page, Scope, Source
from connectors.errors import IncompleteError
from connectors.model import GROUPS, USERS, Snapshot, held_frame, memberships_from_codes

Row = TypeVar("Row")

_TYPES: Mapping[str, pa.DataType] = {"active": pa.bool_()}


async def read_source(source: Source, scope: Scope) -> Snapshot:
    """One source, whole. Raises `IncompleteError`."""
    held: list[tuple[str, ...]] = []
    users = await _table("users", source.users(scope), USERS, held)
    groups = await _table("groups", source.groups(scope), GROUPS, held)
    memberships = await _memberships(source.memberships(list(groups["id"])), held)
    return Snapshot.of(users, groups, memberships, held_frame(held))


async def read_directory(directory: Directory, scope: Scope) -> Snapshot:
    """One directory, whole: also, every membership must point at a user and a group that were read."""
    held: list[tuple[str, ...]] = []
    users = await _table("users", directory.users(scope), USERS, held)
    groups = await _table("groups", directory.groups(scope), GROUPS, held)
    memberships = await _memberships(directory.memberships(), held)
    snapshot = Snapshot.of(users, groups, memberships, held_frame(held))
    _closed(snapshot)
    return snapshot


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


async def _table(
    what: str, pages: AsyncIterator[Page[Any]], columns: Sequence[str], held: list[tuple[str, ...]]
) -> pd.DataFrame:
    schema = pa.schema([(name, _TYPES.get(name, pa.large_string())) for name in columns])
    batches: list[pa.RecordBatch] = []
    async for page in _whole(what, pages):
        if page.rows:
            arrays = [
                pa.array(column, type=field.type)
                for column, field in zip(zip(*page.rows, strict=True), schema, strict=True)
            ]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        _hold(held, page.held)
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
    return frame


class _Codes(dict[str, int]):
    """Numbers names in the order in which they are first asked for."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code


async def _memberships(pages: AsyncIterator[Page[Any]], held: list[tuple[str, ...]]) -> pd.DataFrame:
    # Codes as they come: a million memberships are 9 MB of integers instead of 150 MB of text.
    groups, members = _Codes(), _Codes()
    group_codes, member_codes, kinds = array("i"), array("i"), array("b")
    kind_codes = {"group": 0, "user": 1}
    async for page in _whole("memberships", pages):
        if page.rows:
            group, member, kind = zip(*page.rows, strict=True)
            group_codes.extend(map(groups.__getitem__, group))
            member_codes.extend(map(members.__getitem__, member))
            kinds.extend(map(kind_codes.__getitem__, kind))
        _hold(held, page.held)
    return memberships_from_codes(list(groups), list(members), group_codes, member_codes, kinds)


async def _whole(what: str, pages: AsyncIterator[Page[Row]]) -> AsyncIterator[Page[Row]]:
    ended = False
    async for page in pages:
        if ended:
            raise IncompleteError(f"{what}: a page came after the last one; run again")
        ended = page.last
        yield page
    if not ended:
        raise IncompleteError(f"{what}: the list ended without its last page; run again")


def _hold(held: list[tuple[str, ...]], found: Iterable[Held]) -> None:
    held.extend((record.kind, record.id, record.name, "extract", record.reason) for record in found)


@task(name="extract source", task_run_name="extract-{name}", cache_policy=NO_CACHE, persist_result=False)
async def extract_source(source: Source, scope: Scope, name: str) -> Snapshot:  # noqa: ARG001 (names the run)
    """The source as it is now."""
    return await read_source(source, scope)


@task(name="extract directory", task_run_name="extract-crowd", cache_policy=NO_CACHE, persist_result=False)
async def extract_directory(directory: Directory, scope: Scope) -> Snapshot:
    """Crowd as it is now."""
    return await read_directory(directory, scope)
