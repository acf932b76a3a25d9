"""Who is in scope, and by which names groups and people come to Crowd: filter and map against slow, obvious Python."""

from __future__ import annotations

import random
import re
from datetime import date
from typing import Any

import numpy as np
import orjson
import pytest

from connectors.errors import ConfigurationError
from connectors.model import (
    Snapshot,
)
from tasks.decide.filter import Scoped, in_scope
from tasks.decide.map import EVERYONE, Desired, desired
from tasks.decide.match import Matched, match
from tasks.decide.nesting import closure
from tasks.policy import Policy
from tests.support.frames import pairs, person, policy_with, reasons, snapshot, team
from tests.support.generated import any_conditions, any_people
from tests.support.model_crowd import ModelLinks

# ── by name and group ───────────────────────────────────────────────────────────────────────────

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


def scoped(nesting: str = "preserve", **scope: Any) -> Scoped:
    return in_scope(COMPANY, policy_with(scope=scope, groups={"nesting": nesting}))


@pytest.mark.parametrize(
    ("scope", "people"),
    [
        ({}, "12345"),
        ({"users": ["ann", "B*"]}, "12"),
        ({"users": ["re:[a-c].*"], "exclude_users": ["cy"]}, "12"),
        ({"users": ["*", "nobody"]}, "12345"),
        ({"users": ["d*", "a*"], "required_groups": ["core"]}, "1"),
        ({"required_groups": ["core"]}, "13"),
        ({"required_groups": ["core"], "exclude_groups": ["app*"]}, "13"),
        ({"members_only": True, "groups": ["deep"]}, "13"),
        ({"exclude_users": ["SVC-*"]}, "1235"),
    ],
)
def test_people_by_name_and_group(scope: dict[str, Any], people: str) -> None:
    found = scoped(**scope)
    assert list(found.snapshot.users["id"]) == list(people)
    assert sorted(found.users_out) == sorted(set("12345") - set(people))
    assert {p[1] for p in pairs(found.snapshot.memberships) if p[2] == "user"} <= set(people)


def test_all_in_scope_is_the_snapshot_itself() -> None:
    found = scoped()
    assert found.snapshot is COMPANY
    assert found.users_out.empty
    assert found.groups_out.empty


@pytest.mark.parametrize(
    ("scope", "field", "number"),
    [
        ({"users": ["nobody"]}, "scope.users", "5 people"),
        ({"exclude_users": ["re:.*"]}, "scope.exclude_users", "5 people"),
        ({"users": ["ann"], "required_groups": ["app-admins"]}, "scope.required_groups", "5 people .* 1 of whom"),
        ({"required_groups": ["nothing"]}, "scope.required_groups", "5 people"),
        ({"conditions": [{"all": [{"field": "dept", "values": ["it"]}]}]}, "scope.conditions", "5 people"),
        ({"groups": ["x.y"], "members_only": True, "users": ["ann"]}, "scope.members_only", "1 of whom"),
        ({"groups": ["app"]}, "scope.groups", "5 groups"),
        ({"groups": ["app*"], "exclude_groups": ["re:app.*"]}, "scope.groups", "5 groups"),
    ],
)
def test_a_scope_that_leaves_nobody_is_refused(scope: dict[str, Any], field: str, number: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field} .*{number}.*; correct {field}.*Nothing is written"):
        scoped(**scope)


def test_a_scope_that_leaves_nobody_of_nobody_is_fine() -> None:
    policy = policy_with(scope={"users": ["x"], "groups": ["x"], "members_only": True, "required_groups": ["x"]})
    found = in_scope(snapshot(), policy).snapshot
    assert found.users.empty
    assert found.groups.empty
    assert in_scope(COMPANY, policy_with(scope={"exclude_groups": ["re:.*"]})).snapshot.groups.empty


# ── conditions ──────────────────────────────────────────────────────────────────────────────────


def one_condition(field: str, operator: str, *values: str) -> Policy:
    condition = {"field": field, "operator": operator, "values": list(values)}
    return policy_with(scope={"conditions": [{"all": [condition]}]})


