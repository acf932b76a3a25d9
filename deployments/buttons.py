"""Presses of `sync-person` and `sync-group` in Prefect's UI, answered by the warm process of `crowdsync react`.

A worker brings up a process for each run, which takes ten seconds. So their runs stand in a work queue of their own,
which react looks into twice a second. The workers look there too, for where no react runs: a run belongs to whoever
makes it Pending, and Prefect's server lets one alone do so. It runs here as it does there, with its logs, its
artifacts, its questions and its end; one that waits for agreement gives everything back, and is taken anew.

A run whose process was killed before it began is put back; one that had begun is marked as crashed, and the journal
knows how far it came.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, cast
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.responses import OrchestrationResult, SetStateStatus
from prefect.exceptions import Abort, ObjectNotFound, Pause
from prefect.flow_engine import run_flow_async
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed, Pending, Scheduled

from connectors.settings import load
from connectors.store import Store, in_thread
from deployments.serving import BUTTONS, POOL
from flows.buttons import sync_group, sync_person
from tasks.process import gone, here
from tasks.write.lease import turn_of

FLOWS: Final[Mapping[str, Flow[..., Any]]] = {
    "sync-person/sync-person": sync_person,
    "sync-group/sync-group": sync_group,
}
LOOK: Final = 0.5
"""Seconds between two looks into the queue."""
AWAY: Final = 10.0
"""Seconds until a server that does not answer is asked again, or one that has no such queue."""
TEND: Final = 120
"""After so many looks, one for runs whose process is gone."""
AHEAD: Final = 3
"""Runs that wait for their turn here; the others stay in the queue."""
PATIENCE: Final = 10.0
"""Seconds that a run has to end by itself when this process is to end."""
TAKEN: Final = "Taken by crowdsync react, process "
log = logging.getLogger("crowdsync.react")


@dataclass(slots=True)
class Taken:
    """A run in our hands. `inner`: the task that walks it, in which loop, once it does; `cancelled`: by a person."""

    task: asyncio.Task[None] | None = None
    inner: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
    cancelled: bool = False

    def end(self) -> None:
        """Cancels it, where it runs."""
        if self.inner is not None and not self.inner[0].is_closed():
            self.inner[0].call_soon_threadsafe(self.inner[1].cancel)


@dataclass(slots=True)
class Buttons:
    """The buttons of one directory's sources. `turns` is held by whatever this process does about it, in the order of
    asking: what reads meanwhile would be in the way, and neither batches nor buttons wait for ever."""

    directory: str
    store: Store
    turns: asyncio.Lock
    taken: dict[UUID, Taken] = field(default_factory=dict)
    flows: dict[UUID | None, Flow[..., Any]] = field(default_factory=dict)
    ending: bool = False
    # With a loop of its own: Prefect's engine holds up its loop for moments, and in the main thread it would make an
    # exception of SIGTERM.
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "button"))

    async def serve(self) -> None:
        """Until it is cancelled; then the runs that began have a while to end. Nothing, where no server is named."""
        if not get_current_settings().api.url:
            return
        try:
            while True:
                try:
                    async with get_client() as client:
                        await self._serve(client)
                except ObjectNotFound:
                    log.info("Prefect has no queue of buttons yet; make it: crowdsync deploy")
                except Exception as error:  # the workers take what is pressed meanwhile
                    log.info("Prefect is asked for pressed buttons later: %s", error or type(error).__name__)
                await asyncio.sleep(AWAY)
        finally:
            await self._end()

    async def _serve(self, client: PrefectClient) -> None:
        self.flows = {(await client.read_deployment_by_name(name)).id: flow for name, flow in FLOWS.items()}
        while True:
            await self.put_back(client)
            for _ in range(TEND):
                await self.look(client)
                await asyncio.sleep(LOOK)

    async def look(self, client: PrefectClient) -> None:
        """Begins with what was pressed; ends what somebody cancelled."""
        now = datetime.now(UTC)
        queue = await client.get_scheduled_flow_runs_for_work_pool(POOL, [BUTTONS], now)
        # A run about everybody lends to batches, and not to a button, which would keep them waiting with it.
        turn = await in_thread(self.store.lease, turn_of(self.directory)) if queue and not self.taken else None
        busy = turn is not None and turn.until > now
        for run in (one.flow_run for one in queue if not busy):
            if len(self.taken) < AHEAD and run.id not in self.taken and self._ours(run) and not run.job_variables:
                taken = self.taken[run.id] = Taken()
                taken.task = asyncio.create_task(self._take(client, run, taken))
        for key, taken in tuple(self.taken.items()):
            if taken.inner and not taken.cancelled and _type(await client.read_flow_run(key)) is StateType.CANCELLING:
                taken.cancelled = True
                taken.end()

    def _ours(self, run: FlowRun) -> bool:
        """Whether it is about a source of this directory."""
        named = run.parameters.get("source")
        return run.deployment_id in self.flows and named in load().sources_of(self.directory)

    async def _take(self, client: PrefectClient, run: FlowRun, taken: Taken) -> None:
        """One run, from its claim to its end."""
        try:
            async with self.turns:
                if self.ending or not await claimed(client, run.id):
                    return
                fresh = await client.read_flow_run(run.id)
                walk = partial(copy_context().run, _walk, self.flows[run.deployment_id], fresh, taken)
                await asyncio.get_running_loop().run_in_executor(self.thread, walk)
                if taken.cancelled:  # (Prefect's engine calls that a crash)
                    await client.set_flow_run_state(run.id, Cancelled(message="Cancelled by a person."), force=True)
        except Exception as error:  # what is left of it is seen to by `put_back`
            log.warning("%s: %s", run.name, error or type(error).__name__)
        finally:
            del self.taken[run.id]

    async def put_back(self, client: PrefectClient) -> None:
        """Sees to the runs that a process took and that is gone."""
        if not await self._orphans(client):
            return
        # One at a time, who then looks again: what was put back may be taken by now.
        lease = await in_thread(self.store.take_lease, f"buttons:{self.directory}", here(), seconds=60)
        if lease is None:
            return
        try:
            for run in await self._orphans(client):
                state = _AFTER[_type(run)]()
                log.warning("%s: %s: it is %s", run.name, state.message, state.type.value.lower())
                await client.set_flow_run_state(run.id, state, force=True)
        finally:
            await in_thread(self.store.release_lease, lease)

    async def _orphans(self, client: PrefectClient) -> list[FlowRun]:
        chosen = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[key for key in self.flows if key]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(_AFTER))),
        )
        found = []
        for run in await client.read_flow_runs(flow_run_filter=chosen):
            if run.id not in self.taken and self._ours(run):
                states = await client.read_flow_run_states(run.id)
                claims = [state for state in states if state.type is StateType.PENDING]
                last = max(claims, key=lambda state: state.timestamp).message if claims else ""
                process = (last or "").removeprefix(TAKEN)
                if process == here() or gone(process, one_machine=self.store.one_machine):
                    found.append(run)
        return found

    async def _end(self) -> None:
        self.ending = True
        if tasks := [taken.task for taken in self.taken.values() if taken.task]:
            await asyncio.wait(tasks, timeout=PATIENCE)
            for taken in tuple(self.taken.values()):
                taken.end()
            await asyncio.wait(tasks, timeout=PATIENCE)
        self.thread.shutdown(wait=False, cancel_futures=True)


_GONE: Final = "The process of crowdsync react that had it is gone"
_AFTER: Final[Mapping[StateType | None, Callable[[], State[Any]]]] = {
    StateType.PENDING: lambda: Scheduled(message=f"{_GONE}; it had not begun."),
    StateType.RUNNING: lambda: Crashed(message=f"{_GONE}. What it wrote is in the journal; it may be started again."),
    StateType.CANCELLING: lambda: Cancelled(message=f"{_GONE}."),
}
"""The state of a run whose process is gone → the one that follows."""


async def claimed(client: PrefectClient, run: UUID) -> bool:
    """Makes a run ours; False where somebody else has it, or had it since it stood in the queue.

    Its name stays "Pending": another one would be let through twice. The server lets a run that is over become Pending
    again: one that was walked between the look at it and the claim gets its end back.
    """
    before = await client.read_flow_run(run)
    if _type(before) is not StateType.SCHEDULED:
        return False
    result: OrchestrationResult[Any] = await client.set_flow_run_state(run, Pending(message=f"{TAKEN}{here()}"))
    if result.status is not SetStateStatus.ACCEPT or result.state is None or not result.state.is_pending():
        return False
    if (await client.read_flow_run(run)).run_count == before.run_count:
        return True
    ends = [state for state in await client.read_flow_run_states(run) if state.is_final()]
    if ends:
        end = max(ends, key=lambda state: state.timestamp)
        await client.set_flow_run_state(run, State(type=end.type, name=end.name, message=end.message), force=True)
    return False


def _walk(flow: Flow[..., Any], run: FlowRun, taken: Taken) -> None:
    """The run, as a worker's process walks it. How it ended stands on its page."""

    async def walked() -> None:
        taken.inner = asyncio.get_running_loop(), cast(asyncio.Task[Any], asyncio.current_task())
        with suppress(Abort, Pause, asyncio.CancelledError):
            await run_flow_async(flow, flow_run=run, parameters=run.parameters, return_type="state")

    asyncio.run(walked())


def _type(run: FlowRun) -> StateType | None:
    return run.state.type if run.state else None
