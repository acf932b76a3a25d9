"""Sign-ins and sessions, and who may use the application (section 10 of the reference)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from lxml import etree

from deployments.sandbox.crowd import RunningCrowd, running
from tests.support.crowd_bodies import BASE, COMPANY, PASSWORD, new_user, set_password, user_body

ROOT = Path(__file__).resolve().parents[3]


def test_session_life(http: httpx.Client) -> None:
    """10: "201 session"; "`user` (name + link unless `expand=user`)"; "On `GET /session/TOKEN` … the user's full
    details without expand"; "Different factors on validation: not valid"; `exclude=TOKEN`.
    """
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
    some: list[Any] = [{"name": "remote_address", "value": "1.2.3.4"}]
    none: list[Any] = []
    for factors in ({"validationFactors": some}, {"validationFactors": none}):
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
    """2: "user may not log in to this application (not in an allowed group): `/authentication` 400; `/session` 403";
    13: "a password policy (regex, history) and `maximum attempts`".
    """
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