def verdict(user: tuple[Any, ...], policy: Policy) -> bool | None:
    """Whether the person is in scope; None: held."""
    other = person("other", "other", attributes={"x": ["1"]})  # somebody stays, else the whole scope is refused
    both = Policy.model_validate(
        policy.model_dump() | {"scope": {"conditions": [*policy.model_dump()["scope"]["conditions"], ALL_OTHERS]}}
    )
    found = in_scope(snapshot([user, other]), both)
    if user[0] in set(found.snapshot.held["id"]):
        assert user[0] not in set(found.snapshot.users["id"])
        assert user[0] not in found.users_out
        return None
    assert (user[0] in set(found.snapshot.users["id"])) != (user[0] in found.users_out)
    return user[0] in set(found.snapshot.users["id"])


ALL_OTHERS = {"all": [{"field": "username", "values": ["other"]}]}


@pytest.mark.parametrize(
    ("values", "operator", "wanted", "fits"),
    [
        (["IT"], "equals", ["it", "hr"], True),
        (["hr", "ops"], "equals", ["OPS"], True),
        (["it department"], "equals", ["it"], False),
        ([], "equals", ["it"], False),
        (["IT"], "not_equals", ["it"], False),
        (["hr", "it"], "not_equals", ["it"], False),
        (["hr"], "not_equals", ["it", "ops"], True),
        ([], "not_equals", ["it"], True),
        (["Head of IT"], "contains", ["of it"], True),
        (["a.c"], "contains", ["a?c"], False),
        (["ÉCOLE"], "starts_with", ["éc"], True),
        (["an école"], "starts_with", ["éc"], False),
        (["an école"], "ends_with", ["COLE", "x"], True),
        (["école x"], "ends_with", ["cole"], False),
        (["A12"], "matches", ["a[0-9]+"], True),
        (["A12b"], "matches", ["a[0-9]+"], False),
        ([], "matches", [".*"], False),
        (["x"], "is_present", [], True),
        ([""], "is_present", [], False),
        ([""], "is_absent", [], True),
        (["x"], "is_absent", [], False),
        (["TRUE"], "is_true", [], True),
        ([" yes "], "is_true", [], True),
        (["1"], "is_true", [], True),
        (["0"], "is_true", [], False),
        ([], "is_true", [], False),
        (["No"], "is_false", [], True),
        (["false"], "is_false", [], True),
        (["1"], "is_false", [], False),
        ([], "is_false", [], False),
        (["maybe"], "is_true", [], None),
        (["maybe", "true"], "is_true", [], True),
        (["10"], "above", ["9"], True),
        (["9"], "above", ["9"], False),
        (["+9.5e1", "x"], "above", ["9"], True),
        (["8", "x"], "above", ["9"], None),
        (["-1"], "below", ["0"], True),
        (["0"], "below", ["0"], False),
        ([], "below", ["0"], False),
        (["1,5"], "below", ["9"], None),
        (["1e999"], "above", ["9"], None),
        (["nan"], "above", ["9"], None),
        (["٣"], "above", ["1"], None),
        (["2026-12-31"], "before", ["2027-01-01"], True),
        (["2027-01-01"], "before", ["2027-01-01"], False),
        (["2027-01-01T23:59:59Z"], "after", ["2027-01-01"], False),
        (["2027-01-02 00:00:00"], "after", ["2027-01-01"], True),
        (["9999-12-31"], "after", ["20270101"], True),
        (["2028-02-29"], "after", ["2027-01-01"], True),
        (["2027-02-29"], "after", ["2027-01-01"], None),
        (["2100-02-29"], "after", ["2027-01-01"], None),
        (["2000-02-29"], "before", ["2027-01-01"], True),
        (["2027-13-01"], "after", ["2027-01-01"], None),
        (["2027-00-10"], "after", ["2027-01-01"], None),
        (["31.12.2027"], "after", ["2027-01-01"], None),
        (["2027-01-02x"], "after", ["2027-01-01"], None),
        ([], "after", ["2027-01-01"], False),
    ],
)
def test_a_condition(values: list[str], operator: str, wanted: list[str], fits: bool | None) -> None:
    user = person("p", "ann", attributes={"field": values})
    assert verdict(user, one_condition("field", operator, *wanted)) is fits


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "p"),
        ("username", "ann"),
        ("email", "a@x"),
        ("first_name", "f"),
        ("last_name", "L"),
        ("display_name", "d"),
    ],
)
def test_a_condition_on_a_plain_field(field: str, value: str) -> None:
    user = person("p", "Ann", "A@x", attributes={field: ["another"]})
    assert verdict(user, one_condition(field, "equals", value)) is True
    assert verdict(user, one_condition(field, "equals", "another")) is False


