"""Push channels of Google Workspace: https://developers.google.com/workspace/admin/directory/v1/guides/push

Nothing is signed. A channel is given a token when it is made, and says it in every message. Google tells of people
only; of sign-ins too, late, on a channel of the Reports API. Whether a channel is one of ours is for the caller to know
(`X-Goog-Channel-ID`): the first message may come before the call that made the channel has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from connectors.hook import Accepted, Answer, Delivery, News, Via, accepted, at, id_of, json_of, named, posted, prove

_OF_GROUPS: Final = frozenset(
    (
        *("CREATE_GROUP", "DELETE_GROUP", "CHANGE_GROUP_NAME", "CHANGE_GROUP_EMAIL", "CHANGE_GROUP_DESCRIPTION"),
        "GROUP_MEMBER_BULK_UPLOAD",
    )
)
"""What an administrator does to a group that concerns more than one person."""


class Google:
    """A `Hook`."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`."""
        posted(delivery)
        said = delivery.headers
        prove(said.get("x-goog-channel-token", ""), secrets)
        if said.get("x-goog-resource-state") == "sync":
            return Accepted((), "", Answer(204))
        # Message numbers may repeat; with the same content it is the same message.
        content = sha256(delivery.body).hexdigest()
        ids = id_of(said.get("x-goog-channel-id"), said.get("x-goog-message-number"), content)
        return accepted(_news(json_of(delivery.body) if delivery.body.strip() else None), ids, Answer(204))


def _news(body: Any) -> Iterator[News | None]:
    if at(body, "kind") == "admin#reports#activity":
        yield from activity(body, "webhook")
        return
    # Somebody changed; Google finds people by their address too.
    found = named("user", at(body, "id"), "webhook") or named("user", at(body, "primaryEmail"), "webhook")
    yield found or News("everybody", "", "webhook")


def activity(body: Any, via: Via) -> Iterator[News | None]:
    """Whom an activity of the Reports API names, sent or polled. A sign-in names its actor; what an administrator did,
    somebody by their address, or a group, of which everybody is read, for it is named by an address, too."""
    events = at(body, "events")
    for event in events if isinstance(events, list) else ():
        name = at(event, "name")
        if name == "login_success":
            yield named("user", at(body, "actor", "profileId"), "sign-in")
        elif at(body, "id", "applicationName") == "admin":
            given = at(event, "parameters")
            said = {at(one, "name"): at(one, "value") for one in given} if isinstance(given, list) else {}
            if person := named("user", said.get("USER_EMAIL"), via):
                yield person
            elif name in _OF_GROUPS:
                yield News("everybody", "", via)
