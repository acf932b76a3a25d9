"""The pure stages one by one: filter, map, match, plan and validate, each on frames of a few rows."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import ValidationError

from connectors.errors import ConfigurationError, RefusedError
from connectors.model import (
    ID_ATTRIBUTE,
    Snapshot,
    crowd_id,
    groups_frame,
    held_frame,
    users_frame,
)
from connectors.operations import Kind
from connectors.store import Store
from tasks.decide.filter import Scoped, in_scope, ruled
from tasks.decide.map import FIELDS, desired, usernames
from tasks.decide.match import Matched, match
from tasks.decide.plan import MARKS, PHASES, Plan, plan
from tasks.policy import Policy, Usernames
from tasks.read import validate
from tasks.read.snapshot import check
from tests.support.frames import pairs, person, policy_with, reasons, snapshot, team
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE, applied, planned

# ── filter ──────────────────────────────────────────────────────────────────────────────────────

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


# ── map ─────────────────────────────────────────────────────────────────────────────────────────

WIDE = "Ａｎｎ"
APART = "Jose\u0301"


@pytest.mark.parametrize(
    ("rules", "name", "result"),
    [
        ({}, "Ann.Lee", "ann.lee"),
        ({}, "  Ann ", "ann"),
        ({}, "\u00a0Ann\u3000", "ann"),
        ({"case": "keep"}, "Ann.Lee", "Ann.Lee"),
        ({}, WIDE, "ann"),
        ({"normalise": "NFC"}, WIDE, WIDE.lower()),
        ({"normalise": "none"}, WIDE, WIDE.lower()),
        ({"normalise": "NFC"}, APART, "jos\u00e9"),
        ({"normalise": "none"}, APART, "jose\u0301"),
        ({"rules": [{"pattern": "@.*$", "replacement": ""}]}, "ann@x.org", "ann"),
        ({"rules": [{"pattern": r"^(\w+)\.(\w+)$", "replacement": r"\2_\1"}]}, "Ann.Lee", "lee_ann"),
        ({"rules": [{"pattern": "a", "replacement": "b"}, {"pattern": "b", "replacement": "c"}]}, "ab", "cc"),
        ({"rules": [{"pattern": "b", "replacement": "c"}, {"pattern": "a", "replacement": "b"}]}, "ab", "bc"),
        ({"rules": [{"pattern": "A", "replacement": "x"}]}, "Aa", "xa"),  # rules come before the case
        ({"rules": [{"pattern": "(?i)A", "replacement": "x"}]}, "Aa", "xx"),
        ({"rules": [{"pattern": "^A", "replacement": "x"}]}, WIDE, "xnn"),  # and after the normalisation
        ({"rules": [{"pattern": r"[\p{Lu}ß]", "replacement": "-"}]}, "É1ß", "-1-"),
        ({"rules": [{"pattern": "$", "replacement": " "}]}, "ann", "ann"),  # blanks go last
        ({"rules": [{"pattern": "l", "replacement": ""}]}, "all", "a"),
        ({"source": "email"}, "ignored", "ann.lee@x.org"),
        ({"source": "email", "rules": [{"pattern": "@.*", "replacement": ""}]}, "ignored", "ann.lee"),
    ],
)
def test_map_makes_the_username(rules: dict[str, Any], name: str, result: str) -> None:
    users = users_frame([person("1", name, "Ann.Lee@X.org")])
    assert list(usernames(users, Usernames.model_validate(rules))) == [result]
    assert list(desired(snapshot([person("1", name, "Ann.Lee@X.org")]), policy_with(usernames=rules)).users["id"]) == [
        "1"
    ]


FILLED = person("1", "ann", "a@x.org", attributes={"mail2": ["b@x.org", "c@x.org"], "team": ["red", "blue"], "e": []})


@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({}, "email", "a@x.org"),
        ({"email": "mail2"}, "email", "b@x.org"),
        ({"email": "missing"}, "email", ""),
        ({"email": "e"}, "email", ""),
        ({"first_name": "last_name"}, "first_name", "L"),
        ({"first_name": "last_name", "last_name": "first_name"}, "last_name", "F"),
        ({"display_name": "username"}, "display_name", "ann"),
        ({"display_name": "id"}, "display_name", "1"),
        ({"last_name": "team"}, "last_name", "red"),
    ],
)
def test_map_fills_fields(fields: dict[str, str], field: str, value: str) -> None:
    users = desired(snapshot([FILLED]), policy_with(attributes={"fields": fields})).users
    assert users[field].iloc[0] == value


def test_map_takes_the_username_from_the_source_not_from_the_mapped_email() -> None:
    policy = policy_with(usernames={"source": "email"}, attributes={"fields": {"email": "mail2"}})
    users = desired(snapshot([FILLED]), policy).users
    assert (users["username"].iloc[0], users["email"].iloc[0]) == ("a@x.org", "b@x.org")


def test_map_has_only_the_attributes_that_are_named() -> None:
    assert desired(snapshot([FILLED]), Policy()).users["attributes"].iloc[0] == "{}"
    mapping = {"extra": {"crew": "team", "none": "missing", "empty": "e"}}
    assert desired(snapshot([FILLED]), policy_with(attributes=mapping)).users["attributes"].iloc[0] == (
        '{"crew":["red","blue"]}'
    )


@pytest.mark.parametrize("name", ["active", "attributes"])
def test_map_fills_a_field_from_an_attribute_that_is_called_like_a_column(name: str) -> None:
    user = person("1", "ann", attributes={name: ["yes"]})
    users = desired(snapshot([user]), policy_with(attributes={"fields": {"display_name": name}})).users
    assert list(users["display_name"]) == ["yes"]


LONG = "x" * 256
EMOJI = "😀" * 128
"""128 characters, 256 of Java's."""


@pytest.mark.parametrize(
    ("user", "rules", "words"),
    [
        (person("1", LONG), {}, "username is longer than Crowd's 255"),
        (person("1", EMOJI), {}, "username is longer"),
        (person("1", ""), {}, "leave nothing"),
        (person("1", " \u00a0\u3000"), {}, "leave nothing"),
        (person("1", "ann"), {"source": "email"}, "leave nothing"),
        (person("1", "ann", "n/a"), {"source": "email"}, "leave nothing"),
        (person("1", "ann"), {"rules": [{"pattern": "^ann$", "replacement": " "}]}, "leave nothing"),
    ],
)
def test_map_holds_what_does_not_fit(user: tuple[Any, ...], rules: dict[str, Any], words: str) -> None:
    other = person("2", "bob", "bob@x.org")
    policy = policy_with(usernames=rules, attributes={"extra": {"crew": "team"}})
    found = desired(snapshot([user, other]), policy)
    assert list(found.users["id"]) == ["2"]
    assert found.held[["kind", "id", "name", "stage"]].to_numpy().tolist() == [["user", "1", user[1], "map"]]
    assert words in found.held["reason"].iloc[0]


