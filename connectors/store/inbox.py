"""The inbox: what sources and Crowd tell in real time, kept before they are answered, until it was looked at.

A row says that a record may have changed, and nothing of how: whoever takes it reads the record anew. So one row that
nobody began to look at is enough for all news of a record, and news are done once somebody looked after they came.

Rows are taken, not removed: those of a run that was killed are due again. All that writes here holds one lock, so that
what was looked up is still so when it is written; its transactions are short, and many deliveries go into one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final, Literal

import pandas as pd
from sqlalchemy import (
    Connection,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)

from connectors.errors import CrowdsyncError, RecordError
from connectors.store import bulk
from connectors.store.database import Database, Lock
from connectors.store.history import rows_frame
from connectors.store.tables import DeliveryRow, InboxRow, instant
from connectors.store.threads import in_thread
from connectors.store.wake import CHANNEL, Wake

INBOX: Final[Table] = InboxRow.__table__  # type: ignore[attr-defined]
DELIVERY: Final[Table] = DeliveryRow.__table__  # type: ignore[attr-defined]

TRIES: Final = 12
"""How often a row is tried before it is held; with the pauses between, that takes two and a half hours."""
FIRST_PAUSE: Final = timedelta(seconds=5)
LONGEST_PAUSE: Final = timedelta(hours=1)

TOLD_AGAIN: Final = "told again"
"""The note of a row for which a newer one stands."""
KEEP: Final = timedelta(days=7)
"""So long what is done is kept, and which deliveries came."""

LONGEST_TEXT: Final = 1024
"""Bytes of a key or a delivery's id: an index of PostgreSQL holds no more than 2,700 in a row."""

_SLICE: Final = 1000
"""Values that one statement looks up, and rows that one transaction prunes."""

_RECORD: Final = ("directory", "source", "kind", "key")
_SENT: Final = (DELIVERY.c.delivery, DELIVERY.c.source, DELIVERY.c.directory)
# Written out, as the indexes have them: a database does not see that a parameter would fit.
_OPEN: Final = text("status <> 'done' AND taken_at = ''")
_LEFT: Final = text("status <> 'done'")
_WAITING: Final = text("status <> 'done' AND status = 'waiting'")

Record = tuple[str, str, str, str]
"""directory, source, kind, key"""


@dataclass(frozen=True, slots=True)
class Incoming:
    """What one delivery tells: (kind, key, via) of everything that it names. `delivery` is the id that its sender gave
    it, "" where it has none.

    Raises `RecordError` for text that no database keeps: with NUL, half a character, or above `LONGEST_TEXT` bytes.
    """

    directory: str
    source: str
    news: tuple[tuple[str, str, str], ...] = field(repr=False)
    delivery: str
    at: datetime

    def __post_init__(self) -> None:
        for value in (self.directory, self.source, self.delivery, *(one for news in self.news for one in news)):
            try:
                fits = "\0" not in value and len(value.encode()) <= LONGEST_TEXT
            except UnicodeEncodeError:
                fits = False
            if not fits:
                raise RecordError(
                    f"A delivery of {self.source or self.directory!r} cannot be kept: {value[:40]!r} has a character "
                    f"that no database keeps, or more than {LONGEST_TEXT:,} bytes. Turn it away."
                )


@dataclass(frozen=True, slots=True)
class Hint:
    """A row of the inbox that waits: what may have changed, since when that is known, and how often it was tried."""

    id: int
    directory: str
    source: str
    kind: str
    key: str = field(repr=False)
    via: str
    received_at: datetime
    attempts: int
    batch: str
    note: str


# Statements that every batch repeats are made once: that takes longer than what they do.

_IS_DUE: Final = (INBOX.c.directory == bindparam("directory")) & (INBOX.c.due_at <= bindparam("now"))
_SOURCES_DUE: Final = select(INBOX.c.source).distinct().where(_IS_DUE, _WAITING)


@cache
def _due(of_source: bool, at_most: bool) -> Select[Any]:
    """As `Inbox.due`: of one source, and what was not tried too often."""
    return (
        select(*(INBOX.c[name] for name in Hint.__dataclass_fields__))
        .where(_IS_DUE, _WAITING, INBOX.c.attempts >= bindparam("least"))
        .where(*([INBOX.c.source == bindparam("source")] if of_source else []))
        .where(*([INBOX.c.attempts <= bindparam("most")] if at_most else []))
        .order_by(INBOX.c.due_at, INBOX.c.id)
        .limit(bindparam("limit", type_=Integer))
    )


