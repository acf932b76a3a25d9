"""Between two chunks of a plan, a batch of news that waits is let in; what it decided about is left out afterwards.

A plan is carried out only while it is true: about whomever the batch decided, this one is older than Crowd. What is
left out stands in the journal, and those whom it was about are put into the inbox, so that a batch looks once more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from connectors.errors import RefusedError
from connectors.store import in_thread
from tasks.decide.overtaken import overtaken
from tasks.run import Run

NOTE: Final = "left to news that came while the plan was carried out"


async def let_in(run: Run, number: int) -> int:
    """Lets a batch in that waits, at most one, while nothing of the plan is under way; how many operations are left
    out because of it. Raises `RefusedError` where the plan is no longer this run's to carry out."""
    if run.writing is None or not await run.writing.wanted():
        return 0
    mark = await in_thread(run.store.newest_snapshot)
    async with run.writing.lend():
        pass
    return await in_thread(_leave_out, run, number, mark)


def _leave_out(run: Run, number: int, mark: int) -> int:
    store = run.store
    if (plan := store.load_plan(number)).status != "applying":
        raise RefusedError(f"plan {number} is {plan.status}: another run took it for interrupted; run again")
    found = store.overtaken(run.directory_name, run.source_name, mark, memberships=False)
    if not found.runs:
        return 0
    if found.unclear:
        raise RefusedError(f"news came while plan {number} was carried out, and what became of it is not clear")
    open_ = store.operations(number, states=["planned"])
    keys = {key for key in found.keys if not key.startswith("account:")}
    accounts = found.accounts | {key.removeprefix("account:") for key in found.keys - keys}
    left = open_[overtaken(open_, found.people | keys, accounts, found.seen | found.asked).to_numpy()]
    if left.empty:
        return 0
    now = datetime.now(UTC)
    fence = run.writing.lease if run.writing else None
    outcomes = [(int(seq), "undone", NOTE) for seq in left["seq"]]
    again = {("user", one, "sync") for one in left["source_id"] if one}
    again |= {("account", name, "sync") for name in left["name"][(left["source_id"] == "").to_numpy()]}
    store.accept(run.directory_name, run.source_name, sorted(again), "", now)  # (first: what is left out is looked at)
    store.record(number, outcomes, at=now, fence=fence)
    return len(left)