NO_ADDRESSES = ("n/a", "nowhere", "a b@x.org", "a@b@x.org", "@x.org", "ann@", "-", "a@x\u2003.org", "a,b@c@d")
ODD = [
    *(({"email": text}, "email is no address") for text in NO_ADDRESSES),
    *(({"email": text}, "email has control characters") for text in ("a@x\x00.org", "a\x7f@x.org", "a\n@x.org")),
    ({"email": f"{LONG}@x.org"}, "email is longer than Crowd's 255 characters"),
    *(
        ({field: text}, f"{field} {words}")
        for field in ("first_name", "last_name", "display_name")
        for text, words in (
            (LONG, "is longer than Crowd's 255 characters"),
            (EMOJI, "is longer than Crowd's 255 characters"),
            ("A\x00n", "has control characters"),
            ("A\x1b[31mn", "has control characters"),
            ("A\nn", "has control characters"),
        )
    ),
    *(
        ({"attributes": {"team": values}}, f"the attribute crew {words}")
        for values, words in (
            (["ok", LONG], "is longer than Crowd's 255 characters"),
            ([EMOJI], "is longer than Crowd's 255 characters"),
            (["a\x00"], "has control characters"),
            (["ok", "a\x1bb"], "has control characters"),
            (["a\x7fb"], "has control characters"),
        )
    ),
]


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(("more", "words"), ODD)
def test_map_leaves_out_what_nobody_needs_and_says_so(more: dict[str, Any], words: str, active: bool) -> None:
    rest = {"email": "ann@x.org", "attributes": {"team": ["core"]}, "active": active} | more
    policy = policy_with(attributes={"extra": {"crew": "team"}})
    found = desired(snapshot([person("1", "ann", **rest), person("2", "bob")]), policy)
    assert found.held.empty
    assert found.warnings.to_numpy().tolist() == [["user", "1", "ann", "map", f"{words} and was left out", ""]]
    ann = found.users.iloc[0]
    assert bool(ann["active"]) is active
    for field in ("email", "first_name", "last_name", "display_name"):
        assert ann[field] == ("" if field in more else rest.get(field) or person("", "")[2:6][FIELDS.index(field)])
    assert orjson.loads(ann["attributes"]) == {"crew": None if "attributes" in more else ["core"]}


def test_what_is_left_out_stays_in_crowd_as_it_is_and_is_no_part_of_a_new_account() -> None:
    rows = [person("1", "ann", "a@x.org", attributes={"team": ["core"], "floor": ["1"]}), person("2", "bob", "b@x.org")]
    policy = policy_with(attributes={"extra": {"crew": "team", "floor": "floor"}})
    crowd, links = ModelCrowd(), ModelLinks()
    applied(planned(snapshot(rows), crowd, links, policy), crowd, links, random.Random(1))
    before = {name: dict(user) for name, user in crowd.users.items()}
    odd = person("1", "ann", "n/a", first_name=LONG, attributes={"team": ["ok", LONG], "floor": ["2"]})
    new = person("3", "cyd", "c@x.org", display_name="\x00", attributes={"team": ["\x01"], "floor": ["1"]})
    made = planned(snapshot([odd, rows[1], new]), crowd, links, policy)
    assert made.held.empty
    assert set(made.operations["kind"]) == {Kind.USER_ATTRIBUTES, Kind.USER_CREATE}
    applied(made, crowd, links, random.Random(1))
    assert {**crowd.users["ann"], "attributes": None} == {**before["ann"], "attributes": None}
    assert crowd.users["ann"]["attributes"]["crew"] == ["core"]
    assert crowd.users["ann"]["attributes"]["floor"] == ["2"]
    assert "crew" not in crowd.users["cyd"]["attributes"]
    assert planned(snapshot([odd, rows[1], new]), crowd, links, policy).operations.empty


@pytest.mark.parametrize("email", ["ralf@corp.example ", "n/a", "", LONG, "a@b\x00.c"])
def test_a_leaver_with_a_bad_field_leaves(email: str) -> None:
    crowd, links = ModelCrowd(), ModelLinks()
    rows = [person("1", "ralf", "ralf@corp.example"), person("2", "bob")]
    applied(planned(snapshot(rows), crowd, links, Policy()), crowd, links, random.Random(1))
    source = validate.trimmed(snapshot([person("1", "ralf", email, active=False), rows[1]]))
    made = planned(source, crowd, links, Policy())
    assert ops(made) == [("user_deactivate", "ralf", "")]
    assert made.held.empty


CORP = {"conditions": [{"all": [{"field": "email", "operator": "ends_with", "values": ["@corp.example"]}]}]}


@pytest.mark.parametrize(
    ("scope", "field", "held"),
    [
        (CORP, "email", True),
        ({"conditions": [{"all": [{"field": "email", "operator": "is_absent"}]}]}, "email", True),
        (CORP, "display_name", False),
        ({"conditions": [{"all": [{"field": "a.b", "operator": "not_equals", "values": ["x"]}]}]}, "a.b", True),
        ({"conditions": [{"all": [{"field": "a.b", "operator": "is_present"}]}]}, "a", False),
        ({"exclude_users": ["ann"]}, "email", False),
    ],
)
def test_a_field_that_could_not_be_read_puts_nobody_in_or_out_of_scope(
    scope: dict[str, Any], field: str, held: bool
) -> None:
    """Neither whom it would fit nor whom it would not; and whom another rule shuts out, is out."""
    people = [person("1", "zoe", attributes={"a.b": ["y"]}), person("2", "off", active=False)]
    whole = snapshot([*people, person("3", "ann"), person("4", "eve", "e@corp.example", attributes={"a.b": ["y"]})])
    told = [("user", key, "", "extract", f"{field} is not text and was left out", "") for key in "123"]
    policy = policy_with(scope={"exclude_users": ["ann"], **scope})
    plain, found = ruled(whole, policy), in_scope(replace(whole, warnings=held_frame(told)), policy)
    if not held:
        assert list(found.snapshot.users["id"]) == list(whole.users["id"][plain.users])
        assert found.snapshot.held.empty
        return
    assert set(found.snapshot.held["id"]) == {"1", "2"}
    assert found.snapshot.held["reason"].str.startswith(f"its {field} cannot be read, which scope.conditions").all()
    assert reasons(found.snapshot.held.assign(reason=found.snapshot.held["away"])) == {"1": "", "2": "disabled"}
    assert list(found.users_out) == ["3"] if "4" in set(found.snapshot.users["id"]) else ["3", "4"]


