"""Makes every call that atlassian-python-api can make on usermanagement; run with it on PYTHONPATH.

    python atlassian_driver.py URL APPLICATION PASSWORD

Prints `{"calls": [...], "wrong": [...]}`: the methods that worked, and those that the client sends
wrongly and that had to fail. A public method that appears nowhere here is an error.
"""

import json
import sys
from typing import Any

from atlassian import Crowd
from requests import HTTPError

# Other APIs than usermanagement: administration, plugins, accounts, application management.
ELSEWHERE: tuple[str, ...] = (
    "plugin",
    "alias",
    "account_",
    "directory_",
    "_directory",
    "admin",
    "application",
    "remote_address",
)
ELSEWHERE += ("saml", "backup", "audit", "look_and_feel", "remember_me", "mail_conf", "licens", "directories")
ELSEWHERE += ("health_check", "synchron", "server_info", "user_sessions", "expire_session", "_ldap_pool")

url, application, password = sys.argv[1:4]
client = Crowd(url, application, password)
calls: set[str] = set()
wrong: set[str] = set()


def call(name: str, *arguments: Any, **named: Any) -> Any:
    calls.add(name)
    return getattr(client, name)(*arguments, **named)


def fails(
    status: int, name: str, *arguments: Any, reason: str | None = None, because: str | None = None, **named: Any
) -> None:
    """The call must fail; with `because` the client itself sends it wrongly."""
    if because:
        wrong.add(name)
    try:
        answer = getattr(client, name)(*arguments, **named)
    except HTTPError as error:
        response: Any = error.response
    else:
        raise AssertionError((name, answer))
    same(response.status_code, status)
    if reason:
        same(response.json()["reason"], reason)


def same(found: Any, expected: Any) -> None:
    assert found == expected, (found, expected)


# Both versions.
made = call("user_create", "Ann", True, "Ann", "Lee", "Ann Lee", "ann@example.org", "pw-of-Ann")
same(made["name"], "Ann")
call("user_create", "bob", True, "Bob", "Ray", "Bob Ray", "bob@example.org", "pw-of-bob")
fails(400, "user_create", "ANN", True, "A", "L", "A L", "a@example.org", "x", reason="INVALID_USER")
same(call("user", "ann")["display-name"], "Ann Lee")
fails(404, "user", "nobody", reason="USER_NOT_FOUND")
call("user_deactivate", "ann")
user = client.user("Ann")
same((user["active"], user["email"], user["last-name"]), (False, "ann@example.org", "Lee"))
call("user_activate", "ann")
same(client.user("Ann")["active"], True)
call("group_create", "staff", "Everybody")
call("group_create", "team")
fails(400, "group_create", "STAFF", reason="INVALID_GROUP")

if not hasattr(client, "group"):  # 4.x
    call("group_add_user", "ann", "staff")
else:  # 5.x
    fails(
        400,
        "group_add_user",
        "ann",
        "staff",
        reason="ILLEGAL_ARGUMENT",
        because="sends groupname and the user in the body to /user/group/direct",
    )
    # What it cannot send, the test does over the client's own door.
    client.post("rest/usermanagement/1/user/group/direct", params={"username": "ann"}, data={"name": "staff"})

same(call("user_groups", "ann"), ["staff"])
same(call("user_groups", "ann", kind="nested"), ["staff"])
same(call("group_members", "staff"), ["Ann"])
same(call("group_members", "staff", kind="nested", max_results=1), ["Ann"])
same(call("is_user_in_group", "ANN", "staff"), True)
same(client.is_user_in_group("bob", "staff"), False)
calls.add("memberships")
same(client.memberships, {"staff": ["Ann"], "team": []})

