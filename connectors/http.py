"""The only HTTP client: authentication, retries, rate limit, origin pin, size cap, redaction.

One `Http` speaks to one origin. What it promises:

- **Retries.** 429 and 503 were not executed, so they are repeated for every method. Connection errors
  before anything was sent, too. Lost answers and 500, 502, 504 are repeated only for calls that may
  be (`repeat`, by default GET and HEAD); for others they raise `AmbiguousError` at once.
- **Waiting.** Back-off with full jitter; what the other side asks for (`Retry-After`,
  `X-Rate-Limit-Reset`) counts for all callers of this `Http`, not only for the one that heard it.
- **Origin pin.** Only the configured scheme, host and port are ever spoken to: links and redirects are taken
  apart, and every single request is looked at once more before it is sent.
- **Silence.** Errors name method and address without query values, never a credential; httpx
  exceptions, which carry the whole request, are not chained to ours.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import random
import re
import socket
import ssl
import time
import urllib.request
import zlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode, urljoin

import httpx
import idna
import orjson
import stamina
from aiolimiter import AsyncLimiter

from connectors import strict_json
from connectors.answers import Digest, KeptAnswer, Recording, Request
from connectors.errors import (
    AmbiguousError,
    AuthenticationError,
    ConfigurationError,
    CrowdsyncError,
    IncompleteError,
    RefusedError,
    RetryableError,
    TooLargeError,
    visible,
    without_emails,
)
from connectors.transport import Direct, Origin, Proxy, Response, Through, Timeouts, Wire

LONGEST_WAIT: Final = 120.0
"""Seconds that a call waits because the other side asked for it; above, `RetryableError` at once."""

FIRST_WAIT: Final = 0.25
HIGHEST_WAIT: Final = 20.0
"""Seconds: the n-th wait is drawn from 0 to FIRST_WAIT · 2ⁿ⁻¹, at most HIGHEST_WAIT."""

SLOWEST: Final = 8192
"""Bytes a second, as they travel, that a stream must bring on the average; else it would never have to end."""

MAX_REDIRECTS: Final = 5
STREAMED: Final = 16
"""How many times `max_bytes` a stream may have. (Crowd lists all memberships in one: 10 million are 370 MiB.)"""

SAID_READ: Final = 4096
SAID_SHOWN: Final = 200
"""Characters of what the other side says that are looked at, and that are shown in a message."""

# httpx logs query values; hpack and httpcore, when asked to debug, log header values with credentials.
for _name in ("httpx", "httpcore", "hpack"):
    logging.getLogger(_name).setLevel(logging.WARNING)

# After the authority only a path, a query or the end: what else may stand there belongs to it (RFC 3986, 3.2).
_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)((?:[/?][^#]*)?)", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]%@\\/?#]+)(?::([0-9]{1,5}))?")
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_BAD_PATH: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])|(?:^|/)(?:\.|%2[Ee]){1,2}(?=/|$)|//")
_ESCAPES: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\.", re.DOTALL
)
"""Escapes in JSON; the group is half of a pair of surrogates."""
_LINK: Final = re.compile(r"<([^<>]*)>((?:\s*;\s*[\w*-]+\s*=\s*(?:\"[^\"]*\"|[^\s;,\"]+))*)")
_RELATION: Final = re.compile(r";\s*rel\s*=\s*\"?([^\s;,\"]+)", re.IGNORECASE)
_DEFAULT_PORT: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = frozenset((300, 301, 302, 303, 305, 306, 307, 308))
_AGAIN: Final = frozenset((429, 500, 502, 503, 504))
_NOT_EXECUTED: Final = frozenset((429, 503))
_REMAINING: Final = ("x-rate-limit-remaining", "x-ratelimit-remaining")
_NOT_TLS: Final = frozenset(
    (
        "WRONG_VERSION_NUMBER",
        "HTTP_REQUEST",
        "UNKNOWN_PROTOCOL",
        "RECORD_LAYER_FAILURE",
        "PACKET_LENGTH_TOO_LONG",
    )
)
_NOTHING_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

_now = time.monotonic


class Bearer(Protocol):
    """Gives access tokens: `connectors.oauth.Tokens`."""

    async def __call__(self) -> str: ...

    def refused(self, token: str) -> bool:
        """The other side answered 401 to this token: whether another one is worth a try."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A finished response. `headers` have lower-case names; `url` has no user information and no query."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    method: str = "GET"
    scrub: Callable[[str], str] = field(default=lambda said: scrubbed(said), compare=False)

    def link(self, relation: str) -> str | None:
        """The target of a `Link` header (RFC 8288), whether the headers came in one line or in several."""
        for target, parameters in _LINK.findall(self.headers.get("link", "")):
            if relation in _RELATION.findall(parameters):
                return str(target)
        return None

    def problem(self) -> dict[str, Any]:
        """The body of an error as a JSON object; {} where it is none, so that no message shows it."""
        try:
            found = strict_json.loads(self.body)
        except strict_json.NotJsonError:
            return {}
        return found if isinstance(found, dict) else {}

    def words(self, *said: Any) -> str:
        """What the other side said of an error, fit for a message: ` (…)`, or "" where it said nothing."""
        message = self.scrub(" ".join(str(one) for one in said if one))
        return f" ({message})" if message else ""

    def json(self) -> Any:
        """The body as JSON. Anything else, also an empty or cut body or a doubled key, raises `IncompleteError`.

        Half a character, as servers write that cut a text in the middle of an emoji, becomes U+FFFD: it must not keep
        everybody else on the page from being read.
        """
        try:
            return strict_json.loads(self.body)
        except strict_json.NotJsonError as error:
            wrong = self.unreadable(error)
        with suppress(strict_json.NotJsonError):
            return strict_json.loads(whole_characters(self.body))
        raise wrong

    def unreadable(self, error: strict_json.NotJsonError) -> IncompleteError:
        """What to raise where the body, or a part of it, is not JSON that says one thing only."""
        what = f"{self.method} {self.url} answered {self.status}"
        if isinstance(error, strict_json.DoubledKeyError):
            return IncompleteError(f"{what} with JSON that {self.scrub(str(error))}. Report it to the provider.")
        start = self.scrub(self.body[:4096].decode("utf-8", "replace"))[:60]
        kind = self.scrub(self.headers.get("content-type", ""))[:60] or "no content type"
        return IncompleteError(
            f"{what} with {kind}, which {error} "
            f"({len(self.body)} bytes, starting {start!r}). Check that the address leads to the API."
        )

    def __repr__(self) -> str:
        return f"<Answer {self.status} to {self.method} {self.url}, {len(self.body)} bytes>"


