"""Whether a side would answer a whole read as it answered an earlier one: digests of the answers, request by request.

A read that gets the very bytes of an earlier one has the very records, and is as whole: nothing has to be parsed, and
nothing compared. What such a comparison was answered is kept for the read that follows where something is another; it
takes each answer once instead of asking again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

import orjson
import pyarrow as pa

from connectors.errors import CrowdsyncError
from connectors.paging import in_order

if TYPE_CHECKING:
    from connectors.http import Http

NEVER: Final = "[]"
"""The recording of no answers at all, which nothing is the same as."""
AHEAD: Final = 4
"""How many requests are asked again at once."""
CODEC: Final = "zstd"
"""What answers are kept in: a tenth of their size, at more than a gigabyte a second."""


class Request(NamedTuple):
    """A GET request: `target` is path and query as sent, `headers` those of this call, in lower case; `streamed`:
    whether the answer is read piece by piece."""

    target: str
    headers: tuple[tuple[str, str], ...]
    streamed: bool

    @classmethod
    def of(cls, target: str, headers: Mapping[str, str] | None, streamed: bool = False) -> Request:
        """The request of a call."""
        return cls(target, tuple(sorted((name.lower(), value) for name, value in (headers or {}).items())), streamed)


class Digest:
    """The digest of an answer that comes in pieces: of its body, and of no more than its status where it has none that
    is read."""

    def __init__(self, status: int) -> None:
        self._status, self._hash = status, hashlib.sha256(str(status).encode())

    @classmethod
    def of(cls, status: int, body: bytes) -> Digest:
        """That of a whole answer."""
        made = cls(status)
        made.feed(body)
        return made

    def feed(self, piece: bytes) -> None:
        """One more piece of the body."""
        if self._status == 200:
            self._hash.update(piece)

    def __str__(self) -> str:
        return self._hash.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it came: status, headers, address, and the pieces of its body, compressed, with their sizes."""

    status: int
    headers: Mapping[str, str]
    url: str
    pieces: list[tuple[bytes, int]] = field(default_factory=list, repr=False)

    def add(self, piece: bytes) -> None:
        """One more piece of the body."""
        self.pieces.append((pa.compress(piece, CODEC, asbytes=True), len(piece)))

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece."""
        for piece, size in self.pieces:
            yield pa.decompress(piece, size, CODEC, asbytes=True)

    def body(self) -> bytes:
        """The body."""
        return b"".join(pa.decompress(piece, size, CODEC, asbytes=True) for piece, size in self.pieces)


class Recording:
    """The answers of a whole read as it goes on. `kept`: what need not be asked for again. `again`: what the read that
    follows need not ask for, where this one `keeps` it."""

    def __init__(self, kept: dict[Request, deque[KeptAnswer]], *, keeps: bool) -> None:
        self._asked: list[Request] = []
        self._digests: dict[int, str] = {}
        self._kept = kept
        self.keeps = keeps
        self.again: dict[Request, deque[KeptAnswer]] = {}
        self._only_read = True

    def asked(self, request: Request) -> int:
        """A request is asked: its number. (In this order they will be asked again.)"""
        self._asked.append(request)
        return len(self._asked) - 1

    def answered(self, number: int, digest: Digest, answer: KeptAnswer | None = None) -> None:
        """A request was answered, whole; `answer`: to be kept where this `keeps` answers."""
        self._digests[number] = str(digest)
        if self.keeps and answer is not None:
            self.again.setdefault(self._asked[number], deque()).append(answer)

    def other(self) -> None:
        """Something else than a GET was asked: whether the answer would be the same cannot be seen from outside."""
        self._only_read = False

    def kept(self, request: Request) -> KeptAnswer | None:
        """What the request was answered a moment ago, once."""
        found = self._kept.get(request)
        return found.popleft() if found else None

    def text(self) -> str:
        """The recording as text for `same`; "" for a read that cannot be compared."""
        answers = [[*self._asked[number], digest] for number, digest in sorted(self._digests.items())]
        return orjson.dumps(answers).decode() if answers and self._only_read else ""


@contextmanager
def recording(clients: Collection[Http], *, keeps: bool = False) -> Iterator[Recording]:
    """Inside, what the first of a side's clients is answered is recorded, and kept for a read that follows where it
    `keeps`. (The others give it tokens.)"""
    http = next(iter(clients), None)
    made = Recording({} if http is None else http.kept, keeps=keeps)
    if http is None:
        yield made
        return
    http.recording = made
    try:
        yield made
    finally:
        http.recording = None
        http.kept = made.again


async def same(clients: Collection[Http], recorded: str) -> bool:
    """Whether everything that was asked in a recorded read is answered now as it was then."""
    http = next(iter(clients), None)
    if http is None or recorded in ("", NEVER):
        return False
    http.kept = {}
    other = False

    async def again(answer: tuple[str, list[list[str]], bool, str]) -> bool:
        nonlocal other
        if other:
            return False
        target, headers, streamed, digest = answer
        request = Request(target, tuple((name, value) for name, value in headers), streamed)
        now, kept = await _answer(http, request)
        http.kept.setdefault(request, deque()).append(kept)
        other |= str(now) != digest
        return not other

    asked = in_order(again, orjson.loads(recorded), AHEAD)
    try:
        # To the end also where one is another: what is under way by then is kept, and not asked for twice.
        return all([one async for one in asked])
    except CrowdsyncError:  # (the read that follows meets it too, and knows what it means)
        return False
    finally:
        await asked.aclose()  # type: ignore[attr-defined]


async def _answer(http: Http, request: Request) -> tuple[Digest, KeptAnswer]:
    path, headers = http.path_of(request.target), dict(request.headers)
    if not request.streamed:
        answer = await http.call("GET", path, headers=headers)
        kept = KeptAnswer(answer.status, answer.headers, answer.url)
        kept.add(answer.body)
        return Digest.of(answer.status, answer.body), kept
    async with http.stream("GET", path, headers=headers) as stream:
        digest, kept = Digest(stream.status), KeptAnswer(stream.status, stream.headers, "")
        async for chunk in stream.chunks():
            digest.feed(chunk)
            kept.add(chunk)
    return digest, kept
