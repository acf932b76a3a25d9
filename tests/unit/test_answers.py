"""Whether a side answers as it did: digests of its answers, and what was answered is not asked for twice."""

from __future__ import annotations

import pytest

from connectors.answers import NEVER, recording, same
from connectors.errors import RetryableError
from connectors.http import Http
from tests.support.scripted import CLOSE, Script, answer, serving

FIRST, SECOND, NONE = answer(200, b'["ann"]'), answer(200, b'["bob"]'), answer(404, b"no such page, at 12:01")


def client(server: Script) -> Http:
    return Http(server.url + "/base", name="t", basic=("app", "pw"), attempts=1, timeout=2, concurrency=1)


async def read(http: Http) -> list[bytes]:
    """A read of three requests: a page with a query and a header, one that is not there, one piece by piece."""
    page = await http.call("GET", "/a", params={"from": 1, "name": 'é "x"'}, headers={"Accept": "text/x"})
    await http.call("GET", "/none")
    async with http.stream("GET", "/s") as stream:
        return [page.body, b"".join([chunk async for chunk in stream.chunks()])]


async def test_the_same_answers_are_the_same() -> None:
    later = answer(404, b"no such page, at 12:02")  # of an answer that is none, nobody reads the body
    async with serving(FIRST, NONE, SECOND, FIRST, later, SECOND) as server, client(server) as http:
        with recording([http]) as made:
            assert await read(http) == [b'["ann"]', b'["bob"]']
        assert await same([http], made.text())
        lines = [request.split(b"\r\n")[0] for request in server.requests]
        assert lines[:3] == lines[3:]
        assert b"text/x" in server.requests[3]
        assert "pw" not in made.text()


@pytest.mark.parametrize("at", range(3))
async def test_another_answer_is_another_one_wherever_it_stands(at: int) -> None:
    answers = [FIRST, NONE, SECOND]
    other = answer(200, b'["cyd"]')
    async with serving(*answers, *answers[:at], other, *answers[at + 1 :]) as server, client(server) as http:
        with recording([http]) as made:
            await read(http)
        assert not await same([http], made.text())


async def test_what_was_answered_is_taken_once_by_the_read_that_follows() -> None:
    async with (
        serving(FIRST, NONE, SECOND, FIRST, NONE, answer(200, b'["cyd"]'), FIRST) as server,
        client(server) as http,
    ):
        with recording([http]) as made:
            await read(http)
        assert not await same([http], made.text())
        assert len(server.requests) == 6
        with recording([http]) as new:
            assert await read(http) == [b'["ann"]', b'["cyd"]']
            assert len(server.requests) == 6
            assert await read(http) == [b'["ann"]', b'["ann"]']  # asked for once more, it is asked once more
        assert len(server.requests) == 9
        assert new.text() != made.text()
        await http.call("GET", "/a", params={"from": 1, "name": 'é "x"'}, headers={"Accept": "text/x"})
        assert len(server.requests) == 10  # and nothing is kept for longer


async def test_what_was_kept_is_as_it_came() -> None:
    """Status and headers too: a page that is not there stays one."""
    gone = answer(404, b"gone", "x-why: moved")
    async with serving(FIRST, NONE, SECOND, FIRST, gone, FIRST) as server, client(server) as http:
        with recording([http]) as made:
            await read(http)
        assert not await same([http], made.text())
        server.answers = [SECOND]
        with recording([http]):
            kept = await http.call("GET", "/none")
        assert (kept.status, kept.body, kept.headers["x-why"]) == (404, b"gone", "moved")
        assert kept.url == f"{server.url}/base/none"
        asked = len(server.requests)
        with recording([http]):  # what that read did not ask for is not kept for the next one
            assert (await read(http))[0] == b'["bob"]'
        assert len(server.requests) == asked + 3


async def test_who_does_not_answer_does_not_answer_as_before() -> None:
    async with serving(FIRST, CLOSE) as server, client(server) as http:
        with recording([http]) as made:
            await http.call("GET", "/a")
        assert not await same([http], made.text())
        with recording([http]), pytest.raises(RetryableError):  # the read says what is wrong
            await http.call("GET", "/a")


async def test_only_what_is_read_can_be_compared() -> None:
    async with serving(FIRST) as server, client(server) as http:
        with recording([http]) as made:
            await http.call("GET", "/a")
            await http.call("POST", "/search", json={"of": "everybody"})
        assert made.text() == ""
        assert not await same([http], "")
        with recording([]) as nobody:
            pass
        assert nobody.text() == ""


async def test_an_answer_that_was_not_whole_is_none() -> None:
    """What a read met and got over is not asked again."""
    cut = answer(200, b'["an', length=20)
    async with serving(cut, FIRST, FIRST) as server, client(server) as http:
        with recording([http]) as made:
            with pytest.raises(Exception, match="ended early"):
                await http.call("GET", "/a", params={"count": 2})
            await http.call("GET", "/a", params={"count": 1})
        assert "count=2" not in made.text()
        assert await same([http], made.text())


async def test_a_read_may_keep_what_it_was_answered_for_the_next_one() -> None:
    """What it asked anew, and what was kept already; but no answer that was not whole."""
    cut = answer(200, b'["an', length=20)
    other = answer(200, b'["cyd"]')
    async with serving(FIRST, NONE, SECOND, other, NONE, SECOND) as server, client(server) as http:
        with recording([http]) as made:
            await read(http)
        assert not await same([http], made.text())
        with recording([http], keeps=True) as kept:
            await read(http)
        asked = len(server.requests)
        with recording([http]) as again:
            assert await read(http) == [b'["cyd"]', b'["bob"]']
        assert (len(server.requests), again.text()) == (asked, kept.text())
        assert not await same([http], NEVER)
    async with serving(cut, FIRST) as server, client(server) as http:
        with recording([http], keeps=True), pytest.raises(Exception, match="ended early"):
            async with http.stream("GET", "/s") as stream:
                [chunk async for chunk in stream.chunks()]
        assert not http.kept
