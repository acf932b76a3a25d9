"""The health of sources: one that fails is left alone for a while, and longer each time it fails again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import pandas as pd
from sqlalchemy import Connection, Table, delete, select

from connectors.model import sizes_only
from connectors.store import audit, bulk
from connectors.store.database import Database, Lock
from connectors.store.history import rows_frame, upserting
from connectors.store.tables import SourceHealth, instant

HEALTH: Final[Table] = SourceHealth.__table__  # type: ignore[attr-defined]


@sizes_only
@dataclass(frozen=True, slots=True)
class Quarantine:
    """A failing source: failures in a row since `since`; it is to be left alone until `until`."""

    source: str
    failures: int
    since: datetime
    until: datetime
    error: str


class Health:
    """Note failures and recoveries of sources. Both leave a row in the audit chain."""

    _db: Database

    def failed(
        self, source: str, error: str, *, at: datetime, first_pause: float = 300, longest: float = 21600
    ) -> Quarantine:
        """Note a failure at `at`. The pause is `first_pause` seconds, doubled by each further failure in a
        row, and never above `longest` seconds. `error` holds no secret."""
        with self._db.write() as connection:
            self._db.lock(connection, Lock.HEALTH)
            before = _row(connection, source)
            failures = before.failures + 1 if before is not None else 1
            # The exponent ends where any pause has reached any limit: a float ends at 2 ** 1024.
            pause = min(first_pause * 2.0 ** min(failures - 1, 64), longest)
            quarantine = Quarantine(
                source=source,
                failures=failures,
                since=before.since if before is not None else at,
                until=at + timedelta(seconds=pause),
                error=bulk.plain(error),
            )
            values = asdict(quarantine) | {"since": instant(quarantine.since), "until": instant(quarantine.until)}
            connection.execute(
                upserting(connection, HEALTH)
                .values(**values)
                .on_conflict_do_update(index_elements=["source"], set_=values)
            )
            details = {name: values[name] for name in ("failures", "until", "error")}
            self._note(connection, "source quarantined", source, details, at)
        return quarantine

    def recovered(self, source: str, *, at: datetime) -> Quarantine | None:
        """Note that the source answered at `at`: what its quarantine was, None where it was healthy."""
        with self._db.write() as connection:
            self._db.lock(connection, Lock.HEALTH)
            was = _row(connection, source)
            if was is not None:
                connection.execute(delete(HEALTH).where(HEALTH.c.source == source))
                details = {"failures": was.failures, "since": instant(was.since)}
                self._note(connection, "source recovered", source, details, at)
        return was

    def quarantine(self, source: str, *, now: datetime) -> Quarantine | None:
        """The source's quarantine, None where it is healthy or its pause is over at `now`."""
        with self._db.read() as connection:
            found = _row(connection, source)
        return found if found is not None and now < found.until else None

    def quarantines(self) -> pd.DataFrame:
        """source, failures, since, until (UTC), error: every source that failed last, by name, whether its
        pause is over or not."""
        with self._db.read() as connection:
            return rows_frame(connection, select(HEALTH).order_by(HEALTH.c.source), times=("since", "until"))

    def _note(self, connection: Connection, event: str, source: str, details: dict[str, Any], at: datetime) -> None:
        audit.append(self._db, connection, event=event, actor="crowdsync", subject=source, details=details, at=at)


def _row(connection: Connection, source: str) -> Quarantine | None:
    row = connection.execute(select(HEALTH).where(HEALTH.c.source == source)).mappings().first()
    if row is None:
        return None
    times = {name: datetime.fromisoformat(row[name]) for name in ("since", "until")}
    return Quarantine(**(dict(row) | times))
