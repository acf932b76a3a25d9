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
SIZES = (0, 1, 2, 3, 5, 9, 10, 11, 19, 20, 21, 40, 99, LARGEST)
"""Of companies that are planned as a whole."""
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
    was = ['{"active":true}'] * len(kinds)
    operations = pd.DataFrame({"kind": pd.array(kinds, dtype="str"), "before": pd.array(was, dtype="str")})
    return Plan(operations, held_frame(), {}, nothing, nothing, owned, "")


def owning(number: int) -> Owned:
    return Owned(number, number, number, number, number)


def test_every_size_and_every_number_of_leavers(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy()
    percent = policy.limits.user_deactivate.percent
    assert percent is not None
    everybody = a_plan({Kind.USER_DEACTIVATE: LARGEST}, owning(LARGEST))
    # The same two hundred plans come twenty thousand times: each is counted once.
    counts = [replace(everybody, operations=everybody.operations.iloc[:n]).counts() for n in range(LARGEST + 1)]
    assert counts[:2] == [{}, {"user_deactivate": 1}]
    assert counts[-1] == {"user_deactivate": LARGEST}
    monkeypatch.setattr(Plan, "counts", lambda self: counts[len(self.operations)])
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
    for people in SIZES:
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
        for count in {0, *range(max(min(bounds) - 1, 0), min(bounds) + 3), base}:
            made = a_plan({kind: count}, owning(base))
            over = [line for line in judge(made, policy).refusals if line.startswith(f"{name}:")]
            assert bool(over) == (count > min(bounds)), (base, count)
            assert (f"limits.{name}" in over[0]) if over else True
        other = next(
            k for n, (k, _) in LIMITED.items() if n != name and not {name, n} <= {"user_deactivate", "user_delete"}
        )
        assert not [one for one in judge(a_plan({other: base + 2}, owning(base)), policy).refusals if name in one]


def test_deactivations_and_deletions_count_together() -> None:
    policy = Policy.model_validate({"limits": {"user_deactivate": {"absolute": 5}, "user_delete": {}}})
    made = a_plan({Kind.USER_DEACTIVATE: 3, Kind.USER_DELETE: 3}, owning(100))
    assert len(judge(made, policy).refusals) == 1
    assert judge(made, policy, force=True).forced


@pytest.mark.parametrize("inactive", [0, 1, 4, 5, 6, 50])
def test_accounts_that_nobody_can_use_are_deleted_and_nobody_is_shut_out(inactive: int) -> None:
    """Their deletion takes nobody's access away, however many they are; limits still hold."""
    operations = {"leavers": {"users": "delete"}, "operations": {"user_delete": True}}
    unlimited = Policy.model_validate({**operations, "limits": {"user_deactivate": {}, "user_delete": {}}})
    world = company(5 + inactive, inactive)
    for number in range(inactive):
        world.crowd.users[f"u{number}"]["active"] = False
    made = planned(world.source(), world.crowd, world.links, unlimited)
    assert made.counts() == ({"user_delete": inactive} if inactive else {})
    assert (made.owned.users, made.owned.active) == (5 + inactive, 5)
    assert judge(made, unlimited).refusals == ()
    limited = judge(made, Policy.model_validate(operations))
    assert bool(limited.refusals) == bool(inactive)
    assert judge(made, Policy.model_validate(operations), force=True).refusals == ()


def test_everybody_who_can_log_in_is_deleted_among_many_who_cannot() -> None:
    """Thirty accounts are deleted and ten stay; the ten are inactive, so nobody could log in."""
    policy = Policy.model_validate(
        {
            "leavers": {"users": "delete"},
            "operations": {"user_delete": True},
            "limits": {"user_deactivate": {}, "user_delete": {}},
        }
    )
    world = company(40, 30)
    for number in range(20, 40):
        world.crowd.users[f"u{number}"]["active"] = False
    world.users = [(*user[:6], False, user[7]) for user in world.users]
    made = planned(world.source(), world.crowd, world.links, policy)
    assert made.counts() == {"user_delete": 30}
    assert len(judge(made, policy, force=True).refusals) == 1


@pytest.mark.parametrize("comers", [0, 1, 50])
def test_everybody_out_is_refused_also_where_others_come(comers: int) -> None:
    made = a_plan({Kind.USER_DEACTIVATE: 50, Kind.USER_CREATE: comers}, owning(50))
    verdict = judge(made, Policy.model_validate({"limits": {"user_deactivate": {}}}), force=True)
    assert len(verdict.refusals) == 1
    assert "all 50 active accounts" in verdict.refusals[0]


def test_nothing_to_do_is_never_refused() -> None:
    assert judge(a_plan({}, owning(0)), Policy()) == Verdict()
