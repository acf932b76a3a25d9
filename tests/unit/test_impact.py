"""The blast radius in small worlds that can be checked by eye, and the words for it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from connectors.model import Snapshot, memberships_frame
from tasks.decide.impact import Impact, Unusual, after, impact, lines
from tasks.policy import Policy
from tests.support.frames import a_directory, the_operations

ADMINS = "crowd-administrators"


def the_policy(**limits: Any) -> Policy:
    return Policy.model_validate({"limits": limits})


def rows_of(frame: pd.DataFrame) -> list[list[Any]]:
    return [list(row) for row in frame.itertuples(index=False)]


def past_of(**kinds: list[int]) -> pd.DataFrame:
    count = len(next(iter(kinds.values())))
    return pd.DataFrame({"plan": range(count, 0, -1)} | kinds, dtype="int64")


PEOPLE = {"ann": True, "bob": True, "cy": True, "dan": False}


def test_a_plan_that_does_nothing() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann", "dan"], ADMINS: ["@red"]})
    result = impact(the_operations(), directory, Policy())
    assert (result.active_before, result.active_after) == (3, 3)
    assert (result.seats_before, result.seats_after) == (None, None)
    assert result.emptied == result.administrators_lost == result.shut_out == ()
    assert result.unusual == ()
    assert result.privileged.empty
    assert result.group_changes.empty
    assert lines(result) == []
    assert impact(the_operations(), Snapshot.of(), Policy()).active_after == 0


def test_the_last_administrator_can_be_nested() -> None:
    directory = a_directory(PEOPLE, {"inner": ["ann", "dan"], "outer": ["@inner"], ADMINS: ["@outer", "dan"]})
    result = impact(the_operations(("membership_remove", "ANN", "Inner")), directory, Policy())
    assert result.administrators_lost == (ADMINS,)
    assert result.emptied == (ADMINS, "inner", "outer")
    assert rows_of(result.privileged) == [[ADMINS, "ann", "loses"]]
    assert result.shut_out == ("ann",)
    assert lines(result) == [
        f"{ADMINS} loses its last administrator (ann)",
        "1 person loses all access: ann",
        f"3 groups are emptied: {ADMINS}, inner, outer",
    ]


@pytest.mark.parametrize(
    "operation",
    [
        ("user_deactivate", "ann", False),
        ("user_update", "ann", False),
        ("user_delete", "ann"),
        ("membership_remove", "ann", "inner"),
        ("nesting_remove", "inner", ADMINS),
        ("group_delete", "inner"),
        ("group_delete", ADMINS),
    ],
)
def test_every_way_to_lose_the_last_administrator(operation: tuple[Any, ...]) -> None:
    directory = a_directory(PEOPLE, {"inner": ["ann"], ADMINS: ["@inner"], "red": ["ann", "bob"]})
    result = impact(the_operations(operation), directory, Policy())
    assert result.administrators_lost == (ADMINS,)
    assert rows_of(result.privileged) == [[ADMINS, "ann", "loses"]]
    again = [("user_activate", "cy", True), ("group_create", ADMINS), ("membership_add", "cy", ADMINS)]
    replaced = impact(the_operations(operation, *(again if operation[1] == ADMINS else again[2:])), directory, Policy())
    assert replaced.administrators_lost == ()
    assert rows_of(replaced.privileged) == [[ADMINS, "ann", "loses"], [ADMINS, "cy", "gains"]]


def test_a_privileged_group_counts_though_it_is_allowed_and_however_it_is_spelled() -> None:
    policy = Policy.model_validate({"protection": {"privileged_allowed": [ADMINS]}})
    spelled = "Crowd-Ａdministrators"
    directory = a_directory(PEOPLE, {ADMINS: ["ann"], spelled: ["bob"]})
    removals = the_operations(("membership_remove", "ann", ADMINS), ("membership_remove", "bob", spelled))
    assert impact(removals, directory, policy).administrators_lost == (spelled, ADMINS)


def test_who_gains_is_named_as_after_the_plan_and_who_loses_as_before() -> None:
    directory = a_directory(PEOPLE, {"jira-administrators": ["ann"], "red": []})
    result = impact(
        the_operations(
            ("membership_remove", "ann", "jira-administrators"),
            ("user_rename", "ann", "anna"),
            ("user_rename", "bob", "ann"),
            ("nesting_add", "red", "jira-administrators"),
            ("membership_add", "ann", "red"),
            ("membership_add", "dan", "red"),
        ),
        directory,
        Policy(),
    )
    assert rows_of(result.privileged) == [
        ["jira-administrators", "ann", "gains"],  # who was bob
        ["jira-administrators", "ann", "loses"],
    ]
    assert result.shut_out == ("ann",)
    assert rows_of(result.group_changes) == [["jira-administrators", 1, 0, 1], ["red", 0, 2, 0]]


def test_seats_count_people_once_and_through_groups() -> None:
    directory = a_directory(PEOPLE, {"jira-users": ["ann", "@team"], "conf-users": ["ann", "dan"], "team": ["bob"]})
    operations = the_operations(("user_activate", "dan", True), ("membership_add", "cy", "team"))
    result = impact(operations, directory, the_policy(seat_groups=["JIRA-*", "conf-users"]))
    assert (result.seats_before, result.seats_after) == (2, 4)
    assert lines(result) == ["active accounts 3 → 4", "licence seats 2 → 4"]
    assert impact(operations, directory, the_policy(seat_groups=["conf-*"])).seats_after == 2
    assert impact(operations, directory, the_policy(seat_groups=["none"])).seats_after == 0


def test_who_is_in_no_group_is_not_shut_out() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann", "bob", "dan"], "blue": ["bob"]})
    result = impact(
        the_operations(
            ("user_deactivate", "cy", False),
            ("user_delete", "dan"),
            ("membership_remove", "bob", "red"),
            ("membership_remove", "ann", "red"),
        ),
        directory,
        Policy(),
    )
    assert result.shut_out == ("ann",)
    assert rows_of(result.group_changes) == [["red", 3, 0, 3]]


def test_a_group_that_is_made_again_with_its_members_changes_nothing() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann", "bob"]})
    operations = the_operations(
        ("group_delete", "red"),
        ("group_create", "Red"),
        ("membership_add", "ann", "red"),
        ("membership_add", "cy", "red"),
    )
    result = impact(operations, directory, Policy())
    assert result.emptied == ()
    assert rows_of(result.group_changes) == [["red", 2, 1, 1]]
    assert after(operations, directory).groups["name"].tolist() == ["Red"]


def test_a_new_account_under_an_old_name_is_somebody_else() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann"]})
    operations = the_operations(
        ("user_delete", "ann"), ("user_create", "Ann", True), ("membership_add", "ann", "red"), ("user_create", "x")
    )
    result = impact(operations, directory, Policy())
    assert result.shut_out == ("ann",)
    assert result.emptied == ()
    assert rows_of(result.group_changes) == [["red", 1, 1, 1]]
    assert rows_of(after(operations, directory).users) == [
        ["ann", "Ann", True],
        ["bob", "bob", True],
        ["cy", "cy", True],
        ["dan", "dan", False],
        ["x", "x", True],
    ]


def test_groups_and_accounts_that_could_not_be_read() -> None:
    """Such a group gives its power all the same; such an account counts for nobody; neither is in the state."""
    held = (("group", ADMINS, "Crowd-Administrators"), ("user", "ghost", "Ghost"), ("group", "lone", "lone"))
    directory = a_directory(PEOPLE, {"red": ["ann", "ghost"], ADMINS: ["@red"], "far": ["@red"]}, held)
    operations = the_operations(("membership_add", "bob", "red"), ("membership_remove", "ann", "red"))
    result = impact(operations, directory, Policy())
    assert rows_of(result.privileged) == [
        ["Crowd-Administrators", "ann", "loses"],
        ["Crowd-Administrators", "bob", "gains"],
    ]
    assert result.active_before == 3
    assert rows_of(result.group_changes) == [["red", 2, 1, 1]]
    alone = impact(the_operations(("membership_remove", "ann", "red")), directory, Policy())
    assert alone.administrators_lost == ("Crowd-Administrators",)
    state = after(operations, directory)
    assert state.users["id"].tolist() == ["ann", "bob", "cy", "dan"]
    assert state.groups["id"].tolist() == ["far", "red"]
    assert rows_of(state.memberships.astype("object")) == [
        [ADMINS, "red", "group"],
        ["far", "red", "group"],
        ["red", "bob", "user"],
        ["red", "ghost", "user"],
    ]


def test_members_that_no_table_names_are_nobody_and_groups_that_none_names_still_hold() -> None:
    """As in a snapshot of which a part was left out."""
    pairs = [("red", "ann", "user"), ("red", "a-stranger", "user"), (ADMINS, "red", "group")]
    whole = a_directory(PEOPLE, {"red": ["ann"]})
    directory = Snapshot.of(whole.users, whole.groups, memberships_frame(pairs))
    operations = the_operations(("membership_remove", "ann", "red"))
    result = impact(operations, directory, Policy())
    assert result.administrators_lost == (ADMINS,)
    assert rows_of(result.group_changes) == [["red", 2, 0, 1]]
    left = after(operations, directory).memberships.astype("object")
    assert rows_of(left) == [[ADMINS, "red", "group"], ["red", "a-stranger", "user"]]


def test_a_rename_of_letters_only_keeps_the_account() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann"]})
    operations = the_operations(("user_rename", "ann", "Ann"), ("membership_add", "ANN", "red"))
    assert rows_of(after(operations, directory).users)[0] == ["ann", "Ann", True]
    assert impact(operations, directory, Policy()).group_changes.empty
    assert impact(operations, directory, Policy()).shut_out == ()


def test_a_name_that_was_given_up_means_nobody() -> None:
    directory = a_directory(PEOPLE, {"red": []})
    operations = the_operations(
        ("user_rename", "ann", "anna"), ("membership_add", "ann", "red"), ("user_deactivate", "ann", False)
    )
    result = impact(operations, directory, Policy())
    assert result.group_changes.empty
    assert result.active_after == 3


def test_what_is_so_already_changes_nothing() -> None:
    directory = a_directory(PEOPLE, {"red": ["ann"], "blue": []})
    operations = the_operations(
        ("group_create", "RED"),
        ("user_create", "bob", True),
        ("membership_add", "ann", "red"),
        ("membership_remove", "bob", "blue"),
        ("membership_add", "nobody", "red"),
        ("membership_add", "ann", "nowhere"),
        ("user_delete", "nobody"),
        ("user_rename", "nobody", "somebody"),
    )
    result = impact(operations, directory, Policy())
    assert result.group_changes.empty
    assert (result.active_before, result.active_after) == (3, 3)
    assert len(after(operations, directory).groups) == 2


@pytest.mark.parametrize(("now", "found"), [(20, False), (21, True)])
def test_unusual_is_more_than_so_many_times_the_most_before(now: int, found: bool) -> None:
    operations = the_operations(*[("user_deactivate", f"u{n}", False) for n in range(now)])
    past = past_of(user_deactivate=[1, 0, 1, 99], user_delete=[1, 0, 0, 0], membership_add=[7, 4, 1, 50])
    result = impact(operations, a_directory({}, {}), the_policy(unusual_runs=3), past)
    assert result.unusual == ((Unusual("people shut out", now, 2, 3),) if found else ())
    assert result.past == {"user_deactivate": (1.0, 1), "user_delete": (0.0, 1), "membership_add": (4.0, 7)}


def test_unusual_needs_runs_before_and_a_limit() -> None:
    operations = the_operations(*[("nesting_remove", f"g{n}", "red") for n in range(11)])
    nothing = a_directory({}, {})
    few, enough = past_of(group_create=[0, 0]), past_of(group_create=[0, 0, 0])
    assert impact(operations, nothing, Policy(), None).unusual == ()
    assert impact(operations, nothing, Policy(), few).unusual == ()
    assert impact(operations, nothing, Policy(), past_of(plan=[])).unusual == ()
    assert impact(operations, nothing, the_policy(unusual_times=None), enough).unusual == ()
    found = impact(operations, nothing, Policy(), enough).unusual
    assert found == (Unusual("memberships taken away", 11, 0, 3),)


def an_impact(**values: Any) -> Impact:
    nothing: dict[str, Any] = {
        "active_before": 0,
        "active_after": 0,
        "seats_before": None,
        "seats_after": None,
        "emptied": (),
        "administrators_lost": (),
        "privileged": pd.DataFrame({"group": [], "who": [], "what": []}, dtype="str"),
        "shut_out": (),
        "group_changes": pd.DataFrame(),
        "unusual": (),
        "past": {},
    }
    return Impact(**(nothing | values))


def power_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["group", "who", "what"], dtype="str")


def test_the_words_for_it_the_most_dangerous_first() -> None:
    result = an_impact(
        active_before=1204,
        active_after=1192,
        seats_before=800,
        seats_after=811,
        emptied=("blue", "red"),
        administrators_lost=(ADMINS,),
        privileged=power_of(
            (ADMINS, "admin1", "loses"),
            (ADMINS, "admin2", "loses"),
            ("jira-administrators", "bob", "gains"),
            ("jira-administrators", "cy", "loses"),
        ),
        shut_out=tuple(f"u{n:04}" for n in range(1012)),
        unusual=(Unusual("people shut out", 1040, 3, 20),),
        past={"user_deactivate": (1.5, 3), "user_create": (1200.0, 4000)},
    )
    assert lines(result) == [
        f"{ADMINS} loses its last administrators (admin1, admin2)",
        "privileged: jira-administrators gains bob",
        "people shut out: 1,040, at most 3 in the 20 runs before",
        "1,012 people lose all access: u0000, u0001, u0002, u0003, u0004, u0005, u0006, u0007, u0008, u0009 "
        "… and 1,002 more",
        "2 groups are emptied: blue, red",
        "privileged: jira-administrators loses cy",
        "active accounts 1,204 → 1,192",
        "licence seats 800 → 811",
    ]


def test_ten_names_are_told_and_no_more() -> None:
    ten = tuple("abcdefghij")
    assert lines(an_impact(shut_out=ten)) == [f"10 people lose all access: {', '.join(ten)}"]
    assert lines(an_impact(emptied=(*ten, "k"))) == [f"11 groups are emptied: {', '.join(ten)} … and 1 more"]
    power = power_of(*[(f"admins-{n:02}", "bob", "gains") for n in range(12)])
    told = lines(an_impact(privileged=power))
    assert told[9:] == ["privileged: admins-09 gains bob", "privileged: 2 more groups gain members too"]


def test_names_come_as_they_are() -> None:
    assert lines(an_impact(shut_out=("a*b|<c>",))) == ["1 person loses all access: a*b|<c>"]