def test_warnings_of_people_out_of_scope_are_not_told() -> None:
    told = [("user", key, "", "extract", "email is not text and was left out", "") for key in "12"]
    told.append(("group", "1", "", "extract", "description is not text and was left out", ""))
    whole = replace(snapshot([person("1", "ann"), person("2", "bob")]), warnings=held_frame(told))
    policy = policy_with(scope={"exclude_users": ["bob"]})
    assert list(desired(in_scope(whole, policy).snapshot, policy).warnings["id"]) == ["1"]


def test_map_takes_lines_in_descriptions_and_leaves_other_control_characters_out() -> None:
    found = desired(snapshot([], [team("a", "A", "one\r\n\ttwo"), team("b", "B", "be\x07ll")]), Policy())
    assert list(found.groups["description"]) == ["one\r\n\ttwo", ""]
    assert found.held.empty
    why = "description has control characters and was left out"
    assert found.warnings.to_numpy().tolist() == [["group", "b", "B", "map", why, ""]]


@pytest.mark.parametrize("text", ["x" * 255, "😀" * 127 + "x"])
def test_map_keeps_what_just_fits(text: str) -> None:
    email = f"{text[:-6]}@x.org"[-255:]
    row = person("1", text, email, first_name=text, last_name=text, display_name=text, attributes={"team": [text]})
    found = desired(snapshot([row], [team("g", text, text)]), policy_with(attributes={"extra": {"crew": "team"}}))
    assert found.held.empty
    assert found.warnings.empty
    assert found.users["email"].iloc[0] == email
    assert found.groups["description"].iloc[0] == text


def test_map_does_not_hold_for_what_is_not_mapped() -> None:
    row = person("1", "ann", LONG, attributes={"team": [LONG]})
    found = desired(snapshot([row]), policy_with(attributes={"fields": {"email": "other"}}))
    assert found.held.empty
    assert found.warnings.empty


def test_map_trims_group_names_and_cuts_descriptions() -> None:
    found = desired(snapshot([], [team("a", " Core\u00a0", "😀" * 200), team("b", LONG)]), Policy())
    assert list(found.groups["name"]) == ["Core"], "groups keep their case"
    assert found.groups["description"].iloc[0] == "😀" * 127
    assert list(found.held["kind"]) == ["group"]
    assert "name is longer" in reasons(found.held)["b"]


def test_no_group_of_no_name_gets_into_a_plan() -> None:
    blank = dict(zip("abcde", ["", "  ", "\u00a0", "\u3000", "\u2003"], strict=True))
    source = snapshot([person("1", "ann")], [*(team(key, name) for key, name in blank.items()), team("h", "Core")])
    source = validate.without(source, validate.broken_rows(source))
    made = the_plan(source, ModelCrowd())
    assert list(made.operations.loc[made.operations["kind"] == Kind.GROUP_CREATE, "name"]) == ["Core"]
    assert set(reasons(made.held)) == set(blank)


@pytest.mark.parametrize(
    ("one", "two"),
    [("ann", "Ann"), ("ann", WIDE), ("ann", " ann"), ("jos\u00e9", APART), ("strasse", "straße"), ("ann", "аnn")],
)
@pytest.mark.parametrize("case", ["lower", "keep"])
def test_newcomers_whose_names_become_one_are_both_held(one: str, two: str, case: str) -> None:
    rows = [person("1", one), person("2", two), person("3", "other")]
    found = met(snapshot(rows), policy_with(usernames={"case": case, "normalise": "none"}))
    assert list(found.users["id"]) == ["3"]
    for key in ("1", "2"):
        reason = reasons(found.held)[key]
        assert repr(one) in reason
        assert repr(two) in reason
        same = crowd_id(one.strip()) == crowd_id(two.strip())
        assert ("become one name" if same else "look alike") in reason
    found = met(snapshot([], [team("1", one), team("2", two), team("3", "other")]), Policy())
    assert list(found.groups["id"]) == ["3"]
    same = crowd_id(one.strip()) == crowd_id(two.strip())
    assert ("become one name" if same else "look alike") in reasons(found.held)["1"]


def met(source: Snapshot, policy: Policy) -> Matched:
    """A source before an empty Crowd."""
    return match(desired(source, policy), ModelCrowd().snapshot(()), ModelLinks().frame(), policy, SOURCE)


def test_newcomers_whose_names_only_the_rules_make_one_are_held() -> None:
    rows = [person(str(n), f"ann@{n}.org") for n in range(7)]
    policy = policy_with(usernames={"rules": [{"pattern": "@.*", "replacement": ""}]})
    found = met(snapshot([*rows, person("9", "bob@9.org")]), policy)
    assert list(found.users["id"]) == ["9"]
    assert len(found.held) == 7
    assert "'ann@4.org' and 2 more become one name" in reasons(found.held)["0"]
    with pytest.raises(ConfigurationError, match=r"usernames\.rules give all 7 people one name, 'ann'; .*Nothing is"):
        desired(snapshot(rows), policy)
    teams = [team(str(n), f"red.{n}") for n in range(3)]
    policy = policy_with(groups={"rules": [{"pattern": "[.].*", "replacement": ""}]})
    assert set(reasons(met(snapshot([], [*teams, team("9", "blue")]), policy).held)) == {"0", "1", "2"}
    with pytest.raises(ConfigurationError, match=r"groups\.rules give all 3 groups one name, 'red'; .*Nothing is"):
        desired(snapshot([], teams), policy)


