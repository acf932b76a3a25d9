"""Many small generated worlds that share one directory, and both of their sides as a plan is made of them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from connectors.model import Snapshot, crowd_id
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import Matched, match
from tasks.decide.plan import Departures, Plan, plan
from tasks.decide.selection import Selection
from tasks.policy import Policy
from tests.support.neighbourhood import Neighbourhood, links_of, part_of
from tests.support.worlds import SOURCE, World, add_world, any_policy, deletes, owners, since

TOGETHER = int(os.environ.get("CROWDSYNC_TOGETHER", "6"))
"""How many worlds share a directory: up to 50."""


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


def selections(world: World) -> Iterator[Selection]:
    """Everybody whom anything knows, and every group that is there or wanted."""
    linked = {key[2] for key in world.links.rows if key[:2] == (SOURCE, "user")}
    mine = {owner for owner in owners(world.crowd, world.links, "user").values() if owner != "?"}
    for one in sorted({row[0] for row in world.users} | linked | mine | {"nobody"}):
        yield Selection(person=one)
    for group in sorted({crowd_id(row[1]) for row in world.groups} | set(world.crowd.groups)):
        yield Selection(group=group)


def worlds(seed: int, *, readable: bool = False) -> tuple[World, Sides]:
    """`readable`: the source holds nobody, and no group."""
    rng = random.Random(f"neighbourhood {seed}")
    tags = [f"-{number}" for number in range(TOGETHER)]
    world, policy = World(), any_policy(rng, tags)
    for tag in tags:
        add_world(world, rng, tag, pure=deletes(policy), readable=readable)
    for name in list(world.crowd.users):  # where names go round in a circle, one must make room under another
        if rng.random() < 0.3:
            for number in range(1, rng.randint(2, 4)):
                world.crowd.add_user(f"{name}~{number}")
    source, directory = world.source(), world.crowd.snapshot(policy.attributes.extra)
    return world, Sides(source, directory, world.links.frame(), policy, since(source))
