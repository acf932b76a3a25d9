"""An older copy of the database that was put back: how it is noticed, and what is then believed no more.

The audit chain only grows, and every run that writes ends with a row in it. A small file outside of the database keeps
the newest row's number and hash (the head). A database that does not have that row is an older copy, or another one.

What it then says of the present is taken back: where deltas begin and since when Crowd is in step (everything is read
whole), what past runs counted, plans and agreements that were under way, how long people have been away. What became of
operations that were under way is not concluded from their names: who owns an account, its mark in Crowd says. Each
source stays noted until a run about everybody has left Crowd in step with it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from sqlalchemy import Connection, Table, delete, func, or_, select, text, update

from connectors.store.database import Database, Lock
from connectors.store.tables import (
    AuditRow,
    Departure,
    InStep,
    MarkRow,
    OperationRow,
    PlanRow,
    WideRead,
    instant,
)

AUDIT: Final[Table] = AuditRow.__table__  # type: ignore[attr-defined]
DEPARTURE: Final[Table] = Departure.__table__  # type: ignore[attr-defined]
IN_STEP: Final[Table] = InStep.__table__  # type: ignore[attr-defined]
MARK: Final[Table] = MarkRow.__table__  # type: ignore[attr-defined]
OPERATION: Final[Table] = OperationRow.__table__  # type: ignore[attr-defined]
PLAN: Final[Table] = PlanRow.__table__  # type: ignore[attr-defined]
WIDE: Final[Table] = WideRead.__table__  # type: ignore[attr-defined]

_STREAM: Final = "put back"
"""The name in the table of cursors of what is noted; for a source with "\\tDIRECTORY\\tSOURCE"."""
_UNDER_WAY: Final = ("applying", "interrupted")
_OPEN: Final = ("planned", "refused", "waiting", "approved")
_NOTE: Final = "an older copy of the database was put back; its mark in Crowd says whose it is"


@dataclass(frozen=True, slots=True)
class Head:
    """How far a database was at an instant: the newest row of its audit chain, that row's hash, its newest plan."""

    row: int
    hash: str
    plan: int
    at: str


def read_head(file: Path) -> Head | None:
    """What stands in the file; None where it is not there, or cannot be read as that."""
    try:
        return Head(**orjson.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def write_head(file: Path, head: Head) -> None:
    """Replaces the file. Raises `OSError`."""
    new = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        new.write_bytes(orjson.dumps(asdict(head)))
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


class PutBack:
    """Notice an older copy, take back what it says of the present, and note for whom that was seen to."""

    _db: Database

    def head(self, at: datetime) -> Head | None:
        """How far the database is; None where nothing ever happened in it."""
        with self._db.read() as connection:
            row = connection.execute(select(AUDIT.c.id, AUDIT.c.hash).order_by(AUDIT.c.id.desc()).limit(1)).first()
            plan = connection.execute(select(func.max(PLAN.c.id))).scalar()
        return None if row is None else Head(row.id, row.hash, plan or 0, instant(at))

    def is_older(self, head: Head) -> bool:
        """Whether this database does not have what the head says, and that was not noticed already (by another machine,
        whose own head is newer)."""
        with self._db.read() as connection:
            found = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.id == head.row)).scalar()
            if found == head.hash:
                return False
            noted = connection.execute(select(MARK.c.at).where(MARK.c.stream == _STREAM)).scalar()
        return noted is None or noted < head.at

    def note_put_back(
        self, sources: Collection[tuple[str, str]], *, head: Head | None, actor: str, why: str, at: datetime
    ) -> None:
        """Takes back what the database says of the present, and notes each source (directory, source) as not seen to.

        `head`: how far the database was that this one is older than, where that is known. One transaction, with a row
        in the audit chain.
        """
        from connectors.store import audit, inbox  # (they know pandas, which only looking does without)

        rows = [{"stream": _STREAM}, *({"stream": _of(*one)} for one in sources)]
        empty = {"mark": "", "scope": "", "full_at": instant(at), "at": instant(at), "snapshot": 0}
        told = [inbox.Incoming(*one, (("everybody", "", "put back"),), "", at) for one in sources]
        with self._db.write() as connection:
            self._db.lock(connection, Lock.DEPARTURES)
            for statement in (
                delete(MARK).where(or_(MARK.c.stream.startswith("source:"), MARK.c.stream.startswith(_STREAM))),
                delete(IN_STEP),
                delete(WIDE),
                update(DEPARTURE).values(since=instant(at)),
            ):
                connection.execute(statement)
            self._end_plans(connection, at)
            _pass_over(connection, head.plan if head else 0, sqlite=self._db.sqlite)
            connection.execute(MARK.insert(), [row | empty for row in rows])
            inbox.add(self._db, connection, told)
            details: dict[str, Any] = {"why": why, "sources": sorted(source for _, source in sources)}
            details |= {"was": asdict(head)} if head else {}
            audit.append(
                self._db, connection, event="older copy", actor=actor, subject="database", details=details, at=at
            )

    def _end_plans(self, connection: Connection, at: datetime) -> None:
        """No plan of before is carried out, agreed to or taken up any more."""
        ended = select(PLAN.c.id).where(text(f"status IN {_UNDER_WAY!r}"))
        open_ = update(OPERATION).where(OPERATION.c.plan_id.in_(ended), OPERATION.c.state == "intended")
        connection.execute(open_.values(state="undone", note=_NOTE, finished_at=instant(at)))
        plans = update(PLAN).where(PLAN.c.status.in_([*_UNDER_WAY, *_OPEN]))
        connection.execute(plans.values(status="superseded", status_at=instant(at)))

    def put_back(self, directory: str, source: str) -> bool:
        """Whether an older copy was put back, and that was not seen to for this source."""
        with self._db.read() as connection:
            statement = select(MARK.c.at).where(MARK.c.stream == _of(directory, source))
            return connection.execute(statement).scalar() is not None

    def saw_put_back(self, directory: str, source: str) -> None:
        """Crowd is in step with this source again, by a run about everybody."""
        with self._db.write() as connection:
            connection.execute(delete(MARK).where(MARK.c.stream == _of(directory, source)))


def put_back_rows(connection: Connection) -> dict[tuple[str, str], datetime]:
    """The sources (directory, source) for which it was not seen to, and since when it is known."""
    statement = select(MARK.c.stream, MARK.c.at).where(MARK.c.stream.startswith(f"{_STREAM}\t"))
    rows = ((row.stream.split("\t"), row.at) for row in connection.execute(statement))
    return {(parts[1], parts[2]): datetime.fromisoformat(at) for parts, at in rows}


def _of(directory: str, source: str) -> str:
    return f"{_STREAM}\t{directory}\t{source}"


def _pass_over(connection: Connection, plan: int, *, sqlite: bool) -> None:
    """The next plan's number is above this one: whoever was told of a plan before means no other by its number."""
    if not plan:
        return
    if not sqlite:
        statement = text("SELECT setval(pg_get_serial_sequence('plan', 'id'), GREATEST(:plan, MAX(id))) FROM plan")
        connection.execute(statement, {"plan": plan})
        return
    known = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'plan'")).scalar()
    if known is None:
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('plan', :plan)"), {"plan": plan})
    elif known < plan:
        connection.execute(text("UPDATE sqlite_sequence SET seq = :plan WHERE name = 'plan'"), {"plan": plan})
