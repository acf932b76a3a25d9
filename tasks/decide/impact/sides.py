"""The directory before or after a plan, on integer codes: who is in which group, directly or through others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from connectors.model import sizes_only

Pairs = tuple[np.ndarray, np.ndarray]
"""Two int columns of one length: (group, member), or (parent, child)."""


@sizes_only
@dataclass(frozen=True, slots=True)
class CodedState:
    """The directory before or after. `active`: bool per user; `members` and `nestings` in codes of group names."""

    active: np.ndarray
    members: Pairs
    nestings: Pairs
    groups: int

    def peopled(self) -> np.ndarray:
        """Groups with an active member, direct or nested: bool per group."""
        some = np.zeros(self.groups, dtype=bool)
        some[self.members[0][self.active[self.members[1]]]] = True
        return spread(some, self.nestings[1], self.nestings[0])

    def inside(self, groups: np.ndarray) -> np.ndarray:
        """Groups (bool) → active users in any of them, direct or nested (bool)."""
        below = spread(groups, *self.nestings)
        found = np.zeros(len(self.active), dtype=bool)
        found[self.members[1][below[self.members[0]]]] = True
        found &= self.active
        return found

    def placed(self) -> np.ndarray:
        """Users who are in a group: bool."""
        found = np.zeros(len(self.active), dtype=bool)
        found[self.members[1]] = True
        return found

    def effective(self, users: np.ndarray) -> np.ndarray:
        """Of these users (bool), every group that they are in, directly or nested: user * groups + group, sorted."""
        group, user = self.members
        width = max(self.groups, 1)
        which = users[user]
        group, user = group[which], user[which].astype(np.int64)
        below, above = _ancestors(*self.nestings, self.groups)
        who, up = _joined(group, below, above, self.groups)
        return np.unique(np.concatenate([user * width + group, user[who] * width + up]))

    def each_inside(self, groups: np.ndarray) -> Iterator[np.ndarray]:
        """For each of the groups (codes) its active users, direct or nested: sorted codes of users."""
        wanted = np.zeros(self.groups, dtype=bool)
        wanted[groups] = True
        group, user = self.members
        which = spread(wanted, *self.nestings)[group] & self.active[user]
        group, user = group[which], user[which]
        order = np.argsort(group, kind="stable")
        group, user = group[order], user[order]
        first, last = (np.searchsorted(group, np.arange(self.groups), side) for side in ("left", "right"))
        found = np.zeros(len(self.active), dtype=bool)
        for top in groups.tolist():  # a walk per privileged group; its users come as slices
            one = np.zeros(self.groups, dtype=bool)
            one[top] = True
            below = np.flatnonzero(spread(one, *self.nestings))
            for start, stop in zip(first[below].tolist(), last[below].tolist(), strict=True):
                found[user[start:stop]] = True
            yield np.flatnonzero(found)
            found[:] = False


def _joined(keys: np.ndarray, left: np.ndarray, right: np.ndarray, count: int) -> Pairs:
    """Codes below `count`, and pairs of such (left sorted) → for each key its pairs: positions of keys, and rights."""
    first, last = (np.searchsorted(left, np.arange(count), side) for side in ("left", "right"))
    many = last[keys] - first[keys]
    at = np.repeat(np.arange(len(keys)), many)
    steps = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many)
    return at, right[first[keys][at] + steps]


def _ancestors(parent: np.ndarray, child: np.ndarray, count: int) -> Pairs:
    """Nestings → every (group, group that it is in, directly or nested), sorted."""
    width = max(count, 1)
    known = fresh = np.unique(child.astype(np.int64) * width + parent)
    left, right = np.divmod(known, width)
    while len(fresh):
        group, above = np.divmod(fresh, width)
        at, further = _joined(above, left, right, count)
        fresh = np.setdiff1d(group[at] * width + further, known)
        known = np.union1d(known, fresh)
    below, above = np.divmod(known, width)
    return below, above


def spread(flags: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Flags (bool) → flags of everything that can be reached along the edges start → end, themselves included."""
    flags = flags.copy()
    while True:
        open_ = ~flags[end]
        start, end = start[open_], end[open_]
        reached = end[flags[start]]
        if not len(reached):
            return flags
        flags[reached] = True