class Inbox:
    """Accept what is told, hand it out until it is settled, list it."""

    _db: Database

    # Accepting

    def accept(
        self, directory: str, source: str, news: Sequence[tuple[str, str, str]], delivery: str, at: datetime
    ) -> int:
        """Keep what one delivery tells, as (kind, key, via): how many rows are new. It is kept for good on return.

        0 where all of it waits already, or where the sender sent this `delivery` before. Raises as `Incoming` does, and
        `RetryableError` where the database cannot keep it now.
        """
        return self.accept_all([Incoming(directory, source, tuple(news), delivery, at)])[0]

    def accept_all(self, incoming: Sequence[Incoming]) -> list[int]:
        """`accept` of many in one transaction: all are kept on return, or none. How many rows are new, for each."""
        with self._db.write() as connection:
            return add(self._db, connection, incoming)

    # Looking at it

    def due(
        self,
        directory: str,
        now: datetime,
        limit: int = 1000,
        *,
        source: str | None = None,
        attempts: tuple[int, int | None] = (0, None),
    ) -> list[Hint]:
        """What waits and is due, what was never tried first, then by when it was due; of one source, and what was tried
        so often (at least, and at most; None: or more).

        That includes rows taken by a run that did not settle them: who calls this while it has rows in hand leaves
        those out.
        """
        least, most = attempts
        given: dict[str, Any] = {"directory": directory, "now": instant(now), "least": least, "limit": limit}
        given |= ({} if source is None else {"source": source}) | ({} if most is None else {"most": most})
        with self._db.read() as connection:
            rows = connection.execute(_due(source is not None, most is not None), given).mappings().all()
        return [Hint(**dict(row) | {"received_at": datetime.fromisoformat(row["received_at"])}) for row in rows]

    def sources_due(self, directory: str, now: datetime) -> list[str]:
        """The sources of which something waits and is due, "" for Crowd itself."""
        with self._db.read() as connection:
            found = connection.execute(_SOURCES_DUE, {"directory": directory, "now": instant(now)})
            return sorted(found.scalars())

    def next_due(self, directory: str) -> datetime | None:
        """When the next row is due (that may be past); None where none waits."""
        statement = (
            select(INBOX.c.due_at, INBOX.c.received_at)
            .where(INBOX.c.directory == directory, _WAITING)
            .order_by(INBOX.c.due_at, INBOX.c.id)
            .limit(1)
        )
        with self._db.read() as connection:
            row = connection.execute(statement).first()
        return datetime.fromisoformat(row.due_at or row.received_at) if row is not None else None

    def wake(self, directory: str) -> Wake:
        """`async with store.wake(directory) as wake: await wake(seconds)`: until something may have come."""
        return Wake(self._db, directory)

    def take(self, ids: Sequence[int], batch: str, at: datetime) -> list[int]:
        """Note that the run `batch` begins to look at these. Returns those that wait still: it looks at no others, for
        which newer rows may stand.
        """
        with self._db.write() as connection:
            _lock(self._db, connection)
            taken = connection.execute(
                update(INBOX)
                .where(_these(ids), _WAITING)
                .values(batch=batch, taken_at=instant(at), attempts=INBOX.c.attempts + 1)
                .returning(INBOX.c.id)
            )
            return sorted(taken.scalars())

    def looked_at(
        self, directory: str, source: str, people: Collection[str], since: datetime, via: Sequence[str] = ()
    ) -> dict[str, datetime]:
        """When a run last began to look at these people (keys) because of news (that came in one of these ways), where
        that was not before `since`, and was done."""
        found: dict[str, datetime] = {}
        for some in _slices(set(people)):
            rows = select(INBOX.c.key, func.max(INBOX.c.taken_at).label("at")).where(
                *(text("status = 'done'"), INBOX.c.done_at >= instant(since), INBOX.c.taken_at >= instant(since)),
                *(INBOX.c.directory == directory, INBOX.c.source == source, INBOX.c.kind == "user"),
                *(INBOX.c.key.in_(some), INBOX.c.note != TOLD_AGAIN, *([INBOX.c.via.in_(via)] if via else [])),
            )
            with self._db.read() as connection:
                for row in connection.execute(rows.group_by(INBOX.c.key)):
                    found[row.key] = datetime.fromisoformat(row.at)
        return found

    def settle(self, ids: Sequence[int], status: Literal["done", "held"], note: str, at: datetime) -> None:
        """These were looked at and are done, or are held: nobody looks again until somebody retries them by hand."""
        with self._db.write() as connection:
            _lock(self._db, connection)
            values = {"status": status, "note": _note(note)}
            if status == "held":
                ids = [row.id for row in _given_back(connection, ids, at)]
                values["taken_at"] = ""
            else:
                values["done_at"] = instant(at)
            connection.execute(update(INBOX).where(_these(ids), INBOX.c.status != "done").values(**values))

    def settle_before(
        self, directory: str, source: str, before: datetime, note: str, at: datetime, *, but: Collection[str] = ()
    ) -> int:
        """What came before an instant, and waits or is held, is done: everybody was read after it. `but`: keys whose
        rows stay as they are. How many were done."""
        statement = select(INBOX.c.id, INBOX.c.key).where(
            _LEFT, INBOX.c.directory == directory, INBOX.c.source == source, INBOX.c.received_at < instant(before)
        )
        with self._db.read() as connection:
            ids = [row.id for row in connection.execute(statement) if row.key not in but]
        if not ids:  # (most often; nobody need wait for it)
            return 0
        with self._db.write() as connection:
            _lock(self._db, connection)
            values = {"status": "done", "note": _note(note), "done_at": instant(at)}
            connection.execute(update(INBOX).where(_these(ids), INBOX.c.status != "done").values(**values))
        return len(ids)

    def give_back(self, ids: Sequence[int], note: str, at: datetime) -> list[int]:
        """These were tried and failed: they wait for another try, longer each time, and are held after `TRIES` of them.

        Returns those that are held now. Where a record was told again meanwhile, the newer row stands for both.
        """
        with self._db.write() as connection:
            _lock(self._db, connection)
            rows = [row for row in _given_back(connection, ids, at) if row.status == "waiting"]
            for attempts in sorted({row.attempts for row in rows}):
                values = {"due_at": instant(at + pause(attempts)), "taken_at": "", "note": _note(note)}
                values["status"] = "held" if attempts >= TRIES else "waiting"
                tried = _these([row.id for row in rows if row.attempts == attempts])
                connection.execute(update(INBOX).where(tried).values(**values))
            return sorted(row.id for row in rows if row.attempts >= TRIES)

    def retry(self, ids: Sequence[int], due_at: datetime, note: str) -> list[int]:
        """These wait until `due_at`, also those that were held, which are tried as often again as new ones.

        Returns those that wait now: not those that are done, or whose record was told again meanwhile.
        """
        with self._db.write() as connection:
            _lock(self._db, connection)
            rows = _given_back(connection, ids, self._db.now(connection))
            values = {"status": "waiting", "due_at": instant(due_at), "taken_at": "", "note": _note(note)}
            attempts = case((INBOX.c.status == "held", 0), else_=INBOX.c.attempts)
            these = _these([row.id for row in rows])
            connection.execute(update(INBOX).where(these).values(attempts=attempts, **values))
            _tell(self._db, connection, {row.directory for row in rows})
            return sorted(row.id for row in rows)

    # For people

    def inbox(
        self,
        *,
        directory: str | None = None,
        batch: str | None = None,
        done_since: datetime | None = None,
        limit: int = 1000,
    ) -> pd.DataFrame:
        """Rows that are held, then those that wait, then those done since `done_since` (none where it is None), each
        newest first; of one directory. With `batch`: those that this run took last, whatever became of them.

        id, directory, source, kind, key, via, received_at, due_at (NaT: at once), attempts, status, batch, taken_at,
        note, done_at; times in UTC.
        """
        times = ("received_at", "due_at", "taken_at", "done_at")
        names = (*("id", *_RECORD, "via", "received_at", "due_at"), *("attempts", "status", "batch", "taken_at"))
        kept: Any = _LEFT
        if batch is not None:
            kept = and_(text("batch <> ''"), INBOX.c.batch == batch)
        elif done_since is not None:
            kept = or_(_LEFT, and_(text("status = 'done'"), INBOX.c.done_at >= instant(done_since)))
        statement = (
            select(*(INBOX.c[name] for name in (*names, "note", "done_at")))
            .where(kept)
            .order_by(case((INBOX.c.status == "held", 0), (INBOX.c.status == "waiting", 1), else_=2), INBOX.c.id.desc())
            .limit(limit)
        )
        if directory is not None:
            statement = statement.where(INBOX.c.directory == directory)
        with self._db.read() as connection:
            return rows_frame(connection, statement, times=times)

    def waiting(self) -> pd.DataFrame:
        """How much is open: directory, source, status (waiting, held), rows, oldest (UTC, since when it is known)."""
        statement = (
            select(
                *(INBOX.c[name] for name in ("directory", "source", "status")),
                func.count().label("rows"),
                func.min(INBOX.c.received_at).label("oldest"),
            )
            .where(_LEFT)
            .group_by(INBOX.c.directory, INBOX.c.source, INBOX.c.status)
            .order_by(INBOX.c.directory, INBOX.c.source, INBOX.c.status)
        )
        with self._db.read() as connection:
            return rows_frame(connection, statement, times=("oldest",))

    def prune_inbox(self, before: datetime) -> int:
        """Forget what was done before, and which deliveries came before; how many rows were removed.

        It goes in small transactions, between which deliveries are accepted. A delivery that is sent again later than
        that counts as a new one.
        """
        removed = 0
        limit = instant(before)
        done = select(INBOX.c.id).where(text("status = 'done'"), INBOX.c.done_at < limit).limit(_SLICE)
        came = select(*_SENT).where(DELIVERY.c.at < limit).limit(_SLICE)
        for statement in (
            delete(INBOX).where(INBOX.c.id.in_(done)),
            delete(DELIVERY).where(tuple_(*_SENT).in_(came)),
        ):
            portion = _SLICE
            while portion == _SLICE:
                with self._db.write() as connection:
                    _lock(self._db, connection)
                    portion = connection.execute(statement).rowcount
                removed += portion
        return removed


