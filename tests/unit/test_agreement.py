"""What agreement to a plan covers, and which operations another plan is about, too."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from connectors.operations import Kind
from tasks.decide.agreement import also_in, asks_no_more, asks_text, covered, kinds_asked
from tasks.decide.guard import Finding

OVER = Finding("12 of 100", (Kind.USER_DEACTIVATE, Kind.USER_DELETE), "user_deactivate", ("limits.user_deactivate",))
EMPTIED = Finding(
    "2 groups", (Kind.MEMBERSHIP_REMOVE,), questions=("emptied_groups: a", "emptied_groups: b"), covers=()
)
DOUBT = Finding("doubt: the scope names nobody", (Kind.USER_DEACTIVATE,))


def of(*rows: tuple[Kind, str, str, str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["kind", "name", "target", "source_id", "record"], dtype="str")


ANN = (Kind.USER_DEACTIVATE, "ann", "", "1", '{"active":false}')
MADE = (Kind.USER_CREATE, "cy", "", "3", '{"email":"cy@x"}')
OUT = (Kind.MEMBERSHIP_REMOVE, "bob", "staff", "", "")


def no_more(before: Sequence[Finding], later: Sequence[Finding]) -> bool:
    return asks_no_more(asks_text(before), later)


def test_the_same_question_is_asked_whatever_its_counts_are() -> None:
    fewer = Finding("11 of 99", OVER.kinds, OVER.limit, OVER.questions)
    assert no_more([OVER], [fewer])
    assert no_more([OVER, DOUBT], [fewer])
    assert no_more([OVER], [])
    assert not no_more([OVER], [fewer, DOUBT])
    assert not no_more([], [fewer])
    assert not asks_no_more("", [fewer]), "an earlier version stored no questions"


def test_of_what_is_named_one_by_one_each_must_have_been_asked() -> None:
    one, other = (Finding("1 group", EMPTIED.kinds, questions=(f"emptied_groups: {name}",)) for name in "bc")
    assert no_more([EMPTIED], [one])
    assert not no_more([EMPTIED], [other])
    assert not no_more([one], [EMPTIED])


def test_a_question_without_words_of_its_own_is_its_text() -> None:
    assert no_more([DOUBT], [DOUBT])
    assert not no_more([DOUBT], [Finding("doubt: another one", DOUBT.kinds)])


def test_who_agrees_does_so_to_the_operations_of_the_kinds_that_are_asked_about() -> None:
    assert covered([OVER]) == {Kind.USER_DEACTIVATE, Kind.USER_DELETE}
    assert covered([EMPTIED]) == frozenset(), "each group is named"
    assert covered([OVER, Finding("", covers=tuple(Kind))]) == {*Kind}
    assert kinds_asked(asks_text([OVER, DOUBT, EMPTIED])) == (*OVER.kinds, Kind.MEMBERSHIP_REMOVE)
    assert kinds_asked("") == ()


def test_who_is_taken_something_from_is_the_same_whatever_else_the_account_has() -> None:
    before = of(ANN, MADE, OUT)
    assert also_in(before, of((*ANN[:4], '{"active":false,"email":"new@x"}'), MADE, OUT)).tolist() == [True] * 3
    others = of((*MADE[:4], '{"email":"other@x"}'), (*OUT[:2], "crew", "", ""), (ANN[0], "ann", "", "2", ANN[4]))
    assert not also_in(before, others).any()
    assert not also_in(before[:0], before).any()
    assert not len(also_in(before, before[:0]))
    categories = before.astype({"kind": "category", "name": "category"})
    assert also_in(categories, categories[::-1]).all(), "as a plan has them"
