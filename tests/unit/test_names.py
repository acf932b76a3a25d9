"""What is done with few texts is what is done with many."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from tasks.decide import names
from tasks.decide.names import among, crowd_ids, equal, places, same
from tests.support.lookalikes import DISGUISES

ODD = ["", " ", "İ", "i̇", "ı", "I", "ß", "SS", "ſ", "K", "ς", "Σ", "σ", "a\u0301", "á", "\u200b", "😀", "\x00"]


def texts(seed: int) -> Iterator[pd.Series]:
    """Columns of texts, with what folds oddly, doubled and none."""
    rng = random.Random(seed)
    plain = [f"{letter}.name" for letter in "abcXYZ"]
    pool = [*ODD, *plain, *(how(name, rng) for how in DISGUISES.values() for name in plain)]
    for size in (0, 1, 2, 20):
        column = pd.Series([rng.choice(pool) for _ in range(size)], dtype="str")
        yield column
        yield column[[rng.random() < 0.7 for _ in range(size)]]  # (labels with gaps)


def both(monkeypatch: pytest.MonkeyPatch, ask: object) -> None:
    """What is asked has one answer, whichever way it is found."""
    answers: list[object] = []
    for few in (64, 0):
        monkeypatch.setattr(names, "FEW", few)
        try:
            answers.append(ask())  # type: ignore[operator]
        except ValueError as error:
            answers.append(str(error))
    if isinstance(answers[0], pd.Series):
        pd.testing.assert_series_equal(*answers)  # type: ignore[call-overload]
    elif isinstance(answers[0], np.ndarray):
        np.testing.assert_array_equal(*answers)  # type: ignore[call-overload]
        assert answers[0].dtype == answers[1].dtype  # type: ignore[attr-defined]
    else:
        assert answers[0] == answers[1]


@pytest.mark.parametrize("seed", range(4))
def test_few_texts_are_taken_as_many_are(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for column in texts(seed):
        both(monkeypatch, lambda column=column: crowd_ids(column))
        for value in (*ODD[:4], "a.name"):
            both(monkeypatch, lambda column=column, value=value: equal(column, value))
        for other in texts(seed + 1):
            both(monkeypatch, lambda column=column, other=other: among(column, other))
            both(monkeypatch, lambda column=column, other=other: among(column, {*other}))
            both(monkeypatch, lambda column=column, other=other: places(column, other))
            both(monkeypatch, lambda column=column, other=other: places(column, other.drop_duplicates()))
            if len(other) == len(column):
                both(monkeypatch, lambda column=column, other=other: same(column, other))
