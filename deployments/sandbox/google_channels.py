"""Push channels of the emulated Directory API: https://developers.google.com/workspace/admin/directory/v1/guides/push

    POST /admin/directory/v1/users/watch?customer=…|domain=…&event=…
    POST /admin/directory_v1/channels/stop

A channel is for one event, add, update, delete, undelete or makeAdmin (which never comes: nobody here becomes an
administrator), lasts two hours unless `params.ttl` says otherwise, two days at most, and can be neither prolonged nor
listed. Its first message is `sync`, sent while the call that makes it is still to be answered. Options:

| option | meaning |
|---|---|
| longest | seconds that a channel lasts at most, two days by default |

Not documented, and so chosen here: the reasons and words of errors (`channelIdNotUnique`, `push.webhookUrlNotHttps`:
those of Google's other APIs), that an event must be named, that an id is taken again once its channel has ended, and
that messages are sent again for an hour. The body is as the reference has it from memory.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import blake2b
from typing import Any, Final

import orjson

from deployments.sandbox.notices import Sender, takes
from deployments.sandbox.server import Answer, Refusal, Request

EVENTS: Final = ("add", "delete", "makeAdmin", "undelete", "update")
LONGEST: Final = 172_800
_KIND: Final = "application/json; charset=UTF-8"
_ID: Final = re.compile(r"[A-Za-z0-9\-_+/=]{1,64}")


@dataclass(slots=True)
class Channel:
    """One channel; `until` in seconds of the clock, `domain` "" for the whole account."""

    id: str
    event: str
    domain: str
    address: str
    token: str
    resource: str
    uri: str
    until: float
    number: int = 0


@dataclass(slots=True)
class Channels:
    """All channels of the project."""

    options: Mapping[str, Any]
    known: dict[str, Channel] = field(default_factory=dict)
    sender: Sender = field(default_factory=lambda: Sender(patience=10.0, lasting=3600.0))

    def watch(self, request: Request, domain: str) -> Answer:
        """Makes a channel. Raises `Refusal`."""
        self._expire()
        said, event = _json(request), request.query.get("event", "")
        if event not in EVENTS:
            raise _refused(400, f"Invalid value '{event}'. Allowed values: [{', '.join(EVENTS)}]", "invalidParameter")
        key, token, address = said.get("id"), said.get("token", ""), said.get("address")
        if type(key) is not str or not _ID.fullmatch(key):
            raise _refused(400, "Invalid channel id.", "invalid")
        if said.get("type") not in ("web_hook", "webhook"):
            raise _refused(400, "Unknown channel type.", "push.channelUnknown")
        if type(token) is not str or len(token) > 256:
            raise _refused(400, "Invalid channel token.", "invalid")
        if not takes(address):
            raise _refused(400, f"WebHook callback must be HTTPS: {address}", "push.webhookUrlNotHttps")
        if key in self.known:
            raise _refused(400, f"Channel id {key} not unique", "channelIdNotUnique")
        uri = f"https://admin.googleapis.com/admin/directory/v1/users?event={event}&{_where(domain)}&alt=json"
        resource = blake2b(uri.encode(), digest_size=16).hexdigest()
        until = time.time() + min(_seconds(said), self.options.get("longest", LONGEST), LONGEST)
        self.known[key] = made = Channel(key, event, domain, str(address), token, resource, uri, until)
        self._send(made, "sync", b"")
        answer = {
            "kind": "api#channel",
            "id": key,
            "resourceId": resource,
            "resourceUri": uri,
            "token": token,
            "expiration": str(int(until * 1000)),
        }
        return Answer(orjson.dumps(answer), kind=_KIND)

    def stop(self, request: Request) -> Answer:
        """Ends a channel. Raises `Refusal`."""
        self._expire()
        said = _json(request)
        found = self.known.get(str(said.get("id")))
        if found is None or found.resource != said.get("resourceId"):
            raise _refused(404, f"Channel '{said.get('id')}' not found for project.", "notFound")
        del self.known[found.id]
        return Answer(b"", 204)

    def tell(self, happened: Iterable[tuple[str, dict[str, str]]]) -> None:
        """Sends messages of what happened to people: event and record."""
        self._expire()
        for event, record in happened:
            for one in self.known.values():
                if one.event == event and record["primaryEmail"].endswith(f"@{one.domain}" if one.domain else ""):
                    self._send(one, event, orjson.dumps({"kind": "admin#directory#user", **record}))

    def shown(self) -> list[dict[str, Any]]:
        """What there is, for `control`."""
        self._expire()
        names = ("id", "event", "domain", "address", "until")
        return [{name: getattr(one, name) for name in names} for one in self.known.values()]

    def _send(self, one: Channel, state: str, body: bytes) -> None:
        one.number += 1
        headers = {
            "X-Goog-Channel-ID": one.id,
            "X-Goog-Message-Number": str(one.number),
            "X-Goog-Resource-ID": one.resource,
            "X-Goog-Resource-State": state,
            "X-Goog-Resource-URI": one.uri,
            "X-Goog-Channel-Expiration": formatdate(one.until, usegmt=True),
        }
        headers |= {"X-Goog-Channel-Token": one.token} if one.token else {}
        self.sender.send(one.address, body, headers | {"Content-Type": _KIND})

    def _expire(self) -> None:
        now = time.time()
        self.known = {key: one for key, one in self.known.items() if one.until > now}


def _where(domain: str) -> str:
    return f"domain={domain}" if domain else "customer=my_customer"


def _seconds(said: Mapping[str, Any]) -> float:
    """`params.ttl`; two hours where it is not said."""
    params = said.get("params")
    ttl = params.get("ttl", "7200") if isinstance(params, dict) else "7200"
    if not str(ttl).isdecimal() or not int(ttl):
        raise _refused(400, "Invalid value for ttl.", "invalid")
    return int(ttl)


def _json(request: Request) -> dict[str, Any]:
    try:
        said = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        said = None
    if not isinstance(said, dict):
        raise _refused(400, "Invalid JSON payload received.", "parseError")
    return said


def _refused(status: int, message: str, reason: str) -> Refusal:
    error = {"code": status, "message": message, "errors": [{"message": message, "domain": "global", "reason": reason}]}
    return Refusal(Answer(orjson.dumps({"error": error}), status, _KIND))
