"""Events, their tokens, and webhooks (sections 11 and 12 of the reference)."""

from __future__ import annotations

import httpx
from lxml import etree

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import DECLARATION, attributes, named, user_body


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


def test_webhooks_are_registered(http: httpx.Client) -> None:
    """12: "register(endpointUrl, optional token), get(id), unregister(id); reasons WEBHOOK_NOT_FOUND …"."""
    body = {"endpointUrl": "http://localhost:1/hook", "token": "t"}
    made = http.post("/webhook", json=body).json()
    assert http.post("/webhook", json=body).json()["id"] == made["id"]
    path = f"/webhook/{made['id']}"
    assert http.get(path).json()["endpointUrl"] == body["endpointUrl"]
    assert http.get(path, auth=("other", "other-pw")).status_code == 404
    assert http.delete(path).status_code == 204
    assert http.get(path).json()["reason"] == "WEBHOOK_NOT_FOUND"
