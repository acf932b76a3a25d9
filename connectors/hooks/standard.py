"""Standard Webhooks, from any sender of your own: https://github.com/standard-webhooks/standard-webhooks

The headers are those of the specification: `webhook-id` (the same when it is sent again), `webhook-timestamp` (seconds;
five minutes off at most) and `webhook-signature` (`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64; several,
separated by blanks). A secret is base64, after `whsec_` or alone. The body names who may have changed, by their ids in
the source:

    {"type": "user.updated", "data": {"user": "U1"}}
    {"type": "import.finished", "data": {"users": ["U1", "U2"], "group": "G1", "groups": ["G2"]}}
    {"type": "user.signed_in", "data": {"user": "U1"}}

Any of the four keys, at least one. `type` is free, but for `user.signed_in`, which says that these people signed in.
"""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from connectors.hook import (
    Accepted,
    Answer,
    Delivery,
    MalformedError,
    News,
    NotVerifiedError,
    Via,
    accepted,
    at,
    fits,
    id_of,
    items_of,
    json_of,
    named,
    posted,
)

_TOLERANCE: Final = timedelta(minutes=5)
_MOST_SIGNATURES: Final = 20


class Standard:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:
        """As `Hook.verify`."""
        posted(delivery)
        sent, stamp, signatures = (
            delivery.headers.get(f"webhook-{one}", "") for one in ("id", "timestamp", "signature")
        )
        content = b".".join(
            (sent.encode("utf-8", "surrogatepass"), stamp.encode("utf-8", "surrogatepass"), delivery.body)
        )
        ours = [f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in map(key_in, secrets) if key]
        theirs = signatures.split(" ")[:_MOST_SIGNATURES]
        if not sent or not any(fits(one, ours) for one in theirs):
            raise NotVerifiedError
        if not stamp.isascii() or not stamp.isdigit() or abs(int(stamp[:12]) - now.timestamp()) > _TOLERANCE.seconds:
            raise NotVerifiedError
        body = json_of(delivery.body)
        data = at(body, "data")
        if not isinstance(data, dict) or not {"user", "users", "group", "groups"} & data.keys():
            raise MalformedError("has no `data` that names a user or group")
        via: Via = "sign-in" if at(body, "type") == "user.signed_in" else "webhook"
        return accepted(_news(data, via), id_of(sent), Answer(204))


def key_in(secret: str) -> bytes:
    """The key that a secret stands for; b"" where it is no base64."""
    try:
        return b64decode(secret.removeprefix("whsec_"), validate=True)
    except (Error, ValueError):  # (letters that are not ASCII, too)
        return b""


def _news(data: dict[str, Any], via: Via) -> Iterator[News | None]:
    kinds: tuple[Literal["user", "group"], ...] = ("user", "group")
    for kind in kinds:
        given = [data[kind]] if kind in data else []
        given += items_of(data.get(f"{kind}s", []))
        yield from (named(kind, one, via if kind == "user" else "webhook") for one in given)