def test_active_is_the_flag() -> None:
    for active in (True, False):
        user = person("p", "ann", active=active, attributes={"active": ["nonsense"]})
        assert verdict(user, one_condition("active", "is_true")) is active
        assert verdict(user, one_condition("active", "is_false")) is not active


def test_who_cannot_be_judged_is_held_with_field_kind_and_little_of_the_value() -> None:
    value = "secret " + "x" * 100
    for operator, wanted, kind in (("above", "1", "no number"), ("before", "2027-01-01", "no date")):
        found = in_scope(
            snapshot(
                [person("p", "Ann", attributes={"end": ["", value]}), person("q", "bob")],
                [team("g", "G")],
                [("g", "p", "user")],
                [("user", "9", "zoe", "validate", "broken")],
            ),
            one_condition("end", operator, wanted),
        )
        assert found.snapshot.held.iloc[0].tolist() == ["user", "9", "zoe", "validate", "broken", ""]
        kind_, key, name, stage, reason, _ = found.snapshot.held.iloc[1]
        assert (kind_, key, name, stage) == ("user", "p", "Ann", "filter")
        assert f"its end '{value[:40]}' is {kind}" in reason
        assert "x" * 34 not in reason
        assert found.snapshot.users.empty, "bob has no date, and somebody held is no reason to refuse"
        assert list(found.users_out) == ["q"]
        assert found.snapshot.memberships.empty


def test_nobody_is_held_where_the_value_does_not_matter() -> None:
    user = person("p", "ann", attributes={"level": ["high"], "dept": ["it"]})
    level = {"field": "level", "operator": "above", "values": ["3"]}
    it, hr = ({"field": "dept", "values": [name]} for name in ("it", "hr"))
    for blocks, fits in (
        ([[level]], None),
        ([[level, it]], None),
        ([[level, hr]], False),
        ([[level], [it]], True),
        ([[level], [hr]], None),
        ([[level, hr], [it]], True),
    ):
        policy = policy_with(scope={"conditions": [{"all": block} for block in blocks]})
        assert verdict(user, policy) is fits, blocks
    out = policy_with(scope={"exclude_users": ["ann"], "conditions": [{"all": [level]}]})
    found = in_scope(snapshot([user, person("q", "bob", attributes={"level": ["4"]})]), out)
    assert list(found.users_out) == ["p"]
    assert found.snapshot.held.empty


def slow_fits(values: list[str], operator: str, wanted: list[str]) -> bool | None:
    """What a condition says of somebody's values: None where it cannot be told."""
    values = [value for value in values if value]
    low, wanted_low = [value.lower() for value in values], [value.lower() for value in wanted]
    texts = {
        "equals": lambda v: v in wanted_low,
        "contains": lambda v: any(w in v for w in wanted_low),
        "starts_with": lambda v: any(v.startswith(w) for w in wanted_low),
        "ends_with": lambda v: any(v.endswith(w) for w in wanted_low),
        "matches": lambda v: any(re.fullmatch(w, v, re.IGNORECASE) for w in wanted),
    }
    if operator == "is_present":
        return bool(values)
    if operator == "is_absent":
        return not values
    if operator == "not_equals":
        return not any(v in wanted_low for v in low)
    if operator in texts:
        return any(texts[operator](v) for v in low)
    each = [slow_typed(v, operator, wanted) for v in low]
    return True if True in each else None if None in each else False


def slow_typed(value: str, operator: str, wanted: list[str]) -> bool | None:
    if operator in ("is_true", "is_false"):
        known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return None if value not in known else known[value] == (operator == "is_true")
    try:
        if operator in ("above", "below"):
            return float(value) > float(wanted[0]) if operator == "above" else float(value) < float(wanted[0])
        day, other = date.fromisoformat(value.split("t")[0]), date.fromisoformat(wanted[0])
    except ValueError:
        return None
    if len(value) < 10:
        return None
    return day > other if operator == "after" else day < other


def slow_value(row: dict[Any, Any], field: str) -> list[str]:
    return [row[field]] if field in row else list(orjson.loads(row["attributes"]).get(field, []))


