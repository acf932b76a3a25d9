"""Who is put into which group and taken out of which, and which groups into and out of which."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from connectors.model import sizes_only
from connectors.operations import Kind
from tasks.decide.names import equal
from tasks.decide.plan.accounts import CreatedAccounts
from tasks.decide.plan.differences import Pairs, difference, no_pairs, positions
from tasks.decide.plan.groups import ChangedGroups, CreatedGroups
from tasks.decide.plan.inputs import PlanInputs
from tasks.decide.plan.leavers import FoundLeavers
from tasks.decide.plan.privileged import held_for_power, powerful
from tasks.decide.plan.renames import Renames
from tasks.decide.plan.rows import HeldRow, StepResult, nothing, pairs


@sizes_only
@dataclass(frozen=True, slots=True)
class _Codes:
    """Numbers for everything that will exist: Crowd's records first, then the desired ones. `user` and `group`: the
    code of each desired record; `usernames` and `group_names`: what each is called after the plan; `usernames_now`:
    the same, but accounts are called as they are now."""

    user: np.ndarray
    group: np.ndarray
    usernames: np.ndarray
    usernames_now: np.ndarray
    group_names: np.ndarray


@sizes_only
@dataclass(frozen=True, slots=True)
class _Rights:
    """By code (bool): to which groups and people something may be given, from which something may be taken, out of
    which groups a group may be taken, and which of our groups may be taken out. `stripped`: people who are wanted
    nowhere."""

    give: Pairs
    take: Pairs
    empty: np.ndarray
    unnest: np.ndarray
    stripped: np.ndarray


# (A parameter for each decision before it.)
def change_memberships(
    inputs: PlanInputs,
    leavers: FoundLeavers,
    named: Renames,
    accounts: CreatedAccounts,
    changed: ChangedGroups,
    groups: CreatedGroups,
) -> StepResult:
    """All differences of memberships and nestings that may be made up for."""
    codes = _codes(inputs, named)
    closed = powerful(inputs, codes.group_names, codes.group, changed.deleted)
    held = held_for_power(inputs, closed[: len(inputs.directory_groups)])
    groups_may = _group_rights(inputs, closed, changed, groups, len(codes.group_names))
    rights = _rights(inputs, groups_may, leavers, named, accounts, len(codes.usernames))
    people, nestings, now = _differences(inputs, codes, rights)
    fits, circles = _without_circles(inputs, nestings, now, codes.group_names, changed.deleted)
    names = codes.group_names
    parts = [
        pairs(kind, members_of[members], names[of_groups], reason)
        for kind, (of_groups, members), members_of, reason in (
            (Kind.MEMBERSHIP_REMOVE, people[1], codes.usernames_now, "is no member in the source"),
            (Kind.NESTING_REMOVE, nestings[1], names, "is not nested in the source"),
            (Kind.NESTING_ADD, fits, names, "is nested in the source"),
            (Kind.MEMBERSHIP_ADD, people[0], codes.usernames, "is a member in the source"),
        )
        if len(of_groups)
    ]
    return StepResult(pd.concat(parts, ignore_index=True) if parts else nothing(), (*held, *circles))


def _codes(inputs: PlanInputs, named: Renames) -> _Codes:
    now = inputs.accounts["username"].to_numpy(dtype=object)
    final = now.copy()
    known = inputs.user_at >= 0
    final[inputs.user_at[known]] = named.final[known]
    accounts, groups = len(inputs.accounts), len(inputs.directory_groups)
    names = (inputs.directory_groups["name"], inputs.groups["name"])
    return _Codes(
        np.where(known, inputs.user_at, accounts + np.arange(len(inputs.users))),
        np.where(inputs.group_at >= 0, inputs.group_at, groups + np.arange(len(inputs.groups))),
        np.concatenate([final, named.final]),
        np.concatenate([now, named.final]),
        np.concatenate([side.to_numpy(dtype=object) for side in names]),
    )


def _group_rights(
    inputs: PlanInputs, closed: np.ndarray, changed: ChangedGroups, created: CreatedGroups, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By code of group (bool): into which something may be put, out of which people may be taken, out of which groups,
    and which groups may be taken out."""
    groups, at = len(inputs.directory_groups), inputs.group_at
    fixed = np.zeros(total, dtype=bool)
    fixed[:groups] = inputs.frozen_groups
    fixed |= closed
    exists = np.zeros(total, dtype=bool)
    exists[at[at >= 0]] = True
    exists[groups + np.flatnonzero(created.created)] = True
    ours = np.zeros(total, dtype=bool)
    ours[:groups] = ~equal(inputs.directory_groups["owner"], "")
    ours[at[at >= 0]] = True
    if inputs.policy.leavers.groups != "empty":
        ours[:groups] &= ~changed.orphaned
    shared = np.zeros(total, dtype=bool)  # of these only our people are ours, not the groups in them
    shared[at[inputs.shared_groups]] = True
    return ~fixed & exists, ~fixed & ours, ~fixed & ours & ~shared, ours & ~fixed