if hasattr(client, "group"):  # 5.x
    same(call("group", "STAFF")["description"], "Everybody")
    fails(404, "group", "none", reason="GROUP_NOT_FOUND")
    group = client.group("staff")
    group["description"] = "All"
    same(call("group_update", "staff", group)["description"], "All")
    whole = client.user("ann")
    whole["email"] = "ann.lee@example.org"
    call("user_update", "ann", whole)
    same(client.user("ann")["email"], "ann.lee@example.org")
    same(call("user_authenticate", "ann", "pw-of-Ann")["name"], "Ann")
    fails(400, "user_authenticate", "ann", "wrong", reason="INVALID_USER_AUTHENTICATION")
    call("user_update_password", "ann", "second")
    client.user_authenticate("ann", "second")
    call("user_authentication_notify", "ann")
    call("user_delete_password", "ann")
    fails(400, "user_authenticate", "ann", "second", reason="INVALID_USER_AUTHENTICATION")
    client.user_update_password("ann", "third")
    call("user_request_password_reset", "ann")
    call("user_request_usernames_reminder", "ann.lee@example.org")
    same(call("user_rename", "bob", "robert")["name"], "robert")
    fails(404, "user", "bob", reason="USER_NOT_FOUND")
    call("user_avatar", "ann", size=16)

    body = {"attributes": [{"name": "colour", "values": ["red", "blue"]}]}
    fails(405, "user_store_attributes", "ann", body, because="uses PUT")
    fails(405, "group_store_attributes", "staff", body, because="uses PUT")
    client.post("rest/usermanagement/1/user/attribute", params={"username": "ann"}, data=body)
    client.post("rest/usermanagement/1/group/attribute", params={"groupname": "staff"}, data=body)
    stored = {a["name"]: a["values"] for a in call("user_attributes", "ann")["attributes"]}
    same(stored["colour"], ["red", "blue"])
    same(call("group_attributes", "staff")["attributes"][0]["values"], ["red", "blue"])
    call("user_remove_attribute", "ann", "colour")
    call("group_remove_attribute", "staff", "colour")
    same(client.group_attributes("staff")["attributes"], [])

    call("group_add_child_group", "staff", "team")
    fails(400, "group_add_child_group", "team", "staff", reason="INVALID_MEMBERSHIP")
    client.post("rest/usermanagement/1/group/user/direct", params={"groupname": "team"}, data={"name": "robert"})
    same(call("group_child_groups", "staff"), ["team"])
    same(call("nested_group_child_groups", "staff"), ["team"])
    same(call("group_parent_groups", "team"), ["staff"])
    same(call("nested_group_parent_groups", "team"), ["staff"])
    same(call("nested_group_members", "staff"), ["Ann", "robert"])
    same(call("nested_user_groups", "robert"), ["staff", "team"])
    call("group_remove_child_group", "staff", "team")
    call("group_add_parent_group", "team", "staff")
    same(client.group_child_groups("staff"), ["team"])

    same([u["name"] for u in call("search_cql", "user", 'email = "ann*"')["users"]], ["Ann"])
    same([u["name"] for u in client.search_cql("user")["users"]], ["Ann", "robert"])
    restriction = {
        "restriction-type": "property-search-restriction",
        "property": {"name": "name", "type": "STRING"},
        "match-mode": "CONTAINS",
        "value": "TA",
    }
    same([g["name"] for g in call("search", "group", restriction)["groups"]], ["staff"])
    fails(400, "search", "group", reason="ILLEGAL_ARGUMENT")

    fails(400, "session_create", "ann", "third", reason="ILLEGAL_ARGUMENT", because="sends userName")
    session = client.post(
        "rest/usermanagement/1/session", data={"username": "ann", "password": "third", "validation-factors": {}}
    )
    token = session["token"]
    same(call("session_get", token)["user"]["email"], "ann.lee@example.org")
    same(call("session_validate", token)["token"], token)
    call("session_delete", token)
    fails(404, "session_get", token, reason="INVALID_SSO_TOKEN")
    call("session_delete_user_tokens", "ann", exclude="x")
    same(call("get_cookie_config")["name"], "crowd.token_key")

    call("group_remove_user", "ann", "staff")
    fails(404, "group_remove_user", "ann", "staff", reason="MEMBERSHIP_NOT_FOUND")
    call("group_delete", "team")
    call("user_expire_all_passwords")
    fails(400, "user_authenticate", "ann", "third", reason="EXPIRED_CREDENTIAL")
    fails(400, "user_expire_all_passwords", confirm=False, reason="ILLEGAL_ARGUMENT")

call("user_delete", "ann")
fails(404, "user", "ann", reason="USER_NOT_FOUND")

public = {name for name in vars(Crowd) if not name.startswith("_")}
forgotten = {n for n in public - calls - wrong if not any(word in n for word in ELSEWHERE)}
assert not forgotten, forgotten
json.dump({"calls": sorted(calls), "wrong": sorted(wrong)}, sys.stdout)
