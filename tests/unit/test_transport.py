"""Connections of our own, against servers and proxies on this machine that say what they like, byte for byte."""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import re
import ssl
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from connectors import transport
from connectors.errors import ConfigurationError, RetryableError
from connectors.http import Http
from connectors.transport import Direct, Origin, Proxy, Response, Timeouts, Wire
from tests.support.scripted import answer

PASSWORD: Final = "pr%xy" + "-pa:ss"  # in parts, because tracebacks show source lines
SECRET: Final = "s3cr3t" + "-Pa55"

CODE: Final = base64.b64encode(f"us@er:{PASSWORD}".encode()).decode()
FINE: Final = answer(200, b"{}")
CHUNKED: Final = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Read = tuple[int, dict[str, str], bytes]


# --- servers ---


async def request_of(reader: asyncio.StreamReader) -> bytes:
    """A request, whole."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head)
    return head + (await reader.readexactly(int(length[1])) if length else b"")


class Peer:
    """A server that does with each connection what `serve` says, and counts those that came and those still open."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._tasks = set[asyncio.Task[Any]]()
        self.url, self.opened, self.open = "", 0, 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.opened += 1
        self.open += 1
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.close()

    async def end(self) -> None:
        left = [*self._tasks]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@asynccontextmanager
async def peer(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    made = Peer(serve)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0, ssl=tls)
    made.url = f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await made.end()


def saying(*answers: bytes, then: Callable[[asyncio.StreamWriter], Any] = lambda writer: None) -> Serve:
    """The answers in turn, on whatever connection, the last one for ever; `then`: what is done after each."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request_of(reader)
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            then(writer)

    return serve


def numbered() -> Serve:
    """Says of each request which connection it came on."""
    numbers = itertools.count(1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        while True:
            await request_of(reader)
            writer.write(answer(200, str(number).encode()))

    return serve


def then_close(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 (what is waited for happens in asyncio)
            await asyncio.sleep(0.001)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """Of a server at 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Of a client that trusts that server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# --- the client ---


def direct(
    url: str,
    context: ssl.SSLContext | None = None,
    *,
    connect: float = 5.0,
    read: float = 5.0,
    proxy: str | None = None,
) -> Direct:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    origin = Origin(url, parts.hostname, parts.port, context, Proxy.of(proxy) if proxy else None)
    return Direct(origin, Timeouts(connect, read))


async def whole(response: Response) -> Read:
    try:
        return response.status, dict(response.headers), b"".join([piece async for piece in response.body])
    finally:
        await response.close()


async def ask(wire: Wire, target: str = "/", method: str = "GET", content: bytes | None = None) -> Read:
    return await whole(await wire.send(method, target, {"accept": "*/*"}, content))


async def body(wire: Wire, target: str = "/") -> bytes:
    return (await ask(wire, target))[2]


