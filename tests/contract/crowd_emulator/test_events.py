"""Events and their tokens (section 11 of the reference)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import Crowd, RunningCrowd, application
from tests.support.crowd_bodies import BASE, COMPANY, DECLARATION, attributes, group_body, named, user_body


def test_events(http: httpx.Client) -> None:
    """11: "`newEventToken` and `incrementalSynchronisationAvailable`: XML attributes on `<events .../>`, plain members
    in JSON"; children "in order: `userEvent`, `groupEvent`, `userMembershipEvent`, `groupMembershipEvent`".
    """
    start = http.get("/event").json()
    assert start["incrementalSynchronisationAvailable"] is True
    assert http.get("/event").json() == start
    http.post("/authentication/notify?username=jdoe")
    assert http.get("/event").json() == start  # sign-ins are no news
    http.put("/user?username=jdoe", json=user_body("jdoe"))
    http.post("/user/attribute?username=jdoe", json=attributes("team", "x"))
    http.post("/group/user/direct?groupname=empty", json=named("jdoe"))
    http.delete("/group?groupname=leads")
    news = http.get(f"/event/{start['newEventToken']}").json()
    assert news["newEventToken"] == http.get("/event").json()["newEventToken"] != start["newEventToken"]
    assert [(e["type"], e["operation"]) for e in news["events"]] == [
        ("userEvent", "UPDATED"),
        ("userEvent", "UPDATED"),
        ("groupEvent", "DELETED"),
        ("userMembershipEvent", "CREATED"),
    ]
    xml = {"Accept": "application/xml"}
    in_xml = etree.fromstring(http.get(f"/event/{start['newEventToken']}", headers=xml).content)
    assert in_xml.get("newEventToken") == news["newEventToken"]
    assert [child.tag for child in in_xml] == [e["type"] for e in news["events"]]
    assert in_xml.findtext("userEvent/user/last-name") == "L"
    empty = http.get("/event", headers=xml).text
    assert empty.startswith(f'{DECLARATION}<events newEventToken="')


def test_event_tokens_expire(crowd: RunningCrowd, http: httpx.Client) -> None:
    """11: "A server restart or many changes invalidate tokens"; "feature off: INCREMENTAL_SYNC_NOT_AVAILABLE"; "use
    400 in the emulator".
    """
    token = http.get("/event").json()["newEventToken"]
    crowd.load(users=[["many", "", "", "", "", True]])
    assert http.get(f"/event/{token}").json()["reason"] == "EVENT_TOKEN_EXPIRED"
    crowd.configure(directories=[{"name": "d", "events": False}], applications=[{"name": "app", "password": "app-pw"}])
    now = http.get("/event").json()
    assert now["incrementalSynchronisationAvailable"] is False
    refused = http.get(f"/event/{now['newEventToken']}")
    assert (refused.status_code, refused.json()["reason"]) == (400, "INCREMENTAL_SYNC_NOT_AVAILABLE")


# --- what time does to events: on a clock of our own, over ASGI


class Timed:
    """A Crowd with the company in it, whose time stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1e9
        self.crowd = Crowd({"app": "app-pw", "other": "other-pw"}, clock=lambda: self.seconds)
        transport = httpx.ASGITransport(application(self.crowd))
        self.http = httpx.AsyncClient(
            transport=transport,
            base_url=f"http://crowd/crowd{BASE}",
            auth=("app", "app-pw"),
            headers={"Accept": "application/json"},
        )
        self.configure()

    def configure(self, events: Mapping[str, Any] | None = None) -> None:
        applications = [{"name": "app", "password": "app-pw"}, {"name": "other", "password": "other-pw"}]
        self.crowd.configure({"directories": [{"name": "d"}], "applications": applications, "events": events or {}})
        self.crowd.load(COMPANY)

    async def token(self) -> str:
        return str((await self.http.get("/event")).json()["newEventToken"])

    async def since(self, token: str) -> tuple[list[str], str]:
        """Names of the users and groups of events, and the next token; or the reason of the refusal, and ""."""
        answer = (await self.http.get(f"/event/{token}")).json()
        if "reason" in answer:
            return [answer["reason"]], ""
        events = answer["events"]
        return [e.get("user", e.get("group", e.get("childUser")))["name"] for e in events], answer["newEventToken"]

    async def update(self, *names: str) -> None:
        for name in names:
            assert (await self.http.put(f"/group?groupname={name}", json=group_body(name))).status_code == 200


