"""Reads all that Microsoft's own Graph SDK can read of people and groups; run with it on PYTHONPATH.

    python entra_driver.py URL TOKEN APP_OBJECT BUSY_URL BUSY_TOKEN

The second is one that soon says 429. Prints what it found as JSON.
"""

import asyncio
import json
import logging
import sys
import threading
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kiota_abstractions.authentication import BaseBearerTokenAuthenticationProvider
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_http.middleware.options import RetryHandlerOption
from msgraph import GraphServiceClient
from msgraph.generated.groups.delta.delta_request_builder import DeltaRequestBuilder as GroupDelta
from msgraph.generated.groups.groups_request_builder import GroupsRequestBuilder
from msgraph.generated.groups.item.members.members_request_builder import MembersRequestBuilder
from msgraph.generated.groups.item.transitive_members.graph_user.graph_user_request_builder import (
    GraphUserRequestBuilder,
)
from msgraph.generated.models.app_role_assignment_collection_response import AppRoleAssignmentCollectionResponse
from msgraph.generated.models.device import Device
from msgraph.generated.models.group import Group
from msgraph.generated.models.o_data_errors.o_data_error import ODataError
from msgraph.generated.models.org_contact import OrgContact
from msgraph.generated.models.service_principal import ServicePrincipal
from msgraph.generated.models.subscription import Subscription
from msgraph.generated.models.user import User
from msgraph.generated.users.delta.delta_request_builder import DeltaRequestBuilder as UserDelta
from msgraph.generated.users.item.user_item_request_builder import UserItemRequestBuilder
from msgraph.generated.users.users_request_builder import UsersRequestBuilder
from msgraph.graph_request_adapter import GraphRequestAdapter
from msgraph_core.requests.batch_request_builder import BatchRequestBuilder
from msgraph_core.requests.batch_request_content import BatchRequestContent
from msgraph_core.requests.batch_request_item import BatchRequestItem
from msgraph_core.tasks.page_iterator import PageIterator

logging.disable(logging.CRITICAL)
url, token, app, busy_url, busy_token = sys.argv[1:6]
KINDS = {User: "user", Group: "group", Device: "device", OrgContact: "contact", ServicePrincipal: "principal"}


class Fixed:
    """Gives the token that the caller got; azure-identity and msal speak to no http authority."""

    def __init__(self, token: str) -> None:
        self.token = token

    async def get_authorization_token(self, uri: Any, additional_authentication_context: Any = None) -> Any:
        return self.token

    def get_allowed_hosts_validator(self) -> Any:
        return None


def asking(of: Any, *headers: Any, **parameters: Any) -> Any:
    found = RequestConfiguration(query_parameters=of(**parameters))
    for name, value in headers:
        found.headers.add(name, value)
    return found


def client(url: str, token: str) -> Any:
    adapter = GraphRequestAdapter(BaseBearerTokenAuthenticationProvider(Fixed(token)))
    adapter.base_url = f"{url}/v1.0"
    return GraphServiceClient(request_adapter=adapter), adapter


async def paged(builder: Any, answer: Any) -> Any:
    """All items by following the links, and how many pages there were."""
    items, pages = list(answer.value), 1
    while answer.odata_next_link:
        answer = await builder.with_url(answer.odata_next_link).get()
        items += answer.value
        pages += 1
    return items, pages, answer


async def refused(call: Any) -> list[Any]:
    try:
        await call
    except ODataError as error:
        return [error.response_status_code, error.error.code]
    raise AssertionError("not refused")