@asynccontextmanager
async def closing(wire: Direct) -> AsyncIterator[Direct]:
    try:
        yield wire
    finally:
        await wire.aclose()


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No connection is left to the garbage collector."""
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert not [str(one.message) for one in seen if issubclass(one.category, ResourceWarning)]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def silent(error: BaseException) -> None:
    """No secret in an exception, nor in anything that is tied to it."""
    tied: list[BaseException | None] = [error]
    for one in tied:
        if one is not None and len(tied) < 50:
            tied += [one.__cause__, one.__context__]
            shown = "".join(traceback.format_exception(one)) + str(one) + repr(one) + repr(vars(one))
            assert not any(secret in shown for secret in (PASSWORD, "pa%3Ass", "-pa:ss", CODE, SECRET)), shown


# --- faults that were found ---


async def test_an_answer_that_was_whole_stays_so_whatever_follows() -> None:
    """What comes behind it, in the same packet, says nothing of whether the request took place."""
    for after in (b"\r\n", b"junk", b"\0", answer(500)):
        for last in ("connection: close", "x-a: b"):
            async with peer(saying(answer(200, b"{}", last) + after)) as server, closing(direct(server.url)) as wire:
                assert (await ask(wire, method="POST", content=b"{}"))[2] == b"{}"


async def test_what_follows_an_error_is_not_looked_at() -> None:
    async with peer(saying(b"")) as server, closing(direct(server.url)) as wire:
        task = asyncio.create_task(ask(wire))
        await until(lambda: bool(wire._all))
        (connection,) = wire._all
        connection.data_received(b"HTTP/1.1 101 X\r\n\r\n")
        connection.data_received(FINE)  # (before the task has its turn)
        with pytest.raises(httpx.RemoteProtocolError):
            await task
        assert not wire._idle


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 199 Soon\r\ncontent-length: %d\r\n\r\n" % len(FINE) + FINE + answer(200, b"evil"),
        b"HTTP/1.1 000 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + FINE,
        b"HTTP/1.1 200 X\r\ntransfer-encoding: gzip\r\n\r\n{}",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: identity\r\n\r\n{}",
        b"HTTP/1.1 200 X\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
async def test_what_is_none_of_the_answers_that_http_knows_is_refused(raw: bytes) -> None:
    async with peer(saying(raw, then=then_close)) as server, closing(direct(server.url)) as wire:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(wire)


async def test_blanks_behind_the_value_of_a_header_are_none_of_it() -> None:
    raw = answer(200, b"{}", "x-a:  b c \t ", "x-a:\td\t", "x-e: \t")
    async with peer(saying(raw)) as server, closing(direct(server.url)) as wire:
        headers = (await ask(wire))[1]
        assert (headers["x-a"], headers["x-e"]) == ("b c, d", "")


async def test_an_answer_that_is_closed_twice_or_read_once_more_takes_nothing_of_the_next() -> None:
    async with peer(numbered()) as server, closing(direct(server.url, read=1)) as wire:
        first, second = await wire.send("GET", "/", {}, None), await wire.send("GET", "/", {}, None)
        assert [(await whole(one))[2] for one in (first, second)] == [b"1", b"2"]
        again = await wire.send("GET", "/", {}, None)
        await second.close()
        assert [piece async for piece in second.body] == []
        assert (again.status, (await whole(again))[2]) == (200, b"2")
        unread = await wire.send("GET", "/", {}, None)
        await unread.close()
        next_one = await wire.send("GET", "/", {}, None)
        with pytest.raises(httpx.ReadError):
            [piece async for piece in unread.body]
        await unread.close()
        assert (next_one.status, (await whole(next_one))[2]) == (200, b"1")


async def test_a_body_without_a_length_is_not_whole_because_we_closed_the_connection(nothing_left: None) -> None:
    async with peer(saying(b"HTTP/1.1 200 X\r\n\r\nhalf")) as server:
        wire = direct(server.url)
        response = await wire.send("GET", "/", {}, None)
        reading = asyncio.create_task(whole(response))
        await asyncio.sleep(0.02)
        await wire.aclose()
        with pytest.raises(httpx.TransportError):
            await reading


@pytest.mark.parametrize("how", ["says goodbye", "is cut"])
async def test_within_tls_a_body_without_a_length_ends_where_the_other_side_says_so(
    how: str, tls: ssl.SSLContext, trusting: ssl.SSLContext, nothing_left: None
) -> None:
    """Whoever is in between can end a connection, but not say goodbye."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 X\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(0.02)
        if how == "is cut":
            writer.transport._ssl_protocol._transport.close()  # type: ignore[attr-defined]

    async with peer(serve, tls) as server, closing(direct(server.url, trusting)) as wire:
        if how == "is cut":
            with pytest.raises(httpx.TransportError):
                await ask(wire)
        else:
            assert (await ask(wire))[2] == b"half"


