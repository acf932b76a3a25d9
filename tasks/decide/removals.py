"""What was taken away lately: many small runs count like one large run.

What still is as it was taken away counts. Whoever was let in again, or put back into a group, lost nothing. Where a
person let a plan go past a limit, by agreement or by force, the count of that limit begins anew: they were shown it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Final

import numpy as np
import pandas as pd

from connectors.model import Snapshot, sizes_only
from connectors.operations import KINDS, Kind, kinds
from tasks.decide.names import among, crowd_ids

COLUMNS: Final = ("kind", "name", "target", "source_id", "active", "at")


@cache
def _nothing() -> pd.DataFrame:
    """No removals."""
    types = {"active": "bool", "at": "datetime64[us, UTC]"}
    return pd.DataFrame({name: pd.Series([], dtype=types.get(name, "str")) for name in COLUMNS})


@sizes_only
@dataclass(frozen=True, slots=True)
class RecentRemovals:
    """`removals`: what was taken away in the window (`COLUMNS`). `passed`: limits that a person let a plan go past in
    it, and when. `hours`: how long the window is."""

    removals: pd.DataFrame = field(default_factory=_nothing)
    passed: Mapping[str, datetime] = field(default_factory=dict)
    hours: float = 0

    def of(self, limit: str, *wanted: Kind) -> pd.DataFrame:
        """The removals of these kinds that count for a limit."""
        rows = self.removals[self.removals["kind"].isin([kind.value for kind in wanted])]
        return rows[rows["at"] > pd.Timestamp(self.passed[limit])] if limit in self.passed else rows

    def counts(self, directory: Snapshot) -> dict[str, int]:
        """How many of each limited kind were taken away and are so still."""
        if self.removals.empty:
            return {}
        shut = self.of("user_deactivate", *kinds(shuts_out=True))
        shut = shut[shut["active"]]
        users = directory.users
        back = among(crowd_ids(shut["name"]), users["id"][users["active"].to_numpy(dtype=bool)])
        found = {"user_deactivate": _distinct(shut[~back], "name")}
        for kind in kinds(link="ends"):
            found[kind.value] = _distinct(self.of(kind.value, kind), "name", "source_id")
        for kind in (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE):
            found[kind.value] = len(self.pairs(kind.value, kind, directory))
        return {limit: count for limit, count in found.items() if count}

    def pairs(self, limit: str, kind: Kind, directory: Snapshot) -> pd.DataFrame:
        """Memberships or nestings that were taken away and are not there now: group, member, as Crowd looks them up."""
        if self.removals.empty or (rows := self.of(limit, kind)).empty:
            return pd.DataFrame({"group": [], "member": []}, dtype="str")
        taken = pd.DataFrame({"group": crowd_ids(rows["target"]), "member": crowd_ids(rows["name"])}).drop_duplicates()
        if taken.empty:
            return taken
        now = directory.memberships
        group = _codes(now["group_id"], taken["group"])
        member = _codes(now["member_id"], taken["member"])
        width = max(len(now["member_id"].cat.categories), 1)
        which = np.isin(now["group_id"].cat.codes.to_numpy(), group)
        which &= ((now["member_kind"] == "group") == (KINDS[kind].entity == "nesting")).to_numpy()
        codes = (now[side].cat.codes.to_numpy()[which].astype(np.int64) for side in ("group_id", "member_id"))
        there = next(codes) * width + next(codes)
        back = (group >= 0) & (member >= 0) & np.isin(group.astype(np.int64) * width + member, there)
        return taken[~back].reset_index(drop=True)


def as_left(directory: Snapshot, removals: pd.DataFrame) -> Snapshot:
    """A part of Crowd as it was read before removals (in `COLUMNS`) → as these left its accounts and memberships. What
    was given since is not in it."""
    if removals.empty:
        return directory
    kind, name = removals["kind"], crowd_ids(removals["name"])
    deleted = set(name[kind == Kind.USER_DELETE])
    users = directory.users[~among(directory.users["id"], deleted)]
    shut = among(users["id"], name[kind.isin(kinds(shuts_out=True))])
    of = kind == Kind.MEMBERSHIP_REMOVE
    lost = set(zip(crowd_ids(removals["target"][of]), name[of], strict=True))
    sides = (directory.memberships[side].astype("str") for side in ("group_id", "member_id"))
    keep = np.array([pair not in lost and pair[1] not in deleted for pair in zip(*sides, strict=True)], dtype=bool)
    return Snapshot.of(
        users.assign(active=users["active"].to_numpy(dtype=bool) & ~shut),
        directory.groups,
        directory.memberships[keep],
        directory.held,
        directory.warnings,
        directory.unsound,
    )


def _codes(column: pd.Series, names: pd.Series) -> np.ndarray:
    """A column of categories, and names → the code of each name in it, or -1."""
    return np.asarray(pd.Index(column.cat.categories).get_indexer(pd.Index(names)))


def _distinct(rows: pd.DataFrame, *columns: str) -> int:
    """How many different values these columns have, names compared as Crowd compares them."""
    keys = rows[list(columns)].assign(name=crowd_ids(rows["name"]))
    return len(keys.drop_duplicates())
