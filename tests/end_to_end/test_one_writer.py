"""One writer per directory: many runs at once, a run that loses its right, a source that is left alone."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connectors.contract import Outcome
from connectors.errors import RefusedError
from connectors.operations import Operation
from connectors.settings import load
from connectors.store import Store
from tasks.policy import policy_of
from tasks.read.quarantine import watched
from tasks.run import SkippedError, begin
from tasks.write.lease import BusyError, only_writer
from tests import road
from tests.support.place import RUNS, Place, place

__all__ = ["place"]  # (the fixture)


@pytest.mark.parametrize(
    ("url", "busy", "count"),
    [
        ("sqlite", "wait", 3),
        pytest.param("postgresql", "skip", RUNS, marks=[pytest.mark.postgres, pytest.mark.long]),
    ],
    indirect=["url"],
)
def test_of_many_runs_at_once_one_writes(place: Place, url: str, busy: str, count: int) -> None:
    place.configure(url, f'busy = "{busy}"')
    place.crowd.reset_counts()
    said = place.at_once(count)
    wrote = [int(line.split()[1]) for line in said if line.startswith("operations")]
    skipped = [line for line in said if line.startswith("skipped")]
    assert len(wrote) + len(skipped) == count
    assert len([count for count in wrote if count]) == 1, said
    assert place.crowd.counts()["writes"] == max(wrote), "nothing was written twice"
    if busy == "wait":
        assert not skipped
    else:
        assert skipped
        assert all("writes to crowd, one run at a time: this one is skipped" in line for line in skipped)
    settings = load()
    with Store.open(settings.store_url()) as opened:
        runs = opened.runs(count)
        assert opened.verify_audit() is None
    assert (runs["status"] == "skipped").sum() == len(skipped)


async def test_a_run_that_lost_its_right_writes_nothing_further(place: Place, url: str) -> None:
    """Its lease runs out unseen (its machine slept), another run takes it, and it wakes in the middle of its plan."""
    place.configure(url)
    settings = load()
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        made = await road.walk(run, mode="preview")
        assert run.writing is not None
        assert made.number is not None
        place.crowd.reset_counts()
        later = datetime.now(UTC) + timedelta(hours=1)
        other = run.store.take_lease("crowd", "another run", now=later, seconds=60)
        assert other is not None
        with pytest.raises(RefusedError, match="another run"):
            await road.apply(run, made.plan, made.number)
        assert place.crowd.counts()["writes"] == 0
        assert set(run.store.operations(made.number)["state"]) == {"planned"}
        assert run.store.lease("crowd") == other, "and it does not give away what is another's"


async def test_by_its_own_clock_it_stops_between_two_calls(place: Place, url: str) -> None:
    place.configure(url)
    settings = load()
    async with begin(settings, "acme", policy_of(settings, "acme"), "sync") as run:
        run.finished = True
        made = await road.walk(run, mode="preview")
        assert run.writing is not None
        assert made.number is not None
        place.crowd.reset_counts()
        writing, write, sent = run.writing, run.directory.write, 0

        async def slow(operation: Operation, *, attempted: bool = False) -> Outcome:
            nonlocal sent
            sent += 1
            if sent == 5:
                writing.good_until = time.monotonic() - 1
            return await write(operation, attempted=attempted)

        run.directory.write = slow  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="ran out before it could be renewed"):
            await road.apply(run, made.plan, made.number)
        assert 5 <= sent <= 5 + run.concurrency
        states = run.store.operations(made.number)["state"].value_counts()
        assert states["done"] == sent, "what did happen is written down"


async def test_twenty_in_one_process_are_alone_one_after_the_other(tmp_path: Path, url: str) -> None:
    inside, order = 0, []

    async def one(number: int, opened: Store) -> None:
        nonlocal inside
        async with only_writer(opened, "crowd", f"run {number}", seconds=2):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.01)
            order.append(number)
            inside -= 1

    with Store.open(url) as opened:
        await asyncio.gather(*(one(number, opened) for number in range(RUNS)))
        assert sorted(order) == list(range(RUNS))
        async with only_writer(opened, "crowd", "first"):
            with pytest.raises(BusyError, match=r"run first .*this one is skipped"):
                async with only_writer(opened, "crowd", "second", busy="skip"):
                    raise AssertionError("two at once")
            with pytest.raises(BusyError, match="this one waited 0 minutes"):
                async with only_writer(opened, "crowd", "third", patience=0.1):
                    raise AssertionError("two at once")
            async with only_writer(opened, "another", "second", busy="skip"):
                pass


async def test_a_lease_is_renewed_while_the_run_lives(url: str) -> None:
    with Store.open(url) as opened:
        async with only_writer(opened, "crowd", "long", seconds=0.5) as writing:
            for _ in range(8):
                await asyncio.sleep(0.2)
                writing.raise_if_lost()
                assert opened.take_lease("crowd", "other", now=datetime.now(UTC), seconds=60) is None
        assert opened.lease("crowd") is None
        assert opened.take_lease("crowd", "other", now=datetime.now(UTC), seconds=60) is not None


async def test_a_failing_source_is_left_alone_and_its_recovery_is_known(place: Place, url: str) -> None:
    place.configure(url)
    settings = load()
    policy = policy_of(settings, "acme")

    async def broken() -> None:
        raise RefusedError("acme says 500")

    for failures in (1, 2):
        for mode in ("preview", "sync"):  # (a preview leaves it as it is)
            with pytest.raises(RefusedError, match="acme says 500"):
                async with begin(settings, "acme", policy, mode) as run:
                    await watched(run, broken())
        with pytest.raises(SkippedError, match=f"acme failed {failures} times in a row .* acme says 500"):
            async with begin(settings, "acme", policy, "sync", unattended=True):
                raise AssertionError("it ran")
    async with begin(settings, "acme", policy, "preview") as run:
        await watched(run, asyncio.sleep(0))
        run.finished = True
    with pytest.raises(SkippedError, match="acme failed 2 times"):
        async with begin(settings, "acme", policy, "sync", unattended=True):
            raise AssertionError("it ran")
    async with begin(settings, "acme", policy, "sync") as run:  # a person tries at once
        await watched(run, asyncio.sleep(0))
        run.finished = True
    async with begin(settings, "acme", policy, "sync", unattended=True) as run:
        run.finished = True
    with Store.open(settings.store_url()) as opened:
        events = opened.audit_log()["event"]
        assert list(events[events.str.startswith("source ")]) == [
            "source recovered",
            "source quarantined",
            "source quarantined",
        ]
