"""How a coroutine calls the store, whose methods block: in a thread, and to the end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


async def in_thread(call: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """A blocking call → what it returns, the event loop free meanwhile.

    A thread cannot be stopped. Whoever is cancelled here is so only when the call has ended: the next one finds what
    it did, and the store is not closed under it.
    """
    context = contextvars.copy_context()  # (as `asyncio.to_thread`, which costs a task more)
    bound = partial(context.run, call, *args, **kwargs)
    work = asyncio.get_running_loop().run_in_executor(None, bound)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # (looked at: nobody else will)
        raise
