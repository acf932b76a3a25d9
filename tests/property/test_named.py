"""Some people, groups and accounts that are named as news has them, through the real store: what is decided from them,
read again by key, is what a run that reads everything decides for them.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import cast

import pytest

from connectors.contract import PLAIN, Hint
from connectors.errors import ConfigurationError
from connectors.store import Store
from tasks.policy import Policy
from tasks.read.known import known_sides
from tasks.read.narrow import read_named
from tests.support.by_key import (
    ByCrowd,
    BySource,
    a_run,
    compare_few,
    everybody,
    few_at_a_time,
    joiner,
    journal,
    link,
    nest,
    remember,
    spoil,
    without_limits,
)
from tests.support.long import long_after
from tests.support.sides import worlds
from tests.support.worlds import World, applied

SEEDS, PARTS, SERIES = int(os.environ.get("CROWDSYNC_SEEDS", "4")), 2, 8


async def news_of(
    world: World, source: BySource, crowd: ByCrowd, since: tuple[str, str], rng: random.Random
) -> set[Hint]:
    """Everything that changed since, each thing as one of the ways to tell of it, and some that did not change."""
    changes, ours = await source.changes(PLAIN, since[0]), await crowd.changes(since[1])
    people = {row[0] for row in changes.users} | {*changes.gone_users} | {one.id for one in changes.held}
    names = Counter(row[1].lower() for row in world.users)
    told = set[Hint]()
    for row in changes.users:
        alone = (
            names[row[1].lower()] == 1
            and row[1].strip()
            and row[1].isascii()
            and not any(row[1] == other[0] for other in world.users)
        )
        if alone and rng.random() < 0.2:
            people.discard(row[0])
            told.add(Hint("user", row[1]))
    for pair in (*changes.memberships, *changes.left):
        if pair[2] == "user" and pair[1] not in people:
            told.add(Hint("group", pair[0]) if rng.random() < 0.5 else Hint("user", pair[1]))
    told |= {Hint("user", one) for one in people}
    told |= {Hint("account", hint.key) for hint in ours.hints if hint.kind == "user"}
    told |= {Hint("user", one) for one in rng.sample(everybody(world), k=min(2, len(everybody(world))))}
    return told | {Hint("user", "nobody-at-all"), Hint("account", "nobody-at-all")}


@pytest.mark.parametrize("part", long_after(1, range(PARTS)))
async def test_what_follows_from_whoever_is_named_is_what_a_wide_run_finds(store: Store, part: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        rng = random.Random(f"named {seed}")
        world, sides = worlds(seed)
        policy = rng.choice((without_limits, without_limits, few_at_a_time, Policy.model_copy))(sides.policy)
        if rng.random() < 0.4:
            nest(world, rng)
            policy = policy.model_copy(update={"groups": policy.groups.model_copy(update={"nesting": "flatten"})})
        run = a_run(store, world, policy)
        source, crowd = cast(BySource, run.source), cast(ByCrowd, run.directory)
        link(store, world)
        try:
            remember(run, world)
        except ConfigurationError:  # a scope that matches nobody
            continue
        for step in range(SERIES):
            since = source.at_cursor(), await crowd.token() or ""
            for identity in rng.sample(everybody(world), k=min(rng.randint(0, 4), len(everybody(world)))):
                spoil(world, policy, rng, identity)
            if rng.random() < 0.5:
                joiner(world, rng, f"new{step}")
            told = await news_of(world, source, crowd, since, rng)
            reading = read_named(run, known_sides(run), told)
            try:
                made = await compare_few(run, world, reading, found, f"seed {seed}, step {step}")
            except ConfigurationError:
                break
            if made is not None and len(made.operations):  # the store is not told what became of Crowd, but for links
                applied(made, world.crowd, world.links, rng)
                journal(store, made)
                link(store, world)
    print(f"part {part}: {dict(found)}")
    assert found["equal"]
    assert found["operations"]
