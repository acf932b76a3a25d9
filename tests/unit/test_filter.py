"""The filter on frames of a few rows: who and what is in scope."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.errors import ConfigurationError
from connectors.model import (
    held_frame,
)
from tasks.decide.filter import Scoped, in_scope
from tests.support.frames import pairs, person, policy_with, snapshot, team

COMPANY = snapshot(
    [person(key, name) for key, name in (("1", "ann"), ("2", "Bob"), ("3", "cy"), ("4", "svc-build"), ("5", "dan"))],
    [team("a", "App Users"), team("b", "app-admins"), team("c", "Core"), team("d", "deep"), team("e", "x.y")],
    [
        ("a", "1", "user"),
        ("b", "2", "user"),
        ("c", "d", "group"),
        ("d", "3", "user"),
        ("d", "a", "group"),
        ("a", "c", "group"),  # a circle: Core → deep → App Users → Core
        ("e", "4", "user"),
    ],
)


def scoped(**scope: Any) -> Scoped:
    return in_scope(COMPANY, policy_with(scope=scope))


@pytest.mark.parametrize(
    ("scope", "groups"),
    [
        ({}, "abcde"),
        ({"groups": ["app*"]}, "ab"),
        ({"groups": ["APP?admins"]}, "b"),
        ({"groups": ["core", "deep"]}, "cd"),
        ({"groups": ["x.y"]}, "e"),
        ({"groups": ["re:APP.*"]}, "ab"),
        ({"groups": ["re:core|deep"]}, "cd"),
        ({"groups": ["app", "core"]}, "c"),
        ({"groups": ["c.re", "re:app", "deep"]}, "d"),
        ({"exclude_groups": ["app*"]}, "cde"),
        ({"exclude_groups": ["?*"]}, ""),
        ({"groups": ["app*", "core"], "exclude_groups": ["re:.*admins", "CORE"]}, "a"),
    ],
)
def test_filter_takes_and_leaves_groups_by_pattern(scope: dict[str, Any], groups: str) -> None:
    found = scoped(**scope)
    assert list(found.snapshot.groups["id"]) == list(groups)
    assert sorted(found.groups_out) == sorted(set("abcde") - set(groups))
    assert list(found.snapshot.users["id"]) == list("12345"), "people are not left out with their groups"
    inside = set(groups)
    expected = {p for p in pairs(COMPANY.memberships) if p[0] in inside and (p[2] == "user" or p[1] in inside)}
    assert pairs(found.snapshot.memberships) == expected


@pytest.mark.parametrize(
    ("scope", "people"),
    [
        ({}, "12345"),
        ({"required_groups": ["app users"]}, "13"),  # cy: App Users → Core → deep
        ({"required_groups": ["core"]}, "13"),
        ({"required_groups": ["app-*"]}, "2"),
        ({"required_groups": ["app-admins", "re:x[.]y"]}, "24"),
        ({"required_groups": ["core"], "exclude_groups": ["?*"]}, "13"),  # required groups need not be synced
        ({"required_groups": ["core", "nothing"]}, "13"),
        ({"members_only": True}, "1234"),
        ({"members_only": True, "groups": ["deep"]}, "13"),
        ({"members_only": True, "groups": ["app*"], "exclude_groups": ["app users"]}, "2"),
        ({"members_only": True, "required_groups": ["app-admins", "core"], "exclude_groups": ["app-*"]}, "13"),
        ({"exclude_users": ["SVC-*"]}, "1235"),
        ({"exclude_users": ["re:b.b|c"]}, "1345"),
        ({"exclude_users": ["ann"], "required_groups": ["core"]}, "3"),
    ],
)
def test_filter_takes_people_by_group_and_by_name(scope: dict[str, Any], people: str) -> None:
    found = scoped(**scope)
    assert list(found.snapshot.users["id"]) == list(people)
    assert sorted(found.users_out) == sorted(set("12345") - set(people))
    assert {p[1] for p in pairs(found.snapshot.memberships) if p[2] == "user"} <= set(people)


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ({"groups": ["app"]}, "scope.groups matches no group: 5 groups were looked at"),
        ({"groups": ["c.re"]}, "scope.groups matches no group"),
        ({"groups": ["re:app"]}, "scope.groups matches no group"),
        ({"groups": ["app*"], "exclude_groups": ["re:app.*"]}, "scope.groups matches no group"),
        (
            {"required_groups": ["nothing"]},
            "scope.required_groups leaves nobody in scope: 5 people were looked at, and",
        ),
        (
            {"required_groups": ["core"], "exclude_users": ["ann", "cy"]},
            "scope.required_groups leaves nobody in scope: 5 people were looked at, 3 of whom pass the rules before it",
        ),
        ({"users": ["zoe"]}, "scope.users leaves nobody in scope: 5 people were looked at, and none passes it"),
        ({"exclude_users": ["?*"]}, "scope.exclude_users leaves nobody in scope"),
        ({"members_only": True, "groups": ["core", "re:.*none"], "exclude_groups": ["re:x"]}, ""),
        (
            {"members_only": True, "groups": ["app-admins"], "exclude_users": ["bob"]},
            "scope.members_only leaves nobody",
        ),
    ],
)
def test_filter_refuses_a_scope_that_matches_nobody_or_nothing(scope: dict[str, Any], words: str) -> None:
    """Else a slip in a pattern would look as if everybody had left."""
    if not words:
        assert list(scoped(**scope).snapshot.users["id"]) == ["1", "3"]
        return
    with pytest.raises(ConfigurationError, match=f"^{re.escape(words)}.* Nothing is written$"):
        scoped(**scope)


@pytest.mark.parametrize("field", ["groups", "users"])
def test_an_empty_scope_is_refused_by_the_policy_itself(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field} is empty, so the scope has none"):
        policy_with(scope={field: []})
    with pytest.raises(ValidationError, match="the scope matches nobody"):
        policy_with(scope={f"exclude_{field}": ["*"]})


def test_filter_tells_a_user_from_a_group_of_the_same_id() -> None:
    both = snapshot(
        [person("1", "ann"), person("2", "bob")],
        [team("1", "one"), team("2", "two")],
        [("1", "1", "user"), ("2", "1", "group"), ("2", "2", "user")],
    )
    found = in_scope(both, policy_with(scope={"groups": ["two"], "exclude_users": ["bob"]})).snapshot
    assert pairs(found.memberships) == set()
    found = in_scope(both, policy_with(scope={"required_groups": ["one"]})).snapshot
    assert list(found.users["id"]) == ["1"]
    assert pairs(found.memberships) == {("1", "1", "user"), ("2", "1", "group")}


def test_filter_keeps_what_is_held() -> None:
    held = [("user", "9", "zoe", "validate", "email is not an address")]
    source = snapshot([person("1", "ann"), person("2", "bob")], held=held)
    found = in_scope(source, policy_with(scope={"exclude_users": ["bob"]}))
    assert found.snapshot.held.equals(held_frame(held))


@pytest.mark.parametrize("scope", [{"required_groups": ["x"]}, {"members_only": True}, {"groups": ["x"]}])
def test_filter_of_an_empty_snapshot_is_empty(scope: dict[str, Any]) -> None:
    found = in_scope(snapshot(), policy_with(scope=scope)).snapshot
    assert found.users.empty
    assert found.groups.empty
