"""One page about everything: how each source and directory stands, from a handful of look-ups by index.

Knows no pandas, so that `crowdsync status` answers at once. The same numbers stand in Prometheus' metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Table, func, select, text

from connectors.store.database import Database
from connectors.store.put_back import put_back_rows
from connectors.store.tables import (
    HeldRecord,
    InboxRow,
    InStep,
    LeaseRow,
    PlanRow,
    RunRow,
    SourceHealth,
    WideRead,
    instant,
)

HEALTH: Final[Table] = SourceHealth.__table__  # type: ignore[attr-defined]
HELD: Final[Table] = HeldRecord.__table__  # type: ignore[attr-defined]
INBOX: Final[Table] = InboxRow.__table__  # type: ignore[attr-defined]
IN_STEP: Final[Table] = InStep.__table__  # type: ignore[attr-defined]
LEASE: Final[Table] = LeaseRow.__table__  # type: ignore[attr-defined]
PLAN: Final[Table] = PlanRow.__table__  # type: ignore[attr-defined]
RUN: Final[Table] = RunRow.__table__  # type: ignore[attr-defined]
WIDE: Final[Table] = WideRead.__table__  # type: ignore[attr-defined]

# Written out, as the indexes have them.
_OPEN: Final = text("plan.status IN ('waiting', 'approved')")
_SYNCED: Final = text("mode = 'sync'")
_RUNNING: Final = text("status = 'running'")
_LEFT: Final = text("status <> 'done'")
_EVERYBODY: Final = text("""summary NOT LIKE '%"about":%'""")


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """A plan that waits for a person (`waiting`), or was agreed to and not begun (`approved`); since when. `about`: ""
    for everybody."""

    plan: int
    status: str
    about: str
    since: datetime


@dataclass(frozen=True, slots=True)
class LastRun:
    """The last run of a source that was to write and was about everybody. `loud`: what somebody has to see to."""

    status: str
    started_at: datetime
    finished_at: datetime
    error: str
    loud: tuple[str, ...]
    flow_run_id: str


@dataclass(frozen=True, slots=True)
class Pause:
    """A source that failed last, how often in a row and since when; scheduled runs leave it alone until `until`."""

    failures: int
    since: datetime
    until: datetime
    error: str


@dataclass(frozen=True, slots=True)
class Queue:
    """What of the inbox waits, and is held; since when the oldest of each."""

    waiting: int = 0
    waiting_since: datetime | None = None
    held: int = 0
    held_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one source stands. `in_step`: when the last run about everybody began that left Crowd as the source wants it;
    `read_whole`: when the source was last read whole. `held`: records by kind. `put_back`: since when an older copy of
    the database is known to have been put back, and not seen to for this source."""

    source: str
    in_step: datetime | None = None
    read_whole: datetime | None = None
    running_since: datetime | None = None
    last: LastRun | None = None
    plans: tuple[OpenPlan, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)
    held_since: datetime | None = None
    quarantine: Pause | None = None
    inbox: Queue = Queue()
    put_back: datetime | None = None


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """How one directory stands: `writer` is the run that has the right to write. `inbox`: what Crowd itself told."""

    directory: str
    sources: tuple[SourceState, ...]
    writer: str = ""
    inbox: Queue = Queue()


@dataclass(frozen=True, slots=True)
class Overview:
    """How everything stands at an instant."""

    at: datetime
    directories: tuple[DirectoryState, ...]


class Overviews:
    """How everything stands."""

    _db: Database

    def overview(self, sources: Mapping[str, Collection[str]], now: datetime) -> Overview:
        """As `overview`."""
        return overview(self._db, sources, now)


def overview(database: Database, sources: Mapping[str, Collection[str]], now: datetime) -> Overview:
    """Directories with the names of their sources → how each stands at `now`."""
    with database.read() as connection:
        facts = _Facts.read(connection, list(sources))
        states = tuple(
            DirectoryState(
                directory,
                tuple(facts.source(connection, directory, name) for name in names),
                facts.writers.get(directory, "") if facts.until.get(directory, "") > instant(now) else "",
                facts.queues.get((directory, ""), Queue()),
            )
            for directory, names in sources.items()
        )
    return Overview(now, states)


