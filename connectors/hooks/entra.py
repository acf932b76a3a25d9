"""Change notifications of Microsoft Graph: https://learn.microsoft.com/graph/change-notifications-delivery-webhooks

When a subscription is made, Graph posts a token that is answered as it is, unproven: the answer is plain text and shows
nothing of ours. Each notification carries the `clientState` that the subscription was given. One post may mix several
subscriptions: each item is proved by itself, and what is not proved is left out and still answered 202, as Graph asks.

Lifecycle notifications: after `reauthorizationRequired` nobody has changed, so that it is no news; the flow that looks
after the subscriptions renews them on its schedule, which reauthorises them too. Anything else (`missed`,
`subscriptionRemoved`) says that changes were not told: it is about everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from connectors.hook import (
    Accepted,
    Answer,
    Delivery,
    MalformedError,
    News,
    accepted,
    at,
    configured,
    fits,
    id_of,
    items_of,
    json_of,
    key_of,
    named,
    posted,
)

_TYPES: Final[dict[str, Literal["user", "group"]]] = {
    "#microsoft.graph.user": "user",
    "#microsoft.graph.group": "group",
    "users": "user",
    "groups": "group",
}


class Entra:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        configured(secrets)
        posted(delivery)
        if "validationToken" in delivery.query:
            return _validated(delivery.query["validationToken"])
        items = items_of(at(json_of(delivery.body), "value"))
        proved = [one for one in items if _proves(at(one, "clientState"), secrets)]
        news = (found for one in proved for found in _news(one))
        ids = id_of(*(_id(one) for one in proved))
        return accepted(news, ids, Answer(202), dropped=len(items) - len(proved))


def _validated(token: str) -> Accepted:
    if not key_of(token, 2000):
        raise MalformedError("has a validation token that is too long, or no text")
    return Accepted((), "", Answer(200, token.encode(), "text/plain; charset=utf-8"))


def _proves(state: Any, secrets: Sequence[str]) -> bool:
    return type(state) is str and fits(state, secrets)


def _id(item: dict[str, Any]) -> str:
    """What tells a notification apart; "" where it has no id."""
    steps = (("subscriptionId",), ("changeType",), ("resource",), ("resourceData", "@odata.etag"))
    return key_of(item.get("id")) and "\n".join((item["id"], *(str(at(item, *path)) for path in steps)))


def _news(item: dict[str, Any]) -> Iterator[News | None]:
    if "lifecycleEvent" in item:
        if item["lifecycleEvent"] != "reauthorizationRequired":
            yield News("everybody", "", "webhook")
        return
    path = item.get("resource")
    steps = path.strip("/").split("/") if type(path) is str else [""]
    named_type = at(item, "resourceData", "@odata.type")
    kind = _TYPES.get((named_type if type(named_type) is str else steps[0]).lower())
    if kind:
        given = at(item, "resourceData", "id")
        yield named(kind, steps[1] if given is None and len(steps) == 2 else given, "webhook")
    elif type(named_type) is not str and not steps[0]:
        yield None
