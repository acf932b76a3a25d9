"""What emulated providers send by themselves: a POST to an address that somebody gave them, and again if it fails.

Not documented, and so chosen here: the pauses between two tries. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

_LOOPBACK: Final = re.compile(r"http://(127\.0\.0\.1|localhost)(:\d+)?/.*")


def takes(address: Any) -> bool:
    """Whether this is an address with https; on this machine http will do."""
    if type(address) is not str or not address.isprintable() or " " in address or not address.isascii():
        return False
    if _LOOPBACK.fullmatch(address):
        return True
    try:
        parts = urlsplit(address)
        return parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Heard:
    """What was answered; status 0: nothing."""

    status: int
    kind: str = ""
    body: bytes = b""


async def post(address: str, body: bytes, headers: Mapping[str, str], patience: float) -> Heard:
    """One POST, for which there are so many seconds."""
    import httpx

    try:
        async with httpx.AsyncClient(trust_env=False) as client, asyncio.timeout(patience):
            answer = await client.post(address, content=body, headers=dict(headers))
            return Heard(answer.status_code, answer.headers.get("content-type", ""), answer.content)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError):
        return Heard(0)


@dataclass(slots=True)
class Sender:
    """Sends beside the answers of an emulator: each until it is taken (any 2xx, or 102), for at most `lasting` seconds,
    of which each try has `patience`."""

    patience: float
    lasting: float
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def send(self, address: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Begins to. (Outside of a loop nobody is told.)"""
        task = asyncio.get_running_loop().create_task(self._send(address, body, headers))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send(self, address: str, body: bytes, headers: Mapping[str, str]) -> None:
        end, pause = time.monotonic() + self.lasting, 0.25
        while True:
            heard = await post(address, body, headers, self.patience)
            if 200 <= heard.status < 300 or heard.status == 102 or time.monotonic() + pause > end:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 60.0)
