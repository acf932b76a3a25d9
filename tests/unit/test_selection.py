"""A run about one person or one group: of the plan what concerns them and what that needs, and nothing else."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import orjson
import pandas as pd
import pytest

from connectors.errors import ConfigurationError
from connectors.model import ID_ATTRIBUTE, crowd_id
from connectors.operations import Kind
from tasks.decide import plan as stage
from tasks.decide.filter import in_scope
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Plan, plan
from tasks.decide.selection import Selection, select
from tasks.policy import Policy
from tests.support.long import long_after
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import (
    SOURCE,
    World,
    add_world,
    any_policy,
    applied,
    deletes,
    describe,
    mark,
    owners,
    planned,
    since,
    subjects,
    whose,
)

Row = tuple[str, str, str]


def selecting(world: World, policy: Policy) -> Callable[[Selection | None], Plan]:
    """The plan of a world, about everybody or one. What is the same for all is worked out once."""
    source, directory = world.source(), world.crowd.snapshot(policy.attributes.extra)
    matched = match(desired(in_scope(source, policy).snapshot, policy), directory, world.links.frame(), policy, SOURCE)
    steps: dict[str, Any] = {name: cache_once(getattr(stage, name)) for name in STEPS}

    def made(selection: Selection | None) -> Plan:
        with patch.multiple(stage, **steps):
            return plan(
                matched, source, directory, policy, SOURCE, ("", ""), departures=since(source), selection=selection
            )

    return made


STEPS = (
    "plan_inputs",
    "find_leavers",
    "find_renames",
    "change_accounts",
    "change_groups",
    "create_accounts",
    "create_groups",
    "change_memberships",
)


def cache_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose first result stands for all that follow."""
    results: list[Any] = []

    def first(*given: Any) -> Any:
        if not results:
            results.append(function(*given))
        return results[0]

    return first


def rows(made: Plan) -> list[Row]:
    return list(made.operations[["kind", "name", "target"]].itertuples(index=False, name=None))


# ── small worlds that can be checked by eye ─────────────────────────────────────────────────────


def company(*people: tuple[str, str, str], mail: str = "") -> World:
    """People of (id, account in Crowd or "", username); the accounts are marked."""
    made = World(crowd=ModelCrowd(), links=ModelLinks())
    for key, account, name in people:
        made.users.append((key, name, mail, "F", "L", "D", True, "{}"))
        if account:
            made.crowd.add_user(account, attributes=mark(key), first_name="F", last_name="L", display_name="D")
    return made


def group(world: World, name: str, *members: str, now: tuple[str, ...] = (), there: bool = True) -> None:
    """A group with these members in the source (`@` before a group), and those in Crowd."""
    world.groups.append((name, name, "", "{}"))
    world.memberships += [(name, one.lstrip("@"), "group" if one[0] == "@" else "user") for one in members]
    if there:
        made = world.crowd.add_group(name, "", f"{SOURCE}:{name}")
        world.crowd.memberships |= {(made["key"], world.crowd.users[one]["key"]) for one in now}


def about(world: World, policy: Policy | None = None, *, person: str = "", group: str = "") -> list[Row]:
    """The plan about one; carried out it does what it says and leaves nothing to do for them."""
    rules, chosen = policy or Policy(), Selection(person=person, group=group)
    made = selecting(world, rules)(chosen)
    then = replace(world, crowd=world.crowd.copy(), links=world.links.copy())
    applied(made, then.crowd, then.links, random.Random(1))
    assert rows(selecting(then, rules)(chosen)) == []
    return rows(made)


def test_a_chain_of_renames_is_taken_from_its_end_up_to_the_person() -> None:
    world = company(("1", "a", "b"), ("2", "b", "c"), ("3", "c", "d"), ("4", "x", "y"))
    assert about(world, person="3") == [("user_rename", "c", "d")]
    assert about(world, person="2") == [("user_rename", "c", "d"), ("user_rename", "b", "c")]
    assert about(world, person="1") == [("user_rename", "c", "d"), ("user_rename", "b", "c"), ("user_rename", "a", "b")]
    assert about(world, person="4") == [("user_rename", "x", "y")]


