"""Change notifications of the emulated Microsoft Graph: https://learn.microsoft.com/graph/change-notifications-overview

    POST   /v1.0/subscriptions               GET, PATCH, DELETE /v1.0/subscriptions/{id}
    GET    /v1.0/subscriptions               POST /v1.0/subscriptions/{id}/reauthorize

For `users` and `groups`. Both addresses are asked before a subscription is made, renewed or reauthorised, and must
answer 200 with the token as plain text within ten seconds. Changes are told when a company follows another: who is new,
changed or in the bin is `updated`, who is purged is `deleted`; a group whose members changed is `updated`. A post tells
of up to 20 changes, of several subscriptions; it is sent for four hours until it is taken. Options:

| option | meaning |
|---|---|
| subscriptions | how many the app may have, 100 by default |
| duplicates | a second one to the same resource and change types is made, as it is in fact; else 409, as documented |

Not documented, and so chosen here: codes and words of most errors; that a subscription to groups takes Group.Read.All
(the reference has nothing on it, the page of the call says so) and that an address that does not answer is a 400 at a
renewal, too. Left out: `members@delta` in notifications of groups (a field report), the slowing down of slow endpoints,
and that lifecycle events come by themselves: they are sent by `control` alone.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import orjson

from deployments.sandbox.notices import Sender, post, takes
from deployments.sandbox.server import Answer, Later, Refusal, Request

MOST: Final = timedelta(minutes=41_760)
ASKED: Final = 10.0
"""Seconds in which an address must prove itself."""
RIGHTS: Final[Mapping[str, frozenset[str]]] = {
    "users": frozenset(("User.Read.All", "Directory.Read.All")),
    "groups": frozenset(("Group.Read.All", "Directory.Read.All")),
}
_KINDS: Final = {"users": "User", "groups": "Group"}
_AT_ONCE: Final = 20

Record = dict[str, Any]
Refuse = Callable[[int, str, str], Refusal]
"""status, what is said, code"""


@dataclass
class Subscriptions:
    """The subscriptions of the one app. `refuse` makes an error in Graph's words."""

    tenant: str
    app: str
    base: str
    roles: frozenset[str]
    options: Mapping[str, Any]
    refuse: Refuse
    known: dict[str, Record] = field(default_factory=dict)
    sender: Sender = field(default_factory=lambda: Sender(patience=3.0, lasting=4 * 3600.0))

    def answer(self, request: Request, path: str) -> Answer:
        """A request below /subscriptions. Raises `Refusal`, and `Later` where the address is asked."""
        self._expire()
        key, *more = [*path.split("/")[2:], ""][: max(path.count("/") - 1, 1)]
        if not key and request.method == "GET":
            return self._body({"value": [self._shown(one) for one in self.known.values()]}, "subscriptions")
        if not key and request.method == "POST":
            raise Later(self._made(self._asked_for(request)))
        if key not in self.known:
            raise self.refuse(404, "The object was not found.", "ResourceNotFound")
        one = self.known[key]
        self._allowed(one["resource"])
        match (request.method, more):
            case ("GET", []):
                return self._body(self._shown(one), "subscriptions/$entity")
            case ("DELETE", []):
                del self.known[key]
                return Answer(b"", 204)
            case ("PATCH", []):
                until = self._until(self._json(request).get("expirationDateTime"))
                raise Later(self._renewed(one, until))
            case ("POST", ["reauthorize"]):
                raise Later(self._renewed(one, None))
        raise self.refuse(400, "Specified HTTP method is not allowed for the request target.", "BadRequest")

    def tell(self, people: Iterable[tuple[str, bool]], teams: Iterable[tuple[str, bool]]) -> None:
        """Sends notifications of people and groups (id, whether purged)."""
        self._expire()
        posts: dict[str, list[Record]] = {}
        for resource, changed in (("users", list(people)), ("groups", list(teams))):
            for one in self.known.values():
                if one["resource"].strip("/").lower() == resource:
                    items = (self._item(one, resource, key, purged) for key, purged in changed)
                    wanted = (item for item in items if item["changeType"] in one["changeType"].split(","))
                    posts.setdefault(one["notificationUrl"], []).extend(wanted)
        for address, found in posts.items():
            for at in range(0, len(found), _AT_ONCE):
                self._send(address, found[at : at + _AT_ONCE])

    def lifecycle(self, event: str) -> None:
        """Sends this lifecycle event for every subscription that has an address for it."""
        for one in self.known.values():
            if one["lifecycleNotificationUrl"]:
                item = {name: value for name, value in self._head(one).items() if name != "id"}
                self._send(one["lifecycleNotificationUrl"], [{**item, "lifecycleEvent": event}])

    # --- making and renewing -------------------------------------------------------------------

    def _asked_for(self, request: Request) -> Record:
        said = self._json(request)
        resource, kinds, state = said.get("resource"), said.get("changeType"), said.get("clientState")
        if type(resource) is not str or resource.strip("/").lower() not in RIGHTS:
            raise self._invalid("Resource is not supported by this emulator, or is missing.")
        self._allowed(resource)
        if type(kinds) is not str or not {*kinds.split(",")} <= {"updated", "deleted"}:
            raise self._invalid("Unsupported changeType for the resource.")
        if not takes(said.get("notificationUrl")):
            raise self._invalid("NotificationUrl must be an absolute https address.")
        if said.get("lifecycleNotificationUrl") is not None and not takes(said["lifecycleNotificationUrl"]):
            raise self._invalid("LifecycleNotificationUrl must be an absolute https address.")
        if state is not None and not (type(state) is str and len(state) <= 128):
            raise self._invalid("ClientState has more than 128 characters.")
        until = self._until(said.get("expirationDateTime"))
        if len(self.known) >= self.options.get("subscriptions", 100):
            raise self.refuse(403, "Operation: Create; Exception: [Status Code: Forbidden; Reason: ]", "ExtensionError")
        return {
            "id": str(uuid.uuid4()),
            "resource": resource,
            "applicationId": self.app,
            "changeType": kinds,
            "clientState": state,
            "notificationUrl": said["notificationUrl"],
            "lifecycleNotificationUrl": said.get("lifecycleNotificationUrl"),
            "expirationDateTime": until,
            "creatorId": str(uuid.uuid5(uuid.UUID(self.tenant), self.app)),
            "latestSupportedTlsVersion": "v1_2",
        }

    async def _made(self, one: Record) -> Answer:
        await self._prove(one)
        self._expire()
        for other in self.known.values():
            same = all(other[name] == one[name] for name in ("resource", "changeType"))
            if same and not self.options.get("duplicates"):
                told = f"Subscription Id {other['id']} already exists for the requested combination."
                raise self.refuse(409, told, "Conflict")
        self.known[one["id"]] = one
        return self._body(one, "subscriptions/$entity", 201)

    async def _renewed(self, one: Record, until: str | None) -> Answer:
        await self._prove(one)
        if one["id"] not in self.known:
            raise self.refuse(404, "The object was not found.", "ResourceNotFound")
        if until is None:
            return Answer(b"", 204)
        one["expirationDateTime"] = until
        return self._body(self._shown(one), "subscriptions/$entity")

    async def _prove(self, one: Record) -> None:
        """Both addresses are asked to say a token."""
        addresses = [one["notificationUrl"], one["lifecycleNotificationUrl"]]

        async def proves(address: str) -> bool:
            token = f"Validation: Testing client application reachability for subscription Request-Id: {uuid.uuid4()}"
            target = f"{address}{'&' if '?' in address else '?'}validationToken={quote(token, safe='')}"
            heard = await post(target, b"", {"content-type": "text/plain; charset=utf-8"}, ASKED)
            return (heard.status, heard.kind.split(";")[0], heard.body) == (200, "text/plain", token.encode())

        if not all(await asyncio.gather(*(proves(one) for one in addresses if one))):
            raise self._invalid("Subscription validation request failed. The endpoint must respond with 200 OK.")

    def _until(self, said: Any) -> str:
        try:
            until = datetime.fromisoformat(said)
        except (ValueError, TypeError):
            raise self._invalid("expirationDateTime is a required property for subscription creation.") from None
        if until.tzinfo is None or not datetime.now(UTC) < until <= datetime.now(UTC) + MOST:
            raise self._invalid("Subscription expiration can only be up to 41760 minutes in the future.")
        return until.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")

    def _allowed(self, resource: str) -> None:
        if not self.roles & RIGHTS[resource.strip("/").lower()]:
            told = "Operation: Create; Exception: [Status Code: Forbidden; Reason: Forbidden]"
            raise self.refuse(403, told, "ExtensionError")

    def _expire(self) -> None:
        now = datetime.now(UTC)
        ended = [key for key, one in self.known.items() if datetime.fromisoformat(one["expirationDateTime"]) <= now]
        for key in ended:
            del self.known[key]

    # --- what is said --------------------------------------------------------------------------

    def _head(self, one: Record) -> Record:
        return {
            "id": secrets.token_urlsafe(9),
            "subscriptionId": one["id"],
            "subscriptionExpirationDateTime": one["expirationDateTime"],
            "clientState": one["clientState"],
            "tenantId": self.tenant,
        }

    def _item(self, one: Record, resource: str, key: str, purged: bool) -> Record:
        kind, path = _KINDS[resource], f"{_KINDS[resource]}s/{key}"
        return {
            **self._head(one),
            "changeType": "deleted" if purged else "updated",
            "resource": path,
            "resourceData": {
                "@odata.type": f"#Microsoft.Graph.{kind}",
                "@odata.id": path,
                "@odata.etag": f'W/"{secrets.token_hex(4)}"',
                "id": key,
            },
        }

    def _send(self, address: str, items: list[Record]) -> None:
        if items:
            self.sender.send(address, orjson.dumps({"value": items}), {"content-type": "application/json"})

    def _shown(self, one: Record) -> Record:
        return {**one, "clientState": None}

    def _body(self, content: Record, what: str, status: int = 200) -> Answer:
        return Answer(orjson.dumps({"@odata.context": f"{self.base}/v1.0/$metadata#{what}", **content}), status)

    def _json(self, request: Request) -> Record:
        try:
            said = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict):
            raise self.refuse(400, "Unable to read JSON request payload.", "BadRequest")
        return said

    def _invalid(self, told: str) -> Refusal:
        return self.refuse(400, told, "InvalidRequest")
