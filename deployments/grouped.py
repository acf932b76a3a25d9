"""What requests keep, committed in groups: while one group is at the disk, the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from connectors.errors import RetryableError
from connectors.store import in_thread

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE: Final = 64
"""Requests in one transaction: other writers of the database wait for it."""
WAITING: Final = 2000
"""Requests that wait, at most; further ones are told to come again."""


class Grouped(Generic[T, R]):
    """One of a process for each kind of thing to keep; only one group is written at a time.

    `write` is called in a thread with a group, and gives for each the result or the error that it ends with. All of
    them are kept for good when it returns, and none when it raises.
    """

    def __init__(self, write: Callable[[list[T]], Sequence[R | Exception]]) -> None:
        self._write = write
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._work: asyncio.Task[None] | None = None

    async def keep(self, one: T) -> R:
        """Its result, once it is kept. Raises the error that it ended with, or why nothing was kept; `RetryableError`
        where too many wait. Whoever gives up waiting does not know: it may be kept all the same."""
        if len(self._waiting) >= WAITING:
            raise RetryableError(f"{WAITING} requests wait to be kept; send it again in a moment.", retry_after=5)
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((one, done))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while self._waiting:
            some, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            group = [(one, done) for one, done in some if not done.done()]  # (others have given up)
            if not group:
                continue
            results: Sequence[R | Exception]
            try:
                results = await in_thread(self._write, [one for one, _ in group])
            except Exception as error:  # each of them is told
                results = [error] * len(group)
            for (_, done), result in zip(group, results, strict=True):
                if done.done():
                    continue
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
