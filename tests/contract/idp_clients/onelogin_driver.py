"""Reads all that OneLogin's own SDK can read of users, roles, apps and groups; run with it on PYTHONPATH.

    python onelogin_driver.py URL CLIENT_ID CLIENT_SECRET APP

Prints what it found as JSON.
"""

import json
import sys
from typing import Any

import onelogin
from onelogin.exceptions import ApiException, NotFoundException, UnauthorizedException
from onelogin.models.generate_token_request import GenerateTokenRequest

url, client_id, client_secret, app = sys.argv[1:5]


def client(secret: str) -> Any:
    return onelogin.ApiClient(onelogin.Configuration(host=url, username=client_id, password=secret))


def grant(api: Any) -> Any:
    token = onelogin.OAuth2Api(api).generate_token(GenerateTokenRequest(grant_type="client_credentials"))
    api.configuration.access_token = token.access_token
    return token


def paged(call: Any, *arguments: Any, **named: Any) -> Any:
    """All pages of a list, by the cursors in their headers: records, pages, and the total that each page said."""
    records, totals, cursor = [], [], None
    while True:
        answer = call(*arguments, **(named if cursor is None else {"cursor": cursor}))
        records += answer.data
        totals.append(int(answer.headers["Total-Count"]))
        assert int(answer.headers["Page-Items"]) == len(answer.data)
        assert int(answer.headers["Current-Page"]) == len(totals)
        cursor = answer.headers.get("After-Cursor")
        if not cursor:
            assert int(answer.headers["Total-Pages"]) == len(totals)
            return records, len(totals), totals


def refused(error: Any, call: Any, *arguments: Any, **named: Any) -> list[Any]:
    try:
        call(*arguments, **named)
    except error as found:
        return [found.status, json.loads(found.body)]
    raise AssertionError(call)


found: dict[str, Any] = {}
stranger = client("wrong")
found["wrong secret"] = refused(UnauthorizedException, grant, stranger)

api = client(client_secret)
users, roles = onelogin.UsersV2Api(api), onelogin.RolesApi(api)
apps, groups = onelogin.AppsApi(api), onelogin.GroupsApi(api)
found["no token"] = refused(UnauthorizedException, users.list_users2)
token = grant(api)
found["token"] = [token.token_type, token.expires_in]
assert grant(api).access_token == token.access_token  # the same one until it ends

listed, pages, totals = paged(users.list_users2_with_http_info)
found["users"] = [[u.id, u.username, u.email, u.firstname, u.lastname, u.status, u.state] for u in listed]
found["user pages"], found["user totals"] = pages, totals
assert all(u.role_ids is None and u.custom_attributes is None and u.title is None for u in listed)

some, pages, _ = paged(users.list_users2_with_http_info, limit=7, fields="title,custom_attributes,role_ids")
found["some fields"] = {u.id: [u.title, u.custom_attributes, u.role_ids, u.email] for u in some}
found["pages of 7"] = pages
found["second page"] = [u.id for u in users.list_users2(page=2, limit=7)]

first = listed[0]
alone = users.get_user2(first.id)
found["alone"] = [alone.id, alone.username, alone.title, alone.role_ids, alone.manager_user_id, alone.group_id]
found["by email"] = [u.id for u in users.list_users2(email=first.email.upper())]
found["by username"] = [u.id for u in users.list_users2(username=first.username)]
found["by wildcard"] = sorted(u.id for u in users.list_users2(username=first.username[:3] + "*", limit=50))
found["by ids"] = sorted(u.id for u in users.list_users2(user_ids=f"{first.id},{listed[-1].id},1"))
found["updated since"] = [
    len(users.list_users2(updated_since="2099-01-01T00:00:00Z")),
    paged(users.list_users2_with_http_info, updated_since="2020-01-01T00:00:00.000Z")[2][0],
]
found["nobody"] = refused(NotFoundException, users.get_user2, 1)
found["bad filter"] = refused(ApiException, users.list_users2, updated_since="yesterday")

listed, pages, _ = paged(roles.list_roles_with_http_info, limit=4)
found["roles"], found["role pages"] = [[r.id, r.name, r.apps] for r in listed], pages
assert all(r.users is None for r in listed)
found["role"] = [roles.get_role(str(listed[0].id)).name, len(roles.list_roles(fields="users")[0].users)]
found["role by name"] = [r.id for r in roles.list_roles(role_name=listed[0].name)]
found["no role"] = refused(NotFoundException, roles.get_role_users, "1")
found["role apps"] = [a.name for a in roles.get_role_apps(str(listed[0].id))]
found["roles of app"] = [r.id for r in paged(roles.list_roles_with_http_info, app_id=int(app))[0]]

members, most = {}, 0
for role in listed:
    # The SDK's User has no place for `name`, `added_at` and `assigned`.
    read, pages, _ = paged(roles.get_role_users_with_http_info, str(role.id), limit=5)
    members[role.id], most = [u.id for u in read], max(most, pages)
found["members"], found["member pages"] = members, most
everybody = paged(roles.get_role_users_with_http_info, str(listed[0].id), include_unassigned=True)
found["everybody"] = len(everybody[0])

found["app users"] = sorted(u.id for u in apps.get_app_users(int(app)))
found["apps"] = [a.name for a in apps.list_apps()]
found["apps of user"] = {u: [a.id for a in users.get_user_apps2(u)] for u in (first.id, found["app users"][0])}

answer = groups.get_groups()
found["groups"] = [[g.id, g.name] for g in answer.data]
found["group status"] = [answer.status.code, answer.status.message]
found["group"] = groups.get_group_by_id(str(answer.data[0].id)).data[0].name
limit = onelogin.OAuth2Api(api).get_rate_limit()
found["limit"] = [limit.data.x_rate_limit_limit, limit.data.x_rate_limit_remaining]

for _ in range(1000):
    try:
        users.list_users2_with_http_info(limit=1)
    except ApiException as error:
        headers = {k.lower(): v for k, v in error.headers.items()}
        found["429"] = [error.status, int(headers["x-ratelimit-reset"]), int(headers["x-ratelimit-remaining"])]
        break
json.dump(found, sys.stdout)
