"""What of a plan is not carried out any more, because batches of news decided about it since both sides were read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import pandas as pd

from connectors.operations import KINDS, Kind
from tasks.decide.names import among, crowd_ids

_NAMES: Final = [Kind.USER_CREATE.value, Kind.USER_RENAME.value]
"""The kinds that make or free a name."""


def overtaken(
    operations: pd.DataFrame, people: Collection[str], accounts: Collection[str], seen: Collection[str]
) -> pd.Series:
    """Operations of a plan → whether each is left out: those of `people` (ids) and about `accounts` (names) that were
    decided about; of those who were only `seen` since, what gives them something. With them goes what needs them: all
    that is about a name that one of them makes or frees. Doubt stops what gives, not what takes away."""
    kind = operations["kind"].map(lambda value: KINDS[Kind(value)])
    of_account = kind.map(lambda one: one.entity in ("user", "membership")).to_numpy(dtype=bool)
    of_user = kind.map(lambda one: one.entity == "user").to_numpy(dtype=bool)
    gives = kind.map(lambda one: one.effect != "takes").to_numpy(dtype=bool)
    name, target = crowd_ids(operations["name"]), crowd_ids(operations["target"])
    decided = of_account & among(operations["source_id"], set(people))
    left = of_account & gives & among(operations["source_id"], set(seen))
    names, whole = set(accounts), decided | (left & operations["kind"].isin(_NAMES).to_numpy())
    while True:
        names |= {*name[whole], *target[whole & of_user]} - {""}
        more = of_account & ~whole & (among(name, names) | (of_user & among(target, names)))
        if not more.any():
            return pd.Series(whole | left, index=operations.index)
        whole |= more