def test_conditions_are_as_slow_python_says() -> None:
    seen = {True: 0, False: 0, None: 0}
    for seed in range(200):
        rng = random.Random(seed)
        source = snapshot(any_people(rng, 40))
        blocks = any_conditions(rng)
        expected: dict[str, bool | None] = {}
        for row in source.users.to_dict("records"):
            by_block = []
            for block in blocks:
                each = [slow_fits(slow_value(row, c["field"]), c["operator"], c["values"]) for c in block["all"]]
                by_block.append(False if False in each else None if None in each else True)
            expected[row["id"]] = True if True in by_block else None if None in by_block else False
        inside = [key for key, fits in expected.items() if fits]
        held = [key for key, fits in expected.items() if fits is None]
        policy = policy_with(scope={"conditions": blocks})
        for fits in expected.values():
            seen[fits] += 1
        if not inside and not held:
            with pytest.raises(ConfigurationError, match=r"scope\.conditions"):
                in_scope(source, policy)
            continue
        found = in_scope(source, policy)
        assert list(found.snapshot.users["id"]) == inside, (seed, blocks)
        assert list(found.snapshot.held["id"]) == held, (seed, blocks)
        assert list(found.users_out) == [key for key, fits in expected.items() if fits is False]
        for reason in found.snapshot.held["reason"]:
            assert any(kind in reason for kind in ("no number", "no date", "neither true nor false"))
    assert min(seen.values()) > 500, seen


# ── nesting ─────────────────────────────────────────────────────────────────────────────────────


def test_flatten_makes_members_of_nested_groups_direct_ones() -> None:
    found = scoped("flatten").snapshot
    everything = {(group, user, "user") for group in "acd" for user in "13"}
    assert pairs(found.memberships) == everything | {("b", "2", "user"), ("e", "4", "user")}
    # Groups out of scope hand on their members all the same.
    found = scoped("flatten", groups=["core"]).snapshot
    assert pairs(found.memberships) == {("c", "1", "user"), ("c", "3", "user")}
    assert sorted(scoped("flatten", groups=["core"]).groups_out) == ["a", "b", "d", "e"]


def test_ignore_leaves_out_nestings_but_required_groups_look_through_them() -> None:
    found = scoped("ignore")
    assert pairs(found.snapshot.memberships) == {p for p in pairs(COMPANY.memberships) if p[2] == "user"}
    for nesting in ("ignore", "flatten"):
        found = scoped(nesting, required_groups=["core"])
        assert list(found.snapshot.users["id"]) == ["1", "3"]
        assert sorted(found.users_out) == ["2", "4", "5"]
    assert list(scoped("flatten", members_only=True, groups=["deep"]).snapshot.users["id"]) == ["1", "3"]
    assert list(scoped("ignore", members_only=True, groups=["deep"]).snapshot.users["id"]) == ["3"]


def any_company(rng: random.Random, people: int = 8, teams: int = 6) -> Snapshot:
    """Nested groups with circles, ids that users and groups share, and groups that are named nowhere else."""
    users = [person(str(n), f"u{n}", attributes={"dept": [rng.choice(("it", "hr"))]}) for n in range(people)]
    groups = [team(str(n), rng.choice(("red", "blue", "Red-")) + str(n)) for n in range(teams)]
    ids = [str(n) for n in range(teams + 1)]
    members = [(g, str(n), "user") for g in ids for n in range(people) if rng.random() < 0.15]
    members += [(g, child, "group") for g in ids for child in ids if rng.random() < 0.15]
    return snapshot(users, groups, members)


def test_flatten_is_as_slow_python_says() -> None:
    grown = 0
    for seed in range(200):
        rng = random.Random(seed)
        source = any_company(rng, rng.randint(0, 8), rng.randint(0, 7))
        given = pairs(source.memberships)
        children: dict[str, set[str]] = {}
        for group, member, kind in given:
            if kind == "group":
                children.setdefault(group, set()).add(member)
        expected = set()
        for group in source.groups["id"]:
            below, todo = {group}, [group]
            while todo:
                new = children.get(todo.pop(), set()) - below
                below |= new
                todo += new
            expected |= {(group, m, k) for g, m, k in given if k == "user" and g in below}
        found = in_scope(source, policy_with(groups={"nesting": "flatten"})).snapshot
        # (Where nothing is left out, members and groups that nobody knows stay, too.)
        people, teams = set(source.users["id"]), set(source.groups["id"])
        known = {p for p in expected if p[1] in people}
        assert {p for p in pairs(found.memberships) if p[0] in teams and p[1] in people} == known, seed
        assert set(found.memberships["member_kind"]) <= {"user"}
        assert found.memberships.equals(Snapshot.of(memberships=found.memberships).memberships), "canonical"
        grown += len(known) > len([p for p in given if p[2] == "user"])
    assert grown > 30


