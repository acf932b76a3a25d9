"""Connections of our own, against servers and proxies on this machine that say what they like, byte for byte."""

from __future__ import annotations

import asyncio
import base64
import gc
import itertools
import logging
import random
import re
import socket
import ssl
import time
import traceback
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors import transport
from connectors.errors import AmbiguousError, ConfigurationError, RetryableError
from connectors.http import Http
from connectors.transport import AHEAD, Direct, Origin, Proxy, Response, Through, Timeouts, Wire
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


# --- the same as httpx ---

REFUSED: Final = {
    "length twice": "RFC 9110, 8.6: may be refused; two that say the same come of two that added one each",
    "length and chunked": "RFC 9112, 6.3: ought to be handled as an error; one of the two before us obeys the other",
    "folded": "RFC 9112, 5.2: nobody may send it for twenty years",
    "bare line feed": "RFC 9112, 2.2: may be taken for a line end, which is how answers are split",
    "blank in a chunk's size": "RFC 9112, 7.1: nowhere in its grammar",
    "body announced before the answer": "RFC 9110, 6.4.1: a 1xx has none; who thinks otherwise eats up the answer",
    "upgraded": "101: we asked for nothing that it could mean",
    "closing before the answer": "a 1xx of HTTP/1.0, or with connection: close, says that no answer follows",
}
"""What httpx takes, and we refuse, and why that is right: what is refused after it was sent is not known to have taken
place, which is the truth; what is taken may be another's."""
TAKEN: Final = {
    "line ends before": "llhttp steps over them; the answer after them is one",
}
"""What httpx refuses, and we take."""


@dataclass(frozen=True)
class Said:
    """What a server says to a request: in these pieces, and whether it closes the connection then; `odd`: what of it is
    a reason to differ."""

    pieces: list[bytes]
    closes: bool
    odd: frozenset[str] = field(default_factory=frozenset)


PLAIN_HEADERS: Final = [
    *("X-A: one", "x-a: two", "X-a:three", "x-B: a, b", "x-empty:", "x-blanks: \t v \t", 'ETag: "x"'),
    *("set-cookie: a=1; path=/", "SET-COOKIE: b=2", "Content-Type: text/plain; charset=utf-8", "x-utf-8: ü€"),
    "Upgrade: h2c",
]  # fmt: skip


