"""Validation of frames of a few rows, and the names of what the stages give."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from connectors.errors import RefusedError
from connectors.model import (
    Snapshot,
    groups_frame,
    held_frame,
    users_frame,
)
from connectors.store import Store
from tasks.read import validate
from tasks.read.snapshot import validated
from tests.support.frames import LONG, pairs, person, snapshot, team
from tests.support.model_crowd import ModelCrowd
from tests.support.worlds import the_plan


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


def test_validate_says_of_a_few_what_it_says_of_all(all_rows: tuple[Snapshot, pd.DataFrame]) -> None:
    whole, held = all_rows
    pd.testing.assert_frame_equal(validate.broken_few(whole), held)
    several = snapshot([person("1", "ann"), person("9", "\x01" + "z" * 256, "nowhere"), person("8", "\u2028")])
    pd.testing.assert_frame_equal(validate.broken_few(several), validate.broken_rows(several))


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


@pytest.mark.parametrize(("few", "by_suite"), [(2, ["users", "groups"]), (3, [])])
async def test_validate_takes_blanks_off_what_a_source_says_and_leaves_crowd_alone(
    few: int, by_suite: list[str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Great Expectations where they are more than a few, and without it."""
    judged, suite = list[str](), validate._by_suite

    def counted(kind: str, frame: pd.DataFrame) -> Any:
        judged.append(kind)
        return suite(kind, frame)

    monkeypatch.setattr(validate, "_by_suite", counted)
    monkeypatch.setattr(validate, "FEW", few)
    odd = person("1", "\u00a0ann\n", " a@x.org ", first_name=" A", last_name="L\t", display_name=" ", active=False)
    whole = snapshot([odd, person("2", "\x00", active=False)], [team("g", " Core ")])
    for _ in range(2):  # the second time, the verdict is a kept one
        rest = await validated(store, "source:acme", whole, whole.digest())
        assert rest.users.iloc[0, :6].tolist() == ["1", "ann", "a@x.org", "A", "L", ""]
        assert list(rest.groups["name"]) == [" Core "]
        assert rest.held[["id", "away"]].to_numpy().tolist() == [["2", "disabled"]]
    other = snapshot([person("ann", " ann", "n/a")])
    rest = await validated(store, "directory:crowd", other, other.digest())
    assert rest.users.equals(other.users)
    assert rest.held.empty
    assert judged == by_suite


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
    said = set[str]()
    for judge in (validate.broken_rows, validate.broken_few):
        with pytest.raises(RefusedError, match=f"^{kind}: .*{words}") as error:
            judge(whole)
        said.add(str(error.value))
    assert len(said) == 1


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
