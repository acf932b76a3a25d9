"""Quarantine: a source that could not be read is left alone for a while by the runs that nobody started."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from connectors.errors import CrowdsyncError
from connectors.store import Store, in_thread
from tasks.tell.events import emit

if TYPE_CHECKING:
    from tasks.run import Run

Result = TypeVar("Result")


def quarantined(store: Store, source: str) -> str:
    """Why a source is left alone now; "" where it is not in quarantine."""
    known = store.quarantine(source, now=datetime.now(UTC))
    if known is None:
        return ""
    return (
        f"{source} failed {known.failures} times in a row and is left alone until "
        f"{known.until:%Y-%m-%d %H:%M} UTC (the last time: {known.error}); a run that a person starts tries at once"
    )


async def watched(run: Run, reading: Awaitable[Result]) -> Result:
    """A read of the source, whose failure puts it in quarantine and whose success ends that; an event says so.

    What a preview finds does neither: scheduled runs must not be skipped because of what it alone asked for."""
    if not run.lasting:
        return await reading
    try:
        read = await reading
    except CrowdsyncError as error:
        known = await in_thread(run.store.failed, run.source_name, str(error), at=datetime.now(UTC))
        until = f"{known.until:%Y-%m-%d %H:%M} UTC"
        emit("source.quarantined", run.source_name, failures=known.failures, until=until, error=known.error)
        raise
    was = await in_thread(run.store.recovered, run.source_name, at=datetime.now(UTC))
    if was is not None:
        emit("source.recovered", run.source_name, failures=was.failures, since=f"{was.since:%Y-%m-%d %H:%M} UTC")
    return read