@st.composite
def said(draw: st.DrawFn, number: int) -> Said:
    """An answer to the request of this number, which it names."""
    odd = set[str]()
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 206, 299, 304, 400, 404, 418, 500, 503, 999]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    reason = draw(st.sampled_from([" OK", " ", "", " not so good"]))
    lines = [f"HTTP/{version} {status}{reason}", f"X-Number: {number}"]
    lines += draw(st.lists(st.sampled_from(PLAIN_HEADERS), max_size=4))
    connection = draw(st.sampled_from(["", "", "", "close", "Close", "keep-alive", "keep-alive, Upgrade", "x, close"]))
    if connection:
        lines.append(f"Connection: {connection}")
    closes = "close" in connection.lower() or (version == "1.0" and "keep-alive" not in connection)
    plain = f"{number}:".encode() + draw(st.binary(max_size=draw(st.sampled_from([0, 20, 3000]))))
    name = draw(st.sampled_from(["content-length", "Content-Length", "CONTENT-LENGTH"]))
    framing = draw(
        st.sampled_from(
            ["length"] * 5
            + ["chunked"] * 5
            + ["end", "too long", "too short", "twice", "contradicting", "both", "coded"]
        )
    )
    empty = status in (204, 304)
    if empty:
        framing = draw(st.sampled_from(["none", "zero", "announced", "chunked", "twice"]))
        plain = b""
    ended = b""
    if framing in ("length", "zero"):
        lines.append(f"{name}: {len(plain)}")
    elif framing == "announced":
        lines.append(f"{name}: 7")
    elif framing == "end":
        closes = True
    elif framing in ("too long", "too short"):
        lines.append(f"{name}: {max(0, len(plain) + (3 if framing == 'too long' else -2))}")
        closes = True
    elif framing in ("twice", "contradicting"):
        lines += [f"{name}: {len(plain)}", f"x-b: c\r\n{name}: {len(plain) + (framing != 'twice')}"]
        odd.add("length twice")
        closes = True
    elif framing == "coded":
        lines.append(f"Transfer-Encoding: {draw(st.sampled_from(['gzip', 'identity', 'chunked, gzip', 'xchunked']))}")
        closes = True
    elif framing in ("chunked", "both"):
        lines.append(draw(st.sampled_from(["Transfer-Encoding: chunked", "TRANSFER-Encoding:chunked "])))
        if framing == "both":
            lines.insert(draw(st.integers(1, len(lines))), f"{name}: {len(plain)}")
            odd.add("length and chunked")
            closes = True
        cuts = sorted(draw(st.lists(st.integers(0, len(plain)), max_size=4)))
        extension = draw(st.sampled_from(["", "", ";a", ';a=b;c="d"', " "]))
        if extension == " ":
            odd.add("blank in a chunk's size")
        chunks = [plain[a:b] for a, b in itertools.pairwise([0, *cuts, len(plain)]) if b > a]
        shown = draw(st.sampled_from(["{:x}", "{:X}", "000{:x}"]))
        if not empty:
            ended = b"".join(f"{shown.format(len(x))}{extension}\r\n".encode() + x + b"\r\n" for x in chunks)
            ended += b"0\r\n" + draw(st.sampled_from([b"", b"", b"X-Number: evil\r\nx-t: y\r\n"])) + b"\r\n"
    if framing != "chunked" and framing != "both":
        ended = plain
    fault = draw(
        st.sampled_from([*[""] * 12, "folded", "bare line feed", "control", "blank in a name", "line ends before"])
    )
    if fault:
        odd.add(fault)
        closes = True
    if fault in ("folded", "control", "blank in a name"):
        lines.insert(1, {"folded": "x-f: a\r\n b", "control": "x-f: a\0b", "blank in a name": "x f: a"}[fault])
    end = "\n" if fault == "bare line feed" else "\r\n"
    head = end.join([*lines, "", ""]).encode()
    before = b""
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        interim = draw(st.sampled_from([100, 102, 103, 199, 103, 103, 103, 101]))
        more = draw(
            st.sampled_from(["", *["X-Number: evil\r\n"] * 6, "content-length: 3\r\n", "Connection: close\r\n"])
        )
        old = draw(st.sampled_from(["1.1"] * 9 + ["1.0"]))
        before += f"HTTP/{old} {interim} Soon\r\n{more}\r\n".encode()
        odd |= {"upgraded"} if interim == 101 else set()
        odd |= {"body announced before the answer"} if "length" in more else set()
        odd |= {"closing before the answer"} if old == "1.0" or "Connection" in more else set()
        closes |= interim == 101 or "length" in more or old == "1.0" or "Connection" in more
    raw = before + (b"\r\n" if fault == "line ends before" else b"") + head + ended
    if draw(st.integers(0, 4)) == 0:
        raw = raw[: draw(st.integers(0, len(raw)))]
        closes = True
    elif draw(st.integers(0, 4)) == 0:
        evil = b"HTTP/1.1 200 OK\r\nx-number: evil\r\ncontent-length: 4\r\n\r\nevil"
        raw += draw(st.sampled_from([evil, evil[:20], b"\r\n", b"\r\n" + evil, b"junk", b"\0"]))
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=draw(st.sampled_from([0, 3, 10])))))
    return Said([raw[a:b] for a, b in itertools.pairwise([0, *cuts, len(raw)]) if b > a], closes, frozenset(odd))


@st.composite
def conversations(draw: st.DrawFn) -> list[Said]:
    return [draw(said(number)) for number in range(draw(st.integers(1, 5)))]


