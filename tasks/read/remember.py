"""What later runs go by: where an incremental read begins, since when people have left, how long records are held."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from connectors.store import LastInStep, ReadCursor, StepCursors, WideTotals, in_thread
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.read.deltas import Reading, Since
from tasks.read.narrow import Few
from tasks.run import Run


async def last_read(run: Run) -> Since | None:
    """What an incremental read may start from; None where a full one is due, or nothing else can be had."""
    if not run.source.capabilities.delta:
        return None
    cursor = await in_thread(run.store.cursor, run.source_side.stream)
    now = datetime.now(UTC)
    due = timedelta(hours=run.policy.reads.full_every_hours)
    if cursor is None or cursor.scope != run.request_digest or not timedelta() <= now - cursor.full_at < due:
        return None
    return Since(cursor.cursor, await in_thread(run.store.load_snapshot, cursor.snapshot), cursor.full_at)


async def remember_read(run: Run, reading: Reading, snapshot: int) -> None:
    """Keeps where the next incremental read begins; a preview moves nothing."""
    if not run.lasting or not run.source.capabilities.delta:
        return
    now = datetime.now(UTC)
    cursor = (
        ReadCursor(reading.cursor, run.request_digest, reading.full_at or now, snapshot) if reading.cursor else None
    )
    await in_thread(run.store.save_cursor, run.source_side.stream, cursor, at=now)


async def remember_wide(run: Run, counted: Mapping[str, Any] | None, snapshot: str) -> None:
    """Keeps what a run that read everything counted, for the narrow runs after it; `snapshot`: the source's digest."""
    if not run.lasting or counted is None:
        return
    totals = WideTotals(run.policy.digest(), run.request_digest, snapshot, datetime.now(UTC), counted)
    await in_thread(run.store.save_wide_totals, run.directory_name, run.source_name, totals)


async def remember_changed(run: Run, few: Few, plan: Plan) -> None:
    """Keeps what a run about all who changed found: where the next read begins, who left, who is held."""
    if few.cursors is not None and few.cursors.cursor:
        cursor = ReadCursor(few.cursors.cursor, run.request_digest, few.cursors.full_at, few.source.saved.id)
        await in_thread(run.store.save_cursor, run.source_side.stream, cursor, at=datetime.now(UTC))
    await remember_departures(run, plan, few.selection)
    await remember_held(run, plan, few.selection)


async def remember_in_step(run: Run, cursors: StepCursors | None, snapshot: int) -> None:
    """Keeps where what happens next begins, after a run about everybody that left nothing to do; `snapshot`: the
    source's that it was about."""
    if run.lasting:
        rules = run.policy.digest(), run.request_digest
        last = None if cursors is None else LastInStep(*rules, cursors, snapshot)
        await in_thread(run.store.save_in_step, run.directory_name, run.source_name, last)


async def remember_departures(run: Run, plan: Plan, selection: Selection | None) -> None:
    """Keeps since when the people who have an account have left.

    Also where the plan then waits or is refused: it is what was seen of the source. Not so by a preview, nor by a run
    about one person or group (`selection`): the clocks are everybody's."""
    if run.lasting and (selection is None or selection.changed is not None):
        names, among = (run.directory_name, run.source_name), None if selection is None else selection.changed
        await in_thread(run.store.save_departures, *names, plan.leavers, at=datetime.now(UTC), among=among)


async def remember_held(run: Run, plan: Plan, selection: Selection | None = None) -> None:
    """Keeps for how many runs each record has been held; in the same runs as `remember_departures`."""
    if run.lasting and (selection is None or selection.changed is not None):
        held, names = held_keys(plan.held, plan.shielded), (run.directory_name, run.source_name)
        await in_thread(run.store.save_held, *names, held, run=run.id, at=datetime.now(UTC))


def held_keys(*frames: pd.DataFrame) -> pd.DataFrame:
    """Held records → kind, id, name, reason of each one once; what has no id goes by its name."""
    held = pd.concat([frame[["kind", "id", "name", "reason"]] for frame in frames], ignore_index=True)
    held["id"] = held["id"].where(held["id"] != "", held["name"])
    return held.drop_duplicates(["kind", "id"], ignore_index=True)