def test_map_passes_on_what_is_held_already_and_all_memberships() -> None:
    held = [("user", "9", "zoe", "validate", "why")]
    source = snapshot([person("1", "")], [team("g", "Core")], [("g", "1", "user"), ("g", "9", "user")], held)
    found = desired(source, Policy())
    assert list(found.held["id"]) == ["9", "1"]
    assert pairs(found.memberships) == {("g", "1", "user"), ("g", "9", "user")}


# ── match ───────────────────────────────────────────────────────────────────────────────────────


def mark(identity: str, source: str = SOURCE) -> dict[str, list[str]]:
    return {ID_ATTRIBUTE: [f"{source}:{identity}"]}


def links(*rows: tuple[str, str, str, str]) -> ModelLinks:
    """Rows of source, kind, id, name."""
    return ModelLinks({row[:3]: (row[3], "created") for row in rows})


def matched(
    source: Snapshot, crowd: ModelCrowd | Snapshot, known: ModelLinks | None = None, **matching: Any
) -> Matched:
    policy = policy_with(matching=matching)
    directory = crowd.snapshot() if isinstance(crowd, ModelCrowd) else crowd
    return match(desired(source, policy), directory, (known or ModelLinks()).frame(), policy, SOURCE)


def found_in(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    return {row.id: (row.account, row.how) for row in frame.itertuples()}


def four_ways() -> ModelCrowd:
    """An account that each key but the others would find for ann."""
    crowd = ModelCrowd()
    crowd.add_user("linked")
    crowd.add_user("marked", attributes=mark("1"))
    crowd.add_user("ann")
    crowd.add_user("mailed", email="A@x.org")
    return crowd


ALL = ("id", "username", "email")
LINKED = (SOURCE, "user", "1", "Linked")


@pytest.mark.parametrize(
    ("less", "link", "keys", "account", "how"),
    [
        ((), True, ALL, "linked", "link"),
        ((), True, ("email", "username"), "linked", "link"),
        ((), False, ALL, "marked", "id"),
        ((), False, ("email", "username", "id"), "marked", "id"),
        (("marked",), False, ALL, "ann", "username"),
        (("marked",), False, ("email", "username"), "mailed", "email"),
        (("marked", "ann"), False, ALL, "mailed", "email"),
        (("marked", "mailed"), False, ("id", "email", "username"), "ann", "username"),
        (("marked", "ann"), False, ("id", "username"), "", ""),
        (("marked", "ann"), False, ("id",), "", ""),
        (("marked", "ann", "mailed"), False, ALL, "", ""),
    ],
)
def test_match_goes_by_link_then_mark_then_the_keys_in_order(
    less: tuple[str, ...], link: bool, keys: tuple[str, ...], account: str, how: str
) -> None:
    crowd = four_ways()
    for name in less:
        del crowd.users[name]
    known = links(LINKED) if link else None
    result = matched(snapshot([person("1", "Ann", "a@X.org")]), crowd, known, users=keys)
    assert found_in(result.users) == {"1": (account, how)}
    assert result.held.empty


def test_match_holds_who_wants_an_unowned_name_that_it_may_not_adopt() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann")
    crowd.add_group("Core")
    result = matched(snapshot([person("1", "ann")], [team("g", "core")]), crowd)
    assert "to adopt it add 'username' to matching.users" in reasons(result.held)["1"]
    assert "to adopt it add 'name' to matching.groups" in reasons(result.held)["g"]
    assert result.users.empty
    assert result.groups.empty
    result = matched(
        snapshot([person("1", "ann")], [team("g", "core")]), crowd, users=["username"], groups=["id", "name"]
    )
    assert found_in(result.users) == {"1": ("ann", "username")}
    assert found_in(result.groups) == {"g": ("core", "name")}


def test_match_holds_what_is_ambiguous() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one", email="a@x.org")
    crowd.add_user("two", email="A@X.ORG")
    result = matched(snapshot([person("1", "ann", "a@x.org")]), crowd, users=["email"])
    way = "link the right one by hand: crowdsync links make"
    assert reasons(result.held) == {"1": f"its email fits 'one', 'two' of Crowd; {way}"}
    assert not result.users["account"].tolist()

    crowd = ModelCrowd()
    crowd.add_user("one", email="a@x.org")
    result = matched(snapshot([person("1", "ann", "a@x.org"), person("2", "bob", "a@x.org")]), crowd, users=["email"])
    why = f"its email fits 'ann', 'bob' of the source and 'one' of Crowd; {way}"
    assert reasons(result.held) == {"1": why, "2": why}
    assert result.users.empty


def test_match_does_not_go_by_an_empty_email() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one")
    result = matched(snapshot([person("1", "ann"), person("2", "bob")]), crowd, users=["email"])
    assert found_in(result.users) == {"1": ("", ""), "2": ("", "")}


def test_match_holds_who_has_a_mark_twice() -> None:
    crowd = ModelCrowd()
    crowd.add_user("one", attributes=mark("1"))
    crowd.add_user("two", attributes=mark("1"))
    result = matched(snapshot([person("1", "ann")]), crowd, users=ALL)
    assert "several Crowd users carry its id mark" in reasons(result.held)["1"]
    assert set(result.accounts["owner"]) == {""}
    result = matched(snapshot([person("1", "ann")]), crowd, links((SOURCE, "user", "1", "two")))
    assert found_in(result.users) == {"1": ("two", "link")}
    assert list(result.accounts["copied"]) == [True, False], "the other is a copy and stays as it is"


@pytest.mark.parametrize("how", ["link", "mark", "both"])
@pytest.mark.parametrize("keys", [("id",), ("id", "username", "email")])
def test_match_never_takes_what_another_source_owns(how: str, keys: tuple[str, ...]) -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", email="a@x.org", attributes=mark("7", "other") if how != "link" else {})
    group = crowd.add_group("core", mark="other:8" if how != "link" else "")
    assert group
    known = links(("other", "user", "7", "ann"), ("other", "group", "8", "core")) if how != "mark" else None
    source = snapshot([person("1", "ann", "a@x.org"), person("2", "zoe", "a@x.org")], [team("g", "Core")])
    result = matched(source, crowd, known, users=keys, groups=["id", "name"])
    assert found_in(result.users) == {"2": ("", "")}
    assert result.groups.empty
    for key in ("1", "g"):
        assert "another source owns" in reasons(result.held)[key]


def test_match_believes_neither_another_sources_link_nor_our_mark_where_they_differ() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", attributes=mark("1"))
    result = matched(snapshot([person("1", "ann")]), crowd, links(("other", "user", "7", "ANN")), users=ALL)
    assert "is another source by its link and acme:1 by its mark: neither is touched" in reasons(result.held)["1"]
    result = matched(snapshot([person("1", "ann")]), crowd, links((SOURCE, "user", "2", "ann")), users=ALL)
    assert result.accounts["owner"].tolist() == [""]
    assert "acme:2 by its link and acme:1 by its mark" in reasons(result.held)["1"]


def test_match_leaves_a_name_that_another_source_has_a_link_to() -> None:
    known = links(("other", "user", "7", "ann"), ("other", "group", "7", "bob"))
    result = matched(snapshot([person("1", "ann"), person("2", "bob")]), ModelCrowd(), known)
    assert "another source has a link to this name" in reasons(result.held)["1"]
    assert found_in(result.users) == {"2": ("", "")}, "a group's name is not a user's"


UNREAD = [("user", "bob", "Bob", "extract", "no username"), ("group", "core", "Core", "extract", "why")]


def test_match_reserves_the_names_of_records_that_cannot_be_read() -> None:
    source = snapshot([person("1", "bob"), person("2", "ann"), person("3", "core")], [team("g", "CORE")])
    result = matched(source, snapshot(held=UNREAD), links((SOURCE, "user", "2", "bob")))
    assert found_in(result.users) == {"3": ("", "")}
    for key, kind in (("1", "user"), ("2", "user"), ("g", "group")):
        assert f"its Crowd {kind} cannot be read" in reasons(result.held)[key], key


def test_nobody_is_renamed_to_the_name_of_a_record_that_cannot_be_read() -> None:
    crowd = ModelCrowd()
    crowd.add_user("ann", first_name="F", last_name="L", display_name="D", attributes=mark("1"))
    readable = crowd.snapshot()
    directory = Snapshot.of(readable.users, readable.groups, readable.memberships, held_frame(UNREAD))
    source, policy = snapshot([person("1", "bob")]), Policy()
    made = plan(
        match(desired(source, policy), directory, ModelLinks().frame(), policy, SOURCE),
        source,
        directory,
        policy,
        SOURCE,
    )
    assert made.operations.empty, made.operations.to_string()
    assert "1" in reasons(made.held)


# ── plan ────────────────────────────────────────────────────────────────────────────────────────


def the_plan(source: Snapshot, crowd: ModelCrowd, known: ModelLinks | None = None, **policy: Any) -> Plan:
    """The plan; applied to a copy it must do what it says and leave nothing to do."""
    rules, known = policy_with(**policy), known or ModelLinks()
    made = planned(source, crowd, known, rules)
    done, then = crowd.copy(), known.copy()
    applied(made, done, then, random.Random(1))
    assert planned(source, done, then, rules).operations.empty
    return made


def ops(made: Plan, *kinds: Kind) -> list[tuple[str, str, str]]:
    rows = made.operations[["kind", "name", "target"]].itertuples(index=False, name=None)
    return [row for row in rows if not kinds or row[0] in kinds]


def records(made: Plan, kind: Kind) -> list[dict[str, Any]]:
    return [orjson.loads(text) for text in made.operations.loc[made.operations["kind"] == kind, "record"]]


def same(name: str, key: str, crowd: ModelCrowd, **more: Any) -> dict[str, Any]:
    """An account as `person` has it, marked with the key."""
    values = {"first_name": "F", "last_name": "L", "display_name": "D"} | more
    return crowd.add_user(name, attributes=mark(key), **values)


def renamed(*moves: tuple[str, str], others: Sequence[str] = ()) -> Plan:
    """The plan where every account of the first names gets the second."""
    crowd = ModelCrowd()
    for n, (old, _) in enumerate(moves):
        same(old, str(n), crowd)
    for name in others:
        crowd.add_user(name)
    return the_plan(snapshot([person(str(n), new) for n, (_, new) in enumerate(moves)]), crowd)


def renames(made: Plan) -> list[tuple[str, str]]:
    return [(name, target) for _, name, target in ops(made, Kind.USER_RENAME)]


def test_plan_renames_a_chain_from_its_end() -> None:
    assert renames(renamed(("a", "b"), ("b", "c"), ("c", "d"))) == [("c", "d"), ("b", "c"), ("a", "b")]


def test_plan_swaps_by_stepping_aside() -> None:
    assert renames(renamed(("a", "b"), ("b", "a"))) == [("a", "a~1"), ("b", "a"), ("a~1", "b")]
    assert renames(renamed(("a", "b"), ("b", "a"), others=["A~1"]))[0] == ("a", "a~2")
    circle = renames(renamed(("a", "b"), ("b", "c"), ("c", "a"), ("d", "e")))
    assert sorted(new for _, new in circle) == ["a", "a~1", "b", "c", "e"]


def test_plan_holds_a_chain_whose_end_is_taken() -> None:
    made = renamed(("a", "b"), ("b", "c"), ("x", "y"), others=["c"])
    assert renames(made) == [("x", "y")]
    assert "a Crowd account of this name is there, and nobody's (now 'b')" in reasons(made.held)["1"]
    assert "waits for a name that another account keeps (now 'a')" in reasons(made.held)["0"]


def test_plan_renames_before_it_creates_under_the_old_name() -> None:
    crowd = ModelCrowd()
    same("ann", "1", crowd)
    made = the_plan(snapshot([person("1", "anna"), person("2", "ann")]), crowd)
    assert ops(made) == [("user_rename", "ann", "anna"), ("user_create", "ann", "")]


def test_plan_holds_a_circle_of_groups() -> None:
    source = snapshot(
        [person("1", "ann")],
        [team("a", "a"), team("b", "b"), team("c", "c"), team("d", "d")],
        [("a", "b", "group"), ("b", "c", "group"), ("c", "a", "group"), ("d", "d", "group"), ("d", "a", "group")],
    )
    made = the_plan(source, ModelCrowd())
    assert ops(made, Kind.NESTING_ADD) == [
        ("nesting_add", "b", "a"),
        ("nesting_add", "c", "b"),
        ("nesting_add", "a", "d"),
    ]
    circles = made.held[made.held["kind"] == "nesting"]
    assert sorted(circles["name"]) == ["a", "d"]
    assert circles["reason"].str.contains("would make a circle of groups").all()


def test_plan_turns_a_nesting_round() -> None:
    crowd = ModelCrowd()
    a, b = crowd.add_group("a", mark="acme:a"), crowd.add_group("b", mark="acme:b")
    crowd.nestings.add((a["key"], b["key"]))
    source = snapshot([person("1", "ann")], [team("a", "a"), team("b", "b")], [("b", "a", "group")])
    made = the_plan(source, crowd, operations={"user_create": False})
    assert ops(made) == [("nesting_remove", "b", "a"), ("nesting_add", "a", "b")]


def left_behind() -> ModelCrowd:
    crowd = ModelCrowd()
    same("stays", "1", crowd)
    same("left", "2", crowd)
    same("left-long-ago", "3", crowd, active=False)
    same("out", "4", crowd)
    crowd.add_user("nobodys")
    group = crowd.add_group("gone", "", "acme:g")
    keep = crowd.add_group("kept", "", "acme:k")
    for name in ("stays", "left", "nobodys"):
        crowd.memberships.add((group["key"], crowd.users[name]["key"]))
        crowd.memberships.add((keep["key"], crowd.users[name]["key"]))
    return crowd


STAY = snapshot([person("1", "stays"), person("4", "out")], [team("k", "kept")], [("k", "1", "user")])


IN_GROUPS = [("membership_remove", "left", "kept")]


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("deactivate", [("user_deactivate", "left", ""), ("user_deactivate", "out", "")]),
        ("take_groups", IN_GROUPS),
        ("deactivate_and_take_groups", [("user_deactivate", "left", ""), ("user_deactivate", "out", ""), *IN_GROUPS]),
        ("delete", [("user_delete", "left", ""), ("user_delete", "left-long-ago", ""), ("user_delete", "out", "")]),
        ("nothing", []),
    ],
)
def test_plan_treats_people_who_left_as_the_policy_says(way: str, expected: list[tuple[str, str, str]]) -> None:
    made = the_plan(
        STAY,
        left_behind(),
        leavers={"out_of_scope": way, "deleted": way, "groups": "nothing"},
        scope={"exclude_users": ["out"]},
        operations={"user_delete": way == "delete"},
    )
    assert ops(made) == expected
    of_people = made.operations[made.operations["kind"].str.startswith("user")]
    why = dict(zip(of_people["name"], of_people["reason"], strict=True))
    assert (why.get("left"), why.get("out")) == (
        (None, None) if way in ("nothing", "take_groups") else ("is gone from the source", "is out of scope")
    )
    leaving = {"2": "is gone from the source", "3": "is gone from the source", "4": "is out of scope"}
    assert dict(zip(made.leavers["id"], made.leavers["why"], strict=True)) == leaving, "whatever is done about it"
    if way.startswith("deactivate"):
        assert records(made, Kind.USER_DEACTIVATE)[0]["active"] is False
        assert records(made, Kind.USER_DEACTIVATE)[0]["last_name"] == "L"


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("empty", [("membership_remove", "stays", "gone")]),
        ("delete", [("group_delete", "gone", "")]),
        ("nothing", []),
    ],
)
def test_plan_treats_groups_that_are_gone_as_the_policy_says(way: str, expected: list[tuple[str, str, str]]) -> None:
    operations = {"group_delete": way == "delete"}
    people = {"out_of_scope": "nothing", "deleted": "nothing"}
    made = the_plan(STAY, left_behind(), leavers={**people, "groups": way}, operations=operations)
    assert ops(made) == expected


