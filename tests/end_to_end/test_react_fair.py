"""The process that reacts keeps nobody waiting for good: not who failed before, not those beside a poisoned hint, not a
source beside a busy one; what waits for agreement is done when somebody agreed; and limits hold over time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connectors.settings import load
from connectors.store import Store
from deployments.react import EVERY, LARGEST, Reactor
from deployments.sandbox.organisation import changed, organisation
from flows.road import SyncRequest, walk
from tests.support.organisations import different
from tests.support.place import Place, place, say, wide

__all__ = ["place", "wide"]

AT = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/inbox.db") as opened:
        yield opened


def accepted(store: Store, *keys: str, source: str = "acme", at: datetime = AT) -> None:
    store.accept("crowd", source, [("user", key, "webhook") for key in keys], "", at)


def failed(store: Store, times: int) -> None:
    """All that is due is tried so often, and fails; then it is due again."""
    for _ in range(times):
        ids = [one.id for one in store.due("crowd", datetime.now(UTC))]
        store.take(ids, "a run", AT)
        store.give_back(ids, "it failed", AT)


async def test_who_failed_is_tried_however_many_come_anew_and_alone_at_last(store: Store) -> None:
    reactor = Reactor("crowd", store)
    accepted(store, "poisoned", "beside")
    failed(store, 3)
    seen = set[str]()
    for number in range(3 * EVERY):
        accepted(store, *(f"new-{number}-{one}" for one in range(3)))
        due = await reactor._due("acme")
        failing = [one.key for one in due if one.attempts]
        assert not failing or len(due) == 1, "alone"
        seen |= {*failing}
        store.take([one.id for one in due], "a run", datetime.now(UTC))
        if failing:
            store.give_back([one.id for one in due], "again", datetime.now(UTC))
        else:
            store.settle([one.id for one in due], "done", "", datetime.now(UTC))
    assert seen == {"poisoned", "beside"}


async def test_who_fails_takes_ever_fewer_along_and_never_who_has_just_come(store: Store) -> None:
    reactor = Reactor("crowd", store)
    accepted(store, *(f"one-{number}" for number in range(LARGEST)))
    assert len(await reactor._due("acme")) == LARGEST
    sizes = []
    for times in (1, 2, 3):
        failed(store, 1)
        accepted(store, f"new-{times}")
        for _ in range(EVERY):
            due = await reactor._due("acme")
            if due[0].attempts:
                assert {one.attempts for one in due} == {times}
                sizes.append(len(due))
                break
            assert [one.key for one in due] == [f"new-{times}"]
        store.settle([one.id for one in store.due("crowd", AT, attempts=(0, 0))], "done", "", AT)
    assert sizes == [60, 8, 1]


async def test_a_busy_source_hides_no_other(store: Store) -> None:
    accepted(store, *(f"one-{number}" for number in range(1200)))
    accepted(store, "other", source="hooli")
    assert store.sources_due("crowd", datetime.now(UTC)) == ["acme", "hooli"]
    assert [one.key for one in await Reactor("crowd", store)._due("hooli")] == ["other"]


def test_what_came_before_everybody_was_read_is_done_but_for_who_is_held(store: Store) -> None:
    accepted(store, "before", "held")
    accepted(store, "after", at=AT + timedelta(minutes=2))
    accepted(store, "other", source="hooli")
    store.settle([one.id for one in store.due("crowd", AT) if one.key == "before"], "held", "waits", AT)
    assert store.settle_before("crowd", "acme", AT + timedelta(minutes=1), "read", AT, but={"held"}) == 1
    assert sorted(store.inbox()["key"]) == ["after", "held", "other"]
    assert store.settle_before("crowd", "acme", AT + timedelta(minutes=1), "read", AT, but={"held"}) == 0


@pytest.mark.long
async def test_many_leavers_one_by_one_stop_at_the_limit_and_settle_when_somebody_agreed(place: Place) -> None:
    place.configure(f"sqlite:///{place.home}/store.db")
    company = organisation(users=40, groups=6, memberships=90)
    for status in ("applied", "nothing to do"):
        assert (await walk(SyncRequest(source="acme"))).status == status
    leavers = {"seed": 3, "disabled": 20}
    place.idp.change(**leavers)
    before = sum(row["active"] for row in place.crowd.state()["users"])

    def active() -> int:
        return sum(row["active"] for row in place.crowd.state()["users"])

    with Store.open(load().store_url()) as store:
        reactor = Reactor("crowd", store)
        try:
            for number, one in enumerate(sorted(different(company, changed(company, **leavers)))):
                # (Half of them a while ago, also where this takes no longer than clocks may be apart.)
                accepted(store, one, at=datetime.now(UTC) - timedelta(seconds=20 if number < 10 else 0))
                await reactor._batch(load(), "acme")
            stopped = active()
            assert 0 < before - stopped <= 4, "a tenth of them, and then no more, though they come one by one"
            reactor._begin_wide()
            assert reactor.running is not None
            await reactor.running
            assert active() == stopped, "what is over the limit is left whole"
            rows = store.inbox()
            assert set(rows["status"]) == {"held"}
            assert rows["note"].str.contains("needs agreement").all(), list(rows["note"])
            waiting = store.asked_plan("acme", "crowd")
            assert waiting is not None
            assert waiting.status == "waiting"
            assert store.operations(waiting.id)["kind"].value_counts()["user_deactivate"] == 20 - (before - stopped)
            say("approve", str(waiting.id), "--by", "Ada", "--reason", "they left")
            await asyncio.sleep(0)
            report = await walk(SyncRequest(source="acme", plan=waiting.id))
            assert report.status == "applied"
            assert active() == before - 20
            last = store.in_step("crowd", "acme")
            assert last is not None
            reactor.settled_at = None
            await reactor._settle_read(load())
            left = store.inbox()
            assert len(left) < len(rows), "those who came a while before it read are done"
            assert set(left["received_at"] >= last.since.full_at - timedelta(seconds=5)) <= {True}
        finally:
            for *_, stack in reactor.opened.values():
                await stack.aclose()
