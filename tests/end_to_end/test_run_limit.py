"""A run has an end: what never comes to one by itself is stopped, and the next run goes on where it stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Outcome, Page, Scope
from connectors.errors import RefusedError
from connectors.model import UserRow
from connectors.operations import Operation
from connectors.settings import load
from connectors.store import Store
from tasks.policy import policy_of
from tasks.run import begin, limited
from tests import road
from tests.support.place import Place, place

__all__ = ["place"]  # (the fixture)

STOPPED = r"the run took longer than 0\.\d+ hours and was stopped; .* sources\.acme\.run_hours"


def settings_for(place: Place, store: str, seconds: float) -> Any:
    place.configure(store)
    file = place.home / "crowdsync.toml"
    file.write_text(f"{file.read_text()}run_hours = {seconds / 3600:.6f}\n", encoding="utf-8")
    return load()


def last_run(store: str) -> Any:
    with Store.open(store) as opened:
        return opened.runs().iloc[0]


class Endless:
    """A source whose list always has one page more."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def users(self, scope: Scope) -> AsyncIterator[Page[UserRow]]:
        number = 0
        while True:
            number += 1
            await asyncio.sleep(0.01)
            yield Page([(f"i{number}", f"u{number}", "", "", "", "", True, "{}")], last=False)


async def test_a_list_without_an_end_ends_the_run(place: Place, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    settings = settings_for(place, store, 1)

    async def endless() -> None:
        async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
            run.source = Endless(run.source)  # type: ignore[assignment]
            await road.walk(run)

    with pytest.raises(RefusedError, match=STOPPED):
        await endless()
    assert last_run(store)["status"] == "failed"
    with Store.open(store) as opened:
        assert opened.lease("crowd") is None, "the right to write was given back"
        assert opened.take_lease("crowd", "other", now=datetime.now(UTC), seconds=1) is not None


async def test_writing_that_is_cut_off_is_taken_up_by_the_next_run(place: Place, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/store.db"
    settings = settings_for(place, store, 3600)

    class Hangs:
        """Crowd, whose thirtieth write is carried out and never answered."""

        def __init__(self, directory: Any) -> None:
            self._directory, self.count = directory, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._directory, name)

        async def write(self, operation: Operation, *, attempted: bool = False) -> Outcome:
            self.count += 1
            hangs = self.count == 30
            outcome: Outcome = await self._directory.write(operation, attempted=attempted)
            if hangs:
                await asyncio.sleep(3600)
            return outcome

    async def cut_off() -> None:
        async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
            made = await road.walk(run, mode="preview")
            assert made.number == 1
            run.directory = Hangs(run.directory)
            async with limited("acme", 3 / 3600):
                await road.apply(run, made.plan, 1)

    place.crowd.reset_counts()
    with pytest.raises(RefusedError, match=STOPPED):
        await cut_off()
    with Store.open(store) as opened:
        journal = opened.operations(1)
    first = place.crowd.counts()["writes"]
    states = journal["state"].value_counts()
    assert {"done", "intended"} <= set(states.index)
    assert states["done"] >= 29
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        walked = await road.walk(run)
    assert walked.settled == [1]
    assert set(walked.journal["state"]) == {"done"}
    assert place.crowd.counts()["writes"] - first == len(walked.journal), "nothing twice"
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        assert (await road.walk(run)).plan.operations.empty
