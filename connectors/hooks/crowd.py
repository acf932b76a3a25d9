"""Crowd's own webhook: a POST without a body, which says that something changed and nothing more.

How Crowd carries the token is not documented: it is taken where `Authorization` has it, and as `token` in the query.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from connectors.hook import Accepted, Answer, Delivery, News, NotVerifiedError, fits, posted
from connectors.settings import DirectorySettings
from connectors.source import secret


class Ping:
    """The hook of a directory."""

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`. The secret stands in `Authorization`, or as `token` in the query."""
        given = delivery.headers.get("authorization", "").removeprefix("Basic ").removeprefix("Bearer ")
        if not fits(given or delivery.query.get("token", ""), secrets):
            raise NotVerifiedError
        posted(delivery)
        return Accepted((News("crowd", "", "crowd"),), "", Answer(204))


def ping_secrets(directory: DirectorySettings) -> tuple[str, ...]:
    """The one or two live secrets of Crowd's webhook. Raises `ConfigurationError`."""
    field = f"directory.webhook_secret_{'file' if directory.webhook_secret_file else 'env'}"
    return tuple(secret(field, directory.webhook_secret_env, directory.webhook_secret_file).split())
