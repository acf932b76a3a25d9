"""Who is in scope: by groups, by required groups, by name.

Snapshot → the part of it that the policy's scope covers. People and groups outside are not held: if
we own their account, they count as having left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from connectors.model import Snapshot
from tasks.names import among
from tasks.policy import Scope, matches


@dataclass(frozen=True, slots=True)
class Scoped:
    """The part in scope, and the ids of the people that were left out."""

    snapshot: Snapshot
    users_out: pd.Index
    groups_out: pd.Index


def in_scope(snapshot: Snapshot, scope: Scope) -> Scoped:
    """Snapshot → scoped snapshot; memberships keep only groups and members that are in scope."""
    users, groups, memberships = snapshot.users, snapshot.groups, snapshot.memberships
    keep_groups = matches(groups["name"], scope.groups) & ~matches(groups["name"], scope.exclude_groups)
    keep_users = ~matches(users["username"], scope.exclude_users)
    if scope.required_groups:
        wanted = groups.loc[matches(groups["name"], scope.required_groups), "id"]
        keep_users &= _members_below(users["id"], memberships, wanted)
    if scope.members_only:
        keep_users &= _members_below(users["id"], memberships, groups.loc[keep_groups, "id"])
    if keep_users.all() and keep_groups.all():
        return Scoped(snapshot, pd.Index([], dtype="str"), pd.Index([], dtype="str"))

    group_in = _codes_in(memberships["group_id"], groups.loc[keep_groups, "id"])
    member_user = _codes_in(memberships["member_id"], users.loc[keep_users, "id"])
    member_group = _codes_in(memberships["member_id"], groups.loc[keep_groups, "id"])
    is_group = (memberships["member_kind"] == "group").to_numpy()
    keep = group_in & np.where(is_group, member_group, member_user)
    return Scoped(
        Snapshot.of(users[keep_users], groups[keep_groups], memberships[keep], snapshot.held),
        pd.Index(users.loc[~keep_users, "id"]),
        pd.Index(groups.loc[~keep_groups, "id"]),
    )


def _codes_in(column: pd.Series, ids: pd.Series) -> np.ndarray:
    known = pd.Index(ids).get_indexer(column.cat.categories) >= 0
    return known[column.cat.codes.to_numpy()] if len(known) else np.zeros(len(column), dtype=bool)


def _members_below(users: pd.Series, memberships: pd.DataFrame, groups: pd.Series) -> pd.Series:
    """Which users are members of these groups, directly or through groups nested in them."""
    is_group = (memberships["member_kind"] == "group").to_numpy()
    nested = memberships[is_group]
    below = pd.Index(groups)
    while True:  # breadth first; a circle adds nothing new and ends it
        found = nested.loc[_codes_in(nested["group_id"], below.to_series()), "member_id"].astype("str")
        grown = below.union(pd.Index(found.unique()))
        if len(grown) == len(below):
            break
        below = grown
    direct = memberships[~is_group & _codes_in(memberships["group_id"], below.to_series())]["member_id"]
    return pd.Series(among(users, direct.astype("str")), index=users.index)


@task(name="filter", task_run_name="filter", cache_policy=NO_CACHE, persist_result=False)
async def filter_scope(snapshot: Snapshot, scope: Scope) -> Scoped:
    """The part of the source that is in scope."""
    return in_scope(snapshot, scope)
