"""Requests that write, committed in groups: while one group is at the disk, the next one gathers."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from connectors.errors import RetryableError
from connectors.store import Store, in_thread
from connectors.store.mirror import MirrorJob

AT_ONCE: Final = 64
"""Requests in one transaction: other writers of the database wait for it."""
WAITING: Final = 2000
"""Requests that wait, at most; further ones are told to come again."""


class Writer:
    """One of a process. Only one group is written at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[tuple[MirrorJob, asyncio.Future[Any]]] = []
        self._work: asyncio.Task[None] | None = None

    async def write(self, job: MirrorJob) -> Any:
        """What the job returned, once it is committed. Raises what the job raised, or why nothing was committed;
        `RetryableError` where too many wait."""
        if len(self._waiting) >= WAITING:
            raise RetryableError(f"{WAITING} requests wait to be written; send it again in a moment.", retry_after=5)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, done))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write_all())
        return await done

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
            try:
                results = await in_thread(self._store.write_mirror, [job for job, _ in group])
            except Exception as error:
                results = [error] * len(group)
            for (_, done), result in zip(group, results, strict=True):
                if done.done():
                    continue  # (its client has gone away)
                if isinstance(result, Exception):
                    done.set_exception(result)
                else:
                    done.set_result(result)
