"""OneLogin event webhooks: https://developers.onelogin.com/api-docs/1/events/webhooks

A list of events in JSON, or an event a line; of every kind that there is, so that most concern nobody. They are proved
by nothing but a header of our choice: `Authorization`. `user_name` is a name to show and no login: the id counts.
"""

from __future__ import annotations

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
    id_of,
    json_of,
    named,
    posted,
    prove,
)

_SIGN_INS: Final = frozenset({5, 8})
"""Signed in to OneLogin, to an application."""
_CHANGES: Final = frozenset({4, 12, 13, 14, 15, 16, 17, 19, 21, 32, 33, 48, 147, 148, 149, 150})
"""Of people: roles, locks, created, updated, deactivated, activated, deleted, suspended, reactivated, imported."""
_LARGEST: Final = 2**63


class OneLogin:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        posted(delivery)
        prove(bearer(delivery), secrets)
        events = _events(delivery.body)
        news = (one for event in events for one in news_of(event, "webhook"))
        ids = id_of(*(at(event, "uuid") for event in events))
        return accepted(news, ids, Answer(200, b"{}", "application/json"))


def _events(body: bytes) -> list[Any]:
    """The events; None stands for a line that is no JSON. Raises `MalformedError` where no line is an event."""
    whole = _event(body)
    events = whole if isinstance(whole, list) else [_event(line) for line in body.split(b"\n") if line.strip()]
    if not isinstance(whole, list) and not any(isinstance(event, dict) for event in events):
        raise MalformedError("is neither a list of events in JSON, nor an event a line")
    return events


def _event(line: bytes) -> Any:
    try:
        return json_of(line)
    except MalformedError:
        return None


def news_of(event: Any, via: Via) -> Iterator[News | None]:
    """Whom an event names, sent or polled; None where it makes no sense."""
    kind = _number(at(event, "event_type_id"))
    if not kind:
        yield None
    elif int(kind) in _SIGN_INS:
        yield named("user", _number(at(event, "user_id")), "sign-in")
    elif int(kind) in _CHANGES:
        user = _number(at(event, "user_id"))
        # An import, and a role that is gone, may name no person.
        yield named("user", user, via) if user else named("group", _number(at(event, "role_id")), via)


def _number(value: Any) -> str:
    """A number as text; "" for what is none. Ids come as numbers, and as texts of digits."""
    if type(value) is str and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return str(value) if type(value) is int and 0 < value < _LARGEST else ""