def test_closure_of_chain_and_circle() -> None:
    chain = np.arange(100)
    above, below = closure(chain[:-1], chain[1:], 100)
    assert len(above) == 100 * 99 // 2
    assert (above < below).all()
    above, below = closure(chain, np.roll(chain, 1), 100)
    assert len(above) == 100 * 100
    above, below = closure(chain[:0], chain[:0], 0)
    assert len(above) == len(below) == 0


# ── names in Crowd ──────────────────────────────────────────────────────────────────────────────


def wanted(source: Snapshot, **policy: Any) -> Desired:
    return desired(source, policy_with(**policy))


def met(source: Snapshot, **policy: Any) -> Matched:
    """The same before an empty Crowd."""
    return match(wanted(source, **policy), Snapshot.of(), ModelLinks().frame(), policy_with(**policy), "acme")


@pytest.mark.parametrize(
    ("names", "held", "word"),
    [
        ({"allow": ["a*"]}, {"2", "3"}, "usernames.allow"),
        ({"allow": ["ann", "re:b.b"]}, {"3"}, "usernames.allow"),
        ({"deny": ["CY", "bo?"]}, {"2", "3"}, "usernames.deny"),
        ({"allow": ["*b"], "deny": ["ann"]}, {"1", "3"}, "usernames."),
        ({"rules": [{"pattern": "^", "replacement": "x-"}], "allow": ["x-[ab]*"]}, {"1", "2", "3"}, "usernames.allow"),
        (
            {"rules": [{"pattern": "^c", "replacement": "x-c"}], "deny": ["x-*"]},
            {"3"},
            "'x-cy' is one of usernames.deny",
        ),
    ],
)
def test_usernames_that_are_not_given_are_held(names: dict[str, Any], held: set[str], word: str) -> None:
    source = snapshot([person("1", "Ann"), person("2", "bob"), person("3", "cy")])
    found = wanted(source, usernames=names)
    assert set(found.held["id"]) == held
    assert set(found.users["id"]) == set("123") - held
    for reason in found.held["reason"]:
        assert word in reason
        assert "; " in reason, "there is a way out"


def test_group_names_by_rules_and_what_is_denied() -> None:
    source = snapshot([], [team("1", "ACME-Red"), team("2", "ACME-Blue"), team("3", "ACME-"), team("4", " Old ")])
    rules = [{"pattern": "^ACME-", "replacement": ""}]
    found = wanted(source, groups={"rules": rules, "deny": ["blue"]})
    assert dict(zip(found.groups["id"], found.groups["name"], strict=True)) == {"1": "Red", "4": "Old"}
    assert found.held[["kind", "id", "name", "stage"]].to_numpy().tolist() == [
        ["group", "2", "ACME-Blue", "map"],
        ["group", "3", "ACME-", "map"],
    ]
    assert "'Blue' is one of groups.deny" in reasons(found.held)["2"]
    assert "leave nothing" in reasons(found.held)["3"]
    found = wanted(source, groups={"rules": rules, "allow": ["r*"]})
    assert list(found.groups["id"]) == ["1"]
    assert "groups.allow" in reasons(found.held)["4"]


def test_group_prefix() -> None:
    found = wanted(snapshot([], [team("1", "Red"), team("2", "blue")]), groups={"prefix": "idp-", "deny": ["Red"]})
    assert list(found.groups["name"]) == ["idp-Red", "idp-blue"]
    assert found.held.empty


def test_groups_that_become_one_are_held() -> None:
    source = snapshot([], [team("1", "a-Red"), team("2", "b-red"), team("3", "blue")])
    found = met(source, groups={"rules": [{"pattern": "^[ab]-", "replacement": ""}]})
    assert list(found.groups["id"]) == ["3"]
    assert set(found.held["id"]) == {"1", "2"}
    assert "become one name" in found.held["reason"].iloc[0]


