"""The audit chain: who did or decided what, each row bound to the one before by a hash.

A row changed, removed or put in between breaks the chain at that place. What the chain alone cannot show is
that its newest rows were cut off: whoever must exclude that keeps the latest hash elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import orjson
import pandas as pd
from sqlalchemy import Connection, Table, select

from connectors.store import bulk
from connectors.store.database import Database, Lock
from connectors.store.history import rows_frame
from connectors.store.tables import AuditRow, instant

AUDIT: Final[Table] = AuditRow.__table__  # type: ignore[attr-defined]


class AuditChain:
    """Append to the chain, read it, prove it."""

    _db: Database

    def audit(self, *, event: str, actor: str, subject: str, details: Mapping[str, Any], at: datetime) -> int:
        """Append a row and return its id. `details` must be JSON; it holds no secret."""
        with self._db.write() as connection:
            return append(self._db, connection, event=event, actor=actor, subject=subject, details=details, at=at)

    def audit_log(self, limit: int = 100) -> pd.DataFrame:
        """Newest first: id, at (UTC), event, actor, subject, details (JSON), hash."""
        columns = (AUDIT.c[n] for n in ("id", "at", "event", "actor", "subject", "details", "hash"))
        with self._db.read() as connection:
            return rows_frame(connection, select(*columns).order_by(AUDIT.c.id.desc()).limit(limit), times=("at",))

    def verify_audit(self) -> int | None:
        """The id of the first row that does not fit its chain, None where all fit."""
        prev, expected = "", 1
        with self._db.read() as connection:
            rows = connection.execution_options(yield_per=10_000).execute(select(AUDIT).order_by(AUDIT.c.id))
            for row in rows:
                content = (row.id, row.at, row.event, row.actor, row.subject, row.details)
                if row.id != expected or row.prev != prev or row.hash != _hash(prev, content):
                    return int(row.id)
                prev, expected = row.hash, expected + 1
        return None


def append(
    database: Database,
    connection: Connection,
    *,
    event: str,
    actor: str,
    subject: str,
    details: Mapping[str, Any],
    at: datetime,
) -> int:
    """Append a row inside the caller's transaction, which then holds the chain until it ends."""
    database.lock(connection, Lock.AUDIT)
    last = connection.execute(select(AUDIT.c.id, AUDIT.c.hash).order_by(AUDIT.c.id.desc()).limit(1)).first()
    row_id, prev = (last.id + 1, last.hash) if last else (1, "")
    content = (
        row_id,
        instant(at),
        bulk.plain(event),
        bulk.plain(actor),
        bulk.plain(subject),
        orjson.dumps(details, option=orjson.OPT_SORT_KEYS).decode(),
    )
    names = ("id", "at", "event", "actor", "subject", "details")
    connection.execute(
        AUDIT.insert().values(**dict(zip(names, content, strict=True)), prev=prev, hash=_hash(prev, content))
    )
    return int(row_id)


def _hash(prev: str, content: tuple[Any, ...]) -> str:
    return hashlib.sha256(prev.encode() + orjson.dumps(content)).hexdigest()
