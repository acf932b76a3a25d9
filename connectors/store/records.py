"""Records by key: what a run about a few people needs of history and links, and what it changes there.

Nothing here goes through all records: each statement finds what it names by an index. (Groups, and the links of groups,
are few, and read whole.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd
from sqlalchemy import Connection, Integer, Select, String, Table, bindparam, func, literal_column, or_, select, update

from connectors.errors import RetryableError
from connectors.model import (
    STR,
    USERS,
    MembershipRow,
    Snapshot,
    groups_frame,
    memberships_frame,
    memberships_from_columns,
    sizes_only,
    text_array,
    users_frame,
)
from connectors.store import bulk
from connectors.store.database import Database
from connectors.store.history import (
    CONTENT,
    GROUP,
    GROUP_KIND,
    KEY,
    MEMBERSHIP,
    SNAPSHOT,
    STREAM,
    USER,
    USER_KIND,
    SavedSnapshot,
    close_versions,
    frames_from_text,
    frames_text,
    latest_row,
    lock_stream,
    saved_snapshot,
    upserting,
    write_verdict,
)
from connectors.store.links import EVENT, LINK, LINKS, events_of
from connectors.store.tables import OPEN, IndexedKey, IndexedSpace, WideRead, instant

INDEXED: Final[Table] = IndexedKey.__table__  # type: ignore[attr-defined]
SPACE: Final[Table] = IndexedSpace.__table__  # type: ignore[attr-defined]
WIDE: Final[Table] = WideRead.__table__  # type: ignore[attr-defined]


@sizes_only
@dataclass(frozen=True, slots=True)
class RecordChanges:
    """Users of a stream that were read again: whole rows of those who are there, the ids of those who are `gone`, and
    the direct memberships of the former, whole. `held` and `warnings` are those of the whole stream afterwards.
    `before`: all of these users as they are in the stream's newest snapshot, where that is known. `verdict`: the rules
    of a validation, and what it holds of the whole stream afterwards. `counted`: the directory and source of which what
    the last wide run counted stands for this content too."""

    users: pd.DataFrame
    gone: Collection[str]
    memberships: pd.DataFrame
    held: pd.DataFrame
    warnings: pd.DataFrame
    before: pd.DataFrame | None = None
    verdict: tuple[str, pd.DataFrame] | None = None
    counted: tuple[str, str] | None = None


@sizes_only
@dataclass(frozen=True, slots=True)
class WideTotals:
    """What the last wide run of a source counted, and by which rules: digests of the `policy` and of what was
    `requested`, and of the source's `snapshot`, also as narrow runs found it since."""

    policy: str
    requested: str
    snapshot: str
    at: datetime
    totals: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class IndexState:
    """How far the keys of a space are made: the `digest` of the rules, the newest snapshot and link event in them."""

    digest: str
    snapshot: int
    event: int


