"""The program in a process of its own: the flow as Prefect runs it, and the same road without Prefect.

Both run `flows.road` itself. Outside of a flow run, every stage there is its plain function, and there is no page to
show anything on; so the difference is what the orchestration costs.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pandas as pd

import tasks.stage
import tasks.stages
from flows.road import SyncRequest, walk
from flows.sync import sync
from tasks.read.deltas import Reading
from tests.bench.child import answer

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE


def highest() -> int:
    """Bytes of this process in memory at most since it began. (`ru_maxrss` would count its parent's, before exec.)"""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


class Watch:
    """When the stages' own functions ran, and how large the process became in each."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, float, float]] = []
        self.peaks: dict[str, int] = {}
        self.tables: dict[str, int] = {}
        self._running: list[str] = []
        self._ended = threading.Event()

    def timed(self, name: str, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """The function, noting when it runs."""

        @functools.wraps(function)
        async def noted(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._running.append(name)
            try:
                result = await function(*args, **kwargs)
            finally:
                self._running.remove(name)
                self.spans.append((name, start, time.perf_counter()))
            if isinstance(result, Reading):
                read = result.snapshot
                self.tables[name] = sum(frame_bytes(frame) for frame in (read.users, read.groups, read.memberships))
            return result

        return noted

    def own_seconds(self) -> float:
        """Wall time in which at least one stage's function was running."""
        total = end = 0.0
        for _, start, stop in sorted(self.spans, key=lambda span: span[1]):
            total += max(0.0, stop - max(start, end))
            end = max(end, stop)
        return total

    def seconds(self) -> dict[str, float]:
        """Wall time by stage."""
        spent: dict[str, float] = {}
        for name, start, stop in self.spans:
            spent[name] = spent.get(name, 0.0) + stop - start
        return spent

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Looks at the process's size forty times a second."""
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.025):
            stage = " + ".join(sorted(set(self._running))) or "between the stages"
            self.peaks[stage] = max(self.peaks.get(stage, 0), resident())


def frame_bytes(frame: pd.DataFrame) -> int:
    """Bytes of a frame's columns."""
    return int(frame.memory_usage(deep=False).sum())


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Every stage notes its time."""
    stages = [value for value in vars(tasks.stages).values() if isinstance(value, tasks.stage.Stage)]
    patches = [patch.object(value, "fn", watch.timed(value.name, value.fn)) for value in stages]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


def run(orchestrated: bool = True, mode: str = "sync", person: str = "", force: bool = True) -> dict[str, Any]:
    """One whole run of the road, or one about one person."""
    request = SyncRequest(source="acme", mode=mode, person=person, force=force)
    watch = Watch()
    before = resident()
    with watched(watch), watch.sampling():
        start, cpu = time.perf_counter(), time.process_time()
        report = asyncio.run(sync(request) if orchestrated else walk(request))
        wall, used = time.perf_counter() - start, time.process_time() - cpu
    result = {
        "wall": wall,
        "cpu": used,
        "own": watch.own_seconds(),
        "functions": watch.seconds(),
        "seconds": dict(report.seconds),
        "status": report.status,
        "read": report.read,
        "plan": report.plan,
        "planned": dict(report.planned),
        "outcomes": dict(report.outcomes),
        "before": before,
        "stages": watch.peaks,
        "tables": watch.tables,
        "peak": highest(),
    }
    del report
    gc.collect()
    return result


if __name__ == "__main__":
    answer({"run": run})
