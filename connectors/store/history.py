"""History: every content that a user, group or membership ever had, as versions.

A slowly changing dimension of type 2 (as dbt's snapshots). A version is true for the snapshots of its stream
from `valid_from` until before `valid_to`; a snapshot that changed nothing is one row. Ids of records are
replaced by small integers (`record_key`), so that a membership is a few bytes and a difference is set algebra
on 64-bit integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Connection, Integer, MetaData, Table, bindparam, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from connectors.errors import ConfigurationError, RecordError
from connectors.model import (
    GROUPS,
    HELD,
    MEMBER_KINDS,
    STR,
    USERS,
    Snapshot,
    crowd_id,
    groups_frame,
    held_frame,
    memberships_from_codes,
    sizes_only,
    users_frame,
)
from connectors.store import bulk
from connectors.store.bulk import Keys
from connectors.store.database import Database
from connectors.store.tables import (
    OPEN,
    GroupVersion,
    MarkRow,
    MembershipVersion,
    RecordKey,
    SnapshotRow,
    Stream,
    UserVersion,
    VerdictRow,
    instant,
)

STREAM: Final[Table] = Stream.__table__  # type: ignore[attr-defined]
SNAPSHOT: Final[Table] = SnapshotRow.__table__  # type: ignore[attr-defined]
KEY: Final[Table] = RecordKey.__table__  # type: ignore[attr-defined]
USER: Final[Table] = UserVersion.__table__  # type: ignore[attr-defined]
GROUP: Final[Table] = GroupVersion.__table__  # type: ignore[attr-defined]
MEMBERSHIP: Final[Table] = MembershipVersion.__table__  # type: ignore[attr-defined]
MARK: Final[Table] = MarkRow.__table__  # type: ignore[attr-defined]
VERDICT: Final[Table] = VerdictRow.__table__  # type: ignore[attr-defined]

_CLOSED: Final = Table("closed_version", MetaData(), Column("a", Integer), Column("b", Integer), prefixes=["TEMPORARY"])

GROUP_KIND: Final = 0
USER_KIND: Final = 1
"""Codes of `model.MEMBER_KINDS`."""

CONTENT: Final = {
    USER_KIND: {name: "bool" if name == "active" else "text" for name in USERS[1:]},
    GROUP_KIND: dict.fromkeys(GROUPS[1:], "text"),
}
_VERSIONS: Final = {USER_KIND: USER, GROUP_KIND: GROUP}
_PLURAL: Final = {USER_KIND: "users", GROUP_KIND: "groups"}
_LOW: Final = 2**32 - 1


@sizes_only
@dataclass(frozen=True, slots=True)
class SavedSnapshot:
    """A snapshot's row. `changed` counts per kind of change, e.g. `users_added`; {} when nothing changed."""

    id: int
    stream: str
    taken_at: datetime
    run: str
    digest: str
    users: int
    groups: int
    memberships: int
    changed: Mapping[str, int]


@sizes_only
@dataclass(frozen=True, slots=True)
class ReadCursor:
    """Where the next incremental read of a stream begins: the source's own `cursor`, and the snapshot it starts from.

    `scope` says what was asked for: another scope needs a full read. `full_at` is when the last one was.
    """

    cursor: str
    scope: str
    full_at: datetime
    snapshot: int


