"""How the one HTTP client sends: httpx' own transport, with one connection for each request that is under way.

The pool of httpcore, below httpx, looks at each of its connections for each of them, before and after each request:
with 16, that takes longer than the request. So a pool has one connection here, and what is not in use lies on a stack.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
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

    `one` makes a transport of one connection. How many are under way at once is up to the caller. A request that does
    not come to its end takes its connection along: a cancelled one may leave it, in its pool, in use for ever.
    """

    def __init__(self, one: Callable[[], httpx.AsyncHTTPTransport]) -> None:
        self._one = one
        self._all: list[httpx.AsyncHTTPTransport] = []
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._for_all: httpx.AsyncHTTPTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        chosen = self._for_all or self._take()
        try:
            response = await chosen.handle_async_request(request)
        except BaseException:
            self._free(chosen, whole=False)
            raise
        if response.extensions.get("http_version") == b"HTTP/2":
            self._for_all = chosen
        elif self._for_all is chosen:  # a connection made anew: the other side, or a proxy, is another one
            self._for_all = None
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, partial(self._free, chosen))
        return response

    async def aclose(self) -> None:
        """Closes them all."""
        await asyncio.gather(*(each.aclose() for each in self._all), *self._closing)

    def _take(self) -> httpx.AsyncHTTPTransport:
        if self._idle:
            return self._idle.pop()  # the one that was used last: the other side has not closed it yet
        self._all.append(self._one())
        return self._all[-1]

    def _free(self, one: httpx.AsyncHTTPTransport, *, whole: bool) -> None:
        """A request is over: its connection is free for another one, or closed where the answer was not `whole`."""
        if one is self._for_all or one in self._idle or one not in self._all:
            return
        if whole:
            self._idle.append(one)
            return
        self._all.remove(one)
        closing = asyncio.create_task(_closed(one))  # whoever is cancelled does not wait for it
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)


async def _closed(one: httpx.AsyncHTTPTransport) -> None:
    with suppress(Exception):  # it is given up: how it ends is no matter
        await one.aclose()


class _Body(httpx.AsyncByteStream):
    """A body; once it is closed, `over` is told whether all of it was read."""

    def __init__(self, inner: httpx.AsyncByteStream, over: Callable[..., None]) -> None:
        self._inner, self._over = inner, over
        self._pieces: AsyncIterator[bytes] | None = None
        self._whole = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._pieces = aiter(self._inner)
        return self

    async def __anext__(self) -> bytes:
        assert self._pieces is not None
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            self._whole = True
            raise

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        except BaseException:
            self._whole = False
            raise
        finally:
            self._over(whole=self._whole)