@pytest.fixture
async def timed() -> AsyncIterator[Timed]:
    one = Timed()
    async with one.http:
        yield one


async def test_the_events_of_the_last_minutes_are_given_again(timed: Timed) -> None:
    """11: "It deliberately returns the events of the **last few minutes again** (clock skew, uncommitted work): a
    consumer must be idempotent". "An unchanged *current* token does guarantee that there is nothing new."
    """
    await timed.update("devs")
    timed.seconds += 200
    await timed.update("leads")
    timed.seconds += 200
    token = await timed.token()
    assert await timed.since(token) == (["leads"], token)
    timed.seconds += 3600
    assert await timed.token() == token
    await timed.update("empty")
    assert (await timed.since(token))[0] == ["leads", "empty"]  # the minutes before the token, not before now
    timed.configure({"replay": 0})
    await timed.update("devs")
    token = await timed.token()
    assert await timed.since(token) == ([], token)


async def test_the_token_may_change_with_every_call(timed: Timed) -> None:
    """11: "the token probably changes with every call"."""
    timed.configure({"moving": True, "replay": 0})
    tokens = {await timed.token() for _ in range(3)}
    names, following = await timed.since(tokens.pop())
    assert names == []
    assert following not in tokens
    assert len(tokens) == 2


async def test_events_are_reaped(timed: Timed) -> None:
    """11: "Tombstones are reaped after a lifetime that is not published: a client that comes rarely meets "expired"
    as the normal case"; "one in main memory of fixed size, oldest dropped".
    """
    timed.configure({"lifetime": 1000, "replay": 0})
    token = await timed.token()
    await timed.update("devs")
    timed.seconds += 999
    assert (await timed.since(token))[0] == ["devs"]
    timed.seconds += 2
    assert await timed.since(token) == (["EVENT_TOKEN_EXPIRED"], "")
    new = await timed.token()
    assert await timed.since(new) == ([], new)
    timed.seconds += 100_000
    assert await timed.since(await timed.token()) != (["EVENT_TOKEN_EXPIRED"], "")  # the current one is a good one
    timed.configure({"kept": 3})
    token = await timed.token()
    await timed.update("devs", "leads", "empty")
    assert (await timed.since(token))[0] == ["devs", "leads", "empty"]
    await timed.update("devs")
    assert await timed.since(token) == (["EVENT_TOKEN_EXPIRED"], "")


async def test_some_changes_make_the_stream_impossible(timed: Timed) -> None:
    """11: "Some events (alias, application updated, a changed mapping) make the stream impossible:
    EVENT_TOKEN_EXPIRED, and it stays so for the whole replay window. After it ask for the current token again".
    """
    token = await timed.token()
    timed.crowd.interrupt("app")
    assert await timed.since(token) == (["EVENT_TOKEN_EXPIRED"], "")
    for _ in range(3):
        assert await timed.since(await timed.token()) == (["EVENT_TOKEN_EXPIRED"], "")
        timed.seconds += 100
    assert await timed.since(token) == (["EVENT_TOKEN_EXPIRED"], "")
    new = await timed.token()
    await timed.update("devs")
    assert (await timed.since(new))[0] == ["devs"]
    other = (await timed.http.get("/event", auth=("other", "other-pw"))).json()["newEventToken"]
    assert (await timed.http.get(f"/event/{other}", auth=("other", "other-pw"))).status_code == 200


