"""Keycloak with Phase Two's `keycloak-events`: https://github.com/p2-inc/keycloak-events

`X-Keycloak-Signature` is the HMAC-SHA256 of the body, in hexadecimal digits. Both listeners are understood:
`ext-event-webhook` (`type` says "admin." or "access." first) and `ext-event-http` (Keycloak's own two shapes, of which
that of an administrator has no `type`).
Whom an administrator's event is about is said by its path; the `details` beside it may be missing, `resourceType` may
be another (REALM for people who were imported), and `resourceId` is no more than the last step of the path.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    id_of,
    json_of,
    named,
    posted,
    prove,
)
from connectors.strict_json import NotJsonError, loads

CHANGES: Final = frozenset(
    {
        "REGISTER",
        "UPDATE_PROFILE",
        "UPDATE_EMAIL",
        "VERIFY_EMAIL",
        "DELETE_ACCOUNT",
        "USER_DISABLED_BY_PERMANENT_LOCKOUT",
    }
)
"""What people do to their own accounts, and what wrong passwords do to them."""
_OURS: Final = ("USER", "GROUP", "GROUP_MEMBERSHIP", None)
"""What an event without a path should have said more of. Others, as that of a realm whose settings changed, have none
because they are about nobody."""


@dataclass(frozen=True, slots=True)
class Keycloak:
    """A `Hook`. Events of another realm than `realm` concern nobody: a server may send those of all of them."""

    realm: str = ""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        posted(delivery)
        signed = [hmac.digest(one.encode(), delivery.body, "sha256").hex() for one in secrets if one]
        prove(delivery.headers.get("x-keycloak-signature", ""), signed)
        event = json_of(delivery.body)
        if not isinstance(event, dict):
            raise MalformedError("is no event")
        realm = event.get("realmName")
        elsewhere = self.realm and type(realm) is str and realm != self.realm
        ids = id_of(event.get("uid") or event.get("id"))
        return accepted(() if elsewhere else news_of(event, "webhook"), ids, Answer(204))


def news_of(event: dict[str, Any], via: Via) -> Iterator[News | None]:
    """Whom an event names, sent or polled; None where it makes no sense."""
    kind = event.get("type")
    kind = kind if type(kind) is str else ""
    if kind.startswith("admin.") or not kind:
        yield from _administered(event, via)
    elif (what := kind.removeprefix("access.")) == "LOGIN" or what in CHANGES:
        user = at(event, "authDetails", "userId") or event.get("userId")
        yield named("user", user, "sign-in" if what == "LOGIN" else via)


def _administered(event: dict[str, Any], via: Via) -> Iterator[News | None]:
    """Of `users/U/groups/G` the person suffices: the groups are read with them."""
    path = event.get("resourcePath")
    steps = path.strip("/").split("/") if type(path) is str else [""]
    if steps[0] == "users":
        yield named("user", steps[1] if len(steps) > 1 else at(event, "details", "userId"), via)
    elif steps[0] == "groups":
        yield named("group", steps[1] if len(steps) > 1 else _made(event), via)
        if steps[2:] == ["children"] and (child := _made(event)):  # the path names the parent
            yield named("group", child, via)
    elif not steps[0] and (path is not None or event.get("resourceType") in _OURS):
        yield None


def _made(event: dict[str, Any]) -> Any:
    """The id of the group that was made or moved. `representation` is JSON in a text, and may be missing."""
    text = event.get("representation")
    try:
        return at(loads(text.encode("utf-8", "replace")), "id") if type(text) is str else None
    except NotJsonError:
        return None
