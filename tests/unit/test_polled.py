"""What providers' own events name, as it is polled; where a poll goes on; and when that is not certain."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.errors import StaleCursorError
from connectors.hooks import google, keycloak, okta, onelogin
from connectors.polling import MOST_EVENTS, Found, Point, cursor_of, digest, lost, points, reached
from connectors.settings import Settings
from tests.support.deliveries import okta_event


def said(found: Any) -> list[str]:
    return [f"{one.via} {one.kind} {one.key}".strip() if one else "nonsense" for one in found]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"operationType": "CREATE", "resourceType": "USER", "resourcePath": "users/k1"}, ["poll user k1"]),
        ({"resourceType": "GROUP_MEMBERSHIP", "resourcePath": "users/k1/groups/g1"}, ["poll user k1"]),
        ({"resourceType": "GROUP", "resourcePath": "groups/g1"}, ["poll group g1"]),
        (
            {"resourceType": "GROUP", "resourcePath": "groups/g1/children", "representation": '{"id":"g2"}'},
            ["poll group g1", "poll group g2"],
        ),
        ({"resourceType": "CLIENT", "resourcePath": "clients/c1"}, []),
        ({"type": "LOGIN", "userId": "k1"}, ["sign-in user k1"]),
        ({"type": "UPDATE_EMAIL", "userId": "k1"}, ["poll user k1"]),
        ({"type": "LOGIN_ERROR", "userId": "k1"}, []),
        ({"type": "LOGIN"}, ["nonsense"]),
        ({}, ["nonsense"]),
    ],
)
def test_keycloak(event: dict[str, Any], expected: list[str]) -> None:
    assert said(keycloak.news_of(event, "poll")) == expected


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        (13, {"user_id": 7}, ["poll user 7"]),
        (147, {"user_id": 7, "role_id": 8}, ["poll user 7"]),
        (4, {"role_id": 8}, ["poll group 8"]),
        (5, {"user_id": 7}, ["sign-in user 7"]),
        (6, {"user_id": 7}, []),
        (None, {"user_id": 7}, ["nonsense"]),
    ],
)
def test_onelogin(kind: int | None, more: dict[str, Any], expected: list[str]) -> None:
    assert said(onelogin.news_of({"id": 1, "event_type_id": kind, **more}, "poll")) == expected


def activity(name: str, application: str = "admin", **said: str) -> dict[str, Any]:
    given = [{"name": key, "value": value} for key, value in said.items()]
    events = [{"name": name, "parameters": given}]
    return {"id": {"applicationName": application}, "actor": {"profileId": "117"}, "events": events}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (activity("SUSPEND_USER", USER_EMAIL="ann@x.io"), ["poll user ann@x.io"]),
        (activity("ADD_GROUP_MEMBER", USER_EMAIL="ann@x.io", GROUP_EMAIL="g@x.io"), ["poll user ann@x.io"]),
        (activity("DELETE_GROUP", GROUP_EMAIL="g@x.io"), ["poll everybody"]),
        (activity("GROUP_MEMBER_BULK_UPLOAD", GROUP_EMAIL="g@x.io"), ["poll everybody"]),
        (activity("CHANGE_GROUP_SETTING", GROUP_EMAIL="g@x.io"), []),
        (activity("CHANGE_CALENDAR_SETTING"), []),
        (activity("login_success", "login"), ["sign-in user 117"]),
        (activity("login_failure", "login"), []),
        ({"id": {"applicationName": "admin"}, "events": "none"}, []),
    ],
)
def test_google(body: dict[str, Any], expected: list[str]) -> None:
    assert said(google.activity(body, "poll")) == expected


def test_okta() -> None:
    assert said(okta.news_of(okta_event(), "poll")) == ["poll user 00u1"]
    start = okta_event("user.session.start", target=[], actor={"id": "00u1", "type": "User"})
    assert said(okta.news_of(start, "poll")) == ["sign-in user 00u1"]
    assert list(okta.news_of(start | {"outcome": {"result": "FAILURE"}}, "poll")) == []


def test_a_cursor_is_read_as_it_was_written() -> None:
    at = {"admin": Point(17, "e1"), "user": Point(0)}
    assert points(cursor_of(at)) == at


@pytest.mark.parametrize("cursor", ["", "x", "[]", "7", '{"a": 1}', '{"a": ["x", "y"]}'])
def test_a_cursor_of_somebody_else_is_refused(cursor: str) -> None:
    with pytest.raises(StaleCursorError):
        points(cursor)


def test_where_a_poll_goes_on_and_what_is_lost() -> None:
    last = Point(5, "b")
    assert reached({}, last) == Point(5), "what is lost is lost once"
    assert reached({"a": (4, {})}, last) == Point(5), "never back"
    assert reached({"b": (5, {}), "a": (4, {})}, last) == last
    assert reached({"b": (5, {}), "c": (7, {}), "a": (6, {})}, last) == Point(7, "c")
    assert lost("events", {"b": (5, {})}, last) == ""
    assert lost("events", {}, Point(5)) == "", "there was none"
    assert "no more" in lost("events", {"c": (7, {})}, last)
    many: Found = {str(n): (n, {}) for n in range(MOST_EVENTS + 1)}
    assert "more than" in lost("events", many, Point(0))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2})


@pytest.mark.parametrize("kind", ["scim", "entra"])
def test_whose_events_cannot_be_polled_has_no_such_setting(kind: str) -> None:
    source = {"kind": kind, "url": "https://idp.example.org", "polling": {}}
    directory = {"url": "http://crowd.example.org", "application": "crowdsync"}
    with pytest.raises(ValidationError, match=r"polling\n"):
        Settings.model_validate({"directory": directory, "sources": {"acme": source}})