def test_a_swap_needs_both_and_gives_the_other_nothing_else() -> None:
    world = company(("1", "a", "b"), ("2", "b", "a"), ("3", "c", "c"))
    group(world, "old", now=("a", "b", "c"))
    group(world, "new", "1", "2", "3")
    swap = [("user_rename", "a", "a~1"), ("user_rename", "b", "a"), ("user_rename", "a~1", "b")]
    assert about(world, person="1") == [("membership_remove", "a", "old"), *swap, ("membership_add", "b", "new")]
    assert about(world, person="2") == [("membership_remove", "b", "old"), *swap, ("membership_add", "a", "new")]


def test_a_name_is_freed_by_a_deletion_or_a_rename_first() -> None:
    policy = Policy.model_validate({"leavers": {"deleted": "delete"}, "operations": {"user_delete": "on"}})
    world = company(("1", "", "gone"), ("2", "", "old"), ("3", "old", "new"), ("4", "", "other"))
    for name in ("gone", "gone-too"):
        world.crowd.add_user(name, attributes=mark(name))
    assert about(world, policy, person="1") == [("user_delete", "gone", ""), ("user_create", "gone", "")]
    assert about(world, policy, person="2") == [("user_rename", "old", "new"), ("user_create", "old", "")]
    assert about(world, policy, person="gone-too") == [("user_delete", "gone-too", "")]


def test_the_persons_groups_are_made_and_marked_and_no_more_than_that() -> None:
    world = company(("1", "", "ann"), ("2", "", "bob"))
    group(world, "fresh", "1", "2", there=False)
    group(world, "lone", "2", there=False)
    group(world, "texts", "1")
    world.groups = [(key, name, "new text", rest) for key, name, _, rest in world.groups]
    del world.crowd.groups["texts"]["attributes"][ID_ATTRIBUTE]
    world.links.rows[SOURCE, "group", "texts"] = ("texts", "created")
    assert about(world, person="1") == [
        ("group_attributes", "texts", ""),
        ("user_create", "ann", ""),
        ("group_create", "fresh", ""),
        ("group_attributes", "fresh", ""),
        ("membership_add", "ann", "texts"),
        ("membership_add", "ann", "fresh"),
    ]


def test_a_group_that_gets_the_name_of_one_that_is_deleted() -> None:
    policy = Policy.model_validate({"leavers": {"groups": "delete"}, "operations": {"group_delete": "on"}})
    world = company(("1", "ann", "ann"), ("2", "bob", "bob"))
    world.crowd.add_group("staff", "", f"{SOURCE}:old")
    group(world, "staff", "1", "2", there=False)
    made = [("group_delete", "staff", ""), ("group_create", "staff", ""), ("group_attributes", "staff", "")]
    assert about(world, policy, person="1") == [*made, ("membership_add", "ann", "staff")]
    assert about(world, policy, group="STAFF") == [
        *made,
        ("membership_add", "ann", "staff"),
        ("membership_add", "bob", "staff"),
    ]


def test_an_adopted_account_that_is_renamed_leaves_the_groups_of_its_old_name() -> None:
    policy = Policy.model_validate({"matching": {"users": ["id", "email"]}})
    world = company(("1", "", "ann"), ("2", "bob", "bob"), mail="")
    world.users[0] = (*world.users[0][:2], "ann@x.org", *world.users[0][3:])
    world.crowd.add_user("annie", email="ann@x.org", first_name="F", last_name="L", display_name="D")
    group(world, "old", now=("annie", "bob"))
    group(world, "new", "1")
    expected = [
        ("user_attributes", "annie", ""),
        ("membership_remove", "annie", "old"),
        ("user_rename", "annie", "ann"),
        ("membership_add", "ann", "new"),
    ]
    assert about(world, policy, person="1") == expected
    assert about(world, policy, group="old") == [
        ("user_attributes", "annie", ""),
        ("membership_remove", "annie", "old"),
        ("membership_remove", "bob", "old"),
    ]
    assert about(world, policy, group="new") == [expected[0], *expected[2:]]


def test_a_groups_members_are_made_and_renamed_but_not_changed() -> None:
    world = company(("1", "", "ann"), ("2", "b", "bob"), ("3", "cy", "cy"), ("4", "", "dan"), mail="new@x.org")
    group(world, "staff", "1", "2", "3")
    group(world, "others", "4", "1")
    made = about(world, group="staff")
    assert made[:2] == [("user_rename", "b", "bob"), ("user_create", "ann", "")]
    assert sorted(made[2:]) == [("membership_add", name, "staff") for name in ("ann", "bob", "cy")]


