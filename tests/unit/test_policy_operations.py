"""Kinds of operation that a policy switches off, or has told and not done."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from connectors.model import ID_ATTRIBUTE
from connectors.operations import Kind
from tasks.decide.plan import COLUMNS
from tasks.decide.selection import Selection
from tasks.policy import (
    FEATURES,
    Policy,
)
from tests.support.policy_company import DELETING, KINDS, ops, policy_with, the_plan, world
from tests.support.worlds import planned


def with_feature(name: str, value: Any) -> Policy:
    """A policy with this feature so, under which there is something for it to do."""
    more = deepcopy(DELETING.get(name, {}))
    if value in ("off", False) and more:  # such a policy is made only by leaving out what is dangerous
        return policy_with(f"operations.{name}", "on", **more).without(Kind(kind) for kind in KINDS[name])
    return policy_with(f"operations.{name}", value, **more)


def rows_of(frame: pd.DataFrame, *kinds: str) -> list[tuple[Any, ...]]:
    chosen = frame[frame["kind"].isin(kinds)][list(COLUMNS)]
    return sorted(chosen.itertuples(index=False, name=None))


def test_every_feature_is_here() -> None:
    assert set(KINDS) == set(Policy().operations.model_dump())
    assert {kind for kinds in KINDS.values() for kind in kinds} == {kind for kind, of in FEATURES.items() if of}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("off", ["off", False])
def test_an_operation_that_is_off_is_withheld_and_counted(name: str, off: str | bool) -> None:
    whole, made = the_plan(with_feature(name, "on")), the_plan(with_feature(name, off))
    assert with_feature(name, True) == with_feature(name, "on")
    for kind in KINDS[name]:
        assert whole.counts().get(kind), f"the whole plan has no {kind}"
        assert kind not in made.counts()
        assert made.withheld[kind] == whole.counts()[kind]
        assert kind not in whole.withheld
        assert not with_feature(name, off).operations.allows(Kind(kind))
    assert made.reported.empty
    assert set(made.withheld) == set(KINDS[name])
    for other in set(KINDS) - {name, "membership_add"}:
        for kind in set(KINDS[other]) - {"user_update"}:
            assert made.counts().get(kind) == whole.counts().get(kind), kind


@pytest.mark.parametrize("name", KINDS)
def test_an_operation_on_report_is_told_with_its_reason_and_not_done(name: str) -> None:
    whole, off, made = (the_plan(with_feature(name, value)) for value in ("on", "off", "report"))
    assert rows_of(made.reported, *KINDS[name]) == rows_of(whole.operations, *KINDS[name])
    assert set(made.reported["kind"]) == set(KINDS[name]), "nothing else is reported"
    assert (made.reported["reason"] != "").all()
    assert made.withheld == off.withheld
    assert made.operations.equals(off.operations), "else it is as if it were off"
    assert whole.reported.empty


@pytest.mark.parametrize("name", ["user_delete", "group_delete"])
def test_deletions_are_off_until_they_are_allowed(name: str) -> None:
    (field, value), *_ = DELETING[name]["leavers"].items()
    with pytest.raises(ValidationError, match=f"leavers.{field} is '{value}' while operations.{name} is off"):
        policy_with(f"leavers.{field}", value)
    assert the_plan(with_feature(name, "on")).counts()[name] == 1
    assert name not in the_plan(policy_with(f"operations.{name}", True)).counts(), "allowed is not asked for"
    assert not Policy().operations.allows(Kind(name))


@pytest.mark.parametrize("update", ["on", "off", "report"])
def test_attributes_on_report_are_told_and_counted_and_marks_are_done(update: str) -> None:
    more: dict[str, Any] = {"attributes": {"extra": {"crew": "team"}}, "matching": {"users": ["id", "username"]}}
    made = the_plan(policy_with("operations.user_update", update, **more))
    marked = [row for row in rows_of(made.operations, "user_attributes") if ID_ATTRIBUTE in row[4]]
    assert [row[1] for row in marked] == ["unowned"]
    change: tuple[str, ...] = ("user_attributes", "bob", "", "p2", '{"attributes":{"crew":["blue"]}}')
    change += ('{"attributes":{"crew":["green"]}}', "differs from the source")
    assert (change in rows_of(made.operations, "user_attributes")) == (update == "on")
    assert (change in rows_of(made.reported, "user_attributes")) == (update == "report")
    assert made.withheld.get("user_attributes", 0) == (update != "on")


@pytest.mark.parametrize("update", [True, False])
def test_attributes_are_updates_and_marks_are_not(update: bool) -> None:
    policy = policy_with(
        "operations.user_update", update, attributes={"extra": {"crew": "team"}}, matching={"users": ["id", "username"]}
    )
    changed = the_plan(policy)
    assert (("user_attributes", "bob", "") in ops(changed)) == update
    assert ("user_attributes", "unowned", "") in ops(changed)


def test_only_who_signed_in_is_let_in_again() -> None:
    policy, made = policy_with("operations.user_activate", "sign_in"), world()
    [(_, name, _)] = [one for one in ops(the_plan(Policy())) if one[0] == "user_activate"]
    wide = the_plan(policy)
    assert "user_activate" not in wide.counts()
    assert wide.withheld["user_activate"] == 1, "what is not done is counted"
    assert policy.operations.allows(Kind.USER_ACTIVATE)
    for signed_in in ("p5", "p1"):
        few = Selection(people=frozenset({"p5", "p1"}), signed_in=frozenset({signed_in}))
        found = planned(made.source(), made.crowd, made.links, policy, selection=few)
        assert (("user_activate", name, "") in ops(found)) == (signed_in == "p5")
