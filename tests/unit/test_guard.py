"""Limits: for every size of directory and every number of leavers, and the plans that are never executed."""

from __future__ import annotations

from dataclasses import replace
from math import floor
from typing import Any

import pandas as pd
import pytest

from connectors.contract import Kind
from connectors.model import ID_ATTRIBUTE, held_frame
from tasks.guard import Verdict, judge
from tasks.plan import Owned, Plan
from tasks.policy import Policy
from tests.property.model_crowd import ModelCrowd, ModelLinks
from tests.property.test_road import SOURCE, World, planned

LARGEST = 200
LIMITED: dict[str, tuple[Kind, str]] = {
    "user_create": (Kind.USER_CREATE, "users"),
    "user_update": (Kind.USER_UPDATE, "users"),
    "user_rename": (Kind.USER_RENAME, "users"),
    "user_deactivate": (Kind.USER_DEACTIVATE, "active"),
    "user_delete": (Kind.USER_DELETE, "users"),
    "group_create": (Kind.GROUP_CREATE, "groups"),
    "group_delete": (Kind.GROUP_DELETE, "groups"),
    "membership_add": (Kind.MEMBERSHIP_ADD, "memberships"),
    "membership_remove": (Kind.MEMBERSHIP_REMOVE, "memberships"),
    "nesting_remove": (Kind.NESTING_REMOVE, "nestings"),
}


def a_plan(counts: dict[Kind, int], owned: Owned) -> Plan:
    kinds = [kind.value for kind, count in counts.items() for _ in range(count)]
    nothing = pd.DataFrame()
    operations = pd.DataFrame({"kind": pd.array(kinds, dtype="str")})
    return Plan(operations, held_frame(), {}, nothing, nothing, owned, "")


def owning(number: int) -> Owned:
    return Owned(number, number, number, number, number)


def test_every_size_and_every_number_of_leavers() -> None:
    policy = Policy()
    percent = policy.limits.user_deactivate.percent
    assert percent is not None
    everybody = a_plan({Kind.USER_DEACTIVATE: LARGEST}, owning(LARGEST))
    cases = refused = 0
    for users in range(LARGEST + 1):
        for leavers in range(users + 1):
            made = replace(everybody, operations=everybody.operations.iloc[:leavers], owned=owning(users))
            verdict, forced = judge(made, policy), judge(made, policy, force=True)
            most = floor(users * percent / 100)
            assert bool(verdict.refusals) == (leavers > most), (users, leavers)
            assert bool(forced.refusals) == (leavers == users > 0), (users, leavers)
            cases, refused = cases + 1, refused + bool(verdict.refusals)
    print(f"{cases:,} directories of 0 to {LARGEST} users with every number of leavers: {refused:,} refused")


def company(people: int, leavers: int) -> World:
    """People who are all in Crowd and all in one group; the first `leavers` of them are gone from the source."""
    world = World(crowd=ModelCrowd(), links=ModelLinks())
    group = world.crowd.add_group("staff", mark=f"{SOURCE}:g")
    world.groups.append(("g", "staff", "", "{}"))
    for number in range(people):
        key = f"p{number}"
        user = world.crowd.add_user(f"u{number}", attributes={ID_ATTRIBUTE: [f"{SOURCE}:{key}"]})
        world.crowd.memberships.add((group["key"], user["key"]))
        if number >= leavers:
            world.users.append((key, f"u{number}", "", "", f"u{number}", f"u{number}", True, "{}"))
            world.memberships.append(("g", key, "user"))
    return world


@pytest.mark.parametrize("action", ["deactivate", "delete"])
def test_the_whole_plan_is_what_is_judged(action: str) -> None:
    policy = Policy.model_validate({"leavers": {"users": action}, "operations": {"user_delete": action == "delete"}})
    limit = policy.limits.user_deactivate if action == "deactivate" else policy.limits.user_delete
    cases = 0
    for people in range(0, LARGEST + 1, 8):
        most = limit.allowed(people) or 0
        for leavers in sorted({0, 1, most, most + 1, people - 1, people} & set(range(people + 1))):
            world = company(people, leavers)
            made = planned(world.source(), world.crowd, world.links, policy)
            counts = made.counts()
            assert counts.get(f"user_{action}", 0) == leavers
            verdict, forced = judge(made, policy), judge(made, policy, force=True)
            assert bool(verdict.refusals) == (leavers > most)
            assert bool(forced.refusals) == (leavers == people > 0)
            if leavers > most and leavers < people:
                line = next(one for one in verdict.refusals if one.startswith(f"user_{action}:"))
                assert f"{leavers} of {people}" in line
                assert f"more than the {most}" in line
                assert "--force" in line
            cases += 1
    print(f"{cases} planned companies, {action}")


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("limit", [{"absolute": 3}, {"percent": 10}, {"absolute": 3, "percent": 10}, {"absolute": 0}])
def test_each_limit_bounds_its_own_kind(name: str, limit: dict[str, Any]) -> None:
    kind, _ = LIMITED[name]
    policy = Policy.model_validate({"limits": {**{one: {} for one in LIMITED}, name: limit}})
    for base in (0, 5, 10, 29, 30, 31, 200):
        bounds = [limit[key] if key == "absolute" else floor(base * limit[key] / 100) for key in limit]
        for count in range(min(bounds) + 3):
            made = a_plan({kind: count}, owning(base))
            over = [line for line in judge(made, policy).refusals if line.startswith(f"{name}:")]
            assert bool(over) == (count > min(bounds)), (base, count)
            assert (f"limits.{name}" in over[0]) if over else True
            other = next(
                k for n, (k, _) in LIMITED.items() if n != name and not {name, n} <= {"user_deactivate", "user_delete"}
            )
            assert not [one for one in judge(a_plan({other: count}, owning(base)), policy).refusals if name in one]


def test_deactivations_and_deletions_count_together() -> None:
    policy = Policy.model_validate({"limits": {"user_deactivate": {"absolute": 5}, "user_delete": {}}})
    made = a_plan({Kind.USER_DEACTIVATE: 3, Kind.USER_DELETE: 3}, owning(100))
    assert len(judge(made, policy).refusals) == 1
    assert judge(made, policy, force=True).forced


@pytest.mark.parametrize("comers", [0, 1, 50])
def test_everybody_out_is_refused_also_where_others_come(comers: int) -> None:
    made = a_plan({Kind.USER_DEACTIVATE: 50, Kind.USER_CREATE: comers}, owning(50))
    verdict = judge(made, Policy.model_validate({"limits": {"user_deactivate": {}}}), force=True)
    assert len(verdict.refusals) == 1
    assert "all 50 active accounts" in verdict.refusals[0]


def test_nothing_to_do_is_never_refused() -> None:
    assert judge(a_plan({}, owning(0)), Policy()) == Verdict()