async def forget(inbox: Inbox, every: float = 3600.0) -> None:
    """Once an hour (in seconds), beside what fills the inbox: what it has kept for long enough goes. Until it is
    cancelled."""
    while True:
        with suppress(CrowdsyncError):  # the next time will do
            await in_thread(inbox.prune_inbox, datetime.now(UTC) - KEEP)
        await asyncio.sleep(every)


def pause(attempts: int) -> timedelta:
    """How long a row waits that failed so many times."""
    doubled: int = 2 ** min(max(attempts - 1, 0), 30)
    return min(FIRST_PAUSE * doubled, LONGEST_PAUSE)


def add(database: Database, connection: Connection, incoming: Sequence[Incoming]) -> list[int]:
    """`Inbox.accept_all` in the caller's transaction, which then holds the inbox until it ends."""
    counts = [0] * len(incoming)
    if not any(one.news for one in incoming):
        return counts
    _lock(database, connection)
    fresh = _fresh(connection, incoming)
    opened = _opened(
        connection, {(one.directory, one.source, kind, key) for _, one in fresh for kind, key, _ in one.news}
    )
    new: dict[Record, dict[str, Any]] = {}
    tried: list[int] = []
    louder: dict[str, list[int]] = {}
    for nth, one in fresh:
        for kind, key, via in one.news:
            record = (one.directory, one.source, kind, key)
            there = new.get(record) or opened.get(record)
            if there is None or there["batch"]:  # what was tried and waits for another try need not wait
                if there is not None:
                    tried.append(there["id"])
                    via = _together(there["via"], via)
                new[record] = _row(one, record, via)
                counts[nth] += 1
            elif (both := _together(there["via"], via)) != there["via"]:
                there["via"] = both
                if "id" in there:
                    louder.setdefault(both, []).append(there["id"])
    for via, ids in louder.items():
        connection.execute(update(INBOX).where(_these(ids)).values(via=via))
    _replace(connection, tried, max(one.at for one in incoming))
    for table, rows in ((INBOX, list(new.values())), (DELIVERY, [_seen(one) for _, one in fresh if one.delivery])):
        if rows:
            connection.execute(table.insert(), rows)
    _tell(database, connection, {record[0] for record in new})
    return counts


