"""While a plan waits for a person, news of others goes on; what they are asked about, or turned down, does not; and
their word holds though the company did not stand still. On real servers, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from connectors.contract import Hint
from connectors.errors import RefusedError
from connectors.settings import load
from connectors.store import Store
from deployments.sandbox.organisation import Organisation, changed, organisation
from flows.react import Part, react
from flows.road import SyncRequest, walk
from tasks.tell.report import Report, ReportedError
from tests.support.organisations import different
from tests.support.place import Place, active, place, say, wide

__all__ = ["place", "wide"]


@dataclass(slots=True)
class Company:
    """The people of the source, and what became of them in Crowd."""

    place: Place
    org: Organisation
    seed: int = 0

    def change(self, **amounts: int) -> list[str]:
        """Who was changed (ids)."""
        self.seed += 1
        self.place.idp.change(seed=self.seed, **amounts)
        before, self.org = self.org, changed(self.org, seed=self.seed, **amounts)
        return sorted(different(before, self.org))

    def add(self, settings: str) -> None:
        """More of the configuration."""
        file = self.place.home / "crowdsync.toml"
        file.write_text(file.read_text() + settings, encoding="utf-8")

    def pairs(self, ids: Sequence[str]) -> list[Any]:
        """Their memberships in Crowd."""
        names = {person.username for person in self.org.people if person.id in ids}
        return [pair for pair in self.place.crowd.state()["memberships"] if pair[0] in names]

    def active(self, ids: Sequence[str]) -> list[bool]:
        """Whether their accounts are, one after another."""
        names = {person.id: person.username for person in self.org.people}
        return [active(self.place.crowd, names[one]) for one in ids]


@pytest.fixture
async def company(place: Place) -> Company:
    place.configure(f"sqlite:///{place.home}/store.db")
    assert [await everybody() for _ in range(2)] == ["applied", "nothing to do"]
    return Company(place, organisation(users=40, groups=6, memberships=90))


async def everybody() -> str:
    return (await walk(SyncRequest(source="acme"))).status


async def of(*ids: str) -> list[Part]:
    async def gather(_: str) -> Sequence[Hint]:
        return [Hint("user", one) for one in ids]

    return await react(load(), "acme", gather)


def asked() -> int:
    """The plan that waits."""
    with Store.open(load().store_url()) as store:
        found = store.asked_plan("acme", "crowd")
    assert found is not None
    return found.id


def decided() -> list[dict[Any, Any]]:
    """The decisions, newest first."""
    with Store.open(load().store_url()) as store:
        return store.decisions().to_dict("records")


def status_of(number: int) -> str:
    with Store.open(load().store_url()) as store:
        return store.load_plan(number).status


async def apply(number: int) -> Report:
    return await walk(SyncRequest(source="acme", plan=number))


async def test_news_of_others_goes_on_while_a_plan_waits_and_what_is_asked_does_not(company: Company) -> None:
    asked_about = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    others = [*company.change(disabled=1), *company.change(updated=1, joiners=1)]
    (part,) = await of(*others)
    assert part.status == "applied", part
    assert company.active(others)[0] is False, "who leaves meanwhile is out"
    assert company.active(others)[1:] == [True, True], "who comes is in"
    assert all(company.active(asked_about))

    # One of those, together with somebody else of whom nothing is asked.
    other = next(one for one in company.change(updated=9) if one not in asked_about)
    parts = {part.hints[0].key: part for part in await of(asked_about[0], other)}
    assert parts[other].status == "applied"
    left = parts[asked_about[0]]
    assert (left.status, left.why) == ("wide", f"a person is asked about it: plan {number} waits for agreement")
    assert all(company.active(asked_about)), "nobody answered"
    assert status_of(number) == "waiting"


async def test_agreement_holds_though_others_changed_meanwhile(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    await of(*company.change(disabled=1, updated=2))  # (by news)
    company.change(updated=2, joiners=1)  # (not told yet)
    say("approve", str(number), "--by", "Ada", "--reason", "checked with HR")
    report = await apply(number)
    assert report.status == "applied"
    assert report.plan not in (None, number)
    assert not any(company.active(leavers))
    assert any("Ada: checked with HR" in text for text in report.agreed)
    assert status_of(number) == "superseded"
    newest, first = decided()
    assert (newest["plan_id"], first["plan_id"]) == (report.plan, number)
    assert newest["reason"] == f"checked with HR (said of plan {number}, which asked all that this one asks)"
    assert (newest["actor"], newest["expires_at"]) == ("Ada", first["expires_at"])
    assert await everybody() == "nothing to do"


async def test_the_next_run_of_all_takes_an_agreement_up_that_was_given_before(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    say("approve", str(asked()), "--by", "Ada", "--reason", "checked with HR")
    company.change(updated=1)
    assert await everybody() == "applied"
    assert not any(company.active(leavers))


async def test_a_question_that_still_covers_everything_stands(company: Company) -> None:
    company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    company.change(updated=2)
    company.change(enabled=1)
    report = await walk(SyncRequest(source="acme"))
    assert (report.status, report.plan, asked()) == ("waiting", None, number), "nobody is asked a second time"
    assert report.why.startswith(f"plan {number} waits for agreement since ")
    company.change(disabled=2)
    assert await everybody() == "waiting"
    assert asked() > number, "one more than was asked about"
    assert status_of(number) == "superseded"


async def test_agreement_to_some_is_none_to_one_more(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("approve", str(number), "--by", "Ada", "--reason", "checked with HR")
    more = company.change(disabled=1)
    with pytest.raises(ReportedError, match=f"plan {number} is no longer true"):
        await apply(number)
    assert all(company.active([*leavers, *more]))
    assert await everybody() == "waiting"
    assert len(decided()) == 1, "nobody said anything of the plan with one more"


async def test_agreement_holds_for_fewer(company: Company) -> None:
    company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("approve", str(number), "--by", "Ada", "--reason", "checked with HR")
    back = company.change(enabled=1)
    report = await apply(number)
    assert (report.status, report.planned) == ("applied", {"user_deactivate": 8 - len(back)})


async def test_what_a_person_turned_down_is_not_done_by_news(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("reject", str(number), "--by", "Ada", "--reason", "the source is wrong")
    (part,) = await of(leavers[0])
    assert (part.status, part.why) == ("wide", f"a person turned it down in plan {number}")
    assert all(company.active(leavers))
    with pytest.raises(RefusedError, match="rejected already"):
        await apply(number)


async def test_what_nobody_may_agree_to_is_done_by_no_news_either(company: Company) -> None:
    company.add('[sources.acme.policy.approval]\nwhen = "never"\n')
    assert await everybody() == "nothing to do"
    leavers = company.change(disabled=8)
    with pytest.raises(ReportedError, match=r"limits\.user_deactivate"):
        await everybody()
    other = next(one for one in company.change(updated=9) if one not in leavers)
    parts = {part.hints[0].key: part for part in await of(leavers[0], other)}
    assert parts[other].status == "applied"
    assert "was refused" in parts[leavers[0]].why
    assert all(company.active(leavers))


async def test_agreement_under_one_policy_is_none_under_another(company: Company) -> None:
    company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("approve", str(number), "--by", "Ada", "--reason", "checked with HR")
    company.add("[sources.acme.policy.limits]\nheld_runs = 4\n")
    with pytest.raises(ReportedError, match=f"plan {number} is no longer true"):
        await apply(number)


async def test_force_goes_past_the_limits_with_the_plan_that_was_seen_alone(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("approve", str(number), "--by", "Ada", "--reason", "checked with HR")
    leavers += company.change(disabled=1)
    with pytest.raises(ReportedError, match=f"plan {number} is no longer true"):
        await walk(SyncRequest(source="acme", plan=number, force=True))
    assert all(company.active(leavers))


async def test_what_a_person_left_out_is_not_done_where_nothing_is_asked_any_more(company: Company) -> None:
    leavers = company.change(disabled=8)
    assert await everybody() == "waiting"
    number = asked()
    say("approve", str(number), "--by", "Ada", "--reason", "not these", "--without", "user_deactivate")
    company.change(enabled=7)
    before = company.active(leavers)
    with pytest.raises(ReportedError, match=f"plan {number} is no longer true"):
        await apply(number)
    assert company.active(leavers) == before


NO_REMOVALS = (
    "[sources.acme.policy.limits]\nmembership_remove = {absolute = 0}\nuser_deactivate = {absolute = 30}\n"
    '[sources.acme.policy.leavers]\ndisabled = "deactivate_and_take_groups"\n'
)


async def test_who_leaves_is_out_at_once_though_a_person_is_asked_what_groups_they_lose(company: Company) -> None:
    company.add(NO_REMOVALS.replace("0", "6", 1))
    assert await everybody() == "nothing to do"
    moved = company.change(moved=20)
    assert await everybody() == "waiting"
    number = asked()
    left = company.change(disabled=12)
    both = [one for one in left if one in moved]
    assert both, "somebody of whom a person is asked"
    pairs = company.pairs(both)
    (part,) = await of(both[0])
    asks = f"a person is asked about it: plan {number} waits for agreement"
    assert (part.status, part.planned) == ("wide", {"user_deactivate": 1})
    assert part.why == f"{asks}; what else there is to do is done (plan {part.plan})"
    parts = {hint.key: part for part in await of(*both, *moved) for hint in part.hints}
    assert not any(company.active(both))
    assert company.pairs(both) == pairs
    assert {parts[one].planned.get("user_deactivate") for one in both} == {None, len(both) - 1}
    assert {parts[one].status for one in moved} == {"wide", "applied"}, "some are put into their first group"
    assert status_of(number) == "waiting"


async def test_who_leaves_is_out_at_once_though_they_lose_more_than_nobody_is_asked_about(company: Company) -> None:
    company.add(NO_REMOVALS)
    assert await everybody() == "nothing to do"
    left = company.change(disabled=3)
    parts = await of(*left)
    assert not any(company.active(left))
    (part,) = parts
    assert (part.status, part.planned) == ("wide", {"user_deactivate": 3}), "at once, though they are several"
    assert "limits.membership_remove (0) allows" in part.why
    assert await everybody() == "waiting", "what they lose besides, a person is asked"


async def test_what_is_asked_of_somebody_is_not_done_under_another_name_either(company: Company) -> None:
    company.add("[sources.acme.policy.limits]\nmembership_add = {absolute = 8}\nuser_rename = {absolute = 30}\n")
    assert await everybody() == "nothing to do"
    moved = company.change(moved=20)
    assert await everybody() == "waiting"
    before = {one["name"] for one in company.place.crowd.state()["users"]}
    both = sorted({*company.change(renamed=12)} & {*moved})
    assert both, "somebody of whom a person is asked"
    parts = [part for part in await of(*both) if part.status == "wide"]
    assert {tuple(part.planned) for part in parts} == {("user_rename", "user_update")}
    those = {hint.key for part in parts for hint in part.hints}
    named = {person.username for person in company.org.people if person.id in those}
    assert named.isdisjoint(before)
    assert named <= {one["name"] for one in company.place.crowd.state()["users"]}, "they have their new names"
    pairs = company.pairs(both)
    parts = await of(*those)
    assert {(part.status, part.plan) for part in parts} == {("wide", None)}
    assert company.pairs(both) == pairs
