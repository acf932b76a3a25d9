"""The operations that turn the directory into the desired state.

Matched records → a table of operations in the order of their phases: take away before giving. Every
difference is found on integer codes; only what changes is ever looked at row by row.

A record that is held, and every Crowd record that is or may become its own, is left exactly as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from connectors.model import Snapshot, frame_digest, held_frame
from connectors.operations import Kind
from tasks.decide.match import Matched
from tasks.decide.names import among, equal
from tasks.decide.plan import evidence
from tasks.decide.plan.accounts import change_accounts, create_accounts
from tasks.decide.plan.groups import change_groups, create_groups
from tasks.decide.plan.inputs import PlanInputs, plan_inputs
from tasks.decide.plan.leavers import find_leavers
from tasks.decide.plan.memberships import change_memberships
from tasks.decide.plan.model import COLUMNS, GIVER, KNOWN, Departures, Owned, Plan
from tasks.decide.plan.renames import TAKEN, Renames, find_renames
from tasks.decide.plan.rows import Withheld, counted, together
from tasks.decide.selection import Selection
from tasks.policy import Policy

__all__ = ["COLUMNS", "GIVER", "KNOWN", "TAKEN", "Departures", "Owned", "Plan", "plan"]


# (What the road has found so far is as many values; a stage takes them one by one.)
def plan(
    matched: Matched,
    source: Snapshot,
    directory: Snapshot,
    policy: Policy,
    source_name: str,
    digests: tuple[str, str] | None = None,
    *,
    departures: Departures | None = None,
    selection: Selection | None = None,
    doubts: Sequence[str] = (),
) -> Plan:
    """Matched records → plan. `digests` are those of both snapshots, where they are known already. Without `departures`
    nobody has been gone for long; with `selection` it is the part that concerns some people or one group, or
    all who changed. `doubts` are those
    that the stages before had."""
    inputs = plan_inputs(
        matched, source, directory, policy, source_name, None if departures is None else departures.since
    )
    leavers = find_leavers(inputs, departures)
    named = find_renames(inputs, leavers)
    accounts = change_accounts(inputs, leavers, named, selection.signed_in if selection is not None else ())
    groups = change_groups(inputs)
    new_accounts = create_accounts(inputs, named)
    new_groups = create_groups(inputs, groups.deleted)
    memberships = change_memberships(inputs, leavers, named, new_accounts, groups, new_groups)

    steps = [leavers.step, named.step, accounts, groups.step, new_accounts.step, new_groups.step, memberships]
    operations, forbidden = _allowed(together([step.operations for step in steps]), policy)
    withheld = [*(one for step in steps for one in step.withheld), *forbidden]
    rows = [row for step in steps for row in step.held]
    held = pd.concat([matched.held, *([held_frame(rows)] if rows else [])], ignore_index=True)
    people = leavers.people
    if selection is not None:
        operations, held = _selected(inputs, named, operations, selection), selection.holding(held)
        if selection.changed is None:
            withheld = []
        else:
            people = people[among(people["id"], selection.changed)].reset_index(drop=True)
    counts, reported = counted([one for one in withheld if len(one.operations)])
    operations.insert(0, "seq", np.arange(1, len(operations) + 1))
    operations = operations[["seq", "phase", *COLUMNS, *KNOWN]]
    return Plan(
        operations,
        held,
        counts,
        reported,
        people,
        evidence.links(inputs, selection),
        evidence.stale(inputs, operations),
        evidence.owned(inputs),
        _digest(operations, digests or (source.digest(), directory.digest()), policy),
        gone=evidence.gone(inputs, leavers, groups.orphaned, operations),
        shielded=evidence.shielded(inputs, operations, held),
        warnings=evidence.warnings(inputs),
        doubts=(*doubts, *evidence.doubts(inputs)),
        handed_over=matched.handed_over,
    )


def _allowed(operations: pd.DataFrame, policy: Policy) -> tuple[pd.DataFrame, list[Withheld]]:
    """Operations → those that the policy's features allow, phase by phase, and the others, a kind after another."""
    allowed, withheld = np.ones(len(operations), dtype=bool), []
    for kind in operations["kind"].unique():
        state = policy.operations.of(Kind(str(kind)))
        if state != "on":
            of_kind = equal(operations["kind"], kind)
            withheld.append(Withheld(operations[of_kind], state))
            allowed &= ~of_kind
    return operations[allowed].sort_values("phase", kind="stable", ignore_index=True), withheld


def _selected(inputs: PlanInputs, named: Renames, operations: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """Operations → those of a selection."""
    if not len(operations) or selection.changed is not None:
        return operations
    wanted = among(inputs.users["id"], selection.persons)
    at = inputs.user_at[wanted]
    now = {
        *inputs.accounts["username"][among(inputs.accounts["owner"], selection.persons)],
        *inputs.accounts["username"].iloc[at[at >= 0]],
    }

    def nestings() -> list[tuple[str, str]]:
        nested = inputs.directory.memberships[equal(inputs.directory.memberships["member_kind"], "group")]
        return list(nested[["group_id", "member_id"]].astype("str").itertuples(index=False, name=None))

    return selection.of(operations, now, set(named.final[wanted]), nestings).reset_index(drop=True)


def _digest(operations: pd.DataFrame, snapshots: tuple[str, str], policy: Policy) -> str:
    """Hex SHA-256 over both snapshots' digests, the policy and the operations."""
    digest = hashlib.sha256()
    for part in (*snapshots, policy.digest()):
        digest.update(part.encode())
    digest.update(frame_digest(operations[["seq", "phase", *COLUMNS]]))
    return digest.hexdigest()
