"""Clients that we did not write: `crowd` (installed) and two versions of `atlassian-python-api`, which are put under
`.cache/clients` once; after that nothing needs the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.sandbox.crowd import RunningCrowd
from tests.support.clients import client_package, drive


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
        Path(__file__).parents[1] / "crowd_clients" / "atlassian_driver.py",
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