@pytest.mark.parametrize("way", ["empty", "delete", "nothing"])
def test_plan_keeps_a_group_that_is_gone_where_the_policy_puts_everybody_into_it(way: str) -> None:
    made = the_plan(
        STAY,
        left_behind(),
        groups={"everyone": ["Gone"]},
        leavers={"out_of_scope": "nothing", "deleted": "nothing", "groups": way},
        operations={"group_delete": way == "delete"},
    )
    assert ops(made) == [("membership_add", "out", "gone")], "stays is in it, left is no more in the source"


def test_plan_shuts_out_who_is_disabled_and_lets_in_who_returns() -> None:
    crowd = ModelCrowd()
    same("ann", "1", crowd)
    same("bob", "2", crowd, active=False, email="old@x.org")
    source = snapshot([person("1", "ann", active=False), person("2", "bob", "new@x.org"), person("3", "cy", active=0)])
    made = the_plan(source, crowd)
    assert ops(made) == [("user_deactivate", "ann", ""), ("user_activate", "bob", "")]
    assert records(made, Kind.USER_ACTIVATE)[0]["email"] == "new@x.org"


def test_plan_never_blanks_a_field() -> None:
    crowd = ModelCrowd()
    same("ann", "1", crowd, email="a@x.org")
    same("bob", "2", crowd, email="b@x.org")
    crowd.add_group("core", "their text", "acme:g")
    nothing = {"first_name": "", "last_name": "", "display_name": ""}
    source = snapshot(
        [person("1", "ann", "", **nothing), person("2", "bob", "", **(nothing | {"last_name": "New"}))],
        [team("g", "core", "")],
    )
    made = the_plan(source, crowd)
    assert ops(made) == [("user_update", "bob", "")]
    assert records(made, Kind.USER_UPDATE) == [
        {"active": True, "display_name": "D", "email": "b@x.org", "first_name": "F", "last_name": "New"}
    ]
    assert list(made.operations["before"]) == ['{"last_name":"L"}']


