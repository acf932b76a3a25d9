"""Differences between what is wanted and what is there, on integer codes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from connectors.model import sorted_unique
from tasks.decide.names import places

Pairs = tuple[np.ndarray, np.ndarray]
"""(group, member): two int columns of one length; -1 where unknown."""


def difference(
    wanted: Pairs, present: Pairs, width: int, give: Pairs, take: Pairs, stripped: np.ndarray | None = None
) -> tuple[Pairs, Pairs]:
    """Pairs wanted and present → those to add and those to remove.

    `width`: how many members there are. `give` and `take`: which groups and which members may be given something, and
    from which something may be taken (bool). Members that are `stripped` (bool) are wanted nowhere."""
    width = max(width, 1)
    known = (wanted[0] >= 0) & (wanted[1] >= 0)
    if stripped is not None and stripped.any():
        known &= ~stripped[wanted[1]]
    wanted_keys = _keys(wanted, known, width)
    present_keys = _keys(present, (present[0] >= 0) & (present[1] >= 0), width)
    if len(wanted_keys) == len(present_keys) and (wanted_keys == present_keys).all():
        return no_pairs(), no_pairs()
    add, remove = (np.divmod(keys, width) for keys in _unshared(wanted_keys, present_keys))
    may_add = give[0][add[0]] & give[1][add[1]]
    may_remove = take[0][remove[0]] & take[1][remove[1]]
    return (add[0][may_add], add[1][may_add]), (remove[0][may_remove], remove[1][may_remove])


def no_pairs() -> Pairs:
    """No pairs at all."""
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)


def _keys(pairs: Pairs, known: np.ndarray, width: int) -> np.ndarray:
    """A number for each pair that is `known` (bool), in their order."""
    keys = pairs[0].astype(np.int64)  # they are many, and calculated in place
    keys *= width
    keys += pairs[1]
    return sorted_unique(keys[known])


def _unshared(keys: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys and others, both in their order and each once → those that only the one has, and only the other."""
    if not len(others):
        return keys, others
    # What is found among the others is found from both sides.
    at = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    shared = others[at] == keys
    rest = np.ones(len(others), dtype=bool)
    rest[at[shared]] = False
    return keys[~shared], others[rest]


def positions(column: pd.Series, ids: pd.Series, codes: np.ndarray | None = None) -> np.ndarray:
    """Categorical ids → positions in `ids` (or `codes` of them), -1 where unknown."""
    categories, used = column.cat.categories, column.cat.codes.to_numpy()
    if len(used) < len(categories):  # of a few rows only what they use is looked up
        categories, used = categories[used], np.arange(len(used))
    at = places(categories, ids)
    if codes is not None and len(codes):
        at = np.where(at >= 0, codes[at], -1)
    at = at.astype(np.int32)  # memberships are many
    return at[used] if len(at) else np.full(len(column), -1, dtype=np.int32)
