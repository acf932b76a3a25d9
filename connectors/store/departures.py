"""Departures: since when a source's person counts as having left, so that a grace time can be measured.

The table says who is leaving now. Who came back is not in it, and starts anew when leaving again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import pandas as pd
from sqlalchemy import Column, MetaData, Table, Text, bindparam, select, text

from connectors.errors import RecordError
from connectors.store import bulk
from connectors.store.database import Database, Lock
from connectors.store.tables import Departure, instant

DEPARTURE: Final[Table] = Departure.__table__  # type: ignore[attr-defined]

_STAGED: Final = Table(
    "staged_departure",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("why", Text),
    prefixes=["TEMPORARY"],
)


# (Made once: that takes longer than what they do.)
_DEPARTURES: Final = (
    select(DEPARTURE.c.id, DEPARTURE.c.since, DEPARTURE.c.why)
    .where(DEPARTURE.c.directory == bindparam("directory"), DEPARTURE.c.source == bindparam("source"))
    .order_by(DEPARTURE.c.id)
)
_DEPARTURES_AMONG: Final = _DEPARTURES.where(DEPARTURE.c.id.in_(bindparam("ids", expanding=True)))


class DepartureLog:
    """Read and replace the departures of a source's people from a directory."""

    _db: Database

    def departures(self, directory: str, source: str, among: Collection[str] | None = None) -> pd.DataFrame:
        """id, since (UTC), why, by id: of all, or of those of these ids `among` which they are."""
        statement = _DEPARTURES
        given: dict[str, Any] = {"directory": directory, "source": source}
        if among is not None:
            statement, given = _DEPARTURES_AMONG, {**given, "ids": bulk.askable(among)}
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, statement, dict.fromkeys(("id", "since", "why"), "text"), given)
        frame["since"] = bulk.times(frame["since"])
        return frame

    def save_departures(
        self, directory: str, source: str, leaving: pd.DataFrame, *, at: datetime, among: Collection[str] | None = None
    ) -> int:
        """Make the table say that exactly these are leaving: id, why → how many rows that changed.

        New ones leave since `at`, those already there keep their `since`, those not named have returned: of all, or of
        the ids `among` which they are.
        Raises `RecordError`, and changes nothing, where one id has two reasons.
        """
        wanted = bulk.texts(leaving, ("id", "why")).drop_duplicates()
        twins = wanted.loc[wanted["id"].duplicated(), "id"]
        if len(twins):
            raise RecordError(
                f"Person {source}:{twins.iloc[0]} leaves directory {directory!r} for two reasons in one call "
                f"({len(twins)} such); no departure was saved."
            )
        if among is not None:  # (the others stay as they are)
            others = self.departures(directory, source)
            wanted = pd.concat([wanted, others[~others["id"].isin(list(among))][["id", "why"]]], ignore_index=True)
        wanted = wanted.sort_values("id", ignore_index=True)
        values = {"directory": directory, "source": source, "at": instant(at)}
        with self._db.write() as connection:
            self._db.lock(connection, Lock.DEPARTURES)
            with bulk.staged(connection, _STAGED, {n: wanted[n] for n in wanted.columns}, len(wanted)):
                statements = (
                    "DELETE FROM departure WHERE directory = :directory AND source = :source "
                    "AND NOT EXISTS (SELECT 1 FROM staged_departure s WHERE s.id = departure.id)",
                    "UPDATE departure SET why = s.why FROM staged_departure s WHERE departure.directory = :directory "
                    "AND departure.source = :source AND departure.id = s.id AND departure.why <> s.why",
                    "INSERT INTO departure (directory, source, id, since, why) "
                    "SELECT :directory, :source, s.id, :at, s.why FROM staged_departure s WHERE NOT EXISTS "
                    "(SELECT 1 FROM departure d WHERE d.directory = :directory AND d.source = :source "
                    "AND d.id = s.id) ORDER BY s.id",
                )
                return sum(connection.execute(text(sql), values).rowcount for sql in statements)
