"""Push channels of Google Workspace: https://developers.google.com/workspace/admin/directory/v1/guides/push

Nothing is signed. A channel is given a token when it is made, and says it in every message. Google tells of people
only; of sign-ins too, late, on a channel of the Reports API. Whether a channel is one of ours is for the caller to know
(`X-Goog-Channel-ID`): the first message may come before the call that made the channel has returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from connectors.hook import Accepted, Answer, Delivery, News, accepted, at, id_of, json_of, named, posted, prove


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
        events = at(body, "events")
        if isinstance(events, list) and any(at(one, "name") == "login_success" for one in events):
            yield named("user", at(body, "actor", "profileId"), "sign-in")
        return
    # Somebody changed; Google finds people by their address too.
    found = named("user", at(body, "id"), "webhook") or named("user", at(body, "primaryEmail"), "webhook")
    yield found or News("everybody", "", "webhook")
