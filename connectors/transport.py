"""How the one HTTP client sends: HTTP/1.1 over connections of its own, also through a proxy.

Answers are taken apart by llhttp (`httptools`); connections and TLS are asyncio's. httpx, with httpcore's pool below,
needs some ten times as long for a request, which is most of the time where many are written, or somebody waits for a
change to arrive. The exceptions are those of httpx; a transport of httpx can take the place of all this (`Through`).
"""

from __future__ import annotations

import asyncio
import base64
import errno
import re
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Protocol
from urllib.parse import unquote, urlsplit

import httptools
import httpx

MAX_HEAD: Final = 100 * 2**10
"""Bytes that an answer may have before its body, between two pieces of it, and behind it, at most."""
AHEAD: Final = 256 * 2**10
"""Bytes of a body that are taken before somebody asks for them, at most (and what comes at once)."""
HAPPY: Final = 0.25
"""Seconds after which the next address of a host is tried beside one that has not answered (RFC 8305)."""
UNUSED: Final = 5.0
"""Seconds after which a connection that nobody used is not used any more. What lies between forgets those that say
nothing, and does not tell: then a write would be lost."""
GOODBYE: Final = 1.0
"""Seconds for which the other side may take to close a connection that we close."""

_HEAD: Final = re.compile(r"[A-Z]+ [\x21-\x7e]+ HTTP/1\.1\r\n(?:[a-z0-9-]+: [\t\x20-\x7e]*\r\n)+\r\n")
_PLAIN: Final = re.compile(r"(?:[!$&-;=?-Z\[\]_a-z|~^]|%[0-9A-Fa-f]{2})+")
"""A path and query that are sent as they are."""
_HAS_BODY: Final = frozenset(("POST", "PUT", "PATCH"))


@dataclass(slots=True)
class Timeouts:
    """Seconds: until there is a connection, and between two pieces of an answer."""

    connect: float
    read: float


@dataclass(slots=True)
class Response:
    """An open answer: `headers` by lower-case name, the values of one that came several times in one, by commas; `body`
    in pieces, as it travels; `close` gives the connection back."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


class Wire(Protocol):
    """What sends requests to one origin. Raises exceptions of httpx: those of a connection that did not come about say
    that nothing was sent."""

    async def send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        """A request, and the answer up to its body; `target` is a path and query, `headers` have lower-case names."""
        ...

    async def aclose(self) -> None:
        """Closes the connections."""
        ...


def plain_target(root: str, target: str) -> str:
    """A path and query as they may be sent to the origin `root`. Raises `httpx.InvalidURL`."""
    if len(root) + len(target) <= 2**15 and _PLAIN.fullmatch(target):
        return target
    return httpx.URL(root + target).raw_path.decode("ascii")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Through which proxy (RFC 9110, 3.7), and what it is told to let us; never shown."""

    host: str
    port: int
    secure: bool
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Proxy:
        """As `HTTPS_PROXY` and its like name one. Raises `ValueError`."""
        parts = port = None
        with suppress(ValueError):  # (whose text may hold the password)
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts is None or port is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError
        headers = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["proxy-authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        return cls(parts.hostname, port, parts.scheme == "https", headers)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: `root` is the address without a path; `context`: for TLS, None where that is not spoken."""

    root: str
    host: str
    port: int
    context: ssl.SSLContext | None
    proxy: Proxy | None = None


class Direct:
    """Connections to one origin. Each belongs to one request until its answer was read; then the next one has it: the
    one that was used last, as the other side has not closed that yet. What does not come to its end takes its
    connection along. How many are under way at once is up to the caller."""

    def __init__(self, origin: Origin, timeouts: Timeouts) -> None:
        self._origin, self._timeouts = origin, timeouts
        self._netloc = origin.root.partition("://")[2]
        asked = origin.proxy if origin.context is None else None  # by the proxy itself: there is no tunnel
        self._before, self._of_proxy = (origin.root, asked.headers) if asked else ("", {})
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        where = self._before + plain_target(self._origin.root, target)
        request = _request(method, where, self._netloc, {**headers, **self._of_proxy}, content)
        connection = self._free() or await self._new()
        try:
            return await connection.ask(request, self._timeouts.read, bodiless=method == "HEAD")
        except BaseException:
            connection.drop()
            raise

    def _free(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.drop()
        return None

    async def _new(self) -> _Connection:
        try:
            async with asyncio.timeout(self._timeouts.connect):
                return await self._connected()
        except TimeoutError as error:
            raise httpx.ConnectTimeout("no connection in time") from error
        except OSError as error:  # (a failure of TLS is one)
            raise httpx.ConnectError("no connection") from _one_of(error)
        except ValueError as error:  # a host that cannot be one, such as a..b
            raise httpx.ConnectError("no connection") from socket.gaierror(socket.EAI_NONAME, type(error).__name__)

    async def _connected(self) -> _Connection:
        to, proxy = self._origin, self._origin.proxy
        if proxy is None:
            return await self._opened(to.host, to.port, to.context)
        connection = await self._opened(proxy.host, proxy.port, ssl.create_default_context() if proxy.secure else None)
        if to.context is not None:
            try:
                await self._tunnel(connection, proxy, to.context)
            except BaseException:
                connection.drop()
                raise
        return connection

    async def _opened(self, host: str, port: int, context: ssl.SSLContext | None) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._idle, self._all), host, port,
            ssl=context, server_hostname=host if context else None, happy_eyeballs_delay=HAPPY,
        )  # fmt: skip
        return connection

    async def _tunnel(self, connection: _Connection, proxy: Proxy, context: ssl.SSLContext) -> None:
        """Asks the proxy to let us through, and speaks TLS behind it."""
        host = f"[{self._origin.host}]" if ":" in self._origin.host else self._origin.host
        place = f"{host}:{self._origin.port}"
        try:
            answer = await connection.ask(
                _request("CONNECT", place, place, proxy.headers, None), self._timeouts.connect, bodiless=True
            )
        except httpx.TransportError as error:
            raise httpx.ProxyError("the proxy gave no answer") from error
        if not 200 <= answer.status < 300:
            raise httpx.ProxyError(f"the proxy answered {answer.status}")
        await connection.secure(context, self._origin.host)

    async def aclose(self) -> None:
        leaving = [each.leave() for each in self._all]
        if leaving:
            await asyncio.wait(leaving, timeout=GOODBYE)
        for each in [*self._all]:
            each.drop()


