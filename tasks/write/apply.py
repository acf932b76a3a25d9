"""Carrying out a plan: its canary first, then chunk by chunk, as far as it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pandas as pd

from connectors.errors import CrowdsyncError
from connectors.store import in_thread
from tasks.decide.plan import Plan
from tasks.run import Run
from tasks.write.canary import canary
from tasks.write.chunks import CHUNK, Progress, chunks
from tasks.write.lend import let_in
from tasks.write.open import BEFORE


@dataclass(frozen=True, slots=True)
class Applied:
    """How far a plan was carried out: how many operations were carried out first and read back, and what ended the
    writing before its end. What became of each operation stands in the journal."""

    verified: int = 0
    stopped: CrowdsyncError | None = None


class Runner(Protocol):
    """How the parts of a plan are run, and tried again where they raise `RetryableError`: as tasks of Prefect in the
    flow, plainly in tests."""

    async def begin(self, run: Run, operations: int) -> Callable[[float], Awaitable[None]]:
        """A plan of so many operations begins. → what is told how many per cent of it are done."""
        ...

    async def canary(self, run: Run, plan: int, first: pd.DataFrame, progress: Progress) -> None:
        """`tasks.write.canary.apply_canary`."""
        ...

    async def chunk(  # (beside what `apply_chunk` takes, what it is called)
        self, run: Run, plan: int, bounds: tuple[int, int], progress: Progress, *, number: int, total: int
    ) -> None:
        """`tasks.write.chunks.apply_chunk`, which is number `number` of `total`."""
        ...


async def apply_plan(run: Run, plan: Plan, number: int, runner: Runner, *, size: int = CHUNK) -> Applied:
    """A whole plan → Crowd, in chunks of so many operations. → how far it came; what is no `CrowdsyncError` passes."""
    verified = 0
    try:
        fence = run.writing.lease if run.writing else None
        now = datetime.now(UTC)
        await in_thread(run.store.set_plan_status, number, "applying", at=now, expected=BEFORE, fence=fence)
        await save_links(run, plan, number)
        progress, bounds = Progress(), list(chunks(plan.operations, size))
        tell = await runner.begin(run, len(plan.operations))
        first = canary(plan.operations, run.policy.canary)
        if len(first):
            await runner.canary(run, number, first, progress)
            verified = len(first)
        for done, chunk in enumerate(bounds, 1):
            await let_in(run, number)
            await runner.chunk(run, number, chunk, progress, number=done, total=len(bounds))
            if len(bounds) > 1:
                await tell(round(100 * done / len(bounds), 1))
    except CrowdsyncError as error:
        return Applied(verified, error)
    return Applied(verified)


async def save_links(run: Run, plan: Plan, number: int) -> None:
    """Keeps the ownership that was found in Crowd's marks alone, and ends what holds a name that somebody gets: both or
    none, and only while the run may write."""
    if len(plan.stale) or len(plan.links):
        await in_thread(
            run.store.record,
            number,
            (),
            at=datetime.now(UTC),
            links=plan.links.assign(source=run.source_name),
            dropped=plan.stale.assign(source=run.source_name),
            directory=run.directory_name,
            run=run.id,
            fence=run.writing.lease if run.writing else None,
        )
