"""The pings of the emulated Crowd: a POST without data to each webhook whose application's events changed.

What section 12 of the reference says is kept: a change pings no webhook for which a ping is queued already; successes
and failures are counted; a webhook that fails for long enough is removed. What it leaves open, and what is done here:

- The token goes out as `Authorization: Basic <token>`, as it was registered.
- A ping that fails is not sent again; the next change sends the next one. Any answer but 2xx, none within `PATIENCE`,
  and a redirect are failures.
- Long enough is `ping_failures` in a row over at least `ping_patience` seconds (`EventSettings`).
- Nothing is sent at registration. A load and an interruption are changes, too.

Only `crowd.serve` sends them, beside its answers, and stops with them; over ASGI they stay queued.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from deployments.sandbox.crowd_rest import Crowd

PATIENCE: Final = 5.0
"""Seconds that a receiver may take for its answer."""

_ENDPOINT: Final = re.compile(r"https?://[!-~]{1,247}")
_TOKEN: Final = re.compile(r"[!-~]{0,255}")
_SUCCESS: Final = re.compile(rb"HTTP/1\.[01] 2\d\d\b")


@dataclass(slots=True)
class Webhook:
    """One registration. `seen` is where the application's events stood when it was last looked at; `queued` says that
    a ping is to be sent, `sending` that one is under way; `failing_since` is in milliseconds."""

    id: int
    application: str
    endpoint: str
    token: str
    seen: tuple[int, ...]
    queued: bool = False
    sending: bool = False
    successes: int = 0
    failures: int = 0
    in_a_row: int = 0
    failing_since: int = 0


def is_endpoint(text: str) -> bool:
    """Whether pings can be sent to that address."""
    try:
        parts = urlsplit(text)
        return bool(_ENDPOINT.fullmatch(text) and parts.hostname and parts.port != 0)
    except ValueError:
        return False


def is_token(text: str) -> bool:
    """Whether a header can carry that token."""
    return _TOKEN.fullmatch(text) is not None


async def send_pings(crowd: Crowd) -> None:
    """Sends what is queued until it is cancelled: to each webhook one ping after the other, to several at a time."""
    wake = asyncio.Event()
    crowd.wake = wake.set
    async with asyncio.TaskGroup() as group:
        while True:
            await wake.wait()
            wake.clear()
            for webhook in crowd.webhooks.values():
                if webhook.queued and not webhook.sending:
                    webhook.sending = True
                    group.create_task(_send(crowd, webhook))


async def _send(crowd: Crowd, webhook: Webhook) -> None:
    """The pings of one webhook, until none is queued or it is registered no more."""
    while webhook.queued and crowd.webhooks.get(webhook.id) is webhook:
        webhook.queued = False
        if crowd.loses_ping(webhook.endpoint):
            continue
        if await _answered(webhook):
            webhook.successes += 1
            webhook.in_a_row = 0
            continue
        webhook.failures += 1
        webhook.in_a_row += 1
        now, settings = crowd.now(), crowd.events
        if webhook.in_a_row == 1:
            webhook.failing_since = now
        lasting = now - webhook.failing_since >= settings.ping_patience * 1000
        if lasting and webhook.in_a_row >= settings.ping_failures and crowd.webhooks.get(webhook.id) is webhook:
            del crowd.webhooks[webhook.id]
    webhook.sending = False


async def _answered(webhook: Webhook) -> bool:
    """One ping, and whether it was answered with a success."""
    parts = urlsplit(webhook.endpoint)
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lines = [f"POST {target} HTTP/1.1", f"Host: {parts.netloc}", "Content-Length: 0", "Connection: close"]
    if webhook.token:
        lines.append(f"Authorization: Basic {webhook.token}")
    try:
        async with asyncio.timeout(PATIENCE):
            port = parts.port or (443 if secure else 80)
            reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure or None)
            try:
                writer.write("\r\n".join((*lines, "", "")).encode())
                status = await reader.readline()
                while await reader.read(65536):
                    pass
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):  # (a line without end is a ValueError)
        return False
    return _SUCCESS.match(status) is not None
