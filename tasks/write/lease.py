"""One writer per directory: a lease in the store, renewed while the run lives, and a fence for the journal.

A run that loses its lease, because its machine slept or the store was out of reach for too long, writes nothing
further: by its own clock before every call, and by the fence at every intent, whatever its clock says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from connectors.errors import CrowdsyncError, RefusedError
from connectors.store import Lease, Store, in_thread

SECONDS = 120.0
"""How long a lease holds without being renewed; it is renewed every fifth of that."""


class BusyError(RefusedError):
    """Another run writes to this directory."""


@dataclass(slots=True)
class Writing:
    """The right to write to one directory, as long as it lasts."""

    lease: Lease
    good_until: float
    lost: CrowdsyncError | None = field(default=None)

    def raise_if_lost(self) -> None:
        """Raises `RefusedError` where another run may be writing by now."""
        if self.lost is not None:
            raise RefusedError(str(self.lost))
        if time.monotonic() > self.good_until:
            raise RefusedError(
                f"the right to write to {self.lease.directory} ran out before it could be renewed; nothing further was "
                "written: see that the store answers, then run again"
            )


@asynccontextmanager
async def only_writer(
    store: Store,
    directory: str,
    holder: str,
    *,
    busy: Literal["wait", "skip"] = "wait",
    patience: float = 3600,
    seconds: float = SECONDS,
) -> AsyncIterator[Writing]:
    """The right to write to a directory, alone. Raises `BusyError` where another run has it: at once, or after
    `patience` seconds of waiting for it."""
    start = time.monotonic()
    while True:
        asked = time.monotonic()
        lease = await in_thread(store.take_lease, directory, holder, seconds=seconds)
        if lease is not None:
            break
        if busy == "skip" or time.monotonic() - start > patience:
            other = store.lease(directory)
            who = f"run {other.holder} (until {other.until:%Y-%m-%d %H:%M:%S} UTC, unless it goes on)" if other else "?"
            way = "this one is skipped" if busy == "skip" else f"this one waited {patience / 60:.0f} minutes"
            raise BusyError(f"{who} writes to {directory}, one run at a time: {way}; run again when it is done")
        await asyncio.sleep(min(2.0, max(0.05, seconds / 20)))
    writing = Writing(lease, asked + seconds)
    keeper = asyncio.create_task(_keep(store, writing, seconds))
    try:
        yield writing
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        with suppress(CrowdsyncError):  # it runs out by itself
            store.release_lease(writing.lease)


async def _keep(store: Store, writing: Writing, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds / 5)
        asked = time.monotonic()
        try:
            writing.lease = await in_thread(store.renew_lease, writing.lease, seconds=seconds)
            writing.good_until = asked + seconds
        except RefusedError as error:
            writing.lost = error
            return
        except CrowdsyncError:
            continue  # the store does not answer: it may again, before the time is over