def _rights(
    inputs: PlanInputs,
    groups: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    leavers: FoundLeavers,
    named: Renames,
    created: CreatedAccounts,
    total: int,
) -> _Rights:
    accounts, at = len(inputs.accounts), inputs.user_at
    give = np.zeros(total, dtype=bool)
    give[at[at >= 0]] = True
    give[accounts + np.flatnonzero(created.created)] = True
    give[:accounts] &= ~named.frozen
    take = np.zeros(total, dtype=bool)
    take[:accounts] = ~equal(inputs.accounts["owner"], "")
    take[at[at >= 0]] = True
    # Those who leave keep their memberships, which Crowd ignores, unless the policy takes them.
    take[:accounts] &= ~named.frozen & (~leavers.departed | leavers.stripped)
    give[:accounts] &= ~leavers.departed & ~leavers.stripped
    stripped = np.zeros(total, dtype=bool)
    stripped[:accounts] = leavers.stripped
    may_fill, may_empty, may_unnest_from, may_unnest = groups
    return _Rights((may_fill, give), (may_empty, take), may_unnest_from, may_unnest, stripped)


def _differences(
    inputs: PlanInputs, codes: _Codes, rights: _Rights
) -> tuple[tuple[Pairs, Pairs], tuple[Pairs, Pairs], Pairs]:
    """Memberships to add and to remove, nestings to add and to remove, and the nestings of now."""
    # People and groups apart: a name may be that of both, and groups in groups are few.
    wanted, now = inputs.matched.memberships, inputs.directory.memberships
    nested, now_nested = (equal(side["member_kind"], "group") for side in (wanted, now))
    group_of = positions(wanted["group_id"], inputs.groups["id"], codes.group)
    now_group = positions(now["group_id"], inputs.directory_groups["id"])
    user_of = positions(wanted["member_id"], inputs.users["id"], codes.user)
    now_user = positions(now["member_id"], inputs.accounts["id"])
    user_of[nested], now_user[now_nested] = -1, -1
    child_of = positions(wanted["member_id"][nested], inputs.groups["id"], codes.group)
    now_child = positions(now["member_id"][now_nested], inputs.directory_groups["id"])
    there = now_group[now_nested], now_child
    people = difference(
        (group_of, user_of), (now_group, now_user), len(codes.usernames), rights.give, rights.take, rights.stripped
    )
    if inputs.policy.groups.nesting == "ignore":
        return people, (no_pairs(), no_pairs()), there
    total, fill = len(codes.group_names), rights.give[0]
    nestings = difference((group_of[nested], child_of), there, total, (fill, fill), (rights.empty, rights.unnest))
    return people, nestings, there


def _without_circles(
    inputs: PlanInputs, nestings: tuple[Pairs, Pairs], now: Pairs, names: np.ndarray, deleted: np.ndarray
) -> tuple[Pairs, list[HeldRow]]:
    """Nestings to add and to remove, and those of now → those to add that close no circle, for Crowd has none; and the
    others, as held. `deleted`: Crowd groups that go (bool)."""
    (parents, members), removed = nestings
    held: list[HeldRow] = []
    if not len(parents):
        return (parents, members), held
    below = _below(now, deleted)
    if inputs.policy.operations.allows(Kind.NESTING_REMOVE):
        for parent, child in zip(*(side.tolist() for side in removed), strict=True):
            below[parent].discard(child)
    fits = np.ones(len(parents), dtype=bool)
    for i in np.lexsort((names[members].astype(str), names[parents].astype(str))):  # every run in the same order
        parent, child = int(parents[i]), int(members[i])
        seen, todo = {child}, [child]
        while todo and parent not in seen:
            new = below[todo.pop()] - seen
            seen |= new
            todo += new
        if parent in seen:
            fits[i] = False
            reason = f"nesting it in {names[parent]!r} would make a circle of groups; Crowd has none"
            held.append(("nesting", "", names[child], "plan", reason))
        else:
            below[parent].add(child)
    return (parents[fits], members[fits]), held


def _below(now: Pairs, deleted: np.ndarray) -> dict[int, set[int]]:
    """Nestings of now → the groups directly in each, without the groups that go."""
    parents, children = now
    gone = np.flatnonzero(deleted)
    stays = (parents >= 0) & (children >= 0) & ~np.isin(parents, gone) & ~np.isin(children, gone)
    below: dict[int, set[int]] = defaultdict(set)
    for parent, child in zip(parents[stays].tolist(), children[stays].tolist(), strict=True):
        below[parent].add(child)
    return below
