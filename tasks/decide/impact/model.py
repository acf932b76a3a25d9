"""What a plan does to people: the measures, and the directory as it will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from connectors.model import sizes_only


@sizes_only
@dataclass(frozen=True, slots=True)
class Unusual:
    """This plan does more of `what` than the runs before: `now`, against `most_before` in the last `runs`."""

    what: str
    now: int
    most_before: int
    runs: int


@sizes_only
@dataclass(frozen=True, slots=True)
class State:
    """What a directory will be: users (id, username, active), groups (id, name), memberships as in a snapshot.

    Sorted by id as in a snapshot, without records that could not be read (their memberships are there)."""

    users: pd.DataFrame
    groups: pd.DataFrame
    memberships: pd.DataFrame


@sizes_only
@dataclass(frozen=True, slots=True)
class Impact:
    """What a plan does to people. All names are sorted.

    `active_*`: accounts that can log in. `seats_*`: active people in the seat groups; None where no group is one.
    `emptied`: groups that had an active member and have none after; `administrators_lost`: such of them as are
    privileged. `privileged`: group, who, what ("gains" or "loses": the active members that privileged groups gain,
    by their name after the plan, and lose, by their name before it). `shut_out`: people who could log in and were
    in a group, and are inactive, deleted or in no group after. `group_changes`: group, members_before, added,
    removed (direct members; the group that loses most first). `past`: kind → (median, most) of the runs before.
    `losers`: how many people stay active and lose a group that they had, directly or nested; `losers_recently`: the
    same with what was taken away in the window of the limits. `deserted`: such of `emptied` as many people lose so
    (`approval.emptied_members`). `recent`, `recent_groups`: what was taken away in that window, by limit, and members
    by group (as Crowd looks it up).
    """

    active_before: int
    active_after: int
    seats_before: int | None
    seats_after: int | None
    emptied: tuple[str, ...]
    administrators_lost: tuple[str, ...]
    privileged: pd.DataFrame
    shut_out: tuple[str, ...]
    group_changes: pd.DataFrame
    unusual: tuple[Unusual, ...]
    past: Mapping[str, tuple[float, int]]
    losers: int = 0
    losers_recently: int = 0
    deserted: tuple[str, ...] = ()
    recent: Mapping[str, int] = field(default_factory=dict)
    recent_groups: Mapping[str, int] = field(default_factory=dict)
