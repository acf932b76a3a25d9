"""What happens at a provider reaches Crowd by polling its events: real requests to each emulated provider, through the
inbox and a batch, into the emulated Crowd. Nothing is lost or told twice, and where events were lost everybody is
read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import Polls
from connectors.errors import ConfigurationError, ForbiddenError
from connectors.idp import SOURCES
from connectors.settings import Settings, load
from connectors.store import Store
from deployments.polling import Events, again_and_again, failures, ways
from deployments.react import Reactor
from deployments.sandbox import crowd as sandbox_crowd
from deployments.sandbox import google, idcs, okta, onelogin
from deployments.sandbox import idp as sandbox_idp
from deployments.sandbox.organisation import changed, organisation
from deployments.sandbox.provider import toml
from flows.road import SyncRequest, walk
from tasks.read.connections import open_source
from tests.support.long import long_after
from tests.support.place import say

SIZE: dict[str, Any] = {"users": 30, "groups": 5, "memberships": 60}
CHANGES: dict[str, Any] = {"seed": 5, "joiners": 1, "disabled": 1, "renamed": 1, "updated": 1, "moved": 1}
POLICY = """
[sources.acme.policy.limits]
user_deactivate = {percent = 50}
membership_remove = {percent = 50}
[[sources.acme.policy.usernames.rules]]
pattern = '@acme\\.example$'
replacement = ""
"""
OPTIONS: dict[str, dict[str, Any]] = {"google": {"scopes": (*google.SCOPES, google.REPORTS)}}
OPTIONS["okta"] = {"scopes": ("okta.users.read", "okta.groups.read", "okta.logs.read")}
IDS: dict[str, Callable[[str], Any]] = {"onelogin": onelogin.user_id, "google": google.user_id, "idcs": idcs.user_id}
IDS |= {"okta": okta.user_id}
MORE = ("idcs", "okta") if os.environ.get("CROWDSYNC_KINDS") == "all" else ()
"""Whose whole road takes too long for every day; what they tell is looked at all the same."""


@dataclass(frozen=True)
class Place:
    idp: sandbox_idp.RunningIdp
    crowd: sandbox_crowd.RunningCrowd
    store: Store
    settings: Settings

    def asks(self) -> Events:
        return Events("acme", self.settings.source("acme"), self.store, "crowd", "events:crowd:acme")

    def open(self) -> list[tuple[str, str]]:
        """What waits in the inbox: what of, and how it came; sorted."""
        rows = self.store.inbox(limit=1000)
        return sorted(rows[["kind", "via"]].itertuples(index=False, name=None))

    def active(self) -> dict[str, bool]:
        return {row["name"]: row["active"] for row in self.crowd.state()["users"]}


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    monkeypatch.setenv("CROWDSYNC_CROWD_PASSWORD", "pw")
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with ExitStack() as stack:

        def made(kind: str, **options: Any) -> Place:
            given = OPTIONS.get(kind, {}) | options
            idp = stack.enter_context(sandbox_idp.running(kind, **SIZE, options=given))
            crowd = stack.enter_context(sandbox_crowd.running(applications={"crowdsync": "pw"}))
            for name, value in idp.secrets.items():
                monkeypatch.setenv(SOURCES[kind].settings.model_fields[f"{name}_env"].default, value)
            url = f"sqlite:///{tmp_path}/s.db"
            (tmp_path / "crowdsync.toml").write_text(
                f'[store]\nurl = "{url}"\n[directory]\nurl = "{crowd.url}"\napplication = "crowdsync"\n'
                f"[sources.acme]\n{toml(idp.settings)}[sources.acme.polling]\nseconds = 2\n{POLICY}",
                encoding="utf-8",
            )
            return Place(idp, crowd, stack.enter_context(Store.open(url)), load())

        yield made


async def in_step() -> None:
    assert (await walk(SyncRequest(source="acme"))).status == "applied"


@pytest.mark.parametrize("kind", long_after(1, ["keycloak", "onelogin", "google", *MORE]))
async def test_what_happens_reaches_crowd(kind: str, make: Callable[..., Place]) -> None:
    place = make(kind)
    await in_step()
    asks, reactor = place.asks(), Reactor("crowd", place.store)
    await asks.once()
    assert place.open() == [("everybody", "poll")], "nobody asked before"
    await until_settled(reactor, place)
    await asks.once()
    assert place.open() == []

    company, changes = organisation(**SIZE), CHANGES | {"leavers": int(kind != "idcs")}  # (it forgets who is deleted)
    after = changed(company, **changes)
    gone = {one.id for one in company.people} - {one.id for one in after.people}
    place.idp.change(**changes)
    person = next(one for one in after.people if one.active and one in company.people)
    place.idp.sign_in(person.id)
    before = place.active()
    await asks.once()
    opened = place.open()
    assert {via for _, via in opened} == {"poll", "sign-in"}, opened
    assert len([one for one in opened if one == ("user", "poll")]) >= 4, opened
    assert not [one for one in opened if one[0] == "everybody"], opened
    keys = dict(place.store.inbox(limit=100)[["via", "key"]].itertuples(index=False, name=None))
    assert keys["sign-in"] == str(IDS.get(kind, str)(person.id))
    await asks.once()
    assert place.open() == opened, "the same events are told again, and nothing comes of it"
    await place.asks().once()  # (another process, which has not seen them yet)
    assert place.open() == opened
    await until_settled(reactor, place)
    now = place.active()
    left = sum(one.active for one in company.people if one.id in gone)
    assert sum(now.values()) == sum(before.values()) - left, "one came, one was shut out, and who is gone"
    assert len(now) == len(before) + 1
    report = await walk(SyncRequest(source="acme"))
    assert report.status == "nothing to do", place.store.operations(report.plan or 0)[
        ["kind", "name", "reason"]
    ].to_string()
    await asks.aclose()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["idcs", "okta"])
async def test_what_happens_is_told(kind: str, make: Callable[..., Place]) -> None:
    place = make(kind)
    async with open_source("acme", place.settings.source("acme")) as source:
        assert isinstance(source, Polls)
        begin = await source.news("")
        assert not begin.events
        company, after = organisation(**SIZE), changed(organisation(**SIZE), **CHANGES)
        place.idp.change(**CHANGES)
        place.idp.sign_in(company.people[0].id)
        found = await source.news(begin.cursor)
        told = {(one.kind, one.key, one.via) for _, news in found.events for one in news}
        assert ("user", IDS[kind](company.people[0].id), "sign-in") in told
        others = [one.id for one in after.people if one not in company.people]
        assert {("user", IDS[kind](one), "poll") for one in others} <= told
        again = await source.news(found.cursor)
        assert {event for event, _ in again.events} <= {event for event, _ in found.events}
        assert not again.gap


async def until_settled(reactor: Reactor, place: Place) -> None:
    """Until nothing waits that is due."""
    for _ in range(20):
        more = await reactor.turn()
        if reactor.running is not None:  # a run about everybody
            await reactor.running
        elif not more and not place.open():
            return
    raise AssertionError(place.store.inbox(limit=20)[["kind", "key", "via", "note"]].to_string())


async def test_events_that_are_there_no_more_lead_to_everybody(
    make: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = make("keycloak")
    await in_step()
    asks = place.asks()
    place.idp.change(seed=1, updated=3)
    await asks.once()
    place.store.settle(place.store.inbox(limit=9)["id"].tolist(), "done", "", datetime.now(UTC))
    place.idp.change(seed=2, updated=3)
    place.idp.forget(keep=2)
    await asks.once()
    assert ("everybody", "poll") in place.open()
    assert "admin events that were there at the last poll are there no more" in caplog.text
    place.idp.forget()
    await asks.once()
    place.store.settle(place.store.inbox(limit=9)["id"].tolist(), "done", "", datetime.now(UTC))
    await asks.once()
    assert place.open() == [], "what is lost is said once"
    await asks.aclose()


@pytest.mark.long
async def test_what_is_not_saved_is_said(make: Callable[..., Place], caplog: pytest.LogCaptureFixture) -> None:
    place = make("keycloak", saves="admin")
    asks = place.asks()
    await asks.once()
    assert caplog.text.count("user events are not saved") == 1
    await asks.aclose()


@pytest.mark.parametrize(
    ("options", "error"),
    long_after(1, [({"may_view_events": False}, ForbiddenError), ({"saves": "user"}, ConfigurationError)]),
)
async def test_where_it_cannot_be_polled_that_is_seen(
    options: dict[str, Any], error: type[Exception], make: Callable[..., Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = make("keycloak", **options)
    ((stream, *_),) = ways(place.settings, place.store, "crowd")
    with pytest.raises(error, match=r"Realm settings|view-events"):
        await place.asks().once()

    polling = asyncio.create_task(again_and_again(place.asks(), place.store, stream, 0.01))
    async with asyncio.timeout(20):
        while caplog.text.count("failed") < 3:  # noqa: ASYNC110 (what it waits for is a log)
            await asyncio.sleep(0.02)
    polling.cancel()
    (line,) = failures(place.settings, place.store)
    assert "fails since" in line
    assert "view-events" in line or "admin events are not saved" in line
    assert line.partition("times")[2] in " ".join(say("inbox").split()), "(which is wrapped)"
    assert place.store.cursor(stream) is None, "nothing was read"


@pytest.mark.long
async def test_the_process_that_reacts_polls_by_itself(make: Callable[..., Place]) -> None:
    place = make("keycloak")
    await in_step()
    reactor = Reactor("crowd", place.store)
    working = asyncio.create_task(reactor.work())
    everybody, seen = {"everybody"}, set[str]()
    async with asyncio.timeout(240):
        while not everybody <= seen:
            await asyncio.sleep(0.1)
            done = place.store.inbox(done_since=datetime(2026, 1, 1, tzinfo=UTC))
            seen = set(done["kind"][done["status"] == "done"])
    reactor.end()
    await working
    assert place.store.cursor("events:crowd:acme") is not None