class Talk:
    """Answers each request by the number in its target."""

    def __init__(self, answers: list[Said]) -> None:
        self._answers = answers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await request_of(reader)
            one = self._answers[int(head.split()[1][1:])]
            for piece in one.pieces:
                if writer.transport.is_closing():
                    return
                writer.write(piece)
                await asyncio.sleep(0)
            if one.closes:
                return


NOT_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # (loading CAs takes time)


async def told(wires: Callable[[], Wire], count: int) -> list[Read | Exception]:
    """What the requests were answered, one after the other, on one wire or, where there are several, on one each."""
    found: list[Read | Exception] = []
    for number in range(count):
        wire = wires()
        try:
            found.append(await ask(wire, f"/{number}"))
        except httpx.TransportError as error:
            found.append(error)
    return found


async def compared(answers: list[Said]) -> None:
    async with peer(Talk(answers).serve) as server, closing(direct(server.url, read=2)) as own:
        made = list[Through]()

        def anew() -> Through:  # (httpx takes for the next answer what came after the last one)
            made.append(Through(server.url, httpx.AsyncHTTPTransport(verify=NOT_TLS), Timeouts(2, 2)))
            return made[-1]

        pairs = zip(await told(lambda: own, len(answers)), await told(anew, len(answers)), strict=True)
        for each in made:
            await each.aclose()
    for number, (ours, httpxs) in enumerate(pairs):
        odd = answers[number].odd
        if isinstance(ours, Exception):
            assert isinstance(httpxs, Exception) or odd & {*REFUSED}, (ours, httpxs)
            continue
        status, headers, content = ours
        assert headers.get("x-number", str(number)) == str(number), "another's answer"
        assert content[:2] in (b"", f"{number}:".encode()[: len(content)]), "another's answer"
        if "transfer-encoding" in headers:
            headers["transfer-encoding"] = headers["transfer-encoding"].lower()  # (as httpx has it)
        assert (status, headers, content) == httpxs or odd & {*TAKEN}, (ours, httpxs)


@settings(max_examples=150, deadline=None)
@given(conversations())
def test_answers_are_what_httpx_takes_them_for_and_nobody_gets_anothers(answers: list[Said]) -> None:
    """Where httpx fails, so do we: no body that was cut is taken for a whole one. (One without a length and chunks ends
    where the connection does: nobody can know more.)"""
    asyncio.run(compared(answers))


async def test_what_comes_before_an_answer_is_none_of_it() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: </x>\r\nx-a: evil\r\n\r\n"
    async with peer(saying(raw + answer(201, b"{}", "x-a: b"))) as server, closing(direct(server.url)) as wire:
        for _ in range(2):
            assert await ask(wire) == (201, {"content-length": "2", "x-a": "b"}, b"{}")
        assert server.opened == 1


async def test_a_transport_of_httpx_gives_the_same() -> None:
    raw = b"HTTP/1.1 201 X\r\nX-A: one\r\nx-a: two\r\nETag: y\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with peer(saying(raw)) as server, closing(direct(server.url)) as own:
        theirs = Through(server.url, httpx.AsyncHTTPTransport(verify=NOT_TLS), Timeouts(2, 2))
        found = [await ask(one, "/x?y", "POST", b"{}") for one in (own, theirs)]
        await theirs.aclose()
    assert found[0] == found[1] == (201, {"x-a": "one, two", "etag": "y", "transfer-encoding": "chunked"}, b"{}")