def days_pass(**how: int) -> None:
    change = json.dumps(how or {"seed": 1, "leavers": 6, "updated": 2}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/_sandbox/change", data=change, method="POST")).close()


async def subscriptions(graph: Any) -> dict[str, Any]:
    """Made, shown, renewed, told and ended, with an address that answers as the documentation says."""
    found: dict[str, Any] = {}
    told: list[Any] = []
    came = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            token = parse_qs(urlsplit(self.path).query).get("validationToken", [""])[0].encode()
            if body:
                told.extend(json.loads(body)["value"])
                came.set()
            self.send_response(500 if "deaf" in self.path else 200 if token else 202)
            self.send_header("content-type", "text/plain")
            self.send_header("content-length", str(len(token)))
            self.end_headers()
            self.wfile.write(token)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_address[1]}"
    ends = datetime.now(UTC) + timedelta(days=20)

    def wanted(**changes: Any) -> Any:
        given: dict[str, Any] = {
            "resource": "users",
            "change_type": "updated,deleted",
            "notification_url": f"{here}/a?ours=1",
        }
        given |= {"expiration_date_time": ends, "client_state": "state", "lifecycle_notification_url": f"{here}/life"}
        return Subscription(**{**given, **changes})

    made = await graph.subscriptions.post(wanted())
    found["made"] = [made.resource, made.client_state, made.expiration_date_time == ends, bool(made.id)]
    await graph.subscriptions.post(wanted(resource="groups"))
    listed = (await graph.subscriptions.get()).value
    found["listed"] = [[one.resource, one.client_state, one.notification_url == f"{here}/a?ours=1"] for one in listed]
    item = graph.subscriptions.by_subscription_id(made.id)
    later = ends + timedelta(days=5)
    found["renewed"] = (await item.patch(Subscription(expiration_date_time=later))).expiration_date_time == later
    await item.reauthorize.post()
    found["shown"] = (await item.get()).expiration_date_time == later
    wrong: dict[str, dict[str, Any]] = {
        "twice": {},
        "too long": {"expiration_date_time": datetime.now(UTC) + timedelta(minutes=41_800)},
        "over": {"expiration_date_time": datetime.now(UTC) - timedelta(minutes=1)},
        "plain": {"notification_url": "http://sync.example.org/a"},
        "deaf": {"notification_url": f"{here}/deaf"},
        "deaf to lifecycle": {"lifecycle_notification_url": f"{here}/deaf"},
        "long state": {"client_state": "x" * 129},
        "created": {"change_type": "created"},
    }
    for name, changes in wrong.items():
        found[name] = await refused(graph.subscriptions.post(wanted(**changes)))
    await asyncio.to_thread(days_pass, seed=2, disabled=2, moved=2)
    await asyncio.to_thread(came.wait, 10)
    await asyncio.sleep(0.3)
    found["told"] = sorted({(one["resource"].split("/")[0], one["changeType"], one["clientState"]) for one in told})
    found["told of"] = sorted({one["resourceData"]["id"] for one in told if one["resource"].startswith("Users")})
    await item.delete()
    found["gone"] = await refused(item.get())
    found["left"] = [one.resource for one in (await graph.subscriptions.get()).value]
    server.shutdown()
    return found


