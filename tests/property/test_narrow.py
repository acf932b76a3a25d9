"""The narrow road through the real store: what is decided from one person, and whoever shares a key with them, read
again by key, is what a wide run decides for that person; and what it leaves in history is what whole reads would.

The worlds are those of the other properties. Beside the store only the two sides are dictionaries: there are too many
worlds for servers.
"""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

from connectors.errors import ConfigurationError, IncompleteError, RefusedError
from connectors.store import Store
from tasks.policy import Policy
from tasks.read.known import NotNarrowError
from tasks.read.narrow import read_narrow
from tests.support.by_key import (
    a_run,
    compare,
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
from tests.support.worlds import applied

SEEDS, PARTS = int(os.environ.get("CROWDSYNC_SEEDS", "2")), 2


@pytest.mark.parametrize(("part", "every"), long_after(1, [(0, 2), *((part, 1) for part in range(PARTS))]))
async def test_what_follows_for_a_person_is_what_a_wide_run_finds(store: Store, part: int, every: int) -> None:
    """Of the short ones for every other person, of the long ones for everybody."""
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        rng = random.Random(f"narrow {seed}")
        world, sides = worlds(seed)
        policy = rng.choice((without_limits, without_limits, few_at_a_time, few_at_a_time, Policy.model_copy))(
            sides.policy
        )
        if rng.random() < 0.4:
            nest(world, rng)
            policy = policy.model_copy(update={"groups": policy.groups.model_copy(update={"nesting": "flatten"})})
        run = a_run(store, world, policy)
        link(store, world)
        try:
            remember(run, world)
        except ConfigurationError:  # a scope that matches nobody
            continue
        for number, identity in enumerate([*everybody(world), *("new",) * 3][::every]):
            if identity == "new":
                identity = joiner(world, rng, f"new{number}")
            else:
                spoil(world, policy, rng, identity)
            made = await compare(run, world, identity, found, f"seed {seed}, {identity}")
            if made is not None and len(made.operations):  # the store is not told what became of Crowd, but for links
                applied(made, world.crowd, world.links, rng)
                journal(store, made)
                link(store, world)
    print(f"part {part}: {dict(found)}")
    assert found["equal"]


@pytest.mark.parametrize("error", [IncompleteError, RefusedError])
async def test_a_source_that_cannot_be_asked_for_one_person_is_read_whole(
    store: Store, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, sides = worlds(0)
    run = a_run(store, world, sides.policy)
    remember(run, world)

    async def refuses(*_: object) -> None:
        raise error("not by key")

    monkeypatch.setattr(run.source, "user", refuses)
    with pytest.raises(NotNarrowError, match=r"it cannot be read by key \(not by key\)"):
        await read_narrow(run, world.users[0][0])
