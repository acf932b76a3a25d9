"""Reads all that Okta's own SDK can read of users, groups and an application; run with it on PYTHONPATH.

    python okta_driver.py URL TOKEN CLIENT_ID KEY_ID PRIVATE_KEY_FILE APP

Prints what it found as JSON. The SDK refuses plain http unless OKTA_TESTING_TESTINGDISABLEHTTPSCHECK is true.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from okta.client import Client
from okta.pagination import PaginationHelper

url, token, client_id, key_id, key_file, app = sys.argv[1:7]
pem = Path(key_file).read_text()
OAUTH = {"orgUrl": url, "authorizationMode": "PrivateKey", "clientId": client_id, "privateKey": pem, "kid": key_id}


async def paged(call: Any, *arguments: Any, **named: Any) -> Any:
    """All pages of a list, by the cursors in their headers: records, and how many pages there were."""
    records, pages, after = [], 0, None
    while True:
        more: dict[str, Any] = {} if after is None else {"after": after}
        data, answer, error = await call(*arguments, **named, **more)
        assert error is None, error
        records += data
        pages += 1
        headers = {key.lower(): value for key, value in answer.headers.items()}
        assert {"date", "x-rate-limit-limit", "x-rate-limit-remaining", "x-rate-limit-reset"} <= set(headers)
        after = PaginationHelper.extract_next_cursor(headers)
        if after is None:
            return records, pages


async def one(call: Any, *arguments: Any, **named: Any) -> Any:
    data, _, error = await call(*arguments, **named)
    assert error is None, error
    return data


async def refused(call: Any, *arguments: Any, **named: Any) -> list[Any]:
    data, _, error = await call(*arguments, **named)
    assert error is not None, data
    return [getattr(error, "status", None), getattr(error, "error_code", None), str(error)[:200]]


def profile(group: Any) -> Any:
    found = group.profile.actual_instance
    return [group.id, found.name, group.type.value if hasattr(group.type, "value") else str(group.type)]


async def main() -> None:
    found: dict[str, Any] = {}
    client = Client({"orgUrl": url, "token": token})

    listed, pages = await paged(client.list_users, limit=20)
    found["users"] = [
        [u.id, u.profile.login, u.profile.email, u.profile.first_name, u.profile.last_name, str(u.status.value)]
        for u in listed
    ]
    found["user pages"] = pages
    everybody, pages = await paged(client.list_users, filter='lastUpdated gt "1970-01-01T00:00:00.000Z"', limit=500)
    found["everybody"] = [[u.id, str(u.status.value)] for u in everybody]
    found["everybody pages"] = pages
    found["extra"] = everybody[0].profile.additional_properties
    first = everybody[0]
    alone = await one(client.get_user, first.id)
    found["alone"] = [alone.id, alone.profile.title, alone.profile.department]
    found["by login"] = (await one(client.get_user, first.profile.login.upper())).id
    found["by short login"] = (await one(client.get_user, first.profile.login.partition("@")[0])).id
    found["me"] = (await one(client.get_user, "me")).id
    found["by filter"] = [
        u.id for u in await one(client.list_users, filter=f'profile.login eq "{first.profile.login}"')
    ]
    shouted = first.profile.login.upper()
    found["filter minds case"] = len(await one(client.list_users, filter=f'profile.login eq "{shouted}"'))
    found["search does not"] = [u.id for u in await one(client.list_users, search=f'profile.login eq "{shouted}"')]
    found["by search"] = sorted(
        u.id
        for u in await one(
            client.list_users, search=f'(profile.department eq "{first.profile.department}") and status sw "A"'
        )
    )
    found["by q"] = [u.id for u in await one(client.list_users, q=first.profile.first_name[:3])]
    found["deactivated"] = sorted(u.id for u in await one(client.list_users, filter='status eq "DEPROVISIONED"'))
    found["changed since"] = len(await one(client.list_users, filter='lastUpdated gt "2099-01-01T00:00:00.000Z"'))
    found["bad filter"] = await refused(client.list_users, filter='profile.title eq "x"')
    found["bad search"] = await refused(client.list_users, search="title like x")
    found["nobody"] = await refused(client.get_user, "nobody@acme.example")
    found["groups of user"] = sorted(g.id for g in await one(client.list_user_groups, first.id))

    listed, pages = await paged(client.list_groups, limit=5)
    found["groups"], found["group pages"] = [profile(g) for g in listed], pages
    found["group"] = profile(await one(client.get_group, listed[0].id))
    found["by kind"] = sorted(g.id for g in await one(client.list_groups, filter='type eq "APP_GROUP"'))
    found["by name"] = [
        g.id for g in await one(client.list_groups, search=f'profile.name sw "{profile(listed[0])[1]}"')
    ]
    found["group by q"] = [g.id for g in await one(client.list_groups, q="every")]
    old = '"2020-01-01T00:00:00.000Z"'
    found["groups changed"] = len(
        await one(client.list_groups, filter=f"lastUpdated gt {old} or lastMembershipUpdated gt {old}")
    )
    counted = await one(client.list_groups, expand="stats")
    # The SDK has `_embedded` as a plain dictionary of what came.
    found["counts"] = {g.id: json.loads(g.embedded.to_json())["stats"]["usersCount"] for g in counted}
    members, most = {}, 0
    for group in listed:
        read, pages = await paged(client.list_group_users, group.id, limit=7)
        members[group.id], most = [u.id for u in read], max(most, pages)
    found["members"], found["member pages"] = members, most
    found["no group"] = await refused(client.list_group_users, "00gNone")

    assigned, pages = await paged(client.list_application_users, app, limit=9, expand="user")
    found["app users"] = [
        [a.id, a.scope, str(getattr(a.status, "value", a.status)), a.embedded["user"]["profile"]["login"]]
        for a in assigned
    ]
    found["app user pages"] = pages
    found["app user"] = (await one(client.get_application_user, app, assigned[0].id)).id
    found["not assigned"] = await refused(client.get_application_user, app, "00uNone")
    found["app groups"] = sorted(
        g.id for g in (await paged(client.list_application_group_assignments, app, limit=20, expand="group"))[0]
    )
    found["wrong token"] = await refused(Client({"orgUrl": url, "token": "wrong"}).list_users)

    service = Client({**OAUTH, "scopes": ["okta.users.read"]})
    found["by key"] = len((await paged(service.list_users, limit=200))[0])
    found["wrong scope"] = await refused(service.list_groups)
    found["no such scope"] = await refused(Client({**OAUTH, "scopes": ["okta.users.manage"]}).list_users)
    found["wrong client"] = await refused(Client({**OAUTH, "clientId": "0oaWrong", "scopes": ["x"]}).list_users)
    json.dump(found, sys.stdout)


async def patient() -> None:
    """More calls than the limit allows: the SDK waits until the window is over."""
    client = Client({"orgUrl": url, "token": token, "rateLimit": {"maxRetries": 2}})
    answers = [await client.list_users(limit=1) for _ in range(6)]
    json.dump([len(data) for data, _, error in answers if error is None], sys.stdout)


async def impatient() -> None:
    client = Client({"orgUrl": url, "token": token, "rateLimit": {"maxRetries": 0}})
    answers = [await client.list_users(limit=1) for _ in range(6)]
    json.dump([[e.status, e.error_code] for _, _, e in answers if e is not None], sys.stdout)


asyncio.run({"patient": patient, "impatient": impatient}.get("".join(sys.argv[7:]), main)())