def _together(before: str, now: str) -> str:
    """As `connectors.hook.together`."""
    return before if before in (now, "both") or "sign-in" not in (before, now) else "both"


def _fresh(connection: Connection, incoming: Sequence[Incoming]) -> list[tuple[int, Incoming]]:
    """Those that tell something and were not sent before, with their places."""
    known: set[tuple[str, str, str]] = set()
    for some in _slices({one.delivery for one in incoming if one.delivery}):
        rows = connection.execute(select(*_SENT).where(DELIVERY.c.delivery.in_(some)))
        known.update((row.directory, row.source, row.delivery) for row in rows)
    fresh = []
    for nth, one in enumerate(incoming):
        sent = (one.directory, one.source, one.delivery)
        if one.news and sent not in known:
            fresh.append((nth, one))
            if one.delivery:
                known.add(sent)
    return fresh


def _opened(connection: Connection, records: Collection[Record]) -> dict[Record, dict[str, Any]]:
    """The rows of these records that nobody looks at: id, batch and via."""
    columns = [INBOX.c[name] for name in (*_RECORD, "id", "batch", "via")]
    found: dict[Record, dict[str, Any]] = {}
    for some in _slices({key for *_, key in records}):
        for row in connection.execute(select(*columns).where(_OPEN, INBOX.c.key.in_(some))):
            found[row.directory, row.source, row.kind, row.key] = {"id": row.id, "batch": row.batch, "via": row.via}
    return {record: found[record] for record in records if record in found}


