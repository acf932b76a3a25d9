"""Runs about all who changed, through the real store: what is decided from whom both sides name is what a run that
reads everything decides; and after a series of them nothing is left to do.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import cast

import pytest

from connectors.errors import ConfigurationError
from connectors.store import Store
from tasks.policy import Policy
from tasks.read import news
from tests.support.by_key import (
    Both,
    a_run,
    everybody,
    few_at_a_time,
    joiner,
    link,
    nest,
    spoil,
    unhindered,
    wide,
    without_limits,
)
from tests.support.in_step import compare_changed, settle
from tests.support.long import long_after
from tests.support.sides import worlds

SEEDS, PARTS, SERIES = int(os.environ.get("CROWDSYNC_SEEDS", "2")), 2, 8
FEW, FEW_MUTE = 3, 4
"""Steps of the first series of each kind in `make test`; all of them are in the long ones."""


@pytest.mark.parametrize(("part", "steps"), long_after(1, [(0, FEW), *((part, SERIES) for part in range(PARTS))]))
async def test_what_follows_from_whom_both_sides_name_is_what_a_wide_run_finds(
    store: Store, part: int, steps: int
) -> None:
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
        for step in range(steps):
            for identity in rng.sample(everybody(world), k=min(rng.randint(0, 6), len(everybody(world)))):
                spoil(world, policy, rng, identity)
            if rng.random() < 0.4:
                joiner(world, rng, f"new{step}")
            if not await compare_changed(run, world, rng, found, f"seed {seed}, step {step}"):
                try:
                    if not await settle(run, world, rng):
                        break
                except ConfigurationError:
                    break
        else:
            assert not len(wide(run, world)[0].operations)
    print(f"part {part}: {dict(found)}")
    assert found["equal"]


@pytest.mark.parametrize(
    ("mute", "steps"), long_after(1, [("source", FEW_MUTE), *((mute, SERIES) for mute in ("source", "crowd", "both"))])
)
async def test_of_a_side_that_cannot_say_who_changed_nobody_did_where_it_answers_as_it_did(
    store: Store, mute: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens on the other side, with our links and with who is held is decided on as ever. Of a source that does
    not, those are named whom it lists otherwise."""

    async def same(clients: list[Both], recorded: str) -> bool:
        return clients[0].answers() == recorded

    monkeypatch.setattr(news, "same", same)
    found: Counter[str] = Counter()
    for seed in range(1, SEEDS):
        rng = random.Random(f"mute {seed}")
        world, sides = worlds(seed)
        run = a_run(store, world, unhindered(without_limits(sides.policy)))
        sides_of = {"source": cast(Both, run.source), "crowd": cast(Both, run.directory)}
        mutes = [side for name, side in sides_of.items() if mute in (name, "both")]
        crowd = [side for side in mutes if side is sides_of["crowd"]]
        for side in mutes:
            side.mute = True
        link(store, world)
        try:
            if not await settle(run, world, rng):
                continue
        except ConfigurationError:
            continue
        for step in range(steps):
            before, unnamed = [side.answers() for side in sides_of.values()], [side.answers() for side in crowd]
            of_source = sides_of["source"].answers()
            if step % 3:
                spoil(world, run.policy, rng, rng.choice(everybody(world)))
            nobody = before == [side.answers() for side in sides_of.values()]
            seen = unnamed == [side.answers() for side in crowd]
            other = of_source != sides_of["source"].answers()
            equal = await compare_changed(run, world, rng, found, f"{mute}, seed {seed}, step {step}")
            assert seen or not equal, "a change of a side that cannot name it was not seen"
            found["listed"] += equal and other
            found["quiet"] += equal and nobody
            found["named"] += equal and not nobody
            if not equal:
                try:
                    if not await settle(run, world, rng):
                        break
                except ConfigurationError:
                    break
        else:
            assert not len(wide(run, world)[0].operations)
    print(f"{mute}: {dict(found)}")
    assert found["quiet"]
    assert found["named"]
    assert found["listed"]
    assert mute == "source" or any(what.startswith("wide:") and "answer" in what for what in found)