@dataclass(slots=True)
class _Facts:
    """What is asked of all sources at once."""

    in_step: dict[tuple[str, str], Any]
    whole: dict[tuple[str, str], str]
    plans: dict[tuple[str, str], list[OpenPlan]]
    held: dict[tuple[str, str], dict[str, tuple[int, str]]]
    pauses: dict[str, Pause]
    queues: dict[tuple[str, str], Queue]
    running: dict[tuple[str, str], str]
    writers: dict[str, str]
    until: dict[str, str]
    put_back: dict[tuple[str, str], datetime]

    @classmethod
    def read(cls, connection: Connection, directories: Collection[str]) -> _Facts:
        ask = connection.execute
        steps = ask(select(IN_STEP.c.directory, IN_STEP.c.source, IN_STEP.c.at, IN_STEP.c.full_at))
        whole = ask(select(WIDE.c.directory, WIDE.c.source, WIDE.c.at))
        running = ask(select(RUN.c.directory, RUN.c.source, RUN.c.started_at).where(_RUNNING, RUN.c.mode == "sync"))
        leases = ask(select(LEASE.c.directory, LEASE.c.holder, LEASE.c.until)).all()
        found = ask(
            select(HELD.c.directory, HELD.c.source, HELD.c.kind, func.count(), func.min(HELD.c.since)).group_by(
                HELD.c.directory, HELD.c.source, HELD.c.kind
            )
        )
        held: dict[tuple[str, str], dict[str, tuple[int, str]]] = {}
        for directory, source, kind, count, since in found:
            held.setdefault((directory, source), {})[kind] = (count, since)
        return cls(
            {(row.directory, row.source): row for row in steps},
            {(row.directory, row.source): row.at for row in whole},
            _open_plans(connection, directories),
            held,
            {
                row.source: Pause(row.failures, _time(row.since), _time(row.until), row.error)
                for row in ask(select(HEALTH))
            },
            _queues(connection),
            {(row.directory, row.source): row.started_at for row in running},
            {row.directory: row.holder for row in leases},
            {row.directory: row.until for row in leases},
            put_back_rows(connection),
        )

    def source(self, connection: Connection, directory: str, source: str) -> SourceState:
        of = directory, source
        step, whole, held = self.in_step.get(of), self.whole.get(of), self.held.get(of, {})
        read = max(filter(None, (step.full_at if step else "", whole or "")), default="")
        return SourceState(
            source,
            _time(step.at) if step else None,
            _time(read) if read else None,
            _time(self.running[of]) if of in self.running else None,
            _last_run(connection, directory, source),
            tuple(self.plans.get(of, ())),
            {kind: count for kind, (count, _) in sorted(held.items())},
            min((_time(since) for _, since in held.values()), default=None),
            self.pauses.get(source),
            self.queues.get(of, Queue()),
            self.put_back.get(of),
        )


def _open_plans(connection: Connection, directories: Collection[str]) -> dict[tuple[str, str], list[OpenPlan]]:
    columns = (PLAN.c.id, PLAN.c.directory, PLAN.c.source, PLAN.c.status, PLAN.c.about, PLAN.c.status_at)
    found: dict[tuple[str, str], list[OpenPlan]] = {}
    statement = select(*columns).where(PLAN.c.directory.in_(directories), _OPEN)
    for row in sorted(connection.execute(statement), key=lambda row: row.id):  # (in order, it would not use the index)
        plan = OpenPlan(row.id, row.status, row.about, _time(row.status_at))
        found.setdefault((row.directory, row.source), []).append(plan)
    return found


def _queues(connection: Connection) -> dict[tuple[str, str], Queue]:
    by = (INBOX.c.directory, INBOX.c.source, INBOX.c.status)
    statement = select(*by, func.count(), func.min(INBOX.c.received_at)).where(_LEFT).group_by(*by)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for directory, source, status, count, oldest in connection.execute(statement):
        found.setdefault((directory, source), {}).update({status: count, f"{status}_since": _time(oldest)})
    return {of: Queue(**counts) for of, counts in found.items()}


def _last_run(connection: Connection, directory: str, source: str) -> LastRun | None:
    columns = (RUN.c.status, RUN.c.started_at, RUN.c.finished_at, RUN.c.summary, RUN.c.flow_run_id)
    statement = (
        select(*columns)
        .where(RUN.c.source == source, RUN.c.directory == directory, _SYNCED, RUN.c.finished_at != "", _EVERYBODY)
        .order_by(RUN.c.finished_at.desc())
        .limit(1)
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    summary: dict[str, Any] = orjson.loads(row.summary)
    refusals = "; ".join(summary.get("refusals", ()))
    return LastRun(
        row.status,
        _time(row.started_at),
        _time(row.finished_at),
        refusals or str(summary.get("error", "")),
        tuple(summary.get("loud", ())),
        row.flow_run_id,
    )


def _time(at: str) -> datetime:
    return datetime.fromisoformat(at)
