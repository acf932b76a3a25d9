"""One writer per directory: a lease in the store, renewed while the run lives, and a fence for the journal.

A run that loses its lease, because its machine slept or the store was out of reach for too long, writes nothing
further: by its own clock before every call, and by the fence at every intent, whatever its clock says.

A run that takes long has the directory's turn beside the lease, and lends the lease to a batch of news where it can:
while it reads, and between two chunks of a plan. Nobody but batches comes in then, for all others want the turn first.
Who waits for the lease stands next in line, one at a time: so a batch comes in at the next chunk, and endless batches
keep no run from going on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from connectors.errors import CrowdsyncError, RefusedError
from connectors.store import Lease, Store, in_thread

SECONDS = 120.0
"""How long a lease holds without being renewed; it is renewed every fifth of that."""
IN_LINE: Final = 10.0
"""For so many seconds one stands next in line without saying so again."""
LOOK: Final = 0.1
"""Seconds after which who waits looks again."""
CLOCKS: Final = timedelta(minutes=1)
"""So far apart clocks of machines may be: to lend to somebody who is gone costs little."""


class BusyError(RefusedError):
    """Another run writes to this directory."""


def turn_of(directory: str) -> str:
    """The lease of whose turn it is; of the runs that have it, there is one at a time, also while it lends."""
    return f"{directory}\tturn"


def next_of(directory: str) -> str:
    """The lease of who stands next in line for the directory's lease."""
    return f"{directory}\tnext"


@dataclass(slots=True)
class Writing:
    """The right to write to one directory, as long as it lasts; with the turn (None: a batch) it may be lent."""

    store: Store
    lease: Lease
    turn: Lease | None
    seconds: float
    good_until: float
    lost: CrowdsyncError | None = None
    lent: bool = False
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    def raise_if_lost(self) -> None:
        """Raises `RefusedError` where another run may be writing by now."""
        if self.lost is not None:
            raise RefusedError(str(self.lost))
        if self.lent:
            raise RefusedError(f"the right to write to {self.lease.directory} is lent just now")
        if time.monotonic() > self.good_until:
            raise RefusedError(
                f"the right to write to {self.lease.directory} ran out before it could be renewed; nothing further was "
                "written: see that the store answers, then run again"
            )

    async def wanted(self) -> bool:
        """Whether a batch waits for it, and it may be lent."""
        if self.turn is None:
            return False
        first = await in_thread(self.store.lease, next_of(self.lease.directory))
        lately = datetime.now(UTC) - CLOCKS
        return first is not None and first.holder != self.lease.holder and first.until > lately

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[None]:
        """Inside, batches may write to the directory; the run itself does not. Raises `RefusedError` where the turn was
        lost meanwhile."""
        if self.turn is None:
            yield
            return
        self.raise_if_lost()
        async with self._alone:
            self.lent = True
            await in_thread(self.store.release_lease, self.lease)
        yield  # (where it fails inside, it ends without the lease)
        asked, self.lease = await self._again()
        async with self._alone:
            self.turn = await in_thread(self.store.renew_lease, self.turn, seconds=self.seconds)
            self.good_until, self.lent = asked + self.seconds, False

    async def _again(self) -> tuple[float, Lease]:
        while self.lost is None:
            taken = await _taken(self.store, self.lease.directory, self.lease.holder, self.seconds, self.seconds)
            if taken is not None:
                return taken
        raise RefusedError(str(self.lost))

    async def keep(self) -> None:
        """Renews both leases, until it is cancelled or they are lost."""
        while True:
            await asyncio.sleep(self.seconds / 5)
            asked = time.monotonic()
            try:
                async with self._alone:
                    if self.turn is not None:
                        self.turn = await in_thread(self.store.renew_lease, self.turn, seconds=self.seconds)
                    if not self.lent:
                        self.lease = await in_thread(self.store.renew_lease, self.lease, seconds=self.seconds)
                        self.good_until = asked + self.seconds
            except RefusedError as error:
                self.lost = error
                return
            except CrowdsyncError:
                continue  # the store does not answer: it may again, before the time is over

    def give_back(self) -> None:
        """Gives both back."""
        for lease in (self.lease, self.turn):
            with suppress(CrowdsyncError):  # it runs out by itself
                if lease is not None:
                    self.store.release_lease(lease)


