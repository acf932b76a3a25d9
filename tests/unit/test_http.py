"""The HTTP client against real servers on this machine: raw sockets that answer by a script."""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import ssl
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import hpack
import pytest
import trustme

from connectors import http as network
from connectors.errors import (
    AmbiguousError,
    AuthenticationError,
    ConfigurationError,
    IncompleteError,
    RefusedError,
    RetryableError,
)
from connectors.http import STREAMED, Answer, Http
from tests.support.hostile import HOSTS, SCHEMES
from tests.support.scripted import CLOSE, HANG, Script, answer, serving

SECRET = "s3cr3t-Pa55"
VALUE = "qv4" + "lue"  # of a query, never to be shown; in parts, because tracebacks show source lines


class Clock:
    """Time that passes only in sleeps, which it counts."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float, result: Any = None) -> Any:
        if seconds > 0:
            self.slept.append(seconds)
            self.now += seconds
        await REAL_SLEEP(0)
        return result


REAL_SLEEP = asyncio.sleep


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "sleep", clock.sleep)
    monkeypatch.setattr(network, "_now", lambda: clock.now)
    return clock


def client(script: Script | str, **settings: Any) -> Http:
    url = script if isinstance(script, str) else script.url
    return Http(url, name="test", basic=("app", SECRET), **{"timeout": 2.0, **settings})


def silent(error: BaseException, *secrets: str) -> None:
    """No secret in an exception, nor in anything that is tied to it."""
    tied: list[BaseException | None] = [error]
    for one in tied:
        if one is not None and len(tied) < 50:
            tied += [one.__cause__, one.__context__]
            shown = str(one) + repr(one) + "".join(traceback.format_exception(one)) + repr(vars(one))
            assert type(one).__module__.split(".")[0] not in ("httpx", "httpcore"), one
            for secret in (SECRET, "YXBwOnMzY3IzdC1QYTU1", *secrets):
                assert secret not in shown


# --- answers, authentication, addresses ---


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'["\\ud83d"]', "\ufffd"),
        (b'["Ann \\uDE00!"]', "Ann \ufffd!"),
        (b'["\\ud83d\\ud83d\\ude00"]', "\ufffd😀"),
        (b'["\\\\ud83d \\ude00"]', "\\ud83d \ufffd"),
        (b'["\\ud83d\\n\\u00e9\\\\"]', "\ufffd\né\\"),
    ],
)
def test_half_a_character_does_not_spoil_an_answer(body: bytes, value: str) -> None:
    assert Answer(200, {}, body, "https://x").json() == [value]


async def test_a_call_keeps_the_base_path_and_sends_credentials_params_and_json() -> None:
    async with serving(answer(200, b'{"a":[1]}')) as server, client(server.url + "/crowd/") as http:
        got = await http.call("POST", "/rest/x", params={"q": 'a "b"&', "n": 1}, json={"k": "ü"})
        assert (got.status, got.json(), got.url) == (200, {"a": [1]}, f"{server.url}/crowd/rest/x")
        sent = server.requests[0]
        assert sent.startswith(b"POST /crowd/rest/x?q=a%20%22b%22%26&n=1 HTTP/1.1\r\n")
        assert b"YXBwOnMzY3IzdC1QYTU1" in sent
        assert sent.endswith('{"k":"ü"}'.encode())
        assert http.requests == {"POST": 1}
        assert SECRET not in repr(http) + repr(got)


class Giver:
    """Gives one token after the other; a refused one is worth another try as long as there are some."""

    def __init__(self, *tokens: str) -> None:
        self.tokens = list(tokens)
        self.turned_down: list[str] = []

    async def __call__(self) -> str:
        return self.tokens[0] if len(self.tokens) == 1 else self.tokens.pop(0)

    def refused(self, token: str) -> bool:
        self.turned_down.append(token)
        return True


async def test_tokens_are_asked_for_before_every_request() -> None:
    giver = Giver("one", "two")
    async with serving(answer()) as server, Http(server.url, name="t", bearer=giver) as http:
        await http.call("GET", "/a")
        await http.call("GET", "/b")
        assert [b"Bearer one" in server.requests[0], b"Bearer two" in server.requests[1]] == [True, True]
        assert giver.turned_down == []


async def test_a_token_that_ended_is_replaced_once() -> None:
    giver = Giver("old", "new")
    async with serving(answer(401), answer()) as server, Http(server.url, name="t", bearer=giver) as http:
        assert (await http.call("POST", "/a")).status == 200
        assert b"Bearer new" in server.requests[1]
        assert giver.turned_down == ["old"]


async def test_a_second_refusal_is_final() -> None:
    giver = Giver("old", "new")
    async with serving(answer(401)) as server, Http(server.url, name="t", bearer=giver) as http:
        with pytest.raises(AuthenticationError):
            await http.call("GET", "/a")
        assert len(server.requests) == 2


async def test_a_form_is_sent_as_one() -> None:
    async with serving(answer()) as server, client(server) as http:
        await http.call("POST", "/token", form={"scope": "a b&c", "x": "ü"})
        assert b"content-type: application/x-www-form-urlencoded" in server.requests[0].lower()
        assert server.requests[0].endswith(b"scope=a+b%26c&x=%C3%BC")


async def test_an_answer_that_means_too_many_requests_is_tried_again() -> None:
    def busy(status: int, body: bytes) -> bool:
        return status == 403 and b"rateLimit" in body

    async with (
        serving(answer(403, b"rateLimit"), answer(403, b"no right")) as server,
        Http(server.url, name="t", busy=busy) as http,
    ):
        assert (await http.call("GET", "/a")).body == b"no right"
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "lines",
    [
        ['Link: <http://h/a?after=1,2;3&limit=2>; rel="next"'],
        ['Link: <http://h/self>; rel="self"', 'Link: <http://h/a?after=1,2;3&limit=2>; rel="next"'],
        ['Link: <http://h/self>; rel="self", <http://h/a?after=1,2;3&limit=2>; title="x, y"; rel=next'],
    ],
)
async def test_a_link_is_found_in_one_header_line_or_several(lines: list[str]) -> None:
    async with serving(answer(200, b"[]", *lines)) as server, client(server) as http:
        got = await http.call("GET", "/a")
        assert got.link("next") == "http://h/a?after=1,2;3&limit=2"
        assert got.link("prev") is None


@pytest.mark.parametrize("status", [200, 201, 204, 304, 400, 403, 404, 409, 501])
async def test_other_statuses_are_answers(status: int) -> None:
    async with serving(answer(status, b"" if status in (204, 304) else b"{}")) as server, client(server) as http:
        assert (await http.call("GET", "/x")).status == status


async def test_401_is_an_error_unless_expected() -> None:
    async with serving(answer(401)) as server, client(server) as http:
        with pytest.raises(AuthenticationError, match="401") as caught:
            await http.call("GET", "/x", params={"token": VALUE})
        silent(caught.value, VALUE)
        assert (await http.call("GET", "/x", expect=(401,))).status == 401
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body", [b"", b"<html>login</html>", b'{"a":', b"\xff\xfe", b"{} {}", f"<p>{SECRET}".encode()], ids=range(6)
)
async def test_what_is_not_json_is_incomplete_and_named(body: bytes) -> None:
    async with serving(answer(200, body, "content-type: text/html")) as server, client(server) as http:
        got = await http.call("GET", "/page", params={"cursor": VALUE})
        with pytest.raises(IncompleteError, match=r"GET http://127.0.0.1:\d+/page answered 200 .*text/html") as caught:
            got.json()
        silent(caught.value, VALUE)


@pytest.mark.parametrize(
    "url",
    [
        *("", "ftp://h", "h:80", "http://", "http:///x", "http://u:p4ss@h", "http://h?x=p4ss", "http://h#p4ss"),
        *(
            "http://h:0",
            "http://h:99999",
            "http://h:x",
            "http://h\\x",
            "http://h /",
            "http://h/../x",
            "http://h%00",
            "http://[::1",
        ),
    ],
)
def test_a_base_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="`url`") as caught:
        Http(url, name="t")
    assert "p4ss" not in str(caught.value)


def test_a_secret_with_a_line_end_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Http("http://h", name="t", bearer=f"{SECRET}\n")
    silent(caught.value)


@pytest.mark.parametrize("path", ["x", "//evil/x", "http://evil/x", "/a b", "/a\n", "/a/../b", "/a#b", "\\x", ""])
async def test_a_path_must_be_plain(path: str) -> None:
    async with serving(answer()) as server, client(server) as http:
        with pytest.raises(RefusedError):
            await http.call("GET", path)
        assert not server.requests


# --- retries ---


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_not_executed_is_repeated_for_every_method(status: int, method: str, clock: Clock) -> None:
    async with serving(answer(status), answer(status), answer()) as server, client(server) as http:
        assert (await http.call(method, "/x")).status == 200
        assert http.requests == {method: 3}


@pytest.mark.parametrize("fault", [answer(500), answer(502), answer(504), CLOSE, answer(200, b"{", length=99), b"junk"])
async def test_a_lost_answer_is_repeated_only_where_that_does_no_harm(fault: bytes, clock: Clock) -> None:
    fault = fault.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") if fault[-1:] == b"{" else fault
    fault += b"connection: close\r\n\r\n" if fault == b"junk" else b""
    async with serving(fault, answer()) as server, client(server) as http:
        assert (await http.call("GET", "/x")).status == 200
    async with serving(fault, answer()) as server, client(server) as http:
        assert (await http.call("PUT", "/x", repeat=True)).status == 200
    async with serving(fault, answer()) as server, client(server) as http:
        with pytest.raises(AmbiguousError) as caught:
            await http.call("POST", "/x", json={"password": VALUE}, params={"u": VALUE})
        silent(caught.value, VALUE)
        assert len(server.requests) == 1


async def test_no_answer_in_time_is_ambiguous_for_a_write() -> None:
    async with serving(HANG) as server, client(server, timeout=0.2) as http:
        with pytest.raises(AmbiguousError, match="no answer in time") as caught:
            await http.call("POST", "/x")
        silent(caught.value)
        assert len(server.requests) == 1


async def test_a_drip_of_bytes_does_not_hold_us_for_ever() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 9999\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with client(url, timeout=0.05, connect_timeout=0.05, attempts=1) as http:
        with pytest.raises(IncompleteError, match="in time"):
            await http.call("GET", "/x")
    server.close()


async def test_a_stream_that_drips_has_an_end_and_one_that_is_only_slow_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is on the average rate; what we take ourselves between two pieces does not count."""
    monkeypatch.setattr(network, "SLOWEST", 1000)
    sent = 0

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        head = await reader.readuntil(b"\r\n\r\n")
        piece = b"x" * (200 if b"/slow" in head else 1)
        writer.write(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n")
        try:
            for _ in range(20 if b"/slow" in head else 10_000):
                writer.write(piece)
                await writer.drain()
                sent += 1
                await REAL_SLEEP(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with client(url, timeout=0.15, connect_timeout=0.0, attempts=1) as http:  # (a whole answer: 1.5 s)
        http._timeouts.connect = 5
        async with http.stream("GET", "/drip") as stream:
            with pytest.raises(IncompleteError, match="slower than 1,000 bytes a second") as caught:
                [piece async for piece in stream.chunks()]
            silent(caught.value)
        assert sent < 60
        async with http.stream("GET", "/slow") as stream:
            size = 0
            async for piece in stream.chunks():
                size += len(piece)
                if size == 200:
                    await REAL_SLEEP(1.7)  # (our own work)
            assert size == 4000
    server.close()


async def test_attempts_end_and_say_how_long_to_wait(clock: Clock) -> None:
    async with serving(answer(429, b"", "retry-after: 7")) as server, client(server, attempts=3) as http:
        with pytest.raises(RetryableError, match=r"429.*3 times") as caught:
            await http.call("GET", "/x", params={"q": VALUE})
        assert caught.value.retry_after == 7
        assert http.requests == {"GET": 3}
        silent(caught.value, VALUE)


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["retry-after: 3"], 3),
        (["retry-after: Wed, 21 Oct 2026 07:28:09 GMT", f"date: {DATE}"], 9),
        (["x-rate-limit-reset: 1792567685", f"date: {DATE}"], 5),
        (["x-ratelimit-reset: 4"], 4),
        (["retry-after: 2", "x-ratelimit-reset: 40"], 2),
    ],
)
async def test_the_wait_that_is_asked_for_is_kept(headers: list[str], seconds: float, clock: Clock) -> None:
    async with serving(answer(429, b"", *headers), answer()) as server, client(server) as http:
        await http.call("GET", "/x")
        assert seconds <= sum(clock.slept) <= seconds + 1
        assert len(server.requests) == 2


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "Wed, 99 Xxx", "٣"])
def test_a_wait_that_is_no_wait_is_not_one(value: str) -> None:
    assert network._named_wait({"retry-after": value, "x-ratelimit-reset": value}) is None


