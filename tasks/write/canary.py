"""The canary: the first part of a plan, carried out and read back from Crowd before the rest."""

from __future__ import annotations

import pandas as pd

from connectors.errors import RefusedError
from connectors.model import Snapshot, groups_frame, memberships_frame, pairs_of, users_frame
from connectors.operations import KINDS, Kind
from connectors.store import in_thread
from tasks.decide.selection import Selection
from tasks.policy import Canary
from tasks.read.recover import settle
from tasks.run import Run
from tasks.write.chunks import OPEN, Progress, apply_of_run


def canary(operations: pd.DataFrame, policy: Canary) -> pd.DataFrame:
    """Operations → the first part, in their order; none where the policy has no canary."""
    if policy.group:
        return Selection(group=policy.group).of(operations)
    return operations.head(policy.operations or 0)


async def apply_canary(run: Run, plan: int, first: pd.DataFrame, progress: Progress) -> None:
    """The first part of a plan, each phase read back. Raises `RefusedError` where it failed, or does not hold."""
    for _, phase in first.groupby("phase", sort=True):
        seqs = phase["seq"]
        stored = await in_thread(run.store.operations, plan, first=int(seqs.min()), last=int(seqs.max()))
        stored = stored[stored["seq"].isin(seqs)].reset_index(drop=True)
        await apply_of_run(run, plan, stored[stored["state"].isin(OPEN)], progress)
        holds = settle(stored, await read_back(run, stored))
        failed = sum(progress.states[state] for state in ("failed", "skipped"))
        if failed or not holds.all():
            wrong = stored[~holds].iloc[0] if not holds.all() else stored.iloc[0]
            what = (
                f"{failed} of its operations failed"
                if failed
                else f"{wrong['kind']} of {wrong['name']!r} does not hold"
            )
            raise RefusedError(
                f"canary: of the first {len(first)} operations {what} when read back from Crowd; nothing further was "
                "written: look at the plan and at Crowd, then run again"
            )


async def read_back(run: Run, operations: pd.DataFrame) -> Snapshot:
    """What Crowd says now of everything that the operations of one phase are about."""
    scope = run.crowd_side.scope
    users, groups, nestings = set[str](), set[str](), False
    for kind, name, target in operations[["kind", "name", "target"]].itertuples(index=False, name=None):
        spec = KINDS[Kind(kind)]
        stands = target if spec.stands == "target" else name
        if spec.entity == "group":
            groups.add(stands)
        elif spec.entity == "nesting":
            nestings = True
        else:
            users.add(stands)
    people = [await run.directory.user(name, scope) for name in sorted(users)]
    found = [person for person in people if person is not None]
    teams = [await run.directory.group(name, scope) for name in sorted(groups)]
    memberships = [row for person in found for row in person.memberships]
    if nestings:  # Crowd tells what is in a group only for all of them
        async for page in run.directory.memberships():
            memberships += [row for row in pairs_of(page.rows) if row[2] == "group"]
    return Snapshot.of(
        users_frame(person.user for person in found),
        groups_frame(one.group for one in teams if one is not None),
        memberships_frame(memberships),
    )