def test_a_groups_nestings_and_the_groups_for_them() -> None:
    world = company(("1", "ann", "ann"))
    group(world, "outer", "@staff", "@else", there=False)
    group(world, "staff", "@inner", "1")
    group(world, "inner", "1", there=False)
    group(world, "else", "1", there=False)
    world.groups = [(key, name, "text", rest) for key, name, _, rest in world.groups]
    assert sorted(about(world, group="staff")) == sorted(
        [
            ("group_update", "staff", ""),
            *((kind, name, "") for kind in ("group_create", "group_attributes") for name in ("outer", "inner")),
            ("nesting_add", "inner", "staff"),
            ("nesting_add", "staff", "outer"),
            ("membership_add", "ann", "staff"),
        ]
    )


def test_a_nesting_that_is_turned_round_further_down() -> None:
    """staff goes into inner, which was below it by way of a third group: that nesting must go first."""
    world = company(("1", "ann", "ann"))
    for name, child in (("staff", "middle"), ("middle", "inner"), ("inner", "")):
        group(world, name)
        if child:
            world.memberships.append((name, child, "group"))
    keys = {name: one["key"] for name, one in world.crowd.groups.items()}
    world.crowd.nestings |= {(keys["staff"], keys["middle"]), (keys["middle"], keys["inner"])}
    world.memberships = [("staff", "middle", "group"), ("inner", "staff", "group")]
    expected = [("nesting_remove", "inner", "middle"), ("nesting_add", "staff", "inner")]
    assert about(world, group="staff") == about(world, group="inner") == expected


def test_a_person_who_is_gone_or_held_or_unknown() -> None:
    world = company(("1", "admin", "x"), ("2", "", "admin"))
    world.crowd.add_user("left", attributes=mark("9"))
    world.crowd.add_user("left-too", attributes=mark("8"))
    assert about(world, person="9") == [("user_deactivate", "left", "")]
    assert about(world, person="nobody") == []
    assert about(world, group="nothing") == []
    of_held = selecting(world, Policy())(Selection(person="2"))
    assert rows(of_held) == []
    assert list(of_held.held["id"]) == ["2"]


def test_what_is_held_reported_and_withheld_is_told_of_the_one_only() -> None:
    world = company(("1", "", "admin"), ("2", "", "x" * 300), ("3", "b", "bob"))
    group(world, "jira-administrators", "3", there=False)
    group(world, "also", "3")
    policy = Policy.model_validate({"operations": {"user_rename": "report"}})
    whole = selecting(world, policy)(None)
    assert set(whole.held["id"]) == {"1", "2", "jira-administrators"}
    assert (whole.withheld, len(whole.reported)) == ({"user_rename": 1}, 1)
    for selection, held in (
        (Selection(person="1"), {"1"}),
        (Selection(person="3"), set()),
        (Selection(group="Jira-Administrators"), {"jira-administrators"}),
        (Selection(group="also"), set()),
    ):
        made = selecting(world, policy)(selection)
        assert set(made.held["id"]) == held
        assert (made.withheld, len(made.reported)) == ({}, 0)
        assert list(made.operations["seq"]) == list(range(1, len(made.operations) + 1))
    digests = [
        selecting(world, policy)(selection).digest
        for selection in (None, Selection(person="3"), Selection(group="nothing"))
    ]
    assert digests[0] == digests[1] != digests[2], "the whole plan is about nobody else"


# ── whom a run is about ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def known() -> tuple[World, pd.DataFrame]:
    world = company(("1", "ann", "Ann"), ("2", "bob", "bob"), ("3", "", "2"))
    mails = ("ann@x.org", "both@x.org", "Both@x.org")
    world.users = [(*row[:2], mail, *row[3:]) for row, mail in zip(world.users, mails, strict=True)]
    world.links.rows = {
        (SOURCE, "user", "9"): ("Left.One", "created"),
        (SOURCE, "group", "8"): ("left.two", "created"),
        ("other", "user", "7"): ("left.three", "created"),
    }
    return world, world.links.frame()