def test_rules_that_give_everybody_one_name_are_refused() -> None:
    source = snapshot([person("1", "svc.a"), person("2", "svc.b")], [team(key, f"t.{key}") for key in "abc"])
    rules = [{"pattern": r"(svc|t)[.].*", "replacement": "one"}]
    with pytest.raises(ConfigurationError, match=r"^usernames\.rules give all 2 people one name, 'one'.*Nothing is"):
        wanted(source, usernames={"rules": rules})
    with pytest.raises(ConfigurationError, match=r"^groups\.rules give all 3 groups one name, 'one'"):
        wanted(source, groups={"rules": rules})
    two = snapshot([person("1", "svc.a")], [team("a", "t.a"), team("b", "t.b")])
    found = met(two, usernames={"rules": rules}, groups={"rules": rules})
    assert list(found.users["username"]) == ["one"], "one person has one name"
    assert set(found.held["id"]) == {"a", "b"}, "two groups may be alike"
    alike = snapshot([person("1", "ann"), person("2", "Ann")])
    assert set(met(alike, usernames={"rules": [{"pattern": "x", "replacement": ""}]}).held["id"]) == {"1", "2"}


# ── everyone ────────────────────────────────────────────────────────────────────────────────────

STAFF = snapshot(
    [
        person("1", "ann"),
        person("2", "bob", active=False),
        person("3", "cy"),
        person("4", "x" * 300),
        person("5", "dan"),
        person("6", "Dan"),
    ],
    [team("g", "red"), team("1", "other")],
    [("g", "1", "user"), ("g", "2", "user"), ("g", "1", "group")],
)


def test_everyone_is_in_the_groups_that_the_policy_names() -> None:
    found = wanted(STAFF, groups={"everyone": ["All Staff", "jira-users"]})
    assert list(found.everyone) == [EVERYONE + "all staff", EVERYONE + "jira-users"]
    rows = found.groups[found.groups["id"].isin(found.everyone)]
    assert rows[["name", "description", "attributes"]].to_numpy().tolist() == [
        ["All Staff", "", "{}"],
        ["jira-users", "", "{}"],
    ]
    new = {(group, user, "user") for group in found.everyone for user in "1356"}
    assert pairs(found.memberships) == pairs(STAFF.memberships) | new
    assert found.memberships["group_id"].cat.categories.is_unique
    assert found.memberships["member_id"].cat.categories.is_unique
    for column, old in zip(found.memberships.dtypes, STAFF.memberships.dtypes, strict=True):
        assert column.__class__ is old.__class__
    assert found.groups.drop(columns="original").dtypes.equals(STAFF.groups.dtypes)


def test_nobody_asked_for_everyone() -> None:
    found = wanted(STAFF)
    assert found.everyone.empty
    assert found.memberships is STAFF.memberships
    assert found.groups.drop(columns="original").dtypes.equals(STAFF.groups.dtypes)


@pytest.mark.parametrize("name", ["RED", "rеd", "Ｒed"])
def test_everyone_and_a_group_of_the_source_that_become_one_are_both_held(name: str) -> None:
    found = wanted(STAFF, groups={"everyone": [name, "fine"]})
    assert list(found.everyone) == [EVERYONE + "fine"]
    assert set(found.held.loc[found.held["kind"] == "group", "id"]) == {"g", EVERYONE + name.lower()}
    for key in ("g", EVERYONE + name.lower()):
        assert "groups.everyone" in reasons(found.held)[key]
        assert "leave one out" in reasons(found.held)[key]
    assert list(found.groups["id"]) == ["1", EVERYONE + "fine"]
    assert {p[0] for p in pairs(found.memberships)} == {"g", EVERYONE + "fine"}


def test_everyone_is_denied_like_any_group() -> None:
    found = wanted(STAFF, groups={"everyone": ["all", "most"], "deny": ["ALL"]})
    assert list(found.everyone) == [EVERYONE + "most"]
    assert "groups.deny" in reasons(found.held)[EVERYONE + "all"]


def test_everyone_of_nobody() -> None:
    found = wanted(snapshot([person("1", "ann", active=False)]), groups={"everyone": ["all"]})
    assert list(found.groups["name"]) == ["all"]
    assert found.memberships.empty
