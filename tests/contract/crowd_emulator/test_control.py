"""What the emulator offers to tests: loading, states, counts; and how its process begins and ends."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest

from deployments.sandbox.crowd import Crowd, RunningCrowd, application, running
from tests.support.crowd_bodies import BASE, COMPANY, named


def test_counts(crowd: RunningCrowd, http: httpx.Client) -> None:
    http.get("/user?username=jdoe")
    http.get("/user?username=nobody")
    http.get(f"{crowd.url}/rest/usermanagement/latest/user?username=jdoe")
    http.post("/search?entity-type=user", json={"restriction-type": "null-search-restriction"})
    http.post("/user/group/direct?username=jdoe", json=named("devs"))
    http.delete("/user?username=gone")
    http.get("/session/abc")
    http.delete("/session/abc")
    http.get("/nowhere")
    assert crowd.counts() == {
        "requests": {
            "GET /user": 3,
            "POST /search": 1,
            "POST /user/group/direct": 1,
            "DELETE /user": 1,
            "GET /session/TOKEN": 1,
            "DELETE /session/TOKEN": 1,
            "GET unknown": 1,
        },
        "reads": 6,
        "writes": 2,
        "statuses": {"200": 3, "404": 3, "201": 1, "204": 2},
        "faults": [],
    }
    crowd.reset_counts()
    assert crowd.counts()["requests"] == {}


def test_load_and_state_are_inverse(crowd: RunningCrowd) -> None:
    state, digest = crowd.state(), crowd.digest()
    assert [user["name"] for user in state["users"]] == ["asmith", "gone", "Jdoe", "mailless"]
    assert state["users"][2]["attributes"] == {"team": ["red", "blue"]}
    assert state["memberships"] == [["Jdoe", "Staff"], ["asmith", "devs"], ["asmith", "leads"], ["gone", "Staff"]]
    assert state["nestings"] == [["devs", "Staff"], ["leads", "devs"]]
    assert "key" in crowd.state(keys=True)["users"][0]
    crowd.clear()
    assert crowd.state() == {"users": [], "groups": [], "memberships": [], "nestings": []}
    assert crowd.digest() != digest
    fields = ("name", "first_name", "last_name", "display_name", "email", "active", "attributes")
    crowd.load(
        users=[[user[f] for f in fields] for user in state["users"]],
        groups=[[g["name"], g["description"], g["attributes"]] for g in state["groups"]],
        members={"STAFF": ["jdoe", "gone"], "devs": ["asmith"], "leads": ["asmith"]},
        nestings=state["nestings"],
    )
    assert crowd.digest() == digest


def test_a_bad_load_changes_nothing(crowd: RunningCrowd) -> None:
    before = crowd.digest()
    with pytest.raises(ValueError, match="no user or group 'nobody'"):
        crowd.load(users=[["x", "", "", "", "", True]], memberships=[["nobody", "staff"]])
    with pytest.raises(ValueError, match="given twice"):
        crowd.load(users=[["JDOE", "", "", "", "", True]])
    assert crowd.digest() == before


def test_process_ends_promptly_and_can_live_at_the_root() -> None:
    with running(applications={"a": "b:c"}, base_path="") as crowd:
        assert httpx.get(f"{crowd.url}{BASE}/config/cookie", auth=("a", "b:c")).status_code == 200
        started = time.monotonic()
        crowd.process.terminate()
        assert crowd.process.wait(5) == 0
        assert time.monotonic() - started < 2


def test_process_dies_with_its_parent() -> None:
    with running() as crowd:
        assert crowd.process.stdin is not None
        crowd.process.stdin.close()
        assert crowd.process.wait(5) == 0


def test_over_asgi() -> None:
    state = Crowd({"app": "app-pw"})
    state.load(COMPANY)
    state.set_faults([{"kind": 429, "path": "/group", "retry_after": 3}, {"kind": "reset", "path": "/event"}])

    async def ask() -> None:
        transport = httpx.ASGITransport(application(state))
        async with httpx.AsyncClient(
            transport=transport, base_url=f"http://crowd/crowd{BASE}", auth=("app", "app-pw")
        ) as client:
            assert (await client.get("/user?username=jdoe")).headers["content-type"] == "application/xml"
            limited = await client.get("/group/membership")
            assert (limited.status_code, limited.headers["retry-after"]) == (429, "3")
            with pytest.raises(ConnectionResetError):
                await client.get("/event")
            state.set_faults([])
            assert "</memberships>" in (await client.get("/group/membership")).text

    asyncio.run(ask())
    assert state.counts()["requests"]["GET /group/membership"] == 2
