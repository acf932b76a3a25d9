"""Generated worlds whose Crowd is in step with their source, as far as the store knows of it."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from connectors.errors import ConfigurationError
from connectors.store import LastInStep, StepCursors, Store
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tasks.read.known import NotNarrowError
from tasks.read.narrow import read_changed
from tasks.read.news import starting_cursors
from tasks.read.remember import held_keys
from tasks.run import Run
from tests.support.by_key import ByCrowd, BySource, a_run, journal, link, of_few, remember, wide
from tests.support.worlds import World, applied, describe, since


async def settle(run: Run, world: World, rng: random.Random) -> bool:
    """Runs about everybody until nothing is left to do; False where that is never so."""
    for _ in range(4):
        begin = await starting_cursors(run)
        assert begin is not None
        assert isinstance(run.source, BySource)
        assert isinstance(run.directory, ByCrowd)
        cursors = replace(
            begin,
            cursor=run.source.at_cursor(),
            source_answers=run.source.answers() if run.source.mute else "",
            crowd_answers=run.directory.answers() if run.directory.mute else "",
        )
        made = remember(run, world)
        carry_out(run, world, made, rng)
        in_step(run, cursors)
        if not len(made.operations):
            return True
    return False


_KEPT: dict[tuple[str, str], tuple[sqlite3.Connection, Any]] = {}
"""Companies that were settled in this process: a copy of the store (SQLite), the world and its two sides."""


async def settled_run(store: Store, company: Callable[[], World], policy: Policy) -> tuple[Run, World]:
    """A run whose Crowd is in step with this company, of which a store without anything now knows: settled once, which
    takes half a second, and copied then."""
    key = f"{company.__module__}.{company.__qualname__}", policy.digest()
    with closing(store._db.engine.raw_connection()) as raw:
        database = raw.driver_connection
        assert isinstance(database, sqlite3.Connection)
        if key not in _KEPT:
            world = company()
            run = a_run(store, world, policy)
            link(store, world)
            assert await settle(run, world, random.Random(1))
            kept = sqlite3.connect(":memory:", check_same_thread=False)
            database.backup(kept)
            _KEPT[key] = kept, deepcopy((world, run.source, run.directory))
            return run, world
        kept, sides = _KEPT[key]
        kept.backup(database)
    world, source, directory = deepcopy(sides)
    return replace(a_run(store, world, policy), source=source, directory=directory), world


def carry_out(run: Run, world: World, made: Plan, rng: random.Random) -> None:
    held = held_keys(made.held, made.shielded)
    run.store.save_held("crowd", run.source_name, held, run=rng.random().hex(), at=datetime.now(UTC))
    if len(made.operations):  # the store is not told what became of Crowd, but for links
        applied(made, world.crowd, world.links, rng)
        journal(run.store, made)
    link(run.store, world)


def in_step(run: Run, cursors: StepCursors) -> None:
    newest = run.store.newest(run.source_side.stream)
    assert newest is not None
    last = LastInStep(run.policy.digest(), run.request_digest, cursors, newest[0].id)
    run.store.save_in_step("crowd", run.source_name, last)


def in_order(made: Plan) -> pd.DataFrame:
    """The operations of a plan, by what they are."""
    rows = made.operations.drop(columns="seq")
    return rows.sort_values(["phase", "kind", "name", "target", "source_id"], ignore_index=True)


async def compare_changed(run: Run, world: World, rng: random.Random, found: Counter[str], note: str) -> bool:
    """The plan of those who changed beside the wide one; whether they are the same, and it was carried out."""
    try:
        few = await read_changed(run)
    except NotNarrowError as error:
        found[f"wide: {str(error)[:40]}"] += 1
        return False
    try:
        expected, _ = wide(run, world)
    except ConfigurationError:
        return False
    made, why = of_few(run, few, since(world.source()))
    if why or made.withheld:
        found[f"wide: {why[:40] or 'withheld'}"] += 1
        return False
    if len(made.operations) and few.unread:  # nothing is done about somebody who was not read again
        few = await read_changed(run, few.unread.people)
        made, why = of_few(run, few, since(world.source()))
        if why or made.withheld or few.unread:
            found[f"wide: {why[:40] or 'withheld, or more'}"] += 1
            return False
    note = f"{note}: {sorted(few.source.snapshot.users['id'])}, {sorted(few.crowd.snapshot.users['id'])}"
    both = f"{note}\n{describe(made)}\nbut\n{describe(expected)}"
    pd.testing.assert_frame_equal(in_order(made), in_order(expected), obj=both)
    rows = [sorted(map(tuple, one.held.to_numpy().tolist())) for one in (made, expected)]
    assert rows[0] == rows[1], note
    assert sorted(made.shielded["id"]) == sorted(expected.shielded["id"]), note
    assert few.selection.changed is not None
    left = [
        sorted(one.leavers[one.leavers["id"].isin(among)].itertuples(index=False, name=None))
        for one, among in ((made, made.leavers["id"]), (expected, list(few.selection.changed)))
    ]
    assert left[0] == left[1], note
    directory = world.crowd.snapshot(run.policy.attributes.extra)
    whole = impact(expected.operations, directory, run.policy, recent=run.recent())
    assert not judge(expected, run.policy, whole).stops, note
    assert few.cursors is not None
    carry_out(run, world, made, rng)
    in_step(run, few.cursors)
    found["equal"] += 1
    found["operations"] += len(made.operations)
    found["read"] += few.people + few.accounts
    return True
