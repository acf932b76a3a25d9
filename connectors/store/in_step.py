"""Where what happened since Crowd was last in step with a source begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pandas as pd
from sqlalchemy import Table, select

from connectors.model import crowd_id, sizes_only
from connectors.store.database import Database
from connectors.store.links import EVENT, events_of
from connectors.store.tables import InStep, instant

IN_STEP: Final[Table] = InStep.__table__  # type: ignore[attr-defined]


@sizes_only
@dataclass(frozen=True, slots=True)
class StepCursors:
    """Where what happens after an instant (`at`) begins: at the source (`cursor`), at Crowd (`token`) and among our
    links (`event`, the newest one then); "" where a side cannot say what changed: then what it answered when it was
    read whole is in `source_answers` and `crowd_answers` (`connectors.answers`), "" where that cannot be compared.
    `full_at`: when the source was last read whole before."""

    cursor: str
    token: str
    event: int
    at: datetime
    full_at: datetime
    source_answers: str = field(default="", repr=False)
    crowd_answers: str = field(default="", repr=False)


@sizes_only
@dataclass(frozen=True, slots=True)
class LastInStep:
    """The last run that left Crowd in step with a source, and by which rules: digests of the `policy` and of what was
    `requested`. `snapshot`: the source's that Crowd was in step with; 0: one that was not kept."""

    policy: str
    requested: str
    since: StepCursors
    snapshot: int = 0


class InStepLog:
    """Read and replace when Crowd was last in step with a source."""

    _db: Database

    def in_step(self, directory: str, source: str) -> LastInStep | None:
        """The last run about everybody that left nothing to do; None where there was none."""
        statement = select(IN_STEP).where(IN_STEP.c.directory == directory, IN_STEP.c.source == source)
        with self._db.read() as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        at, full_at = (datetime.fromisoformat(text) for text in (row.at, row.full_at))
        answers = (row.source_answers, row.crowd_answers)
        since = StepCursors(row.cursor, row.token, row.event, at, full_at, *answers)
        return LastInStep(row.policy, row.requested, since, row.snapshot)

    def save_in_step(self, directory: str, source: str, last: LastInStep | None) -> None:
        """Replaces it; None: only a run that reads both sides whole can tell."""
        with self._db.write() as connection:
            connection.execute(IN_STEP.delete().where(IN_STEP.c.directory == directory, IN_STEP.c.source == source))
            if last is not None:
                connection.execute(
                    IN_STEP.insert().values(
                        directory=directory,
                        source=source,
                        policy=last.policy,
                        requested=last.requested,
                        cursor=last.since.cursor,
                        token=last.since.token,
                        event=last.since.event,
                        full_at=instant(last.since.full_at),
                        at=instant(last.since.at),
                        source_answers=last.since.source_answers,
                        crowd_answers=last.since.crowd_answers,
                        snapshot=last.snapshot,
                    )
                )

    def newest_link_event(self, directory: str) -> int:
        """The number of the newest change of a link in a directory; 0 where there is none."""
        statement = select(EVENT.c.id).where(events_of(directory)).order_by(EVENT.c.id.desc()).limit(1)
        with self._db.read() as connection:
            return int(connection.execute(statement).scalar() or 0)

    def links_changed(self, directory: str, event: int) -> pd.DataFrame:
        """The links that were made, changed or dropped after a link event, of every source: source, kind, id, and the
        names (as Crowd looks them up) before and after, "" for none."""
        columns = (EVENT.c.source, EVENT.c.kind, EVENT.c.external, EVENT.c.before, EVENT.c.after)
        statement = select(*columns).where(events_of(directory), EVENT.c.id > event).order_by(EVENT.c.id)
        with self._db.read() as connection:
            rows = [(*row[:3], crowd_id(row.before), crowd_id(row.after)) for row in connection.execute(statement)]
        return pd.DataFrame(rows, columns=["source", "kind", "id", "before", "after"], dtype="str")
