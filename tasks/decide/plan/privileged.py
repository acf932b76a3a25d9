"""Groups that give power: by name, or by being inside such a one. What the policy does not name stays closed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tasks.decide.names import among, equal
from tasks.decide.plan.differences import positions
from tasks.decide.plan.inputs import PlanInputs
from tasks.decide.plan.rows import HeldRow


def nestings_now(inputs: PlanInputs, ids: pd.Series, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Nestings in Crowd → positions of parents and children in `ids`; -1 where unknown. Groups whose record could not
    be read follow after `count` others: they give their power all the same."""
    unread = inputs.unread("group")["id"]
    nodes = pd.concat([ids, unread], ignore_index=True)
    at = np.concatenate([np.arange(len(ids)), (len(ids) if count is None else count) + np.arange(len(unread))])
    now = inputs.directory.memberships
    nested = now[equal(now["member_kind"], "group")]
    sides = [positions(nested[side], nodes, at) for side in ("group_id", "member_id")]
    return sides[0], sides[1]


def closed_groups(inputs: PlanInputs, names: pd.Series, parent: np.ndarray, child: np.ndarray) -> np.ndarray:
    """Names of groups by code, and their nestings → which of them give power that the policy does not allow: bool."""
    policy = inputs.policy
    everyone = pd.concat([names, inputs.unread("group")["name"]], ignore_index=True)
    closed = policy.privileged(everyone).to_numpy(dtype=bool, copy=True)
    if closed.any():
        known = (parent >= 0) & (child >= 0)
        parent, child = parent[known], child[known]
        named = among(everyone.str.lower(), [n.lower() for n in policy.protection.privileged_allowed])
        while True:
            grown = closed.copy()
            grown[child[closed[parent]]] = True
            grown &= ~named
            if (grown == closed).all():
                break
            closed = grown
    return closed[: len(names)]


def powerful(inputs: PlanInputs, names: np.ndarray, group_code: np.ndarray, deleted: np.ndarray) -> np.ndarray:
    """Groups by code (`names`; `group_code`: the code of each desired group) → which give power, now or in the desired
    state: bool. `deleted`: Crowd groups that go (bool)."""
    memberships = inputs.matched.memberships
    nested = memberships[equal(memberships["member_kind"], "group")]
    wanted = [positions(nested[side], inputs.groups["id"], group_code) for side in ("group_id", "member_id")]
    parent, child = nestings_now(inputs, inputs.directory_groups["id"], len(names))
    gone = np.flatnonzero(deleted)
    stays = ~np.isin(parent, gone) & ~np.isin(child, gone)
    parent, child = np.concatenate([np.stack([parent[stays], child[stays]]), np.stack(wanted)], axis=1)
    return closed_groups(inputs, pd.Series(names, dtype="str"), parent, child)


def held_for_power(inputs: PlanInputs, closed: np.ndarray) -> list[HeldRow]:
    """Crowd groups that are closed because of their power (bool) → such of this source, as held: they are left as they
    are, members included, which nobody would notice. (Of one inside another, only what is in it and it is in.)"""
    owner = inputs.directory_groups["owner"].to_numpy(dtype=object, copy=True)
    own = inputs.own_groups
    owner[inputs.group_at[own]] = inputs.groups["id"].to_numpy(dtype=object)[own]
    chosen = np.flatnonzero(closed & (owner != ""))
    names = inputs.directory_groups["name"].iloc[chosen]
    itself = inputs.policy.privileged(names).to_numpy(dtype=bool)
    held = list[HeldRow]()
    for i, name, alone in zip(chosen, names, itself, strict=True):
        what = "is a privileged group" if alone else "is inside a privileged group"
        reason = f"{what}: its members stay as they are; name it in protection.privileged_allowed, or leave it out"
        held.append(("group" if alone else "nesting", owner[i], name, "plan", reason))
    return held