class Records:
    """Current records by key, the keys under which they are found, and changes of a few of them."""

    _db: Database
    _of_groups: dict[str, tuple[int, pd.DataFrame, pd.DataFrame]]
    """Groups and nestings of a stream as they were read last, and the snapshot that they are those of."""
    _group_links: dict[str, tuple[int, pd.DataFrame]]
    """The links of groups of a directory as they were read last, and the newest link event of then."""
    _numbers: dict[str, int]
    """Streams, and the numbers that they have in the store, as their newest snapshot was read last."""

    # Reading

    def newest(self, stream: str) -> tuple[SavedSnapshot, Snapshot] | None:
        """The newest snapshot of a stream, and its content without users and their memberships. None where there is
        none."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
            if row is None:
                return None
            self._numbers[stream] = row.stream  # (an older copy of the database may have been put back)
            kept = self._of_groups.get(stream)
            if kept is None or kept[0] != row.id:
                whole: Snapshot = Snapshot.of(None, _groups(connection, row.stream), _nestings(connection, row.stream))
                kept = self._of_groups[stream] = row.id, whole.groups, whole.memberships
        groups, nestings = (frame.copy(deep=False) for frame in kept[1:])
        return saved_snapshot(row, stream), Snapshot(users_frame(), groups, nestings, *frames_from_text(row.held))

    def users_now(self, stream: str, ids: Collection[str]) -> pd.DataFrame:
        """These users (ids) of a stream as they are in its newest snapshot, as far as they are there."""
        if not ids:
            return users_frame()
        with self._db.read() as connection:
            number = self._number(connection, stream)
            return users_frame() if number is None else _users(connection, number, ids)

    def called(self, directory: str, source: str, people: Collection[str]) -> dict[str, str]:
        """What people (ids) are called: in the source, or, of whom it has no more, in Crowd; of whom that is known."""
        users = self.users_now(f"source:{source}", people)
        links = self.links_about(directory, source, {*people} - {*users["id"]}, (), groups=False)
        return {
            **dict(zip(links["id"], links["name"], strict=True)),
            **dict(zip(users["id"], users["username"], strict=True)),
        }

    def memberships_now(self, stream: str, users: Collection[str]) -> pd.DataFrame:
        """The direct memberships of these users (ids) in a stream's newest snapshot."""
        return memberships_frame(self.pairs_now(stream, users))

    def pairs_now(self, stream: str, users: Collection[str]) -> list[MembershipRow]:
        """As `memberships_now`, row by row."""
        if not users:
            return []
        with self._db.read() as connection:
            number = self._number(connection, stream)
            return [] if number is None else _memberships(connection, number, users)

    def members_now(self, stream: str, group: str) -> set[tuple[str, str]]:
        """The direct members (id, kind) of a group (id) in a stream's newest snapshot."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
            key = {} if row is None else _keys(connection, row.stream, GROUP_KIND, {group})
            if not key:
                return set()
            statement = (
                select(KEY.c.external, KEY.c.kind)
                .join_from(MEMBERSHIP, KEY, (KEY.c.stream == row.stream) & (KEY.c.key == MEMBERSHIP.c.member_key))
                .where(MEMBERSHIP.c.stream == row.stream, MEMBERSHIP.c.valid_to == OPEN)
                .where(MEMBERSHIP.c.group_key == key[group])
            )
            found = connection.execute(statement)
            return {(one.external, "group" if one.kind == GROUP_KIND else "user") for one in found}

    def users_since(self, stream: str, snapshot: int, columns: tuple[str, ...] = ()) -> pd.DataFrame:
        """The users of a stream, as they are now, whose content is newer than a snapshot. Who has the same in these
        `columns` as then may be left out. Where no snapshot since then changed anything, none are looked at."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
            if row is None:
                return users_frame()
            told = connection.execute(_CHANGES, {"of": row.stream, "since": snapshot}).scalars()
            changes = [orjson.loads(one) for one in told]
            if not changes:
                return users_frame()
            statement = _CURRENT_USERS.where(
                USER.c.stream == row.stream, KEY.c.stream == row.stream, USER.c.valid_from > snapshot
            )
            if not any(one.get("users_added", 1) for one in changes):
                # Each of them was another one before: found by that, no look through all of them is needed.
                old = USER.alias()
                before = select(old.c.key).where(old.c.stream == row.stream, old.c.valid_to < OPEN)
                statement = statement.where(USER.c.key.in_(before.where(old.c.valid_to > snapshot)))
                if columns:
                    found = connection.execute(_compared(columns), {"of": row.stream, "since": snapshot})
                    others = [key for key, other in found if other]
                    statement = statement.where(USER.c.key.in_(others)) if len(others) <= bulk.FEW else statement
            return bulk.read_frame(connection, statement, _USER_COLUMNS)

    def changed_since(self, stream: str, snapshot: int) -> bool:
        """Whether a snapshot of a stream after this one has other records."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
            return row is not None and _changed(connection, row.stream, snapshot)

    def moved(self, stream: str, snapshot: int) -> tuple[set[str], set[tuple[str, str]]]:
        """What is in a snapshot otherwise than in the one before it: users (ids), and direct memberships of users
        (group, user)."""
        with self._db.read() as connection:
            row = latest_row(connection, stream)
            if row is None or not _changed(connection, row.stream, snapshot - 1):
                return set(), set()
            tables = ((USER, [USER.c.key]), (MEMBERSHIP, [MEMBERSHIP.c.group_key, MEMBERSHIP.c.member_key]))
            users, pairs = (
                connection.execute(
                    select(*keys)
                    .where(table.c.stream == row.stream)
                    .where((table.c.valid_from == snapshot) | (table.c.valid_to == snapshot))
                ).fetchall()
                for table, keys in tables
            )
            statement = select(KEY.c.key, KEY.c.kind, KEY.c.external).where(KEY.c.stream == row.stream)
            names = {one.key: (one.kind, one.external) for one in connection.execute(statement)}
        people = {key: external for key, (kind, external) in names.items() if kind == USER_KIND}
        return (
            {people[key] for (key,) in users if key in people},
            {(names[group][1], people[member]) for group, member in pairs if member in people},
        )

    def active_members(self, stream: str, groups: Mapping[str, int]) -> set[str]:
        """Of each of these groups (ids) some active direct members (ids), at most so many as stand there."""
        with self._db.read() as connection:
            number = self._number(connection, stream)
            keys = {} if number is None else _keys(connection, number, GROUP_KIND, set(groups))
            asked = ({"of": number, "group": key, "most": groups[group]} for group, key in keys.items())
            return {member for (member,) in bulk.each(connection, _ACTIVE_MEMBERS, asked)}

    def count_members(self, stream: str, groups: Collection[str]) -> int:
        """How many direct members these groups (ids) have, users and groups; one in two of them counts twice."""
        with self._db.read() as connection:
            number = self._number(connection, stream)
            keys = {} if number is None else _keys(connection, number, GROUP_KIND, set(groups))
            asked = ({"of": number, "group": key} for key in keys.values())
            return sum(count for (count,) in bulk.each(connection, _COUNT_MEMBERS, asked))

    def links_about(
        self, directory: str, source: str, ids: Collection[str], names: Collection[str], *, groups: bool = True
    ) -> pd.DataFrame:
        """As `Links.links`: those of all groups, if these are wanted, and of users those of these ids in a source, and
        those to these names (as Crowd looks them up), whosesoever they are."""
        with self._db.read() as connection:
            found = [_links_of(_links_of_users(connection, directory, source, ids, names))] if ids or names else []
            if groups:
                found.append(self._links_of_groups(connection, directory))
        if not found:
            return _links_of([])
        if len(found) == 1 or not len(found[0]):
            return found[-1].copy(deep=False)
        both = pd.concat(found[::-1], ignore_index=True)  # (by source, kind and id)
        one = both["source"].nunique() == 1
        return both if one else both.sort_values(["source", "kind", "id"], ignore_index=True)

    def _links_of_groups(self, connection: Connection, directory: str) -> pd.DataFrame:
        """The links of all groups of a directory, which are read again where one changed since."""
        newest = int(connection.execute(_NEWEST_EVENT).scalar() or 0)
        kept = self._group_links.get(directory)
        since = {"directory": directory, "event": -1 if kept is None else kept[0]}
        if kept is None or newest < kept[0] or connection.execute(_CHANGED_GROUP_LINK, since).first() is not None:
            rows = connection.execute(_LINKS_OF_GROUPS, {"directory": directory}).fetchall()
            kept = newest, _links_of(rows)
        self._group_links[directory] = newest, kept[1]
        return kept[1]

    def _number(self, connection: Connection, stream: str) -> int | None:
        """The number of a stream, None where it was never written."""
        if (number := self._numbers.get(stream)) is None:
            number = connection.execute(select(STREAM.c.id).where(STREAM.c.name == stream)).scalar()
            if number is not None:
                self._numbers[stream] = int(number)
        return number

    def first_linked(self, directory: str, source: str, since: datetime, ids: Collection[str]) -> set[str]:
        """Those of these users (ids) of a source that have a link, and of whom no link was ever told of before."""
        known = select(EVENT.c.external).where(
            EVENT.c.directory == directory,
            EVENT.c.source == source,
            EVENT.c.kind == "user",
            EVENT.c.external == LINK.c.id,
            EVENT.c.at < instant(since),
        )
        statement = (
            select(LINK.c.id)
            .where(LINK.c.directory == directory, LINK.c.source == source, LINK.c.kind == "user", ~known.exists())
            .where(LINK.c.id.in_(bulk.askable(ids)))
        )
        with self._db.read() as connection:
            return set(connection.execute(statement.where(LINK.c.made_at >= instant(since))).scalars())

    def linked_since(self, directory: str, event: int) -> tuple[pd.DataFrame, int]:
        """The links of users that were made or changed after a link event: source, id, name; and the newest event."""
        of, columns = {"directory": directory, "event": event}, dict.fromkeys(("source", "id", "name"), "text")
        with self._db.read() as connection:
            newest = connection.execute(_NEWEST_EVENT).scalar()
            frame = bulk.read_frame(connection, _LINKED_SINCE, columns, of)
        return frame, int(newest or 0)

    # Keys

    def index_state(self, space: str) -> IndexState | None:
        """How far the keys of a space are made; None: not at all."""
        with self._db.read() as connection:
            row = connection.execute(_STATE_OF_SPACE, {"space": space}).first()
        return None if row is None else IndexState(row.digest, row.snapshot, row.event)

    def index(self, space: str, keys: pd.DataFrame, state: IndexState, *, anew: bool) -> None:
        """Adds keys (value, id) to a space, in place of all that it has where `anew`."""
        values = {"digest": state.digest, "snapshot": state.snapshot, "event": state.event}
        with self._db.write() as connection:
            if anew:
                wanted = bulk.texts(keys, ("value", "id")).drop_duplicates()
                wanted = wanted.sort_values(["value", "id"], ignore_index=True)
                connection.execute(INDEXED.delete().where(INDEXED.c.space == space))
                bulk.insert(
                    connection, INDEXED, {"space": space, **{str(name): wanted[name] for name in wanted}}, len(wanted)
                )
            elif len(keys):
                rows = [
                    {"space": space, "value": bulk.plain(value), "id": bulk.plain(identity)}
                    for value, identity in sorted({*zip(keys["value"], keys["id"], strict=True)})
                ]
                connection.execute(upserting(connection, INDEXED).on_conflict_do_nothing(), rows)
            connection.execute(
                upserting(connection, SPACE)
                .values(space=space, **values)
                .on_conflict_do_update(index_elements=["space"], set_=values)
            )

    def having(self, space: str, values: Collection[str]) -> set[str]:
        """The ids that have, or had, one of these keys."""
        if not (wanted := bulk.askable(values)):
            return set()
        with self._db.read() as connection:
            return set(connection.execute(_HAVING, {"space": space, "wanted": wanted}).scalars())

    # The last wide read

    def wide_totals(self, directory: str, source: str) -> WideTotals | None:
        """What the last wide run counted; None where there was none, or none since something was objected to."""
        with self._db.read() as connection:
            row = connection.execute(_WIDE_OF, {"directory": directory, "source": source}).first()
        if row is None:
            return None
        at = datetime.fromisoformat(row.at)
        return WideTotals(row.policy, row.requested, row.snapshot, at, orjson.loads(row.totals))

    def save_wide_totals(self, directory: str, source: str, totals: WideTotals | None) -> None:
        """Remembers what a wide run counted; None: that the next run has to be wide."""
        with self._db.write() as connection:
            connection.execute(WIDE.delete().where(WIDE.c.directory == directory, WIDE.c.source == source))
            if totals is not None:
                connection.execute(
                    WIDE.insert().values(
                        directory=directory,
                        source=source,
                        policy=totals.policy,
                        requested=totals.requested,
                        snapshot=totals.snapshot,
                        at=instant(totals.at),
                        totals=orjson.dumps(totals.totals).decode(),
                    )
                )

    # Changes of a few

    def save_changes(
        self, stream: str, base: SavedSnapshot, changes: RecordChanges, *, taken_at: datetime, run: str
    ) -> SavedSnapshot:
        """Appends a snapshot that is `base` with a few users changed, in one transaction; it costs what they cost.

        Its digest is made of that of `base` and of the changes; without a change it is that of `base`. Raises
        `RetryableError` where `base` is not the stream's newest snapshot any more.
        """
        with self._db.write() as connection:
            number = lock_stream(connection, stream)
            latest = latest_row(connection, stream)
            if latest is None or latest.id != base.id:
                raise RetryableError(f"{stream} was read by another run in the meantime; run again")
            found = _differences(connection, number, changes)
            row: dict[str, Any] = {
                "stream": number,
                "taken_at": instant(taken_at),
                "run": run,
                "digest": found.digest(base.digest) if found else base.digest,
                "users": base.users + found.users,
                "groups": base.groups,
                "memberships": base.memberships + found.memberships,
                "changed": orjson.dumps(found.counts, option=orjson.OPT_SORT_KEYS).decode(),
                "held": frames_text(changes.held, changes.warnings),
            }
            new = int(connection.execute(SNAPSHOT.insert().values(**row)).inserted_primary_key[0])  # type: ignore[index]
            found.write(connection, number, new)
            saved = saved_snapshot(latest_row(connection, stream), stream)
            if changes.verdict and saved.digest != base.digest:
                write_verdict(connection, saved.digest, *changes.verdict, at=taken_at)
            if changes.counted and saved.digest != base.digest:
                directory, source = changes.counted
                stands = update(WIDE).where(WIDE.c.directory == directory, WIDE.c.source == source)
                connection.execute(stands.values(snapshot=saved.digest))
        kept = self._of_groups.get(stream)
        if kept is not None and kept[0] == base.id:  # groups are as they were
            self._of_groups[stream] = new, *kept[1:]
        return saved


# Statements that every look-up repeats are made once: that takes longer than what they do.

_HOLDS: Final = MEMBERSHIP.c.valid_to == literal_column(str(OPEN))
"""A membership that holds. (As a parameter, it would not be seen to be what the index of members is about.)"""

_OF: Final = bindparam("of", type_=Integer)
_ACTIVE_MEMBERS: Final = (
    select(KEY.c.external)
    .select_from(MEMBERSHIP)
    .join(USER, (USER.c.stream == _OF) & (USER.c.key == MEMBERSHIP.c.member_key))
    .join(KEY, (KEY.c.stream == _OF) & (KEY.c.key == MEMBERSHIP.c.member_key))
    .where(MEMBERSHIP.c.stream == _OF, MEMBERSHIP.c.valid_to == OPEN)
    .where(MEMBERSHIP.c.group_key == bindparam("group", type_=Integer), USER.c.valid_to == OPEN, USER.c.active)
    .limit(bindparam("most", type_=Integer))
)
_GROUPS_OF: Final = select(MEMBERSHIP.c.group_key, MEMBERSHIP.c.member_key).where(
    MEMBERSHIP.c.stream == _OF, _HOLDS, MEMBERSHIP.c.member_key.in_(bindparam("members", expanding=True))
)
_COUNT_MEMBERS: Final = (
    select(func.count())
    .select_from(MEMBERSHIP)
    .where(MEMBERSHIP.c.stream == _OF, MEMBERSHIP.c.valid_to == OPEN)
    .where(MEMBERSHIP.c.group_key == bindparam("group", type_=Integer))
)
_KEYS: Final = select(KEY.c.external, KEY.c.key).where(
    KEY.c.stream == _OF,
    KEY.c.kind == bindparam("kind", type_=Integer),
    KEY.c.nth == 0,
    KEY.c.external.in_(bindparam("asked", expanding=True)),
)
# SQLite would rather go through all keys of the stream, of which it believes that they are ten. From the left side of
# an outer join it has to look up one after the other.
_ASKED: Final = func.json_each(bindparam("asked", type_=String)).table_valued("value")
_KEYS_OF_SQLITE: Final = select(KEY.c.external, KEY.c.key).select_from(
    _ASKED.outerjoin(
        KEY,
        (KEY.c.stream == _OF)
        & (KEY.c.kind == bindparam("kind", type_=Integer))
        & (KEY.c.nth == 0)
        & (KEY.c.external == _ASKED.c.value),
    )
)


_LINK_COLUMNS: Final = (*LINKS, "made_at")
_LINKS: Final = select(*(LINK.c[name] for name in _LINK_COLUMNS)).where(LINK.c.directory == bindparam("directory"))
_LINKS_OF_GROUPS: Final = _LINKS.where(LINK.c.kind == "group").order_by(LINK.c.source, LINK.c.id)
_LINKS_OF_USERS: Final = (
    _LINKS.where(LINK.c.kind == "user")
    .where(
        or_(
            (LINK.c.source == bindparam("source")) & LINK.c.id.in_(bindparam("ids", expanding=True)),
            LINK.c.folded.in_(bindparam("names", expanding=True)),
        )
    )
    .order_by(LINK.c.source, LINK.c.id)
)
# (With several names SQLite would go through all links of the directory. One after the other, it looks them up.)
_OF_USERS: Final = (LINK.c.directory == bindparam("directory")) & (LINK.c.kind == "user")
_LINKS_BY_ID: Final = select(*(LINK.c[name] for name in _LINK_COLUMNS)).select_from(
    _ASKED.outerjoin(LINK, _OF_USERS & (LINK.c.source == bindparam("source")) & (LINK.c.id == _ASKED.c.value))
)
_LINKS_BY_NAME: Final = select(*(LINK.c[name] for name in _LINK_COLUMNS)).select_from(
    _ASKED.outerjoin(LINK, _OF_USERS & (LINK.c.folded == _ASKED.c.value))
)
_NEWEST_EVENT: Final = select(func.max(EVENT.c.id))
_LINKED_SINCE: Final = (
    select(EVENT.c.source, EVENT.c.external, EVENT.c.after)
    .where(events_of(bindparam("directory")), EVENT.c.id > bindparam("event"))
    .where(EVENT.c.kind == "user", EVENT.c.after != "")
    .order_by(EVENT.c.id)
)
_STATE_OF_SPACE: Final = select(SPACE).where(SPACE.c.space == bindparam("space"))
_HAVING: Final = select(INDEXED.c.id).where(
    INDEXED.c.space == bindparam("space"), INDEXED.c.value.in_(bindparam("wanted", expanding=True))
)
_WIDE_OF: Final = select(WIDE).where(WIDE.c.directory == bindparam("directory"), WIDE.c.source == bindparam("source"))
_CHANGES: Final = select(SNAPSHOT.c.changed).where(
    SNAPSHOT.c.stream == _OF, SNAPSHOT.c.id > bindparam("since", type_=Integer), SNAPSHOT.c.changed != "{}"
)
"""What changed with each snapshot of a stream after this one (as `SavedSnapshot.changed`, in JSON), but for those with
which nothing did."""
_CURRENT_USERS: Final = (
    select(KEY.c.external.label("id"), *(USER.c[name] for name in CONTENT[USER_KIND]))
    .join_from(USER, KEY, (USER.c.stream == KEY.c.stream) & (USER.c.key == KEY.c.key))
    .where(USER.c.valid_to == OPEN)
)
_THESE_USERS: Final = _CURRENT_USERS.where(
    USER.c.stream == _OF, KEY.c.stream == _OF, USER.c.key.in_(bindparam("keys", expanding=True))
)
_USER_COLUMNS: Final = {"id": "text", **CONTENT[USER_KIND]}
_CHANGED_GROUP_LINK: Final = (
    select(EVENT.c.id)
    .where(EVENT.c.id > bindparam("event"), events_of(bindparam("directory")), EVENT.c.kind == "group")
    .limit(1)
)


# What is there now


def _links_of_users(
    connection: Connection, directory: str, source: str, ids: Collection[str], names: Collection[str]
) -> Sequence[Sequence[str]]:
    """The links of users of these ids in a source, and those to these names, by source and id."""
    of, asked = {"directory": directory, "source": source}, (bulk.askable(ids), bulk.askable(names))
    if connection.dialect.name != "sqlite":
        found = connection.execute(_LINKS_OF_USERS, {**of, "ids": asked[0], "names": asked[1]})
        return [tuple(row) for row in found]
    rows = {
        tuple(row)
        for statement, some in zip((_LINKS_BY_ID, _LINKS_BY_NAME), asked, strict=True)
        if some
        for row in connection.execute(statement, {**of, "asked": orjson.dumps(some).decode()})
    }
    return sorted(row for row in rows if row[0] is not None)


def _links_of(rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """Rows of links, `made_at` as text → links."""
    columns = zip(*rows, strict=True) if rows else [()] * len(_LINK_COLUMNS)
    texts = {name: text_array(one) for name, one in zip(_LINK_COLUMNS, columns, strict=True)}
    made = bulk.times(pd.Series(texts.pop("made_at")))
    return pd.DataFrame({**texts, "made_at": made}, copy=False)


def _changed(connection: Connection, stream: int, snapshot: int) -> bool:
    """Whether a snapshot of a stream after this one is another content."""
    return connection.execute(_CHANGES.limit(1), {"of": stream, "since": snapshot}).first() is not None


@cache
def _compared(columns: tuple[str, ...]) -> Select[Any]:
    """The users (keys) who changed since a snapshot, and whether they have something else in these columns now than
    then; null for those who are gone."""
    then, since = USER.alias(), bindparam("since", type_=Integer)
    other = or_(*(then.c[name] != USER.c[name] for name in columns))
    # (From the left side of an outer join: SQLite would rather go through all users.)
    now = (USER.c.stream == _OF) & (USER.c.valid_to == OPEN) & (USER.c.key == then.c.key)
    return (
        select(then.c.key, other)
        .select_from(then.outerjoin(USER, now))
        .where(then.c.stream == _OF, then.c.valid_to < OPEN, then.c.valid_to > since, then.c.valid_from <= since)
    )


def _users(connection: Connection, stream: int, ids: Collection[str]) -> pd.DataFrame:
    # (The keys first: a database may else think it better to go through all users.)
    keys = _keys(connection, stream, USER_KIND, ids)
    if not keys:
        return users_frame()
    found = bulk.read_frame(connection, _THESE_USERS, _USER_COLUMNS, {"of": stream, "keys": list(keys.values())})
    return found if len(found) else users_frame()


def _groups(connection: Connection, stream: int) -> pd.DataFrame:
    statement = (
        select(KEY.c.external.label("id"), *(GROUP.c[name] for name in CONTENT[GROUP_KIND]))
        .join_from(GROUP, KEY, (GROUP.c.stream == KEY.c.stream) & (GROUP.c.key == KEY.c.key))
        .where(GROUP.c.stream == stream, GROUP.c.valid_to == OPEN)
    )
    frame = bulk.read_frame(connection, statement, {"id": "text", **CONTENT[GROUP_KIND]})
    return frame if len(frame) else groups_frame()


def _memberships(connection: Connection, stream: int, users: Collection[str]) -> list[tuple[str, str, str]]:
    members = {key: one for one, key in _keys(connection, stream, USER_KIND, users).items()}
    pairs = _pairs(connection, stream, members) if members else []
    statement = select(KEY.c.key, KEY.c.external).where(
        KEY.c.stream == stream, KEY.c.key.in_([group for group, _ in pairs])
    )
    groups = {row.key: row.external for row in connection.execute(statement)} if pairs else {}
    return [(groups[group], members[member], "user") for group, member in pairs]


def _nestings(connection: Connection, stream: int) -> pd.DataFrame:
    """The nestings that hold, also of groups that are held. Found from the groups, which are few, and not among the
    memberships."""
    of = KEY.alias()
    # (Every id is more than no text; said, so that SQLite looks for them in the index of ids and not among all keys.)
    children = select(KEY.c.key).where(KEY.c.stream == stream, KEY.c.kind == GROUP_KIND, KEY.c.external >= "")
    statement = (
        select(of.c.external.label("parent"), KEY.c.external.label("child"))
        .select_from(MEMBERSHIP)
        .join(KEY, (KEY.c.stream == stream) & (KEY.c.key == MEMBERSHIP.c.member_key))
        .join(of, (of.c.stream == stream) & (of.c.key == MEMBERSHIP.c.group_key))
        .where(MEMBERSHIP.c.stream == stream, _HOLDS, MEMBERSHIP.c.member_key.in_(children))
    )
    found = bulk.read_frame(connection, statement, {"parent": "text", "child": "text"})
    return memberships_from_columns(found["parent"], found["child"], ["group"] * len(found))


# What changes


@dataclass(slots=True)
class _Differences:
    """What must be written so that a few users are as they were read: rows by key, and pairs of group and member."""

    added: dict[int, tuple[Any, ...]]
    changed: dict[int, tuple[Any, ...]]
    removed: list[int]
    come: list[tuple[int, int]]
    gone: list[tuple[int, int]]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed or self.come or self.gone)

    @property
    def users(self) -> int:
        return len(self.added) - len(self.removed)

    @property
    def memberships(self) -> int:
        return len(self.come) - len(self.gone)

    @property
    def counts(self) -> dict[str, int]:
        """As in `SavedSnapshot.changed`."""
        if not self:
            return {}
        return {
            "users_added": len(self.added),
            "users_changed": len(self.changed),
            "users_removed": len(self.removed),
            "groups_added": 0,
            "groups_changed": 0,
            "groups_removed": 0,
            "memberships_added": len(self.come),
            "memberships_removed": len(self.gone),
        }

    def digest(self, before: str) -> str:
        """Hex SHA-256 over the digest of the content before and the changes."""
        rows = [sorted(self.added.items()), sorted(self.changed.items()), sorted(self.removed)]
        pairs = [sorted(self.come), sorted(self.gone)]
        return hashlib.sha256(orjson.dumps([before, rows, pairs])).hexdigest()

    def write(self, connection: Connection, stream: int, new: int) -> None:
        """Closes the versions that hold no longer and opens the new ones, from snapshot `new` on."""
        closed = np.array([*self.changed, *self.removed], dtype=np.int64)
        close_versions(connection, USER, ("key",), stream, new, closed)
        gone = np.array(self.gone, dtype=np.int64).reshape(-1, 2)
        close_versions(connection, MEMBERSHIP, ("group_key", "member_key"), stream, new, gone[:, 0], gone[:, 1])
        fresh = {"stream": stream, "valid_to": OPEN, "valid_from": new}
        rows = self.added | self.changed
        if rows:
            users = users_frame(("", *row) for row in rows.values()).drop(columns="id")
            keys = np.array(list(rows), dtype=np.int64)
            columns = {**fresh, "key": keys, **{str(name): users[name] for name in users}}
            bulk.insert(connection, USER, columns, len(keys))
        come = np.array(self.come, dtype=np.int64).reshape(-1, 2)
        pairs = {**fresh, "group_key": come[:, 0], "member_key": come[:, 1]}
        bulk.insert(connection, MEMBERSHIP, pairs, len(come))


def _differences(connection: Connection, stream: int, changes: RecordChanges) -> _Differences:
    wanted = _by_id(changes.users)
    ids = {*wanted, *changes.gone}
    keys = _keys(connection, stream, USER_KIND, ids)
    before = _by_id(_users(connection, stream, ids) if changes.before is None else changes.before)
    pairs = [changes.memberships[side].astype(STR).tolist() for side in ("group_id", "member_id")]
    groups = _keys(connection, stream, GROUP_KIND, set(pairs[0]))
    held = {
        (group, member)
        for group, member in _pairs(connection, stream, [keys[one] for one in {*wanted, *before} if one in keys])
    }
    for one in sorted(set(wanted) - set(keys)):
        keys[one] = _new_key(connection, stream, one)
    now = {(groups[group], keys[member]) for group, member in zip(*pairs, strict=True)}
    return _Differences(
        added={keys[one]: row for one, row in wanted.items() if one not in before},
        changed={keys[one]: row for one, row in wanted.items() if one in before and before[one] != row},
        removed=[keys[one] for one in sorted(set(before) - set(wanted))],
        come=sorted(now - held),
        gone=sorted(held - now),
    )


def _by_id(users: pd.DataFrame) -> dict[str, tuple[Any, ...]]:
    """Users → the rest of each row by id."""
    ids, *rest = (users[name].tolist() for name in USERS)
    return dict(zip(ids, zip(*rest, strict=True), strict=True))


def _keys(connection: Connection, stream: int, kind: int, ids: Collection[str]) -> dict[str, int]:
    if not ids:
        return {}
    asked: Any = bulk.askable(ids)
    statement = _KEYS
    if connection.dialect.name == "sqlite":
        statement, asked = _KEYS_OF_SQLITE, orjson.dumps(asked).decode()
    found = connection.execute(statement, {"of": stream, "kind": kind, "asked": asked})
    return {external: key for external, key in found if key is not None}


def _new_key(connection: Connection, stream: int, external: str) -> int:
    newest = connection.execute(select(func.max(KEY.c.key)).where(KEY.c.stream == stream)).scalar()
    key = int(newest or 0) + 1
    values = {"stream": stream, "key": key, "kind": USER_KIND, "nth": 0, "external": external}
    connection.execute(KEY.insert().values(**values))
    return key


def _pairs(connection: Connection, stream: int, members: Collection[int]) -> Sequence[Any]:
    return connection.execute(_GROUPS_OF, {"of": stream, "members": list(members)}).fetchall()
