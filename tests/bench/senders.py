"""The load: changes people at the SCIM server and sends a webhook for each, at a rate, in a process of its own.

It speaks HTTP by hand over connections that stay open, so that it takes little of the processor from what is measured.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.bench.child import answer


class Wire:
    """Connections to one server, of which any that is free takes the next request."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._where = parts.hostname, parts.port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Sends it; the status of the answer."""
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection(*self._where)
        lines = [f"POST {path} HTTP/1.1", f"Host: {self._where[0]}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        if length:
            await reader.readexactly(length)
        self._free.append((reader, writer))
        return int(head.split(" ", 2)[1])

    def close(self) -> None:
        """Ends the connections."""
        for _, writer in self._free:
            writer.close()


def signed(secret: str, person: str, number: int) -> tuple[bytes, dict[str, str]]:
    """Body and headers of Standard Webhooks."""
    body = orjson.dumps({"type": "user.updated", "data": {"user": person}})
    sent, stamp = f"msg_{number}_{time.time_ns()}", str(int(time.time()))
    proof = hmac.digest(b64decode(secret), f"{sent}.{stamp}.".encode() + body, "sha256")
    said = {"webhook-id": sent, "webhook-timestamp": stamp, "webhook-signature": f"v1,{b64encode(proof).decode()}"}
    return body, said


async def _send(
    scim: str, receiver: str, secret: str, rate: float, events: Sequence[Mapping[str, Any]]
) -> list[list[float]]:
    idp, hook = Wire(scim), Wire(receiver)
    found: list[list[float]] = [[] for _ in events]
    begin = time.monotonic() + 0.2

    async def one(number: int, person: str, change: Any) -> None:
        await asyncio.sleep(begin + number / rate - time.monotonic())
        await idp.post("/_bench/change", orjson.dumps(change), {})
        body, headers = signed(secret, person, number)
        sent = time.monotonic()
        status = await hook.post("/webhooks/acme", body, headers)
        found[number] = [sent, time.monotonic(), status]

    await asyncio.gather(*(one(number, event["person"], event["change"]) for number, event in enumerate(events)))
    return found


def send(**given: Any) -> list[list[float]]:
    """Every event at its time: for each, when it was sent, when it was answered, and with which status."""
    return asyncio.run(_send(**given))


if __name__ == "__main__":
    answer({"send": send})
