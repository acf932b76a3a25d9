"""What is measured between the directory before and after a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import pandas as pd

from connectors.model import Snapshot
from connectors.operations import Kind, kinds
from tasks.decide.impact.model import Unusual
from tasks.decide.impact.sides import CodedState, Pairs, spread
from tasks.decide.impact.simulation import Course, positions_in
from tasks.decide.names import arrow_text
from tasks.decide.removals import RecentRemovals
from tasks.policy import Policy

LEAST_RUNS: Final = 3
"""Nothing is unusual before so many plans were applied."""

UNUSUAL: Final[Mapping[str, tuple[Kind, ...]]] = {
    "people shut out": kinds(shuts_out=True),
    "memberships taken away": (Kind.MEMBERSHIP_REMOVE, Kind.NESTING_REMOVE),
}
"""What is compared with the runs before, and the operations that count."""


def runs_before(past: pd.DataFrame | None, policy: Policy) -> pd.DataFrame:
    return pd.DataFrame() if past is None else past.head(policy.limits.unusual_runs)


def find_unusual(kinds: pd.Series, runs: pd.DataFrame, policy: Policy) -> tuple[Unusual, ...]:
    times = policy.limits.unusual_times
    if times is None or len(runs) < LEAST_RUNS:
        return ()
    found = []
    for what, counted in UNUSUAL.items():
        now = int(kinds.isin([kind.value for kind in counted]).sum())
        most = int(runs[[kind.value for kind in counted if kind.value in runs.columns]].sum(axis=1).max())
        if now > times * max(most, 1):
            found.append(Unusual(what, now, most, len(runs)))
    return tuple(found)


def with_removals_back(
    before: CodedState, course: Course, recent: RecentRemovals, directory: Snapshot
) -> tuple[CodedState, Pairs, Pairs]:
    """The directory before, and what was taken away lately put back, as far as both sides of it are there; and what
    that is: memberships, nestings."""
    nobody = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if recent.removals.empty:
        return before, nobody, nobody
    back: list[Pairs] = []
    for kind, members in ((Kind.MEMBERSHIP_REMOVE, course.accounts), (Kind.NESTING_REMOVE, course.teams)):
        taken = recent.pairs("group_loss", kind, directory)
        group, member = (
            positions_in(of.ids, arrow_text(taken[c])) for of, c in ((course.teams, "group"), (members, "member"))
        )
        known = (group >= 0) & (member >= 0)
        back.append((group[known], member[known]))
    if not len(back[0][0]) and not len(back[1][0]):
        return before, back[0], back[1]
    members_, nestings = (
        (np.concatenate([now[0], more[0]]), np.concatenate([now[1], more[1]]))
        for now, more in zip((before.members, before.nestings), back, strict=True)
    )
    return CodedState(before.active, members_, nestings, before.groups), back[0], back[1]


def count_losers(before: CodedState, after: CodedState, members: Iterable[Pairs], nestings: Iterable[Pairs]) -> int:
    """How many people are active on both sides and lose a group that they had, directly or through groups in groups.

    `members` and `nestings`: at least those that are there before, and not after."""
    some, cut = np.zeros(len(before.active), dtype=bool), np.zeros(before.groups, dtype=bool)
    for _, user in members:
        some[user] = True
    for _, child in nestings:
        cut[child] = True
    if cut.any():
        some |= before.inside(cut)
    some &= before.active & after.active
    if not some.any():
        return 0
    lost = np.setdiff1d(before.effective(some), after.effective(some), assume_unique=True)
    return len(np.unique(lost // max(before.groups, 1)))


def deserted_groups(emptied: np.ndarray, before: CodedState, after: CodedState, least: int) -> np.ndarray:
    """Which emptied groups (bool) at least so many people lose who stay active: codes."""
    codes = np.flatnonzero(emptied)
    stay = [int(after.active[who].sum()) for who in before.each_inside(codes)]
    return codes[np.array(stay, dtype=np.int64) >= least]


def are_privileged(policy: Policy, names: np.ndarray) -> np.ndarray:
    """Which group names are privileged, whether or not the policy allows them: bool."""
    protection = policy.protection.model_copy(update={"privileged_allowed": ()})
    everything = policy.model_copy(update={"protection": protection})
    return everything.privileged(pd.Series(names, dtype="str")).to_numpy(dtype=bool)


def changes_of_power(course: Course, before: CodedState, after: CodedState, power: np.ndarray) -> pd.DataFrame:
    """Active members that privileged groups gain and lose: group, who, what."""
    # Only groups below which something changes are walked.
    touched = np.zeros(before.groups, dtype=bool)
    other = before.active != after.active
    for group, user in (before.members, after.members):
        touched[group[other[user]]] = True
    for group, _ in (*course.people_changes(), *course.nestings.changes(course.node, course.node)):
        touched[group] = True
    parents, children = (np.concatenate(sides) for sides in zip(before.nestings, after.nestings, strict=True))
    concerned = np.flatnonzero(spread(touched, children, parents) & power)
    rows: list[tuple[np.ndarray, np.ndarray, str]] = []
    for at, was, will in zip(
        concerned.tolist(), before.each_inside(concerned), after.each_inside(concerned), strict=True
    ):
        for who, usernames, what in (
            (np.setdiff1d(will, was, assume_unique=True), course.names_after, "gains"),
            (np.setdiff1d(was, will, assume_unique=True), course.names_before, "loses"),
        ):
            rows.append((np.full(len(who), at), usernames[who], what))
    columns = {
        "group": course.group_names[np.concatenate([r[0] for r in rows])] if rows else [],
        "who": np.concatenate([r[1] for r in rows]) if rows else [],
        "what": np.repeat([r[2] for r in rows], [len(r[1]) for r in rows]) if rows else [],
    }
    frame = pd.DataFrame({name: pd.array(list(values), dtype="str") for name, values in columns.items()})
    return frame if len(frame) < 2 else frame.sort_values(["group", "who", "what"], ignore_index=True)


def changes_of_groups(course: Course) -> pd.DataFrame:
    """Direct members by group: group, members_before, added, removed."""
    groups = len(course.group_names)
    added, removed = (np.bincount(group, minlength=groups).astype(np.int64) for group, _ in course.people_changes())
    members = np.bincount(course.members.group, minlength=groups).astype(np.int64)
    some = np.flatnonzero(added + removed)
    frame = pd.DataFrame(
        {
            "group": pd.array(course.group_names[some], dtype="str"),
            "members_before": members[some],
            "added": added[some],
            "removed": removed[some],
        }
    )
    if len(frame) < 2:
        return frame
    return frame.sort_values(["removed", "group"], ascending=[False, True], ignore_index=True)
