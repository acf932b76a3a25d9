"""What is done with few texts is what is done with many."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

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


def both(monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Any], *given: Any) -> None:
    """What is asked has one answer, whichever way it is found."""
    answers: list[Any] = []
    for few in (64, 0):
        monkeypatch.setattr(names, "FEW", few)
        try:
            answers.append(ask(*given))
        except ValueError as error:
            answers.append(str(error))
    if isinstance(answers[0], pd.Series):
        pd.testing.assert_series_equal(*answers)
    elif isinstance(answers[0], np.ndarray):
        np.testing.assert_array_equal(*answers)
        assert answers[0].dtype == answers[1].dtype
        assert all(one.flags.writeable for one in answers), "whoever asks may go on with it"
    else:
        assert answers[0] == answers[1]


@pytest.mark.parametrize("seed", range(4))
def test_few_texts_are_taken_as_many_are(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for column in texts(seed):
        both(monkeypatch, crowd_ids, column)
        for value in (*ODD[:4], "a.name"):
            both(monkeypatch, equal, column, value)
        for other in texts(seed + 1):
            both(monkeypatch, among, column, other)
            both(monkeypatch, among, column, {*other})
            both(monkeypatch, places, column, other)
            both(monkeypatch, places, column, other.drop_duplicates())
            if len(other) == len(column):
                both(monkeypatch, same, column, other)
