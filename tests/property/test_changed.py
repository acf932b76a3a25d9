"""Runs about all who changed, through the real store: what is decided from whom both sides name is what a run that
reads everything decides; and after a series of them nothing is left to do.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from connectors.errors import ConfigurationError
from connectors.model import Snapshot
from connectors.store import Store
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.policy import Policy
from tasks.read import validate
from tasks.read.known import NotNarrowError
from tasks.read.narrow import read_changed
from tasks.run import Run
from tests.support.by_key import (
    a_run,
    everybody,
    few_at_a_time,
    joiner,
    link,
    nest,
    of_few,
    spoil,
    unhindered,
    wide,
    without_limits,
)
from tests.support.in_step import carry_out, in_step, settle
from tests.support.long import long_after
from tests.support.sides import worlds
from tests.support.worlds import World, describe, since

SEEDS, PARTS, SERIES = int(os.environ.get("CROWDSYNC_SEEDS", "3")), 3, 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """These worlds have no row that validation holds, of which Great Expectations needs 0.1 s to say so."""
    monkeypatch.setattr(validate, "broken_rows", lambda _: Snapshot.of().held)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as opened:
        yield opened


def in_order(made: Plan) -> pd.DataFrame:
    """The operations of a plan, by what they are."""
    rows = made.operations.drop(columns="seq")
    return rows.sort_values(["phase", "kind", "name", "target", "source_id"], ignore_index=True)


@pytest.mark.parametrize("part", long_after(1, range(PARTS)))
async def test_what_follows_from_whom_both_sides_name_is_what_a_wide_run_finds(store: Store, part: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        rng = random.Random(f"changed {seed}")
        world, sides = worlds(seed)
        policy = rng.choice((without_limits, without_limits, few_at_a_time, Policy.model_copy))(sides.policy)
        policy = rng.choice((unhindered, unhindered, unhindered, Policy.model_copy))(policy)
        if rng.random() < 0.4:
            nest(world, rng)
            policy = policy.model_copy(update={"groups": policy.groups.model_copy(update={"nesting": "flatten"})})
        run = a_run(store, world, policy)
        link(store, world)
        try:
            if not await settle(run, world, rng):
                found["never settled"] += 1
                continue
        except ConfigurationError:  # a scope that matches nobody
            continue
        for step in range(SERIES):
            for identity in rng.sample(everybody(world), k=min(rng.randint(0, 6), len(everybody(world)))):
                spoil(world, policy, rng, identity)
            if rng.random() < 0.4:
                joiner(world, rng, f"new{step}")
            if not await compare(run, world, rng, found, f"seed {seed}, step {step}"):
                try:
                    if not await settle(run, world, rng):
                        break
                except ConfigurationError:
                    break
        else:
            assert not len(wide(run, world)[0].operations)
    print(f"part {part}: {dict(found)}")
    assert found["equal"]


async def compare(run: Run, world: World, rng: random.Random, found: Counter[str], note: str) -> bool:
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
    note = f"{note}: {sorted(few.source.snapshot.users['id'])}, {sorted(few.crowd.snapshot.users['id'])}"
    both = f"{note}\n{describe(made)}\nbut\n{describe(expected)}"
    pd.testing.assert_frame_equal(in_order(made), in_order(expected), obj=both)
    rows = [sorted(map(tuple, one.held.to_numpy().tolist())) for one in (made, expected)]
    assert rows[0] == rows[1], note
    assert sorted(made.shielded["id"]) == sorted(expected.shielded["id"]), note
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
