"""What is kept is found once for equal arguments, anew for others, and is the same however its receivers treat it."""

from __future__ import annotations

import pandas as pd
import pytest

from connectors.model import groups_frame
from tasks.decide.kept import kept
from tasks.policy import Policy


def rows(*names: str) -> pd.DataFrame:
    return groups_frame((str(number), name, "", "{}") for number, name in enumerate(names))


def test_equal_arguments_are_answered_once() -> None:
    asked: list[str] = []

    @kept
    def named(groups: pd.DataFrame, ids: pd.Index, policy: Policy, name: str) -> tuple[pd.DataFrame, int]:
        asked.append(name)
        return groups.assign(name=name), len(ids)

    ids, policy = pd.Index(["a"], dtype="str"), Policy()
    first, count = named(rows("x", "y"), ids, policy, "n")
    first["name"] = "changed by who was given it"
    second, _ = named(rows("x", "y"), ids.copy(), Policy(), "n")
    assert asked == ["n"]
    assert count == 1
    assert second["name"].tolist() == ["n", "n"]
    named(rows("x", "z"), ids, policy, "n")
    named(rows("x", "y"), ids[:0], policy, "n")
    named(rows("x", "y"), ids, Policy.model_validate({"groups": {"prefix": "p"}}), "n")
    named(rows("x", "y"), ids, policy, "m")
    named(rows("xy", ""), ids, policy, "n")
    assert len(asked) == 6
    relabelled, _ = named(rows("x", "y").set_axis([3, 4]), ids, policy, "n")
    assert relabelled.index.tolist() == [3, 4], "rows are found by their labels by whoever is given them"


def test_what_raises_is_asked_again() -> None:
    asked: list[int] = []

    @kept
    def refuse(groups: pd.DataFrame) -> int:
        asked.append(len(groups))
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            refuse(rows("x"))
    assert asked == [1, 1]
