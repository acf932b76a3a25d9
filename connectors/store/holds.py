"""Held records of a source: since when, and for how many runs in a row.

The table says what is held now. What a run no longer holds is not in it, and starts anew when held again.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import pandas as pd
from sqlalchemy import Column, MetaData, Table, Text, select, text

from connectors.store import bulk
from connectors.store.database import Database, Lock
from connectors.store.tables import HeldRecord, instant

HELD: Final[Table] = HeldRecord.__table__  # type: ignore[attr-defined]
KEYS: Final = ("kind", "id")

_STAGED: Final = Table(
    "staged_held",
    MetaData(),
    *(Column(name, Text, primary_key=name in KEYS) for name in (*KEYS, "reason")),
    prefixes=["TEMPORARY"],
)
_SAME: Final = "held_record.directory = :directory AND held_record.source = :source "
_ONE: Final = _SAME + "AND held_record.kind = s.kind AND held_record.id = s.id"


class Holds:
    """Read and replace the held records of a source in a directory."""

    _db: Database

    def held_records(self, directory: str, source: str) -> pd.DataFrame:
        """kind, id, reason, since (UTC), runs, told_at (UTC, NaT where nobody was told), by kind and id."""
        columns = {"kind": "text", "id": "text", "reason": "text", "since": "text", "runs": "int", "told_at": "text"}
        statement = (
            select(*(HELD.c[name] for name in columns))
            .where(HELD.c.directory == directory, HELD.c.source == source)
            .order_by(HELD.c.kind, HELD.c.id)
        )
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, statement, columns)
        for name in ("since", "told_at"):
            frame[name] = bulk.times(frame[name])
        return frame

    def save_held(self, directory: str, source: str, held: pd.DataFrame, *, run: str, at: datetime) -> None:
        """Make the table say that exactly these are held: kind, id, reason; of several reasons the first is kept.

        New ones are held since `at`, for one run. Those already there count one run more, but a run that is taken up
        again counts once. Those not named are held no more.
        """
        wanted = bulk.texts(held, (*KEYS, "reason")).drop_duplicates(list(KEYS))
        wanted = wanted.sort_values(list(KEYS), ignore_index=True)
        values = {"directory": directory, "source": source, "at": instant(at), "run": run}
        with self._db.write() as connection:
            self._db.lock(connection, Lock.HELD)
            with bulk.staged(connection, _STAGED, {n: wanted[n] for n in wanted.columns}, len(wanted)):
                for sql in (
                    f"DELETE FROM held_record WHERE {_SAME}"  # noqa: S608 (only constants are put together)
                    "AND NOT EXISTS (SELECT 1 FROM staged_held s WHERE s.kind = held_record.kind "
                    "AND s.id = held_record.id)",
                    "UPDATE held_record SET reason = s.reason, run = :run, "  # noqa: S608
                    "runs = runs + CASE WHEN held_record.run = :run THEN 0 ELSE 1 END "
                    f"FROM staged_held s WHERE {_ONE}",
                    "INSERT INTO held_record (directory, source, kind, id, since, runs, run, reason, told_at) "  # noqa: S608
                    "SELECT :directory, :source, s.kind, s.id, :at, 1, :run, s.reason, '' FROM staged_held s "
                    f"WHERE NOT EXISTS (SELECT 1 FROM held_record WHERE {_ONE}) ORDER BY s.kind, s.id",
                ):
                    connection.execute(text(sql), values)

    def tell_held(self, directory: str, source: str, records: pd.DataFrame, *, at: datetime) -> None:
        """Note that people were told at `at` of these: kind, id."""
        wanted = bulk.texts(records, KEYS).drop_duplicates()
        wanted = wanted.sort_values(list(KEYS), ignore_index=True).assign(reason="")
        values = {"directory": directory, "source": source, "at": instant(at)}
        with self._db.write() as connection:
            self._db.lock(connection, Lock.HELD)
            with bulk.staged(connection, _STAGED, {n: wanted[n] for n in wanted.columns}, len(wanted)):
                connection.execute(
                    text(f"UPDATE held_record SET told_at = :at FROM staged_held s WHERE {_ONE}"),  # noqa: S608
                    values,
                )
