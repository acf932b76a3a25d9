"""The mirror: users, groups and members as an identity provider pushed them to us. A source whose data lives here.

Every record carries the number of the change that made it what it is. The numbers of a source are given under one lock
and rise with the commits, so that "everything above N" is exactly what happened since N, deletions included.

Many requests are committed together (`write_mirror`): a commit costs a write to the disk, a request does not. Each has
a savepoint, so that one that fails takes nothing from the others, and its news go into the inbox with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Integer, Select, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from connectors.errors import CrowdsyncError
from connectors.model import sizes_only
from connectors.store import inbox
from connectors.store.database import Database, Lock
from connectors.store.history import upserting
from connectors.store.inbox import Incoming
from connectors.store.tables import MirrorGone, MirrorMember, MirrorRecord, MirrorState, instant

RECORD: Final[Table] = MirrorRecord.__table__  # type: ignore[attr-defined]
MEMBER: Final[Table] = MirrorMember.__table__  # type: ignore[attr-defined]
GONE: Final[Table] = MirrorGone.__table__  # type: ignore[attr-defined]
STATE: Final[Table] = MirrorState.__table__  # type: ignore[attr-defined]

AT_ONCE: Final = 500
"""Values in one statement: SQLite takes 32,766 at most, and a plan for many is made anew each time."""


Where = Sequence[tuple[str, str]]
"""Columns and the values that they are to have, all of them."""


class TakenError(CrowdsyncError):
    """Another record of the mirror has this name."""


class UnknownError(CrowdsyncError):
    """The mirror has no such record."""


@sizes_only
@dataclass(frozen=True, slots=True)
class Mirrored:
    """A user or group of the mirror. `name` and `email` are folded (`crowd_id`), `body` is JSON text.

    `id`, `change`, `created` and `modified` are the store's to give.
    """

    name: str
    body: str
    external_id: str = ""
    email: str = ""
    id: str = ""
    change: int = 0
    created: str = ""
    modified: str = ""


@sizes_only
@dataclass(frozen=True, slots=True)
class MirrorChanges:
    """What happened to a mirror since a change: records as they are, ids of those deleted, and the latest change."""

    change: int
    users: Sequence[Mirrored]
    groups: Sequence[Mirrored]
    gone_users: Sequence[str]
    gone_groups: Sequence[str]


@dataclass(frozen=True, slots=True)
class MirrorJob:
    """One request that writes: `run` is given a `MirrorWriting`, in the transaction of all jobs of its group."""

    directory: str
    source: str
    run: Callable[[MirrorWriting], Any]


_ROW: Final = [RECORD.c[one] for one in Mirrored.__dataclass_fields__]


class MirrorReading:
    """One source's mirror in one transaction that reads. `kind` is user or group."""

    def __init__(self, connection: Connection, source: str) -> None:
        self._connection, self.source = connection, source

    def get(self, kind: str, identity: str) -> Mirrored | None:
        """One record by its id."""
        return next(iter(self.some(kind, (("id", identity),), 0, 1)), None)

    def some(self, kind: str, where: Where, start: int, count: int) -> list[Mirrored]:
        """`count` records in lasting order, after the first `start`, whose columns have these values.

        Columns: id, name, external_id, email; for groups also `member`, the id of one of their members.
        """
        asked = {**self._asked(kind, where), "start": start, "count": count}
        return [Mirrored(*row) for row in self._connection.execute(_some(_columns(where)), asked)]

    def count(self, kind: str, where: Where) -> int:
        """How many records `some` could give."""
        return int(self._connection.execute(_count(_columns(where)), self._asked(kind, where)).scalar_one())

    def after(self, kind: str, identity: str, count: int) -> list[Mirrored]:
        """The next `count` records by id, after `identity`: nobody who stays is skipped, whoever comes or goes."""
        statement = _having(select(*_ROW), ()).where(RECORD.c.id > identity).order_by(RECORD.c.id).limit(count)
        return [Mirrored(*row) for row in self._connection.execute(statement, self._asked(kind))]

    def mentioning(self, kind: str, text: str, count: int) -> list[Mirrored]:
        """Up to `count` records somewhere in whose body this text stands, whatever its case. It looks at every one."""
        found = func.lower(RECORD.c.body).contains(orjson.dumps(text.lower()).decode()[1:-1], autoescape=True)
        statement = _having(select(*_ROW), ()).where(found).order_by(RECORD.c.id).limit(count)
        return [Mirrored(*row) for row in self._connection.execute(statement, self._asked(kind))]

    def members(self, group: str) -> list[tuple[str, str]]:
        """(id, user or group) of each member of a group, sorted."""
        statement = (
            select(MEMBER.c.member_id, MEMBER.c.kind)
            .where(MEMBER.c.source == self.source, MEMBER.c.group_id == group)
            .order_by(MEMBER.c.member_id)
        )
        return [(row[0], row[1]) for row in self._connection.execute(statement)]

    def member_counts(self, groups: Sequence[str]) -> dict[str, int]:
        """How many members each of some groups has; those without any are left out."""
        statement = (
            select(MEMBER.c.group_id, func.count())
            .where(MEMBER.c.source == self.source, MEMBER.c.group_id.in_(groups))
            .group_by(MEMBER.c.group_id)
        )
        return {row[0]: row[1] for row in self._connection.execute(statement)}

    def change(self) -> int:
        """The number of the latest change, 0 before the first."""
        found = self._connection.execute(select(STATE.c.change).where(STATE.c.source == self.source)).scalar()
        return int(found or 0)

    def since(self, change: int) -> MirrorChanges:
        """Everything that happened after a change."""
        records, gone = [], []
        for kind in ("user", "group"):
            statement = _having(select(*_ROW), ()).where(RECORD.c.change > change).order_by(RECORD.c.id)
            records.append([Mirrored(*row) for row in self._connection.execute(statement, self._asked(kind))])
            of = (GONE.c.source == self.source, GONE.c.kind == kind, GONE.c.change > change)
            gone.append(list(self._connection.execute(select(GONE.c.id).where(*of).order_by(GONE.c.id)).scalars()))
        return MirrorChanges(self.change(), records[0], records[1], gone[0], gone[1])

    def _asked(self, kind: str, where: Where = ()) -> dict[str, Any]:
        """What a statement of `_having` is about."""
        return {"of": self.source, "kind": kind, **{f"value_{nth}": value for nth, (_, value) in enumerate(where)}}


