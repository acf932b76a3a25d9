"""Reads all that Google's own client can read of users, groups and members; run with it on PYTHONPATH.

    python google_driver.py URL KEY_FILE SUBJECT OTHER_SUBJECT GROUP_WITH_NESTED

Prints what it found as JSON.
"""

import json
import sys
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.auth.exceptions import RefreshError
from google.oauth2 import service_account
from googleapiclient import channel
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


def channels(directory: Any) -> dict[str, Any]:
    """Made, told and stopped; each message is taken apart by Google's own code, which proves its channel."""
    found: dict[str, Any] = {}
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            told.append((self.path, dict(self.headers), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    def until(count: int) -> None:
        end = time.monotonic() + 10
        while len(told) < count:
            assert time.monotonic() < end, told
            time.sleep(0.02)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_address[1]}"
    made = channel.new_webhook_channel(f"{here}/hook", token="state", params={"ttl": "600"})
    watch = directory.users().watch
    answer = watch(customer="my_customer", event="update", body=made.body()).execute()
    made.update(answer)
    found["made"] = [answer["kind"], answer["id"] == made.id, bool(made.resource_id)]
    found["seconds"] = round(int(answer["expiration"]) / 1000 - time.time(), -1)
    until(1)
    first = channel.notification_from_headers(made, told[0][1])
    found["sync"] = [first.message_number, first.state, first.resource_id == made.resource_id, told[0][2].decode()]

    def asked(**changes: Any) -> Any:
        body = {"id": str(uuid.uuid4()), "type": "web_hook", "address": f"{here}/hook", **changes}
        return watch(customer="my_customer", event="delete", body=body)

    other = asked(params={"ttl": "999999"}).execute()
    found["at most"] = round(int(other["expiration"]) / 1000 - time.time(), -1)
    found["by default"] = round(int(asked().execute()["expiration"]) / 1000 - time.time(), -1)
    found["twice"] = refused(asked(id=made.id))
    found["plain"] = refused(asked(address="http://sync.example.org/"))
    found["long id"] = refused(asked(id="x" * 65))
    until(3)
    change = json.dumps({"seed": 1, "updated": 3}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/_sandbox/change", data=change, method="POST")).close()
    until(6)
    later = [(channel.notification_from_headers(made, headers), headers, body) for _, headers, body in told[3:]]
    found["states"] = [[one.state, one.message_number] for one, *_ in later]
    found["tokens"] = [headers["X-Goog-Channel-Token"] for _, headers, _ in later]
    found["told of"] = sorted(json.loads(body)["id"] for *_, body in later)
    stop = directory.channels().stop
    body = {"id": made.id, "resourceId": made.resource_id}
    found["stopped"] = stop(body=body).execute()
    found["gone"] = refused(stop(body=body))
    server.shutdown()
    return found


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

found["channels"] = channels(directory)
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
