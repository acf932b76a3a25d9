"""News of some people, groups and accounts leads Crowd to where a run about everybody would, on real servers and
without Prefect."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from connectors.contract import Hint
from connectors.settings import load
from deployments.sandbox.organisation import changed, organisation
from flows.react import Part, react
from flows.sync import SyncRequest, sync
from tests.support.organisations import different
from tests.support.place import Place, place, wide

__all__ = ["place", "wide"]

SIZE = {"users": 40, "groups": 6, "memberships": 90}
CHANGES = {"seed": 5, "joiners": 2, "disabled": 2, "renamed": 2, "updated": 3, "moved": 3}


async def everybody() -> str:
    return (await sync.fn(SyncRequest(source="acme"))).status


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
