"""Which operations a person is asked about already, in another plan: whoever it is about, by whatever name."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from connectors.operations import KINDS, Kind
from tasks.decide.beside import beside, first_owners, owners_by_name, people_in

Row = tuple[Kind, str, str, str]

ANN: Row = (Kind.USER_DEACTIVATE, "ann", "", "1")
OUT: Row = (Kind.MEMBERSHIP_REMOVE, "bob", "staff", "")
INTO: Row = (Kind.MEMBERSHIP_ADD, "bob", "crew", "")
RENAMED: Row = (Kind.USER_RENAME, "bob", "rob", "2")
NEW: Row = (Kind.USER_CREATE, "cy", "", "3")


def of(*rows: Row) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["kind", "name", "target", "source_id"], dtype="str")
    return frame.assign(phase=[KINDS[row[0]].phase for row in rows])


def asked(before: list[Row], *made: Row, now: Mapping[str, str] | None = None, **then: str) -> list[bool]:
    found: list[bool] = beside(of(*before), tuple(Kind), then, of(*made), now or {}).asked.tolist()
    return found


def test_somebody_is_found_by_name_and_by_id_and_with_what_they_are_taken_out_of() -> None:
    other_name, deleted = (*ANN[:1], "anna", "", "1"), (Kind.USER_DELETE, "ann", "", "1")
    assert asked([ANN, OUT], other_name, deleted, OUT) == [True] * 3
    assert asked([ANN, OUT], (*OUT[:2], "crew", ""), (*ANN[:1], "eve", "", "5")) == [False] * 2
    assert asked([ANN, OUT], (Kind.USER_DEACTIVATE, "ANN", "", ""), (*OUT[:1], "Bob", "Staff", "")) == [True] * 2


def test_only_what_is_asked_about_counts() -> None:
    found = beside(of(ANN, OUT), (Kind.USER_DEACTIVATE,), {}, of(ANN, OUT, (Kind.USER_UPDATE, "ann", "", "1")), {})
    assert found.asked.tolist() == [True, False, False]
    assert found.same.tolist() == [True, True, False], "what it does too, asked or not"


def test_another_new_name_for_who_is_asked_about() -> None:
    assert asked([RENAMED], (Kind.USER_RENAME, "bob", "robert", "2")) == [True]
    assert asked([NEW], (Kind.USER_CREATE, "cyril", "", "3")) == [True]
    joins = (Kind.MEMBERSHIP_ADD, "cy", "crew", "")
    assert asked([NEW, joins], (Kind.USER_CREATE, "cyril", "", "3"), (*joins[:1], "cyril", "crew", "")) == [True] * 2
    assert asked([NEW, joins], (*joins[:1], "cyril", "crew", ""), now={"cyril": "3"}) == [True], "who is there by now"


def test_a_name_is_whose_it_is_before_a_plan_renames_and_after_it() -> None:
    after = (Kind.MEMBERSHIP_ADD, "rob", "crew", "")
    assert asked([INTO], RENAMED, after, now={"bob": "2"}) == [False, False], "nothing says who bob was"
    assert asked([INTO], RENAMED, after, now={"bob": "2"}, bob="2") == [False, True]
    assert asked([RENAMED, after], INTO, now={"bob": "2"}) == [True]
    # Somebody else gets the name that one gives up.
    assert asked([OUT], (*OUT[:1], "bob", "staff", ""), now={"bob": "9"}, bob="2") == [False]
    swapped: list[Row] = [(Kind.USER_RENAME, "ann", "bob", "1"), RENAMED]
    people = people_in(of(*swapped, OUT, INTO), {"ann": "1", "bob": "2"})
    assert people == ["1", "2", "2", "1"], "bob is taken out before, and ann, who is bob then, put in"
    new = (Kind.USER_CREATE, "bob", "", "9")
    assert people_in(of(OUT, RENAMED, new, INTO), {"bob": "2"}) == ["2", "2", "9", "9"], (
        "and somebody new, who is bob then"
    )


def test_a_group_is_no_user_of_the_same_name() -> None:
    of_group: Row = (Kind.GROUP_UPDATE, "ann", "", "1")
    assert asked([ANN], of_group) == [False]
    assert asked([of_group], of_group) == [True]
    assert asked([(Kind.NESTING_ADD, "bob", "staff", "")], OUT) == [False]


def test_who_owned_an_account_before_and_who_does_now() -> None:
    rows = [("acme", "user", "1", "Ann"), ("other", "user", "7", "bob"), ("acme", "group", "g", "crew")]
    links = pd.DataFrame(rows, columns=["source", "kind", "id", "name"])
    assert owners_by_name(links, "acme") == {"ann": "1"}
    renamed = pd.DataFrame([("Ann", "anna", "1"), ("ann", "eve", "5")], columns=["name", "target", "source_id"])
    assert first_owners(renamed) == {"ann": "1"}, "whose it was when the first of them was renamed"
