"""Oracle identity domains, by an OCI Events rule, a Notifications topic and its HTTPS subscription:
https://docs.oracle.com/iaas/Content/Notification/Tasks/create-subscription-https.htm

Messages are signed, but with a certificate that would have to be fetched first. What proves them here is the password
in the address of the subscription (`https://crowdsync:SECRET@…`), which Oracle sends as Basic authentication; so does
the message that asks for the subscription to be confirmed. To confirm it its address is asked once: `Accepted.confirm`,
which names no host but that of Oracle's Notifications.

The events name people and groups by OCID, and the directory is asked by another id: they say that somebody changed, and
a read of what changed finds out who. Sign-ins are not told.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from connectors.hook import (
    Accepted,
    Answer,
    Delivery,
    MalformedError,
    News,
    accepted,
    at,
    id_of,
    json_of,
    posted,
    prove,
)

_CONFIRMS: Final = re.compile(
    r"https://(?:[a-z0-9-]+\.)*notification\.(?:[a-z0-9-]+\.)*oraclecloud\.com(?::443)?/[!-\[\]^-~]{1,2000}"
)
_EVENT: Final = re.compile(
    r"com\.oraclecloud\.identity[a-z]*\."
    r"(?:(?:create|update|delete)(?:user|group)|updateuserstate|addusertogroup|removeuserfromgroup)",
    re.IGNORECASE,
)


class Idcs:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        posted(delivery)
        prove(_password(delivery.headers.get("authorization", "")), secrets)
        if delivery.headers.get("x-oci-ns-messagetype") == "SubscriptionConfirmation":
            asked = delivery.headers.get("x-oci-ns-confirmationurl") or at(json_of(delivery.body), "ConfirmationURL")
            if type(asked) is not str or not _CONFIRMS.fullmatch(asked):
                raise MalformedError("asks to confirm a subscription at an address that is not Oracle's")
            return Accepted((), "", Answer(200), confirm=asked)
        body = json_of(delivery.body)
        events = body if isinstance(body, list) else [body]
        ids = id_of(delivery.headers.get("x-oci-ns-messageid") or at(body, "eventID"))
        return accepted((one for event in events for one in _news(event)), ids, Answer(200))


def _password(given: str) -> str:
    """The password of Basic authentication; "" where there is none."""
    try:
        scheme, _, coded = given.partition(" ")
        pair = a2b_base64(coded.encode(), strict_mode=True).decode() if scheme.lower() == "basic" else ""
    except (Error, ValueError):  # (bytes that are no text, too)
        return ""
    return pair.partition(":")[2]


def _news(event: Any) -> Iterator[News | None]:
    kind = at(event, "eventType")
    if type(kind) is not str:
        yield None
    elif _EVENT.fullmatch(kind):
        yield News("everybody", "", "webhook")
