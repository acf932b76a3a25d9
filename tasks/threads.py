"""Blocking calls beside the event loop, which renews the right to write meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of `work`, which runs in a thread of its own.

    Whoever is cancelled meanwhile waits for its end first: what is written to the store afterwards, such as how the run
    ended, never overtakes it.
    """
    call = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()  # it was cancelled before anybody could hear of that
        raise
