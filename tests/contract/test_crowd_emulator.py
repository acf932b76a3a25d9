"""The emulated Crowd against the reference, clause by clause, and against clients that we did not write.

The clients are `crowd` (installed) and two versions of `atlassian-python-api`, which are put under
`.cache/clients` once; after that nothing needs the network.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import Crowd, RunningCrowd, application, running
from deployments.sandbox.crowd_cql import from_cql
from deployments.sandbox.crowd_data import Refusal
from tests.support.clients import client_package, drive

ROOT = Path(__file__).resolve().parents[2]
BASE = "/rest/usermanagement/1"
DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
COMPANY: dict[str, Any] = {
    "users": [
        ["Jdoe", "John", "Doe", "John Doe", "jdoe@example.org", True, {"team": ["red", "blue"]}],
        ["asmith", "Ann", "Smith", "Ann Smith", "ann@example.org", True],
        ["gone", "Gone", "Away", "Gone Away", "gone@example.org", False],
        ["mailless", "No", "Mail", "No Mail", "", True],
    ],
    "groups": [["Staff", "Everybody", {"floor": "3"}], ["devs", ""], ["leads"], ["empty"]],
    "memberships": [["jdoe", "staff"], ["asmith", "devs"], ["gone", "staff"], ["asmith", "leads"]],
    "nestings": [["devs", "staff"], ["leads", "devs"]],
}
PASSWORD = "correct horse"


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


def user_body(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "first-name": "F",
        "last-name": "L",
        "display-name": "F L",
        "email": "f@example.org",
        "active": True,
        **more,
    }


def new_user(name: str, **more: Any) -> dict[str, Any]:
    return user_body(name, **{"password": {"value": "pw"}, **more})


def group_body(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "description": "d", "type": "GROUP", "active": True, **more}


def attributes(name: str, *values: Any) -> dict[str, Any]:
    return {"attributes": [{"name": name, "values": list(values)}]}


def restriction(name: str, value: Any, mode: str = "EXACTLY_MATCHES", kind: str = "STRING") -> dict[str, Any]:
    return {
        "restriction-type": "property-search-restriction",
        "property": {"name": name, "type": kind},
        "match-mode": mode,
        "value": value,
    }


@pytest.fixture(scope="module")
def server() -> Iterator[RunningCrowd]:
    with running(applications={"app": "app-pw", "other": "other-pw"}) as crowd:
        yield crowd


@pytest.fixture
def crowd(server: RunningCrowd) -> RunningCrowd:
    server.configure(
        directories=[{"name": "directory"}],
        applications=[{"name": "app", "password": "app-pw"}, {"name": "other", "password": "other-pw"}],
    )
    server.faults([])
    server.load(**COMPANY)
    server.reset_counts()
    return server


@pytest.fixture(scope="module")
def connection() -> Iterator[httpx.Client]:
    with httpx.Client(auth=("app", "app-pw"), timeout=10, trust_env=False, verify=False) as client:
        yield client


@pytest.fixture
def http(crowd: RunningCrowd, connection: httpx.Client) -> httpx.Client:
    connection.base_url = crowd.url + BASE
    connection.headers = httpx.Headers({"Accept": "application/json"})
    return connection


def set_password(http: httpx.Client, name: str) -> None:
    http.put("/user/password", params={"username": name}, json={"value": PASSWORD}).raise_for_status()


# --- statuses and reasons, call by call
# (method, path with query, JSON body or None, status, reason or "", part of the message)

# fmt: off
CLAUSES: list[tuple[str, str, Any, int, str, str]] = [
    # 5: the same missing user is 404 where addressed and 400 where named in the body.
    ("GET", "/user?username=jDOE", None, 200, "", ""),
    ("GET", "/user?username=nobody", None, 404, "USER_NOT_FOUND", "User <nobody> does not exist"),
    ("GET", "/user", None, 400, "ILLEGAL_ARGUMENT", "username query parameter must be given"),
    ("GET", "/user?username=", None, 400, "ILLEGAL_ARGUMENT", "username query parameter must be given"),
    ("GET", "/user?key=none", None, 404, "USER_NOT_FOUND", "<none>"),
    ("POST", "/user", new_user("new"), 201, "", ""),
    ("POST", "/user", new_user("JDOE"), 400, "INVALID_USER", "User <JDOE> already exists"),
    ("POST", "/user", user_body("new"), 400, "INVALID_USER", "password"),
    ("POST", "/user", user_body("new", password={"link": {}}), 400, "INVALID_USER", "password"),
    ("POST", "/user", new_user("new", password={"value": ""}), 400, "INVALID_CREDENTIAL", ""),
    ("POST", "/user", user_body("new", **{"encrypted-password": {"value": "{x}y"}}), 201, "", ""),
    ("POST", "/user", new_user(""), 400, "INVALID_USER", "blank"),
    ("POST", "/user", new_user(" new"), 400, "INVALID_USER", "blank"),
    ("POST", "/user", new_user("n\x00w"), 400, "INVALID_USER", "control"),
    ("POST", "/user", new_user("n" * 255), 201, "", ""),
    ("POST", "/user", new_user("n" * 256), 400, "INVALID_USER", "255"),
    ("POST", "/user", new_user("new", email="e" * 256), 400, "INVALID_USER", "255"),
    ("POST", "/user", new_user("new", email="\U0001f600" * 128), 400, "INVALID_USER", "255"),
    ("POST", "/user", new_user("new", attributes=attributes("a", "v" * 256)), 400, "INVALID_USER", "255"),
    ("POST", "/user", new_user("new", active="true"), 201, "", ""),
    ("POST", "/user", new_user("new", active="maybe"), 400, "ILLEGAL_ARGUMENT", "active"),
    ("POST", "/user", [], 400, "ILLEGAL_ARGUMENT", "object"),
    ("PUT", "/user?username=jdoe", user_body("JDOE"), 204, "", ""),
    ("PUT", "/user?username=jdoe", user_body("other"), 400, "INVALID_USER", "name"),
    ("PUT", "/user?username=jdoe", {"active": True}, 400, "INVALID_USER", "name"),
    ("PUT", "/user?username=nobody", user_body("nobody"), 404, "USER_NOT_FOUND", ""),
    ("PUT", "/user?username=jdoe", user_body("jdoe", email="e" * 256), 400, "INVALID_USER", "255"),
    ("PUT", "/user", user_body("jdoe"), 400, "ILLEGAL_ARGUMENT", "username"),
    ("DELETE", "/user?username=JDOE", None, 204, "", ""),
    ("DELETE", "/user?username=nobody", None, 404, "USER_NOT_FOUND", ""),
    ("POST", "/user/rename?username=jdoe", {"new-name": "john"}, 200, "", ""),
    ("POST", "/user/rename?username=jdoe", {"newName": "john"}, 200, "", ""),
    ("POST", "/user/rename?username=jdoe", {"new-name": "JDOE"}, 200, "", ""),
    ("POST", "/user/rename?username=jdoe", {"new-name": "ASMITH"}, 400, "INVALID_USER", "already exists"),
    ("POST", "/user/rename?username=jdoe", {"name": "john"}, 400, "ILLEGAL_ARGUMENT", "new-name"),
    ("POST", "/user/rename?username=nobody", {"new-name": "x"}, 404, "USER_NOT_FOUND", ""),
    ("PUT", "/user/password?username=jdoe", {"value": "p"}, 204, "", ""),
    ("PUT", "/user/password?username=jdoe", {}, 400, "INVALID_CREDENTIAL", ""),
    ("PUT", "/user/password?username=nobody", {"value": "p"}, 404, "USER_NOT_FOUND", ""),
    ("DELETE", "/user/password?username=jdoe", None, 204, "", ""),
    ("POST", "/user/mail/password?username=jdoe", None, 204, "", ""),
    ("POST", "/user/mail/password?username=mailless", None, 400, "INVALID_EMAIL", ""),
    ("POST", "/user/mail/password?username=nobody", None, 404, "USER_NOT_FOUND", ""),
    ("POST", "/user/mail/usernames?email=JDOE@example.org", None, 204, "", ""),
    ("POST", "/user/mail/usernames?email=x", None, 400, "INVALID_EMAIL", ""),
    ("POST", "/user/mail/usernames?email=x@y", None, 404, "USER_NOT_FOUND", ""),
    ("GET", "/user/avatar?username=jdoe&s=16", None, 303, "", ""),
    ("GET", "/user/avatar?username=nobody", None, 404, "USER_NOT_FOUND", ""),
    ("GET", "/user/attribute?username=jdoe", None, 200, "", ""),
    ("GET", "/user/attribute?username=nobody", None, 404, "USER_NOT_FOUND", ""),
    ("POST", "/user/attribute?username=jdoe", attributes("a", "b"), 204, "", ""),
    ("POST", "/user/attribute?username=jdoe", attributes("a", True, 1), 204, "", ""),
    ("POST", "/user/attribute?username=jdoe", attributes("a", "v" * 256), 400, "INVALID_USER", "255"),
    ("POST", "/user/attribute?username=jdoe", {"attributes": [{"name": "a"}]}, 400, "ILLEGAL_ARGUMENT", ""),
    ("POST", "/user/attribute?username=jdoe", {"a": ["b"]}, 400, "ILLEGAL_ARGUMENT", "attributes"),
    ("POST", "/user/attribute?username=nobody", attributes("a", "b"), 404, "USER_NOT_FOUND", ""),
    ("PUT", "/user/attribute?username=jdoe", attributes("a", "b"), 405, "", ""),
    ("DELETE", "/user/attribute?username=jdoe&attributename=team", None, 204, "", ""),
    ("DELETE", "/user/attribute?username=jdoe&attributename=none", None, 204, "", ""),
    ("DELETE", "/user/attribute?username=jdoe", None, 400, "ILLEGAL_ARGUMENT", "attributename"),
    ("DELETE", "/user/attribute?username=nobody&attributename=a", None, 404, "USER_NOT_FOUND", ""),
    # 7: groups
    ("GET", "/group?groupname=STAFF", None, 200, "", ""),
    ("GET", "/group?groupname=none", None, 404, "GROUP_NOT_FOUND", "Group <none> does not exist"),
    ("GET", "/group", None, 400, "ILLEGAL_ARGUMENT", "groupname query parameter must be given"),
    ("POST", "/group", group_body("new"), 201, "", ""),
    ("POST", "/group", group_body("new", active="true"), 201, "", ""),
    ("POST", "/group", group_body("STAFF"), 400, "INVALID_GROUP", "already exists"),
    ("POST", "/group", group_body("new", type="LEGACY_ROLE"), 400, "INVALID_GROUP", "type"),
    ("POST", "/group", named("new"), 400, "INVALID_GROUP", "type"),
    ("POST", "/group", group_body("new", description="d" * 256), 400, "INVALID_GROUP", "255"),
    ("POST", "/group", group_body(" "), 400, "INVALID_GROUP", "blank"),
    ("PUT", "/group?groupname=staff", group_body("staff"), 200, "", ""),
    ("PUT", "/group?groupname=staff", group_body("other"), 400, "INVALID_GROUP", "name"),
    ("PUT", "/group?groupname=none", group_body("none"), 404, "GROUP_NOT_FOUND", ""),
    ("DELETE", "/group?groupname=staff", None, 204, "", ""),
    ("DELETE", "/group?groupname=none", None, 404, "GROUP_NOT_FOUND", ""),
    ("GET", "/group/attribute?groupname=staff", None, 200, "", ""),
    ("GET", "/group/attribute?groupname=none", None, 404, "GROUP_NOT_FOUND", ""),
    ("POST", "/group/attribute?groupname=staff", attributes("a", "b"), 204, "", ""),
    ("PUT", "/group/attribute?groupname=staff", attributes("a", "b"), 405, "", ""),
    ("DELETE", "/group/attribute?groupname=staff&attributename=none", None, 204, "", ""),
    # 8: memberships
    ("GET", "/user/group/direct?username=jdoe", None, 200, "", ""),
    ("GET", "/user/group/direct?username=nobody", None, 404, "USER_NOT_FOUND", ""),
    ("GET", "/user/group/direct?username=jdoe&groupname=STAFF", None, 200, "", ""),
    ("GET", "/user/group/direct?username=jdoe&groupname=devs", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("GET", "/user/group/direct?username=asmith&groupname=staff", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("GET", "/user/group/nested?username=asmith&groupname=staff", None, 200, "", ""),
    ("POST", "/user/group/direct?username=jdoe", named("DEVS"), 201, "", ""),
    ("POST", "/user/group/direct?username=jdoe", named("none"), 400, "GROUP_NOT_FOUND", "<none>"),
    ("POST", "/user/group/direct?username=nobody", named("devs"), 404, "USER_NOT_FOUND", ""),
    ("POST", "/user/group/direct?username=JDOE", named("STAFF"), 409, "MEMBERSHIP_ALREADY_EXISTS", ""),
    ("POST", "/user/group/direct?groupname=devs", named("jdoe"), 400, "ILLEGAL_ARGUMENT", "username"),
    ("POST", "/user/group/direct?username=jdoe", {}, 400, "ILLEGAL_ARGUMENT", "name"),
    ("DELETE", "/user/group/direct?username=jdoe&groupname=staff", None, 204, "", ""),
    ("DELETE", "/user/group/direct?username=jdoe&groupname=devs", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("DELETE", "/user/group/direct?username=jdoe&groupname=none", None, 404, "GROUP_NOT_FOUND", ""),
    ("DELETE", "/user/group/direct?username=nobody&groupname=staff", None, 404, "USER_NOT_FOUND", ""),
    ("DELETE", "/user/group/direct?username=jdoe", None, 400, "ILLEGAL_ARGUMENT", "groupname"),
    ("GET", "/group/user/direct?groupname=staff", None, 200, "", ""),
    ("GET", "/group/user/direct?groupname=none", None, 404, "GROUP_NOT_FOUND", ""),
    ("GET", "/group/user/direct?groupname=staff&username=jdoe", None, 200, "", ""),
    ("GET", "/group/user/direct?groupname=staff&username=asmith", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("GET", "/group/user/nested?groupname=staff&username=asmith", None, 200, "", ""),
    ("POST", "/group/user/direct?groupname=devs", named("JDOE"), 201, "", ""),
    ("POST", "/group/user/direct?groupname=devs", named("nobody"), 400, "USER_NOT_FOUND", "<nobody>"),
    ("POST", "/group/user/direct?groupname=none", named("jdoe"), 404, "GROUP_NOT_FOUND", ""),
    ("POST", "/group/user/direct?groupname=staff", named("jdoe"), 409, "MEMBERSHIP_ALREADY_EXISTS", ""),
    ("POST", "/group/user/direct", named("jdoe"), 400, "ILLEGAL_ARGUMENT", "groupname"),
    ("DELETE", "/group/user/direct?groupname=staff&username=jdoe", None, 204, "", ""),
    ("DELETE", "/group/user/direct?groupname=devs&username=jdoe", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("GET", "/group/child-group/direct?groupname=staff&child-groupname=DEVS", None, 200, "", ""),
    ("GET", "/group/child-group/direct?groupname=staff&child-groupname=leads", None, 404, "MEMBERSHIP_NOT_FOUND", ""),
    ("GET", "/group/child-group/nested?groupname=staff&child-groupname=leads", None, 200, "", ""),
    ("POST", "/group/child-group/direct?groupname=staff", named("EMPTY"), 201, "", ""),
    ("POST", "/group/child-group/direct?groupname=staff", named("none"), 400, "GROUP_NOT_FOUND", ""),
    ("POST", "/group/child-group/direct?groupname=none", named("devs"), 404, "GROUP_NOT_FOUND", ""),
    ("POST", "/group/child-group/direct?groupname=leads", named("staff"), 400, "INVALID_MEMBERSHIP", ""),
    ("POST", "/group/child-group/direct?groupname=staff", named("staff"), 400, "INVALID_MEMBERSHIP", ""),
    ("POST", "/group/child-group/direct?groupname=staff", named("devs"), 409, "MEMBERSHIP_ALREADY_EXISTS", ""),
    ("DELETE", "/group/child-group/direct?groupname=staff&child-groupname=devs", None, 204, "", ""),
    ("DELETE", "/group/child-group/direct?groupname=staff&child-groupname=leads", None, 404, "MEMBERSHIP_NOT_FOUND", ""),  # noqa: E501
    ("DELETE", "/group/child-group/direct?groupname=staff", None, 400, "ILLEGAL_ARGUMENT", "child-groupname"),
    ("GET", "/group/parent-group/direct?groupname=devs&parent-groupname=staff", None, 200, "", ""),
    ("GET", "/group/parent-group/nested?groupname=leads&parent-groupname=staff", None, 200, "", ""),
    ("POST", "/group/parent-group/direct?groupname=empty", named("staff"), 201, "", ""),
    ("POST", "/group/parent-group/direct?groupname=staff", named("leads"), 400, "INVALID_MEMBERSHIP", ""),
    ("DELETE", "/group/parent-group/direct?groupname=devs&parent-groupname=staff", None, 405, "", ""),
    # 9: search
    ("GET", "/search?entity-type=USER", None, 200, "", ""),
    ("GET", "/search", None, 400, "ILLEGAL_ARGUMENT", "entity-type"),
    ("GET", "/search?entity-type=role", None, 400, "ILLEGAL_ARGUMENT", "entity-type"),
    ("GET", "/search?entity-type=user&restriction=name", None, 400, "ILLEGAL_ARGUMENT", ""),
    ("GET", "/search?entity-type=user&restriction=createdDate+%3E+soon", None, 400, "ILLEGAL_ARGUMENT", ""),
    ("GET", "/search?entity-type=user&max-results=x", None, 400, "ILLEGAL_ARGUMENT", "max-results"),
    ("GET", "/search?entity-type=user&start-index=-1", None, 400, "ILLEGAL_ARGUMENT", "start-index"),
    ("POST", "/search?entity-type=user", restriction("name", "jdoe"), 200, "", ""),
    ("POST", "/search?entity-type=user", {}, 400, "ILLEGAL_ARGUMENT", ""),
    ("POST", "/search?entity-type=user", restriction("name", "x", "ALMOST"), 400, "ILLEGAL_ARGUMENT", ""),
    # 10: authentication
    ("POST", "/authentication?username=jdoe", {"value": PASSWORD}, 200, "", ""),
    ("POST", "/authentication?username=jdoe", {"value": "wrong"}, 400, "INVALID_USER_AUTHENTICATION", "Failed to authenticate principal, password was invalid"),  # noqa: E501
    ("POST", "/authentication?username=nobody", {"value": "x"}, 400, "USER_NOT_FOUND", "<nobody>"),
    ("POST", "/authentication?username=gone", {"value": PASSWORD}, 400, "INACTIVE_ACCOUNT", "Account with name <gone> is inactive"),  # noqa: E501
    ("POST", "/authentication", {"value": "x"}, 400, "ILLEGAL_ARGUMENT", "username"),
    ("POST", "/authentication/notify?username=jdoe", None, 204, "", ""),
    ("POST", "/session", {"username": "jdoe", "password": PASSWORD}, 201, "", ""),
    ("POST", "/session", {"username": "jdoe", "password": "no"}, 400, "INVALID_USER_AUTHENTICATION", ""),
    ("POST", "/session", {"userName": "jdoe", "password": PASSWORD}, 400, "ILLEGAL_ARGUMENT", "username"),
    ("POST", "/session?validate-password=false", {"username": "jdoe"}, 201, "", ""),
    ("GET", "/session/none", None, 404, "INVALID_SSO_TOKEN", "Token does not validate."),
    ("POST", "/session/none", {"validationFactors": []}, 404, "INVALID_SSO_TOKEN", ""),
    ("DELETE", "/session/none", None, 204, "", ""),
    ("DELETE", "/session?username=jdoe", None, 204, "", ""),
    ("GET", "/config/cookie", None, 200, "", ""),
    # 11, 12: events, webhooks
    ("GET", "/event", None, 200, "", ""),
    ("GET", "/event/8047511070899496297:12", None, 400, "EVENT_TOKEN_EXPIRED", ""),
    ("POST", "/webhook", {"endpointUrl": "http://localhost/x"}, 201, "", ""),
    ("POST", "/webhook", {"endpointUrl": "x"}, 400, "ILLEGAL_ARGUMENT", ""),
    ("GET", "/webhook/99", None, 404, "WEBHOOK_NOT_FOUND", ""),
    # 2: anything else
    ("GET", "/non-existent/location", None, 404, "", ""),
    ("GET", "/users", None, 404, "", ""),
    ("PATCH", "/user?username=jdoe", {}, 405, "", ""),
]
# fmt: on


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason", "message"),
    CLAUSES,
    ids=[f"{m} {p}{'' if b is None else ' ' + json.dumps(b)[:60]} {s}" for m, p, b, s, _, _ in CLAUSES],
)
def test_clause(http: httpx.Client, method: str, path: str, body: Any, status: int, reason: str, message: str) -> None:
    if "authentication" in path or "session" in path:
        for name in ("jdoe", "gone"):
            set_password(http, name)
    # Refused calls first in XML: the reason must be the same, and nothing may have been changed.
    if reason:
        answer = http.request(method, path, json=body, headers={"Accept": "application/xml"})
        error = etree.fromstring(answer.content)
        assert (error.tag, answer.status_code, error.findtext("reason")) == ("error", status, reason)
        assert message in (error.findtext("message") or "")
    answer = http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["X-Embedded-Crowd-Version"].startswith("Crowd/")
    if status == 204:
        assert "content-type" not in answer.headers
        assert not answer.content
    elif reason:
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == {"reason", "message"}
        assert answer.json()["reason"] == reason
        assert message in answer.json()["message"]
    elif status < 300:
        assert answer.headers["content-type"] == "application/json"
        assert not answer.content or answer.json()


# --- the caller


@pytest.mark.parametrize("credentials", [None, ("app", "wrong"), ("nobody", "app-pw"), ("", ""), ("app", "")])
@pytest.mark.parametrize("path", ["/user?username=jdoe", "/non-existent"])
def test_wrong_credentials_are_401_in_plain_text(crowd: RunningCrowd, credentials: Any, path: str) -> None:
    answer = httpx.get(crowd.url + BASE + path, auth=credentials)
    assert (answer.status_code, answer.text) == (401, "Application failed to authenticate")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["www-authenticate"].lower().startswith("basic")
    assert "X-Embedded-Crowd-Version" in answer.headers


def test_foreign_address_is_403_in_html(crowd: RunningCrowd, http: httpx.Client) -> None:
    def allow(*addresses: str, proxies: tuple[str, ...] = ()) -> None:
        app = {"name": "app", "password": "app-pw", "remote_addresses": addresses, "trusted_proxies": proxies}
        crowd.configure(directories=[{"name": "d"}], applications=[app])

    allow("10.0.0.0/8")
    answer = http.get("/config/cookie")
    assert answer.status_code == 403
    assert answer.headers["content-type"].startswith("text/html")
    assert "127.0.0.1" in answer.text
    assert "is forbidden from making requests to the application, app." in answer.text
    allow("localhost")
    assert http.get("/config/cookie").status_code == 200
    allow("10.0.0.0/8", proxies=("127.0.0.1",))
    seen = {
        "10.1.2.3": 200,
        "10.1.2.3, 11.0.0.1": 403,  # the first untrusted one from the right counts
        "11.0.0.1, 10.1.2.3": 200,
    }
    for forwarded, status in seen.items():
        assert http.get("/config/cookie", headers={"X-Forwarded-For": forwarded}).status_code == status


def test_latest_is_version_1(http: httpx.Client, crowd: RunningCrowd) -> None:
    latest = http.get(f"{crowd.url}/rest/usermanagement/latest/user?username=jdoe")
    assert latest.json() == http.get("/user?username=jdoe").json()
    assert http.get(f"{crowd.url}/rest/usermanagement/2/user?username=jdoe").status_code == 404


# --- forms


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        (None, 200, "application/xml"),
        ("*/*", 200, "application/xml"),
        ("application/json", 200, "application/json"),
        ("application/xml", 200, "application/xml"),
        ("application/json, */*", 200, "application/json"),
        ("application/json;q=0.5, application/xml", 200, "application/xml"),
        ("text/html", 406, "text/html;charset=utf-8"),
    ],
)
def test_accept_decides_the_form(crowd: RunningCrowd, accept: str | None, status: int, kind: str) -> None:
    with httpx.Client(auth=("app", "app-pw")) as client:
        del client.headers["accept"]
        answer = client.get(
            f"{crowd.url}{BASE}/user?username=jdoe", headers={"Accept": accept} if accept is not None else {}
        )
    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)


def test_user_in_json(http: httpx.Client, crowd: RunningCrowd) -> None:
    before = int(time.time() * 1000)
    user = http.get("/user?username=JDOE").json()
    link = f"{crowd.url}{BASE}/user"
    key, created, updated = user.pop("key"), user.pop("created-date"), user.pop("updated-date")
    assert key.startswith("32769:")
    assert before - 60_000 < created == updated <= before
    assert user == {
        "expand": "attributes",
        "link": {"href": f"{link}?username=Jdoe", "rel": "self"},
        "name": "Jdoe",
        "first-name": "John",
        "last-name": "Doe",
        "display-name": "John Doe",
        "email": "jdoe@example.org",
        "password": {"link": {"href": f"{link}/password?username=Jdoe", "rel": "edit"}},
        "active": True,
        "attributes": {
            "attributes": [],
            "link": {"href": f"{link}/attribute?username=Jdoe", "rel": "self"},
        },
    }
    by_key = http.get("/user", params={"key": key, "expand": "attributes"}).json()
    assert by_key["name"] == "Jdoe"
    assert [(a["name"], a["values"]) for a in by_key["attributes"]["attributes"]] == [("team", ["red", "blue"])]


def test_user_and_group_in_xml(http: httpx.Client) -> None:
    http.headers["Accept"] = "application/xml"
    answer = http.get("/user?username=jdoe&expand=attributes")
    assert answer.text.startswith(DECLARATION)
    user = etree.fromstring(answer.content)
    assert (user.tag, user.get("name"), user.get("expand")) == ("user", "Jdoe", "attributes")
    assert (user.findtext("first-name"), user.findtext("active")) == ("John", "true")
    assert [value.text for value in user.iterfind("attributes/attribute/values/value")] == ["red", "blue"]
    assert user.find("password/link") is not None
    group = etree.fromstring(http.get("/group?groupname=devs").content)
    assert (group.get("name"), group.findtext("type"), group.findtext("active")) == ("devs", "GROUP", "true")
    assert group.findtext("description") == ""


def test_description_is_missing_when_null_and_empty_when_empty(http: httpx.Client) -> None:
    assert http.get("/group?groupname=staff").json()["description"] == "Everybody"
    assert http.get("/group?groupname=devs").json()["description"] == ""
    assert "description" not in http.get("/group?groupname=leads").json()


def test_empty_list_in_xml_is_exact(http: httpx.Client) -> None:
    http.headers["Accept"] = "application/xml"
    assert http.get("/group/user/direct?groupname=empty").text == f'{DECLARATION}<users expand="user"/>'
    assert http.get("/user/group/direct?username=mailless").text == f'{DECLARATION}<groups expand="group"/>'


def test_hostile_text_survives_both_forms(http: httpx.Client) -> None:
    name, text = 'a&b <c> "d" é 名+%/?#', "x < y & z > \"q\" 'r' \t\n ]]> \U0001f600"
    http.post("/user", json=new_user(name, **{"display-name": text})).raise_for_status()
    http.post("/group", json=group_body(name, description=text)).raise_for_status()
    http.post("/user/group/direct", params={"username": name}, json=named(name)).raise_for_status()
    user = http.get("/user", params={"username": name}).json()
    assert (user["name"], user["display-name"]) == (name, text)
    assert httpx.get(user["link"]["href"], auth=("app", "app-pw")).status_code == 200
    xml = {"Accept": "application/xml"}
    in_xml = etree.fromstring(http.get("/user", params={"username": name}, headers=xml).content)
    assert (in_xml.get("name"), in_xml.findtext("display-name")) == (name, text)
    memberships = etree.fromstring(http.get("/group/membership", headers=xml).content)
    found = {m.get("group"): [u.get("name") for u in m.iterfind("users/user")] for m in memberships}
    assert found[name] == [name]


def test_xml_goes_in(http: httpx.Client, crowd: RunningCrowd) -> None:
    def send(method: str, path: str, text: str) -> httpx.Response:
        answer = http.request(
            method, path, content=text.encode(), headers={"Content-Type": "application/xml; charset=utf-8"}
        )
        assert answer.is_success, answer.text
        return answer

    made = send(
        "POST",
        "/user",
        "<user name='new'><first-name>N</first-name><last-name>U</last-name><display-name>N U</display-name>"
        "<email>n@u</email><password><value>pw</value></password><active>true</active>"
        "<attributes><attribute name='a'><values><value>1</value></values></attribute></attributes></user>",
    )
    assert made.json()["name"] == "new"  # XML in, JSON out
    send("POST", "/authentication?username=new", "<password><value>pw</value></password>")
    send("PUT", "/user/password?username=new", "<password><value>pw2</value></password>")
    send(
        "POST",
        "/user/attribute?username=new",
        "<attributes><attribute name='b'><values><value>x</value><value>y</value></values></attribute></attributes>",
    )
    send("POST", "/group", "<group name='g'><description/><type>GROUP</type><active>true</active></group>")
    send("POST", "/user/group/direct?username=new", "<group name='g'/>")
    send("POST", "/group/user/direct?groupname=g", "<user name='jdoe'/>")
    send("POST", "/group/child-group/direct?groupname=g", "<group name='staff'/>")
    send("POST", "/user/rename?username=new", "<rename><new-name>newer</new-name></rename>")
    session = send(
        "POST",
        "/session",
        "<authentication-context><username>newer</username><password>pw2</password><validation-factors>"
        "<validation-factor><name>remote_address</name><value>1.2.3.4</value></validation-factor>"
        "</validation-factors></authentication-context>",
    ).json()
    send(
        "POST",
        f"/session/{session['token']}",
        "<validation-factors><validation-factor><name>remote_address</name><value>1.2.3.4</value>"
        "</validation-factor></validation-factors>",
    )
    found = send(
        "POST",
        "/search?entity-type=user",
        "<boolean-search-restriction boolean-logic='or'><restrictions><property-search-restriction><property>"
        "<name>name</name><type>STRING</type></property><match-mode>STARTS_WITH</match-mode><value>NEW</value>"
        "</property-search-restriction><property-search-restriction><property><name>active</name>"
        "<type>BOOLEAN</type></property><match-mode>EXACTLY_MATCHES</match-mode><value>false</value>"
        "</property-search-restriction></restrictions></boolean-search-restriction>",
    )
    assert [user["name"] for user in found.json()["users"]] == ["gone", "newer"]
    everyone = send("POST", "/search?entity-type=user", "<null-search-restriction/>").json()["users"]
    assert len(everyone) == 5
    state = crowd.state()
    new = next(user for user in state["users"] if user["name"] == "newer")
    assert (new["attributes"]["a"], new["attributes"]["b"]) == (["1"], ["x", "y"])
    assert ["newer", "g"] in state["memberships"]
    assert ["Staff", "g"] in state["nestings"]


@pytest.mark.parametrize(
    ("kind", "text", "status"),
    [
        ("application/xml", "<user", 400),
        ("application/xml", "<group name='x'/>", 400),
        ("application/xml", "<!DOCTYPE user [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><user name='&e;'/>", 400),
        ("application/json", "{", 400),
        ("application/json", "", 400),
        ("application/json; charset=utf-8", json.dumps(new_user("new")), 201),
        ("application/x-www-form-urlencoded", "name=x", 415),
        (None, json.dumps(new_user("new")), 415),
    ],
)
def test_bodies_are_read_strictly(http: httpx.Client, kind: str | None, text: str, status: int) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert http.post("/user", content=text.encode(), headers=headers).status_code == status


def test_memberships_are_streamed_with_every_group(http: httpx.Client) -> None:
    answer = http.get("/group/membership", headers={"Accept": "application/xml"})
    assert answer.headers["content-type"] == "application/xml"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == (
        f'{DECLARATION}<memberships><membership group="devs"><users><user name="asmith"/></users>'
        '<groups><group name="leads"/></groups></membership>'
        '<membership group="empty"><users/><groups/></membership>'
        '<membership group="leads"><users><user name="asmith"/></users><groups/></membership>'
        '<membership group="Staff"><users><user name="gone"/><user name="Jdoe"/></users>'
        '<groups><group name="devs"/></groups></membership></memberships>'
    )
    assert http.get("/group/membership").status_code == 406  # asked for JSON only


def test_a_long_stream_arrives_whole(crowd: RunningCrowd, http: httpx.Client) -> None:
    names = [f"member-{i:05}" for i in range(5000)]
    crowd.load(
        users=[[name, "", "", "", "", True] for name in names],
        groups=[[f"big-{i}"] for i in range(5)],
        members={f"big-{i}": names for i in range(5)},
    )
    with http.stream("GET", "/group/membership", headers={"Accept": "application/xml"}) as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            if len(pieces) == 2:  # others are served meanwhile, also by a server that waits for this reader
                alone = httpx.get(f"{crowd.url}{BASE}/config/cookie", auth=("app", "app-pw"), timeout=5)
                assert alone.status_code == 200
    listed = etree.fromstring(b"".join(pieces))
    assert [len(m.find("users")) for m in listed if m.get("group").startswith("big-")] == [5000] * 5
    assert listed[0].findall("users/user")[4999].get("name") == names[4999]


def test_head_is_refused_and_leaves_no_broken_connection(http: httpx.Client) -> None:
    assert http.head("/user?username=jdoe").status_code == 405
    assert http.get("/user?username=jdoe").status_code == 200


def test_rendered_forms_follow_every_change(http: httpx.Client) -> None:
    def memberships() -> str:
        return http.get("/group/membership", headers={"Accept": "application/xml"}).text

    def page() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get("/search?entity-type=user&expand=user,attributes&restriction=").json()[
            "users"
        ]
        return found

    memberships(), page()
    http.post("/user/rename?username=jdoe", json={"new-name": "zoe"})
    assert 'user name="zoe"' in memberships()
    assert "Jdoe" not in memberships()
    assert [user["name"] for user in page()] == ["asmith", "gone", "mailless", "zoe"]
    http.put("/user?username=zoe", json=user_body("zoe", email="z@z"))
    assert page()[3]["email"] == "z@z"
    http.post("/user/attribute?username=zoe", json=attributes("team", "green"))
    assert page()[3]["attributes"]["attributes"][0]["values"] == ["green"]
    http.delete("/group/user/direct?groupname=staff&username=zoe")
    assert "zoe" not in memberships()
    http.post("/group/user/direct?groupname=staff", json=named("zoe"))
    http.delete("/user?username=zoe")
    assert "zoe" not in memberships()
    http.delete("/group/child-group/direct?groupname=staff&child-groupname=devs")
    assert 'group name="devs"' not in memberships()
    http.delete("/group?groupname=leads")
    assert "leads" not in memberships()
    assert http.get("/user/group/direct?username=asmith").json()["groups"][0]["name"] == "devs"


# --- meaning


def test_missing_active_is_false(http: httpx.Client) -> None:
    body = new_user("new")
    del body["active"]
    assert http.post("/user", json=body).json()["active"] is False
    group = group_body("new")
    del group["active"]
    http.post("/group", json=group)
    assert http.get("/group?groupname=new").json()["active"] is False


def test_put_of_a_user_replaces_it(http: httpx.Client) -> None:
    def fields() -> tuple[Any, ...]:
        user = http.get("/user?username=jdoe").json()
        return tuple(user[k] for k in ("first-name", "last-name", "display-name", "email", "active"))

    set_password(http, "jdoe")
    created = http.get("/user?username=jdoe").json()
    # Empty first name and e-mail change nothing (CWD-5690).
    http.put("/user?username=jdoe", json=user_body("jdoe", **{"first-name": "", "email": ""}))
    assert fields() == ("John", "L", "F L", "jdoe@example.org", True)
    # Missing ones are emptied, and the user name becomes the last name (CWD-2634).
    http.put("/user?username=jdoe", json={"name": "jdoe"})
    assert fields() == ("", "Jdoe", "Jdoe", "", False)
    http.put("/user?username=jdoe", json={**created, "password": {"value": "other"}, "attributes": None})
    assert fields() == ("John", "Doe", "John Doe", "jdoe@example.org", True)
    # The password, the key, the attributes and the stored case are as before.
    assert http.post("/authentication?username=jdoe", json={"value": PASSWORD}).status_code == 200
    after = http.get("/user?username=jdoe&expand=attributes").json()
    assert (after["key"], after["name"]) == (created["key"], "Jdoe")
    assert after["updated-date"] >= created["updated-date"]
    assert "team" in {a["name"] for a in after["attributes"]["attributes"]}


def test_create_makes_missing_names(http: httpx.Client) -> None:
    made = http.post("/user", json={"name": "new", "password": {"value": "p"}, "first-name": "Nel"}).json()
    assert (made["last-name"], made["display-name"], made["email"]) == ("new", "Nel new", "")


def test_attributes_are_replaced_by_name(http: httpx.Client) -> None:
    def found() -> dict[str, list[str]]:
        listed = http.get("/user/attribute?username=jdoe").json()["attributes"]
        return {a["name"]: a["values"] for a in listed}

    http.post("/user/attribute?username=jdoe", json=attributes("size", True, 12, "12", ""))
    assert found() == {"team": ["red", "blue"], "size": ["true", "12", ""]}
    http.post("/user/attribute?username=jdoe", json=attributes("team"))
    assert found() == {"size": ["true", "12", ""]}


def test_crowds_own_attributes(http: httpx.Client) -> None:
    http.post("/user", json=new_user("new", attributes=attributes("mine", "1")))
    http.post("/authentication?username=new", json={"value": "wrong"})

    def found() -> dict[str, str]:
        listed = http.get("/user/attribute?username=new").json()["attributes"]
        return {a["name"]: a["values"][0] for a in listed}

    assert (found()["mine"], found()["invalidPasswordAttempts"]) == ("1", "1")
    http.post("/authentication?username=new", json={"value": "pw"})
    assert found()["invalidPasswordAttempts"] == "0"
    assert "lastAuthenticated" in found()


def test_rename_keeps_key_and_memberships_and_delete_frees_the_name(http: httpx.Client) -> None:
    key = http.get("/user?username=jdoe").json()["key"]
    assert http.post("/user/rename?username=jdoe", json={"new-name": "John"}).json()["key"] == key
    assert http.get("/user?username=jdoe").status_code == 404
    assert http.get("/user/group/direct?username=john").json()["groups"][0]["name"] == "Staff"
    http.delete("/user?username=john")
    made = http.post("/user", json=new_user("john")).json()
    assert made["key"] != key
    assert http.get("/user/group/direct?username=john").json() == {"expand": "group", "groups": []}
    assert http.get("/user", params={"key": key}).status_code == 404


def test_nested_memberships(http: httpx.Client) -> None:
    def names(path: str, kind: str) -> list[str]:
        return [one["name"] for one in http.get(path).json()[kind]]

    assert names("/group/user/direct?groupname=staff", "users") == ["gone", "Jdoe"]
    assert names("/group/user/nested?groupname=staff", "users") == ["asmith", "gone", "Jdoe"]  # each once
    assert names("/user/group/direct?username=asmith", "groups") == ["devs", "leads"]
    assert names("/user/group/nested?username=asmith", "groups") == ["devs", "leads", "Staff"]
    assert names("/group/child-group/nested?groupname=staff", "groups") == ["devs", "leads"]
    assert names("/group/parent-group/nested?groupname=leads", "groups") == ["devs", "Staff"]
    assert names("/group/parent-group/direct?groupname=leads", "groups") == ["devs"]


def test_nested_groups_can_be_unsupported(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.configure(
        directories=[{"name": "d", "nested_groups": False}],
        applications=[{"name": "app", "password": "app-pw"}],
    )
    crowd.load(groups=[["a"], ["b"]])
    answer = http.post("/group/child-group/direct?groupname=a", json=named("b"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "NESTED_GROUPS_NOT_SUPPORTED")


def test_one_member_asked_for_is_a_single_entity(http: httpx.Client) -> None:
    one = http.get("/group/user/direct?groupname=staff&username=jdoe").json()
    assert one.keys() == {"name", "link"}
    assert http.get("/user/group/direct?username=jdoe&groupname=staff&expand=group").json()["type"] == "GROUP"


def test_delete_with_a_body(http: httpx.Client) -> None:
    answer = http.request("DELETE", "/user?username=jdoe", json={})
    assert answer.status_code == 204


# --- paging and search


def test_paging(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.load(users=[[f"u{i:04}", "", "", "", "", True] for i in range(1100)])

    def names(query: str) -> list[str]:
        return [one["name"] for one in http.get(f"/search?entity-type=user{query}").json()["users"]]

    everybody = names("&max-results=-1")
    assert everybody == sorted(everybody, key=str.lower)
    assert len(everybody) == 1104
    assert names("") == everybody[:1000]
    assert names("&start-index=1000") == everybody[1000:]
    assert names("&start-index=7&max-results=3") == everybody[7:10]
    assert names("&start-index=5000") == []
    assert names("&max-results=99999&restriction=") == everybody
    assert names("&restriction=name%3Du*&start-index=2&max-results=2") == ["u0002", "u0003"]
    members = "/group/user/nested?groupname=staff&start-index=1&max-results=1"
    assert [u["name"] for u in http.get(members).json()["users"]] == ["gone"]


def test_expand(http: httpx.Client) -> None:
    def first(expand: str) -> dict[str, Any]:
        listed = http.get("/search", params={"entity-type": "user", "expand": expand, "start-index": 2}).json()
        assert listed["expand"] == "user"
        found: dict[str, Any] = listed["users"][0]
        return found

    assert first("").keys() == {"name", "link"}
    assert first("user")["attributes"]["attributes"] == []
    assert first("user,attributes")["attributes"]["attributes"][0]["name"] == "team"
    group = http.get("/search?entity-type=group&expand=group,attributes&start-index=3").json()["groups"][0]
    assert (group["name"], group["attributes"]["attributes"][0]["values"]) == ("Staff", ["3"])


@pytest.mark.parametrize(
    ("cql", "names"),
    [
        ("name = jdoe", ["Jdoe"]),
        ('name="JDOE"', ["Jdoe"]),
        ("name = j*", ["Jdoe"]),
        ("name = *smith", ["asmith"]),
        ("displayName = *o*", ["gone", "Jdoe", "mailless"]),
        ('displayName = "Ann Smith"', ["asmith"]),
        ("firstName=John or lastName=smith", ["asmith", "Jdoe"]),
        ("active = false", ["gone"]),
        ("active=true and (name=gone or name=jdoe)", ["Jdoe"]),
        ("name=gone or name=jdoe and active=false", ["gone"]),
        ("team = RED", ["Jdoe"]),
        ("email = *@example.org AND active = true", ["asmith", "Jdoe"]),
        ("createdDate > 2020-01-01", ["asmith", "gone", "Jdoe", "mailless"]),
        ("updatedDate < 2020-01-01", []),
    ],
)
def test_cql(http: httpx.Client, cql: str, names: list[str]) -> None:
    found = http.get("/search", params={"entity-type": "user", "restriction": cql}).json()
    assert [user["name"] for user in found["users"]] == names


@pytest.mark.parametrize("cql", ["name =", "= x", "name = a b", "(name = a", "name ~ a", "not name = a", 'n="'])
def test_bad_cql(cql: str) -> None:
    with pytest.raises(Refusal):
        from_cql("user", cql)


def test_search_trees(http: httpx.Client) -> None:
    def names(tree: dict[str, Any], kind: str = "user") -> list[str]:
        found = http.post("/search", params={"entity-type": kind}, json=tree)
        return [one["name"] for one in found.json()[f"{kind}s"]]

    assert names(restriction("email", "EXAMPLE", "CONTAINS")) == ["asmith", "gone", "Jdoe"]
    assert names(restriction("email", None, "NULL")) == ["mailless"]
    assert names(restriction("active", False, kind="BOOLEAN")) == ["gone"]
    assert names(restriction("team", "blue")) == ["Jdoe"]
    assert names(restriction("name", "s", "STARTS_WITH"), "group") == ["Staff"]
    older = restriction("name", "jdoe")
    older["matchMode"] = older.pop("match-mode")
    assert names(older) == ["Jdoe"]
    both = {
        "restriction-type": "boolean-search-restriction",
        "boolean-logic": "and",
        "restrictions": [restriction("name", "e", "CONTAINS"), restriction("active", "true", kind="BOOLEAN")],
    }
    assert names(both) == ["Jdoe", "mailless"]
    assert len(names({"restriction-type": "null-search-restriction"})) == 4


# --- authentication and sessions


def test_session_life(http: httpx.Client) -> None:
    set_password(http, "jdoe")
    factors = {"validationFactors": [{"name": "remote_address", "value": "1.2.3.4"}]}
    body = {"username": "jdoe", "password": PASSWORD, "validation-factors": factors}
    session = http.post("/session?duration=60", json=body).json()
    assert session["user"].keys() == {"name", "link"}
    assert session["expiry-date"] - session["created-date"] == 60_000
    token = f"/session/{session['token']}"
    assert http.get(token).json()["user"]["email"] == "jdoe@example.org"
    assert http.post(token, json=factors).status_code == 200
    other = {"validationFactors": [{"name": "remote_address", "value": "4.3.2.1"}]}
    assert http.post(token, json=other).json()["reason"] == "INVALID_SSO_TOKEN"
    elsewhere = {**body, "validation-factors": other}
    second = http.post("/session?expand=user", json=elsewhere).json()
    assert second["user"]["last-name"] == "Doe"
    http.delete("/session", params={"username": "jdoe", "exclude": second["token"]})
    assert http.get(token).status_code == 404
    assert http.get(f"/session/{second['token']}").status_code == 200
    http.put("/user?username=jdoe", json=user_body("jdoe", active=False))
    assert http.get(f"/session/{second['token']}").status_code == 404


def test_a_second_sign_on_with_the_same_factors_is_the_same_session(http: httpx.Client) -> None:
    """201 and the same token, as Atlassian's page on tokens says; without factors, too."""
    set_password(http, "jdoe")
    for factors in ({"validationFactors": [{"name": "remote_address", "value": "1.2.3.4"}]}, {"validationFactors": []}):
        body = {"username": "jdoe", "password": PASSWORD, "validation-factors": factors}
        first, second = http.post("/session", json=body), http.post("/session", json={**body, "username": "JDoe"})
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["token"] == second.json()["token"]
        assert first.json()["created-date"] == second.json()["created-date"]
        assert http.post("/session", json={**body, "password": "no"}).status_code == 400
        assert http.delete(f"/session/{first.json()['token']}").status_code == 204
        third = http.post("/session", json=body).json()
        assert third["token"] != first.json()["token"], "one that has ended does not come back"