@pytest.mark.parametrize("matching", ["id", "username"])
def test_plan_leaves_protected_users_alone(matching: str) -> None:
    crowd = ModelCrowd()
    root = crowd.add_user("Root-1", attributes=mark("1") if matching == "id" else {})
    same("left-root", "5", crowd)
    same("bob", "2", crowd)
    group = crowd.add_group("core", "", "acme:g")
    crowd.memberships.add((group["key"], root["key"]))
    users = [person("1", "root-1", "new@x.org", active=False), person("2", "root-2"), person("3", "root-3")]
    made = the_plan(
        snapshot([*users, person("4", "ann")], [team("g", "core")], [("g", "4", "user")]),
        crowd,
        protection={"users": ["root-*", "left-root"]},
        matching={"users": ["id", matching] if matching != "id" else ["id"]},
    )
    assert ops(made) == [("user_create", "ann", ""), ("membership_add", "ann", "core")]
    assert "its new username is a protected one" in reasons(made.held)["2"]
    assert "its username is a protected one" in reasons(made.held)["3"]


def test_plan_leaves_protected_groups_alone() -> None:
    crowd = ModelCrowd()
    ann = same("ann", "1", crowd)
    same("bob", "2", crowd)
    safe, core = crowd.add_group("safe", "theirs", "acme:s"), crowd.add_group("core", "", "acme:c")
    crowd.add_group("safe-gone", "", "acme:x")
    crowd.memberships.add((safe["key"], ann["key"]))
    crowd.nestings.add((safe["key"], core["key"]))
    source = snapshot(
        [person("1", "ann"), person("2", "bob")],
        [team("s", "safe", "ours"), team("c", "core"), team("n", "safe-new")],
        [("s", "2", "user"), ("c", "s", "group"), ("c", "2", "user"), ("n", "2", "user")],
    )
    made = the_plan(
        source,
        crowd,
        protection={"groups": ["SAFE*"]},
        leavers={"groups": "delete"},
        operations={"group_delete": True},
    )
    assert ops(made) == [("membership_add", "bob", "core")]
    assert "protected or privileged group" in reasons(made.held)["n"]


