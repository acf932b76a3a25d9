"""What `crowdsync react` does, in a process of its own in which batch follows batch, without gathering news."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from cProfile import Profile
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import orjson

import deployments.react
from connectors.settings import load
from connectors.store import Store, in_thread
from deployments.process import freeze_imports
from deployments.react import Reactor
from tests.bench.child import answer
from tests.bench.program import highest, resident
from tests.bench.senders import Wire

deployments.react.GATHER = 0.0  # type: ignore[misc]


class Reacting:
    """The commands."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.reactor: Reactor | None = None
        self.marks: list[tracemalloc.Snapshot] = []

    def batches(self, scim: str, events: Sequence[Sequence[Any]], profile: str = "", trace: bool = False) -> Any:
        """A batch of each of these lists of events: seconds of the wall and of the processor, bytes afterwards."""
        if trace and not tracemalloc.is_tracing():
            tracemalloc.start(12)
        if self.reactor is None:
            settings = load()
            self.reactor = Reactor("crowd", Store.open(settings.store_url(), busy=settings.store.busy))
            freeze_imports()
        began, cpu = time.perf_counter(), time.process_time()
        with profiled(profile):
            self.loop.run_until_complete(self._batches(Wire(scim), events))
        spent = time.perf_counter() - began, time.process_time() - cpu
        if trace:
            gc.collect()
            self.marks.append(tracemalloc.take_snapshot())
        return {"wall": spent[0], "cpu": spent[1], "resident": resident(), "highest": highest()}

    async def _batches(self, idp: Wire, events: Sequence[Sequence[Any]]) -> None:
        assert self.reactor is not None
        for some in events:
            for event in some:
                await idp.post("/_bench/change", orjson.dumps(event["change"]), {})
            news = [("user", event["person"], "webhook") for event in some]
            await in_thread(self.reactor.store.accept, "crowd", "acme", news, "", datetime.now(UTC))
            assert await self.reactor.turn()
        idp.close()

    def grown(self, lines: int = 20) -> list[str]:
        """Where the bytes come from that are there now and were not at the first mark."""
        found = self.marks[-1].compare_to(self.marks[0], "traceback")
        return [f"{one.size_diff:,} B in {one.count_diff:,}: {_where(one.traceback)}" for one in found[:lines]]


@contextmanager
def profiled(path: str) -> Iterator[None]:
    """What runs inside, all of it in this thread, by its processor time, in a file for `pstats`; where one is named."""
    if not path:
        yield
        return
    profile = Profile(time.thread_time)
    with patch.object(asyncio.BaseEventLoop, "run_in_executor", _here):
        profile.enable()
        try:
            yield
        finally:
            profile.disable()
            profile.dump_stats(path)


def _here(loop: asyncio.AbstractEventLoop, _: Any, call: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
    done = loop.create_future()
    try:
        done.set_result(call(*args))
    except Exception as error:
        done.set_exception(error)
    return done


def _where(frames: tracemalloc.Traceback) -> str:
    return " < ".join(f"{os.path.relpath(frame.filename)}:{frame.lineno}" for frame in reversed(frames))


if __name__ == "__main__":
    reacting = Reacting()
    answer({"batches": reacting.batches, "grown": reacting.grown})
