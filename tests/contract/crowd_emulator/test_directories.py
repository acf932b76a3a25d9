"""Several directories behind one application (section 13 of the reference)."""

from __future__ import annotations

import httpx

from deployments.sandbox.crowd import RunningCrowd
from tests.support.crowd_bodies import COMPANY, attributes, group_body, named, new_user, user_body


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
    """13: "find user / group: first directory that has the name"; "non-aggregating (default since 2.8): lower
    directories are masked"; "remove user: only the first one found".
    """
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
    """13: "aggregating: union"; "remove from group … all (aggregating)"."""
    two_directories(crowd, aggregate=True)
    assert group_names(http, "ann") == ["both", "two-only"]
    assert member_names(http, "two-only") == ["ann"]
    http.delete("/group/user/direct?groupname=both&username=ann")  # from every directory
    assert ["ann", "both"] not in crowd.state("one")["memberships"]
    assert ["ANN", "both"] not in crowd.state("two")["memberships"]


def test_writes_go_where_section_13_says(crowd: RunningCrowd, http: httpx.Client) -> None:
    """13: "add user: first directory with add-user permission"; "add group: all directories with add-group
    permission"; "update / remove group: every directory that has it and permits it".
    """
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
    """5: "UNSUPPORTED_OPERATION: 403, read-only directory"."""
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