def test_the_cookie_has_its_elements_in_the_order_that_clients_rely_on(http: httpx.Client) -> None:
    """Atlassian's module for Apache reads the elements in turn, and stops at another order."""
    answer = http.get("/config/cookie", headers={"Accept": "application/xml"})
    names = [element.tag for element in etree.fromstring(answer.content)]
    assert names == ["domain", "secure", "name"]
    assert etree.fromstring(answer.content).tag == "cookie-config"
    assert http.get("/config/cookie").json() == {"domain": "", "name": "crowd.token_key", "secure": False}


@pytest.mark.parametrize(
    ("permissions", "user", "group"),
    [("all", 201, 201), ("read-only", 403, 403), ("users", 201, 403), ("groups", 403, 201)],
)
def test_a_crowd_starts_with_a_set_of_permissions(permissions: str, user: int, group: int) -> None:
    auth, accept = ("app", "app-pw"), {"Accept": "application/json"}
    with running(applications=dict([auth]), permissions=permissions) as crowd:
        made = [
            httpx.post(f"{crowd.url}{BASE}/{kind}", auth=auth, headers=accept, json=body)
            for kind, body in (("user", new_user("new")), ("group", {"name": "g", "type": "GROUP"}))
        ]
        assert [one.status_code for one in made] == [user, group]
        assert {one.json()["reason"] for one in made if one.status_code == 403} <= {"APPLICATION_PERMISSION_DENIED"}
        assert httpx.get(f"{crowd.url}{BASE}/search?entity-type=user", auth=auth).status_code == 200