def whole_characters(body: bytes) -> bytes:
    """JSON with U+FFFD for every escape that stands for half a character."""
    return _ESCAPES.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)


@dataclass(frozen=True, slots=True)
class OpenAnswer:
    """An open response whose body is read once, piece by piece, with `chunks()`."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]

    def chunks(self) -> AsyncIterator[bytes]:
        """The decoded body. A body that ends early, or comes too slowly, raises `IncompleteError`."""
        return self.body


async def _recorded(
    body: AsyncIterator[bytes], recording: Recording, number: int, digest: Digest, new: KeptAnswer | None
) -> AsyncIterator[bytes]:
    """A body, recorded once it is whole; `new`: what its pieces are kept in."""
    async for chunk in body:
        digest.feed(chunk)
        if new is not None:
            new.add(chunk)
        yield chunk
    recording.answered(number, digest, new)


async def _chunks(response: Response, where: str, most: int, patience: float) -> AsyncIterator[bytes]:
    """The decoded body of an open response, of at most so many bytes, and no slower than `SLOWEST` after `patience`."""
    inflate = _Inflate() if _is_gzip(response, where) else None
    size = received = 0
    cut = ""
    waited = 0.0  # for the other side: what our own work between two pieces takes does not count
    pieces = response.body
    while True:
        start = _now()
        try:
            async with asyncio.timeout(patience + received / SLOWEST - waited):
                raw = await anext(pieces, None)
        except TimeoutError:
            cut = f"slower than {SLOWEST:,} bytes a second"
            break
        except httpx.TransportError as error:
            cut = _words(error)
            break
        waited += _now() - start
        if raw is None:
            break
        received += len(raw)
        try:
            for part in inflate.feed(raw) if inflate else (raw,):
                size += len(part)
                if size > most:
                    raise _too_large(where, f"over {most}", most)
                yield part
        except zlib.error:
            cut = "its compression is damaged"
            break
    if not cut and inflate and not inflate.whole:
        cut = "its compression ends early"
    if cut:
        raise IncompleteError(f"{where}: the body ended early after {size} bytes ({cut}). Run again.")


class _Again(Exception):
    """Between our own functions: a failure that may be tried again, after `wait` seconds if named."""

    def __init__(self, error: CrowdsyncError, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error, self.wait = error, wait
        self.tries = 1

    def delay(self) -> float:
        if self.wait is not None:
            return self.wait + random.uniform(0, min(1.0, 0.05 + self.wait / 10))  # noqa: S311
        return random.uniform(0, min(HIGHEST_WAIT, FIRST_WAIT * 2 ** (self.tries - 1)))  # noqa: S311


class Http:
    """A client for one origin. Use as `async with`, or call `aclose()`.

    `base_url` may have a path, which is put before every `path`. `rate` is in requests per second,
    the timeouts in seconds (`timeout` between two pieces of an answer; a whole answer may take ten
    times that, a stream that and the time that its bytes take at the rate `SLOWEST`), `max_bytes` counts
    after decompression. `bearer` may be what gives tokens: it is asked before every request, and once more
    where a token is refused. `busy` says of an answer (status, body) that it means "too many requests" though
    it is no 429. `verify` is False or the path of a CA bundle where the default CAs won't do.
    """

    def __init__(  # (more than seven parameters: the settings of a client, all by name and few at a time)
        self,
        base_url: str,
        *,
        name: str,
        basic: tuple[str, str] | None = None,
        bearer: str | Bearer | None = None,
        headers: Mapping[str, str] | None = None,
        busy: Callable[[int, bytes], bool] | None = None,
        rate: float | None = None,
        concurrency: int = 16,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_bytes: int = 256 * 2**20,
        attempts: int = 6,
        verify: bool | str = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = name
        self.requests: Counter[str] = Counter()
        self._scheme, self._host, self._port, self._base = _origin(base_url, name)
        shown = f":{self._port}" if self._port != _DEFAULT_PORT[self._scheme] else ""
        self._root = f"{self._scheme}://{self._host}{shown}"
        self._bearer = None if isinstance(bearer, str) else bearer
        self._busy = busy
        self._secrets: list[str] = []
        self._tokens: deque[str] = deque(maxlen=4)  # the newest that `bearer` gave
        fixed = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": "crowdsync"}
        fixed.update((key.lower(), value) for key, value in (headers or {}).items())
        if basic is not None:
            code = base64.b64encode(":".join(basic).encode()).decode()
            fixed["authorization"] = f"Basic {code}"
            self._secrets += [basic[1], code]
        elif isinstance(bearer, str):
            fixed["authorization"] = f"Bearer {bearer}"
            self._secrets.append(bearer)
        secrets = [v for k, v in fixed.items() if "key" in k or "token" in k or "auth" in k]
        self._secrets += [one for v in secrets for one in (v, v.rpartition(" ")[2])]  # also without its scheme
        for key, value in fixed.items():
            if not value.isascii() or _FORBIDDEN.search(value.replace(" ", "").replace("\\", "")):
                raise ConfigurationError(
                    f"{name}: the value of the header {key!r} holds characters that HTTP does not allow. "
                    "Look for a line end or a letter outside ASCII in the configured secret."
                )
        self._headers = fixed
        self._timeouts = Timeouts(connect_timeout, timeout)
        self._whole = 10 * timeout + connect_timeout
        self._max_bytes, self._attempts = max_bytes, attempts
        self._slots = asyncio.Semaphore(concurrency)
        self._limiter = AsyncLimiter(max(1.0, rate), max(1.0, rate) / rate) if rate else None
        self._paused_until = 0.0
        self.recording: Recording | None = None
        self.kept: dict[Request, deque[KeptAnswer]] = {}
        self._wire: Wire
        if transport is None:
            self._wire = Direct(self._origin(verify), self._timeouts)
        else:
            self._wire = Through(self._root, transport, self._timeouts)

    def _origin(self, verify: bool | str) -> Origin:
        context: ssl.SSLContext | None
        if self._scheme == "http":
            context = None  # (loading the CAs takes time)
        elif isinstance(verify, str):
            try:
                context = ssl.create_default_context(cafile=verify)
            except (OSError, ssl.SSLError) as error:
                reason = error.strerror or type(error).__name__
                raise ConfigurationError(
                    f"{self.name}: ca_file {verify!r} cannot be read as a CA bundle in PEM form ({reason})."
                ) from None
        else:
            context = httpx.create_ssl_context(verify=verify is not False)
        if context is not None:
            context.set_alpn_protocols(["http/1.1"])
        host = self._host.strip("[]")
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(self._scheme)
        try:
            return Origin(self._root, host, self._port, context, Proxy.of(proxy) if proxy else None)
        except ValueError:
            raise ConfigurationError(
                f"{self.name}: {self._scheme.upper()}_PROXY names no proxy that can be used. "
                "Give it as http://host:port, or except this host with NO_PROXY."
            ) from None

    async def __aenter__(self) -> Http:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._wire.aclose()

    def __repr__(self) -> str:
        return f"<Http {self.name} {self._root}{self._base}>"

    async def call(  # (more than seven parameters: the parts of a request, all by name and few at a time)
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool | None = None,
        expect: Collection[int] = (),
    ) -> Answer:
        """One call, retried where that is safe; statuses in `expect` are answered as they come.

        Returns every status except 401 (`AuthenticationError`), redirects (GET follows up to five
        within the origin, all else is refused) and, after the last attempt, 429 and 5xx
        (`RetryableError`). `path` is relative to the base address; `repeat` says whether the call
        does no harm when executed twice.
        """
        if json is not None:
            content = orjson.dumps(json)
            headers = {"content-type": "application/json", **_lower(headers)}
        if form is not None:
            content = urlencode(form).encode()
            headers = {"content-type": "application/x-www-form-urlencoded", **_lower(headers)}
        if repeat is None:
            repeat = method in ("GET", "HEAD")
        target, recording = self._target(path, params), self.recording
        call = (method, target, headers, content, repeat, expect, False)
        if recording is None:
            return await self._answer(*call)
        if method != "GET":
            recording.other()
            return await self._answer(*call)
        request = Request.of(target, headers)
        number, kept = recording.asked(request), recording.kept(request)
        if kept is None:
            answer = await self._answer(*call)
            if recording.keeps:
                kept = KeptAnswer(answer.status, answer.headers, answer.url)
                kept.add(answer.body)
        else:
            answer = Answer(kept.status, kept.headers, kept.body(), kept.url, method, self.scrub)
        recording.answered(number, Digest.of(answer.status, answer.body), kept)
        return answer

    async def _answer(self, *call: Any) -> Answer:
        """One call and, where that is safe, its repetitions."""
        result = await self._once(*call)
        if isinstance(result, _Again):
            result = await self._retry(result, *call)
        assert isinstance(result, Answer)
        return result

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[OpenAnswer]:
        """As `call` until the headers are there; the body is then read through `OpenAnswer.chunks()`.

        It is never held whole: it may be `STREAMED` times as large as an answer that is.
        """
        target = self._target(path, params)
        recording, request = self.recording, Request.of(target, headers, streamed=True)
        number = recording.asked(request) if recording else 0
        kept = recording.kept(request) if recording else None
        if recording and kept:
            new = KeptAnswer(kept.status, kept.headers, kept.url) if recording.keeps else None
            chunks = _recorded(kept.chunks(), recording, number, Digest(kept.status), new)
            yield OpenAnswer(kept.status, kept.headers, chunks)
            return
        async with self._slots:
            result = await self._once(method, target, headers, None, True, (), True)
            if isinstance(result, _Again):
                result = await self._retry(result, method, target, headers, None, True, (), True)
            assert isinstance(result, Response)
            try:
                most = STREAMED * self._max_bytes
                chunks = _chunks(result, self._where(method, target), most, self._whole)
                status = result.status
                if recording:
                    new = KeptAnswer(status, result.headers, "") if recording.keeps else None
                    chunks = _recorded(chunks, recording, number, Digest(status), new)
                yield OpenAnswer(status, result.headers, chunks)
            finally:
                await result.close()

    def path_of(self, link: str) -> str:
        """A link from an answer → the path and query to `call`; `RefusedError` if it leads elsewhere.

        "Elsewhere" is another scheme, host or port, however spelt, or a path outside the base path.
        """
        if link.startswith("?"):
            raise self._elsewhere("says no path")
        full = self._pinned(link, f"{self._root}{self._base}/")
        base = self._base
        if base and not (full.startswith(base) and full[len(base) : len(base) + 1] in ("/", "?", "")):
            raise self._elsewhere(f"leads outside the base path {base}")
        rest = full[len(base) :]
        return rest if rest.startswith("/") else f"/{rest}"

    # --- addresses -----------------------------------------------------------------------------

    def _target(self, path: str, params: Mapping[str, str | int] | None) -> str:
        """Base path, path and query as sent."""
        plain = path.partition("?")[0]
        if not path.startswith("/") or "#" in path or _FORBIDDEN.search(path) or _BAD_PATH.search(plain):
            raise RefusedError(f"{self.name}: the path of a call must be relative, plain and quoted.")
        if params:
            path += ("&" if "?" in path else "?") + urlencode(params, quote_via=quote)
        return self._base + path

    def _where(self, method: str, target: str) -> str:
        return f"{self.name}: {method} {self._root}{target.partition('?')[0]}"

    def _pinned(self, link: str, document: str) -> str:
        """A link in `document` → its path and query on our origin."""
        if not link or _FORBIDDEN.search(link):
            raise self._elsewhere("is empty or holds blanks, control characters or backslashes")
        if not _ABSOLUTE.match(link):
            if link.startswith("//") or ":" in re.split(r"[/?#]", link, maxsplit=1)[0]:
                raise self._elsewhere("names another host or scheme")
            if "#" in link or _BAD_PATH.search(link.partition("?")[0]):
                raise self._elsewhere("has a fragment, dot segments or empty segments")
            link = urljoin(document, link)
        parts = _ABSOLUTE.fullmatch(link)
        authority = _AUTHORITY.fullmatch(parts[2]) if parts else None
        if parts is None or authority is None:
            raise self._elsewhere("is not a plain http address (user information, fragment, odd host)")
        scheme, host = parts[1].lower(), _ascii_host(authority[1])
        port = int(authority[2]) if authority[2] else _DEFAULT_PORT.get(scheme)
        if (scheme, host, port) != (self._scheme, self._host, self._port):
            raise self._elsewhere("names another scheme, host or port")
        path, mark, query = parts[3].partition("?")
        if _BAD_PATH.search(path):
            raise self._elsewhere("has dot segments, empty segments or encoded control characters")
        return (path or "/") + mark + query

    def _elsewhere(self, how: str) -> RefusedError:
        return RefusedError(
            f"{self.name}: a link given by the server {how}; only {self._root} is trusted. "
            "If the server moved, or stands behind a proxy that it does not know of, correct `url`."
        )

    # --- one attempt ---------------------------------------------------------------------------

    async def _retry(self, first: _Again, *call: Any) -> Answer | Response:
        """The attempts after the first one, which failed with `first`."""
        again: _Again | None = None
        try:
            async for attempt in stamina.retry_context(on=_delay, attempts=self._attempts, timeout=None):
                with attempt:
                    result = first if attempt.num == 1 else await self._once(*call)
                    if isinstance(result, _Again):
                        result.tries = attempt.num
                        raise result
                    return result
        except _Again as error:
            again = error
        assert again is not None
        message = again.error.args[0]
        end = again.error if again.tries == 1 else type(again.error)(f"{message} Tried {again.tries} times.")
        if isinstance(end, RetryableError):
            end.retry_after = again.wait
        raise end

    async def _once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None,
        content: bytes | None,
        repeat: bool,
        expect: Collection[int],
        streamed: bool,
    ) -> Answer | Response | _Again:
        hops, renewed, token = 0, False, ""
        while True:
            sent = {**self._headers, **_lower(headers)} if headers else self._headers
            if self._bearer is not None:
                token = await self._bearer()
                if token not in self._tokens:
                    self._tokens.append(token)
                sent = {**sent, "authorization": f"Bearer {token}"}
            result = await (self._open if streamed else self._exchange)(method, target, sent, content)
            if isinstance(result, Exception):
                return self._lost(result, method, target, repeat)
            response, body = result
            status = response.status
            if status == 401 and self._bearer is not None and not renewed and self._bearer.refused(token):
                renewed = True  # it may have ended while the call was under way
                if streamed:
                    await response.close()
                continue
            if self._busy is not None and isinstance(body, bytes) and self._busy(status, body):
                return _Again(RetryableError(f"{self._where(method, target)}: {status}, too many requests."))
            if status not in expect and (status == 401 or 300 <= status < 400 or status in _AGAIN):
                if streamed and status != 304:  # (which is an answer)
                    await response.close()
                failure = self._judge(response, method, target, repeat)
                if failure is not None:
                    return failure
                if status != 304:
                    hops += 1
                    target = self._follow(response, method, target, hops)
                    continue
            elif "0" in (response.headers.get(name) for name in _REMAINING):
                self._pause(_named_wait(response.headers))
            if streamed:
                return response
            where = self._root + target.partition("?")[0]
            if isinstance(body, str):
                message = f"{self._where(method, target)}: the body of the answer {status} ended early ({body})."
                return self._cut(message, repeat)
            return Answer(status, response.headers, body, where, method, self.scrub)

    async def _exchange(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[Response, bytes | str] | Exception:
        """Response and body, or the exception that came instead; a body that was cut is its reason."""
        response: Response | None = None
        try:
            async with self._slots:
                if self._paused_until:
                    await self._wait()
                if self._limiter is not None:
                    await self._limiter.acquire()
                try:
                    async with asyncio.timeout(self._whole):
                        response = await self._send(method, target, headers, content)
                        return response, await self._body(response, method, target)
                finally:
                    if response is not None:
                        await response.close()
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError, zlib.error) as error:
            return error if response is None else (response, _words(error))

    async def _open(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> tuple[Response, bytes] | Exception:
        """As `_exchange`, up to the headers. The caller holds the slot."""
        try:
            if self._paused_until:
                await self._wait()
            if self._limiter is not None:
                await self._limiter.acquire()
            async with asyncio.timeout(self._whole):
                return await self._send(method, target, headers, content), b""
        except (httpx.TransportError, httpx.InvalidURL, TimeoutError) as error:
            return error

    async def _send(self, method: str, target: str, headers: Mapping[str, str], content: bytes | None) -> Response:
        """The only place where anything is sent, to our origin alone. Raises `RefusedError` for what is no path on
        it."""
        if not target.startswith("/"):
            raise RefusedError(
                f"{self.name}: a request that would leave {self._root} was not sent; report this as a fault of ours."
            )
        self.requests[method] += 1
        return await self._wire.send(method, target, headers, content)

    async def _body(self, response: Response, method: str, target: str) -> bytes:
        where, most = self._where(method, target), self._max_bytes
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > most and method != "HEAD":
            raise _too_large(where, length, most)
        pieces: list[bytes] = []
        size = 0
        async for piece in response.body:
            size += len(piece)
            if size > most:
                raise _too_large(where, f"over {most}", most)
            pieces.append(piece)
        if not _is_gzip(response, where) or not size:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        inflate = _Inflate()
        plain: list[bytes] = []
        size = 0
        for piece in pieces:
            for part in inflate.feed(piece):
                size += len(part)
                if size > most:
                    raise _too_large(where, f"over {most}", most)
                plain.append(part)
        if not inflate.whole:
            raise zlib.error
        return b"".join(plain)

    async def _wait(self) -> None:
        """Stand still while the other side asked everybody to."""
        while (left := self._paused_until - _now()) > 0:
            if left > LONGEST_WAIT:
                raise RetryableError(f"{self.name}: {self._root} asked to wait {left:.0f} s more.", left)
            await asyncio.sleep(left)
        self._paused_until = 0.0

    def pause(self, seconds: float) -> None:
        """No call starts for so many seconds: for answers that ask for it elsewhere than in their headers."""
        self._pause(seconds)

    def _pause(self, seconds: float | None) -> None:
        if seconds:
            self._paused_until = max(self._paused_until, _now() + seconds)

    # --- what became of it ---------------------------------------------------------------------

    def _judge(self, response: Response, method: str, target: str, repeat: bool) -> _Again | None:
        """401, 3xx, 429 and 5xx: what to do. None: an answer after all, or a redirect to follow."""
        status = response.status
        where = self._where(method, target)
        if status == 401:
            raise AuthenticationError(
                f"{where}: 401, the credentials are not accepted. Check the configured user and secret, "
                "and whether they are valid for this address."
            )
        if status not in _AGAIN:
            return None
        if status in _NOT_EXECUTED:
            wait = _named_wait(response.headers, reset=status == 429)
            self._pause(wait)
            message = f"{where}: {status}, " + ("too many requests." if status == 429 else "not available now.")
            if wait is not None and wait > LONGEST_WAIT:
                raise RetryableError(f"{message} It asked to wait {wait:.0f} s; try again then.", wait)
            return _Again(RetryableError(message), wait)
        if not repeat:
            raise AmbiguousError(f"{where}: {status}; whether the write took place is not known.")
        return _Again(RetryableError(f"{where}: {status}, the server failed. Look into its log."))

    def _follow(self, response: Response, method: str, target: str, hops: int) -> str:
        where, location = self._where(method, target), response.headers.get("location", "")
        if method not in ("GET", "HEAD") or not location or hops > MAX_REDIRECTS:
            raise RefusedError(
                f"{where}: {response.status}, a redirect that is not followed. "
                "Set `url` to the address where the API itself answers."
            )
        return self._pinned(location, self._root + target)

    def _cut(self, message: str, repeat: bool) -> _Again:
        if not repeat:
            raise AmbiguousError(message)
        return _Again(IncompleteError(message))

    def _lost(self, error: Exception, method: str, target: str, repeat: bool) -> _Again:
        """No answer came: a clear line, and whether the call may be repeated."""
        if isinstance(error, httpx.InvalidURL):  # such as one of more than 65,536 characters
            raise RefusedError(f"{self._where(method, target)[:300]}: this is no address that can be asked.")
        where = self._where(method, target)
        place = f"{self._scheme}://{self._host}:{self._port}"
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise ConfigurationError(
                    f"{self.name}: the certificate of {place} is not trusted ({cause.verify_message}). "
                    "Set ca_file to the CA bundle that signed it, or correct the host name."
                )
            if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
                raise ConfigurationError(
                    f"{self.name}: {place} does not speak TLS. Set `url` to http://, or to the TLS port."
                )
        if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol) and not repeat:
            raise RefusedError(f"{where}: the request cannot be sent in HTTP ({type(error).__name__}).")
        if not isinstance(error, _NOTHING_SENT):
            if not repeat:
                raise AmbiguousError(f"{where}: {_words(error)}; it is not known whether the write took place.")
            return _Again(RetryableError(f"{where}: {_words(error)}."))
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            message = f"the host {self._host} is not known. Check `url` and DNS"
        elif any(getattr(cause, "errno", None) == errno.ECONNREFUSED for cause in causes):
            message = f"{place} refuses connections. Check that the server runs, and the port in `url`"
        elif isinstance(error, httpx.ConnectTimeout):
            message = f"no connection to {place} in time. Check `url`, the firewall and the proxy"
        elif isinstance(error, httpx.ProxyError):
            message = f"the proxy does not let us through to {place}. Check HTTPS_PROXY and NO_PROXY"
        elif any(isinstance(cause, ssl.SSLError) for cause in causes):
            message = f"the TLS handshake with {place} failed. Check that both sides share a TLS version"
        else:
            message = f"no connection to {place} ({_words(error)}). Check `url` and the network"
        return _Again(RetryableError(f"{self.name}: {message}."))

    def scrub(self, said: str) -> str:
        """What the other side said → as it may stand in a message: one short line without our secrets, e-mail
        addresses, and characters that a terminal or a page obeys."""
        for secret in (*self._secrets, *self._tokens):
            if secret:
                said = said.replace(secret, "***")
        return scrubbed(said)


# --- small parts -------------------------------------------------------------------------------


def scrubbed(said: str) -> str:
    """As `Http.scrub`, where no secret can have been said."""
    line = " ".join(visible(without_emails(said[:SAID_READ])).split())
    return line if len(line) <= SAID_SHOWN else f"{line[:SAID_SHOWN]}…"


class _Inflate:
    """gzip, in pieces of at most 1 MiB, so that a small body cannot become a huge one unseen."""

    def __init__(self) -> None:
        self._part = zlib.decompressobj(31)
        self.whole = True

    def feed(self, raw: bytes) -> Iterator[bytes]:
        while raw:
            if self._part.eof:  # another member follows
                self._part = zlib.decompressobj(31)
            self.whole = False
            plain = self._part.decompress(raw, 2**20)
            raw = self._part.unconsumed_tail or self._part.unused_data
            self.whole = self._part.eof
            if plain:
                yield plain
        while not self._part.eof and (plain := self._part.decompress(b"", 2**20)):
            yield plain


def _is_gzip(response: Response, where: str) -> bool:
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return False
    if coding in ("gzip", "x-gzip"):
        return True
    raise RefusedError(f"{where}: the answer is encoded as {coding[:40]!r}, and only gzip was asked for.")


def _too_large(where: str, size: str, most: int) -> TooLargeError:
    return TooLargeError(f"{where}: an answer of {size} bytes; the limit max_bytes is {most}.")


def _delay(error: Exception) -> float | bool:
    return error.delay() if isinstance(error, _Again) else False


def _lower(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {key.lower(): value for key, value in headers.items()} if headers else {}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that caused it, also inside groups."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [x for x in (one.__cause__, one.__context__) if x is not None]
        todo += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def _words(error: Exception) -> str:
    """Our own words: the text of an httpx exception may hold a header."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    if isinstance(error, zlib.error):
        return "its compression is damaged"
    if isinstance(error, httpx.ProtocolError):
        return "the connection was closed, or its protocol broken, before the answer was whole"
    return "the connection was lost"


