"""Every stage as a thin Prefect task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pandas as pd
from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from connectors.errors import RetryableError
from tasks.run import Run
from tasks.write import canary, chunks
from tasks.write.apply import Runner
from tasks.write.chunks import Progress


def _again(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    return isinstance(state.data, RetryableError)


@task(
    name="apply",
    task_run_name="apply {number} of {total}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_again,
)
async def apply_chunk(
    run: Run,
    plan: int,
    bounds: tuple[int, int],
    number: int,  # noqa: ARG001 (names the run)
    total: int,  # noqa: ARG001
    progress: Progress,
) -> None:
    """One chunk of a plan, as far as the journal does not show it as settled."""
    await chunks.apply_chunk(run, plan, bounds, progress)


@task(
    name="canary",
    task_run_name="canary of {count}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=_again,
)
async def apply_canary(
    run: Run,
    plan: int,
    first: pd.DataFrame,
    count: int,  # noqa: ARG001 (names the run)
    progress: Progress,
) -> None:
    """The first part of a plan, each phase read back. Raises `RefusedError` where it failed, or does not hold."""
    await canary.apply_canary(run, plan, first, progress)


class _AsTasks:
    """The parts of a plan as tasks, with a progress bar on the run's page."""

    async def begin(self, run: Run, operations: int) -> Callable[[float], Awaitable[None]]:
        shown = await acreate_progress_artifact(
            progress=0.0, key=run.key("apply"), description=f"{operations:,} operations"
        )

        async def tell(percent: float) -> None:
            await aupdate_progress_artifact(shown, progress=percent)

        return tell

    async def canary(self, run: Run, plan: int, first: pd.DataFrame, progress: Progress) -> None:
        await apply_canary(run, plan, first, len(first), progress)

    async def chunk(  # (as `Runner.chunk`)
        self, run: Run, plan: int, bounds: tuple[int, int], progress: Progress, *, number: int, total: int
    ) -> None:
        await apply_chunk(run, plan, bounds, number, total, progress)


apply_runner: Final[Runner] = _AsTasks()
"""How the flow has a plan carried out."""
