"""Who changed in a source that cannot say it: its list beside what the store had of it when Crowd was last in step.

Also beside what the store has now, where that is something else: a run that read somebody again since then may have
failed before Crowd was in step with them. A list only names who may have changed, as a delta does: whoever is named is
read again by key, and nothing is taken from what the list says of them, nor from their absence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import pandas as pd

from connectors.contract import Person
from connectors.model import MEMBER_KINDS, Snapshot, memberships_frame, users_frame
from connectors.store import LastInStep, in_thread
from tasks.decide.names import among
from tasks.read.deltas import codes_among, numbered
from tasks.read.known import Known, NotNarrowError
from tasks.run import Run

_GROUP: Final = MEMBER_KINDS.categories.get_loc("group")


async def unlike(run: Run, known: Known, last: LastInStep, listed: Snapshot) -> set[str]:
    """The people (ids) who are `listed` otherwise than the store has them, or had them when Crowd was last in step.
    Raises `NotNarrowError` where a group is."""
    if listed.users.empty:
        raise NotNarrowError(f"{run.source_name} lists nobody")
    moved = await in_thread(run.store.changed_since, run.source_side.stream, last.snapshot)
    found: set[str] = set()
    for snapshot in (last.snapshot, known.saved.id) if moved else (last.snapshot,):
        before = await in_thread(run.store.load_snapshot, snapshot)
        people, groups = await in_thread(differing, before, listed)
        if groups:
            group = min(groups)
            name = known.groups[group][1] if group in known.groups else group
            raise NotNarrowError(f"the group {name!r} of {run.source_name} is new, gone or changed")
        found |= people
    if "" in found:
        raise NotNarrowError(f"a record of {run.source_name} without an id came or went")
    return found


def differing(before: Snapshot, now: Snapshot) -> tuple[set[str], set[str]]:
    """Two snapshots of a source → the people and the groups (ids) that are not in both of them, or not as in the other:
    their rows, why they are held, what is warned of them, a membership of a person, or a nesting of a group."""
    people, groups = other_rows(before.users, now.users), other_rows(before.groups, now.groups)
    for rows in ((before.held, now.held), (before.warnings, now.warnings)):
        for of_users, found in ((True, people), (False, groups)):
            found |= other_rows(*(one[((one["kind"] == "user") == of_users).to_numpy()] for one in rows))
    (of, members), (was, there) = numbered((before.memberships, now.memberships))
    ends, kinds = np.divmod(np.setxor1d(was, there), 2)
    containers, ends = np.divmod(ends, max(len(members), 1))
    people |= set(members[ends[kinds != _GROUP]])
    return people, groups | set(of[containers[kinds == _GROUP]])


def other_rows(before: pd.DataFrame, now: pd.DataFrame) -> set[str]:
    """The ids of the rows that are in one of two frames alone."""
    both = pd.concat([before.drop_duplicates(), now.drop_duplicates()], ignore_index=True)
    return set(both["id"][~both.duplicated(keep=False)])


def as_listed(listed: Snapshot, read: Mapping[str, Person | None], known: Known) -> bool:
    """Whether people who were read by key (by id) are as they were `listed`, but for groups that cannot be read."""
    there = [one for one in read.values() if one is not None]
    pairs = memberships_frame(pair for one in there for pair in one.memberships if pair[0] not in known.unread)
    of_them = (
        codes_among(listed.memberships["member_id"], pd.Index(list(read), dtype="str"))
        & (listed.memberships["member_kind"] == "user").to_numpy()
    )
    theirs = Snapshot.of(
        listed.users[among(listed.users["id"], set(read))],
        None,
        listed.memberships[of_them],
    )
    return differing(theirs, Snapshot.of(users_frame(one.user for one in there), None, pairs)) == (set(), set())
