"""`crowdsync react` and Prefect, where a server is named: what it is shown there, and what is pressed there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from connectors.settings import load
from connectors.store import Store
from deployments.buttons import Buttons
from deployments.shown import prefect_answers, show
from flows.road import SyncRequest, walk
from flows.sync import sync
from tasks.tell.current import show_current
from tasks.tell.report import Report

SHOW: Final = 1.0
"""Seconds after which runs that ended are shown in Prefect."""
PAGE: Final = 15.0
"""So many seconds apart, at least, the page about everything is brought up to date, where batches ended since."""
log = logging.getLogger("crowdsync.react")


def beside(
    directory: str, store: Store, turns: asyncio.Lock, batches: Callable[[], int]
) -> tuple[Coroutine[Any, Any, None], ...]:
    """What goes on beside the batches, until it is cancelled; `batches` says how many there were."""
    return _show(store, batches), Buttons(directory, store, turns).serve()


async def everybody(request: SyncRequest) -> Report:
    """A run about everybody: as a flow run while the server answers, plainly while it does not."""
    return await (sync(request) if await prefect_answers() else walk(request))


async def _show(store: Store, batches: Callable[[], int]) -> None:
    told, at = 0, float("-inf")
    while True:
        await asyncio.sleep(SHOW)
        try:
            await show(store, load())
            ended, now = batches(), asyncio.get_running_loop().time()
            if ended != told and now - at >= PAGE:
                told, at = ended, now
                await show_current(store, load())
        except Exception as error:  # a page is not worth a hint
            log.warning("Prefect: %s", error)
