"""Agreement to a plan holds for a later one only where nobody would be asked, had the agreed plan been carried out at
once, and what the later one does besides after it: on generated worlds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from connectors.errors import ConfigurationError
from tasks.decide.agreement import also_in, asks_no_more, asks_text, covered
from tasks.decide.guard import Verdict, judge
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.policy import Limit, Policy
from tasks.policy.limits import Limits
from tests.support.by_key import everybody, spoil
from tests.support.long import long_after
from tests.support.sides import worlds
from tests.support.worlds import World, applied, describe, planned

WORLDS, SEEDS = 20, int(os.environ.get("CROWDSYNC_SEEDS", "6"))


def tight(policy: Policy, rng: random.Random) -> Policy:
    """Limits that nearly every plan goes past, one or another."""
    fields = [name for name, field in Limits.model_fields.items() if field.annotation is Limit]
    limits: dict[str, Any] = {
        name: {"absolute": rng.choice((0, 1, 2))} if rng.random() < 0.5 else {} for name in fields
    }
    approval = policy.approval.model_copy(update={"emptied_members": 1})
    return policy.model_copy(update={"limits": Limits.model_validate(limits), "approval": approval})


def made(world: World, policy: Policy, among: Plan | None = None) -> tuple[Plan, Verdict]:
    """A plan, of which only what another one does, too, where one is given; and what is asked about it."""
    found = planned(world.source(), world.crowd, world.links, policy)
    if among is not None:  # (not that it undoes what nobody wants any more)
        found = replace(found, operations=found.operations[also_in(among.operations, found.operations)])
    directory = world.crowd.snapshot(policy.attributes.extra)
    return found, judge(found, policy, impact(found.operations, directory, policy))


@pytest.mark.parametrize("seed", long_after(1, range(SEEDS)))
def test_what_agreement_holds_for_would_not_be_asked_after_the_agreed_plan(seed: int) -> None:
    found: Counter[str] = Counter()
    for number in range(WORLDS):
        rng = random.Random(f"agreement {seed} {number}")
        world, sides = worlds(seed * WORLDS + number)
        policy = tight(sides.policy, rng)
        try:
            before, verdict = made(world, policy)
        except ConfigurationError:  # a scope that matches nobody
            continue
        if not verdict.asks or verdict.never:
            continue
        then = deepcopy(world)
        for identity in rng.sample(everybody(world), k=min(rng.randint(0, 3), len(everybody(world)))):
            spoil(world, policy, rng, identity)
        world.crowd, world.links = then.crowd, then.links
        try:
            later, asks = made(world, policy)
        except ConfigurationError:
            continue
        of = covered(asks.asks)
        seen = before.operations[before.operations["kind"].isin(of)]
        rest = later.operations[later.operations["kind"].isin(of)]
        holds = asks_no_more(asks_text(verdict.found), asks.asks) and bool(also_in(seen, rest).all())
        if not asks.asks:
            assert holds
            found["nothing asked"] += 1
            continue
        applied(before, world.crowd, world.links, rng)
        left, at_last = made(world, policy, among=later)
        note = f"seed {seed}, world {number}\n{describe(before)}\n\n{describe(later)}\n\n{describe(left)}"
        if holds:
            assert not at_last.asks, f"{note}\n{at_last.asks}"
        found["holds" if holds else "asks again, and would" if at_last.asks else "asks again, and need not"] += 1
    print(f"{seed}: {dict(found)}")
    assert found["holds"]