async def main() -> None:
    graph, adapter = client(url, token)
    found: dict[str, Any] = {}

    ask = asking(
        UsersRequestBuilder.UsersRequestBuilderGetQueryParameters,
        select=["id", "userPrincipalName", "accountEnabled", "givenName", "surname", "mail", "userType"],
        top=7,
    )
    users, pages, _ = await paged(graph.users, await graph.users.get(ask))
    found["users"] = [
        [u.id, u.user_principal_name, u.account_enabled, u.given_name, u.surname, u.user_type] for u in users
    ]
    found["user pages"] = pages
    thin = (await graph.users.get()).value
    found["thin"] = [len(thin), all(u.account_enabled is None and u.display_name for u in thin)]
    iterated: list[str] = []

    def keep(user: Any) -> bool:
        iterated.append(user.id)
        return True

    await PageIterator(await graph.users.get(ask), adapter).iterate(keep)
    found["iterated"] = iterated
    one = users[0]
    alone = await graph.users.by_user_id(one.user_principal_name).get(
        asking(
            UserItemRequestBuilder.UserItemRequestBuilderGetQueryParameters,
            select=["id", "accountEnabled", "department", "onPremisesExtensionAttributes"],
        )
    )
    extension = alone.on_premises_extension_attributes.extension_attribute1
    found["alone"] = [alone.id, alone.account_enabled, alone.department, extension]
    guest = next(u for u in users if u.user_type == "Guest")
    found["guest"] = (await graph.users.by_user_id(guest.user_principal_name).get()).id == guest.id
    parameters = UsersRequestBuilder.UsersRequestBuilderGetQueryParameters
    mailed = next(u for u in users if u.mail)
    by_mail = f"mail eq '{mailed.mail.upper()}' or proxyAddresses/any(p:p eq 'SMTP:{mailed.mail}')"
    found["by mail"] = [u.id for u in (await graph.users.get(asking(parameters, filter=by_mail))).value] == [mailed.id]
    eventual = ("ConsistencyLevel", "eventual")
    counted = await graph.users.get(asking(parameters, eventual, count=True, top=1, select=["id"]))
    found["counted"] = [counted.odata_count, len(counted.value)]
    found["nobody"] = await refused(graph.users.by_user_id("nobody@acme.example").get())
    found["bad select"] = await refused(graph.users.get(asking(parameters, select=["nonsense"])))
    found["not in lists"] = await refused(graph.users.get(asking(parameters, select=["aboutMe"])))
    found["too many"] = await refused(graph.users.get(asking(parameters, top=1000)))

    ask = asking(GroupsRequestBuilder.GroupsRequestBuilderGetQueryParameters, select=["id", "displayName"], top=5)
    groups, pages, _ = await paged(graph.groups, await graph.groups.get(ask))
    found["groups"], found["group pages"] = {g.id: g.display_name for g in groups}, pages
    found["members"], found["kinds"], most = {}, set(), 0
    for group in groups:
        builder = graph.groups.by_group_id(group.id).members
        ask = asking(MembersRequestBuilder.MembersRequestBuilderGetQueryParameters, select=["id"], top=9)
        members, pages, _ = await paged(builder, await builder.get(ask))
        found["members"][group.id] = sorted([m.id, KINDS[type(m)]] for m in members if isinstance(m, (User, Group)))
        found["kinds"] |= {KINDS[type(m)] for m in members}
        most = max(most, pages)
    found["kinds"], found["member pages"] = sorted(found["kinds"]), most
    flat = {}
    for group in groups:
        builder = graph.groups.by_group_id(group.id).transitive_members
        members, _, _ = await paged(builder, await builder.get())
        flat[group.id] = sorted(m.id for m in members if isinstance(m, User))
        cast = asking(GraphUserRequestBuilder.GraphUserRequestBuilderGetQueryParameters, eventual, count=True, top=999)
        people = await builder.graph_user.get(cast)
        assert sorted(u.id for u in people.value) == flat[group.id]
        assert people.odata_count == len(flat[group.id])
    found["flat"] = flat
    found["cast"] = await refused(graph.groups.by_group_id(groups[0].id).transitive_members.graph_user.get())
    user = graph.users.by_user_id(one.id)
    found["member of"] = sorted(g.id for g in (await user.member_of.get()).value if isinstance(g, Group))
    above = (await user.transitive_member_of.get()).value
    found["all member of"] = sorted(g.id for g in above if isinstance(g, Group))
    builder = graph.service_principals.by_service_principal_id(app).app_role_assigned_to
    assigned, pages, last = await paged(builder, await builder.get())
    assert isinstance(last, AppRoleAssignmentCollectionResponse)
    found["assigned"] = [[str(a.principal_id), a.principal_type] for a in assigned]

    # Several in one, and what the batch answers of each.
    batch = BatchRequestContent()
    for at, path in enumerate([f"/groups/{g.id}/members?$select=id" for g in groups] + ["/users/nobody"]):
        information = graph.users.to_get_request_information()
        item = BatchRequestItem(information, str(at))
        item.url = path  # it would send the full address
        batch.add_request(item.id, item)
    answers = await BatchRequestBuilder(adapter).post(batch)
    found["batch"] = [answers.get_response_by_id(str(at)).status for at in range(len(groups) + 1)]
    # Bodies are objects, as Graph's documentation shows them; this SDK reads only text in their place.
    found["batch headers"] = answers.get_response_by_id("0").content_type

    # Deltas.
    for name, builder, of in (
        ("users", graph.users.delta, UserDelta.DeltaRequestBuilderGetQueryParameters),
        ("groups", graph.groups.delta, GroupDelta.DeltaRequestBuilderGetQueryParameters),
    ):
        select = ["displayName", "accountEnabled"] if name == "users" else ["displayName", "members"]
        items, pages, last = await paged(builder, await builder.get(asking(of, select=select)))
        found[f"{name} delta"] = [sorted({i.id for i in items}), pages, len(items)]
        if name == "groups":
            members = {}
            for item in items:
                for member in item.additional_data.get("members@delta", ()):
                    members.setdefault(item.id, []).append(str(member["id"]))
            found["members delta"] = {key: sorted(some) for key, some in members.items()}
        after = await builder.with_url(last.odata_delta_link).get()
        assert after.odata_delta_link
        assert not after.value
        latest = await builder.with_url(f"{url}/v1.0/{name}/delta?$select=displayName&$deltatoken=latest").get()
        assert latest.odata_delta_link
        assert not latest.value
        found[f"{name} latest"] = latest.odata_delta_link
        found[f"bad {name} delta"] = await refused(
            builder.with_url(f"{url}/v1.0/{name}/delta?$deltatoken=nonsense").get()
        )
    await asyncio.to_thread(days_pass)
    removed = []
    builder = graph.users.delta
    items, _, _ = await paged(builder, await builder.with_url(found["users latest"]).get())
    for item in items:
        removed += [item.additional_data["@removed"]["reason"]] if "@removed" in item.additional_data else []
    found["later"] = [len(items), sorted(removed)]
    found["bin"] = len((await graph.directory.deleted_items.graph_user.get()).value)

    found["subscriptions"] = await subscriptions(graph)

    # 429: the SDK waits as long as Retry-After says and asks again.
    graph, _ = client(busy_url, busy_token)
    impatient = asking(parameters, top=1)
    impatient.options = [RetryHandlerOption(max_retries=0)]
    for _ in range(20):
        try:
            await graph.users.get(impatient)
        except ODataError as error:
            headers = {name.lower(): value for name, value in error.response_headers.items()}
            found["429"] = [error.response_status_code, error.error.code, headers["x-ms-throttle-information"]]
            found["wait"] = int(headers["retry-after"])
            break
    found["after it"] = len((await graph.users.get(asking(parameters, top=1))).value)
    json.dump(found, sys.stdout, default=str)  # it makes UUIDs of what looks like one


asyncio.run(main())
