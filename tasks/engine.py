"""Prefect, as far as the road needs it: tasks, the page of a run, the question to a person.

The road comes here through `tasks.tell.page` alone, and only inside of a flow run: a run outside of Prefect imports
nothing of it (which takes 1.4 s).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect import get_client, get_run_logger
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound, Pause
from prefect.flow_runs import asuspend_flow_run
from prefect.input import RunInput
from prefect.runtime import deployment, flow_run
from prefect.settings import get_current_settings
from prefect.tasks import Task, exponential_backoff
from pydantic import Field

from connectors.errors import RetryableError

if TYPE_CHECKING:
    from tasks.stage import Stage


class Agreement(RunInput):
    """What a person decides about a plan. (In words: in Prefect's dialog a list opens behind it, and a switch that
    nobody touched is off.)"""

    decision: str = Field(
        pattern=r"^\s*([Aa]pprove|[Rr]eject)\s*$", title="Decision", description="Write approve, or reject."
    )
    name: str = Field(min_length=2, max_length=200, title="Your name, for the audit")
    reason: str = Field(min_length=2, max_length=1000, title="Reason, for the audit")

    def decided(self) -> str:
        """As the store calls it."""
        known = {"approve": "approve", "approve the rest": "approve_without"}
        return known.get(" ".join(self.decision.lower().split()), "reject")

    def said(self) -> tuple[str, str, str]:
        """What was decided, as the store calls it, by whom, and why."""
        return self.decided(), self.name, self.reason


class AgreementInPart(Agreement):
    """The same, of a plan that has a dangerous part and another one."""

    decision: str = Field(
        pattern=r"^\s*([Aa]pprove|[Aa]pprove the rest|[Rr]eject)\s*$",
        title="Decision",
        description="Write approve, or reject; or approve the rest, which leaves the dangerous part out.",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """The page of the flow run that this is part of; `run` is its id."""

    run: str

    @classmethod
    def here(cls) -> Page | None:
        """That of the flow run that this is part of, if it is part of one."""
        return cls(str(flow_run.id or "")) if FlowRunContext.get() is not None else None

    @property
    def logger(self) -> logging.Logger | logging.LoggerAdapter[Any]:
        """What the page shows as the log of the run."""
        return get_run_logger()

    def task(self, stage: Stage[Any, Any]) -> Callable[..., Any]:
        """A stage as a task of Prefect."""
        return _task(stage.fn, stage.name, stage.run_name, stage.retries)

    async def markdown(self, key: str, markdown: str, description: str) -> None:
        """Markdown on the page."""
        await acreate_markdown_artifact(markdown=markdown, key=key, description=description)

    async def table(self, key: str, rows: list[dict[str, Any]], description: str) -> str:
        """A table on the page; the address of it in Prefect's UI, from the root of that."""
        made: UUID = await acreate_table_artifact(table=rows, key=key, description=description)
        return f"/artifacts/artifact/{made}"

    async def rename(self, outcome: str) -> None:
        """`acme sync` → `acme sync: nothing to do`; "": as it began."""
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            name = ": ".join(filter(None, (context.flow_run.name, outcome)))
            async with get_client() as client:
                await client.update_flow_run(context.flow_run.id, name=name)

    async def progress(self, key: str, description: str) -> Callable[[float], Awaitable[None]]:
        """A progress bar on the page; what sets it to so many per cent."""
        shown = await acreate_progress_artifact(progress=0.0, key=key, description=description)

        async def tell(percent: float) -> None:
            await aupdate_progress_artifact(shown, progress=percent)

        return tell

    def emit(self, event: str, source: str, payload: dict[str, Any]) -> None:
        """An event that automations can act on: `crowdsync.<event>` about the source."""
        resource = {"prefect.resource.id": f"crowdsync.source.{source}", "prefect.resource.name": source}
        emit_event(f"crowdsync.{event}", resource=resource, payload={"source": source, **payload})

    @property
    def can_ask(self) -> bool:
        """Whether somebody can be asked here: only a deployment's run itself can be suspended."""
        return bool(deployment.id and not flow_run.parent_flow_run_id)

    async def ask(self, key: str, question: str, hours: float, *, in_part: bool) -> Agreement:
        """Suspends the run, which ends here (`Pause`), until somebody answers or the hours are over; resumed, it comes
        here again, and has the answer."""
        kind = AgreementInPart if in_part else Agreement
        answer = await asuspend_flow_run(
            wait_for_input=kind.with_initial_data(description=question), timeout=int(hours * 3600), key=key
        )
        assert isinstance(answer, Agreement)
        return answer


def suspends(error: BaseException) -> bool:
    """Whether this is how a run ends that is suspended until a person decides."""
    return isinstance(error, Pause)


async def waits(flow_run_id: str) -> bool:
    """Whether a flow run waits for a person. (Where no server is named, nobody can be asked.)"""
    if not get_current_settings().api.url:
        return False
    async with get_client() as client:
        try:
            state = (await client.read_flow_run(UUID(flow_run_id))).state
        except ObjectNotFound:  # another server, or cleaned up
            return False
    return state is not None and state.is_paused()


def _again(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    return isinstance(state.data, RetryableError)


@cache
def _task(function: Callable[..., Any], name: str, run_name: str, retries: int) -> Task[..., Any]:
    again: dict[str, Any] = {
        "retries": retries,
        "retry_delay_seconds": exponential_backoff(2),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": _again,
    }
    return Task(
        function,
        name=name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        **(again if retries else {}),
    )