# --- what is never sent ---


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        *((method, "/", {}) for method in ("", "get", "GET ", "GET /x HTTP/1.1\r\nx:", "GÉT", "GET\0", "GET\n")),
        *(("GET", f"/{bad}x", {}) for bad in ("\r\n", "\n", "\r", "\0", "\t", "\x7f", " HTTP/1.1\r\n\r\nGET /")),
        *(("GET", "/", {"x-a": f"a{bad}"}) for bad in ("\r\n", "\n", "\r", "\0", "\x7f", "é", "\u2028", "\ud83d")),
        *(("GET", "/", {name: "a"}) for name in ("", "x a", "x:", "X-A", "x\r\ny", "x\n", "é", "x_a", ":path")),
    ],
)  # fmt: skip
async def test_what_http_does_not_allow_is_never_sent(method: str, target: str, headers: dict[str, str]) -> None:
    async with peer(saying(answer())) as server, closing(direct(server.url)) as wire:
        with pytest.raises((httpx.LocalProtocolError, httpx.InvalidURL)):
            await wire.send(method, target, headers, None)
        await asyncio.sleep(0.01)
        assert not server.opened


async def test_what_is_sent_is_one_request_whatever_it_is_about() -> None:
    """Blanks and letters outside ASCII in an address are quoted; all else that is odd is refused."""
    heads = list[bytes]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await request_of(reader))
            writer.write(answer())

    rng, letters, sent = random.Random(7), "aZ09/?&=%+~#@:;\\\"'<>{}|^` \t\r\n\0\x7fé€😀", 0
    async with peer(serve) as server, closing(direct(server.url)) as wire:
        for _ in range(400):
            target = "/" + "".join(rng.choices(letters[: rng.choice((20, 30, 99))], k=rng.randrange(8)))
            value = "".join(rng.choices(letters[: rng.choice((20, 33, 99))], k=rng.randrange(8)))
            with suppress(httpx.LocalProtocolError, httpx.InvalidURL):
                await whole(await wire.send("GET", target, {"x-a": value}, None))
                sent += 1
                assert f"\r\nx-a: {value}\r\n".encode() in heads[-1]
        host = re.escape(urlsplit(server.url).netloc).encode()
    one = re.compile(rb"GET /[\x21-\x7e]* HTTP/1\.1\r\nhost: " + host + rb"\r\nx-a: [\t\x20-\x7e]*\r\n\r\n")
    assert len(heads) == sent > 50
    assert all(one.fullmatch(head) for head in heads)


# --- connections ---


async def test_a_connection_belongs_to_one_request_and_the_next_has_the_one_used_last(nothing_left: None) -> None:
    async with peer(numbered()) as server, closing(direct(server.url)) as wire:
        answers = [await wire.send("GET", "/", {}, None) for _ in range(3)]
        assert server.opened == 3
        for number in (0, 2, 1):
            assert (await whole(answers[number]))[2] == str(number + 1).encode()
        for _ in range(4):
            assert await body(wire) == b"2", "always the one that was used last"
        again = [await wire.send("GET", "/", {}, None) for _ in range(4)]
        assert [(await whole(one))[2] for one in again] == [b"2", b"3", b"1", b"4"]
        assert server.open == 4
        await wire.aclose()
        await until(lambda: server.open == 0)
        assert not wire._all


@pytest.mark.parametrize(
    "first",
    [
        answer(200, b"{}", "connection: close"),
        answer(200, b"{}", "Connection: x, Close"),
        FINE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        FINE + b"HTTP/1.1 200 X\r\nx-number: evil\r\ncontent-length: 4\r\n\r\nevil",
        FINE + b"{}",
        CHUNKED + b"0\r\n\r\nX",
    ],
)
async def test_a_connection_that_is_not_to_be_kept_is_not_used_again(first: bytes, nothing_left: None) -> None:
    async with peer(saying(first, FINE)) as server, closing(direct(server.url)) as wire:
        for number in (1, 2, 2):
            assert (await ask(wire))[2] == b"{}"
            assert server.opened == number
        await until(lambda: server.open == 1)
        assert len(wire._all) == len(wire._idle) == 1


@pytest.mark.parametrize(
    "first", [answer(200, b"{}", length=3), CHUNKED, answer(200, b"x" * 10_000), b"HTTP/1.1 200 X\r\n\r\nx"]
)
async def test_a_body_that_was_not_read_takes_its_connection_along(first: bytes, nothing_left: None) -> None:
    async with peer(saying(first, FINE)) as server, closing(direct(server.url)) as wire:
        response = await wire.send("GET", "/", {}, None)
        await response.close()
        await until(lambda: server.open == 0)
        assert await body(wire) == b"{}"
        assert (server.opened, len(wire._all)) == (2, 1)


