"""`crowdsync react` and Prefect, where a server is named: what it is shown there, and what is pressed there."""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio.subprocess import PIPE
from collections.abc import Coroutine
from typing import Any, Final

from connectors.store import Store
from deployments.buttons import Buttons
from deployments.process import tied
from deployments.shown import prefect_answers
from flows.road import SyncRequest, walk
from flows.sync import sync
from tasks.tell.report import Report

AGAIN: Final = 30.0
"""Seconds until the process that shows runs is started again, where it ended."""
log = logging.getLogger("crowdsync.react")


def beside(directory: str, store: Store, turns: asyncio.Lock) -> tuple[Coroutine[Any, Any, None], ...]:
    """What goes on beside the batches, until it is cancelled."""
    return _shown(directory), Buttons(directory, store, turns).serve()


async def everybody(request: SyncRequest) -> Report:
    """A run about everybody: as a flow run while the server answers, plainly while it does not."""
    return await (sync(request) if await prefect_answers() else walk(request))


async def _shown(directory: str) -> None:
    """`deployments.shown` in a process of its own, which ends with this one."""
    while True:
        try:
            process = await asyncio.create_subprocess_exec(*tied("deployments.shown:main", directory), stdin=PIPE)
        except OSError as error:
            log.warning("nothing can be started to show runs in Prefect: %s; it is tried again", error)
            await asyncio.sleep(AGAIN)
            continue
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        if code != -signal.SIGTERM:  # (which a service's manager sends to all of its processes)
            log.warning("the process that shows runs in Prefect ended (%s); it is started again", code)
        await asyncio.sleep(AGAIN)
