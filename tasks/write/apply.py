"""Writing a plan to Crowd: through the journal, in chunks, each operation until its condition holds.

The intent of a chunk is durable before its first call; outcomes follow in batches. A chunk that is
run again takes up only what the journal does not show as settled, so a retry, a crash and a second
run are the same thing.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import pandas as pd
from prefect import task
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from connectors.contract import Directory
from connectors.errors import CrowdsyncError, RecordError, RefusedError, RetryableError
from connectors.model import ID_ATTRIBUTE, Snapshot, crowd_id, groups_frame, memberships_frame, users_frame
from connectors.operations import Kind, Operation
from connectors.store import Store
from tasks.decide.ownership import ByHand
from tasks.decide.plan import Plan
from tasks.decide.selection import Selection
from tasks.policy import Canary
from tasks.read.snapshot import lost_links, new_links, settle, told_by
from tasks.run import Run
from tasks.write.lease import Writing

CHUNK = 500
FLUSH = 100
OPEN = ("planned", "intended")


@dataclass(slots=True)
class Progress:
    """What became of the operations so far, by state; `broken`: what others need and an operation
    failed to bring about: ("user" or "group", a name that should exist) or ("name", a name that should be free),
    with its seq."""

    states: Counter[str] = field(default_factory=Counter)
    broken: dict[tuple[str, str], int] = field(default_factory=dict)


def chunks(operations: pd.DataFrame, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Operations in order → (first, last) seq of each chunk; a chunk never spans two phases."""
    for _, phase in operations.groupby("phase", sort=True):
        seqs = phase["seq"].to_numpy()
        for start in range(0, len(seqs), size):
            yield int(seqs[start]), int(seqs[min(start + size, len(seqs)) - 1])