async def test_a_connection_that_said_goodbye_within_tls_is_not_used_while_it_is_closed(
    tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """asyncio takes some turns to close it, and there is nothing more to read meanwhile."""
    writers = list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            await request_of(reader)
            writer.write(FINE)

    async with peer(serve, tls) as server, closing(direct(server.url, trusting)) as wire:
        assert (await ask(wire, method="POST"))[0] == 200
        (connection,) = wire._idle
        writers[0].close()
        async with asyncio.timeout(5):
            while not connection._transport.is_closing():  # noqa: ASYNC110 (the very turn)
                await asyncio.sleep(0)
        assert (await ask(wire, method="POST"))[0] == 200
        assert server.opened == 2


async def test_a_tunnel_in_which_no_tls_comes_about_leaves_nothing_behind(
    trusting: ssl.SSLContext, nothing_left: None
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 X\r\n\r\n")
        await reader.read(100)

    async with peer(serve) as between:
        wire = direct("https://127.0.0.1:9", trusting, proxy=between.url)
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await ask(wire)
        assert not wire._all
        start = time.monotonic()
        await wire.aclose()
        assert time.monotonic() - start < 0.5


@pytest.mark.parametrize("host", ["a..b", ".example", "x" * 64 + ".example"])
async def test_a_host_that_cannot_be_one_is_not_known(host: str) -> None:
    async with Http(f"http://{host}", name="t", attempts=1) as http:
        with pytest.raises(RetryableError, match="is not known"):
            await http.call("POST", "/x")


async def test_a_connection_that_nobody_used_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "UNUSED", 0.1)
    async with peer(numbered()) as server, closing(direct(server.url)) as wire:
        assert [await body(wire), await body(wire)] == [b"1", b"1"]
        await asyncio.sleep(0.15)
        assert [await body(wire), await body(wire)] == [b"2", b"2"]
        await until(lambda: server.open == 1)


async def test_a_connection_on_which_a_request_was_answered_before_it_was_all_sent_is_not_used() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(413, b"{}"))
        await asyncio.sleep(60)

    async with peer(serve) as server, closing(direct(server.url)) as wire:
        for _ in range(2):
            assert (await ask(wire, method="POST", content=b"x" * 20_000_000))[0] == 413
        assert server.opened == 2


@pytest.mark.parametrize("start", [b"2\r\n{}\r\n0\r\nx-a: ", b"2\r\n{}\r\n0\r\n" + b"x: y\r\n", b"2;"])
async def test_what_follows_a_body_has_an_end(start: bytes) -> None:
    """Trailers, and what may stand beside the size of a chunk: nobody looks at them, and they take up memory."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n" + start)
        more = b"x: y\r\n" * 2000 if start.endswith(b"\n") else b"y" * 12_000
        while sent < 40_000_000:
            writer.write(more)
            await writer.drain()
            sent += len(more)

    async with peer(serve) as server, closing(direct(server.url)) as wire:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(wire)
        assert sent < 40_000_000


@pytest.mark.parametrize(
    "proxy",
    [
        "http://u:{}@h:port",
        "http://u:{}@h:99999",
        "http://u:{}@[h",
        "ftp://u:{}@h",
        "http://u:{}@h\u2100",
        "http://u:{}@",
    ],
)
def test_a_proxy_that_is_none_is_not_told_with_its_password(environment: pytest.MonkeyPatch, proxy: str) -> None:
    environment.setenv("HTTPS_PROXY", proxy.format(SECRET))
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        Http("https://idp.example", name="t", verify=False)
    silent(caught.value)


async def test_a_stream_of_304_is_an_answer_like_any() -> None:
    raw = b"HTTP/1.1 304 X\r\netag: y\r\n\r\n"
    async with (
        peer(saying(raw)) as server,
        Http(server.url, name="t", timeout=1) as http,
        http.stream("GET", "/x") as got,
    ):
        assert (got.status, [piece async for piece in got.chunks()]) == (304, [])
