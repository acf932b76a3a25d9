"""Reads a whole realm with python-keycloak; run with it on PYTHONPATH.

    python keycloak_driver.py URL REALM CLIENT_ID CLIENT_SECRET USERNAME

Prints what it found as JSON: users, groups with parent and members, and USERNAME with groups. It works on a real
Keycloak as well.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

from keycloak import KeycloakAdmin, KeycloakOpenID, KeycloakOpenIDConnection
from keycloak.exceptions import KeycloakAuthenticationError, KeycloakGetError, KeycloakPostError

url, realm, client_id, secret, username = sys.argv[1:6]


def connection(secret: str = secret) -> Any:
    return KeycloakOpenIDConnection(
        server_url=f"{url}/", realm_name=realm, client_id=client_id, client_secret_key=secret, max_retries=0
    )


def refused(kind: Any, function: Any, *arguments: Any, **named: Any) -> list[Any]:
    """Status and body of the error that this call must raise."""
    try:
        answer = function(*arguments, **named)
    except kind as error:
        return [error.response_code, json.loads(error.response_body)]
    raise AssertionError(answer)


token = KeycloakOpenID(server_url=f"{url}/", realm_name=realm, client_id=client_id, client_secret_key=secret).token(
    grant_type="client_credentials"
)
admin = KeycloakAdmin(connection=connection())
users = admin.get_users()  # a hundred at a time
assert users == admin.get_users({"briefRepresentation": "false"})


def walk(groups: Any, parent: str = "") -> Iterator[tuple[Any, str]]:
    for group in groups:
        yield group, parent
        assert len(group["subGroups"]) == group["subGroupCount"], group
        yield from walk(group["subGroups"], group["id"])


tree = list(walk(admin.get_groups(full_hierarchy=True)))
one = admin.get_users({"username": username.upper(), "exact": "true", "max": 2})
assert [admin.get_user_id(username)] == [person["id"] for person in one]
mine = admin.get_user_groups(one[0]["id"])
nested = next((group for group, parent in tree if parent), None)
enabled = admin.get_users({"enabled": "true"})


async def again() -> list[str]:
    other = KeycloakAdmin(connection=connection())
    found = await other.a_get_users({"briefRepresentation": "true"})
    return [person["id"] for person in found]


assert asyncio.run(again()) == [person["id"] for person in users]
json.dump(
    {
        "token": {name: token.get(name) for name in ("expires_in", "token_type", "refresh_expires_in")},
        "users": users,
        "users_count": admin.users_count(),
        "groups_count": admin.groups_count()["count"],
        "groups_count_top": admin.groups_count({"top": "true"})["count"],
        "groups": {
            group["id"]: {
                "name": group["name"],
                "path": group["path"],
                "parent": parent,
                "members": [member["id"] for member in admin.get_group_members(group["id"])],
            }
            for group, parent in tree
        },
        "one": admin.get_user(one[0]["id"]),
        "its_groups": [group["id"] for group in mine],
        "by_path": admin.get_group_by_path(nested["path"].removeprefix("/"))["id"] == nested["id"] if nested else None,
        "found": [
            [group["id"], *(child["id"] for child in group["subGroups"])]
            for group in (admin.get_groups({"search": nested["name"], "max": 100}) if nested else [])
        ],
        "services": sorted(p["username"] for p in enabled if p["username"].startswith("service-account-")),
        "errors": {
            "user": refused(KeycloakGetError, admin.get_user, "nobody"),
            "group": refused(KeycloakGetError, admin.get_group, "nothing"),
            "path": refused(KeycloakGetError, admin.get_group_by_path, "no/such"),
            "write": refused(KeycloakPostError, admin.create_user, {"username": "new.person"}),
            "secret": refused(KeycloakAuthenticationError, lambda: connection("wrong").get_token()),
        },
    },
    sys.stdout,
)
