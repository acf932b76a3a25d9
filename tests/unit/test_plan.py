"""The plan on frames of a few rows: which operations, in which order, and who is held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from connectors.model import (
    ID_ATTRIBUTE,
    Snapshot,
)
from connectors.operations import KINDS, MARKS, Kind
from tasks.decide.map import desired
from tasks.decide.match import match
from tasks.decide.plan import Plan, plan
from tasks.policy import Policy
from tests.support.frames import LONG, person, policy_with, reasons, snapshot, team
from tests.support.model_crowd import ModelCrowd, ModelLinks
from tests.support.worlds import SOURCE, links, mark, ops, the_plan


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
        [KINDS[Kind.USER_DEACTIVATE].phase, "user_deactivate", "gone"],
        [KINDS[Kind.USER_RENAME].phase, "user_rename", "bob"],
        [KINDS[Kind.USER_UPDATE].phase, "user_update", "bobby"],
        [KINDS[Kind.MEMBERSHIP_ADD].phase, "membership_add", "ann"],
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
