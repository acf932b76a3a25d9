"""The oracle of the narrow road: of the neighbourhood of a selection alone follows what of everything follows for it.

Many small worlds share one directory, so that a neighbourhood is a small part of it; within each, names, addresses,
owners and groups meet in every way.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection

import pandas as pd
import pytest

from connectors.errors import ConfigurationError
from tasks.decide.neighbourhood import account_keys, person_keys
from tasks.decide.plan.renames import MAKES_ROOM
from tests.support.long import long_after
from tests.support.neighbourhood import named_by, neighbourhood
from tests.support.sides import Sides, selections, worlds
from tests.support.worlds import SOURCE, describe

SEEDS, PARTS = int(os.environ.get("CROWDSYNC_SEEDS", "1")), 1


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


@pytest.mark.parametrize("part", long_after(0, range(PARTS)))
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
            if (narrow.operations["reason"] == MAKES_ROOM).any():
                found["makes room"] += 1  # under a name that nobody has, which only everybody together can tell
                continue
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
