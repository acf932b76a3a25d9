"""What is asked again and again of the same values is found once.

Batch after batch, a run about a few people has to do with the same groups, as many as a run about everybody. What is
decided about them alone is kept from one to the next, by the value of all that it was decided from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from connectors.model import frame_digest

P = ParamSpec("P")
R = TypeVar("R")


def kept(function: Callable[P, R], most: int = 8) -> Callable[P, R]:
    """The same function, of whose last results so many are given again for equal arguments, which are compared by
    digests: frames of text, bools, integers and categories, columns of these, whatever has a `digest` of its own, and
    values that can be hashed. Nobody may change a result; frames in a tuple are handed out as copies."""

    @lru_cache(maxsize=most)
    def found(given: _Given) -> R:
        arguments, given.arguments = given.arguments, ()
        return function(*arguments)  # type: ignore[call-arg]

    @wraps(function)
    def again(*arguments: Any) -> Any:
        result = found(_Given(arguments))
        return tuple(map(_own, result)) if isinstance(result, tuple) else _own(result)

    return again  # type: ignore[return-value]


class _Given:
    """Arguments, compared by their digests. They are let go of once the result is there."""

    __slots__ = ("arguments", "digests")

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments, self.digests = arguments, tuple(map(_digest, arguments))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Given) and self.digests == other.digests

    def __hash__(self) -> int:
        return hash(self.digests)


def _digest(value: Any) -> Any:
    if isinstance(value, pd.Index):
        return frame_digest(pd.DataFrame({"": value.array}))
    if isinstance(value, (pd.Series, pd.DataFrame)):
        # What is found carries the labels of its rows: the same rows with others are something else.
        plain = value.index.equals(pd.RangeIndex(len(value)))
        labels = () if plain else tuple(value.index)
        frame = pd.DataFrame({"": value.array}) if isinstance(value, pd.Series) else value
        return frame_digest(frame), labels
    return value.digest() if hasattr(value, "digest") else value


def _own(value: Any) -> Any:
    return value.copy(deep=False) if isinstance(value, (pd.DataFrame, pd.Series)) else value
