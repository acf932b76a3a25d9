"""While a person is asked about a plan, news goes on, and does nothing of what they are asked: on generated worlds,
through the real store.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from connectors.contract import Hint
from connectors.errors import ConfigurationError
from connectors.model import crowd_id
from connectors.operations import Kind
from connectors.store import Store
from flows.react import in_parts
from tasks.decide.agreement import asks_text, kinds_asked
from tasks.decide.guard import judge
from tasks.decide.impact import impact
from tasks.decide.plan import Plan
from tasks.policy import Limit, Policy
from tasks.policy.limits import Limits
from tasks.run import Run
from tasks.tell.stored_plan import StoredPlan
from tasks.write.apply import Applied
from tests.support.by_key import (
    DIRECTORY,
    a_run,
    another_name,
    everybody,
    joiner,
    link,
    owners_of,
    remember,
    spoil,
    unhindered,
    wide,
    without_limits,
)
from tests.support.in_step import settle
from tests.support.long import long_after
from tests.support.model_crowd import ModelCrowd
from tests.support.sides import worlds
from tests.support.worlds import SOURCE, World, applied, describe, subjects

WORLDS, STEPS, SEEDS = 4, 5, int(os.environ.get("CROWDSYNC_SEEDS", "5"))
STOPPED = ("planned", "waiting", "approved", "rejected", "refused")

Asked = set[tuple[str, Any, Any]]
"""Kind, whom it is about, and what they are put into or taken out of."""


def asked_of(policy: Policy, counts: Mapping[str, int], rng: random.Random) -> Policy:
    """Limits that a plan which does as much as these `counts` goes past, one or another, and news of a few does not."""
    fields = [name for name, field in Limits.model_fields.items() if field.annotation is Limit]
    more = [name for name in fields if counts.get(name, 0) > 2]
    tight = rng.sample(more, k=min(rng.choice((1, 1, 2)), len(more)))
    limits: dict[str, Any] = {name: {"absolute": counts[name] - 1} if name in tight else {} for name in fields}
    found = Limits.model_validate(limits | {"unusual_times": None})
    return policy.model_copy(update={"limits": found})


def done_by(made: Plan, world: World) -> Asked:
    """What a plan does, by the keys of accounts and groups, which outlive their names; of who has none, by the id."""
    groups = {name: group["key"] for name, group in world.crowd.groups.items()}
    accounts = {user["key"] for user in world.crowd.users.values()}
    rows: list[Any] = list(made.operations.itertuples())
    keys = subjects(made, world)
    new = {key: row.source_id for key, row in zip(keys, rows, strict=True) if row.kind == Kind.USER_CREATE}
    found: Asked = set()
    for key, row in zip(keys, rows, strict=True):
        of_user = row.kind.startswith(("user", "membership"))
        into = row.target if row.kind.startswith(("membership", "nesting")) else ""
        who = new[key] if of_user and key not in accounts else key
        found.add((row.kind, who, into and groups.get(crowd_id(into), crowd_id(into))))
    return found


def undone(asked: Asked, before: ModelCrowd, after: ModelCrowd, note: str) -> None:
    """Nobody was shut out whom a person is asked to shut out, in whatever way, and nobody let in."""
    active = [{one["key"]: one["active"] for one in crowd.users.values()} for crowd in (before, after)]
    names = [{one["key"]: one["name"] for one in crowd.users.values()} for crowd in (before, after)]
    for kind, who, into in asked:
        if who not in active[0]:
            continue
        match kind:
            case Kind.USER_DEACTIVATE | Kind.USER_DELETE:
                assert who in active[1], f"{note}\n{names[0][who]} was deleted"
                assert kind == Kind.USER_DELETE or active[1][who] or not active[0][who], f"{note}\n{names[0][who]}"
            case Kind.USER_ACTIVATE:
                assert active[0][who] or not active[1].get(who), f"{note}\n{names[0][who]}"
            case Kind.USER_RENAME:
                assert names[0][who] == names[1].get(who, names[0][who]), note
            case Kind.MEMBERSHIP_ADD:
                assert (into, who) in before.memberships or (into, who) not in after.memberships, note
            case Kind.MEMBERSHIP_REMOVE if who in active[1]:
                assert (into, who) not in before.memberships or (into, who) in after.memberships, note


@dataclass
class Beside:
    """A world in which a person is asked about a plan, and what was done beside it."""

    store: Store
    run: Run
    world: World
    rng: random.Random
    stops: Plan
    asked: Asked
    done: int = 0

    def people(self) -> list[str]:
        """Whom a person is asked about (ids)."""
        owned = owners_of(self.world)
        return sorted({one for _, who, _ in self.asked if (one := owned.get(who, who if isinstance(who, str) else ""))})

    async def carry_out(self, _: Run, stored: StoredPlan) -> Applied:
        """As the road carries a plan out."""
        made, world, before = stored.plan, self.world, self.world.crowd.copy()
        assert stored.number is not None
        note = f"{describe(self.stops)}\n\n{describe(made)}"
        assert not self.asked & done_by(made, world), f"{note}\n{self.asked & done_by(made, world)}"
        applied(made, world.crowd, world.links, self.rng)
        seqs = made.operations["seq"].tolist()
        self.store.intend(stored.number, seqs, at=datetime.now(UTC))
        self.store.record(stored.number, [(seq, "done", "") for seq in seqs], at=datetime.now(UTC))
        link(self.store, world)
        undone(self.asked, before, world.crowd, note)
        self.done += len(seqs)
        return Applied()


async def beside(store: Store, number: int, rng: random.Random) -> Beside | None:
    """Much changes in a company that was in step, and a person is asked about it; None where none of that is so."""
    world, sides = worlds(number, readable=True)
    policy = unhindered(without_limits(sides.policy))
    policy = policy.model_copy(update={"reads": policy.reads.model_copy(update={"by_key_percent": 100})})
    run = a_run(store, world, policy)
    link(store, world)
    try:
        if not await settle(run, world, rng):
            return None
        for identity in everybody(world):
            if rng.random() < 0.6:
                spoil(world, policy, rng, identity)
        for new in range(rng.choice((0, 4, 8))):
            joiner(world, rng, f"many{new}")
        made, _ = wide(run, world)
    except ConfigurationError:  # a scope that matches nobody
        return None
    directory, recent = world.crowd.snapshot(policy.attributes.extra), run.recent()
    measured = impact(made.operations, directory, policy, recent=recent)
    counts = Counter(made.counts()) + Counter(measured.recent) + Counter(group_loss=measured.losers_recently)
    counts[Kind.USER_DEACTIVATE] += counts[Kind.USER_DELETE]  # (whoever is deleted is shut out, too)
    run = replace(run, policy=asked_of(policy, counts, rng))
    stops = remember(run, world)
    verdict = judge(stops, run.policy, impact(stops.operations, directory, run.policy, recent=recent))
    if not verdict.asks:
        return None
    at, asks = datetime.now(UTC), asks_text(verdict.found)
    plan = store.save_plan(
        run="r", source=SOURCE, directory=DIRECTORY, digest=stops.digest, source_snapshot=1, directory_snapshot=1,
        policy="{}", operations=stops.operations, held=stops.held, at=at, status="planned", asks=asks,
    )  # fmt: skip
    store.set_plan_status(plan, rng.choice(STOPPED), at=at)
    asked = {one for one in done_by(stops, world) if one[0] in kinds_asked(asks)}
    return Beside(store, run, world, rng, stops, asked)


def another_username(world: World, rng: random.Random, identity: str) -> None:
    """In the source."""
    tag = identity[identity.index("-") :]
    world.users = [
        (*row[:1], another_name(world, rng, tag), *row[2:]) if row[0] == identity else row for row in world.users
    ]


@pytest.mark.parametrize("seed", long_after(1, range(SEEDS)))
async def test_nothing_that_a_person_is_asked_is_done_by_news(
    store: Store, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    found: Counter[str] = Counter()
    for number in count(3000 + seed * 100):
        rng = random.Random(f"asked {number}")
        if (made := await beside(store, number, rng)) is None:
            found["nothing asked"] += 1
            continue
        found["asked"] += 1
        monkeypatch.setattr("flows.react.carry_out", made.carry_out)
        world, people = made.world, made.people()
        late = set[Hint]()
        for step in range(STEPS):
            some = rng.sample(everybody(world), k=min(2, len(everybody(world))))
            for identity in some:
                spoil(world, made.run.policy, rng, identity)
            for identity in rng.sample(people, k=min(3, len(people))):
                if rng.random() < 0.5:
                    another_username(world, rng, identity)
                else:
                    spoil(world, made.run.policy, rng, identity)
                some.append(identity)
            if rng.random() < 0.5:
                some.append(joiner(world, rng, f"new{step}"))
            late |= {Hint("user", one) for one in some}
            try:
                parts = await in_parts(made.run, tuple(sorted(late, key=str)), "")
            except ConfigurationError:
                break
            late = {hint for part in parts if not part.settled for hint in part.hints}
            for part in parts:
                found[f"{part.status}: {re.sub('[0-9]+', 'n', part.why)[-60:]}"] += 1
        found["operations"] += made.done
        if found["asked"] == WORLDS:
            break
    print(f"{seed}: {dict(found)}")
    assert found["operations"]
