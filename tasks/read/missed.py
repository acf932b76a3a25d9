"""What the deltas of a source and the events of Crowd did not tell: found by comparing a full read with what the store
had by them.

Only what was read whole shows it, and only these hints are questioned: whatever they missed is put right by the same
run. The figure says how far a run that goes by hints alone may be trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import asdict, dataclass

from connectors.errors import CrowdsyncError
from connectors.model import sizes_only
from connectors.store import SavedSnapshot, in_thread
from tasks.read.deltas import Reading
from tasks.read.known import people_and_accounts
from tasks.run import Run


@sizes_only
@dataclass(frozen=True, slots=True)
class Missed:
    """How many people and accounts were not as the store had them, and how many of these nobody had named."""

    people: int
    accounts: int
    people_missed: int
    accounts_missed: int

    def figures(self) -> dict[str, int]:
        """As JSON values, for the record of the run."""
        return asdict(self)

    def words(self) -> str:
        """In a sentence; "" where all was as the store had it."""
        if not self.people and not self.accounts:
            return ""
        found = people_and_accounts(self.people, self.accounts)
        if not self.people_missed and not self.accounts_missed:
            return f"Of {found} that had changed, all had been named as changed."
        missed = people_and_accounts(self.people_missed, self.accounts_missed)
        return f"Of {found} that had changed, {missed} had not been named as changed."


async def find_missed(run: Run, reading: Reading, source: SavedSnapshot, crowd: SavedSnapshot) -> Missed | None:
    """A full read of both sides, saved → what was not told since Crowd was last in step; None where that cannot be
    said: the source was not read whole, or there is nobody to ask."""
    last = await in_thread(run.store.in_step, run.directory_name, run.source_name)
    if last is None or reading.full_at is not None or not run.lasting or last.requested != run.request_digest:
        return None
    if not last.since.cursor or not last.since.token:
        return None
    try:
        changes, hints = await asyncio.gather(
            run.source.changes(run.source_side.scope, last.since.cursor), run.directory.changes(last.since.token)
        )
    except CrowdsyncError:  # (it is told where it can be)
        return None
    people = {one.id for one in (*changes.held, *changes.warnings)} | {row[0] for row in changes.users}
    people |= {*changes.gone_users} | {pair[1] for pair in (*changes.memberships, *changes.left)}
    groups = {row[0] for row in changes.groups} | {*changes.gone_groups, *changes.replaced}
    accounts, teams = ({hint.key for hint in hints.hints if hint.kind == kind} for kind in ("user", "group"))
    of_source = await in_thread(_moved, run, run.source_side.stream, source, people, groups)
    of_crowd = await in_thread(_moved, run, run.crowd_side.stream, crowd, accounts, teams)
    return Missed(of_source[0], of_crowd[0], of_source[1], of_crowd[1])


def _moved(
    run: Run, stream: str, saved: SavedSnapshot, users: Collection[str], groups: Collection[str]
) -> tuple[int, int]:
    """How many users differ in a snapshot from the one before, and how many of them none of the named `users` and
    `groups` is, or tells of."""
    records, pairs = run.store.moved(stream, saved.id)
    everybody = records | {member for _, member in pairs}
    lost = (records | {member for group, member in pairs if group not in groups}) - set(users)
    return len(everybody), len(lost)