def test_a_moment_in_the_past_is_now() -> None:
    assert network._named_wait({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0


async def test_a_long_wait_is_handed_to_the_caller(clock: Clock) -> None:
    async with serving(answer(503, b"", "retry-after: 3600"), answer()) as server, client(server) as http:
        for _ in range(2):  # the second call does not even ask
            with pytest.raises(RetryableError) as caught:
                await http.call("GET", "/x")
            assert caught.value.retry_after == pytest.approx(3600)
        assert len(server.requests) == 1
        assert not clock.slept


async def test_one_that_is_told_to_wait_makes_all_wait(clock: Clock) -> None:
    async with serving(answer(429, b"", "retry-after: 50"), answer()) as server, client(server, attempts=1) as http:
        with pytest.raises(RetryableError):
            await http.call("GET", "/x")
        await http.call("GET", "/other")
        assert sum(clock.slept) >= 50


async def test_an_exhausted_allowance_is_waited_for_before_it_is_refused(clock: Clock) -> None:
    empty = answer(200, b"{}", "x-rate-limit-remaining: 0", "x-rate-limit-reset: 11")
    async with serving(empty, answer()) as server, client(server) as http:
        await http.call("GET", "/x")
        await http.call("GET", "/x")
        assert sum(clock.slept) == pytest.approx(11)


async def test_a_rate_is_kept(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answer()) as server, client(server, rate=2) as http:
        assert http._limiter is not None
        taken = 0

        async def acquire(amount: float = 1) -> None:
            nonlocal taken
            taken += 1

        monkeypatch.setattr(http._limiter, "acquire", acquire)
        await asyncio.gather(*[http.call("GET", "/x") for _ in range(5)])
        assert (taken, http._limiter.max_rate / http._limiter.time_period) == (5, 2)


async def test_streams_count_too() -> None:
    async with serving(answer()) as server, client(server, concurrency=1) as http:
        async with http.stream("GET", "/x"):
            other = asyncio.ensure_future(http.call("GET", "/y"))
            await asyncio.sleep(0.05)
            assert http.requests == {"GET": 1}
        assert (await other).status == 200


async def test_no_more_than_the_allowed_number_at_once() -> None:
    now = most = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while await reader.readuntil(b"\r\n\r\n"):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            writer.write(answer())

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    async with client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", concurrency=3) as http:
        await asyncio.gather(*[http.call("GET", "/x") for _ in range(12)])
    server.close()
    assert most == 3


# --- connections that do not come about ---


async def test_a_request_that_is_cancelled_keeps_no_connection() -> None:
    """Also one that is cancelled again while it is being cancelled, as where one of several reads fails."""
    opened = 0

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                for piece in (b"HTTP/1.1 200 OK\r\n", b"Content-Length: 4\r\n\r\n", b"{", b"  }"):
                    await asyncio.sleep(0.002)
                    writer.write(piece)
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(in_pieces, "127.0.0.1", 0)
    rng = random.Random(1)
    async with server, client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", concurrency=4) as http:
        for _ in range(12):
            tasks = [asyncio.create_task(http.call("GET", "/a")) for _ in range(6)]
            for one in tasks:
                await asyncio.sleep(rng.random() * 0.006)
                one.cancel()
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
                    one.cancel()
            await asyncio.wait(tasks)
            async with asyncio.timeout(5):
                found = await asyncio.gather(*(http.call("GET", "/b") for _ in range(6)))
            assert [one.json() for one in found] == [{}] * 6
        await asyncio.sleep(0.01)
        before = opened
        await asyncio.gather(*(http.call("GET", "/c") for _ in range(8)))
        assert opened == before, "they are used again"


async def test_a_refused_connection_and_an_unknown_host_have_a_clear_line(clock: Clock) -> None:
    async with serving() as server:
        pass
    for url, words in ((server.url, "refuses connections"), ("http://nowhere.invalid", "is not known")):
        async with client(url, attempts=2) as http:
            with pytest.raises(RetryableError, match=words) as caught:
                await http.call("POST", "/x", params={"q": VALUE})
            assert not isinstance(caught.value, AmbiguousError)  # nothing was sent
            assert http.requests == {"POST": 2}
            assert "`url`" in str(caught.value)
            silent(caught.value, VALUE)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_for(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_trusted_by_ca_file_only(authority: trustme.CA, tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    async with serving(answer(), tls=tls_for(authority, "127.0.0.1")) as server:
        async with client(server, verify=str(bundle)) as http:
            assert (await http.call("GET", "/x")).status == 200
        async with client(server) as http:
            with pytest.raises(ConfigurationError, match=r"https://127.0.0.1:\d+ is not trusted.*ca_file") as caught:
                await http.call("GET", "/x")
            silent(caught.value)
            assert http.requests == {"GET": 1}
    async with serving(answer(), tls=tls_for(authority, "other.example")) as server:
        http = client(server, verify=str(bundle))
        with pytest.raises(ConfigurationError, match="ca_file"):
            await http.call("GET", "/x")
        await http.aclose()
    with pytest.raises(ConfigurationError, match="ca_file"):
        client("https://h", verify=str(tmp_path / "none.pem"))


@pytest.mark.parametrize("secure", [False, True])
async def test_a_connection_that_was_closed_while_nobody_used_it_is_not_used(
    authority: trustme.CA, tmp_path: Path, secure: bool
) -> None:
    bundle, opened = tmp_path / "ca.pem", list[asyncio.StreamWriter]()
    authority.cert_pem.write_to_path(str(bundle))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        with suppress(asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer())

    tls = tls_for(authority, "127.0.0.1") if secure else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    url = f"http{'s' if secure else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with client(url, verify=str(bundle)) as http:
        for _ in range(2):  # (a lost POST would be an error)
            assert (await http.call("POST", "/x")).status == 200
        assert len(opened) == 1
        opened[0].close()
        await asyncio.sleep(0.1)
        assert (await http.call("POST", "/x")).status == 200
    assert len(opened) == 2
    server.close()


async def test_https_to_a_port_without_tls(clock: Clock) -> None:
    async with serving(b"HTTP/1.1 400 no\r\nconnection: close\r\n\r\n") as server:
        url = server.url.replace("http:", "https:")

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(plain, "127.0.0.1", 0)
        url = f"https://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        async with client(url) as http:
            with pytest.raises(ConfigurationError, match="does not speak TLS"):
                await http.call("GET", "/x")
        other.close()


# --- bodies ---


def zipped(plain: bytes, *more: str) -> bytes:
    return answer(200, gzip.compress(plain), "content-encoding: gzip", *more)


async def test_gzip_is_read_and_damage_is_seen(clock: Clock) -> None:
    packed = gzip.compress(b'{"a":"' + b"x" * 3_000_000 + b'"}')
    cut = answer(200, packed[:-20], "content-encoding: gzip")
    two = answer(200, gzip.compress(b"[1,") + gzip.compress(b"2]"), "content-encoding: gzip")
    whole = answer(200, packed, "content-encoding: gzip")
    async with serving(whole, two, cut) as server, client(server, attempts=2) as http:
        assert len((await http.call("GET", "/x")).json()["a"]) == 3_000_000
        assert (await http.call("GET", "/x")).json() == [1, 2]
        with pytest.raises(IncompleteError, match="compression"):
            await http.call("GET", "/x")
        async with http.stream("GET", "/x") as body:
            with pytest.raises(IncompleteError, match="compression"):
                [piece async for piece in body.chunks()]


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "deflate"])
async def test_a_coding_that_was_not_asked_for_is_refused(coding: str) -> None:
    async with serving(answer(200, b"xx", f"content-encoding: {coding}")) as server, client(server) as http:
        with pytest.raises(RefusedError, match="gzip"):
            await http.call("GET", "/x")


@pytest.mark.parametrize(
    "body",
    [
        answer(200, b"x" * 5000),
        b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n" + b"x" * 5000,
        answer(200, b"", length=10**12),
        zipped(b"\0" * 50_000_000),
    ],
    ids=["length", "no length", "announced", "gzip bomb"],
)
async def test_more_than_max_bytes_is_refused(body: bytes) -> None:
    async with serving(body) as server, client(server, max_bytes=4096) as http:
        with pytest.raises(RefusedError, match="max_bytes is 4096"):
            await http.call("GET", "/x")
        assert http.requests["GET"] <= 1
    if b"1000000000000" not in body:
        async with serving(body) as server, client(server, max_bytes=4096 // STREAMED) as http:
            async with http.stream("GET", "/x") as stream:
                with pytest.raises(RefusedError, match="max_bytes is 4096"):
                    [piece async for piece in stream.chunks()]
            assert http.requests["GET"] <= 1


async def test_a_stream_may_be_larger_than_an_answer_that_is_held_whole() -> None:
    large = serving(answer(200, b"x" * 5000))
    async with large as server, client(server, max_bytes=4096) as http, http.stream("GET", "/x") as stream:
        assert b"".join([piece async for piece in stream.chunks()]) == b"x" * 5000


async def test_a_cut_body_is_read_again_and_then_incomplete(clock: Clock) -> None:
    cut = answer(200, b'{"a":1', "connection: close", length=8)
    chunked = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n5\r\n[1,2,\r\n"
    for fault in (cut, chunked):
        async with serving(fault) as server, client(server, attempts=3) as http:
            with pytest.raises(IncompleteError, match="ended early") as caught:
                await http.call("GET", "/x")
            silent(caught.value)
            assert http.requests == {"GET": 3}
            async with http.stream("GET", "/x") as stream:
                with pytest.raises(IncompleteError, match="ended early"):
                    [piece async for piece in stream.chunks()]


async def test_a_stream_gives_status_headers_and_pieces(clock: Clock) -> None:
    async with serving(answer(503), zipped(b"abc" * 10, "x-a: b")) as server, client(server) as http:
        async with http.stream("GET", "/x", params={"a": 1}) as stream:
            assert (stream.status, stream.headers["x-a"]) == (200, "b")
            assert b"".join([piece async for piece in stream.chunks()]) == b"abc" * 10
        assert len(server.requests) == 2


# --- redirects and the origin pin ---


async def test_a_redirect_within_the_origin_is_followed_for_get_only() -> None:
    moved = answer(302, b"", "location: /new?x=1")
    async with serving(moved, answer(200, b"[1]")) as server, client(server) as http:
        assert (await http.call("GET", "/old")).json() == [1]
        assert server.requests[1].startswith(b"GET /new?x=1 ")
    async with serving(moved) as server, client(server) as http:
        with pytest.raises(RefusedError, match="redirect"):
            await http.call("POST", "/old")
        with pytest.raises(RefusedError, match="redirect"):
            await http.call("GET", "/old")  # round and round
        assert len(server.requests) == 1 + 6


async def test_no_redirect_leads_a_credential_elsewhere() -> None:
    async with serving(answer()) as other:
        for location in (other.url, f"//127.0.0.1:{other.url.rpartition(':')[2]}/", "https://evil.example/"):
            async with serving(answer(307, b"", f"location: {location}")) as server, client(server) as http:
                with pytest.raises(RefusedError):
                    await http.call("GET", "/x")
        assert not other.requests


HOME = "https://idp.example/scim"
KIND = [
    "/scim/Users?cursor=a%2Fb",
    "https://idp.example/scim/Users?startIndex=2",
    "https://IDP.Example:443/scim/Users",
    "HTTPS://idp.example/scim/a%20b",
    "Users?cursor=x",
]
HOSTILE = [
    *(f"https://{host}/scim/Users" for host in HOSTS),
    *(f"//{host}/scim/Users" for host in ("evil.example", "idp.example", "idp.example@evil.example", "")),
    *(f"{scheme}://idp.example/scim/Users" for scheme in SCHEMES),
    *("javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "mailto:a@b", "https:idp.example", "https:/x"),
    *("https:///idp.example/scim", "https:\\\\idp.example\\scim", "\\\\evil.example\\scim", "/\\evil.example/scim"),
    *("\\/evil.example", "/scim\\..\\x", "https://idp.example\\@evil.example/scim", "https://idp.example\\.evil.example/"),
    *("https://evil.example\\@idp.example/scim", "https://idp.example/scim/../admin", "https://idp.example/scim/%2e%2e/x"),
    *("/scim/%2E%2e/admin", "/scim/./x", "/scim/..", "../admin", "./../x", "/scim//evil.example", "/scim/.%2e/x"),
    *("/admin", "/scimx/Users", "https://idp.example/", "https://idp.example", "https://idp.example?x=/scim/", "?x"),
    *("https://idp.example#/scim/", "/scim/Users#frag", "https://idp.example#@evil.example/scim/", "#", "", " ", "\t"),
    *(" https://idp.example/scim/Users", "https://idp.example/scim/Users ", "ht\ntps://evil.example/", "\thttps://x/"),
    *("https://idp.example/scim/a\r\nHost: evil", "https://idp.example/scim/\x00", "https://idp.example/scim/\x7f"),
    *("/scim/a b", "/scim/\u0085x", "https://evil.example\n@idp.example/scim", "https://idp\n.example/scim"),
    *("/scim/%0d%0aHost:evil", "/scim/%00", "/scim/x%0A", "/\t/evil.example/scim", "/\n/evil.example", "\x01//e.io"),
]  # fmt: skip


@pytest.mark.parametrize("link", KIND)
def test_a_link_within_the_origin_is_kept(link: str) -> None:
    path = Http(HOME, name="t").path_of(link)
    assert path.startswith("/")
    assert not path.startswith("/scim")


def test_a_host_in_its_own_letters_is_the_same_host() -> None:
    assert Http("https://bücher.example", name="t").path_of("https://xn--bcher-kva.example/x?y") == "/x?y"
    assert Http("https://xn--bcher-kva.example", name="t").path_of("https://bücher.example/x") == "/x"


def test_a_hundred_hostile_links_are_refused() -> None:
    http, through = Http(HOME, name="t", bearer=SECRET), []
    for link in HOSTILE:
        try:
            through.append((link, http.path_of(link)))
        except RefusedError as error:
            silent(error)
    assert not through
    assert len(set(HOSTILE)) >= 100
    print(f"{len(set(HOSTILE))} hostile links refused")


# --- silence ---


async def test_logs_hold_no_secret_even_when_debugging(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(answer(503), answer(200, b"x")) as server, Http(server.url, name="t", bearer=SECRET) as http:
        got: Answer = await http.call("GET", "/x", params={"q": VALUE})
        with pytest.raises(IncompleteError):
            got.json()
    hpack.Encoder().encode([("authorization", f"Bearer {SECRET}")])  # HTTP/2 logs what it packs
    assert SECRET not in caplog.text
    assert VALUE not in caplog.text


async def test_a_server_that_echoes_the_credentials_does_not_make_us_say_them() -> None:
    echo: Callable[[bytes], bytes] = lambda text: answer(200, b"Authorization: Bearer " + text)  # noqa: E731
    async with serving(echo(SECRET.encode())) as server, Http(server.url, name="t", bearer=SECRET) as http:
        with pytest.raises(IncompleteError, match=r"\*\*\*") as caught:
            (await http.call("GET", "/x")).json()
        silent(caught.value)
