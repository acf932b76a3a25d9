"""Okta event hooks: https://developer.okta.com/docs/concepts/event-hooks/

Before a hook delivers, Okta sends one GET with a challenge, which is answered with the challenge; whether it carries
the secret is not documented, so that it need not. Deliveries carry the secret in `Authorization`, and nothing else
proves them. Who is meant is said by the type of a target, never by its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from connectors.hook import (
    Accepted,
    Answer,
    Delivery,
    MalformedError,
    News,
    Via,
    accepted,
    at,
    bearer,
    configured,
    id_of,
    items_of,
    json_of,
    key_of,
    named,
    posted,
    prove,
)

_SIGN_INS: Final = ("user.session.start", "user.authentication.sso")
_PEOPLE: Final = ("user.lifecycle.", "user.account.", "group.user_membership.", "application.user_membership.")
_GROUPS: Final = ("group.lifecycle.", "group.profile.", "group.application_assignment.")


class Okta:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        if delivery.method == "GET":
            configured(secrets)
            return _challenged(delivery)
        posted(delivery)
        prove(bearer(delivery), secrets)
        body = json_of(delivery.body)
        news = (one for event in items_of(at(body, "data", "events")) for one in news_of(event, "webhook"))
        return accepted(news, id_of(at(body, "eventId")), Answer(204))


def _challenged(delivery: Delivery) -> Accepted:
    challenge = key_of(delivery.headers.get("x-okta-verification-challenge"), 2000)
    if not challenge:
        raise MalformedError("is a GET without a challenge")
    return Accepted((), "", Answer(200, json.dumps({"verification": challenge}).encode(), "application/json"))


def news_of(event: Any, via: Via) -> Iterator[News | None]:
    """Whom an event names, sent or polled; None where it makes no sense."""
    kind = at(event, "eventType")
    if type(kind) is not str:
        yield None
    elif kind in _SIGN_INS:
        if at(event, "outcome", "result") == "SUCCESS" and at(event, "actor", "type") == "User":
            yield named("user", at(event, "actor", "id"), "sign-in")
    elif kind.startswith((*_PEOPLE, *_GROUPS)):
        users = _targets(event, "User") if kind.startswith(_PEOPLE) else []
        if users:  # a group that a person joins or leaves is read with the person
            yield from (named("user", one, via) for one in users)
        else:
            yield from [named("group", one, via) for one in _targets(event, "UserGroup")] or [None]


def _targets(event: Any, kind: str) -> list[Any]:
    targets = at(event, "target")
    return [at(one, "id") for one in targets if at(one, "type") == kind] if isinstance(targets, list) else []