def _slices(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    for start in range(0, len(ordered), _SLICE):
        yield ordered[start : start + _SLICE]


def _row(one: Incoming, record: Record, via: str) -> dict[str, Any]:
    told = {"via": via, "delivery": one.delivery, "received_at": instant(one.at)}
    empty = dict.fromkeys(("due_at", "batch", "taken_at", "note", "done_at"), "")
    return dict(zip(_RECORD, record, strict=True)) | told | empty | {"status": "waiting", "attempts": 0}


def _seen(one: Incoming) -> dict[str, str]:
    return {"directory": one.directory, "source": one.source, "delivery": one.delivery, "at": instant(one.at)}


def _given_back(connection: Connection, ids: Sequence[int], at: datetime) -> list[Any]:
    """Those of these that are not done and still stand for their record; the others are, in favour of one that does.

    There is one where a record was told again, and a later one of these where several of a record were taken.
    """
    columns = (INBOX.c[name] for name in (*_RECORD, "id", "status", "attempts", "via"))
    rows = connection.execute(select(*columns).where(_these(ids), INBOX.c.status != "done").order_by(INBOX.c.id)).all()
    stands = {tuple(row[:4]): row.id for row in rows}
    stands |= {record: there["id"] for record, there in _opened(connection, set(stands)).items()}
    left = [row for row in rows if stands[tuple(row[:4])] == row.id]
    ended = {row.id for row in rows} - {row.id for row in left}
    signed = [stands[tuple(row[:4])] for row in rows if row.id in ended and row.via in ("sign-in", "both")]
    if signed:  # a sign-in that was not seen to is not forgotten
        connection.execute(update(INBOX).where(_these(signed), INBOX.c.via != "sign-in").values(via="both"))
    _replace(connection, sorted(ended), at)
    return left


def _replace(connection: Connection, ids: Sequence[int], at: datetime) -> None:
    """End rows for which another one stands."""
    if ids:
        values = {"status": "done", "done_at": instant(at), "note": TOLD_AGAIN}
        connection.execute(update(INBOX).where(_these(ids)).values(**values))


def _these(ids: Sequence[int], table: Any = INBOX) -> Any:
    # Written out as numbers: the parameters of a statement are counted.
    return table.c.id.in_(bindparam(None, [int(one) for one in ids], expanding=True, literal_execute=True))


def _note(note: str) -> str:
    return bulk.plain(note.encode(errors="replace").decode())


def _lock(database: Database, connection: Connection) -> None:
    """Hold the inbox until the transaction ends. Raises `RetryableError` where another holds it too long."""
    if not database.sqlite:  # (whose writers hold everything already, and wait no longer than that)
        limit = select(func.set_config("lock_timeout", f"{max(int(database.busy * 1000), 1)}ms", True))
        connection.execute(limit)
    database.lock(connection, Lock.INBOX)


def _tell(database: Database, connection: Connection, directories: Collection[str]) -> None:
    """Wake whoever waits for something to come for these, once the transaction is kept."""
    if not database.sqlite:
        for directory in sorted(directories):
            connection.execute(select(func.pg_notify(CHANNEL, directory)))