class History:
    """Snapshots of the streams, and the verdicts of validation on them."""

    _db: Database

    def save_snapshot(
        self, stream: str, snapshot: Snapshot, *, taken_at: datetime, run: str, digest: str | None = None
    ) -> SavedSnapshot:
        """Append a snapshot to a stream, in one transaction.

        With the digest of the stream's latest snapshot it inserts one row and reads one. Otherwise the
        versions that changed or vanished are closed, and the new ones inserted.
        """
        digest = snapshot.digest() if digest is None else digest
        row: dict[str, Any] = {
            "taken_at": instant(taken_at),
            "run": run,
            "digest": digest,
            "users": len(snapshot.users),
            "groups": len(snapshot.groups),
            "memberships": len(snapshot.memberships),
            "changed": "{}",
            "held": frames_text(snapshot.held, snapshot.warnings),
        }
        with self._db.write() as connection:
            latest = latest_row(connection, stream)
            if latest is None or latest.digest != digest:
                # The lock, and the look again: another process may have been first.
                row["stream"] = lock_stream(connection, stream)
                latest = latest_row(connection, stream)
            else:
                row["stream"] = latest.stream
            changed: dict[str, int] = {}
            new = int(connection.execute(SNAPSHOT.insert().values(**row)).inserted_primary_key[0])  # type: ignore[index]
            if latest is None or latest.digest != digest:
                changed = _save_versions(connection, row["stream"], new, snapshot, first=latest is None)
                connection.execute(
                    update(SNAPSHOT)
                    .where(SNAPSHOT.c.id == new)
                    .values(changed=orjson.dumps(changed, option=orjson.OPT_SORT_KEYS).decode())
                )
        return SavedSnapshot(
            id=new,
            stream=stream,
            taken_at=datetime.fromisoformat(row["taken_at"]),
            run=run,
            digest=digest,
            users=row["users"],
            groups=row["groups"],
            memberships=row["memberships"],
            changed=changed,
        )

    def load_snapshot(self, id: int) -> Snapshot:  # noqa: A002
        """The snapshot as it was saved, to the last byte. Raises `RecordError` for an unknown id."""
        with self._db.read() as connection:
            saved = snapshot_row(connection, id)
            names = _Names.of(connection, saved.stream)
            users = _load_records(connection, saved.stream, USER_KIND, id, names)
            groups = _load_records(connection, saved.stream, GROUP_KIND, id, names)
            pairs = _read_pairs(connection, saved.stream, [_holds_at(MEMBERSHIP, id)])
        return Snapshot.of(users, groups, _memberships(pairs, names), *frames_from_text(saved.held))

    def cursor(self, stream: str) -> ReadCursor | None:
        """Where the next incremental read begins; None where only a full one will do."""
        with self._db.read() as connection:
            row = connection.execute(select(MARK).where(MARK.c.stream == stream)).first()
        return (
            None if row is None else ReadCursor(row.mark, row.scope, datetime.fromisoformat(row.full_at), row.snapshot)
        )

    def save_cursor(self, stream: str, cursor: ReadCursor | None, *, at: datetime) -> None:
        """Replace the cursor of the stream; with None the next read is a full one."""
        with self._db.write() as connection:
            connection.execute(MARK.delete().where(MARK.c.stream == stream))
            if cursor is not None:
                connection.execute(
                    MARK.insert().values(
                        stream=stream,
                        mark=cursor.cursor,
                        scope=cursor.scope,
                        full_at=instant(cursor.full_at),
                        at=instant(at),
                        snapshot=cursor.snapshot,
                    )
                )

    def latest_snapshot(self, stream: str) -> SavedSnapshot | None:
        """The stream's newest snapshot, None where there is none."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
        return None if row is None else saved_snapshot(row, stream)

    def snapshots(self, stream: str | None = None, limit: int = 50) -> pd.DataFrame:
        """Newest first: id, stream, taken_at (UTC), run, digest, users, groups, memberships, changed (JSON)."""
        statement = (
            select(*(STREAM.c.name.label("stream") if c.name == "stream" else c for c in SNAPSHOT.c))
            .join(STREAM, STREAM.c.id == SNAPSHOT.c.stream)
            .order_by(SNAPSHOT.c.id.desc())
            .limit(limit)
        )
        if stream is not None:
            statement = statement.where(STREAM.c.name == stream)
        with self._db.read() as connection:
            frame = rows_frame(connection, statement, times=("taken_at",))
        return frame.drop(columns=["held"])

    def compare_snapshots(self, a: int, b: int) -> dict[str, pd.DataFrame]:
        """What changed from snapshot `a` to snapshot `b`: frames under users, groups, memberships.

        Users and groups: change (+ ~ -), id, column, before, after; a changed record has a row per changed
        column, and for + and - the last three are "". Memberships: change (+ -), group_id, member_id,
        member_kind. Raises `RecordError` for an unknown id, `ConfigurationError` across streams.
        """
        with self._db.read() as connection:
            first, second = snapshot_row(connection, a), snapshot_row(connection, b)
            if first.stream != second.stream:
                raise ConfigurationError(
                    f"Snapshots {a} and {b} are of different streams; compare two of one stream "
                    "(`crowdsync snapshots` lists them)."
                )
            names = _Names.of(connection, first.stream)
            frames = {
                _PLURAL[kind]: _compare_records(connection, first.stream, kind, a, b, names)
                for kind in (USER_KIND, GROUP_KIND)
            }
            table = MEMBERSHIP
            gone = _read_pairs(connection, first.stream, [_holds_at(table, a), ~_holds_at(table, b)])
            come = _read_pairs(connection, first.stream, [_holds_at(table, b), ~_holds_at(table, a)])
        # A membership that went and came back between the two has two versions and no difference.
        parts = [
            _memberships(np.setdiff1d(come, gone), names).assign(change="+"),
            _memberships(np.setdiff1d(gone, come), names).assign(change="-"),
        ]
        memberships = pd.concat([part.astype(STR) for part in parts], ignore_index=True)
        frames["memberships"] = memberships[["change", "group_id", "member_id", "member_kind"]]
        return frames

    def named_since(self, stream: str, groups: Iterable[str]) -> dict[str, int]:
        """Groups (ids) → the snapshot since which each has had the name that it has now, in any case of letters."""
        since: dict[str, int] = {}
        for group in groups:
            versions = self.record_history(stream, "group", group)
            if len(versions):
                names = versions["name"].map(crowd_id)
                since[group] = int(versions["valid_from"][(names != names.iloc[-1])[::-1].cumsum() == 0].min())
        return since

    def record_history(self, stream: str, kind: str, id: str) -> pd.DataFrame:  # noqa: A002
        """Every version of one user or group, oldest first.

        Columns of the record, then valid_from and valid_to (snapshot ids, valid_to <NA> while it holds),
        taken_at and ended_at (UTC, of those snapshots).
        """
        code = USER_KIND if kind == "user" else GROUP_KIND
        table = _VERSIONS[code]
        start, end = SNAPSHOT.alias(), SNAPSHOT.alias()
        statement = (
            select(
                KEY.c.external.label("id"),
                *(table.c[name] for name in CONTENT[code]),
                table.c.valid_from,
                table.c.valid_to,
                start.c.taken_at,
                end.c.taken_at.label("ended_at"),
            )
            .join(STREAM, STREAM.c.id == KEY.c.stream)
            .join(table, (table.c.stream == KEY.c.stream) & (table.c.key == KEY.c.key))
            .join(start, start.c.id == table.c.valid_from)
            .outerjoin(end, end.c.id == table.c.valid_to)
            .where(STREAM.c.name == stream, KEY.c.kind == code, KEY.c.external == id)
            .order_by(table.c.valid_from, table.c.key)
        )
        with self._db.read() as connection:
            frame = rows_frame(connection, statement, times=("taken_at", "ended_at"))
        frame["valid_to"] = frame["valid_to"].astype("Int64").mask(frame["valid_to"] == OPEN)
        return frame

    def verdict(self, digest: str, rules: str) -> pd.DataFrame | None:
        """What validation held of this content under these rules; None where it has not judged yet."""
        with self._db.read() as connection:
            held = connection.execute(_VERDICT_OF, {"digest": digest, "rules": rules}).scalar()
        return None if held is None else frame_from_text(held)

    def save_verdict(self, digest: str, rules: str, held: pd.DataFrame, *, at: datetime) -> None:
        """Remember what validation held; the same verdict saved again replaces the first."""
        with self._db.write() as connection:
            write_verdict(connection, digest, rules, held, at=at)


# Frames of held records travel as JSON text: they are small, and nothing asks for a part of one.


def frame_text(held: pd.DataFrame) -> str:
    """Held frame → JSON text, a list of rows in the order of `HELD`."""
    return orjson.dumps(list(zip(*(held[c].tolist() for c in HELD), strict=True))).decode()


def frame_from_text(value: str) -> pd.DataFrame:
    """The reverse of `frame_text`."""
    return held_frame(orjson.loads(value))


def frames_text(held: pd.DataFrame, warnings: pd.DataFrame) -> str:
    """As `frame_text`, of held records and of warnings."""
    return f'{{"held":{frame_text(held)},"warnings":{frame_text(warnings)}}}'


def frames_from_text(value: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The reverse of `frames_text`; before there were warnings, held records stood alone."""
    found = orjson.loads(value)
    if isinstance(found, list):
        return held_frame(found), held_frame()
    return held_frame(found["held"]), held_frame(found["warnings"])


