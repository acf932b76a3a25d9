"""A source as it is now: read whole, or only what changed since a cursor, on top of the snapshot of then.

A delta is taken only where it fits to what is known. Where it is in doubt, everything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce

import numpy as np
import pandas as pd

from connectors.answers import recording
from connectors.contract import Changes, Scope, Source
from connectors.errors import StaleCursorError
from connectors.model import (
    Snapshot,
    groups_frame,
    held_frame,
    memberships_frame,
    memberships_from_codes,
    sizes_only,
    users_frame,
)
from connectors.store import StepCursors
from tasks.read.extract import held_rows, no_collection, read_source, without_unread


@sizes_only
@dataclass(frozen=True, slots=True)
class Reading:
    """A side as it is now. `cursor` is where an incremental read may begin next, "" where none can.

    `full_at`: when it was last read whole; None says that it was now. `answers`: what it was answered, to be compared
    with later, "" where that cannot be.
    """

    snapshot: Snapshot
    cursor: str = ""
    full_at: datetime | None = None
    answers: str = field(default="", repr=False)

    def begins(self, cursors: StepCursors | None, crowd: Reading) -> StepCursors | None:
        """Where what happens after this reading of a source, and that of Crowd, begins; `cursors` were taken before
        them."""
        if cursors is None:
            return None
        return replace(
            cursors,
            cursor=self.cursor,
            full_at=self.full_at or cursors.at,
            source_answers="" if self.cursor else self.answers,
            crowd_answers="" if cursors.token else crowd.answers,
        )

    def words(self, source: str) -> str:
        """How an incremental read was made, in a sentence; "" for a whole one."""
        if self.full_at is None:
            return ""
        return f"Only what changed was read from {source}; the last full read was at {self.full_at:%Y-%m-%d %H:%M} UTC."


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
    fresh_held, fresh_warnings = held_frame(held_rows(changes.held)), held_frame(held_rows(changes.warnings))
    held_users = fresh_held.loc[fresh_held["kind"] == "user", "id"]
    held_groups = fresh_held.loc[fresh_held["kind"] == "group", "id"]
    _, fresh_held = without_unread(
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
        lasting = old[~old["id"].isin(named) & ~old["id"].isin(gone_users.append(gone_groups))]
        return pd.concat([lasting, fresh], ignore_index=True)

    held, warnings = still(before.held, fresh_held), still(before.warnings, fresh_warnings)

    now = before.memberships
    replaced = pd.Index(list(changes.replaced), dtype="str").difference(pd.Index(held_groups))
    ended = (
        codes_among(now["group_id"], replaced.append(gone_groups))
        | codes_among(now["member_id"], gone_users) & (now["member_kind"] == "user").to_numpy()
        | codes_among(now["member_id"], gone_groups) & (now["member_kind"] == "group").to_numpy()
    )
    joined, left = memberships_frame(changes.memberships), memberships_frame(changes.left)
    known = {
        "user": pd.concat([users["id"], held.loc[held["kind"] == "user", "id"]]),
        "group": pd.concat([groups["id"], held.loc[held["kind"] == "group", "id"]]),
    }
    _refuse_unknown(joined, known, now["member_id"].cat.categories)
    if ended.any() or len(left) or len(joined):
        now = _altered(now, ended, left, joined)
    return Snapshot.of(users, groups, now, held, warnings)


def _refuse_unknown(joined: pd.DataFrame, known: Mapping[str, pd.Series], members_before: pd.Index) -> None:
    """Raises `StaleCursorError` where a new membership names a group or member that is neither in `known` (kind → ids)
    nor, as a member, was one before."""
    strange = joined["group_id"].astype("str")[~joined["group_id"].isin(known["group"])]
    if len(strange):
        raise StaleCursorError(f"members of the group {strange.iloc[0]!r}, which is not known")
    for kind, ids in known.items():
        new = joined.loc[joined["member_kind"] == kind, "member_id"]
        strange = new.astype("str")[~new.isin(ids) & ~new.isin(members_before)]
        if len(strange):
            raise StaleCursorError(f"a member {strange.iloc[0]!r} ({kind}), which is not known")


def _altered(now: pd.DataFrame, ended: np.ndarray, left: pd.DataFrame, joined: pd.DataFrame) -> pd.DataFrame:
    """Memberships less those that ended or `left`, with those that `joined`: by integer keys, for they are many."""
    (groups, members), (lasting, ending, coming) = numbered((now, left, joined))
    lasting = lasting[~ended]
    if len(left):
        lasting = lasting[~np.isin(lasting, ending)]
    pairs, kinds = np.divmod(np.union1d(lasting, coming), 2)
    return memberships_from_codes(groups, members, *np.divmod(pairs, max(len(members), 1)), kinds)


def numbered(frames: Sequence[pd.DataFrame]) -> tuple[tuple[pd.Index, pd.Index], list[np.ndarray]]:
    """Memberships → their groups and members, and each frame's rows as numbers that fit each other: (number of the
    group * members + number of the member) * 2 + code of the member's kind."""
    every = [frame for frame in frames if len(frame)]
    none = pd.Index([], dtype="str")
    groups, members = (
        reduce(pd.Index.union, [frame[name].cat.categories for frame in every] or [none])
        for name in ("group_id", "member_id")
    )

    def keys(frame: pd.DataFrame) -> np.ndarray:
        if frame.empty:
            return np.empty(0, dtype=np.int64)
        group = groups.get_indexer(frame["group_id"].cat.categories)[frame["group_id"].cat.codes]
        member = members.get_indexer(frame["member_id"].cat.categories)[frame["member_id"].cat.codes]
        kind = frame["member_kind"].cat.codes.to_numpy()
        pairs: np.ndarray = group.astype(np.int64) * len(members) + member
        return pairs * 2 + kind

    return (groups, members), [keys(frame) for frame in frames]


def codes_among(column: pd.Series, ids: pd.Index) -> np.ndarray:
    """Which rows of a categorical column have one of the ids: bool."""
    known = ids.get_indexer(column.cat.categories) >= 0 if len(ids) else np.zeros(len(column.cat.categories), bool)
    return known[column.cat.codes.to_numpy()] if len(known) else np.zeros(len(column), dtype=bool)


async def read_changes(source: Source, scope: Scope, since: Since) -> Reading:
    """Only what changed. Raises `StaleCursorError` where the whole source has to be read."""
    with no_collection():
        changes = await source.changes(scope, since.cursor)
        return Reading(merged(since.before, changes), changes.cursor, since.full_at)


async def read_whole(source: Source, scope: Scope, *, keeps: bool = False) -> Reading:
    """Everything, and where an incremental read may begin next; what was answered is kept for a read that follows where
    this one `keeps` it. Raises `IncompleteError`."""
    cursor = await source.cursor(scope)  # before the read: what changes meanwhile is read again
    with recording(source.clients, keeps=keeps) as told:
        snapshot = await read_source(source, scope)
    return Reading(snapshot, cursor, answers=told.text())


async def read_since(source: Source, scope: Scope, since: Since | None, log: Callable[..., object]) -> Reading:
    """The source as it is now: what changed `since`, or everything where there is nothing to start from, or where the
    delta is in doubt; `log` is given why, before everything is read. Raises `IncompleteError`."""
    if since is not None:
        try:
            return await read_changes(source, scope, since)
        except StaleCursorError as doubt:
            log("Reading everything: %s", doubt)
    return await read_whole(source, scope)
