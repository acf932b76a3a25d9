"""One connection for each request under way, and of HTTP/2 one for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest

from connectors.transport import Connections


class Body(httpx.AsyncByteStream):
    def __init__(self) -> None:
        self.closed, self.breaks = 0, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"{}"

    async def aclose(self) -> None:
        self.closed += 1
        if self.breaks:
            raise httpx.ReadError("cut")


class One(httpx.AsyncHTTPTransport):
    """A connection that notes how many requests are under way on it."""

    version, fails, seconds = b"HTTP/1.1", False, 0.0

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.closed = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.seconds)
        if self.fails:
            raise httpx.ReadError("cut")
        self.bodies.append(Body())
        return httpx.Response(200, stream=self.bodies[-1], extensions={"http_version": self.version})

    async def aclose(self) -> None:
        self.closed += 1

    @property
    def open(self) -> int:
        return sum(not body.closed for body in self.bodies)


class Made:
    """The connections that were made, and what sends on them."""

    def __init__(self) -> None:
        self.all: list[One] = []
        self.connections = Connections(self.one)

    def one(self) -> One:
        self.all.append(One())
        return self.all[-1]

    async def send(self, count: int) -> list[httpx.Response]:
        ask = self.connections.handle_async_request
        return list(await asyncio.gather(*(ask(httpx.Request("GET", "http://h/")) for _ in range(count))))


@pytest.fixture
def made() -> Made:
    return Made()


async def over(*answers: httpx.Response) -> None:
    """They are read and closed."""
    for answer in answers:
        assert await answer.aread() == b"{}"
        await answer.aclose()


async def test_a_connection_belongs_to_one_request_until_its_body_is_closed(made: Made) -> None:
    answers = await made.send(3)
    assert [one.open for one in made.all] == [1, 1, 1]
    await over(answers[1])
    (other,) = await made.send(1)
    assert [one.open for one in made.all] == [1, 1, 1], "the one that is free"
    assert len(made.all[1].bodies) == 2
    await answers[1].aclose()  # (once more: another request has it now)
    (fourth,) = await made.send(1)
    assert [one.open for one in made.all] == [1, 1, 1, 1]
    await over(fourth, answers[0], answers[2], other)
    for _ in range(5):
        await over(*await made.send(1))
    assert len(made.all) == 4
    assert len(made.all[1].bodies) == 7, "always the one that was used last"
    await made.connections.aclose()
    assert all(one.closed for one in made.all)


async def test_of_http_2_one_connection_is_for_all(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(One, "version", b"HTTP/2")
    (first,) = await made.send(1)
    answers = await made.send(4)
    assert [one.open for one in made.all] == [5]
    await answers[0].aclose()  # what goes wrong with one of them is no matter of the others
    assert not made.all[0].closed
    monkeypatch.setattr(One, "version", b"HTTP/1.1")  # it was made anew, and something else answers
    (other,) = await made.send(1)
    await over(first, other, *answers[1:])
    await made.send(3)
    assert sorted(one.open for one in made.all) == [1, 1, 1], "each of its own again, and none twice"


@pytest.mark.parametrize("how", ["fails", "cancelled", "unread", "broken"])
async def test_what_goes_wrong_takes_its_connection_along(
    made: Made, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "fails":
        monkeypatch.setattr(One, "fails", True)
        with pytest.raises(httpx.ReadError):
            await made.send(1)
        monkeypatch.setattr(One, "fails", False)
    elif how == "cancelled":
        monkeypatch.setattr(One, "seconds", 60)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.send(1), 0.05)
        monkeypatch.setattr(One, "seconds", 0)
    else:
        (answer,) = await made.send(1)
        made.all[0].bodies[0].breaks = how == "broken"
        with suppress(httpx.ReadError):
            if how == "broken":
                await answer.aread()
            await answer.aclose()
    await over(*await made.send(1), *await made.send(1))
    assert [len(one.bodies) for one in made.all[1:]] == [1, 1]
    assert made.all[0].closed
    await over(*await made.send(1))
    assert len(made.all) == 3, "the others are used again"
    await made.connections.aclose()
    assert [one.closed for one in made.all] == [1, 1, 1]