def rows_frame(connection: Connection, statement: Any, *, times: Sequence[str] = ()) -> pd.DataFrame:
    """A few rows as a frame; the columns in `times` become UTC timestamps, "" and null NaT."""
    result = connection.execute(statement)
    frame = pd.DataFrame(result.fetchall(), columns=list(result.keys()))
    for name in times:
        frame[name] = bulk.times(frame[name])
    return frame


def write_verdict(connection: Connection, digest: str, rules: str, held: pd.DataFrame, *, at: datetime) -> None:
    """As `History.save_verdict`, in a transaction of the caller's."""
    values = {"at": instant(at), "held": frame_text(held)}
    connection.execute(
        upserting(connection, VERDICT)
        .values(digest=digest, rules=rules, **values)
        .on_conflict_do_update(index_elements=["digest", "rules"], set_=values)
    )


def upserting(connection: Connection, table: Table) -> Any:
    """An INSERT of this dialect that knows ON CONFLICT."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


# Rows of snapshots and streams


# (Statements that every look-up repeats are made once: that takes longer than what they do.)
_LATEST: Final = (
    select(SNAPSHOT)
    .join(STREAM, STREAM.c.id == SNAPSHOT.c.stream)
    .where(STREAM.c.name == bindparam("name"))
    .order_by(SNAPSHOT.c.id.desc())
    .limit(1)
)


_VERDICT_OF: Final = select(VERDICT.c.held).where(
    VERDICT.c.digest == bindparam("digest"), VERDICT.c.rules == bindparam("rules")
)
_LOCKED: Final = select(STREAM.c.id).where(STREAM.c.name == bindparam("name")).with_for_update()


def latest_row(connection: Connection, stream: str) -> Any:
    return connection.execute(_LATEST, {"name": stream}).first()


def lock_stream(connection: Connection, stream: str) -> int:
    found = connection.execute(_LOCKED, {"name": stream}).scalar()
    if found is None:
        connection.execute(upserting(connection, STREAM).values(name=stream).on_conflict_do_nothing())
        found = connection.execute(_LOCKED, {"name": stream}).scalar_one()
    return int(found)


def snapshot_row(connection: Connection, id: int) -> Any:  # noqa: A002
    row = connection.execute(select(SNAPSHOT).where(SNAPSHOT.c.id == id)).first()
    if row is None:
        raise RecordError(f"There is no snapshot {id}; `crowdsync snapshots` lists them.")
    return row


def saved_snapshot(row: Any, stream: str) -> SavedSnapshot:
    return SavedSnapshot(
        id=row.id,
        stream=stream,
        taken_at=datetime.fromisoformat(row.taken_at),
        run=row.run,
        digest=row.digest,
        users=row.users,
        groups=row.groups,
        memberships=row.memberships,
        changed=orjson.loads(row.changed),
    )


def _holds_at(table: Table, id: int) -> Any:  # noqa: A002
    return (table.c.valid_from <= id) & (table.c.valid_to > id)


# Keys ↔ ids


@dataclass(frozen=True, slots=True)
class _Names:
    """The record keys of a stream: columns in the order of `keys`, which is ascending."""

    keys: Keys
    kinds: Keys
    nths: Keys
    externals: Any  # Arrow text

    @classmethod
    def of(cls, connection: Connection, stream: int) -> _Names:
        columns = {"key": "int", "kind": "int", "nth": "int", "external": "text"}
        statement = select(*(KEY.c[n] for n in columns)).where(KEY.c.stream == stream).order_by(KEY.c.key)
        found = bulk.read(connection, statement, columns)
        return cls(found["key"], found["kind"], found["nth"], found["external"])

    def lookup(self, kind: int, ids: pd.Index, nths: Keys) -> Keys:
        """The key of each id (and its nth appearance), -1 where it has none."""
        keys = np.full(len(ids), -1, dtype=np.int64)
        for nth in np.unique(nths):
            mine = np.flatnonzero((self.kinds == kind) & (self.nths == nth))
            index = pd.Index(bulk.series(self.externals.take(pa.array(mine))))
            wanted = np.flatnonzero(nths == nth)
            at = index.get_indexer(ids if len(wanted) == len(ids) else ids[wanted])
            keys[wanted] = np.where(at >= 0, self.keys[mine[at]] if len(mine) else -1, -1)
        return keys

    def ids(self, keys: Keys) -> pd.Series:
        """The ids of these keys."""
        return bulk.series(self.externals.take(pa.array(np.searchsorted(self.keys, keys))))


@dataclass(slots=True)
class _Incoming:
    """The ids that a snapshot names, with their keys as far as they are known."""

    kind: int
    ids: pd.Index
    nths: Keys
    keys: Keys


def _keyed(connection: Connection, stream: int, snapshot: Snapshot, *, first: bool) -> dict[str, Keys]:
    """Keys for the rows of users and groups, and for the categories of the memberships' two id columns.

    Ids that the stream has never seen get the next numbers, in the order of kind and id.
    """
    empty = np.empty(0, dtype=np.int64)
    names = _Names(empty, empty, empty, pa.array([], pa.large_string()))
    if not first:
        names = _Names.of(connection, stream)
    members = snapshot.memberships["member_id"].cat
    is_user = snapshot.memberships["member_kind"].cat.codes.to_numpy() == USER_KIND
    codes = members.codes.to_numpy()
    as_user = np.unique(codes[is_user])
    as_group = np.unique(codes[~is_user])
    group_ids = snapshot.memberships["group_id"].cat.categories
    asked = {
        "groups": (GROUP_KIND, pd.Index(snapshot.groups["id"])),
        "users": (USER_KIND, pd.Index(snapshot.users["id"])),
        "group_id": (GROUP_KIND, group_ids),
        "member_group": (GROUP_KIND, members.categories[as_group]),
        "member_user": (USER_KIND, members.categories[as_user]),
    }
    keys: dict[str, Keys] = {}
    added: list[_Incoming] = []
    following = int(names.keys[-1]) + 1 if len(names.keys) else 1
    for part, (kind, ids) in asked.items():
        nths = np.zeros(len(ids), dtype=np.int64)
        if part in ("users", "groups") and not ids.is_unique:
            nths = ids.to_series().groupby(level=0, sort=False).cumcount().to_numpy(dtype=np.int64)
        found = names.lookup(kind, ids, nths)
        for earlier in added:  # a member that is also among this snapshot's new users or groups
            if earlier.kind == kind and (found < 0).any():
                originals = np.flatnonzero(earlier.nths == 0)
                at = earlier.ids[originals].get_indexer(ids)
                hit = (found < 0) & (at >= 0) & (nths == 0)
                found[hit] = earlier.keys[originals[at[hit]]]
        unknown = np.flatnonzero(found < 0)
        found[unknown] = np.arange(following, following + len(unknown))
        following += len(unknown)
        added.append(_Incoming(kind, ids[unknown], nths[unknown], found[unknown]))
        keys[part] = found
    for new in added:
        bulk.insert(
            connection,
            KEY,
            {
                "stream": stream,
                "key": new.keys,
                "kind": new.kind,
                "nth": new.nths,
                "external": pd.Series(new.ids, dtype=STR),
            },
            len(new.keys),
        )
    member = np.zeros((2, len(members.categories)), dtype=np.int64)
    member[GROUP_KIND, as_group] = keys.pop("member_group")
    member[USER_KIND, as_user] = keys.pop("member_user")
    group = keys.pop("group_id")[snapshot.memberships["group_id"].cat.codes.to_numpy()]
    keys["memberships"] = np.sort(
        (group << 32) | np.where(is_user, member[USER_KIND, codes], member[GROUP_KIND, codes])
    )
    return keys


# Writing versions


def _save_versions(connection: Connection, stream: int, new: int, snapshot: Snapshot, *, first: bool) -> dict[str, int]:
    keys = _keyed(connection, stream, snapshot, first=first)
    changed: dict[str, int] = {}
    for kind, frame in ((USER_KIND, snapshot.users), (GROUP_KIND, snapshot.groups)):
        counts = _save_records(connection, stream, new, kind, frame, keys[_PLURAL[kind]], first=first)
        changed |= {f"{_PLURAL[kind]}_{how}": n for how, n in counts.items()}
    wanted = keys["memberships"]
    held = np.empty(0, dtype=np.int64) if first else _read_pairs(connection, stream, [MEMBERSHIP.c.valid_to == OPEN])
    gone = held[~bulk.find(wanted, held)[1]]
    come = wanted[~bulk.find(held, wanted)[1]]
    close_versions(connection, MEMBERSHIP, ("group_key", "member_key"), stream, new, gone >> 32, gone & _LOW)
    bulk.insert(
        connection,
        MEMBERSHIP,
        {
            "stream": stream,
            "valid_to": OPEN,
            "group_key": (come >> 32).astype(np.int32),
            "member_key": (come & _LOW).astype(np.int32),
            "valid_from": new,
        },
        len(come),
    )
    return changed | {"memberships_added": len(come), "memberships_removed": len(gone)}


def _save_records(
    connection: Connection, stream: int, new: int, kind: int, frame: pd.DataFrame, keys: Keys, *, first: bool
) -> dict[str, int]:
    table, content = _VERSIONS[kind], CONTENT[kind]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    incoming = {name: _column(frame[name]) for name in content}
    held: dict[str, Any] = {}
    held_keys = np.empty(0, dtype=np.int64)
    if not first:
        statement = (
            select(table.c.key, *(table.c[name] for name in content))
            .where(table.c.stream == stream, table.c.valid_to == OPEN)
            .order_by(table.c.key)
        )
        held = bulk.read(connection, statement, {"key": "int", **content})
        held_keys = held["key"]
    at, known = bulk.find(held_keys, keys)
    differs = np.zeros(len(keys), dtype=np.bool_)
    here, there = pa.array(order[known]), pa.array(at[known])
    for name in content if known.any() else ():
        old = held[name] if isinstance(held[name], (pa.Array, pa.ChunkedArray)) else pa.array(held[name])
        unequal = pc.not_equal(incoming[name].take(here), old.take(there))
        differs[known] |= (
            unequal.to_numpy(zero_copy_only=False) if isinstance(unequal, pa.Array) else unequal.to_numpy()
        )
    gone = held_keys[~bulk.find(keys, held_keys)[1]]
    closed = np.concatenate([gone, keys[differs]])
    close_versions(connection, table, ("key",), stream, new, closed)
    fresh = np.flatnonzero(~known | differs)
    rows = pa.array(order[fresh])
    bulk.insert(
        connection,
        table,
        {
            "stream": stream,
            "valid_to": OPEN,
            "key": keys[fresh],
            "valid_from": new,
            **{name: column.take(rows) for name, column in incoming.items()},
        },
        len(fresh),
    )
    return {"added": int((~known).sum()), "changed": int(differs.sum()), "removed": len(gone)}


def _column(series: pd.Series) -> Any:
    if series.dtype == bool:
        return pa.array(series.to_numpy())
    return (
        pa.chunked_array([pa.array(series, type=pa.large_string())])
        if len(series) == 0
        else pa.array(series, type=pa.large_string())
    )


def close_versions(
    connection: Connection, table: Table, columns: Sequence[str], stream: int, new: int, *keys: Keys
) -> None:
    """The current versions with these keys hold until before snapshot `new`."""
    if not len(keys[0]):
        return
    staged = {name: key.astype(np.int32) for name, key in zip("ab", keys, strict=False)}
    matched = " AND ".join(
        f'"{table.name}"."{column}" = closed_version.{name}' for column, name in zip(columns, "ab", strict=False)
    )
    with bulk.staged(connection, _CLOSED, staged, len(keys[0])):
        connection.execute(
            text(
                f'UPDATE "{table.name}" SET valid_to = :new FROM closed_version '  # noqa: S608
                f"WHERE stream = :stream AND valid_to = :open AND {matched}"
            ),
            {"new": new, "stream": stream, "open": OPEN},
        )


# Reading versions


def _read_pairs(connection: Connection, stream: int, conditions: Sequence[Any]) -> Keys:
    """group_key << 32 | member_key of the memberships under these conditions, ascending."""
    statement = (
        select(bulk.packed(connection, "group_key", "member_key"))
        .select_from(MEMBERSHIP)
        .where(MEMBERSHIP.c.stream == stream, *conditions)
        # In the order of the primary key, so that nothing has to be sorted in the database.
        .group_by(MEMBERSHIP.c.valid_to, MEMBERSHIP.c.group_key)
    )
    return np.sort(bulk.read_packed(connection, statement), kind="stable")


def _memberships(pairs: Keys, names: _Names) -> pd.DataFrame:
    groups, group_codes = np.unique(pairs >> 32, return_inverse=True)
    # A user and a group may share an id: two keys, one category.
    members, member_codes = np.unique(pairs & _LOW, return_inverse=True)
    categories, codes = categories_of(names.ids(members))
    kinds = names.kinds[np.searchsorted(names.keys, members)]
    return memberships_from_codes(
        names.ids(groups).tolist(),
        categories,
        group_codes,
        codes[member_codes] if len(members) else member_codes,
        kinds[member_codes] if len(members) else member_codes,
    )


def categories_of(ids: pd.Series) -> tuple[list[str], Keys]:
    codes, categories = pd.factorize(ids)
    return list(categories), codes.astype(np.int64)


def _records(connection: Connection, stream: int, kind: int, conditions: Sequence[Any], names: _Names) -> pd.DataFrame:
    """Versions of users or groups under these conditions: key, id and content, by key."""
    table, content = _VERSIONS[kind], CONTENT[kind]
    statement = (
        select(table.c.key, *(table.c[name] for name in content))
        .where(table.c.stream == stream, *conditions)
        .order_by(table.c.key)
    )
    frame = bulk.read_frame(connection, statement, {"key": "int", **content})
    frame.insert(1, "id", names.ids(frame["key"].to_numpy()))
    return frame


def _load_records(connection: Connection, stream: int, kind: int, id: int, names: _Names) -> pd.DataFrame:  # noqa: A002
    frame = _records(connection, stream, kind, [_holds_at(_VERSIONS[kind], id)], names)
    empty = users_frame() if kind == USER_KIND else groups_frame()
    return frame.drop(columns="key") if len(frame) else empty


def _compare_records(connection: Connection, stream: int, kind: int, a: int, b: int, names: _Names) -> pd.DataFrame:
    table = _VERSIONS[kind]
    old = _records(connection, stream, kind, [_holds_at(table, a), ~_holds_at(table, b)], names)
    new = _records(connection, stream, kind, [_holds_at(table, b), ~_holds_at(table, a)], names)
    columns = ["change", "id", "column", "before", "after"]

    def rows(change: str, ids: Any, column: str = "", before: Any = "", after: Any = "") -> pd.DataFrame:
        return pd.DataFrame(
            {"change": change, "id": ids, "column": column, "before": before, "after": after}, columns=columns
        )

    added = new.loc[~new["key"].isin(old["key"]), "id"]
    removed = old.loc[~old["key"].isin(new["key"]), "id"]
    parts = [rows("+", added.to_numpy()), rows("-", removed.to_numpy())]
    both = old.merge(new, on="key", suffixes=("_before", "_after"))
    for name in CONTENT[kind]:
        before, after = both[f"{name}_before"], both[f"{name}_after"]
        if before.dtype == bool:
            before, after = (s.map({True: "true", False: "false"}) for s in (before, after))
        differs = (before != after).to_numpy()
        parts.append(
            rows(
                "~",
                both.loc[differs, "id_before"].to_numpy(),
                name,
                before[differs].to_numpy(),
                after[differs].to_numpy(),
            )
        )
    return pd.concat([part.astype(STR) for part in parts], ignore_index=True)


assert list(MEMBER_KINDS.categories) == ["group", "user"]