def test_plan_marks_before_everything_else() -> None:
    crowd = ModelCrowd()
    same("gone", "9", crowd)
    crowd.add_user("ann", first_name="F", last_name="L", display_name="D")
    crowd.add_user("bob", first_name="F", last_name="L", display_name="D")
    crowd.add_group("core")
    source = snapshot([person("1", "ann"), person("2", "bobby", "b@x.org")], [team("g", "core")], [("g", "1", "user")])
    known = links((SOURCE, "user", "2", "bob"))
    made = the_plan(source, crowd, known, matching={"users": ["id", "username"], "groups": ["name"]})
    rows = made.operations[["phase", "kind", "name"]].to_numpy().tolist()
    assert rows == [
        [MARKS, "user_attributes", "ann"],
        [MARKS, "user_attributes", "bob"],
        [MARKS, "group_attributes", "core"],
        [PHASES[Kind.USER_DEACTIVATE], "user_deactivate", "gone"],
        [PHASES[Kind.USER_RENAME], "user_rename", "bob"],
        [PHASES[Kind.USER_UPDATE], "user_update", "bobby"],
        [PHASES[Kind.MEMBERSHIP_ADD], "membership_add", "ann"],
    ]
    assert list(made.operations["seq"]) == list(range(1, 8))
    assert list(made.operations["reason"].head(3)) == ["adopted by username", "marks ownership", "adopted by name"]
    assert records(made, Kind.USER_ATTRIBUTES)[0] == {"attributes": {ID_ATTRIBUTE: ["acme:1"]}}


def test_plan_creates_with_the_mark_and_in_the_order_of_phases() -> None:
    source = snapshot([person("1", "ann", "a@x.org")], [team("g", "core", "text")], [("g", "1", "user")])
    made = the_plan(source, ModelCrowd())
    assert [kind for kind, _, _ in ops(made)] == ["user_create", "group_create", "group_attributes", "membership_add"]
    assert made.operations["phase"].is_monotonic_increasing
    assert records(made, Kind.USER_CREATE)[0]["attributes"] == {ID_ATTRIBUTE: ["acme:1"]}
    assert records(made, Kind.GROUP_CREATE) == [{"description": "text"}]


def test_plan_leaves_who_is_held_in_place() -> None:
    crowd = ModelCrowd()
    ann = same("ann", "1", crowd, email="old@x.org")
    group = crowd.add_group("core", "", "acme:g")
    crowd.memberships.add((group["key"], ann["key"]))
    source = snapshot([person("1", LONG, "new@x.org")], [team("g", "core")])
    made = the_plan(source, crowd)
    assert made.operations.empty
    assert "username is longer" in reasons(made.held)["1"]


def test_plan_counts_all_deactivations_that_it_withholds() -> None:
    crowd = ModelCrowd()
    same("gone", "1", crowd)
    same("disabled", "2", crowd)
    source = snapshot([person("2", "disabled", active=False)])
    made = the_plan(source, crowd, operations={"user_deactivate": False})
    assert made.operations.empty
    assert made.withheld == {"user_deactivate": 2}


def test_plan_digest_covers_both_snapshots_the_policy_and_the_operations() -> None:
    source, crowd, policy = snapshot([person("1", "ann")]), ModelCrowd(), Policy()

    def digest(source: Snapshot, crowd: ModelCrowd, policy: Policy) -> str:
        directory = crowd.snapshot()
        found = match(desired(source, policy), directory, ModelLinks().frame(), policy, SOURCE)
        return plan(found, source, directory, policy, SOURCE).digest

    first = digest(source, crowd, policy)
    assert first == digest(source, crowd.copy(), Policy())
    other = ModelCrowd()
    other.add_user("zoe")
    changed = {
        digest(snapshot([person("1", "ann", "a@x.org")]), crowd, policy),
        digest(snapshot([person("1", "ann", attributes={"unread": ["x"]})]), crowd, policy),
        digest(source, other, policy),
        digest(source, crowd, policy_with(disclose="values")),
    }
    assert len(changed | {first}) == 5


# ── validate ────────────────────────────────────────────────────────────────────────────────────


def test_validate_lets_through_what_is_good_and_keeps_the_empty() -> None:
    good = snapshot([person("1", "ann", "a@x.org"), person("2", "bób")], [team("g", "Core team")])
    assert validate.broken_rows(good).empty
    assert validate.without(good, held_frame()) is good
    assert validate.broken_rows(snapshot()).empty


ROWS: list[tuple[str, tuple[Any, ...], str]] = [
    ("user", person("x" * 201, "zoe"), "id has not 1 to 200 characters"),
    ("user", person("", "zoe"), "id has not 1 to 200 characters"),
    ("user", person("9", ""), "username is blank"),
    ("user", person("9", "  "), "username is blank"),
    ("user", person("9", "z\x00e"), "username has control characters"),
    ("user", person("9", "z\x7fe"), "username has control characters"),
    ("user", person("9", "zoe\n"), "username has control characters"),
    ("user", person("9", "z" * 256), "username exceeds 255 characters"),
    ("user", person("9", "z" * 256, active=False), "username exceeds 255 characters"),
    ("group", team("x" * 201, "Zoo"), "id has not 1 to 200 characters"),
    ("group", team("9", ""), "name is blank"),
    ("group", team("9", "\u00a0"), "name is blank"),
    ("group", team("9", "z\too"), "name has control characters"),
    ("group", team("9", "zoo\n"), "name has control characters"),
]


