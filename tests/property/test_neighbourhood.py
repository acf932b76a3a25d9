"""The oracle of the narrow road: of the neighbourhood of a selection alone follows what of everything follows for it.

Many small worlds share one directory, so that a neighbourhood is a small part of it; within each, names, addresses,
owners and groups meet in every way.
"""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pandas as pd
import pytest

from connectors.errors import ConfigurationError
from connectors.model import Snapshot, crowd_id
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import Matched, match
from tasks.decide.neighbourhood import (
    Neighbourhood,
    account_keys,
    links_of,
    named_by,
    neighbourhood,
    part_of,
    person_keys,
)
from tasks.decide.plan import Departures, Plan, plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tests.support.long import long_after
from tests.support.worlds import SOURCE, World, add_world, any_policy, deletes, describe, owners, since

TOGETHER = 6
"""How many worlds share a directory."""
SEEDS, PARTS = int(os.environ.get("CROWDSYNC_SEEDS", "24")), 24


@dataclass(frozen=True)
class Sides:
    """What a plan is made of, whole or in part."""

    source: Snapshot
    directory: Snapshot
    links: pd.DataFrame
    policy: Policy
    departures: Departures

    def part(self, around: Neighbourhood) -> Sides:
        return replace(
            self,
            source=part_of(self.source, around.people),
            directory=part_of(self.directory, around.accounts),
            links=links_of(self.links, around),
        )

    def matched(self, *, whole: bool) -> Matched:
        scoped = in_scope(self.source, self.policy, whole=whole).snapshot
        wanted = desired(scoped, self.policy, whole=whole)
        return match(wanted, self.directory, self.links, self.policy, SOURCE, self.source)

    def plan(self, matched: Matched, selection: Selection) -> Plan:
        sides = self.source, self.directory, self.policy
        return plan(matched, *sides, SOURCE, ("", ""), departures=self.departures, selection=selection)


class InMemory:
    """Both sides by key, of snapshots that are known whole."""

    def __init__(self, sides: Sides) -> None:
        tied = sides.links[sides.links["kind"] == "user"]
        self._people = Keyed(person_keys(sides.source.users, sides.policy))
        self._accounts = Keyed(account_keys(sides.directory.users, tied, sides.policy, SOURCE))

    def people(self, keys: Collection[str]) -> Collection[str]:
        return self._people.having(keys)

    def accounts(self, keys: Collection[str]) -> Collection[str]:
        return self._accounts.having(keys)

    def keys_of_people(self, ids: Collection[str]) -> Collection[str]:
        return self._people.of(ids) | {f"owner:{one}" for one in ids}

    def keys_of_accounts(self, ids: Collection[str]) -> Collection[str]:
        return self._accounts.of(ids)


class Keyed:
    """Keys in both directions."""

    def __init__(self, keys: pd.DataFrame) -> None:
        self._ids, self._keys = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for identity, key in keys.itertuples(index=False, name=None):
            self._ids[key].add(identity)
            self._keys[identity].add(key)

    def having(self, keys: Collection[str]) -> set[str]:
        return set().union(*(self._ids.get(key, set()) for key in keys))

    def of(self, ids: Collection[str]) -> set[str]:
        return set().union(*(self._keys.get(one, set()) for one in ids))


def selections(world: World) -> Iterator[Selection]:
    """Everybody whom anything knows, and every group that is there or wanted."""
    linked = {key[2] for key in world.links.rows if key[:2] == (SOURCE, "user")}
    mine = {owner for owner in owners(world.crowd, world.links, "user").values() if owner != "?"}
    for one in sorted({row[0] for row in world.users} | linked | mine | {"nobody"}):
        yield Selection(person=one)
    for group in sorted({crowd_id(row[1]) for row in world.groups} | set(world.crowd.groups)):
        yield Selection(group=group)


def worlds(seed: int) -> tuple[World, Sides]:
    rng = random.Random(f"neighbourhood {seed}")
    tags = [f"-{number}" for number in range(TOGETHER)]
    world, policy = World(), any_policy(rng, tags)
    for tag in tags:
        add_world(world, rng, tag, pure=deletes(policy))
    for name in list(world.crowd.users):  # where names go round in a circle, one must make room under another
        if rng.random() < 0.3:
            world.crowd.add_user(f"{name}~1")
    source, directory = world.source(), world.crowd.snapshot(policy.attributes.extra)
    return world, Sides(source, directory, world.links.frame(), policy, since(source))


@pytest.mark.parametrize("part", long_after(1, range(PARTS)))
def test_what_follows_for_a_selection_follows_from_its_neighbourhood(part: int) -> None:
    found: Counter[str] = Counter()
    for seed in range(part, SEEDS, PARTS):
        world, sides = worlds(seed)
        try:
            whole = sides.matched(whole=True)
        except ConfigurationError:  # a scope that matches nobody
            continue
        index = InMemory(sides)
        for selection in selections(world):
            named = named_by(selection, sides.source, sides.directory, sides.links, sides.policy, SOURCE)
            around = None if named is None else neighbourhood(index, *named, most=10_000)
            if around is None:
                found["wide"] += 1
                continue
            few = sides.part(around)
            wide, narrow = sides.plan(whole, selection), few.plan(few.matched(whole=False), selection)
            note = f"seed {seed}, {selection}, {sorted(around.people)}, {sorted(around.accounts)}"
            assert describe(narrow) == describe(wide), f"{note}\n{describe(narrow)}\nbut\n{describe(wide)}"
            pd.testing.assert_frame_equal(narrow.operations, wide.operations)
            pd.testing.assert_frame_equal(narrow.held.reset_index(drop=True), wide.held.reset_index(drop=True))
            found["equal"] += 1
            found["operations"] += len(wide.operations)
            found["around"] += len(around)
            found["all"] += len(sides.source.users) + len(sides.directory.users)
    print(f"part {part}: {dict(found)}")
    assert found["operations"]
    assert found["around"] * 3 < found["all"], "a neighbourhood is a small part"
