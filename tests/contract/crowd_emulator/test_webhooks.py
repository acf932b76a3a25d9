"""Webhooks: how they are registered, pinged and removed (section 12 of the reference)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import RunningCrowd, running
from tests.support.crowd_bodies import BASE, COMPANY, group_body, user_body
from tests.support.listener import Listener, listening, wait_until

XML = {"Accept": "application/xml", "Content-Type": "application/xml"}


@pytest.fixture
def receiver() -> Iterator[Listener]:
    with listening() as one:
        yield one


def register(http: httpx.Client, endpoint: str, **more: Any) -> Any:
    return http.post("/webhook", json={"endpointUrl": endpoint, **more}).json()


def change(http: httpx.Client, name: str = "jdoe") -> None:
    assert http.put(f"/user?username={name}", json=user_body(name)).status_code == 204


def counted(crowd: RunningCrowd) -> list[tuple[int, int]]:
    return [(one["successes"], one["failures"]) for one in crowd.webhooks()]


def counted_as(crowd: RunningCrowd, figures: tuple[int, int]) -> bool:
    return counted(crowd) == [figures]


def configure(crowd: RunningCrowd, **events: Any) -> None:
    applications = [{"name": "app", "password": "app-pw"}, {"name": "other", "password": "other-pw"}]
    crowd.configure(directories=[{"name": "d"}, {"name": "e"}], applications=applications, events=events)
    crowd.load(**COMPANY)


def test_webhooks_are_registered(http: httpx.Client) -> None:
    """12: "register(endpointUrl, optional token), get(id), unregister(id); reasons WEBHOOK_NOT_FOUND …"."""
    body = {"endpointUrl": "http://localhost:1/hook", "token": "t"}
    made = http.post("/webhook", json=body).json()
    assert http.post("/webhook", json=body).json()["id"] == made["id"]
    path = f"/webhook/{made['id']}"
    assert http.get(path).json() == {"id": made["id"], "endpointUrl": body["endpointUrl"]}
    assert http.get(path, auth=("other", "other-pw")).status_code == 404
    assert http.delete(path, auth=("other", "other-pw")).status_code == 404
    assert http.delete(path).status_code == 204
    assert http.get(path).json()["reason"] == http.delete(path).json()["reason"] == "WEBHOOK_NOT_FOUND"
    assert http.post("/webhook", json=body).json()["id"] > made["id"]


def test_webhooks_are_registered_in_xml(http: httpx.Client) -> None:
    """3: "Both `application/json` and `application/xml` in and out"."""
    sent = "<webhook><endpointUrl>http://localhost:1/x?a=1&amp;b</endpointUrl><token>t</token></webhook>"
    made = http.post("/webhook", content=sent, headers=XML)
    assert (made.status_code, made.headers["content-type"]) == (201, "application/xml")
    document = etree.fromstring(made.content)
    assert (document.tag, document.findtext("endpointUrl")) == ("webhook", "http://localhost:1/x?a=1&b")
    again = http.get(f"/webhook/{document.findtext('id')}", headers=XML)
    assert (again.status_code, again.content) == (200, made.content)
    error = http.get("/webhook/999", headers=XML)
    assert etree.fromstring(error.content).findtext("reason") == "WEBHOOK_NOT_FOUND"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"endpointUrl": ""},
        {"endpointUrl": "ftp://localhost/x"},
        {"endpointUrl": "http://"},
        {"endpointUrl": "http:///x"},
        {"endpointUrl": "http://localhost:99999/x"},
        {"endpointUrl": "http://localhost/a b"},
        {"endpointUrl": "http://localhost/\r\nX: y"},
        {"endpointUrl": "http://localhost/" + "x" * 300},
        {"endpointUrl": "http://localhost/x", "token": "a\r\nX: y"},
        {"endpointUrl": ["http://localhost/x"]},
    ],
)
def test_endpoints_that_cannot_be(crowd: RunningCrowd, http: httpx.Client, body: Any) -> None:
    """12: "an invalid-endpoint error"."""
    refused = http.post("/webhook", json=body)
    assert (refused.status_code, refused.json()["reason"]) == (400, "ILLEGAL_ARGUMENT")
    assert crowd.webhooks() == []


def test_a_change_pings(crowd: RunningCrowd, http: httpx.Client, receiver: Listener) -> None:
    """12: "an application registers an endpoint that Crowd *pings* when its events change; body carries no data"."""
    before = http.get("/event").json()
    register(http, f"{receiver.url}?a=b", token="c2VjcmV0")
    http.get("/user?username=jdoe")
    http.post("/authentication/notify?username=jdoe")
    assert http.get("/event").json() == before
    change(http)
    wait_until(lambda: counted(crowd) == [(1, 0)])
    (ping,) = receiver.taken
    assert (ping.path, ping.body) == ("/crowd/main?a=b", b"")
    assert ping.headers["authorization"] == "Basic c2VjcmV0"
    assert http.get("/event").json() != before


@pytest.mark.parametrize("auth", [("app", "app-pw"), ("other", "other-pw")])
def test_whoever_makes_the_change(
    crowd: RunningCrowd, http: httpx.Client, receiver: Listener, auth: tuple[str, str]
) -> None:
    """11: "Which operations of the *own* application appear: all, there is no self filter"."""
    register(http, receiver.url)
    http.put("/group?groupname=devs", json=group_body("devs"), auth=auth)
    wait_until(lambda: counted(crowd) == [(1, 0)])
    assert "authorization" not in receiver.taken[0].headers
    crowd.load(users=[["many", "", "", "", "", True]])
    wait_until(lambda: counted(crowd) == [(2, 0)])
    crowd.interrupt("app")
    wait_until(lambda: counted(crowd) == [(3, 0)])


def test_only_the_applications_own_events(crowd: RunningCrowd, http: httpx.Client, receiver: Listener) -> None:
    """12: "when *its* events change": those of the directories that it sees."""
    crowd.configure(
        directories=[{"name": "d"}, {"name": "e"}],
        applications=[
            {"name": "app", "password": "app-pw", "directories": ["d"]},
            {"name": "other", "password": "other-pw", "directories": ["e"]},
        ],
    )
    register(http, receiver.url)
    crowd.load(users=[["elsewhere", "", "", "", "", True]], directory="e")
    crowd.interrupt("other")
    crowd.load(users=[["here", "", "", "", "", True]], directory="d")
    wait_until(lambda: counted(crowd) == [(1, 0)])
    assert len(receiver.taken) == 1


def test_pings_coalesce_and_nobody_waits(crowd: RunningCrowd, http: httpx.Client, receiver: Listener) -> None:
    """12: "a ping is discarded when one for the same webhook is queued already, so pings coalesce"."""
    with listening() as other:
        receiver.open.clear()  # (it answers nothing for now)
        register(http, receiver.url)
        register(http, other.url)
        change(http)
        wait_until(lambda: len(receiver.taken) == 1 and len(other.taken) == 1)
        for _ in range(50):
            change(http)
        assert len(receiver.taken) == 1
        wait_until(lambda: counted(crowd)[1][0] > 1)  # one that hangs holds up no other
        receiver.open.set()
        wait_until(lambda: counted(crowd)[0] == (2, 0))
        assert len(receiver.taken) == 2


def test_a_webhook_that_fails_for_long_is_removed(crowd: RunningCrowd, http: httpx.Client, receiver: Listener) -> None:
    """12: "successes and failures are counted per webhook; one that fails for long enough is **removed by Crowd**"."""
    configure(crowd, ping_failures=3, ping_patience=0)
    made = register(http, receiver.url)
    for status, after in [(500, (0, 1)), (302, (0, 2)), (200, (1, 2)), (401, (1, 3)), (404, (1, 4))]:
        receiver.status = status
        change(http)
        wait_until(partial(counted_as, crowd, after))
    change(http)
    wait_until(lambda: not crowd.webhooks())
    assert http.get(f"/webhook/{made['id']}").json()["reason"] == "WEBHOOK_NOT_FOUND"
    pings = len(receiver.taken)
    change(http)
    configure(crowd, ping_failures=1, ping_patience=3600)
    register(http, "http://127.0.0.1:1/nobody")
    for number in range(1, 4):
        change(http)
        wait_until(partial(counted_as, crowd, (0, number)))  # not for long enough
    assert len(receiver.taken) == pings


def test_pings_are_lost_on_demand(crowd: RunningCrowd, http: httpx.Client, receiver: Listener) -> None:
    crowd.faults([{"kind": "lost-ping", "nth": [1, 2]}, {"kind": 503, "path_regex": "main|^/group"}])
    register(http, receiver.url)
    assert http.get("/group?groupname=devs").status_code == 503
    change(http)
    wait_until(lambda: crowd.counts()["faults"][0]["fired"] == 1)
    change(http)
    wait_until(lambda: crowd.counts()["faults"][0]["fired"] == 2)
    change(http)
    wait_until(lambda: counted(crowd) == [(1, 0)])
    assert len(receiver.taken) == 1
    matched = [fault["matched"] for fault in crowd.counts()["faults"]]
    assert matched == [3, 1]  # the one is about pings alone, the other about requests alone
    crowd.faults([{"kind": "lost-ping", "path": f"{receiver.url}/elsewhere"}])
    change(http)
    wait_until(lambda: counted(crowd) == [(2, 0)])


def test_pings_end_with_the_emulator(receiver: Listener) -> None:
    with running(applications={"app": "app-pw"}) as crowd:
        crowd.load(**COMPANY)
        receiver.open.clear()
        client = httpx.Client(
            auth=("app", "app-pw"), base_url=crowd.url + BASE, headers={"Accept": "application/json"}, trust_env=False
        )
        with client as http:
            register(http, receiver.url)
            change(http)
            wait_until(lambda: receiver.taken)
            change(http)
        started = time.monotonic()
        crowd.process.terminate()
        assert crowd.process.wait(5) == 0
        assert time.monotonic() - started < 3
    assert len(receiver.taken) == 1