def _named_wait(headers: Mapping[str, str], *, reset: bool = True) -> float | None:
    """Seconds to wait as the other side says, by its own clock where it tells it; None: it doesn't."""
    now = _date(headers.get("date", "")) or time.time()
    after = headers.get("retry-after", "").strip()
    if after.isascii() and after.isdigit():
        return float(after)
    if (moment := _date(after)) is not None:
        return max(0.0, moment - now)
    if reset and headers.get("x-rate-limit-limit", "").strip() != "0":  # 0: too many at once, and the reset is a guess
        for name in ("x-rate-limit-reset", "x-ratelimit-reset", "ratelimit-reset"):
            value = headers.get(name, "").strip()
            if value.isascii() and value.isdigit():
                number = float(value)
                # Either seconds to go or a moment since 1970; no delta reaches back to 2001.
                return max(0.0, number - now) if number > 1e9 else number
    return None


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


def _ascii_host(host: str) -> str | None:
    if host.isascii():
        return host.lower()
    if any(dot in host for dot in "\u3002\uff0e\uff61"):
        return None  # the idna library takes these for dots
    try:
        return idna.encode(host).decode().lower()
    except idna.IDNAError:
        return None


def _origin(base_url: str, name: str) -> tuple[str, str, int, str]:
    """A base address → scheme, host, port and base path without a slash at its end."""

    def wrong(how: str) -> ConfigurationError:
        return ConfigurationError(f"{name}: the address (`url`) {how}. Give it as https://host[:port][/path].")

    if not isinstance(base_url, str) or not base_url or _FORBIDDEN.search(base_url):
        raise wrong("is empty or holds blanks, control characters or backslashes")
    scheme, mark, rest = base_url.partition("://")
    scheme = scheme.lower()
    if not mark or scheme not in _DEFAULT_PORT:
        raise wrong("does not start with http:// or https://")
    if "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise wrong("holds a user or password; these have settings of their own")
    if "?" in rest or "#" in rest:
        raise wrong("has a query or fragment")
    authority, slash, path = rest.partition("/")
    parts = _AUTHORITY.fullmatch(authority)
    host = _ascii_host(parts[1]) if parts else None
    if parts is None or host is None:
        raise wrong("has no host, or one that is not plain")
    port = int(parts[2]) if parts[2] else _DEFAULT_PORT[scheme]
    if not 0 < port < 65536:
        raise wrong("has a port outside 1 to 65535")
    path = (slash + path).rstrip("/")
    if _BAD_PATH.search(path):
        raise wrong("has dot segments or empty segments in its path")
    return scheme, host, port, quote(path, safe="/%:@!$&'()*+,;=~-._")
