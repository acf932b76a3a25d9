"""What happens to people and groups that are gone is what the policy says."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.policy import (
    Policy,
)
from tests.support.model_crowd import ModelLinks
from tests.support.policy_company import (
    ACTIONS,
    LONG_AGO,
    WAYS,
    before_they_left,
    departed,
    leaving,
    named,
    ops,
    policy_with,
    reasons,
    the_leavers,
    the_plan,
)
from tests.support.worlds import NOW, applied, mark

WHY = {"out_of_scope": "is out of scope", "disabled": "is disabled in the source", "deleted": "is gone from the source"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("action", ACTIONS)
def test_leavers(way: str, action: str) -> None:
    """Each action for each way to leave, while nothing happens to those who left in another way."""
    made = the_leavers(leaving(**{way: action}))
    assert ops(made) == named(ACTIONS[action], WAYS[way])
    of_people = made.operations[made.operations["kind"].str.startswith("user")]
    assert set(of_people["reason"]) <= {WHY[way]}
    assert set(of_people["source_id"]) <= {WAYS[way]}
    told = {WAYS[one]: WHY[one] for one in WAYS}
    assert dict(zip(made.leavers["id"], made.leavers["why"], strict=True)) == told, "whatever is done about it"


def test_leavers_by_default() -> None:
    leavers = Policy().leavers
    assert {leavers.out_of_scope, leavers.disabled, leavers.deleted} == {"deactivate"}
    assert leavers.delete_after_days is None


def test_who_has_left_already_is_left_alone() -> None:
    made = departed()
    for action in ("deactivate", "take_groups", "deactivate_and_take_groups"):
        policy, crowd = leaving(**dict.fromkeys(WAYS, action)), made.crowd.copy()
        applied(the_leavers(policy, world=replace(made, crowd=crowd)), crowd, made.links.copy(), random.Random(1))
        again = the_leavers(policy, world=replace(made, crowd=crowd))
        assert again.operations.empty, action
        assert set(again.leavers["id"]) == set(WAYS.values()), "they are still away: the days go on"


JUST_NOT = [(who, NOW - timedelta(days=30) + timedelta(seconds=1)) for who in WAYS.values()]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("action", ACTIONS)
def test_leavers_are_deleted_after_days(way: str, action: str) -> None:
    if action in ("delete", "nothing"):
        with pytest.raises(ValidationError, match="delete_after_days has nobody to wait for"):
            leaving(**{way: action}, delete_after_days=30)
        return
    policy, who = leaving(**{way: action}, delete_after_days=30), WAYS[way]
    late = the_leavers(policy, LONG_AGO)
    assert ops(late) == {("user_delete", who, "")}
    assert list(late.operations["reason"]) == [f"{WHY[way]} since 2026-10-26"]
    assert ops(the_leavers(policy, JUST_NOT)) == named(ACTIONS[action], who)
    others = [one for one in LONG_AGO if one[0] != who]
    assert ops(the_leavers(policy, others)) == named(ACTIONS[action], who)
    assert ops(the_leavers(policy)) == named(ACTIONS[action], who), "nobody knows since when"
    never = leaving(**{way: action})
    assert ops(the_leavers(never, LONG_AGO)) == named(ACTIONS[action], who)


def test_days_count_only_for_those_who_are_away() -> None:
    policy = leaving(out_of_scope="deactivate", delete_after_days=1)
    made = the_leavers(policy, [("stays", NOW - timedelta(days=3000)), *LONG_AGO])
    assert ops(made) == {("user_delete", "out", "")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("action", ACTIONS)
def test_who_returns_gets_the_same_account_and_memberships_back(way: str, action: str) -> None:
    policy, rng, who = leaving(**{way: action}), random.Random(2), WAYS[way]
    before, after = before_they_left(), departed()
    crowd, links = before.crowd.copy(), ModelLinks()
    applied(the_leavers(policy, world=replace(after, crowd=crowd)), crowd, links, rng)
    gone = crowd.state()
    assert (gone == before.crowd.state()) == (action == "nothing")
    policy = policy.model_copy(update={"scope": Policy().scope})
    applied(the_leavers(policy, world=replace(before, crowd=crowd, links=links)), crowd, links, rng)
    state, was = crowd.state(), before.crowd.state()
    if action == "delete":  # there is a new account of the same name
        assert state[f"user {who}"].pop("key") > was[f"user {who}"].pop("key")
    assert state == was


@pytest.mark.parametrize(
    ("given", "late"), [({"disabled": "delete"}, False), ({"disabled": "take_groups", "delete_after_days": 30}, True)]
)
def test_an_account_that_was_nobodys_is_not_taken_in_order_to_be_deleted(given: dict[str, Any], late: bool) -> None:
    world = departed()
    del world.crowd.users["off"]["attributes"]
    world.crowd.users["off"]["attributes"] = {"theirs": ["x"]}
    policy = leaving(**given)
    policy = policy.model_copy(
        update={"matching": Policy.model_validate({"matching": {"users": ["username"]}}).matching}
    )
    made = the_leavers(policy, LONG_AGO if late else (), world)
    assert made.operations.empty, made.operations.to_string()
    since = " since 2026-10-26" if late else ""
    why = f"is disabled in the source{since}, and its Crowd account is nobody's: delete that by hand"
    assert reasons(made) == {"off": why}
    del world.crowd.users["off"]["attributes"]["theirs"]
    world.crowd.users["off"]["attributes"] = mark("off")
    assert ops(the_leavers(policy, LONG_AGO if late else (), world)) == {("user_delete", "off", "")}, "it is ours"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("empty", {("membership_remove", "bob", "gone-group")}),
        ("delete", {("group_delete", "gone-group", "")}),
        ("nothing", set()),
    ],
)
def test_leavers_groups(value: str, expected: set[tuple[str, str, str]]) -> None:
    made = the_plan(policy_with("leavers.groups", value, operations={"group_delete": value == "delete"}))
    assert {row for row in ops(made) if "gone-group" in row} == expected
