"""What stands around everything that listens: no request reaches the inside that is too large, too slow, too deep, or
holds what a database or Crowd could not keep; and nothing that goes wrong inside is answered with more than a 503."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import orjson

from connectors.errors import CrowdsyncError
from connectors.strict_json import NotJsonError, loads

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SLOWEST: Final = 15.0
"""Seconds in which a request must have come whole."""
LONGEST_QUERY: Final = 8_192
"""Bytes of a query."""

log = logging.getLogger("crowdsync.receive")


class TooMuchError(Exception):
    """A request that is turned away: with this status, because of this."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Gate:
    """An application, and what stands around it. `most`: bytes of a body. `refused` is told of each request that is
    turned away (status), `failed` of each that went wrong inside."""

    inside: Application
    most: int = 1 << 20
    refused: Callable[[int], None] = lambda _: None
    failed: Callable[[], None] = lambda: None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.inside(scope, receive, send)
            return
        try:
            _readable(scope)
            body = await asyncio.wait_for(_whole(receive, self.most), SLOWEST)
            _keepable(scope, body)
        except TooMuchError as error:
            self.refused(error.status)
            await answer(scope, send, error.status, str(error))
            return
        except TimeoutError:
            self.refused(408)
            await answer(scope, send, 408, "the request did not come whole in time")
            return
        begun = False

        async def once() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.inside(scope, once, noted)
        except Exception as error:  # the sender sends it again, and nothing is lost
            self.failed()
            known = isinstance(error, CrowdsyncError)
            log.warning("%s %s: %s", scope["method"], scope["path"], error, exc_info=None if known else error)
            if not begun:
                await answer(scope, send, 503, "cannot be taken now; send it again", [(b"retry-after", b"5")])


async def answer(scope: Scope, send: Send, status: int, text: str, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """A short answer in words; under /scim/ as an error of SCIM (RFC 7644, 3.12)."""
    kind, body = b"text/plain; charset=utf-8", text.encode()
    if scope["path"].startswith("/scim/"):
        schemas = ["urn:ietf:params:scim:api:messages:2.0:Error"]
        kind, body = b"application/scim+json", orjson.dumps({"schemas": schemas, "status": str(status), "detail": text})
    about = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*about, *headers]})
    await send({"type": "http.response.body", "body": body})


def _readable(scope: Scope) -> None:
    """Raises `TooMuchError` where headers, path or query are no text."""
    query = scope["query_string"]
    if len(query) > LONGEST_QUERY:
        raise TooMuchError(414, "the query is too long")
    try:
        for name, value in scope["headers"]:
            name.decode("ascii")
            value.decode()
        text = query.decode("ascii") + unquote_to_bytes(query).decode() + scope["path"]
        text.encode()
    except UnicodeError:
        raise TooMuchError(400, "a header, the path or the query is no UTF-8") from None
    if "\0" in text:
        raise TooMuchError(400, "NUL stands in the path or the query")


async def _whole(receive: Receive, most: int) -> bytes:
    """The body. Raises `TooMuchError`."""
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise TooMuchError(400, "the request did not come whole")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise TooMuchError(413, f"the body has more than {most:,} bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def _keepable(scope: Scope, body: bytes) -> None:
    """Raises `TooMuchError` where JSON is none, says a thing twice or holds characters that cannot be kept."""
    kind = dict(scope["headers"]).get(b"content-type", b"").split(b";")[0].strip().lower()
    if not body or not (kind == b"application/json" or kind.endswith(b"+json")):
        return
    try:
        found = loads(body)
    except NotJsonError as error:
        raise TooMuchError(400, f"the body is no JSON: {error}") from None
    todo = [found]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            todo += [*one, *one.values()]
        elif isinstance(one, list):
            todo += one
        elif isinstance(one, str) and "\0" in one:  # (half a character of UTF-16 is no JSON for `loads`)
            raise TooMuchError(400, "the body has text that cannot be kept: NUL")
