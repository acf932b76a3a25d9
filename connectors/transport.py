"""How the one HTTP client sends: httpx' own transport, with one connection for each request that is under way.

The pool of httpcore, below httpx, looks at each of its connections for each of them, before and after each request:
with 16, that takes longer than the request. So a pool has one connection here, and what is not in use lies on a stack.
"""

from __future__ import annotations

import select
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpcore
import httpx

AT_ONCE: Final = 2**18
"""Bytes that are taken from a connection at once, at most: as many as asyncio receives at once."""


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that keeps its socket at hand. Before and after each request, the pool asks all that are idle
    whether the other side closed them; through AnyIO that costs more than the request."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self._socket = inner.get_extra_info("socket")
        self.write, self.aclose = inner.write, inner.aclose  # type: ignore[method-assign]

    async def read(
        self,
        max_bytes: int,
        timeout: float | None = None,  # noqa: ASYNC109 (its own)
    ) -> bytes:
        """As much as has come, up to `AT_ONCE`: whoever takes an answer apart takes any number, and to hand on many
        small pieces costs more than to receive them."""
        return await self._inner.read(max(max_bytes, AT_ONCE), timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (its own)
    ) -> httpcore.AsyncNetworkStream:
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable" or self._socket is None:
            return self._inner.get_extra_info(info)
        number = self._socket.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))


class _Network(httpcore.AnyIOBackend):
    """Connections that are `_Stream`s."""

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _Stream(await super().connect_tcp(*args, **options))


def one_connection(context: ssl.SSLContext, *, http2: bool, proxy: str | None) -> httpx.AsyncHTTPTransport:
    """A transport with one connection, which is made when it is needed, and made again when it was closed."""
    transport = httpx.AsyncHTTPTransport(
        verify=context,
        http2=http2,
        limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        trust_env=True,
        proxy=proxy,
    )
    transport._pool._network_backend = _Network()  # (httpx has no argument for it)
    return transport


class Connections(httpx.AsyncBaseTransport):
    """One connection for each request under way; where the other side speaks HTTP/2, one for all of them.

    `one` makes a transport of one connection. How many are under way at once is up to the caller.
    """

    def __init__(self, one: Callable[[], httpx.AsyncHTTPTransport]) -> None:
        self._one = one
        self._all: list[httpx.AsyncHTTPTransport] = []
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._for_all: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chosen = self._for_all or self._take()
        try:
            response = await chosen.handle_async_request(request)
        except BaseException:
            self._give_back(chosen)
            raise
        if response.extensions.get("http_version") == b"HTTP/2":
            self._for_all = chosen
        elif self._for_all is chosen:  # a connection made anew: the other side, or a proxy, is another one
            self._for_all = None
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, lambda: self._give_back(chosen))
        return response

    async def aclose(self) -> None:
        """Closes them all."""
        for each in self._all:
            await each.aclose()

    def _take(self) -> httpx.AsyncHTTPTransport:
        if self._idle:
            return self._idle.pop()  # the one that was used last: the other side has not closed it yet
        self._all.append(self._one())
        return self._all[-1]

    def _give_back(self, one: httpx.AsyncHTTPTransport) -> None:
        if one is not self._for_all and one not in self._idle:
            self._idle.append(one)


class _Body(httpx.AsyncByteStream):
    """A body; once it is closed, its connection is free for the next request."""

    def __init__(self, inner: httpx.AsyncByteStream, closed: Callable[[], None]) -> None:
        self._inner, self._closed = inner, closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._inner)

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._closed()