async def apply_operations(
    operations: pd.DataFrame,
    directory: Directory,
    store: Store,
    plan: int,
    *,
    source: str,
    directory_name: str,
    run: str,
    progress: Progress,
    concurrency: int = 16,
    writing: Writing | None = None,
    by_hand: ByHand | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Operations of one phase (as the store gives them) → Crowd, and their outcomes → the journal.

    Raises `RefusedError` where nothing further may be written, `RetryableError` where some
    operations are still open; everything that did happen is recorded in either case. Without its right to write
    (`writing`) a run neither writes down an intent nor sends a further call. `by_hand`: who changes ownership.
    """
    attempted = set(operations.loc[operations["state"] == "intended", "seq"])
    columns = (operations[c] for c in ("seq", "kind", "name", "target", "record"))
    todo = [
        Operation(int(seq), Kind(kind), name, target, orjson.loads(record) if record else {})
        for seq, kind, name, target, record in zip(*columns, strict=True)
    ]
    if not todo:
        return
    if writing is not None:
        writing.raise_if_lost()
    store.intend(plan, [operation.seq for operation in todo], at=now(), fence=writing.lease if writing else None)
    by_seq = operations.set_index("seq", drop=False)
    queue = deque(lanes(todo))
    outcomes: list[tuple[int, str, str]] = []
    stop: list[RefusedError] = []
    later: list[RetryableError] = []

    def flush() -> None:
        if not outcomes:
            return
        held = by_seq.loc[[seq for seq, state, _ in outcomes if state in ("done", "already")]]
        store.record(
            plan,
            list(outcomes),
            at=now(),
            links=new_links(held, source),
            dropped=lost_links(held, source),
            directory=directory_name,
            run=run,
            **told_by(by_hand, plan, held),
        )
        progress.states.update(state for _, state, _ in outcomes)
        outcomes.clear()

    async def write(operation: Operation) -> bool:
        """One operation → whether what waits for it may go on."""
        if writing is not None:
            try:
                writing.raise_if_lost()
            except RefusedError as error:
                stop.append(error)
                return False
        waits_for = _waits_for(operation, progress)
        if waits_for is not None:
            outcomes.append((operation.seq, "skipped", waits_for))
            _break(progress, operation)
            return True
        try:
            outcome = await directory.write(operation, attempted=operation.seq in attempted)
        except RecordError as error:
            outcomes.append((operation.seq, "failed", str(error)))
            _break(progress, operation)
        except RefusedError as error:
            stop.append(error)
            outcomes.append((operation.seq, "failed", str(error)))
        except RetryableError as error:
            later.append(error)
            return False
        else:
            outcomes.append((operation.seq, outcome.state, outcome.note))
        return True

    async def work() -> None:
        while queue and not stop:
            for operation in queue.popleft():
                if stop or not await write(operation):
                    break
                if len(outcomes) >= FLUSH:
                    flush()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(work())
    finally:
        flush()
    if stop:
        raise stop[0]
    if later:
        raise RetryableError(
            f"{len(later)} of {len(todo)} operations did not go through: {later[0]}", later[0].retry_after
        )


def lanes(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Operations of one phase → those that must follow each other; the lanes may run side by side.

    Only renames wait for each other: one that takes the name that an earlier one gives up.
    """
    by_name: dict[str, list[Operation]] = {}
    for operation in operations:
        if operation.kind is not Kind.USER_RENAME:
            yield [operation]
            continue
        old, new = crowd_id(operation.name), crowd_id(operation.target)
        lane = by_name.get(old) or by_name.get(new) or []
        lane.append(operation)
        by_name[old] = by_name[new] = lane
    yield from {id(lane): lane for lane in by_name.values()}.values()


def _waits_for(operation: Operation, progress: Progress) -> str | None:
    """Why an operation cannot be done any more: another one that it needs was not."""
    if not progress.broken:
        return None
    kind = operation.kind
    name, target = crowd_id(operation.name), crowd_id(operation.target)
    needs = [("group" if kind.startswith(("group", "nesting")) else "user", name)]
    if kind.startswith(("membership", "nesting")):
        needs.append(("group", target))
    elif kind is Kind.USER_RENAME:
        needs.append(("name", target))
    elif kind is Kind.USER_CREATE:
        needs.append(("name", name))
    missing = next((progress.broken[need] for need in needs if need in progress.broken), None)
    return None if missing is None else f"waits for operation {missing}, which failed"


def _break(progress: Progress, operation: Operation) -> None:
    """Remembers what does not exist, or is not free, because this operation was not done."""
    kind, name = operation.kind, crowd_id(operation.name)
    if kind in (Kind.USER_CREATE, Kind.GROUP_CREATE):
        progress.broken[kind.split("_")[0], name] = operation.seq
    elif kind is Kind.USER_RENAME:
        progress.broken["user", crowd_id(operation.target)] = operation.seq
        progress.broken["name", name] = operation.seq
    elif ID_ATTRIBUTE in operation.record.get("attributes", {}):
        progress.broken[kind.split("_")[0], name] = operation.seq  # not ours, so nothing else may be done to it
    elif kind is Kind.USER_DELETE:
        progress.broken["name", name] = operation.seq


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
    await _apply(run, plan, run.store.operations(plan, states=OPEN, first=bounds[0], last=bounds[1]), progress)


async def _apply(run: Run, plan: int, operations: pd.DataFrame, progress: Progress) -> None:
    await apply_operations(
        operations,
        run.directory,
        run.store,
        plan,
        source=run.source_name,
        directory_name=run.directory_name,
        run=run.id,
        progress=progress,
        concurrency=run.concurrency,
        writing=run.writing,
    )


def canary(operations: pd.DataFrame, policy: Canary) -> pd.DataFrame:
    """Operations → the first part, in their order; none where the policy has no canary."""
    if policy.group:
        return Selection(group=policy.group).of(operations)
    return operations.head(policy.operations or 0)


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
    for _, phase in first.groupby("phase", sort=True):
        seqs = phase["seq"]
        stored = run.store.operations(plan, first=int(seqs.min()), last=int(seqs.max()))
        stored = stored[stored["seq"].isin(seqs)].reset_index(drop=True)
        await _apply(run, plan, stored[stored["state"].isin(OPEN)], progress)
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
    _, scope = run.scopes
    kinds = operations["kind"]
    of_group = kinds.str.startswith(("group", "nesting"))
    names = {*operations["name"][~of_group], *operations["target"][kinds == Kind.USER_RENAME]}
    people = [await run.directory.user(name, scope) for name in sorted(names)]
    groups = [await run.directory.group(name, scope) for name in sorted(set(operations["name"][of_group]))]
    found = [person for person in people if person is not None]
    memberships = [row for person in found for row in person.memberships]
    if kinds.str.startswith("nesting").any():  # Crowd tells what is in a group only for all of them
        async for page in run.directory.memberships():
            memberships += [row for row in page.rows if row[2] == "group"]
    return Snapshot.of(
        users_frame(person.user for person in found),
        groups_frame(one.group for one in groups if one is not None),
        memberships_frame(memberships),
    )


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a plan: how many operations were verified first, and what stopped it before its end."""

    verified: int = 0
    stopped: CrowdsyncError | None = None


async def apply_plan(run: Run, plan: Plan, number: int, runner: Any) -> Applied:  # noqa: ARG001
    verified: list[int] = []
    try:
        await _apply_plan(run, plan, number, verified)
    except CrowdsyncError as error:
        return Applied(sum(verified), error)
    return Applied(sum(verified))


async def _apply_plan(run: Run, plan: Plan, number: int, verified: list[int]) -> Progress:
    """A whole plan, chunk by chunk, with a progress bar on the run's page. Raises as `apply_operations`."""
    now = datetime.now(UTC)
    allowed = ("planned", "refused", "waiting", "approved")
    fence = run.writing.lease if run.writing else None
    run.store.set_plan_status(number, "applying", at=now, expected=allowed, fence=fence)
    save_links(run, plan, number)
    progress = Progress()
    bounds = list(chunks(plan.operations))
    shown = await acreate_progress_artifact(
        progress=0.0, key=run.key("apply"), description=f"{len(plan.operations):,} operations"
    )
    first = canary(plan.operations, run.policy.canary)
    if len(first):
        await apply_canary(run, number, first, len(first), progress)
        verified.append(len(first))
    for done, chunk in enumerate(bounds, 1):
        await apply_chunk(run, number, chunk, done, len(bounds), progress)
        if len(bounds) > 1:
            await aupdate_progress_artifact(shown, progress=round(100 * done / len(bounds), 1))
    return progress


def save_links(run: Run, plan: Plan, number: int) -> None:
    """Keeps the ownership that was found in Crowd's marks alone, and ends what holds a name that somebody gets: both or
    none, and only while the run may write."""
    if len(plan.stale) or len(plan.links):
        run.store.record(
            number,
            (),
            at=datetime.now(UTC),
            links=plan.links.assign(source=run.source_name),
            dropped=plan.stale.assign(source=run.source_name),
            directory=run.directory_name,
            run=run.id,
            fence=run.writing.lease if run.writing else None,
        )