@pytest.mark.parametrize(
    ("person", "key"),
    [
        ("1", "1"),
        ("ANN", "1"),
        ("ann@X.org", "1"),
        ("2", "2"),  # an id before the username of another
        ("bob", "2"),
        ("9", "9"),
        ("LEFT.one", "9"),
    ],
)
def test_a_person_is_named_by_id_username_or_email(known: tuple[World, pd.DataFrame], person: str, key: str) -> None:
    assert select(known[0].source(), known[1], SOURCE, person, "") == Selection(person=key)


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ("nobody", "acme has nobody with the id, username or e-mail address 'nobody'"),
        ("left.two", "acme has nobody with"),
        ("left.three", "acme has nobody with"),
        ("7", "acme has nobody with"),
        ("both@x.org", "'both@x.org' fits 2, 3 in acme; give one of these ids"),
    ],
)
def test_nobody_or_several_are_refused(known: tuple[World, pd.DataFrame], person: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^person: .*{words}"):
        select(known[0].source(), known[1], SOURCE, person, "")


def test_a_group_or_everybody(known: tuple[World, pd.DataFrame]) -> None:
    assert select(known[0].source(), known[1], SOURCE, "", "Staff") == Selection(group="Staff")
    assert select(known[0].source(), known[1], SOURCE, "", "") is None


@pytest.mark.parametrize(
    "selection", [Selection(person="a:b"), Selection(group="a:b"), Selection(person="ann"), Selection(group="Staff")]
)
def test_what_a_plan_is_about_survives_its_own_text(selection: Selection) -> None:
    assert Selection.read(str(selection)) == selection
    assert Selection.read("") is None


# ── random worlds ───────────────────────────────────────────────────────────────────────────────


def needed(whole: Plan, chosen: set[Row]) -> set[Row]:
    """Renames and deletions that free the names that chosen operations give, and so on."""
    found: set[Row] = set()
    while True:
        names = {crowd_id(t if kind == "user_rename" else n) for kind, n, t in chosen | found if _names(kind)}
        more = {
            row for row in rows(whole) if row[0] in ("user_rename", "user_delete") and crowd_id(row[1]) in names
        } - found
        if not more:
            return found
        found |= more


def _names(kind: str) -> bool:
    return kind in ("user_rename", "user_create")


def check_person(person: str, whole: Plan, focused: Plan, keys: list[int], owner: dict[int, str]) -> None:
    of_people = [row[0].startswith(("user", "membership")) for row in rows(whole)]
    mine = {
        row
        for row, key, person_like in zip(rows(whole), keys, of_people, strict=True)
        if person_like and owner.get(key) == person
    }
    made = set(rows(focused))
    assert mine <= made, f"missing for {person}: {mine - made}"
    groups = {crowd_id(target) for kind, _, target in mine if kind.startswith("membership")}
    rest = made - mine - needed(whole, mine)
    marks = {
        (row.kind, row.name, row.target)
        for row in whole.operations.itertuples()
        if row.kind == Kind.USER_ATTRIBUTES
        and set(orjson.loads(str(row.record))["attributes"]) >= {ID_ATTRIBUTE}
        and ("user_rename", row.name) in {one[:2] for one in made}
    }
    for kind, name, target in rest - marks:
        assert kind in ("group_create", "group_attributes", "group_delete"), f"{kind} {name} {target} for {person}"
        assert crowd_id(name) in groups, f"{kind} {name} for {person}"
        assert kind != "group_delete" or ("group_create", name) in {(k, n) for k, n, _ in made}


def check_group(name: str, whole: Plan, focused: Plan) -> None:
    of_it = {
        row
        for row in rows(whole)
        if (row[0].startswith("group") and crowd_id(row[1]) == name)
        or (row[0].startswith(("membership", "nesting")) and crowd_id(row[2]) == name)
        or (row[0].startswith("nesting") and crowd_id(row[1]) == name)
    }
    made = set(rows(focused))
    assert of_it <= made, f"missing for the group {name}: {of_it - made}"
    others = {row for row in made - of_it if row[0].startswith(("membership", "user_update", "group_update"))}
    assert not others, f"of others, for the group {name}: {others}"
    strange = {row[0] for row in made - of_it} - {
        "user_create",
        "user_rename",
        "user_delete",
        "user_attributes",
        "group_create",
        "group_attributes",
        "group_delete",
        "nesting_remove",
    }
    assert not strange, f"{strange} for the group {name}"
    people = {crowd_id(row[1]) for row in of_it if row[0].startswith("membership")}
    freed = needed(whole, {row for row in rows(whole) if _names(row[0])})
    for kind, who, target in made - of_it:
        if kind == "user_create":
            assert crowd_id(who) in people
        if kind == "user_delete" or (kind == "user_rename" and crowd_id(target) not in people):
            assert (kind, who, target) in freed


def a_world(seed: int) -> tuple[World, Policy, random.Random]:
    rng = random.Random(f"focus {seed}")
    world, policy = World(), any_policy(rng)
    add_world(world, rng, pure=deletes(policy))
    return world, policy, rng


def everybody(world: World) -> list[str]:
    linked = {key[2] for key in world.links.rows if key[:2] == (SOURCE, "user")}
    mine = {owner for owner in owners(world.crowd, world.links, "user").values() if owner != "?"}
    return sorted({row[0] for row in world.users} | linked | mine)


def every_group(world: World, whole: Plan) -> list[str]:
    named = {crowd_id(n) for kind, n, _ in rows(whole) if kind.startswith(("group", "nesting"))}
    return sorted(
        set(world.crowd.groups) | named | {crowd_id(t) for kind, _, t in rows(whole) if t and "user" not in kind}
    )


WORLDS, PARTS = int(os.environ.get("CROWDSYNC_WORLDS", "12")), 12


@pytest.mark.parametrize("part", long_after(2, range(PARTS)))
def test_random_worlds(part: int) -> None:
    """The plan about each one has what the whole plan has about them and what that needs, can be carried out, and
    leaves nothing to do for them."""
    plans = operations = worlds = 0
    for seed in range(part, WORLDS, PARTS):
        world, policy, rng = a_world(seed)
        try:
            of = selecting(world, policy)
        except ConfigurationError:  # a scope that matches nobody
            continue
        worlds += 1
        whole = of(None)
        keys = subjects(whole, world)
        owner = whose(whole, world, keys)
        chosen = [Selection(person=one) for one in everybody(world)] + [
            Selection(group=g) for g in every_group(world, whole)
        ]
        for selection in chosen:
            made = of(selection)
            note = f"\nseed {seed}, {selection}:\n{describe(made)}\nof\n{describe(whole)}"
            if selection.person:
                check_person(selection.person, whole, made, keys, owner)
            else:
                check_group(selection.group, whole, made)
            assert set(rows(made)) <= set(rows(whole)), note
            if made.operations.empty:
                continue
            plans, operations = plans + 1, operations + len(made.operations)
            then = replace(world, crowd=world.crowd.copy(), links=world.links.copy())
            try:
                applied(made, then.crowd, then.links, rng)
            except AssertionError as error:
                raise AssertionError(f"{error}{note}") from error
            again = selecting(then, policy)(selection)
            assert again.operations.empty, f"again:\n{describe(again)}{note}"
    print(f"part {part}: {worlds} worlds, {plans} plans about one, {operations} operations")


@pytest.mark.parametrize("part", long_after(2, range(PARTS)))
def test_one_after_the_other_they_lead_to_where_the_whole_plan_leads(part: int) -> None:
    worlds = steps = 0
    for seed in range(part, WORLDS, PARTS):
        world, policy, rng = a_world(seed)
        try:
            whole = selecting(world, policy)(None)
        except ConfigurationError:
            continue
        worlds += 1
        crowd, links = world.crowd.copy(), world.links.copy()
        applied(whole, crowd, links, rng)
        then = replace(world, crowd=world.crowd.copy(), links=world.links.copy())
        chosen = [Selection(person=one) for one in everybody(world)] + [
            Selection(group=g) for g in every_group(world, whole)
        ]
        rng.shuffle(chosen)
        done: list[str] = []
        of = selecting(then, policy)
        for selection in chosen:
            made = of(selection)
            if len(made.operations):
                steps += 1
                done.append(f"{selection}\n{describe(made)}")
                applied(made, then.crowd, then.links, rng)
                of = selecting(then, policy)
        left = planned(world.source(), then.crowd, then.links, policy)
        state, wanted = then.crowd.state(world.crowd.keys), crowd.state(world.crowd.keys)
        wrong: dict[str, Any] = {
            k: (wanted.get(k), state.get(k)) for k in wanted.keys() | state.keys() if wanted.get(k) != state.get(k)
        }
        if "pairs" in wrong:
            wrong["pairs"] = wanted["pairs"] ^ state["pairs"]
        note = "\n".join(done)
        assert not wrong, f"seed {seed}: {wrong}\n{note}\nleft\n{describe(left)}\nof\n{describe(whole)}"
        assert left.operations.empty, f"seed {seed}: left\n{describe(left)}\n{note}\nof\n{describe(whole)}"
    print(f"part {part}: {worlds} worlds, {steps} plans one after the other")
