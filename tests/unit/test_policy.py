"""The policy: every field does what it says, every bad value is refused with the field's path."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pandas as pd
import pytest
from pydantic import BaseModel, ValidationError

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, Snapshot, held_frame
from connectors.operations import Kind
from connectors.settings import load
from connectors.store import ReadCursor
from tasks.decide.filter import in_scope
from tasks.decide.guard import Finding, Verdict, judge
from tasks.decide.impact import impact
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import COLUMNS, Departures, Owned, Plan, plan
from tasks.decide.removals import RecentRemovals
from tasks.policy import (
    FEATURES,
    PRIVILEGED,
    Condition,
    Conditions,
    Limit,
    Policy,
    Rule,
    Step,
    Value,
    matches,
    policy_of,
)
from tasks.read.snapshot import last_read
from tasks.tell.report import lasting
from tasks.tell.rows import changes, plan_rows
from tasks.write.apply import canary
from tasks.write.approve import decide
from tests.property.model_crowd import ModelCrowd, ModelLinks
from tests.property.test_road import NOW, SOURCE, World, applied, planned
from tests.road import run_of


def policy_with(path: str, value: Any, **more: Any) -> Policy:
    """The default policy with one field, by its path, and top-level parts besides."""
    *steps, last = path.split(".")
    whole = at = more
    for step in steps:
        at = at.setdefault(step, {})
    at[last] = value
    return Policy.model_validate(whole)


def mark(identity: str) -> dict[str, list[str]]:
    return {ID_ATTRIBUTE: [f"{SOURCE}:{identity}"]}


def world() -> World:
    """A small company and its Crowd, in which every kind of operation but deletions is due once or more."""
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    crowd = made.crowd
    people = (
        ("p1", "Ann.Lee", "ann@x.org", True, '{"mail2":["ann@y.org"],"team":["red"]}'),
        ("p2", "bob", "bob@x.org", True, '{"team":["blue"]}'),
        ("p3", "Ｃｙ", "cy@x.org", True, "{}"),
        ("p4", "dan", "dan@x.org", False, "{}"),
        ("p5", "eve", "eve@x.org", True, "{}"),
        ("p6", "loner", "loner@x.org", True, "{}"),
        ("p7", "unowned", "unowned@x.org", True, "{}"),
        ("p8", "by-mail", "box@x.org", True, "{}"),
        ("p9", "admin", "admin@x.org", True, "{}"),
    )
    for key, name, email, active, attributes in people:
        made.users.append((key, name, email, "F", "L", "D", active, attributes))
    made.groups += [(key, key, "", "{}") for key in ("staff", "outer", "inner", "fresh", "theirs")]
    made.groups += [("jira", "jira-administrators", "", "{}"), ("texts", "texts", "new text", "{}")]
    made.memberships += [("staff", key, "user") for key in ("p1", "p2", "p3", "p5")]
    made.memberships += [("outer", "inner", "group"), ("inner", "p5", "user"), ("jira", "p2", "user")]
    same = {"first_name": "F", "last_name": "L", "display_name": "D"}
    bob = crowd.add_user("bob", email="old@x.org", attributes=mark("p2") | {"crew": ["green"], "theirs": ["x"]}, **same)
    crowd.add_user("old-name", email="cy@x.org", attributes=mark("p3"), **same)
    crowd.add_user("dan", email="dan@x.org", attributes=mark("p4"), **same)
    crowd.add_user("eve", email="eve@x.org", active=False, attributes=mark("p5"), **same)
    left = crowd.add_user("left", attributes=mark("gone"), **same)
    crowd.add_user("unowned", email="other@x.org", **same)
    crowd.add_user("mailed", email="BOX@x.org", **same)
    staff = crowd.add_group("staff", "", f"{SOURCE}:staff")
    texts = crowd.add_group("texts", "old text", f"{SOURCE}:texts")
    outer, inner = crowd.add_group("outer", "", f"{SOURCE}:outer"), crowd.add_group("inner", "", f"{SOURCE}:inner")
    gone = crowd.add_group("gone-group", "", f"{SOURCE}:gone-group")
    crowd.add_group("theirs", "")
    crowd.memberships |= {(texts["key"], bob["key"]), (gone["key"], bob["key"]), (staff["key"], left["key"])}
    crowd.nestings.add((inner["key"], texts["key"]))
    assert outer
    return made


def the_plan(policy: Policy) -> Plan:
    made = world()
    return planned(made.source(), made.crowd, made.links, policy)


def ops(made: Plan) -> set[tuple[str, str, str]]:
    return set(made.operations[["kind", "name", "target"]].itertuples(index=False, name=None))


def reasons(made: Plan) -> dict[str, str]:
    return dict(zip(made.held["id"], made.held["reason"], strict=True))


def record(made: Plan, kind: Kind, name: str) -> dict[str, Any]:
    rows = made.operations[(made.operations["kind"] == kind) & (made.operations["name"] == name)]
    assert len(rows) == 1, made.operations.to_string()
    return dict(orjson.loads(rows["record"].iloc[0]))


DEFAULT = the_plan(Policy())


def fields_of(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The paths of all fields that hold a value."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Limit:
            yield from fields_of(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


# ── operations ──────────────────────────────────────────────────────────────────────────────────

KINDS = {
    "user_create": ["user_create"],
    "user_update": ["user_update"],
    "user_rename": ["user_rename"],
    "user_activate": ["user_activate"],
    "user_deactivate": ["user_deactivate"],
    "user_delete": ["user_delete"],
    "group_create": ["group_create"],
    "group_update": ["group_update"],
    "group_delete": ["group_delete"],
    "membership_add": ["membership_add"],
    "membership_remove": ["membership_remove"],
    "nesting": ["nesting_add", "nesting_remove"],
}
DELETING: dict[str, dict[str, Any]] = {
    "user_delete": {"leavers": {"deleted": "delete"}},
    "group_delete": {"leavers": {"groups": "delete"}},
}
"""What else the policy must say so that there is anything to delete."""


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
    change = ("user_attributes", "bob", "", "p2", '{"attributes":{"crew":["blue"]}}')
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


# ── scope ───────────────────────────────────────────────────────────────────────────────────────


def gone_out(made: Plan) -> set[str]:
    return set(made.operations.loc[made.operations["reason"] == "is out of scope", "name"])


def test_scope_groups_and_exclude_groups() -> None:
    assert ("group_create", "fresh", "") in ops(DEFAULT)
    for field, value in (("groups", ["staff", "re:o.*|inner"]), ("exclude_groups", ["FRESH", "re:th.*|jira.*|texts"])):
        made = the_plan(policy_with(f"scope.{field}", value))
        assert "group_create" not in made.counts(), field
        assert "theirs" not in reasons(made)
        assert ("membership_add", "bob", "staff") in ops(made)


@pytest.mark.parametrize(
    ("field", "value", "out"),
    [
        ("required_groups", ["outer"], {"bob", "old-name"}),
        ("required_groups", ["staff"], set()),
        ("members_only", True, set()),
        ("exclude_users", ["BO?", "nobody"], {"bob"}),
    ],
)
def test_scope_of_people(field: str, value: Any, out: set[str]) -> None:
    made = the_plan(policy_with(f"scope.{field}", value))
    assert gone_out(made) == out | ({"dan"} if field != "exclude_users" else set())
    assert ("user_create", "loner", "") in ops(DEFAULT)
    assert (("user_create", "loner", "") in ops(made)) == (field == "exclude_users")
    assert gone_out(DEFAULT) == set()


# ── usernames, attributes, matching ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "value", "kind", "before", "after"),
    [
        ("usernames.source", "email", "user_create", "ann.lee", "ann@x.org"),
        ("usernames.case", "keep", "user_create", "ann.lee", "Ann.Lee"),
        ("usernames.rules", [{"pattern": r"\.", "replacement": "_"}], "user_create", "ann.lee", "ann_lee"),
        ("usernames.rules", [{"pattern": r"(\w+)\.(\w+)", "replacement": r"\2"}], "user_create", "ann.lee", "Lee"),
    ],
)
def test_usernames(path: str, value: Any, kind: str, before: str, after: str) -> None:
    names = {name for of, name, _ in ops(the_plan(policy_with(path, value))) if of == kind}
    assert before in {name for of, name, _ in ops(DEFAULT) if of == kind}
    assert {name.lower() for name in names} >= {after.lower()}
    assert before not in names
    if "case" in path or "source" in path:
        assert after in names


@pytest.mark.parametrize(("value", "name"), [("NFKC", "cy"), ("NFC", "ｃｙ"), ("none", "ｃｙ")])
def test_usernames_normalise(value: str, name: str) -> None:
    assert ("user_rename", "old-name", name) in ops(the_plan(policy_with("usernames.normalise", value)))
    made = world()
    made.users.append(("apart", "jose\u0301", "", "", "L", "D", True, "{}"))
    names = {
        row[1] for row in ops(planned(made.source(), made.crowd, made.links, policy_with("usernames.normalise", value)))
    }
    assert ("jos\u00e9" in names, "jose\u0301" in names) == (value != "none", value == "none")


@pytest.mark.parametrize("field", ["email", "first_name", "last_name", "display_name"])
@pytest.mark.parametrize(("source", "value"), [("mail2", "ann@y.org"), ("username", "Ann.Lee"), ("id", "p1")])
def test_attributes_fields(field: str, source: str, value: str) -> None:
    made = the_plan(policy_with(f"attributes.fields.{field}", source))
    wanted = "" if field == "email" and "@" not in value else value  # what is no address is left out
    assert record(made, Kind.USER_CREATE, "ann.lee")[field] == wanted
    assert record(DEFAULT, Kind.USER_CREATE, "ann.lee")[field] != value


def test_attributes_extra() -> None:
    made = the_plan(policy_with("attributes.extra", {"crew": "team"}))
    assert record(made, Kind.USER_CREATE, "ann.lee")["attributes"] == mark("p1") | {"crew": ["red"]}
    assert record(made, Kind.USER_ATTRIBUTES, "bob") == {"attributes": {"crew": ["blue"]}}
    assert record(DEFAULT, Kind.USER_CREATE, "ann.lee")["attributes"] == mark("p1")
    assert "user_attributes" not in DEFAULT.counts()


def test_attributes_wanted_are_those_that_the_mapping_reads() -> None:
    policy = Policy.model_validate(
        {"attributes": {"fields": {"email": "mail2", "first_name": "username"}, "extra": {"crew": "team"}}}
    )
    assert policy.attributes.wanted() == {"mail2", "team"}
    assert Policy().attributes.wanted() == frozenset()


@pytest.mark.parametrize(
    ("keys", "adopted"),
    [
        (["id"], set()),
        (["id", "username"], {"unowned"}),
        (["email"], {"mailed"}),
        (["id", "email", "username"], {"unowned", "mailed"}),
    ],
)
def test_matching_users(keys: list[str], adopted: set[str]) -> None:
    made = the_plan(policy_with("matching.users", keys))
    assert {name for kind, name, _ in ops(made) if kind == "user_attributes"} == adopted
    assert ("p7" in reasons(made)) == ("unowned" not in adopted)


def test_matching_users_tries_the_keys_in_order() -> None:
    made = world()
    made.users.append(("both", "nobodys", "two@x.org", "", "L", "D", True, "{}"))
    made.crowd.add_user("nobodys")
    made.crowd.add_user("two", email="two@x.org")
    first = planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["username", "email"]))
    assert ("user_attributes", "nobodys", "") in ops(first)
    # By e-mail it is the other account, which then cannot have the name that it wants.
    second = planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email", "username"]))
    assert not {row for row in ops(second) if row[1] == "nobodys"}
    assert "(now 'two')" in reasons(second)["both"]


def test_matching_groups() -> None:
    assert "to adopt it add 'name' to matching.groups" in reasons(DEFAULT)["theirs"]
    made = the_plan(policy_with("matching.groups", ["id", "name"]))
    assert ("group_attributes", "theirs", "") in ops(made)
    assert "theirs" not in reasons(made)


@pytest.mark.parametrize(
    ("matching", "adopted"),
    [
        ({"users": ["id", "username", "email"]}, {"unowned", "mailed"}),
        ({"users": ["id", "username", "email"], "adoption": "listed", "listed_users": ["MAIL*"]}, {"mailed"}),
        ({"users": ["id", "username", "email"], "adoption": "listed", "listed_users": ["re:un.*"]}, {"unowned"}),
        ({"users": ["email"], "adoption": "listed", "listed_users": ["unowned"]}, set()),
        ({"users": ["username"], "adoption": "listed", "listed_groups": ["unowned"]}, set()),
        ({"groups": ["id", "name"]}, {"theirs"}),
        ({"groups": ["name"], "adoption": "listed", "listed_groups": ["the?rs"]}, {"theirs"}),
        ({"groups": ["name"], "adoption": "listed", "listed_users": ["theirs"]}, set()),
        ({"adoption": "never"}, set()),
    ],
)
def test_matching_adopts_what_is_listed(matching: dict[str, Any], adopted: set[str]) -> None:
    made = the_plan(Policy.model_validate({"matching": matching}))
    marked = made.operations[made.operations["reason"].str.startswith("adopted by")]
    assert set(marked["name"]) == adopted
    if matching.get("adoption") == "listed" and "theirs" not in adopted:
        assert "to adopt it list it in matching.listed_groups" in reasons(made)["theirs"]


def test_what_one_key_adopts_the_next_does_not_meet() -> None:
    """The e-mail address of two accounts is ambiguous until the username has taken one of them."""
    made = world()
    made.users.append(("two", "first", "same@x.org", "", "L", "D", True, "{}"))
    made.users.append(("one", "elsewhere", "same@x.org", "", "L", "D", True, "{}"))
    for name in ("first", "second"):
        made.crowd.add_user(name, email="same@x.org")

    def adopted(*keys: str) -> dict[str, str]:
        of = planned(made.source(), made.crowd, made.links, policy_with("matching.users", keys))
        rows = of.operations[of.operations["reason"].str.startswith("adopted by")]
        return dict(zip(rows["source_id"], rows["name"], strict=True)) | {"held": set(reasons(of))}  # type: ignore[dict-item]

    by_name = adopted("username", "email")
    assert by_name["two"] == "first"
    assert "one" in by_name["held"], "its address is still that of two people"
    by_mail = adopted("email", "username")
    assert {"one", "two"} <= set(by_mail["held"])
    assert "two" not in by_mail, "what is ambiguous is not tried by the next key"


def test_an_ambiguous_match_names_the_candidates() -> None:
    made = world()
    for number in range(7):
        made.crowd.add_user(f"box-{number}", email="box@x.org")
    found = reasons(planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email"])))
    assert found["p8"] == (
        "its email fits 'box-0', 'box-1', 'box-2', 'box-3', 'box-4' … of Crowd; link the right one by hand: "
        "crowdsync links make"
    )
    made.users.append(("p10", "also", "ANN@x.org", "", "L", "D", True, "{}"))
    made.crowd.add_user("anne", email="ann@x.org")
    found = reasons(planned(made.source(), made.crowd, made.links, policy_with("matching.users", ["email"])))
    why = "its email fits 'ann.lee', 'also' of the source and 'anne' of Crowd; link the right one by hand"
    assert found["p1"] == found["p10"] == f"{why}: crowdsync links make"


# ── leavers ─────────────────────────────────────────────────────────────────────────────────────


WAYS = {"out_of_scope": "out", "disabled": "off", "deleted": "gone"}
"""How one can leave, and who has left so in `departed`."""
SHUT, TAKEN = ("user_deactivate", "{}", ""), ("membership_remove", "{}", "kept")
ACTIONS: dict[str, set[tuple[str, str, str]]] = {
    "deactivate": {SHUT},
    "take_groups": {TAKEN},
    "deactivate_and_take_groups": {SHUT, TAKEN},
    "delete": {("user_delete", "{}", "")},
    "nothing": set(),
}
WHY = {"out_of_scope": "is out of scope", "disabled": "is disabled in the source", "deleted": "is gone from the source"}
OUT = {"exclude_users": ["out"]}


def departed() -> World:
    """Three people who have left, each in another way, and one who stays; all have an account, and are in a group."""
    made = before_they_left()
    made.users = [(*row[:6], row[0] != "off", row[7]) for row in made.users if row[0] != "gone"]
    made.memberships = [row for row in made.memberships if row[1] != "gone"]
    return made


def before_they_left() -> World:
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    group = made.crowd.add_group("kept", "", f"{SOURCE}:kept")
    made.groups.append(("kept", "kept", "", "{}"))
    for name in ("out", "off", "gone", "stays"):
        same = {"email": f"{name}@x.org", "first_name": "F", "last_name": "L", "display_name": "D"}
        account = made.crowd.add_user(name, attributes=mark(name), **same)
        made.crowd.memberships.add((group["key"], account["key"]))
        made.users.append((name, name, f"{name}@x.org", "F", "L", "D", True, "{}"))
        made.memberships.append(("kept", name, "user"))
    return made


def leaving(**actions: Any) -> Policy:
    """Nothing happens to those who leave, but for what is given."""
    leavers = dict.fromkeys(WAYS, "nothing") | actions
    return Policy.model_validate({"leavers": leavers, "scope": OUT, "operations": {"user_delete": "on"}})


def the_leavers(policy: Policy, since: Sequence[tuple[str, datetime]] = (), world: World | None = None) -> Plan:
    made = world or departed()
    source, directory = made.source(), made.crowd.snapshot()
    wanted = desired(in_scope(source, policy).snapshot, policy)
    found = match(wanted, directory, made.links.frame(), policy, SOURCE)
    ids, then = zip(*since, strict=True) if since else ((), ())
    departures = Departures(
        pd.DataFrame({"id": pd.array(ids, dtype="str"), "since": pd.to_datetime(list(then), utc=True)}), NOW
    )
    return plan(found, source, directory, policy, SOURCE, ("", ""), departures=departures)


def named(rows: set[tuple[str, str, str]], name: str) -> set[tuple[str, str, str]]:
    return {(kind, who.format(name), target) for kind, who, target in rows}


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


LONG_AGO = [(who, NOW - timedelta(days=30)) for who in WAYS.values()]
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


# ── limits ──────────────────────────────────────────────────────────────────────────────────────

LIMITS = {
    "user_create": (Kind.USER_CREATE, None),
    "user_update": (Kind.USER_UPDATE, None),
    "user_rename": (Kind.USER_RENAME, 20),
    "user_deactivate": (Kind.USER_DEACTIVATE, 10),
    "user_delete": (Kind.USER_DELETE, 5),
    "group_create": (Kind.GROUP_CREATE, None),
    "group_delete": (Kind.GROUP_DELETE, 5),
    "membership_add": (Kind.MEMBERSHIP_ADD, None),
    "membership_remove": (Kind.MEMBERSHIP_REMOVE, 20),
    "nesting_remove": (Kind.NESTING_REMOVE, 20),
}


def of_a_hundred(kind: Kind, count: int) -> Plan:
    columns = {"kind": [kind.value] * count, "before": ['{"active":true}'] * count}
    operations = pd.DataFrame({name: pd.array(values, dtype="str") for name, values in columns.items()})
    nothing = pd.DataFrame()
    return Plan(operations, held_frame(), {}, nothing, nothing, nothing, nothing, Owned(100, 100, 100, 100, 100), "")


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


# ── every field matters ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Effect:
    """A field, values of it, and what is seen under each; all else the same. `at`: the part of the policy that the
    values stand for, where it is more than the field alone."""

    path: str
    values: Sequence[Any]
    seen: Callable[[Policy], Any]
    expected: Sequence[Any]
    more: dict[str, Any] | None = None
    at: str = ""

    def policies(self) -> list[Policy]:
        return [policy_with(self.at or self.path, value, **deepcopy(self.more or {})) for value in self.values]


def of(*kinds: str, side: str = "name") -> Callable[[Policy], set[str]]:
    """The names of what operations of these kinds are about, or the groups of memberships."""
    return lambda policy: {
        name
        for name, kind in zip(the_plan(policy).operations[side], the_plan(policy).operations["kind"], strict=True)
        if kind in kinds
    }


def count_of(*kinds: str) -> Callable[[Policy], int]:
    return lambda policy: sum(the_plan(policy).counts().get(kind, 0) for kind in kinds)


def held_because(words: str) -> Callable[[Policy], set[str]]:
    return lambda policy: {key for key, why in reasons(the_plan(policy)).items() if words in why}


def everything_of(name: str) -> Callable[[Policy], set[tuple[str, str, str]]]:
    return lambda policy: {row for row in ops(the_plan(policy)) if name in row[1:]}


def who_left(name: str) -> Callable[[Policy], set[tuple[str, str, str]]]:
    return lambda policy: {row for row in ops(the_leavers(policy, LONG_AGO)) if name in row}


def made_again(policy: Policy) -> str:
    """What becomes of a group that was deleted in the source and made again under another id."""
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    made.crowd.add_group("team", "", f"{SOURCE}:old")
    made.groups.append(("new", "team", "", "{}"))
    found = planned(made.source(), made.crowd, made.links, policy)
    if found.held["reason"].str.contains("belongs to old, which is gone from the source").any():
        return "held" if found.operations.empty else "both"
    assert [(row.kind, row.name, row.source_id) for row in found.operations.itertuples()] == [
        ("group_attributes", "team", "new")
    ]
    asked = judge(found, policy).asks
    return "asked" if [ask.text.split(":")[0] for ask in asked] == ["handover"] else "done" if not asked else "other"


def in_record(kind: Kind, name: str, field: str) -> Callable[[Policy], Any]:
    return lambda policy: record(the_plan(policy), kind, name)[field]


def adopted(policy: Policy) -> set[str]:
    made = the_plan(policy).operations
    return set(made.loc[made["reason"].str.startswith("adopted by"), "name"])


def stopped_by(kind: Kind, count: int = 3) -> Callable[[Policy], tuple[str, ...]]:
    """The fields of the limits that stop a plan of a hundred."""
    return lambda policy: tuple(line.split(":")[0] for line in judge(of_a_hundred(kind, count), policy).stops)


PAST = pd.DataFrame({"plan": [4, 3, 2, 1], "membership_remove": [0, 0, 0, 9]}, dtype="int64")


def the_verdict(policy: Policy) -> tuple[str, ...]:
    """What stops the plan of `world`, by what it does to people; four plans were applied before."""
    made = world()
    of_world, directory = planned(made.source(), made.crowd, made.links, policy), made.crowd.snapshot()
    radius = impact(of_world.operations, directory, policy, PAST.head(policy.limits.unusual_runs))
    return tuple(line.split(":")[0] for line in judge(of_world, policy, radius).stops)


def long_held(policy: Policy) -> int:
    """Of two records that are held for two runs and for three, how many are told loudly."""
    known = pd.DataFrame({"kind": "user", "id": ["a", "b"], "reason": "", "runs": [2, 3]})
    run = run_of(None, None, SimpleNamespace(held_records=lambda *_: known), policy)  # type: ignore[arg-type]
    nothing = held_frame([("user", one, one, "map", "why") for one in "ab"])
    return len(lasting(run, Plan(nothing, nothing, {}, nothing, nothing, nothing, nothing, Owned(0, 0, 0, 0, 0), "")))


def counted_since(policy: Policy) -> timedelta | None:
    """How far back a run looks for what was taken away; None: not at all."""
    asked: list[datetime] = []

    class Journal:
        def removals(self, source: str, directory: str, since: datetime) -> pd.DataFrame:
            asked.append(since)
            return RecentRemovals().removals

        def passed_limits(self, source: str, directory: str, since: datetime) -> dict[str, datetime]:
            return {}

    run_of(None, None, Journal(), policy).recent()  # type: ignore[arg-type]
    if not asked:
        return None
    return timedelta(hours=round((datetime.now(UTC) - asked[0]) / timedelta(hours=1)))


def judged_danger(policy: Policy) -> Verdict:
    """The verdict on a plan that deletes one account of a hundred."""
    of_nobody = pd.DataFrame({name: pd.array([], dtype="str") for name in COLUMNS})
    return judge(of_a_hundred(Kind.USER_DELETE, 1), policy, impact(of_nobody, Snapshot.of(), policy))


def agreement_ends(policy: Policy) -> timedelta:
    """How long a decision of the Prefect UI holds."""
    written: dict[str, Any] = {}
    store = SimpleNamespace(decide=lambda number, **given: written.update(given, number=number))
    filed = SimpleNamespace(number=7, plan=SimpleNamespace(digest="d"), verdict=Verdict())
    decide(SimpleNamespace(policy=policy, store=store), filed, "approve", "ann", "because")  # type: ignore[arg-type]
    assert (written["number"], written["digest"], written["actor"]) == (7, "d", "ann")
    return written["expires_at"] - written["at"]  # type: ignore[no-any-return]


def read_whole(policy: Policy) -> bool:
    """Whether a source that was read whole six hours ago is read whole again."""
    known = ReadCursor("m", "asked", datetime.now(UTC) - timedelta(hours=6), 1)
    store = SimpleNamespace(cursor=lambda stream: known, load_snapshot=lambda number: Snapshot.of())
    source = SimpleNamespace(capabilities=SimpleNamespace(delta=True))
    run = SimpleNamespace(source=source, store=store, policy=policy, request_digest="asked", streams=("s", "d"))
    return last_read(run) is None  # type: ignore[arg-type]


def first_part(policy: Policy) -> list[tuple[str, str, str]]:
    chosen = canary(the_plan(policy).operations, policy.canary)
    return [(row.kind, row.name, row.target) for row in chosen.itertuples()]


def shown_change(policy: Policy) -> str:
    rows = plan_rows(the_plan(policy).operations, policy.disclose)
    return next(row["changes"] for row in rows if (row["what"], row["who"]) == ("update", "bob"))


def display_name(policy: Policy) -> str:
    return str(record(the_plan(policy), Kind.USER_CREATE, "ann.lee")["display_name"])


def rule(pattern: str, replacement: str) -> list[dict[str, str]]:
    return [{"pattern": pattern, "replacement": replacement}]


def steps(*given: dict[str, Any], of: str = "username") -> dict[str, Any]:
    return {"sources": [of], "steps": list(given)}


NEW_PEOPLE, NEW_GROUPS = of("user_create"), of("group_create")
NEW = {"ann.lee", "loner", "by-mail"}
ALL_KEYS = {"users": ["id", "username", "email"], "groups": ["id", "name"]}
NO_LIMITS = {name: {} for name in LIMITS} | {"group_loss": {}}
DELETE = {"operations": {"user_delete": "on"}, "limits": NO_LIMITS}
X_ORG = {"field": "email", "operator": "ends_with", "values": ["x.org"]}
F_AND_L: dict[str, Any] = {"sources": ["first_name", "last_name"]}
TEAM = [{"pattern": "^(fre)(sh)$", "replacement": r"\2\1"}]

EFFECTS = [
    Effect("reads.full_every_hours", (24, 5), read_whole, (False, True)),
    *(
        Effect(f"operations.{name}", ("on", "report"), count_of(*KINDS[name]), (number, 0), DELETING.get(name))
        for name, number in {
            "user_create": 3,
            "user_update": 1,
            "user_rename": 1,
            "user_activate": 1,
            "user_deactivate": 2,
            "user_delete": 1,
            "group_create": 1,
            "group_update": 1,
            "group_delete": 1,
            "membership_add": 5,
            "membership_remove": 2,
            "nesting": 2,
        }.items()
    ),
    # Scope.
    Effect("scope.groups", (["*"], ["staff"]), of("membership_add", side="target"), ({"staff", "inner"}, {"staff"})),
    Effect(
        "scope.exclude_groups", ([], ["STAFF"]), of("membership_add", side="target"), ({"staff", "inner"}, {"inner"})
    ),
    Effect(
        "scope.required_groups",
        ([], ["staff"], ["outer"]),
        lambda policy: NEW_PEOPLE(policy) | gone_out(the_plan(policy)),
        (NEW, {"ann.lee", "dan"}, {"dan", "bob", "old-name"}),
    ),
    Effect("scope.members_only", (False, True), NEW_PEOPLE, (NEW, {"ann.lee"})),
    Effect("scope.users", (["*"], ["ann*", "re:bo.|x"]), NEW_PEOPLE, (NEW, {"ann.lee"})),
    Effect("scope.exclude_users", ([], ["ANN*", "loner"]), NEW_PEOPLE, (NEW, {"by-mail"})),
    Effect(
        "scope.conditions",
        ([], [{"all": [{"field": "team", "values": ["red"]}]}, {"all": [{"field": "email", "values": ["BOX@x.org"]}]}]),
        NEW_PEOPLE,
        (NEW, {"ann.lee", "by-mail"}),
    ),
    # Names.
    Effect(
        "usernames.source",
        ("username", "email"),
        NEW_PEOPLE,
        (NEW, {"ann@x.org", "loner@x.org", "box@x.org", "unowned@x.org", "admin@x.org"}),
    ),
    Effect("usernames.normalise", ("NFKC", "NFC"), of("user_rename", side="target"), ({"cy"}, {"ｃｙ"})),
    Effect(
        "usernames.rules",
        ([], [{"pattern": r"^(\w+)\.(\w+)$", "replacement": r"\2.\1"}]),
        NEW_PEOPLE,
        (NEW, NEW - {"ann.lee"} | {"lee.ann"}),
    ),
    Effect("usernames.case", ("lower", "keep"), NEW_PEOPLE, (NEW, NEW - {"ann.lee"} | {"Ann.Lee"})),
    Effect("usernames.allow", (["*"], ["re:[a-z]+"]), held_because("none of usernames.allow"), (set(), {"p1", "p8"})),
    Effect("usernames.deny", ([], ["BO?", "re:.*mail"]), held_because("one of usernames.deny"), (set(), {"p2", "p8"})),
    Effect("groups.rules", ([], TEAM), NEW_GROUPS, ({"fresh"}, {"shfre"})),
    Effect("groups.prefix", ("", "x-"), NEW_GROUPS, ({"fresh"}, {"x-fresh", "x-theirs"})),
    Effect(
        "groups.allow",
        (["*"], ["staff", "re:.*ter|inner"]),
        held_because("none of groups.allow"),
        (set(), {"fresh", "theirs", "jira", "texts"}),
    ),
    Effect("groups.deny", ([], ["FRESH", "re:te.ts"]), held_because("one of groups.deny"), (set(), {"fresh", "texts"})),
    Effect(
        "groups.everyone",
        ([], ["all-of-us"]),
        lambda policy: {
            row[1] for row in ops(the_plan(policy)) if row[0] == "membership_add" and row[2] == "all-of-us"
        },
        (set(), NEW | {"bob", "cy", "eve"}),
    ),
    Effect(
        "groups.nesting",
        ("preserve", "flatten", "ignore"),
        everything_of("outer"),
        ({("nesting_add", "inner", "outer")}, {("membership_add", "eve", "outer")}, set()),
    ),
    Effect("groups.handover", ("do", "ask", "never"), made_again, ("done", "asked", "held")),
    # Values.
    Effect(
        "attributes.fields",
        ({}, {"email": "mail2"}),
        in_record(Kind.USER_CREATE, "ann.lee", "email"),
        ("ann@x.org", "ann@y.org"),
    ),
    Effect(
        "attributes.extra",
        ({}, {"crew": "team"}),
        in_record(Kind.USER_CREATE, "ann.lee", "attributes"),
        (mark("p1"), mark("p1") | {"crew": ["red"]}),
    ),
    # Matching.
    Effect("matching.users", (["id"], ["username"], ["email"]), adopted, (set(), {"unowned"}, {"mailed"})),
    Effect("matching.groups", (["id"], ["id", "name"]), adopted, (set(), {"theirs"})),
    Effect(
        "matching.adoption",
        (ALL_KEYS, ALL_KEYS | {"adoption": "listed", "listed_users": ["mailed"]}, {"adoption": "never"}),
        adopted,
        ({"unowned", "mailed", "theirs"}, {"mailed"}, set()),
        at="matching",
    ),
    *(
        Effect(
            f"matching.{field}",
            [ALL_KEYS | {"adoption": "listed", field: one} for one in (["nobody"], listed)],
            adopted,
            (set(), set(listed)),
            at="matching",
        )
        for field, listed in (("listed_users", ["unowned"]), ("listed_groups", ["theirs"]))
    ),
    # Leavers.
    *(
        Effect(
            f"leavers.{way}",
            list(ACTIONS),
            who_left(name),
            [named(rows, name) for rows in ACTIONS.values()],
            {"scope": OUT, "operations": {"user_delete": "on"}},
        )
        for way, name in WAYS.items()
    ),
    Effect(
        "leavers.delete_after_days",
        (None, 30, 31),
        lambda policy: the_leavers(policy, LONG_AGO).counts(),
        ({"user_deactivate": 2}, {"user_delete": 2}, {"user_deactivate": 2}),
        {"operations": {"user_delete": "on"}},
    ),
    Effect(
        "leavers.groups",
        ("empty", "delete", "nothing"),
        everything_of("gone-group"),
        ({("membership_remove", "bob", "gone-group")}, {("group_delete", "gone-group", "")}, set()),
        {"operations": {"group_delete": "on"}},
    ),
    # Limits.
    *(
        Effect(f"limits.{name}", ({}, {"absolute": 2}, {"percent": 3}), stopped_by(kind), ((), (name,), ()), {})
        for name, (kind, _) in LIMITS.items()
    ),
    Effect(
        "limits.group_membership_add",
        ({}, {"absolute": 3}),
        the_verdict,
        ((), ("group_membership_add",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect(
        "limits.group_membership_remove",
        ({}, {"percent": 99}),
        the_verdict,
        ((), ("group_membership_remove",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect(
        "limits.group_loss",
        ({}, {"absolute": 0}),
        the_verdict,
        ((), ("group_loss",)),
        {"limits": dict(NO_LIMITS)},
    ),
    Effect("limits.held_runs", (1, 3, None), long_held, (2, 1, 0)),
    Effect("limits.window_hours", (0, 24, 48), counted_since, (None, timedelta(hours=24), timedelta(hours=48))),
    Effect(
        "limits.seats",
        (None, 4, 3),
        the_verdict,
        ((), (), ("seats",)),
        {"limits": NO_LIMITS | {"seat_groups": ["sta*"]}},
    ),
    Effect(
        "limits.seat_groups",
        (["staff"], ["texts"], ["outer"], ["staff", "outer"]),
        lambda policy: impact(the_plan(policy).operations, world().crowd.snapshot(), policy).seats_after,
        (4, 0, 1, 4),
    ),
    Effect(
        "limits.unusual_times",
        (10, 2.9, None),
        the_verdict,
        ((), ("unusual",), ()),
        {"limits": NO_LIMITS | {"unusual_runs": 3}},
    ),
    Effect(
        "limits.unusual_runs",
        (3, 4),
        the_verdict,
        (("unusual",), ()),
        {"limits": NO_LIMITS | {"unusual_times": 2}},
    ),
    # Protection.
    Effect(
        "protection.users",
        (["admin"], ["B*", "admin"]),
        everything_of("texts"),
        (
            (
                {
                    ("membership_remove", "bob", "texts"),
                    ("group_update", "texts", ""),
                    ("nesting_remove", "texts", "inner"),
                }
            ),
            {("group_update", "texts", ""), ("nesting_remove", "texts", "inner")},
        ),
    ),
    Effect("protection.groups", ([], ["FRE*"]), NEW_GROUPS, ({"fresh"}, set())),
    Effect("protection.privileged_groups", (PRIVILEGED, ["fresh"]), NEW_GROUPS, ({"fresh"}, {"jira-administrators"})),
    Effect(
        "protection.privileged_allowed",
        ([], ["jira-administrators"]),
        NEW_GROUPS,
        ({"fresh"}, {"fresh", "jira-administrators"}),
    ),
    # Agreement.
    Effect(
        "approval.when",
        ("above_limits", "always", "never"),
        lambda policy: [
            (len(found.asks), len(found.refusals))
            for found in (judge(of_a_hundred(Kind.USER_CREATE, count), policy) for count in (0, 2, 3))
        ],
        ([(0, 0), (0, 0), (1, 0)], [(0, 0), (1, 0), (1, 0)], [(0, 0), (0, 0), (0, 1)]),
        {"limits": {"user_create": {"absolute": 2}}},
    ),
    Effect(
        "approval.dangers",
        ([], ["deletions"]),
        judged_danger,
        (
            Verdict(),
            Verdict(
                asks=(
                    Finding(
                        "deletions: 1 accounts and 0 groups are deleted (approval.dangers)",
                        (Kind.USER_DELETE, Kind.GROUP_DELETE),
                    ),
                )
            ),
        ),
    ),
    Effect(
        "approval.emptied_members",
        (1, 2),
        the_verdict,
        (("emptied_groups",), ()),
        {"limits": dict(NO_LIMITS), "approval": {"dangers": ["emptied_groups"]}},
    ),
    Effect("approval.expires_hours", (24, 1.5), agreement_ends, (timedelta(hours=24), timedelta(minutes=90))),
    Effect("canary.operations", (None, 1, 2), lambda policy: len(first_part(policy)), (0, 1, 2)),
    Effect(
        "canary.group",
        ("", "Inner", "fresh"),
        first_part,
        (
            [],
            [
                ("nesting_remove", "texts", "inner"),
                ("nesting_add", "inner", "outer"),
                ("membership_add", "eve", "inner"),
            ],
            [("group_create", "fresh", ""), ("group_attributes", "fresh", "")],
        ),
    ),
    Effect("disclose", ("names", "values"), shown_change, ("email", "email: old@x.org → bob@x.org")),
    # What stands in lists: rules, conditions, values and their steps, limits.
    *(
        Effect(f"Rule.{field}", values, NEW_PEOPLE, expected, at="usernames.rules")
        for field, values, expected in (
            (
                "pattern",
                [rule("[.]", "-"), rule("-", "-x")],
                [NEW - {"ann.lee"} | {"ann-lee"}, NEW - {"by-mail"} | {"by-xmail"}],
            ),
            (
                "replacement",
                [rule("[.]", "-"), rule("[.]", "")],
                [NEW - {"ann.lee"} | {name} for name in ("ann-lee", "annlee")],
            ),
        )
    ),
    *(
        Effect(path, [[{"all": conditions}] for conditions in values], NEW_PEOPLE, expected, at="scope.conditions")
        for path, values, expected in (
            (
                "Conditions.all",
                [[X_ORG], [X_ORG, {"field": "username", "operator": "contains", "values": ["-"]}]],
                [NEW, {"by-mail"}],
            ),
            (
                "Condition.field",
                [[{"field": field, "values": ["red", "l"]}] for field in ("team", "last_name")],
                [{"ann.lee"}, NEW],
            ),
            (
                "Condition.operator",
                [[{"field": "team", "operator": one, "values": ["red"]}] for one in ("equals", "not_equals")],
                [{"ann.lee"}, NEW - {"ann.lee"}],
            ),
            (
                "Condition.values",
                [[{"field": "team", "values": values}] for values in (["red"], ["blue"])],
                [{"ann.lee"}, set()],
            ),
        )
    ),
    *(
        Effect(path, values, display_name, expected, at="attributes.fields.display_name")
        for path, values, expected in (
            ("Value.sources", ["username", "email"], ["Ann.Lee", "ann@x.org"]),
            ("Value.combine", [F_AND_L | {"combine": one} for one in ("first", "join")], ["F", "F L"]),
            (
                "Value.separator",
                [F_AND_L | {"combine": "join", "separator": one} for one in (" ", "-")],
                ["F L", "F-L"],
            ),
            ("Value.steps", [steps(), steps({"function": "upper"})], ["Ann.Lee", "ANN.LEE"]),
            ("Step.function", [steps({"function": one}) for one in ("lower", "upper")], ["ann.lee", "ANN.LEE"]),
            (
                "Step.pattern",
                [steps({"function": "replace", "pattern": one, "replacement": "x"}) for one in ("n", "e")],
                ["Axx.Lee", "Ann.Lxx"],
            ),
            (
                "Step.replacement",
                [steps({"function": "replace", "pattern": "n", "replacement": one}) for one in ("", "m")],
                ["A.Lee", "Amm.Lee"],
            ),
            (
                "Step.separator",
                [steps({"function": "split", "separator": one, "part": 1}) for one in (".", "e")],
                ["Ann", "Ann.L"],
            ),
            (
                "Step.part",
                [steps({"function": "split", "separator": ".", "part": one}) for one in (1, 2)],
                ["Ann", "Lee"],
            ),
            (
                "Step.table",
                [steps({"function": "lookup", "table": {"RED": one}}, of="team") for one in ("R", "S")],
                ["R", "S"],
            ),
            (
                "Step.otherwise",
                [
                    steps({"function": "lookup", "table": {"blue": "B"}, "otherwise": one}, of="team")
                    for one in ("keep", "empty")
                ],
                ["red", ""],
            ),
            (
                "Step.value",
                [steps({"function": "default", "value": one}, of="missing") for one in ("a", "b")],
                ["a", "b"],
            ),
        )
    ),
    *(
        Effect(
            f"Limit.{field}",
            [{field: 2}, {field: 3}],
            stopped_by(Kind.USER_CREATE),
            (("user_create",), ()),
            at="limits.user_create",
        )
        for field in ("absolute", "percent")
    ),
]
IN_LISTS: tuple[type[BaseModel], ...] = (Rule, Conditions, Condition, Value, Step, Limit)


@pytest.mark.parametrize("effect", EFFECTS, ids=[effect.path for effect in EFFECTS])
def test_a_field_leads_to_what_it_says(effect: Effect) -> None:
    """Whoever ignores the field sees the same under all values, and one of these fails."""
    assert len({repr(one) for one in effect.expected}) > 1
    policies = effect.policies()
    for value, policy, expected in zip(effect.values, policies, effect.expected, strict=True):
        assert effect.seen(policy) == expected, value
    assert len({policy.digest() for policy in policies}) == len(policies)


def test_every_field_has_its_effect_here() -> None:
    wanted = {*fields_of(Policy), *(f"{model.__name__}.{name}" for model in IN_LISTS for name in model.model_fields)}
    paths = [effect.path for effect in EFFECTS]
    assert sorted(paths) == sorted(wanted)
    parts = {
        field.annotation.__name__ for field in Policy.model_fields.values() if hasattr(field.annotation, "__name__")
    }
    assert set(Policy.model_json_schema()["$defs"]) == parts - {"Literal"} | {model.__name__ for model in IN_LISTS}
    assert FEATURES.keys() == set(Kind)


def test_the_digest_is_that_of_what_the_policy_says() -> None:
    assert Policy().digest() == Policy.model_validate({}).digest() == Policy.model_validate_json("{}").digest()
    every = {policy.model_dump_json(): policy.digest() for effect in EFFECTS for policy in effect.policies()}
    assert len(set(every.values())) == len(every)
    print(f"{len(EFFECTS)} fields, {len(every)} policies, each with a digest of its own")


BAD: list[tuple[str, Any, str]] = [
    *((f"operations.{name}", "perhaps", f"operations.{name}") for name in Policy().operations.model_dump()),
    *(
        (f"scope.{name}", [" "], f"scope.{name}.0")
        for name in ("groups", "exclude_groups", "required_groups", "exclude_users")
    ),
    *(
        (f"scope.{name}", ["ok", "re:(?=x)"], f"scope.{name}.1")
        for name in ("groups", "exclude_groups", "required_groups", "exclude_users")
    ),
    ("scope.groups", "all", "scope.groups"),
    ("scope.groups", [7], "scope.groups.0"),
    ("scope.groups", ["re:a)(b"], "scope.groups.0"),
    ("scope.groups", [r"re:\Qa.b"], "scope.groups.0"),
    ("scope.members_only", "maybe", "scope.members_only"),
    ("usernames.source", "display_name", "usernames.source"),
    ("usernames.normalise", "NFD", "usernames.normalise"),
    ("usernames.case", "upper", "usernames.case"),
    ("usernames.rules", [{"pattern": "("}], "usernames.rules.0.pattern"),
    (
        "usernames.rules",
        [{"pattern": "a", "replacement": ""}, {"pattern": r"(a)\1", "replacement": ""}],
        "usernames.rules.1.pattern",
    ),
    ("usernames.rules", [{"pattern": "(a)", "replacement": r"\2"}], "usernames.rules.0"),
    ("usernames.rules", [{"pattern": "a"}], "usernames.rules.0.replacement"),
    ("usernames.rules", [{"replacement": "a"}], "usernames.rules.0.pattern"),
    ("usernames.rules", [{"pattern": "a", "replacement": "b", "flags": "i"}], "usernames.rules.0.flags"),
    ("attributes.fields", {"username": "x"}, "attributes.fields.username"),
    ("attributes.fields", {"email": 3}, "attributes.fields.email"),
    ("attributes.extra", {ID_ATTRIBUTE: "x"}, "attributes"),
    ("attributes.extra", {"": "x"}, "attributes"),
    ("attributes.extra", {"x" * 256: "x"}, "attributes"),
    ("attributes.extra", {"x": 1}, "attributes.extra.x"),
    ("matching.users", ["id", "name"], "matching.users.1"),
    ("matching.groups", ["username"], "matching.groups.0"),
    *((f"leavers.{way}", "empty", f"leavers.{way}") for way in WAYS),
    ("leavers.groups", "deactivate", "leavers.groups"),
    *((f"leavers.{way}", "delete", f"leavers.{way}") for way in WAYS),
    ("leavers.groups", "delete", "leavers.groups"),
    *((f"limits.{name}.absolute", -1, f"limits.{name}.absolute") for name in LIMITS),
    *((f"limits.{name}.percent", 101, f"limits.{name}.percent") for name in LIMITS),
    ("limits.user_create.percent", -0.1, "limits.user_create.percent"),
    ("limits.user_create.percent", float("nan"), "limits.user_create.percent"),
    ("limits.user_create.absolute", 1.5, "limits.user_create.absolute"),
    ("limits.user_create", 5, "limits.user_create"),
    ("protection.users", ["re:["], "protection.users.0"),
    ("protection.groups", [""], "protection.groups.0"),
    ("protection.privileged_groups", ["re:*"], "protection.privileged_groups.0"),
    ("protection.privileged_allowed", ["staff"], "protection.privileged_allowed"),
    ("disclose", "all", "disclose"),
    ("reads.full_every_hours", -1, "reads.full_every_hours"),
    ("reads.full_every_hours", "daily", "reads.full_every_hours"),
]
UNKNOWN = ["more", *(f"{name}.more" for name in Policy.model_fields if name != "disclose"), "limits.user_create.more"]


def text_of(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{orjson.dumps(k).decode()} = {text_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(text_of, value)) + "]"
    return "nan" if value != value else orjson.dumps(value).decode()


def settings_file(path: Path, policy: str) -> Path:
    file = path / "settings.toml"
    directory = '[directory]\nurl = "https://crowd.example.org/crowd"\napplication = "sync"\n'
    source = f'[sources.acme]\nkind = "scim"\nurl = "https://idp.example.org"\n[sources.acme.policy]\n{policy}\n'
    file.write_text(directory + source, encoding="utf-8")
    return file


@pytest.mark.parametrize(("path", "value", "named"), BAD, ids=[f"{p}={str(v)[:30]}" for p, v, _ in BAD])
def test_a_bad_value_is_refused_and_its_field_and_file_named(path: str, value: Any, named: str, tmp_path: Path) -> None:
    file = settings_file(tmp_path, f"{path} = {text_of(value)}")
    with pytest.raises(ConfigurationError) as refused:
        policy_of(load(file), "acme")
    message = str(refused.value)
    assert message.startswith(f"{file}: sources.acme.policy")
    assert named in message
    if "delete" not in str(value) and named != "protection.privileged_allowed":
        assert f"sources.acme.policy.{named}" in message
    assert "\n" not in message


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_field_is_refused(path: str, tmp_path: Path) -> None:
    file = settings_file(tmp_path, f"{path} = true")
    with pytest.raises(ConfigurationError) as refused:
        policy_of(load(file), "acme")
    assert f"{file}: sources.acme.policy.{path}: there is no such setting" in str(refused.value)


def test_policy_of_a_settings_file(tmp_path: Path) -> None:
    settings = load(
        settings_file(tmp_path, 'disclose = "values"\nscope.groups = ["app-*"]\nlimits.user_create = {absolute = 5}')
    )
    policy = policy_of(settings, "acme")
    assert (policy.disclose, policy.scope.groups, policy.limits.user_create) == (
        "values",
        ("app-*",),
        Limit(absolute=5),
    )
    assert policy_of(load(settings_file(tmp_path, "")), "acme") == Policy()
    with pytest.raises(ConfigurationError, match="no source is called 'other'"):
        policy_of(settings, "other")


def test_a_policy_does_not_change_and_survives_its_own_text() -> None:
    policy = policy_with("scope.groups", ["a", "re:b"], usernames={"rules": [{"pattern": "(a)", "replacement": r"\1"}]})
    assert Policy.model_validate_json(policy.model_dump_json()) == policy
    with pytest.raises(ValidationError, match="frozen"):
        policy.disclose = "values"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["", "x", "two\nlines"], []),
        ("app-*", ["app-", "APP-x"], ["my-app-x", "app"]),
        ("a?c", ["abc", "AéC"], ["ac", "abbc"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a+(b)[c]{1}^$|\\", ["A+(B)[c]{1}^$|\\"], ["a+(b)"]),
        ("re:a|b", ["a", "B"], ["ab", "xa", "b\n"]),
        ("re:(?-i)a", ["a"], ["A"]),
        ("re:a.c", ["a\nc"], ["ac"]),
        ("re:", [""], ["x"]),
    ],
)
def test_patterns_match_the_whole_name_without_regard_to_case(pattern: str, yes: list[str], no: list[str]) -> None:
    names = pd.Series([*yes, *no], dtype="str", index=range(5, 5 + len(yes) + len(no)))
    found = matches(names, [pattern])
    assert found.tolist() == [True] * len(yes) + [False] * len(no)
    assert found.index.equals(names.index)
    assert not matches(names, []).any()
