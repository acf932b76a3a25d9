"""The impact of a plan: what will be different for people once it is applied, found without touching Crowd.

The operations are played through on integer codes. An account is followed through its renames and a name through
its holders; groups are told by their folded name, because that is how applications know them: one that is deleted
and made again under its name is one group here. Whoever may do something "through nested groups" counts as a member.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from connectors.model import Snapshot
from connectors.operations import Kind
from tasks.decide.impact.measures import (
    are_privileged,
    changes_of_groups,
    changes_of_power,
    count_losers,
    deserted_groups,
    find_unusual,
    runs_before,
    with_removals_back,
)
from tasks.decide.impact.model import Impact, State, Unusual
from tasks.decide.impact.simulation import after, play
from tasks.decide.impact.words import lines
from tasks.decide.removals import RecentRemovals
from tasks.policy import Policy, matches

__all__ = ["Impact", "State", "Unusual", "after", "impact", "lines"]


def impact(
    operations: pd.DataFrame,
    directory: Snapshot,
    policy: Policy,
    past: pd.DataFrame | None = None,
    recent: RecentRemovals | None = None,
) -> Impact:
    """Operations in the order of seq, and the directory before them → their impact.

    `past`: a row per plan that was applied, newest first, and a column per kind, as `Store.past_counts` gives;
    `recent`: what was taken away in the window of the limits."""
    recent = recent or RecentRemovals()
    course = play(operations, directory)
    before, after = course.sides()
    names = course.group_names
    power = are_privileged(policy, names)
    had, has = before.peopled(), after.peopled()
    emptied = had & ~has
    seats: list[int | None] = [None, None]
    if policy.limits.seat_groups:
        licensed = matches(pd.Series(names, dtype="str"), policy.limits.seat_groups).to_numpy(dtype=bool)
        seats = [int(side.inside(licensed).sum()) for side in (before, after)]
    lost = before.active & before.placed() & ~(after.active & after.placed())
    runs = runs_before(past, policy)
    gone = course.people_changes()[1], course.nestings.changes(course.node, course.node)[1]
    losers = losers_recently = count_losers(before, after, [gone[0]], [gone[1]])
    earlier, members, nestings = with_removals_back(before, course, recent, directory)
    if losers and earlier is not before:
        losers_recently = count_losers(earlier, after, [gone[0], members], [gone[1], nestings])
    of_groups = recent.pairs("group_membership_remove", Kind.MEMBERSHIP_REMOVE, directory)["group"].value_counts()
    return Impact(
        active_before=int(before.active.sum()),
        active_after=int(after.active.sum()),
        seats_before=seats[0],
        seats_after=seats[1],
        emptied=_sorted(names[emptied]),
        administrators_lost=_sorted(names[emptied & power]),
        privileged=changes_of_power(course, before, after, power),
        shut_out=_sorted(course.names_before[lost]),
        group_changes=changes_of_groups(course),
        unusual=find_unusual(operations["kind"], runs, policy),
        past={
            kind.value: (float(runs[kind.value].median()), int(runs[kind.value].max()))
            for kind in Kind
            if kind.value in runs.columns and len(runs)
        },
        losers=losers,
        losers_recently=losers_recently,
        deserted=_sorted(names[deserted_groups(emptied, earlier, after, policy.approval.emptied_members)]),
        recent=recent.counts(directory),
        recent_groups={str(group): int(count) for group, count in of_groups.items()},
    )


def _sorted(names: np.ndarray) -> tuple[str, ...]:
    return tuple(sorted(names.tolist()))
