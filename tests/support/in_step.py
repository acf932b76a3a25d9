"""Generated worlds whose Crowd is in step with their source, as far as the store knows of it."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

from connectors.store import LastInStep, StepCursors
from tasks.decide.plan import Plan
from tasks.read.news import starting_cursors
from tasks.read.remember import held_keys
from tasks.run import Run
from tests.support.by_key import BySource, journal, link, remember, wide
from tests.support.worlds import World, applied


async def settle(run: Run, world: World, rng: random.Random) -> bool:
    """Runs about everybody until nothing is left to do; False where that is never so."""
    for _ in range(4):
        begin = await starting_cursors(run)
        assert begin is not None
        assert isinstance(run.source, BySource)
        cursors = replace(begin, cursor=run.source.cursor())
        remember(run, world)
        made, _ = wide(run, world)
        carry_out(run, world, made, rng)
        in_step(run, cursors)
        if not len(made.operations):
            return True
    return False


def carry_out(run: Run, world: World, made: Plan, rng: random.Random) -> None:
    held = held_keys(made.held, made.shielded)
    run.store.save_held("crowd", run.source_name, held, run=rng.random().hex(), at=datetime.now(UTC))
    if len(made.operations):  # the store is not told what became of Crowd, but for links
        applied(made, world.crowd, world.links, rng)
        journal(run.store, made)
    link(run.store, world)


def in_step(run: Run, cursors: StepCursors) -> None:
    run.store.save_in_step("crowd", run.source_name, LastInStep(run.policy.digest(), run.request_digest, cursors))
