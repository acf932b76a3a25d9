"""Statuses and reasons, call by call (sections 5 to 12 of the reference)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from lxml import etree

from tests.support.crowd_bodies import (
    PASSWORD,
    attributes,
    group_body,
    named,
    new_user,
    restriction,
    set_password,
    user_body,
)

# (method, path with query, JSON body or None, status, reason or "", part of the message)

# fmt: off
CLAUSES: list[tuple[str, str, Any, int, str, str]] = [
    # 6: "`GET /user`: 200 user; 404 USER_NOT_FOUND; 400 without a parameter"; "`POST /user`: 201 …; 400 INVALID_USER /
    # INVALID_CREDENTIAL"; "`PUT /user`: 204, no body; 400 (body name differs from U; bad data); 404"; "`DELETE`: 204;
    # 404"; "204, also when A was not there". 13: "255 characters at most", blanks in names "are refused".
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
    # 7: "`PUT /group`: 200 with the group (unlike users)"; "`DELETE`: 204"; "400 INVALID_GROUP (exists)"; "400 (name
    # differs)"; "`active` may arrive as the string `\"true\"`"; of attributes "only POST is evidenced".
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
    # 8: "201; 400 group missing; 404 user missing; 409 already"; "204; 404"; "C missing or circular: 400"; "The names
    # in the body resolve case-insensitively"; parent-group: DELETE "not offered by any client".
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
    # 9: "`entity-type` is required; upper case works"; "A bad restriction: 400 ILLEGAL_ARGUMENT".
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
    # 10: "200 user; 400 + INVALID_USER_AUTHENTICATION, USER_NOT_FOUND, INACTIVE_ACCOUNT …"; "404 INVALID_SSO_TOKEN";
    # 18: "`session_create` sends `userName`" (a fault of the client: it must fail).
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
    # 11: "EVENT_TOKEN_EXPIRED ('not recognised or expired')"; 12: "WEBHOOK_NOT_FOUND and an invalid-endpoint error".
    ("GET", "/event", None, 200, "", ""),
    ("GET", "/event/8047511070899496297:12", None, 400, "EVENT_TOKEN_EXPIRED", ""),
    ("POST", "/webhook", {"endpointUrl": "http://localhost/x"}, 201, "", ""),
    ("POST", "/webhook", {"endpointUrl": "x"}, 400, "ILLEGAL_ARGUMENT", ""),
    ("GET", "/webhook/99", None, 404, "WEBHOOK_NOT_FOUND", ""),
    # 2: "credentials fine, no such resource path: 404".
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