@pytest.fixture(scope="module")
def all_rows() -> tuple[Snapshot, pd.DataFrame]:
    """Every row of `ROWS` (each with an id of its own) in one snapshot, and what is held of it: judging takes long."""
    users, groups = [person("1", "ann")], [team("g", "Core")]
    for n, (kind, row, _) in enumerate(ROWS):
        (users if kind == "user" else groups).append((_key(n, row[0]), *row[1:]))
    members = [("g", "1", "user"), *(("g", _key(n, row[0]), kind) for n, (kind, row, _) in enumerate(ROWS))]
    whole = snapshot(users, groups, members)
    return whole, validate.broken_rows(whole)


def _key(n: int, key: str) -> str:
    return f"row-{n}" if key == "9" else key


@pytest.mark.parametrize("n", range(len(ROWS)), ids=lambda n: f"{ROWS[n][0]}-{ROWS[n][2]}-{n}")
def test_validate_holds_the_row_that_breaks_a_rule_and_names_it(
    n: int, all_rows: tuple[Snapshot, pd.DataFrame]
) -> None:
    kind, row, reason = ROWS[n]
    held = all_rows[1][(all_rows[1]["id"] == _key(n, row[0])) & (all_rows[1]["kind"] == kind)]
    away = "disabled" if kind == "user" and not row[6] else ""
    assert held.to_numpy().tolist() == [[kind, _key(n, row[0]), row[1], "validate", reason, away]]


def test_validate_leaves_the_good_rows_and_all_memberships(all_rows: tuple[Snapshot, pd.DataFrame]) -> None:
    whole, held = all_rows
    rest = validate.without(whole, held)
    assert list(rest.users["id"]) == ["1", *whole.users.loc[~whole.users["id"].isin([*held["id"], "1"]), "id"]]
    assert {"1", "g"}.isdisjoint(held["id"])
    assert rest.held.equals(held)
    assert pairs(rest.memberships) == pairs(whole.memberships), "who is held is taken out of no group"


def test_validate_names_a_row_once_though_it_breaks_several_rules() -> None:
    held = validate.broken_rows(snapshot([person("1", "ann"), person("9", "\x01" + "z" * 256, "nowhere")]))
    assert list(held["id"]) == ["9"]


def test_validate_without_takes_only_the_kind_that_is_held() -> None:
    whole = snapshot([person("1", "ann")], [team("1", "Core")], held=[("user", "8", "yan", "extract", "why")])
    rest = validate.without(whole, held_frame([("group", "1", "Core", "validate", "name is blank")]))
    assert list(rest.users["id"]) == ["1"]
    assert rest.groups.empty
    assert list(rest.held["id"]) == ["8", "1"]


async def test_validate_takes_blanks_off_what_a_source_says_and_leaves_crowd_alone(tmp_path: Path) -> None:
    Store.upgrade(url := f"sqlite:///{tmp_path}/crowdsync.db")
    store = Store.open(url)
    odd = person("1", "\u00a0ann\n", " a@x.org ", first_name=" A", last_name="L\t", display_name=" ", active=False)
    whole = snapshot([odd, person("2", "\x00", active=False)], [team("g", " Core ")])
    for _ in range(2):  # the second time, the verdict is a kept one
        rest = await check.fn(store, "source:acme", whole, whole.digest())
        assert rest.users.iloc[0, :6].tolist() == ["1", "ann", "a@x.org", "A", "L", ""]
        assert list(rest.groups["name"]) == [" Core "]
        assert rest.held[["id", "away"]].to_numpy().tolist() == [["2", "disabled"]]
    other = snapshot([person("ann", " ann", "n/a")])
    rest = await check.fn(store, "directory:crowd", other, other.digest())
    assert rest.users.equals(other.users)
    assert rest.held.empty
    store.close()


USER, GROUP = users_frame([person("1", "ann"), person("2", "bob")]), groups_frame([team("a", "a"), team("b", "b")])


@pytest.mark.parametrize(
    ("kind", "frame", "words"),
    [
        ("users", USER[[*USER.columns[:2], "first_name", "email", *USER.columns[4:]]], "the columns"),
        ("users", USER.drop(columns="active"), "the columns"),
        ("users", USER.assign(id="1"), "for id"),
        ("users", USER.assign(id=pd.array(["1", None], dtype="str")), "for id"),
        ("groups", GROUP[["name", "id", "description", "attributes"]], "the columns"),
        ("groups", GROUP.assign(id="a"), "for id"),
        ("groups", GROUP.assign(id=pd.array(["a", None], dtype="str")), "for id"),
    ],
)
def test_validate_stops_the_run_where_a_table_is_wrong(kind: str, frame: pd.DataFrame, words: str) -> None:
    good = snapshot()
    whole = Snapshot(**{"users": USER, "groups": GROUP, "memberships": good.memberships} | {kind: frame})
    with pytest.raises(RefusedError, match=f"^{kind}: .*{words}"):
        validate.broken_rows(whole)


def test_validate_stops_where_a_rule_cannot_be_checked() -> None:
    whole = Snapshot(USER.drop(columns="username").assign(login=""), GROUP, snapshot().memberships)
    with pytest.raises(RefusedError, match=r"^users: "):
        validate.broken_rows(whole)


def test_validate_has_a_case_for_every_row_rule() -> None:
    named = {(f"{kind}s", reason) for kind, _, reason in ROWS}
    assert named == {(kind, rule[3]) for kind, rules in validate.ROW_RULES.items() for rule in rules}


def test_validate_refuses_a_source_without_people() -> None:
    with pytest.raises(RefusedError, match="the source gave no users at all"):
        validate.refuse_if_empty(snapshot([], [team("g", "Core")]))
    validate.refuse_if_empty(snapshot([person("1", "ann")]))


def test_the_stages_name_their_results() -> None:
    """A held record says which stage held it."""
    crowd = ModelCrowd()
    crowd.add_user("taken")
    source = snapshot([person("1", LONG), person("2", "taken"), person("3", "admin")])
    made = the_plan(source, crowd)
    assert dict(zip(made.held["id"], made.held["stage"], strict=True)) == {"1": "map", "2": "match", "3": "plan"}
