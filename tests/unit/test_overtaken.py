"""What of a plan is left out because batches decided about it: all of theirs, what gives of those who were only seen,
and whatever needs a name that is not made or freed. The rest stays."""

from __future__ import annotations

import pandas as pd

from tasks.decide.overtaken import overtaken

COLUMNS = ["kind", "name", "target", "source_id"]


def left(*rows: str, people: str = "", accounts: str = "", seen: str = "") -> list[int]:
    """Operations as "kind name target id" ("-" for none) → the places of those that are left out."""
    made = pd.DataFrame([[word.replace("-", "") for word in row.split()] for row in rows], columns=COLUMNS, dtype="str")
    out = overtaken(made, people.split(), accounts.split(), seen.split())
    return [place for place, one in enumerate(out) if one]


def test_all_that_is_about_whom_a_batch_decided_is_left_out() -> None:
    rows = (
        "user_deactivate ann - 1",
        "membership_remove Ann team -",
        "membership_add bob team 2",
        "user_update bob - 2",
    )
    assert left(*rows) == []
    assert left(*rows, people="1") == [0, 1]
    assert left(*rows, accounts="bob") == [2, 3]
    assert left("group_create bob - 2", "nesting_add ann bob 1", people="1 2", accounts="ann bob") == []


def test_of_whom_it_only_saw_what_takes_away_stays() -> None:
    rows = ("user_deactivate ann - 1", "membership_remove ann team 1", "user_update ann - 1", "membership_add ann x 1")
    assert left(*rows, seen="1") == [2, 3]


def test_with_a_name_goes_all_that_needs_it() -> None:
    rows = (
        "user_rename ann anna 1",
        "user_rename bob ann 2",
        "user_create bob - 3",
        "membership_add bob team 3",
        "user_create eve - 4",
    )
    assert left(*rows, people="1") == [0, 1, 2, 3]
    assert left(*rows, seen="1") == [0, 1, 2, 3]
    assert left(*rows, people="4") == [4]
