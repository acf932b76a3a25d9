"""Some people, groups and accounts that are named as news has them, through the real store: what is decided from them,
read again by key, is what a run that reads everything decides for them.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Collection
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
    unhindered,
    wide,
    without_limits,
)
from tests.support.in_step import carry_out, settle
from tests.support.long import long_after
from tests.support.sides import TOGETHER, worlds
from tests.support.worlds import World, applied, describe

SEEDS, PARTS, SERIES = int(os.environ.get("CROWDSYNC_SEEDS", "4")), 2, 8
FEW = 3
"""Steps of the first series in `make test`; all of them are in the long ones."""


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
    told |= {Hint("user", one) for one in people} | {Hint("group", one) for one in changes.replaced}
    told |= {Hint("account", hint.key) for hint in ours.hints if hint.kind == "user"}
    told |= {Hint("user", one) for one in rng.sample(everybody(world), k=min(2, len(everybody(world))))}
    return told | {Hint("user", "nobody-at-all"), Hint("account", "nobody-at-all")}


@pytest.mark.parametrize(("part", "steps"), long_after(1, [(0, FEW), *((part, SERIES) for part in range(PARTS))]))
async def test_what_follows_from_whoever_is_named_is_what_a_wide_run_finds(store: Store, part: int, steps: int) -> None:
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
        for step in range(steps):
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


async def changes_of(source: BySource, crowd: ByCrowd, since: tuple[str, str]) -> set[Hint]:
    """Everything that changed since, by ids and names."""
    changes, ours = await source.changes(PLAIN, since[0]), await crowd.changes(since[1])
    people = {row[0] for row in changes.users} | {*changes.gone_users}
    pairs = [pair for pair in (*changes.memberships, *changes.left) if pair[2] == "user"]
    groups = {*changes.replaced, *(group for group, *_ in pairs)}
    told = {Hint("user", one) for one in people} | {Hint("group", one) for one in groups}
    return told | {Hint("account", hint.key) for hint in ours.hints if hint.kind == "user"}


def part_of(hint: Hint) -> str:
    """The world of those that share a directory to which that belongs."""
    found = re.search(r"-(\d+)(~\d)?$", hint.key)
    return found[1] if found else ""


def ways(world: World, hints: Collection[Hint], rng: random.Random) -> list[Hint]:
    """As webhooks, pushes, sign-ins, buttons and Crowd's events name them, some of them twice or of nobody, in any
    order."""
    names = Counter(row[1].lower() for row in world.users)
    people, told = {row[0]: row for row in world.users}, list[Hint]()
    for hint in sorted(hints, key=lambda hint: (hint.kind, hint.key)):
        row = people.get(hint.key) if hint.kind == "user" else None
        by_name = row is not None and row[1].strip() and row[1].isascii() and names[row[1].lower()] == 1
        # (A sign-in, and a button: by the username. Who has another one by now is named by the id.)
        told.append(Hint("user", row[1]) if row and by_name and rng.random() < 0.3 else hint)
        if rng.random() < 0.2:
            told.append(hint)
    told += [Hint("user", "nobody-at-all"), Hint("group", "no-group"), Hint("account", "nobody-at-all")]
    rng.shuffle(told)
    return told


MIXED = int(os.environ.get("CROWDSYNC_SEEDS", "3"))


@pytest.mark.parametrize(("seed", "steps"), long_after(1, [(0, FEW), *((seed, SERIES) for seed in range(MIXED))]))
async def test_whatever_way_and_whenever_it_is_told_it_is_what_a_wide_run_finds(
    store: Store, seed: int, steps: int
) -> None:
    """Changes on both sides are told through every way, mixed, late and in batches; after each one the plan is the wide
    one's for the same people, and after the last one a wide run finds nothing left to do."""
    found: Counter[str] = Counter()
    rng = random.Random(f"mixed {seed}")
    world, sides = worlds(1000 + seed, readable=True)
    policy = unhindered(without_limits(sides.policy))
    policy = policy.model_copy(update={"reads": policy.reads.model_copy(update={"by_key_percent": 100})})
    run = a_run(store, world, policy)
    source, crowd = cast(BySource, run.source), cast(ByCrowd, run.directory)
    link(store, world)
    try:
        if not await settle(run, world, rng):
            print(f"{seed}: never in step")
            return
    except ConfigurationError:  # a scope that matches nobody
        print(f"{seed}: nobody in scope")
        return
    late = set[Hint]()
    for step in range(steps + 1):
        since, note = (source.at_cursor(), await crowd.token() or ""), f"seed {seed}, step {step}"
        for identity in rng.sample(everybody(world), k=min(rng.randint(0, TOGETHER - 1), len(everybody(world)))):
            spoil(world, policy, rng, identity)
        if rng.random() < 0.5:
            joiner(world, rng, f"new{step}")
        late |= await changes_of(source, crowd, since)
        parts = sorted({part_of(hint) for hint in late})
        now = [one for one in parts if step == steps or rng.random() < 0.6]
        batch = {hint for hint in late if part_of(hint) in now}
        late -= batch
        reading = read_named(run, known_sides(run), ways(world, batch, rng))
        before = found.total()
        try:
            made = await compare_few(run, world, reading, found, note, whole=not late)
            if made is None and found.total() > before:  # everybody is read, and all is told
                made, late = remember(run, world), set()
        except ConfigurationError:
            break
        if made is not None:
            carry_out(run, world, made, rng)
    else:
        left, _ = wide(run, world)
        assert not len(left.operations), f"seed {seed}\n{describe(left)}"
        found["in step"] += 1
    wides = sum(count for why, count in found.items() if why.startswith("wide"))
    print(f"{seed}: {dict(found)}, wide: {wides / max(1, wides + found['equal']):.1%}")
    assert found["equal"]
    assert found["operations"] or seed  # (a few steps in one world may lead to none)