@asynccontextmanager
async def only_writer(
    store: Store,
    directory: str,
    holder: str,
    *,
    busy: Literal["wait", "skip"] = "wait",
    patience: float = 3600,
    seconds: float = SECONDS,
    batch: bool = False,
) -> AsyncIterator[Writing]:
    """The right to write to a directory, alone. Raises `BusyError` where another run has it: at once, or after
    `patience` seconds of waiting for it. A `batch` of news waits for the lease alone; it may be lent by the run whose
    turn it is."""
    start = time.monotonic()
    turn = None if batch else await _turn(store, directory, holder, busy, patience, seconds)
    try:
        taken = await _taken(store, directory, holder, seconds, patience - (time.monotonic() - start))
        if taken is None:
            raise BusyError(await in_thread(_busy, store, directory, directory, f"waited {patience / 60:.0f} minutes"))
        if turn is not None:  # (it may have run out)
            turn = await in_thread(store.renew_lease, turn, seconds=seconds)
    except BaseException:
        with suppress(CrowdsyncError):
            if turn is not None:
                store.release_lease(turn)
        raise
    writing = Writing(store, taken[1], turn, seconds, taken[0] + seconds)
    keeper = asyncio.create_task(writing.keep())
    try:
        yield writing
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        writing.give_back()


async def _turn(
    store: Store, directory: str, holder: str, busy: Literal["wait", "skip"], patience: float, seconds: float
) -> Lease:
    """The directory's turn."""
    start, name = time.monotonic(), turn_of(directory)
    while (lease := await in_thread(store.take_lease, name, holder, seconds=seconds)) is None:
        if busy == "skip" or time.monotonic() - start > patience:
            way = "is skipped" if busy == "skip" else f"waited {patience / 60:.0f} minutes"
            raise BusyError(await in_thread(_busy, store, directory, name, way))
        await asyncio.sleep(min(2.0, max(0.05, seconds / 20)))
    return lease


def _busy(store: Store, directory: str, name: str, way: str) -> str:
    other = store.lease(name)
    who = f"run {other.holder} (until {other.until:%Y-%m-%d %H:%M:%S} UTC, unless it goes on)" if other else "?"
    return f"{who} writes to {directory}, one run at a time: this one {way}; run again when it is done"


async def _taken(
    store: Store, directory: str, holder: str, seconds: float, patience: float
) -> tuple[float, Lease] | None:
    """The directory's lease, and since when, by this process's clock; None after `patience` seconds of waiting, most of
    which it stands next in line."""
    start, line, said, asked = time.monotonic(), next_of(directory), None, -IN_LINE
    try:
        while True:
            now = time.monotonic()
            # (Looking costs less than taking, which writes; of other machines' clocks nothing is presumed.)
            seen = await in_thread(store.lease, directory)
            if seen is None or seen.until <= datetime.now(UTC) or now - asked >= IN_LINE / 5:
                asked = now
                lease = await in_thread(store.take_lease, directory, holder, seconds=seconds, behind=line)
                if lease is not None:
                    return asked, lease
                if now - start > patience:
                    return None
                said = await in_thread(store.take_lease, line, holder, seconds=IN_LINE)
            elif said is None and await in_thread(store.lease, line) is None:
                said = await in_thread(store.take_lease, line, holder, seconds=IN_LINE)
            await asyncio.sleep(LOOK)
    finally:
        if said is not None:
            with suppress(CrowdsyncError):
                store.release_lease(said)
