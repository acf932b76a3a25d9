"""News of some people, groups and accounts leads Crowd to where a run about everybody would, on real servers and
without Prefect."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from connectors.contract import Hint
from connectors.settings import load
from connectors.store import Store
from connectors.store.inbox import Incoming
from deployments.react import Reactor
from deployments.sandbox.organisation import changed, organisation
from flows.react import Part, react
from flows.road import SyncRequest, walk
from tests.support.organisations import different
from tests.support.place import Place, place, wide

__all__ = ["place", "wide"]

SIZE = {"users": 40, "groups": 6, "memberships": 90}
BURST = int(os.environ.get("CROWDSYNC_BURST", "400"))
"""Deliveries of one burst, twenty for each person."""
CHANGES = {"seed": 5, "joiners": 2, "disabled": 2, "renamed": 2, "updated": 3, "moved": 3}


async def everybody() -> str:
    return (await walk(SyncRequest(source="acme"))).status


async def of(*hints: Hint) -> list[Part]:
    async def gather(_: str) -> Sequence[Hint]:
        return hints

    return await react(load(), "acme", gather)


@pytest.fixture
async def in_step(place: Place) -> None:
    place.configure(f"sqlite:///{place.home}/store.db")
    assert await everybody() == "applied"
    assert await everybody() == "nothing to do"


@pytest.mark.usefixtures("in_step")
async def test_of_whom_nothing_changed_nothing_is_written(place: Place) -> None:
    place.crowd.reset_counts()
    people = organisation(**SIZE).people[:5]
    (part,) = await of(*(Hint("user", person.id) for person in people), Hint("user", "nobody"))
    assert (part.status, part.plan) == ("nothing to do", None)
    assert place.crowd.counts()["writes"] == 0
    assert place.idp.counts().get("GET /Users", 0) <= 20


@pytest.mark.usefixtures("in_step")
async def test_whom_a_limit_concerns_is_left_to_a_run_about_everybody_and_the_others_go_on(place: Place) -> None:
    company = organisation(**SIZE)
    place.idp.change(seed=3, disabled=20, joiners=2)
    after = changed(company, seed=3, disabled=20, joiners=2)
    ids = different(company, after)
    place.crowd.reset_counts()
    parts = await of(*(Hint("user", one) for one in sorted(ids)))
    wide = [part for part in parts if part.status == "wide"]
    assert sum(len(part.hints) for part in wide) >= 20, parts
    assert all("judged over everybody" in part.why for part in wide)
    there = {row["name"]: row["active"] for row in place.crowd.state()["users"]}
    joiners = {person.id: person.username for person in after.people if person.id not in {p.id for p in company.people}}
    assert {*joiners.values()} <= there.keys()
    assert sum(not active for active in there.values()) < 20, "the limit holds though they come one by one"
    before = sum(not person.active for person in company.people)
    assert sum(not active for active in there.values()) <= before


@pytest.mark.usefixtures("in_step")
async def test_a_batch_leaves_nothing_to_do_for_everybody(place: Place) -> None:
    company = organisation(**SIZE)
    place.idp.change(**CHANGES)
    ids = different(company, changed(company, **CHANGES))
    (part,) = await of(*(Hint("user", one) for one in sorted(ids)))
    assert part.status == "applied", part
    assert await everybody() == "nothing to do"


async def reacted(store: Store) -> int:
    """Until the inbox is empty: how many runs that took."""
    before, reactor = len(store.runs(1000)), Reactor("crowd", store)
    work = asyncio.create_task(reactor.work())
    async with asyncio.timeout(600):
        while len(store.inbox()):  # noqa: ASYNC110 (nobody in this process tells of it)
            await asyncio.sleep(0.05)
        reactor.end()
        await work
    return len(store.runs(1000)) - before


@pytest.mark.long
async def test_of_a_burst_each_is_read_once_and_what_is_sent_again_is_read_once_more(place: Place) -> None:
    company = SIZE | {"users": BURST // 10, "memberships": BURST // 5}
    place.idp.idp.load(**company)
    place.configure(f"sqlite:///{place.home}/store.db")
    with (place.home / "crowdsync.toml").open("a", encoding="utf-8") as file:
        file.write("[sources.acme.policy.reads]\nby_key_percent = 100\n")
    for status in ("applied", "nothing to do"):
        assert await everybody() == status
    people = [person.id for person in organisation(**company).people][: BURST // 20]

    def sent(key: str, delivery: str) -> Incoming:
        return Incoming("crowd", "acme", (("user", key, "webhook"),), delivery, datetime.now(UTC))

    burst = [sent(people[number % len(people)], f"msg_{number}") for number in range(BURST)]

    def read() -> int:
        return place.idp.counts().get("GET /Users/{id}", 0)

    with Store.open(f"sqlite:///{place.home}/store.db") as store:
        place.idp.reset_counts()
        assert sum(sum(store.accept_all(burst[at : at + 100])) for at in range(0, BURST, 100)) == len(people)
        runs, requests = await reacted(store), place.idp.counts()
        assert read() <= len(people)
        assert runs <= 1 + len(people) // 100
        print(f"{BURST} deliveries about {len(people)} people: {runs} runs, {dict(requests)}")
        # The same deliveries once more: they are known. Others about one person, forged or not: one row, one read.
        assert sum(store.accept_all(burst)) == 0
        assert await reacted(store) == 0
        assert read() == requests["GET /Users/{id}"]
        forged = [sent(people[0], f"again_{number}") for number in range(99)]
        before = read()
        assert sum(store.accept_all(forged)) == 1
        assert await reacted(store) == 1
        assert read() <= before + 1
