"""What users, groups, attributes and memberships do (sections 6 to 8 of the reference)."""

from __future__ import annotations

from typing import Any

import httpx

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import PASSWORD, attributes, group_body, named, new_user, set_password, user_body


def test_missing_active_is_false(http: httpx.Client) -> None:
    """6: "`active` must be sent: a missing boolean is read as false"."""
    body = new_user("new")
    del body["active"]
    assert http.post("/user", json=body).json()["active"] is False
    group = group_body("new")
    del group["active"]
    http.post("/group", json=group)
    assert http.get("/group?groupname=new").json()["active"] is False


def test_put_of_a_user_replaces_it(http: httpx.Client) -> None:
    """6: "PUT is a full replace"; "an empty first-name/email in a PUT gave 204 without changing that field"; "a PUT
    with only `active` … put the user name into last-name"; "a `password` member is ignored"; 3: read-only members
    "must be tolerated".
    """

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
    """6: "Mandatory: `name` and `password.value`"; the names are made as a PUT makes them (CWD-2634)."""
    made = http.post("/user", json={"name": "new", "password": {"value": "p"}, "first-name": "Nel"}).json()
    assert (made["last-name"], made["display-name"], made["email"]) == ("new", "Nel new", "")


def test_attributes_are_replaced_by_name(http: httpx.Client) -> None:
    """6: "named attributes are replaced, others stay; empty `values` removes the attribute"; 4.3: "JSON booleans …
    must be stored as text".
    """

    def found() -> dict[str, list[str]]:
        listed = http.get("/user/attribute?username=jdoe").json()["attributes"]
        return {a["name"]: a["values"] for a in listed}

    http.post("/user/attribute?username=jdoe", json=attributes("size", True, 12, "12", ""))
    assert found() == {"team": ["red", "blue"], "size": ["true", "12", ""]}
    http.post("/user/attribute?username=jdoe", json=attributes("team"))
    assert found() == {"size": ["true", "12", ""]}


def test_crowds_own_attributes(http: httpx.Client) -> None:
    """4.3: "Crowd keeps its own user attributes there (`requiresPasswordChange`, `invalidPasswordAttempts` …)"; 6:
    attributes "stored atomically" with the create.
    """
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
    """4.1: "`key`: stable id that survives a rename"; 6: "Delete removes memberships too; the name is free again, with
    a new `key`".
    """
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
    """8: nested is "direct *and* inherited", "users of G and of all groups below, each once"."""

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
    """5: "NESTED_GROUPS_NOT_SUPPORTED: 400, directory without nested groups"."""
    crowd.configure(
        directories=[{"name": "d", "nested_groups": False}],
        applications=[{"name": "app", "password": "app-pw"}],
    )
    crowd.load(groups=[["a"], ["b"]])
    answer = http.post("/group/child-group/direct?groupname=a", json=named("b"))
    assert (answer.status_code, answer.json()["reason"]) == (400, "NESTED_GROUPS_NOT_SUPPORTED")


def test_one_member_asked_for_is_a_single_entity(http: httpx.Client) -> None:
    """4.4: "one member asked for (`groupname` and `username` given): the single entity, not a list"."""
    one = http.get("/group/user/direct?groupname=staff&username=jdoe").json()
    assert one.keys() == {"name", "link"}
    assert http.get("/user/group/direct?username=jdoe&groupname=staff&expand=group").json()["type"] == "GROUP"


def test_delete_with_a_body(http: httpx.Client) -> None:
    """18: "DELETE with a JSON body `{}` … must work"."""
    answer = http.request("DELETE", "/user?username=jdoe", json={})
    assert answer.status_code == 204