async def test_the_answer_to_head_has_no_body_whatever_it_says() -> None:
    async with peer(saying(answer(200, b"", length=7), FINE)) as server, closing(direct(server.url)) as wire:
        status, headers, content = await ask(wire, method="HEAD")
        assert (status, headers["content-length"], content) == (200, "7", b"")
        assert await body(wire) == b"{}"


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("how", ["closed", "aborted", "said something", "said an answer"])
async def test_what_happened_to_a_connection_while_nobody_used_it_is_seen(
    how: str, secure: bool, tls: ssl.SSLContext, trusting: ssl.SSLContext, nothing_left: None
) -> None:
    writers = list[asyncio.StreamWriter]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            await request_of(reader)
            writer.write(answer(200, str(len(writers)).encode()))

    async with (
        peer(serve, tls if secure else None) as server,
        closing(direct(server.url, trusting if secure else None)) as wire,
    ):
        assert [await body(wire), await body(wire)] == [b"1", b"1"]
        if how == "closed" and not secure:
            writers[0].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        elif how == "closed":
            writers[0].close()
        elif how == "aborted":
            writers[0].transport.abort()
        else:
            writers[0].write(b"x" if how == "said something" else answer(200, b"evil"))
        if secure or how == "aborted":
            await until(lambda: not wire._idle[0]._open)
        else:
            time.sleep(0.01)  # (the loop has not seen it, but the kernel has)  # noqa: ASYNC251
        assert await body(wire) == b"2"
        await until(lambda: server.open == 1)


