"""Limits, protection and disclosure do what the policy says."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.decide.guard import judge
from tasks.policy import (
    Limit,
    Policy,
)
from tasks.tell.rows import changes, plan_rows
from tests.support.policy_company import DEFAULT, LIMITS, of_a_hundred, ops, policy_with, reasons, the_plan

# ── limits ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name: str) -> None:
    kind, percent = LIMITS[name]

    def refused(count: int, policy: Policy) -> bool:
        return any(line.startswith(f"{name}:") for line in judge(of_a_hundred(kind, count), policy).stops)

    most = 99 if percent is None else percent
    assert not refused(most, Policy())
    assert refused(most + 1, Policy()) == (percent is not None)
    assert refused(3, policy_with(f"limits.{name}.absolute", 2))
    assert not refused(2, policy_with(f"limits.{name}.absolute", 2))
    assert refused(3, policy_with(f"limits.{name}.percent", 2))
    assert not refused(2, policy_with(f"limits.{name}.percent", 2))
    assert not refused(99, policy_with(f"limits.{name}", {})), "an empty limit is none, whatever the default"
    assert refused(1, policy_with(f"limits.{name}.percent", 0))


@pytest.mark.parametrize(
    ("limit", "owned", "allowed"),
    [
        ({}, 100, None),
        ({"absolute": 0}, 100, 0),
        ({"absolute": 7}, 5, 7),
        ({"percent": 10}, 9, 0),
        ({"percent": 10}, 29, 2),
        ({"percent": 29}, 100, 29),
        ({"percent": 0.1}, 1000, 1),
        ({"percent": 100}, 3, 3),
        ({"absolute": 5, "percent": 10}, 100, 5),
        ({"absolute": 50, "percent": 10}, 100, 10),
    ],
)
def test_a_limit_is_the_smaller_of_its_two(limit: dict[str, Any], owned: int, allowed: int | None) -> None:
    assert Limit.model_validate(limit).allowed(owned) == allowed


# ── protection and disclosure ───────────────────────────────────────────────────────────────────


def test_protection_users() -> None:
    assert "its username is a protected one" in reasons(DEFAULT)["p9"]
    open_ = the_plan(policy_with("protection.users", []))
    assert ("user_create", "admin", "") in ops(open_)
    made = the_plan(policy_with("protection.users", ["B*", "re:left|dan", "old-name"]))
    touched = {name for _, name, _ in ops(made)}
    assert {"bob", "left", "dan", "old-name"}.isdisjoint(touched)
    assert {"bob", "left", "dan", "old-name"} <= {name for _, name, _ in ops(DEFAULT)}


def test_protection_groups() -> None:
    made = the_plan(policy_with("protection.groups", ["STAFF", "re:in.*|fresh", "texts"]))
    closed = {"staff", "inner", "fresh", "texts"}
    assert not {row for row in ops(made) if closed & set(row[1:])}
    assert {row for row in ops(DEFAULT) if {"staff"} & set(row[1:])}
    assert "protected or privileged group" in reasons(made)["fresh"]


def test_protection_of_privileged_groups() -> None:
    filled = {("group_create", "jira-administrators", ""), ("membership_add", "bob", "jira-administrators")}
    assert "protected or privileged group" in reasons(DEFAULT)["jira"]
    assert not filled & ops(DEFAULT)
    assert filled <= ops(the_plan(policy_with("protection.privileged_groups", ["bamboo-*"])))
    assert filled <= ops(the_plan(policy_with("protection.privileged_allowed", ["Jira-Administrators"])))
    assert not filled & ops(the_plan(policy_with("protection.privileged_allowed", ["confluence-administrators"])))
    made = the_plan(policy_with("protection.privileged_groups", ["staff", "re:fr.*"]))
    assert not {row for row in ops(made) if {"staff", "fresh"} & set(row[1:])}


@pytest.mark.parametrize("disclose", ["names", "values"])
def test_disclose(disclose: str) -> None:
    policy = policy_with("disclose", disclose, attributes={"extra": {"crew": "team"}})
    rows = {
        (row["what"], row["who"]): row["changes"] for row in plan_rows(the_plan(policy).operations, policy.disclose)
    }
    assert rows["update", "bob"] == ("email" if disclose == "names" else "email: old@x.org → bob@x.org")
    assert rows["set attributes", "bob"] == ("crew" if disclose == "names" else "crew: green → blue")
    assert rows["create account", "ann.lee"] == ""


def test_disclosed_changes_of_nothing_are_nothing() -> None:
    assert changes("", "", "values") == ""
    assert Policy().disclose == "names"
