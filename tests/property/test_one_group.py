"""Runs about one group, through the real store: what is decided from those who are in it on one side alone, or came or
went, read again by key, is what a run that reads everything decides for that group, as far as nobody else changed.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from connectors.errors import ConfigurationError
from connectors.model import crowd_id
from connectors.store import Store
from tasks.policy import Policy
from tests.support.by_key import a_run, few_at_a_time, journal, link, nest, remember, unhindered, without_limits
from tests.support.in_step import settle
from tests.support.long import long_after
from tests.support.of_group import compare_group, fill, happens_to, teams_of_world
from tests.support.sides import worlds
from tests.support.worlds import applied

SEEDS, PARTS = int(os.environ.get("CROWDSYNC_SEEDS", "2")), 2
SERIES, FEW = 10, 4
"""How much happens; `FEW`: to the first world in `make test`. All of it is in the long ones."""


@pytest.mark.parametrize(("part", "steps"), long_after(1, [(0, FEW), *((part, SERIES) for part in range(PARTS))]))
async def test_what_follows_for_a_group_is_what_a_wide_run_finds(store: Store, part: int, steps: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        rng = random.Random(f"group {seed}")
        world, sides = worlds(seed)
        policy = rng.choice((without_limits, without_limits, few_at_a_time, Policy.model_copy))(sides.policy)
        policy = rng.choice((unhindered, unhindered, unhindered, Policy.model_copy))(policy)
        if rng.random() < 0.4:
            nest(world, rng)
            policy = policy.model_copy(update={"groups": policy.groups.model_copy(update={"nesting": "flatten"})})
        fill(world, rng, each=rng.choice((0, 4, 8)))
        run = a_run(store, world, policy)
        link(store, world)
        try:
            if not await settle(run, world, rng):
                found["never settled"] += 1
                remember(run, world)
        except ConfigurationError:  # a scope that matches nobody
            continue
        groups = sorted({crowd_id(row[1]) for row in world.groups} | set(world.crowd.groups))
        both = [one for one in groups if one in world.crowd.groups and teams_of_world(world, policy, one)] or groups
        for number in range(steps):
            group = rng.choice(both if rng.random() < 0.9 else [*groups, "nobody-at-all"])
            happens_to(world, policy, rng, group, number)
            made = await compare_group(run, world, group, found, f"seed {seed}, {number}: {group}")
            if made is not None and len(made.operations):  # the store is not told what became of Crowd, but for links
                applied(made, world.crowd, world.links, rng)
                journal(store, made)
                link(store, world)
    print(f"part {part}: {dict(found)}")
    assert found["equal"]
    assert found["operations"]