def _request(method: str, where: str, host: str, headers: Mapping[str, str], content: bytes | None) -> bytes:
    """A request as it is sent. Raises `httpx.LocalProtocolError` where HTTP does not allow what is in it."""
    lines = [f"{method} {where} HTTP/1.1", f"host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if content is not None or method in _HAS_BODY:
        lines.append(f"content-length: {len(content or b'')}")
    head = "\r\n".join((*lines, "", ""))
    # A line within a value would be another header, or another request.
    if head.count("\n") != len(lines) + 1 or not _HEAD.fullmatch(head):
        raise httpx.LocalProtocolError("a header, or the address, holds what HTTP does not allow there")
    return head.encode("ascii") + (content or b"")


def _one_of(error: OSError) -> OSError:
    """asyncio tells of several addresses in a text only: where all refused, the same as of one."""
    if error.errno is None and {*re.findall(r"\[Errno (\d+)\]", str(error))} == {str(errno.ECONNREFUSED)}:
        return ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    return error


class _Connection(asyncio.Protocol):
    """A connection, for one request at a time. Once its answer was read to the end, and the other side keeps it open,
    it lies in `idle`; as long as it is open, in `everywhere`."""

    def __init__(self, idle: list[_Connection], everywhere: set[_Connection]) -> None:
        self._idle, self._everywhere = idle, everywhere
        self._transport: Any = None
        self._socket: Any = None
        self._open, self._ended = True, False
        self._gone: asyncio.Future[None] | None = None
        self._asked, self._since = 0, 0.0
        self._state: Literal["idle", "head", "body", "whole"]
        self._begin(bodiless=True)
        self._state = "idle"

    def _begin(self, *, bodiless: bool) -> None:
        self._state = "head"
        self._asked += 1
        self._bodiless, self._keep, self._until_end = bodiless, False, False
        self._status, self._headers = 0, dict[str, str]()
        self._came = self._ahead = 0
        self._paused = False
        self._pieces = deque[bytes]()
        self._error: httpx.TransportError | None = None
        self._more: asyncio.Future[None] | None = None

    # --- one request ---

    async def ask(self, request: bytes, patience: float, *, bodiless: bool) -> Response:
        """Sends a request, and waits for the head of the answer; `patience`: seconds between two pieces of it."""
        self._parser, self._patience = httptools.HttpResponseParser(self), patience
        self._begin(bodiless=bodiless)
        self._transport.write(request)
        while self._state == "head":
            await self._wait()
        return Response(self._status, self._headers, self._body(self._asked), partial(self._over, self._asked))

    async def _body(self, asked: int) -> AsyncIterator[bytes]:
        while True:
            if self._state == "idle" or self._asked != asked:
                raise httpx.ReadError("closed already")
            if self._pieces:
                piece = self._pieces.popleft()
                self._ahead -= len(piece)
                if self._paused and self._ahead < AHEAD:
                    self._paused = False
                    self._transport.resume_reading()
                yield piece
            elif self._state == "whole":
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        """Until more has come, or what went wrong is raised."""
        if self._error is None:
            self._more = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(self._patience):
                    await self._more
            except TimeoutError:
                raise httpx.ReadTimeout("no answer in time") from None
            finally:
                self._more = None
        if self._error is not None:
            raise self._error

    async def _over(self, asked: int) -> None:
        """The answer to this request is not read any further. Once more, it does no harm to the next one."""
        if self._state == "idle" or self._asked != asked:
            return
        # Of a request that was answered before it was all sent, the other side may take the rest for another one.
        whole = self._state == "whole" and not self._pieces and not self._transport.get_write_buffer_size()
        self._state = "idle"
        if whole and self._keep and self._open:
            self._since = time.monotonic()
            self._idle.append(self)
        else:
            self.drop()

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speaks TLS from now on, after what was asked for that was answered."""
        self._state, transport = "idle", self._transport
        self._transport = await asyncio.get_running_loop().start_tls(transport, self, context, server_hostname=host)

    def usable(self) -> bool:
        """Whether it was used of late, and the other side neither closed it nor said what nobody asked for."""
        if not self._open or time.monotonic() > self._since + UNUSED:
            return False
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    def leave(self) -> asyncio.Future[None]:
        """Closes it in peace; done when it is closed."""
        self._open, self._gone = False, asyncio.get_running_loop().create_future()
        self._transport.close()
        return self._gone

    def drop(self) -> None:
        """Closes it at once."""
        self._open = False
        self._everywhere.discard(self)  # (asyncio does not tell of the end where a handshake within a tunnel fails)
        self._transport.abort()

    # --- what asyncio tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._socket = transport, transport.get_extra_info("socket")
        self._everywhere.add(self)

    def data_received(self, data: bytes) -> None:
        if self._state in ("idle", "whole") or self._error is not None:
            self._keep = False
            self.drop()
            return
        self._came += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(httpx.RemoteProtocolError("the answer is not HTTP"))
        if self._state in ("head", "body") and self._came > MAX_HEAD:
            self._fail(httpx.RemoteProtocolError("the head of the answer, or what follows its body, is too large"))
        elif self._ahead >= AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """Nothing more comes. Within TLS the other side says so itself; else it was somebody in between who cut it."""
        self._open, tls = False, self._transport.get_extra_info("ssl_object")
        try:
            self._ended = self._gone is None and (tls is None or not tls.read(1))
        except ssl.SSLError:
            self._ended = False

    def connection_lost(self, error: Exception | None) -> None:
        self._open = False
        self._everywhere.discard(self)
        if self._state == "body" and self._until_end and self._ended and error is None:
            self._state = "whole"
        elif self._state in ("head", "body"):
            self._fail(httpx.RemoteProtocolError("closed") if error is None else httpx.ReadError("lost"))
        self._wake()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _fail(self, error: httpx.TransportError) -> None:
        """Nothing more is taken from this connection; what was whole before stays so."""
        self._keep = False
        if self._state in ("head", "body") and self._error is None:
            self._error = error
        self.drop()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    # --- what llhttp finds ---

    def on_message_begin(self) -> None:
        if self._state == "whole":  # another answer, which nobody asked for
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state != "head":  # (what follows a body is not looked at)
            return
        key, text = name.decode("latin-1").lower(), _text(value.rstrip(b" \t"))
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if self._state != "head" or self._error is not None:
            return
        status = self._parser.get_status_code()
        coding, length = self._headers.get("transfer-encoding"), self._headers.get("content-length")
        # No answer to come has a body, though llhttp would take for one what follows; of codings we know but one.
        if status < 200 and (status < 100 or coding is not None or length not in (None, "0")):
            self._fail(httpx.RemoteProtocolError("what comes before the answer is none of HTTP's"))
        elif status >= 200 and coding is not None and coding.lower() != "chunked":
            self._fail(httpx.RemoteProtocolError("the answer is coded as nobody asked for"))
        if self._error is not None or status < 200:
            self._headers = {}
            return
        self._status, self._state = status, "body"
        self._until_end = coding is None and length is None
        if self._bodiless or (status in (204, 304) and (coding is not None or length not in (None, "0"))):
            self._state = "whole"  # (what comes all the same would be read as the next answer: it is not kept)

    def on_body(self, piece: bytes) -> None:
        if self._state == "body":
            self._pieces.append(piece)
            self._ahead += len(piece)
            self._came = 0

    def on_message_complete(self) -> None:
        if self._state == "body":
            self._state, self._keep = "whole", self._parser.should_keep_alive()


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


class Through:
    """Requests by a transport of httpx."""

    def __init__(self, root: str, transport: httpx.AsyncBaseTransport, timeouts: Timeouts) -> None:
        self._root, self._transport = root, transport
        seconds = {"connect": timeouts.connect, "read": timeouts.read, "write": timeouts.read, "pool": None}
        self._extensions = {"timeout": seconds}

    async def send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        address, sent = self._root + target, dict(headers)
        request = httpx.Request(method, address, headers=sent, content=content, extensions=self._extensions)
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return Response(response.status_code, dict(response.headers.items()), aiter(response.stream), response.aclose)

    async def aclose(self) -> None:
        await self._transport.aclose()