async def test_an_answer_has_a_limited_number_of_events(timed: Timed) -> None:
    """11: "There is a limit to the number of events in one answer"."""
    timed.configure({"most": 2, "replay": 0})
    token = await timed.token()
    await timed.update("devs", "leads", "empty")
    names, following = await timed.since(token)
    assert names == ["devs", "leads"]
    assert await timed.since(following) == (["empty"], await timed.token())


async def test_deleted_and_renamed_users_are_told_of_alone(timed: Timed) -> None:
    """11: events are "CREATED/UPDATED/DELETED"; nothing says that what goes with a user is told of, too."""
    token = await timed.token()
    await timed.http.delete("/user?username=asmith")
    await timed.http.post("/user/rename?username=jdoe", json={"new-name": "jd"})
    await timed.http.delete("/group?groupname=staff")
    events = (await timed.http.get(f"/event/{token}")).json()["events"]
    assert [(e["operation"], e.get("user", e.get("group"))["name"]) for e in events] == [
        ("DELETED", "asmith"),
        ("DELETED", "Jdoe"),
        ("CREATED", "jd"),
        ("DELETED", "Staff"),
    ]


# --- faults


def since(http: httpx.Client, token: str) -> Any:
    return http.get(f"/event/{token}").json()


def test_faults_of_the_stream(crowd: RunningCrowd, http: httpx.Client) -> None:
    """11: "Known faults: inconsistent stream (CWD-3188) …"; "A server restart or many changes invalidate tokens"."""
    app = {"name": "app", "password": "app-pw"}
    crowd.configure(directories=[{"name": "a"}], applications=[app], events={"replay": 0})
    crowd.load(**COMPANY)
    http.delete("/group?groupname=leads")
    token = http.get("/event").json()["newEventToken"]
    crowd.faults([{"kind": "expired-token", "nth": 1}, {"kind": "replayed-events", "nth": 2}])
    assert since(http, token)["reason"] == "EVENT_TOKEN_EXPIRED"
    assert [event["group"]["name"] for event in since(http, token)["events"]] == ["leads"]
    assert since(http, token)["events"] == []
    crowd.faults([{"kind": "foreign-token", "path": "/event", "times": 1}])
    foreign = http.get("/event").json()["newEventToken"]
    assert since(http, foreign)["reason"] == "EVENT_TOKEN_EXPIRED"
    assert "events" in since(http, token)
    crowd.faults([{"kind": "alias-event", "times": 1}])
    assert [since(http, token)["reason"] for _ in range(2)] == ["EVENT_TOKEN_EXPIRED"] * 2


def test_events_without_end(crowd: RunningCrowd, http: httpx.Client) -> None:
    token, seen = http.get("/event").json()["newEventToken"], set()
    crowd.faults([{"kind": "endless-events"}])
    for _ in range(20):
        answer = since(http, token)
        seen.add((token := answer["newEventToken"], answer["events"][0]["user"]["name"]))
    assert len({one for one, _ in seen}) == len({name for _, name in seen}) == 20


def test_a_configured_and_an_interrupted_crowd_know_no_token_of_before(crowd: RunningCrowd, http: httpx.Client) -> None:
    """11: "a changed mapping" makes the stream impossible."""
    app = {"name": "app", "password": "app-pw"}
    crowd.configure(directories=[{"name": "a"}], applications=[app], events={"replay": 0})
    token = http.get("/event").json()["newEventToken"]
    crowd.interrupt("app")
    assert since(http, token)["reason"] == "EVENT_TOKEN_EXPIRED"
    token = http.get("/event").json()["newEventToken"]
    assert since(http, token)["events"] == []
    crowd.configure(directories=[{"name": "a"}], applications=[app])
    assert since(http, token)["reason"] == "EVENT_TOKEN_EXPIRED"
    with pytest.raises(ValueError, match="refused configure"):
        crowd.configure(directories=[{"name": "a"}], applications=[app], events={"replays": 0})
