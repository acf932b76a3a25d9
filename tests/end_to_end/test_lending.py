"""A run about everybody lends its right to write to batches of news, and nobody is written with older values because of
it: whatever the moment at which a batch comes in, Crowd ends where the source is, and nothing is left to do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.settings import load
from connectors.store import Store
from deployments.react import Reactor
from deployments.sandbox.organisation import Organisation, changed, organisation
from flows.road import SyncRequest, walk
from tasks.write.apply import apply_plan
from tasks.write.lease import next_of, only_writer, turn_of
from tasks.write.lend import let_in
from tests.support.organisations import different
from tests.support.place import Place, place, wide

__all__ = ["place", "wide"]

SIZE = {"users": 40, "groups": 6, "memberships": 90}
LIMITS = """
[sources.acme.policy]
approval = { dangers = [] }
limits = { user_deactivate = {}, membership_remove = {}, group_loss = {}, unusual_times = 1000 }
"""
POINTS = int(os.environ.get("CROWDSYNC_POINTS", "2"))
DEFAULTS: dict[str, Any] = apply_plan.__kwdefaults__ or {}
Moment = Callable[[], Awaitable[None]]


@pytest.fixture
def opened(place: Place) -> Iterator[Store]:
    place.configure(f"sqlite:///{place.home}/store.db")
    with (place.home / "crowdsync.toml").open("a") as file:
        file.write(LIMITS)
    with Store.open(f"sqlite:///{place.home}/store.db", busy=120) as store:
        yield store


async def everybody(**more: Any) -> str:
    report = await walk(SyncRequest(source="acme", **more))
    assert not report.asks, report.asks
    return report.status


def tell(store: Store, people: Iterable[str]) -> None:
    store.accept("crowd", "acme", [("user", one, "webhook") for one in sorted(people)], "", datetime.now(UTC))


async def drained(reactor: Reactor) -> None:
    for _ in range(20):
        if not reactor.store.sources_due("crowd", datetime.now(UTC)):
            return
        await reactor._batch(load(), "acme")
    raise AssertionError(reactor.store.inbox())


class At:
    """Something happens at the so-manieth moment of a run about everybody: before its source is read (0), between the
    source and Crowd (1), when both are read (2), or before a chunk of its plan (3 and above)."""

    def __init__(self, moment: int, then: Moment, waiting: Moment, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed, self.moment, self.then, self.waiting = 0, moment, then, waiting
        read: dict[str, Any] = {"first": walk.__globals__["extract_source"].fn}
        read["second"] = walk.__globals__["extract_directory"].fn
        source_read = asyncio.Event()

        async def of_source(*args: Any) -> Any:
            await self.now()
            reading = await read["first"](*args)
            await self.now()
            source_read.set()
            return reading

        async def of_crowd(*args: Any) -> Any:
            await source_read.wait()
            reading = await read["second"](*args)
            await self.now()
            return reading

        async def before_chunk(run: Any, number: int) -> int:
            self.passed += 1
            if self.passed - 1 == self.moment:
                await self.waiting()
            return await let_in(run, number)

        monkeypatch.setitem(walk.__globals__, "extract_source", of_source)
        monkeypatch.setitem(walk.__globals__, "extract_directory", of_crowd)
        monkeypatch.setattr("tasks.write.apply.let_in", before_chunk)
        monkeypatch.setitem(DEFAULTS, "size", 4)

    async def now(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.moment:
            await self.then()


def accounts(place: Place, company: Organisation, people: Iterable[str]) -> dict[str, Any]:
    """How Crowd has these people, by their names in the source."""
    state = place.crowd.state()
    named = {person.username.lower() for person in company.people if person.id in set(people)}
    users = {row["name"]: row for row in state["users"] if row["name"] in named}
    return {name: (row["active"], row["email"], row["display_name"]) for name, row in users.items()}


async def test_at_whatever_moment_a_batch_comes_in_nobody_is_as_they_were_before(
    place: Place, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = organisation(**SIZE)
    assert [await everybody() for _ in range(2)] == ["applied", "nothing to do"]
    reactor, undone = Reactor("crowd", opened), 0
    try:
        for moment in range(POINTS):
            moment = moment if POINTS > 2 else (2, 4)[moment]
            first = {"seed": 10 * moment + 1, "disabled": 2, "renamed": 2, "updated": 4, "moved": 3, "joiners": 2}
            place.idp.change(**first)
            middle = changed(company, **first)
            second = {**first, "seed": 10 * moment + 2}
            after = changed(middle, **second)
            people = different(company, middle) | different(middle, after)
            batch: list[asyncio.Task[None]] = []

            async def comes_in(second: dict[str, Any] = second, people: set[str] = people) -> None:
                place.idp.change(**second)
                tell(opened, people)
                await reactor._batch(load(), "acme")

            async def waits(
                second: dict[str, Any] = second, people: set[str] = people, batch: list[Any] = batch
            ) -> None:
                place.idp.change(**second)
                tell(opened, people)
                batch.append(asyncio.create_task(reactor._batch(load(), "acme")))
                while not opened.lease(next_of("crowd")):  # noqa: ASYNC110 (the store wakes nobody)
                    await asyncio.sleep(0.02)

            with monkeypatch.context() as patched:
                at = At(moment, comes_in, waits, patched)
                assert await everybody(full=True) in ("applied", "nothing to do")
                await asyncio.gather(*batch)
            if at.passed <= moment:
                await comes_in()
            done = set(opened.inbox(done_since=datetime(2026, 1, 1, tzinfo=UTC))["key"])
            now = accounts(place, after, done & people)
            plans = opened.plans(20)
            undone += int(plans["undone"].sum())
            await drained(reactor)
            if len(left := opened.inbox()):  # (who is too much for a few, such as more people than may be read so)
                print(moment, left["note"].unique())
                assert left["note"].str.contains("everybody is read").all()
                await everybody(full=True)
            place.crowd.reset_counts()
            assert await everybody(full=True) == "nothing to do", moment
            assert place.crowd.counts()["writes"] == 0
            assert now == accounts(place, after, done & people), moment
            company = after
        assert undone, "something of a plan was left to a batch"
        assert opened.unfinished_plans("crowd") == []
    finally:
        for *_, stack in reactor.opened.values():
            await stack.aclose()


async def test_whoever_waits_is_next_and_batches_without_end_keep_nobody_out(tmp_path: Any) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        order: list[str] = []
        ended = asyncio.Event()

        async def batches(name: str) -> None:
            while not ended.is_set():
                async with only_writer(store, "crowd", name, batch=True):
                    order.append("batch")
                    await asyncio.sleep(0.5)

        async def long_run() -> None:
            async with only_writer(store, "crowd", "wide") as writing:
                for _ in range(3):
                    order.append("wide")
                    while not await writing.wanted():  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    async with writing.lend():
                        pass
                    writing.raise_if_lost()

        beside = asyncio.create_task(batches("one"))
        await asyncio.wait_for(long_run(), 120)
        ended.set()
        await beside
        told = "".join("w" if one == "wide" else "b" for one in order)
        assert "wbwbw" in told, f"one batch in each pause, and no more: {told}"


async def test_while_it_is_lent_only_batches_come_in(tmp_path: Any) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        async with only_writer(store, "crowd", "wide") as writing, writing.lend():
            assert store.lease("crowd") is None
            assert (turn := store.lease(turn_of("crowd"))) is not None
            assert turn.holder == "wide"
            with pytest.raises(Exception, match=r"run wide .*this one is skipped"):
                async with only_writer(store, "crowd", "other", busy="skip"):
                    raise AssertionError("two at once")
            with pytest.raises(Exception, match="is lent just now"):
                writing.raise_if_lost()
            async with only_writer(store, "crowd", "batch", batch=True) as other:
                other.raise_if_lost()
        assert store.lease("crowd") is None
        assert store.lease(turn_of("crowd")) is None
        assert store.take_lease("crowd", "x", seconds=1) is not None


async def test_who_lost_the_turn_does_not_go_on(tmp_path: Any) -> None:
    with Store.open(f"sqlite:///{tmp_path}/store.db") as store:
        with pytest.raises(Exception, match="is lost by 'wide'"):  # noqa: PT012
            async with only_writer(store, "crowd", "wide") as writing, writing.lend():
                later = datetime.now(UTC) + timedelta(hours=1)
                assert store.take_lease(turn_of("crowd"), "another", seconds=60, now=later) is not None
        assert store.lease("crowd") is None, "and keeps nobody out"


class KilledError(BaseException):
    """The process of a run is gone."""


@pytest.mark.long
async def test_a_run_that_is_killed_while_it_lends_loses_nothing(
    place: Place, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    company = organisation(**SIZE)
    assert [await everybody() for _ in range(2)] == ["applied", "nothing to do"]
    first = {"seed": 1, "disabled": 3, "renamed": 2, "updated": 4, "moved": 3, "joiners": 2}
    second = {**first, "seed": 2}
    place.idp.change(**first)
    middle = changed(company, **first)
    people = different(company, middle) | different(middle, changed(middle, **second))

    async def killed(run: Any, number: int) -> int:
        if set(run.store.operations(number)["state"]) == {"planned"}:
            return 0
        async with run.writing.lend():
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("tasks.write.apply.let_in", killed)
        patched.setattr("tasks.write.lease.Writing.give_back", lambda _: None)
        patched.setitem(DEFAULTS, "size", 4)
        with pytest.raises(KilledError):
            await everybody(full=True)
    (plan,) = opened.unfinished_plans("crowd")
    assert opened.lending_plan("crowd", turn_of("crowd")) == plan
    place.idp.change(**second)
    tell(opened, people)
    reactor = Reactor("crowd", opened)
    try:
        await reactor._batch(load(), "acme")
        assert opened.unfinished_plans("crowd") == [plan], "nobody knows yet that it is gone"
        lease = opened.take_lease(turn_of("crowd"), "clock", seconds=1, now=datetime.now(UTC) + timedelta(hours=1))
        assert lease is not None
        opened.release_lease(lease)
        await drained(reactor)
    finally:
        for *_, stack in reactor.opened.values():
            await stack.aclose()
    assert await everybody(full=True) in ("applied", "nothing to do")
    assert opened.load_plan(plan).status == "superseded"
    place.crowd.reset_counts()
    assert await everybody(full=True) == "nothing to do"
    assert place.crowd.counts()["writes"] == 0
