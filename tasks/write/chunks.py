"""Some operations of a plan → Crowd: each until its condition holds, through the journal.

The intent of a chunk is durable before its first call; outcomes follow in batches. A chunk that is
run again takes up only what the journal does not show as settled, so a retry, a crash and a second
run are the same thing.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pandas as pd

from connectors.contract import Directory
from connectors.errors import RecordError, RefusedError, RetryableError
from connectors.model import crowd_id, sizes_only
from connectors.operations import KINDS, Kind, Operation, brings, needs
from connectors.store import Store, in_thread
from tasks.decide.links import lost_links, new_links, recorded_by
from tasks.decide.ownership import ByHand
from tasks.run import Run
from tasks.write.lease import Writing

CHUNK = 500
FLUSH = 250
"""How many outcomes are recorded at once. Recording has a thread of its own, which the calls to Crowd share a processor
with: of 100 it cost them 4 %, of 250 nothing that could be measured. What is not recorded is found out by a read."""
OPEN = ("planned", "intended")

Noted = tuple[int, str, str]
"""What became of an operation: its seq, its state, a note."""


@dataclass(slots=True)
class Progress:
    """What became of the operations so far, by state; `broken`: what others need and an operation
    failed to bring about: ("user" or "group", a name that should exist) or ("name", a name that should be free),
    with its seq."""

    states: Counter[str] = field(default_factory=Counter)
    broken: dict[tuple[str, str], int] = field(default_factory=dict)

    def waits_for(self, operation: Operation) -> int | None:
        """The operation that failed and that this one cannot do without; None where there is none."""
        if not self.broken:
            return None
        return next((self.broken[need] for need in needs(operation) if need in self.broken), None)

    def broke(self, operation: Operation) -> None:
        """Remembers what does not exist, or is not free, because this operation was not done."""
        self.broken.update(dict.fromkeys(brings(operation), operation.seq))


def chunks(operations: pd.DataFrame, size: int = CHUNK) -> Iterator[tuple[int, int]]:
    """Operations in order → (first, last) seq of each chunk; a chunk never spans two phases."""
    for _, phase in operations.groupby("phase", sort=True):
        seqs = phase["seq"].to_numpy()
        for start in range(0, len(seqs), size):
            yield int(seqs[start]), int(seqs[min(start + size, len(seqs)) - 1])


def lanes(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """Operations of one phase → those that must follow each other; the lanes may run side by side.

    Only renames wait for each other: one that takes the name that an earlier one gives up.
    """
    by_name: dict[str, list[Operation]] = {}
    for operation in operations:
        if KINDS[operation.kind].link != "moves":
            yield [operation]
            continue
        old, new = crowd_id(operation.name), crowd_id(operation.target)
        lane = by_name.get(old) or by_name.get(new) or []
        lane.append(operation)
        by_name[old] = by_name[new] = lane
    yield from {id(lane): lane for lane in by_name.values()}.values()


async def apply_chunk(run: Run, plan: int, bounds: tuple[int, int], progress: Progress) -> None:
    """One chunk of a plan, as far as the journal does not show it as settled."""
    first, last = bounds
    open_ = await in_thread(run.store.operations, plan, states=OPEN, first=first, last=last)
    await apply_of_run(run, plan, open_, progress)


async def apply_of_run(run: Run, plan: int, operations: pd.DataFrame, progress: Progress) -> None:
    """Operations of one phase of a run's plan; raises as `apply_operations`."""
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