def test_the_command_starts_a_crowd_that_may_only_be_read() -> None:
    command = [sys.executable, "-c", "from deployments.cli import main; main()", "sandbox", "crowd"]
    command += ["--application", "app:app-pw", "--permissions"]
    wrong = subprocess.run([*command, "some"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 2
    assert "--permissions: 'some' is none of all, read-only, users, groups" in wrong.stderr
    with subprocess.Popen([*command, "read-only"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("listening on ").strip() + BASE
        try:
            assert httpx.post(f"{url}/user", auth=("app", "app-pw"), json=new_user("new")).status_code == 403
            assert httpx.get(f"{url}/search?entity-type=user", auth=("app", "app-pw")).status_code == 200
        finally:
            process.terminate()


def test_users_who_may_not_use_the_application(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.configure(
        directories=[{"name": "d", "password_pattern": "^.{8,}$", "max_attempts": 2}],
        applications=[{"name": "app", "password": "app-pw", "allowed_groups": ["STAFF"]}],
    )
    crowd.load(**COMPANY)
    for name in ("jdoe", "asmith", "mailless"):
        set_password(http, name)
    ask = {"value": PASSWORD}
    assert http.post("/authentication?username=asmith", json=ask).status_code == 200  # through nesting
    refused = http.post("/authentication?username=mailless", json=ask)
    assert (refused.status_code, refused.json()["reason"]) == (400, "APPLICATION_ACCESS_DENIED")
    refused = http.post("/session", json={"username": "mailless", "password": PASSWORD})
    assert (refused.status_code, refused.json()["reason"]) == (403, "APPLICATION_ACCESS_DENIED")
    weak = http.put("/user/password?username=jdoe", json={"value": "short"})
    assert (weak.status_code, weak.json()["reason"]) == (400, "INVALID_CREDENTIAL")
    assert http.post("/user", json=new_user("new")).json()["reason"] == "INVALID_CREDENTIAL"
    for _ in range(2):
        http.post("/authentication?username=jdoe", json={"value": "wrong"})
    assert http.post("/authentication?username=jdoe", json=ask).json()["reason"] == "INVALID_USER_AUTHENTICATION"


# --- events and webhooks


def test_events(http: httpx.Client) -> None:
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
    token = http.get("/event").json()["newEventToken"]
    crowd.load(users=[["many", "", "", "", "", True]])
    assert http.get(f"/event/{token}").json()["reason"] == "EVENT_TOKEN_EXPIRED"
    crowd.configure(directories=[{"name": "d", "events": False}], applications=[{"name": "app", "password": "app-pw"}])
    now = http.get("/event").json()
    assert now["incrementalSynchronisationAvailable"] is False
    refused = http.get(f"/event/{now['newEventToken']}")
    assert (refused.status_code, refused.json()["reason"]) == (400, "INCREMENTAL_SYNC_NOT_AVAILABLE")


def test_webhooks_are_registered(http: httpx.Client) -> None:
    body = {"endpointUrl": "http://localhost:1/hook", "token": "t"}
    made = http.post("/webhook", json=body).json()
    assert http.post("/webhook", json=body).json()["id"] == made["id"]
    path = f"/webhook/{made['id']}"
    assert http.get(path).json()["endpointUrl"] == body["endpointUrl"]
    assert http.get(path, auth=("other", "other-pw")).status_code == 404
    assert http.delete(path).status_code == 204
    assert http.get(path).json()["reason"] == "WEBHOOK_NOT_FOUND"


# --- several directories


def two_directories(crowd: RunningCrowd, *, aggregate: bool = False, **permissions: list[str]) -> None:
    from deployments.sandbox.crowd_data import PERMISSIONS

    mapped = [{"name": n, "permissions": permissions.get(n, sorted(PERMISSIONS))} for n in ("one", "two")]
    crowd.configure(
        directories=[{"name": "one"}, {"name": "two"}],
        applications=[{"name": "app", "password": "app-pw", "directories": mapped, "aggregate": aggregate}],
    )
    crowd.load(
        users=[["ann", "A", "One", "A One", "1@x", True], ["bob", "B", "B", "B B", "b@x", True]],
        groups=[["both"], ["one-only"]],
        memberships=[["ann", "both"]],
        directory="one",
    )
    crowd.load(
        users=[["ANN", "A", "Two", "A Two", "2@x", True], ["cy", "C", "C", "C C", "c@x", True]],
        groups=[["both"], ["two-only"]],
        memberships=[["ann", "two-only"], ["cy", "both"], ["ann", "both"]],
        directory="two",
    )


def group_names(http: httpx.Client, user: str) -> list[str]:
    return [g["name"] for g in http.get(f"/user/group/direct?username={user}").json()["groups"]]


def member_names(http: httpx.Client, group: str) -> list[str]:
    return [u["name"] for u in http.get(f"/group/user/direct?groupname={group}").json()["users"]]


def test_first_directory_masks_the_others(crowd: RunningCrowd, http: httpx.Client) -> None:
    two_directories(crowd)
    users = http.get("/search?entity-type=user").json()["users"]
    assert [user["name"] for user in users] == ["ann", "bob", "cy"]
    assert http.get("/user?username=ann").json()["last-name"] == "One"
    assert group_names(http, "ann") == ["both"]
    assert member_names(http, "two-only") == []
    assert member_names(http, "both") == ["ann", "cy"]
    xml = http.get("/group/membership", headers={"Accept": "application/xml"}).text
    assert '<membership group="two-only"><users/><groups/></membership>' in xml
    http.delete("/user?username=ann")  # only the first one found
    assert http.get("/user?username=ann").json()["last-name"] == "Two"
    assert group_names(http, "ann") == ["both", "two-only"]


def test_aggregating_memberships(crowd: RunningCrowd, http: httpx.Client) -> None:
    two_directories(crowd, aggregate=True)
    assert group_names(http, "ann") == ["both", "two-only"]
    assert member_names(http, "two-only") == ["ann"]
    http.delete("/group/user/direct?groupname=both&username=ann")  # from every directory
    assert ["ann", "both"] not in crowd.state("one")["memberships"]
    assert ["ANN", "both"] not in crowd.state("two")["memberships"]


def test_writes_go_where_section_13_says(crowd: RunningCrowd, http: httpx.Client) -> None:
    two_directories(crowd, one=["modify-user", "modify-group"])
    assert http.post("/user", json=new_user("new")).status_code == 201
    assert "new" in {user["name"] for user in crowd.state("two")["users"]}
    assert http.post("/user", json=new_user("BOB")).json()["reason"] == "INVALID_USER"
    for call in (("DELETE", "/user?username=ann"), ("DELETE", "/group?groupname=one-only")):
        refused = http.request(*call)
        assert (refused.status_code, refused.json()["reason"]) == (403, "APPLICATION_PERMISSION_DENIED")
    refused = http.post("/user/attribute?username=bob", json=attributes("a", "b"))
    assert (refused.status_code, refused.json()["reason"]) == (403, "APPLICATION_PERMISSION_DENIED")
    http.put("/group?groupname=both", json=group_body("both", description="new"))
    assert [g["description"] for d in ("one", "two") for g in crowd.state(d)["groups"] if g["name"] == "both"] == [
        "new",
        "new",
    ]
    two_directories(crowd)
    http.post("/group", json=group_body("everywhere"))
    assert all("everywhere" in {g["name"] for g in crowd.state(d)["groups"]} for d in ("one", "two"))
    http.post("/user/group/direct?username=bob", json=named("everywhere"))
    assert ["bob", "everywhere"] in crowd.state("one")["memberships"]
    assert ["bob", "everywhere"] not in crowd.state("two")["memberships"]


def test_read_only_directory(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.configure(
        directories=[{"name": "ldap", "read_only": True}], applications=[{"name": "app", "password": "app-pw"}]
    )
    crowd.load(**COMPANY)
    before = crowd.digest()
    for method, path, body in (
        ("POST", "/user", new_user("new")),
        ("PUT", "/user?username=jdoe", user_body("jdoe")),
        ("DELETE", "/user?username=jdoe", None),
        ("POST", "/group", group_body("new")),
        ("POST", "/user/group/direct?username=jdoe", named("devs")),
    ):
        refused = http.request(method, path, json=body)
        assert (refused.status_code, refused.json()["reason"]) == (403, "UNSUPPORTED_OPERATION")
    assert crowd.digest() == before


# --- control


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


# --- faults


def test_status_faults(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults(
        [
            {
                "kind": "429",
                "method": "get",
                "path": "/user",
                "nth": [1, 3],
                "retry_after": 2,
                "headers": {"X-RateLimit-Limit": "5"},
            },
            {"kind": "status", "status": 503, "path_regex": "^/group$", "every": 2},
        ]
    )
    answers = [http.get("/user?username=jdoe") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [429, 200, 429, 200]
    assert (answers[0].headers["retry-after"], answers[0].headers["x-ratelimit-limit"]) == ("2", "5")
    assert "X-Embedded-Crowd-Version" in answers[0].headers
    assert [http.get("/group?groupname=devs").status_code for _ in range(4)] == [200, 503, 200, 503]
    assert http.put("/user?username=jdoe", json=user_body("jdoe")).status_code == 204
    assert [fault["fired"] for fault in crowd.counts()["faults"]] == [2, 2]
    crowd.faults([{"kind": 500, "query": "username=asm", "times": 1}])
    assert http.get("/user?username=jdoe").status_code == 200
    assert [http.get("/user?username=asmith").status_code for _ in range(2)] == [500, 200]


def test_probable_faults_are_the_same_in_every_run(crowd: RunningCrowd, http: httpx.Client) -> None:
    runs = []
    for seed in (7, 7, 8):
        crowd.faults([{"kind": 500, "probability": 0.4, "seed": seed}])
        runs.append([http.get("/user?username=jdoe").status_code for _ in range(40)])
    assert runs[0] == runs[1] != runs[2]
    assert 5 < runs[0].count(500) < 30


def test_a_refused_write_is_not_made(crowd: RunningCrowd, http: httpx.Client) -> None:
    before = crowd.digest()
    for rule in ({"kind": 503}, {"kind": "html"}, {"kind": "empty"}):
        crowd.faults([rule])
        http.delete("/user?username=jdoe")
    crowd.faults([{"kind": "reset"}])
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        http.delete("/user?username=jdoe")
    assert crowd.digest() == before


def test_reset_is_a_tcp_reset(crowd: RunningCrowd) -> None:
    crowd.faults([{"kind": "reset"}])
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.sendall(
            f"GET /crowd{BASE}/user?username=jdoe HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\r\n".encode()
        )
        with pytest.raises(ConnectionResetError):
            connection.recv(1000)


@pytest.mark.parametrize("kind", ["committed-reset", "committed-silence"])
def test_committed_but_never_answered(crowd: RunningCrowd, http: httpx.Client, kind: str) -> None:
    crowd.faults([{"kind": kind, "method": "DELETE"}])
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout)):
        http.delete("/user?username=jdoe", timeout=0.3)
    assert http.get("/user?username=jdoe").status_code == 404


def test_slow(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults([{"kind": "slow", "delay": 0.3, "times": 1}])
    started = time.monotonic()
    assert http.get("/user?username=jdoe").json()["name"] == "Jdoe"
    assert time.monotonic() - started >= 0.3
    crowd.faults([{"kind": "slow", "delay": 5}])
    with pytest.raises(httpx.ReadTimeout):
        http.get("/user?username=jdoe", timeout=0.2)


@pytest.mark.parametrize("path", ["/search?entity-type=user", "/group/membership"])
def test_truncated_answers_break_the_framing(crowd: RunningCrowd, http: httpx.Client, path: str) -> None:
    crowd.faults([{"kind": "truncated", "fraction": 0.5}])
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(path, headers={"Accept": "application/xml"})
    with http.stream("GET", path, headers={"Accept": "application/xml"}) as answer:
        assert answer.status_code == 200  # the head, and some of the body, do arrive
        with pytest.raises(httpx.RemoteProtocolError):
            answer.read()


@pytest.mark.parametrize("path", ["/search?entity-type=user", "/group/membership"])
def test_truncated_documents_keep_the_framing(crowd: RunningCrowd, http: httpx.Client, path: str) -> None:
    crowd.faults([{"kind": "truncated-document", "fraction": 0.7}])
    answer = http.get(path, headers={"Accept": "application/xml"})
    assert answer.status_code == 200
    assert answer.content
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(answer.content)


def test_html_and_empty_200(crowd: RunningCrowd, http: httpx.Client) -> None:
    crowd.faults([{"kind": "html", "nth": 1}, {"kind": "empty", "nth": 2}])
    page, empty = http.get("/search?entity-type=user"), http.get("/search?entity-type=user")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (200, "text/html")
    assert (empty.status_code, empty.content, empty.headers["content-type"]) == (200, b"", "application/json")


def test_lying_pages(crowd: RunningCrowd, http: httpx.Client) -> None:
    def names(start: int) -> list[str]:
        listed = http.get(f"/search?entity-type=user&max-results=2&start-index={start}").json()
        return [user["name"] for user in listed["users"]]

    crowd.faults([{"kind": "empty-list"}])
    assert names(0) == []
    crowd.faults([{"kind": "repeated-page", "nth": 2}])
    assert [names(0), names(2)] == [["asmith", "gone"], ["asmith", "gone"]]
    crowd.faults([{"kind": "dropped-items", "drop": 1, "seed": 1}])
    assert len(names(0)) == 1
    crowd.faults([{"kind": "dropped-items", "drop": 1, "path": "/group/membership"}])
    xml = etree.fromstring(http.get("/group/membership", headers={"Accept": "application/xml"}).content)
    assert len(xml) == 3


@pytest.mark.parametrize("rule", [{"kind": "flood"}, {"kind": 500, "metod": "GET"}, {}])
def test_misspelt_rules_are_refused(crowd: RunningCrowd, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="refused faults"):
        crowd.faults([rule])


def test_pipelined_requests_are_answered_in_order(crowd: RunningCrowd) -> None:
    crowd.faults([{"kind": "slow", "delay": 0.1, "path": "/group", "times": 1}])
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    asked = ["user?username=jdoe", "group?groupname=devs", "group/membership", "user?username=gone"]
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall("".join(f"GET /crowd{BASE}/{one} {head}\r\n" for one in asked[:-1]).encode())
        connection.sendall(f"GET /crowd{BASE}/{asked[-1]} {head}Connection: close\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    places = [
        received.index(text) for text in (b'"Jdoe" expand', b'"devs" expand', b"</memberships>", b'"gone" expand')
    ]
    assert places == sorted(places)


# --- speed


def processor_seconds(pid: int) -> float:
    """What a process has used: unlike the clock, it does not depend on who else is busy."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("method", "path", "body", "floor"),
    [
        ("GET", "/user?username=jdoe", "", 1500),
        ("GET", "/user/group/direct?username=asmith", "", 1500),
        ("PUT", "/user?username=jdoe", json.dumps(user_body("jdoe")), 1000),
        ("POST", "/user/attribute?username=jdoe", json.dumps(attributes("a", "b")), 1000),
    ],
)
def test_it_is_fast_enough(crowd: RunningCrowd, method: str, path: str, body: str, floor: int) -> None:
    parts = urlsplit(crowd.url)
    token = base64.b64encode(b"app:app-pw").decode()
    request = (
        f"{method} /crowd{BASE}{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n"
        f"Accept: application/json\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    before = processor_seconds(crowd.process.pid)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        for _ in range(1000):
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 20")
    spent = processor_seconds(crowd.process.pid) - before
    assert 1000 / max(spent, 0.01) > floor
    assert sum(crowd.counts()["statuses"].values()) == 1000


# --- clients that we did not write


@pytest.mark.parametrize(
    ("version", "calls", "wrong"),
    [
        ("4.0.7", 11, []),
        ("5.0.5", 44, ["group_add_user", "group_store_attributes", "session_create", "user_store_attributes"]),
    ],
)
def test_atlassian_python_api(crowd: RunningCrowd, version: str, calls: int, wrong: list[str]) -> None:
    crowd.clear()
    done = drive(
        Path(__file__).parent / "crowd_clients" / "atlassian_driver.py",
        *(crowd.url, "app", "app-pw"),
        package=client_package(f"atlassian-python-api=={version}"),
    )
    assert (len(done["calls"]), done["wrong"]) == (calls, wrong)


def test_python_crowd(crowd: RunningCrowd, monkeypatch: pytest.MonkeyPatch) -> None:
    import crowd as python_crowd

    monkeypatch.setenv("NO_PROXY", "*")
    crowd.clear()
    client = python_crowd.CrowdServer(crowd.url, "app", "app-pw")
    made: set[str] = set()

    def call(name: str, *arguments: Any, **named_arguments: Any) -> Any:
        made.add(name)
        return getattr(client, name)(*arguments, **named_arguments)

    assert call("auth_ping") is True
    assert python_crowd.CrowdServer(crowd.url, "app", "wrong").auth_ping() is False
    assert call("add_user", "Ann", password="pw", email="ann@example.org", first_name="Ann") is True
    assert call("add_user", "ann", password="pw", email="x") is False
    assert call("add_user", "bob", password="pw", email="bob@example.org") is True
    with pytest.raises(RuntimeError, match="User <BOB> already exists"):
        client.add_user("BOB", raise_on_error=True, password="pw", email="x")
    assert call("get_user", "ann")["first-name"] == "Ann"
    assert call("get_user", "nobody") is None
    assert call("user_exists", "ANN") is True
    assert call("auth_user", "ann", "pw")["name"] == "Ann"
    assert call("auth_user", "ann", "wrong") is None
    assert call("set_active", "ann", False) is True
    assert client.auth_user("ann", "pw") is None
    assert call("set_active", "ann", True) is True
    assert client.auth_user("ann", "pw") is not None  # the PUT of a whole document left the password
    assert call("set_user_attribute", "ann", "admin", True) is True
    stored = {a["name"]: a["values"] for a in client.get_user("ann")["attributes"]["attributes"]}
    assert stored["admin"] == ["true"]
    assert call("change_password", "ann", "pw2") is True
    assert call("send_password_reset_link", "ann") is True
    assert call("send_password_reset_link", "nobody") is False
    assert call("create_group", "staff", "All") is None
    assert call("create_group", "STAFF") == "Group <STAFF> already exists"
    assert client.create_group("team") is None
    assert call("update_group", "staff", {"description": "Everybody", "active": True}) is None
    assert call("add_child_group", "team", "staff") is None
    assert "circle" in client.add_child_group("staff", "team")
    assert call("add_user_to_group", "ann", "staff") is True
    assert call("add_user_to_group", "ann", "staff") is False
    assert client.add_user_to_group("bob", "team") is True
    assert call("get_groups", "ann") == ["staff"]
    assert call("get_nested_groups", "bob") == ["staff", "team"]
    assert call("get_nested_group_users", "staff") == ["Ann", "bob"]
    assert call("get_memberships") == {
        "staff": {"users": ["Ann"], "groups": ["team"]},
        "team": {"users": ["bob"], "groups": []},
    }
    found = call("search", "user", "email", "EXAMPLE.org")
    assert [user["display-name"] for user in found["users"]] == ["Ann", "bob"]
    assert [g["name"] for g in client.search("group", "name", "tea")["groups"]] == ["team"]
    session = call("get_session", "ann", "pw2", remote="1.2.3.4", proxy="5.6.7.8")
    assert session["user"]["email"] == "ann@example.org"
    assert call("validate_session", session["token"], remote="1.2.3.4", proxy="5.6.7.8")["token"]
    assert call("validate_session", session["token"], remote="1.2.3.4") is None
    assert call("terminate_session", session["token"]) is True
    assert call("get_cookie_conf")["name"] == "crowd.token_key"
    assert call("remove_user_from_group", "ann", "staff") is True
    assert call("remove_user_from_group", "ann", "staff") is False
    assert call("remove_child_group", "team", "staff") is None
    assert call("remove_group", "team") is None
    assert call("remove_group", "team") == "Group <team> does not exist"
    public = {name for name in vars(python_crowd.CrowdServer) if not name.startswith("_")}
    assert made == public
