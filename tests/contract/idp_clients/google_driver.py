"""Reads all that Google's own client can read of users, groups and members; run with it on PYTHONPATH.

    python google_driver.py URL KEY_FILE SUBJECT OTHER_SUBJECT GROUP_WITH_NESTED

Prints what it found as JSON.
"""

import json
import sys
from typing import Any

from google.auth.exceptions import RefreshError
from google.oauth2 import service_account
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

url, key_file, subject, other_subject, parent = sys.argv[1:6]
PREFIX = "https://www.googleapis.com/auth/admin.directory."
SCOPES = [f"{PREFIX}{name}.readonly" for name in ("user", "group", "group.member")]
with open(key_file) as file:
    key = {**json.load(file), "token_uri": f"{url}/token"}


def client(who: str = subject, scopes: Any = SCOPES, info: Any = key) -> Any:
    credentials = service_account.Credentials.from_service_account_info(info, scopes=scopes, subject=who)
    return build(
        "admin",
        "directory_v1",
        credentials=credentials,
        static_discovery=True,
        cache_discovery=False,
        client_options={"api_endpoint": url},
    )


def paged(resource: Any, what: str, **named: Any) -> Any:
    """All pages of a list, as the client walks them: records and pages."""
    records, pages = [], 0
    request = resource.list(**named)
    while request is not None:
        page = request.execute()
        assert page["kind"] == f"admin#directory#{what}", page
        records += page.get(what, [])
        pages += 1
        request = resource.list_next(request, page)
    return records, pages


def refused(request: Any) -> list[Any]:
    try:
        request.execute()
    except HttpError as error:
        return [error.status_code, error.reason, error.error_details[0]["reason"]]
    raise AssertionError(request.uri)


def no_token(**named: Any) -> Any:
    try:
        client(**named).users().list(customer="my_customer").execute()
    except RefreshError as error:
        return error.args[1]["error"]
    raise AssertionError(named)


found: dict[str, Any] = {}
directory = client()
users, groups, members = directory.users(), directory.groups(), directory.members()
found["users"], found["user pages"] = paged(users, "users", customer="my_customer", maxResults=25)
found["default page"] = len(users.list(customer="my_customer").execute()["users"])
found["by address"] = [u["primaryEmail"] for u in paged(users, "users", customer="my_customer", orderBy="email")[0]]
found["down"] = [
    u["primaryEmail"]
    for u in paged(users, "users", domain="acme.example", orderBy="email", sortOrder="DESCENDING", maxResults=500)[0]
]
first = found["users"][0]
found["by id"] = users.get(userKey=first["id"]).execute()["primaryEmail"]
found["by primary address"] = users.get(userKey=first["primaryEmail"].upper()).execute()["id"]
aliased = next(u for u in found["users"] if u.get("aliases"))
found["by alias"] = [users.get(userKey=aliased["aliases"][0]).execute()["id"], aliased["id"]]
found["custom"] = users.get(userKey=first["id"], projection="custom", customFieldMask="Work").execute()["customSchemas"]
found["full"] = sorted(users.get(userKey=first["id"], projection="full").execute()["customSchemas"])
found["slim"] = users.list(
    customer="my_customer", maxResults=1, fields="nextPageToken,users(id,name/givenName,emails(address))"
).execute()
found["suspended"] = [u["id"] for u in paged(users, "users", customer="my_customer", query="isSuspended=true")[0]]
found["deleted"] = users.list(customer="my_customer", showDeleted="true").execute()

found["groups"], found["group pages"] = paged(groups, "groups", customer="my_customer", maxResults=5)
found["group"] = groups.get(groupKey=found["groups"][0]["email"]).execute()
found["groups of"] = [g["id"] for g in paged(groups, "groups", userKey=first["id"])[0]]
found["members"], found["member pages"] = {}, 0
for group in found["groups"]:
    rows, pages = paged(members, "members", groupKey=group["id"], maxResults=7)
    found["members"][group["id"]] = rows
    found["member pages"] += pages
found["owners"] = [m["role"] for m in paged(members, "members", groupKey=parent, roles="OWNER")[0]]
below, _ = paged(members, "members", groupKey=parent, includeDerivedMembership=True)
found["derived"] = [m["id"] for m in below]
person = next(m["id"] for m in below if m["type"] == "USER")
found["has"] = members.hasMember(groupKey=parent, memberKey=person).execute()

found["nobody"] = refused(users.get(userKey="nobody@acme.example"))
found["no group"] = refused(members.list(groupKey="nothing@acme.example"))
found["no customer"] = refused(users.list())
found["wrong token"] = refused(users.list(customer="my_customer", pageToken="x"))
found["outside"] = refused(members.hasMember(groupKey=parent, memberKey="guest@partner.example"))
found["wrong field"] = refused(users.list(customer="my_customer", fields="users(nonsense)"))
found["both"] = refused(groups.list(customer="my_customer", userKey=first["id"]))
found["no right"] = refused(client(other_subject).users().list(customer="my_customer"))
found["one scope"] = refused(client(scopes=SCOPES[:1]).groups().list(customer="my_customer"))
found["scope not delegated"] = no_token(scopes=[f"{PREFIX}orgunit.readonly"])
found["unknown subject"] = no_token(who="nobody@acme.example")
found["other account"] = no_token(info={**key, "client_email": "other@acme-sync.iam.gserviceaccount.com"})
found["one page too large"] = refused(users.list(customer="my_customer", maxResults=501))
for _ in range(1000):
    try:
        users.list(customer="my_customer", maxResults=1).execute()
    except HttpError as error:
        found["too many"] = [error.status_code, error.error_details[0]["reason"]]
        break
# With retries of its own, the client waits until it may go on.
found["after waiting"] = len(users.list(customer="my_customer", maxResults=1).execute(num_retries=6)["users"])
json.dump(found, sys.stdout)