# Statements that every request repeats are made once: that takes longer than what they do.


def _columns(where: Where) -> tuple[str, ...]:
    return tuple(column for column, _ in where)


def _having(statement: Select[Any], columns: Sequence[str]) -> Select[Any]:
    """A statement about the records of one source and kind whose columns have some values, one for each."""
    source: Any = bindparam("of")
    statement = statement.where(RECORD.c.source == source, RECORD.c.kind == bindparam("kind"))
    for nth, column in enumerate(columns):
        value: Any = bindparam(f"value_{nth}")
        if column == "member":
            of = (MEMBER.c.source == source, MEMBER.c.member_id == value)
            statement = statement.where(RECORD.c.id.in_(select(MEMBER.c.group_id).where(*of)))
        else:
            statement = statement.where(RECORD.c[column] == value)
    return statement


@cache
def _some(columns: tuple[str, ...]) -> Select[Any]:
    found = _having(select(*_ROW), columns).order_by(RECORD.c.place)
    return found.offset(bindparam("start", type_=Integer)).limit(bindparam("count", type_=Integer))


@cache
def _count(columns: tuple[str, ...]) -> Select[Any]:
    return _having(select(func.count()), columns)


class MirrorWriting(MirrorReading):
    """One source's mirror in the transaction of a group of requests. `news` are (kind, id) of what to look at again."""

    def __init__(self, connection: Connection, source: str, at: datetime, change: int) -> None:
        super().__init__(connection, source)
        self._at, self._change = instant(at), change
        self.news: dict[tuple[str, str], None] = {}

    def change(self) -> int:
        """As `MirrorReading.change`, with what this transaction did."""
        return self._change

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What the block wrote is undone, and its news forgotten, when it raises."""
        kept = dict(self.news)
        try:
            with self._connection.begin_nested():
                yield
        except BaseException:
            self.news = kept
            raise

    def create(self, kind: str, record: Mirrored) -> Mirrored:
        """A new record, with an id of ours. Raises `TakenError`."""
        made = replace(
            record, id=str(uuid.uuid4()), change=self._next(), created=self._at, modified=self._at
        )  # (an id of ours never is one that was used before)
        values = {name: getattr(made, name) for name in Mirrored.__dataclass_fields__}
        with self._named(kind):
            self._connection.execute(insert(RECORD).values(source=self.source, kind=kind, place=made.change, **values))
        self.news[kind, made.id] = None
        return made

    def put(self, kind: str, record: Mirrored) -> Mirrored:
        """A record in place of the one with its id; one with the same content stays as it is. Raises `TakenError`,
        `UnknownError`."""
        was = self.get(kind, record.id)
        if was is None:
            raise UnknownError(f"{self.source}: no {kind} {record.id}")
        if (was.name, was.body, was.external_id, was.email) == (
            record.name, record.body, record.external_id, record.email,
        ):  # fmt: skip
            return was
        made = replace(record, change=self._next(), created=was.created, modified=self._at)
        values = {name: getattr(made, name) for name in Mirrored.__dataclass_fields__ if name != "id"}
        with self._named(kind):
            self._connection.execute(update(RECORD).where(*self._one(kind, record.id)).values(values))
        self.news[kind, record.id] = None
        return made

    def remove(self, kind: str, identity: str) -> None:
        """A record and all its memberships are gone. Raises `UnknownError`."""
        if not self._connection.execute(delete(RECORD).where(*self._one(kind, identity))).rowcount:
            raise UnknownError(f"{self.source}: no {kind} {identity}")
        change = self._next()
        of = (MEMBER.c.source == self.source, MEMBER.c.member_id == identity)
        within = select(MEMBER.c.group_id).where(*of)
        groups = (RECORD.c.source == self.source, RECORD.c.kind == "group", RECORD.c.id.in_(within))
        self._connection.execute(update(RECORD).where(*groups).values(change=change, modified=self._at))
        self._connection.execute(delete(MEMBER).where(*of))
        self._connection.execute(delete(MEMBER).where(MEMBER.c.source == self.source, MEMBER.c.group_id == identity))
        self._connection.execute(insert(GONE).values(source=self.source, kind=kind, id=identity, change=change))
        self.news[kind, identity] = None

    def join(self, group: str, members: Mapping[str, str]) -> list[str]:
        """Make these members of a group, id → kind as the caller has it; a group that the mirror knows is one. Those
        who were not members before are returned."""
        there = self._members_among(group, list(members))
        new = [one for one in members if one not in there]
        if new:
            groups = self._groups_among(new)
            kinds = {one: "group" if one in groups else members[one] for one in new}
            self._connection.execute(
                insert(MEMBER),
                [{"source": self.source, "group_id": group, "member_id": one, "kind": kinds[one]} for one in new],
            )
            self._moved(group, kinds)
        return new

    def leave(self, group: str, members: Sequence[str]) -> list[str]:
        """End the membership of these; those who were members are returned."""
        there = self._members_among(group, members)
        for some in _slices(list(there)):
            self._connection.execute(
                delete(MEMBER).where(
                    MEMBER.c.source == self.source, MEMBER.c.group_id == group, MEMBER.c.member_id.in_(some)
                )
            )
        if there:
            self._moved(group, there)
        return list(there)

    def _moved(self, group: str, kinds: Mapping[str, str]) -> None:
        # A few people are looked at themselves: reading them costs the same however large the group is.
        values = {"change": self._next(), "modified": self._at}
        self._connection.execute(update(RECORD).where(*self._one("group", group)).values(values))
        if len(kinds) > FEW or "group" in kinds.values():
            self.news["group", group] = None
        else:
            self.news.update({("user", one): None for one in kinds})

    def _members_among(self, group: str, ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for some in _slices(ids):
            statement = select(MEMBER.c.member_id, MEMBER.c.kind).where(
                MEMBER.c.source == self.source, MEMBER.c.group_id == group, MEMBER.c.member_id.in_(some)
            )
            found.update({row[0]: row[1] for row in self._connection.execute(statement)})
        return found

    def _groups_among(self, ids: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for some in _slices(ids):
            of = (RECORD.c.source == self.source, RECORD.c.kind == "group", RECORD.c.id.in_(some))
            found.update(self._connection.execute(select(RECORD.c.id).where(*of)).scalars())
        return found

    def _next(self) -> int:
        self._change += 1
        return self._change

    def _one(self, kind: str, identity: str) -> tuple[Any, ...]:
        return RECORD.c.source == self.source, RECORD.c.kind == kind, RECORD.c.id == identity

    @contextmanager
    def _named(self, kind: str) -> Iterator[None]:
        try:
            with self._connection.begin_nested():
                yield
        except IntegrityError as error:
            raise TakenError(f"{self.source}: another {kind} has this name") from error


FEW: Final = 10
"""Up to so many people who join or leave a group at once are news themselves; of more, the group is."""


class Mirror:
    """Read and write the mirrors of sources that push."""

    _db: Database

    @contextmanager
    def mirror(self, source: str) -> Iterator[MirrorReading]:
        """The mirror of one source, in one transaction."""
        with self._db.read() as connection:
            yield MirrorReading(connection, source)

    def write_mirror(self, jobs: Sequence[MirrorJob]) -> list[Any]:
        """Run these jobs in one transaction, and put what they changed into the inbox: what each returned, or the error
        that it raised, in their order.

        All is committed when this returns. What is wrong with the database itself is raised, and nothing was written:
        `RetryableError`, `RefusedError`.
        """
        results: list[Any] = []
        told: list[Incoming] = []
        with self._db.write() as connection:
            self._db.lock(connection, Lock.MIRROR)
            at = datetime.now(UTC)
            latest: dict[str, int] = {}
            for job in jobs:
                if job.source not in latest:
                    latest[job.source] = MirrorReading(connection, job.source).change()
                writing = MirrorWriting(connection, job.source, at, latest[job.source])
                try:
                    with connection.begin_nested():
                        results.append(job.run(writing))
                except DBAPIError as error:
                    if not isinstance(error, (DataError, IntegrityError)):
                        raise
                    results.append(error)
                except Exception as error:
                    results.append(error)
                else:
                    latest[job.source] = writing.change()
                    news = tuple((kind, identity, "scim") for kind, identity in writing.news)
                    told.append(Incoming(job.directory, job.source, news, "", at))
            for source, change in latest.items():
                statement = upserting(connection, STATE).values(source=source, change=change)
                connection.execute(statement.on_conflict_do_update(index_elements=["source"], set_={"change": change}))
            inbox.add(self._db, connection, [one for one in told if one.news])
        return results


def _slices(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]