async def apply_operations(  # (what it works with: a change by hand has no `Run` to take it from)
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
) -> None:
    """Operations of one phase (as the store gives them) → Crowd, and their outcomes → the journal.

    Raises `RefusedError` where nothing further may be written, `RetryableError` where some
    operations are still open; everything that did happen is recorded in either case. Without its right to write
    (`writing`) a run neither writes down an intent nor sends a further call. `by_hand`: who changes ownership.
    """
    todo = _operations(operations)
    if not todo:
        return
    if writing is not None:
        writing.raise_if_lost()
    fence = writing.lease if writing else None
    await in_thread(store.intend, plan, [one.seq for one in todo], at=datetime.now(UTC), fence=fence)
    by_seq = operations.set_index("seq", drop=False)

    def record(outcomes: Sequence[Noted]) -> None:
        held = by_seq.loc[[seq for seq, state, _ in outcomes if state in ("done", "already")]]
        store.record(
            plan,
            outcomes,
            at=datetime.now(UTC),
            links=new_links(held, source),
            dropped=lost_links(held, source),
            directory=directory_name,
            run=run,
            **recorded_by(by_hand, plan, held),
        )
        progress.states.update(state for _, state, _ in outcomes)

    attempted = set(operations.loc[operations["state"] == "intended", "seq"])
    part = _Part(directory, progress, writing, attempted, deque(lanes(todo)), Outcomes(record))
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(todo))):
                group.create_task(part.work())
    finally:
        await part.outcomes.flush()
    part.raise_what_stopped(len(todo))


def _operations(rows: pd.DataFrame) -> list[Operation]:
    columns = (rows[c] for c in ("seq", "kind", "name", "target", "record"))
    return [
        Operation(int(seq), Kind(kind), name, target, orjson.loads(record) if record else {})
        for seq, kind, name, target, record in zip(*columns, strict=True)
    ]


class Outcomes:
    """What became of operations, on its way into the journal: noted one by one, recorded in batches by one thread at
    a time. A batch that could not be recorded stays, for the next try."""

    def __init__(self, record: Callable[[Sequence[Noted]], None]) -> None:
        self._record = record
        self._noted: list[Noted] = []
        self._turn, self._one = asyncio.Lock(), threading.Lock()

    def note(self, seq: int, state: str, note: str) -> None:
        """To be recorded with the next batch."""
        self._noted.append((seq, state, note))

    async def flush_batch(self) -> None:
        """Records what was noted, if that is a batch. Who comes meanwhile waits: only so much is not yet recorded."""
        if len(self._noted) < FLUSH:
            return
        async with self._turn:
            if len(self._noted) >= FLUSH:
                await in_thread(self._flush)

    async def flush(self) -> None:
        """Records what was noted, all of it, also when the caller is cancelled."""
        if self._noted:
            await in_thread(self._flush)

    def _flush(self) -> None:
        with self._one:
            batch = list(self._noted)
            if batch:
                self._record(batch)
                del self._noted[: len(batch)]  # (others were noted behind them meanwhile)


@sizes_only
@dataclass(slots=True)
class _Part:
    """Operations of one phase on their way to Crowd, side by side in `queue`'s lanes."""

    directory: Directory
    progress: Progress
    writing: Writing | None
    attempted: Collection[int]
    queue: deque[list[Operation]]
    outcomes: Outcomes
    stop: list[RefusedError] = field(default_factory=list)
    later: list[RetryableError] = field(default_factory=list)

    async def work(self) -> None:
        """One lane after the other, until there is none or nothing further may be written."""
        while self.queue and not self.stop:
            for operation in self.queue.popleft():
                if self.stop or not await self._write(operation):
                    break
                await self.outcomes.flush_batch()

    async def _write(self, operation: Operation) -> bool:
        """One operation → whether what waits for it may go on."""
        seq, note = operation.seq, self.outcomes.note
        if self.writing is not None:
            try:
                self.writing.raise_if_lost()
            except RefusedError as error:
                self.stop.append(error)
                return False
        missing = self.progress.waits_for(operation)
        if missing is not None:
            note(seq, "skipped", f"waits for operation {missing}, which failed")
            self.progress.broke(operation)
            return True
        try:
            outcome = await self.directory.write(operation, attempted=seq in self.attempted)
        except RecordError as error:
            note(seq, "failed", str(error))
            self.progress.broke(operation)
        except RefusedError as error:
            self.stop.append(error)
            note(seq, "failed", str(error))
        except RetryableError as error:
            self.later.append(error)
            return False
        else:
            note(seq, outcome.state, outcome.note)
        return True

    def raise_what_stopped(self, count: int) -> None:
        """Raises as `apply_operations`."""
        if self.stop:
            raise self.stop[0]
        if self.later:
            raise RetryableError(
                f"{len(self.later)} of {count} operations did not go through: {self.later[0]}",
                self.later[0].retry_after,
            )
