"""The map on frames of a few rows: what people and groups are to be called and to have in Crowd."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest

from connectors.errors import ConfigurationError
from connectors.model import (
    Snapshot,
    crowd_id,
    held_frame,
    users_frame,
)
from connectors.operations import Kind
from tasks.decide.fields import FIELDS
from tasks.decide.filter import in_scope, ruled
from tasks.decide.map import desired, usernames
from tasks.decide.match import Matched, match
from tasks.policy import Policy, Usernames
from tasks.read import validate
from tests.support.frames import LONG, pairs, person, policy_with, reasons, snapshot, team
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE, applied, ops, planned, the_plan

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
    rest: dict[str, Any] = {"email": "ann@x.org", "attributes": {"team": ["core"]}, "active": active} | more
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