@pytest.mark.parametrize("secure", [False, True])
async def test_what_is_cancelled_takes_its_connection_along(
    secure: bool, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    """At whatever moment, also twice; nobody gets the answer, and none of the others is disturbed."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            name = (await request_of(reader)).split()[1]
            raw = answer(200, name * 50)
            for start in range(0, len(raw), 60):
                writer.write(raw[start : start + 60])
                await asyncio.sleep(0.0005)

    async def one(wire: Wire, name: str) -> None:
        assert await body(wire, name) == name.encode() * 50

    rng = random.Random(3)
    async with (
        peer(serve, tls if secure else None) as server,
        closing(direct(server.url, trusting if secure else None)) as wire,
    ):
        for turn in range(15):
            tasks = [asyncio.create_task(one(wire, f"/{turn}-{number}")) for number in range(6)]
            for task in tasks[:4]:
                await asyncio.sleep(rng.random() * 0.004)
                for _ in range(rng.choice((1, 1, 2, 3))):
                    task.cancel()
                    await asyncio.sleep(0)
            await asyncio.wait(tasks)
            for task in tasks:
                assert task.cancelled() or task.exception() is None
            assert not any(task.cancelled() for task in tasks[4:])
            assert len(wire._all) == len(wire._idle) <= 6
        with warnings.catch_warnings():
            # asyncio's race of addresses forgets a socket where it is cancelled in the moment in which it is won.
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        await until(lambda: server.open == len(wire._all))


async def test_closing_does_not_wait_for_a_server_that_does_not(
    tls: ssl.SSLContext, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    """Neither for what was not yet sent, nor for the goodbye of TLS."""
    monkeypatch.setattr(transport, "GOODBYE", 0.1)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(FINE)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    for secure in (False, True):
        async with peer(deaf, tls if secure else None) as server:
            wire = direct(server.url, trusting if secure else None)
            response = await wire.send("POST", "/", {}, b"x" * 20_000_000)
            start = time.monotonic()
            await wire.aclose()
            assert time.monotonic() - start < 0.6
            assert not wire._all
            await response.close()


# --- which exception says what ---


async def at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and closes."""


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.transport.abort()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.write(b"HTTP/1.1 200 X\r\n")
    while True:
        writer.write(b"x-a: " + b"y" * 1000 + b"\r\n")
        await writer.drain()


async def soon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    while True:
        writer.write(b"HTTP/1.1 102 Soon\r\n\r\n" * 100)
        await writer.drain()


@pytest.mark.parametrize(
    ("serve", "kinds"),
    [
        (at_once, (httpx.RemoteProtocolError, httpx.ReadError)),
        (reset, (httpx.RemoteProtocolError, httpx.ReadError)),
        (saying(b""), (httpx.ReadTimeout,)),
        (saying(b"HTTP/1.1 200 OK\r\nx-a: "), (httpx.ReadTimeout,)),
        (saying(b"HTTP/1.1 103 Soon\r\n\r\n"), (httpx.ReadTimeout,)),
        (saying(b"HTTP/1.1 200 OK\r\nx-a: ", then=then_close), (httpx.RemoteProtocolError,)),
        (saying(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}", then=then_close), (httpx.RemoteProtocolError,)),
        (saying(CHUNKED, then=then_close), (httpx.RemoteProtocolError,)),
        (saying(CHUNKED), (httpx.ReadTimeout,)),
        (saying(b"SSH-2.0-x\r\n"), (httpx.RemoteProtocolError,)),
        (saying(b"HTTP/1.1 101 X\r\n\r\n" + FINE), (httpx.RemoteProtocolError,)),
        (endless, (httpx.RemoteProtocolError,)),
        (soon, (httpx.RemoteProtocolError,)),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
async def test_what_fails_after_the_request_was_sent_does_not_say_that_nothing_was(
    serve: Serve,
    kinds: tuple[type[Exception], ...],
    secure: bool,
    tls: ssl.SSLContext,
    trusting: ssl.SSLContext,
    nothing_left: None,
) -> None:
    async with (
        peer(serve, tls if secure else None) as server,
        closing(direct(server.url, trusting if secure else None, read=0.15)) as wire,
    ):
        with pytest.raises(kinds) as caught:
            await ask(wire, method="POST", content=b"{}")
        assert type(caught.value) in kinds
        assert not wire._all
        await until(lambda: server.open == 0)


async def test_what_fails_before_anything_was_sent_says_so(
    tls: ssl.SSLContext, trusting: ssl.SSLContext, nothing_left: None
) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass

    async def fails(wire: Direct, kind: type[httpx.TransportError]) -> BaseException | None:
        with pytest.raises(kind) as caught:
            await ask(wire, method="POST", content=b"{}")
        assert type(caught.value) is kind
        assert not wire._all
        return caught.value.__cause__

    async with peer(hang) as server:  # a TCP server that does not speak TLS, nor anything
        await fails(direct(server.url, trusting, connect=0.15), httpx.ConnectTimeout)
        await until(lambda: server.open == 0)
    assert isinstance(await fails(direct(server.url), httpx.ConnectError), ConnectionRefusedError)
    async with peer(at_once) as server:
        await fails(direct(server.url, trusting), httpx.ConnectError)
    async with peer(saying(FINE), tls) as server:
        strange = await fails(direct(server.url, ssl.create_default_context()), httpx.ConnectError)
        assert isinstance(strange, ssl.SSLCertVerificationError)
        other = direct(server.url.replace("127.0.0.1", "localhost"), trusting)
        assert isinstance(await fails(other, httpx.ConnectError), ssl.SSLCertVerificationError)


# --- large bodies ---


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked", "end"])
async def test_of_a_large_body_little_is_taken_ahead_and_it_is_whole(
    framing: str, secure: bool, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    piece, count = random.Random(1).randbytes(100_000), 500 if not secure else 150

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        how = {"length": f"content-length: {len(piece) * count}\r\n", "chunked": "transfer-encoding: chunked\r\n"}
        writer.write(f"HTTP/1.1 200 X\r\n{how.get(framing, '')}\r\n".encode())
        for _ in range(count):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if framing == "chunked" else b"")
        if framing != "end":
            await reader.read()

    async with (
        peer(serve, tls if secure else None) as server,
        closing(direct(server.url, trusting if secure else None)) as wire,
    ):
        response = await wire.send("GET", "/", {}, None)
        (connection,) = wire._all
        size = most = pauses = 0
        async for part in response.body:
            place = size % len(piece)
            assert part[:1000] == piece[place : place + 1000][: len(part)] or place + 1000 > len(piece)
            size += len(part)
            if size % 50 == 0:
                await asyncio.sleep(0.001)
            if pauses < 5 and size > pauses * 3_000_000:
                pauses += 1
                await asyncio.sleep(0.02)
            most = max(most, connection._ahead)
            assert connection._ahead == sum(map(len, connection._pieces))
        assert size == len(piece) * count
        assert AHEAD <= most <= AHEAD + 2 * 2**18
        await response.close()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("framing", ["length", "chunked", "end"])
@pytest.mark.parametrize("size", [AHEAD - 1, AHEAD, AHEAD + 1, 3 * AHEAD])
async def test_the_end_of_a_body_may_come_while_nobody_reads(
    framing: str, size: int, secure: bool, tls: ssl.SSLContext, trusting: ssl.SSLContext, nothing_left: None
) -> None:
    raw = {
        "length": answer(200, b"x" * size),
        "chunked": CHUNKED.replace(b"2\r\n{}\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)),
        "end": b"HTTP/1.1 200 X\r\n\r\n" + b"x" * size,
    }[framing]
    then = then_close if framing == "end" else lambda writer: None
    async with (
        peer(saying(raw, FINE, then=then), tls if secure else None) as server,
        closing(direct(server.url, trusting if secure else None)) as wire,
    ):
        response = await wire.send("GET", "/", {}, None)
        await asyncio.sleep(0.03)
        assert (await whole(response))[2] == b"x" * size
        if framing != "end":
            assert await body(wire) == b"{}"
            assert server.opened == 1


# --- proxies ---


class Middle:
    """A proxy: forwards tunnels, and requests in absolute form. `how` it fails; `heard`: before a tunnel stands."""

    def __init__(self, how: str = "") -> None:
        self._how = how
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await request_of(reader)
            self.heard.append(head)
            if self._how == "closes":
                return
            if self._how == "hangs":
                await reader.read()
            if self._how:
                writer.write(self._how.encode())
                continue
            method, where, _ = head.split(b"\r\n")[0].split()
            place = urlsplit(where.decode() if method != b"CONNECT" else f"//{where.decode()}")
            there, to = await asyncio.open_connection(place.hostname, place.port)
            try:
                if method == b"CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\nx-proxy: yes\r\n\r\n")
                else:
                    to.write(head)
                await asyncio.gather(self._pumped(reader, to), self._pumped(there, writer))
            finally:
                to.close()

    async def _pumped(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
        writer.close()


def with_password(url: str) -> str:
    return url.replace("://", f"://us%40er:{quote(PASSWORD, safe='')}@")


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


async def test_a_tunnel_is_asked_for_and_neither_side_hears_what_is_for_the_other(
    environment: pytest.MonkeyPatch,
    tls: ssl.SSLContext,
    bundle: str,
    caplog: pytest.LogCaptureFixture,
    nothing_left: None,
) -> None:
    caplog.set_level(logging.DEBUG)
    heads, middle = list[bytes](), Middle()

    async def origin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await request_of(reader))
            writer.write(FINE)

    async with peer(origin, tls) as server, peer(middle.serve) as between:
        environment.setenv("HTTPS_PROXY", with_password(between.url))
        async with Http(server.url, name="t", bearer=SECRET, verify=bundle) as http:
            assert PASSWORD not in repr(http) + repr(http._wire._origin)  # type: ignore[attr-defined]
            assert CODE not in repr(http) + repr(http._wire._origin)  # type: ignore[attr-defined]
            for _ in range(2):
                assert (await http.call("POST", "/x", json={})).json() == {}
        place = urlsplit(server.url).netloc
        said = f"CONNECT {place} HTTP/1.1\r\nhost: {place}\r\nproxy-authorization: Basic {CODE}\r\n\r\n"
        assert middle.heard == [said.encode()], "one tunnel for both"
        assert len(heads) == 2
        assert all(b"proxy-" not in head.lower() and b"\r\nauthorization: Bearer" in head for head in heads)
        environment.setenv("NO_PROXY", "127.0.0.1")
        async with Http(server.url, name="t", bearer=SECRET, verify=bundle) as http:
            await http.call("GET", "/x")
        assert len(middle.heard) == 1
        await until(lambda: server.open == between.open == 0)
    assert not any(secret in caplog.text for secret in (PASSWORD, CODE, SECRET))


async def test_a_proxy_is_asked_in_absolute_form_where_there_is_no_tls(environment: pytest.MonkeyPatch) -> None:
    middle = Middle()
    async with peer(saying(FINE)) as server, peer(middle.serve) as between:
        environment.setenv("HTTP_PROXY", with_password(between.url))
        async with Http(server.url + "/base", name="t", bearer=SECRET) as http:
            assert (await http.call("GET", "/x", params={"a": 1})).json() == {}
        head, place = middle.heard[0], urlsplit(server.url).netloc
        assert head.startswith(f"GET {server.url}/base/x?a=1 HTTP/1.1\r\nhost: {place}\r\n".encode())
        assert f"\r\nproxy-authorization: Basic {CODE}\r\n".encode() in head
        assert f"\r\nauthorization: Bearer {SECRET}\r\n".encode() in head


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("HTTP/1.1 407 No\r\ncontent-length: 2\r\nproxy-authenticate: Basic\r\n\r\nno", httpx.ProxyError),
        ("HTTP/1.1 502 No\r\n\r\n", httpx.ProxyError),
        ("HTTP/1.1 101 X\r\n\r\n", httpx.ProxyError),
        ("SSH-2.0-x\r\n", httpx.ProxyError),
        ("closes", httpx.ProxyError),
        ("hangs", httpx.ConnectTimeout),
        ("HTTP/1.1 200 X\r\n\r\n", httpx.ConnectTimeout),  # and says nothing behind the tunnel
        ("HTTP/1.1 200 X\r\n\r\nHTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n", httpx.ConnectTimeout),
    ],
)
async def test_a_proxy_that_does_not_let_us_through_heard_nothing_of_the_request(
    how: str, kind: type[Exception], trusting: ssl.SSLContext, nothing_left: None
) -> None:
    middle = Middle(how)
    async with peer(middle.serve) as between:
        wire = direct("https://127.0.0.1:9", trusting, connect=0.2, proxy=with_password(between.url))
        with pytest.raises(kind) as caught:
            await wire.send("POST", "/x", {"authorization": f"Bearer {SECRET}"}, b"{}")
        assert type(caught.value) is kind
        silent(caught.value)
        assert not wire._all
        await until(lambda: between.open == 0)
        assert len(middle.heard) == 1
        assert SECRET.encode() not in middle.heard[0]


async def test_the_message_of_a_refused_tunnel_names_the_setting(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with peer(Middle("HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").serve) as between:
        environment.setenv("HTTPS_PROXY", with_password(between.url))
        async with Http("https://idp.example", name="t", bearer=SECRET, attempts=1, verify=False) as http:
            with pytest.raises(RetryableError, match="HTTPS_PROXY") as caught:
                await http.call("POST", "/x")
            assert not isinstance(caught.value, AmbiguousError)
            silent(caught.value)
    assert not any(secret in caplog.text for secret in (PASSWORD, CODE, SECRET))


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
    async with peer(saying(FINE, then=writers.append), tls) as server, closing(direct(server.url, trusting)) as wire:
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
