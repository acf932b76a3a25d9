"""Crowd's webhook as the connector registers it: against the emulator, and against canned answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest

from connectors.crowd_webhook import registered, unregister
from connectors.errors import (
    AuthenticationError,
    ConfigurationError,
    ForbiddenError,
    IncompleteError,
    RetryableError,
)
from connectors.http import Http
from deployments.sandbox.crowd import RunningCrowd, running
from tests.support.crowd_bodies import new_user
from tests.support.listener import Listener, listening, wait_until

ENDPOINT = "https://sync.example.org/crowd/main"
TOKEN = "c2VjcmV0-of-ours"
CROWD = {"X-Embedded-Crowd-Version": "Crowd/7.1.2", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def process() -> Iterator[RunningCrowd]:
    with running() as one:
        yield one


@pytest.fixture
def emulator(process: RunningCrowd) -> RunningCrowd:
    process.faults([])
    process.clear()
    process.reset_counts()
    return process


@pytest.fixture
async def client(emulator: RunningCrowd) -> AsyncIterator[Http]:
    async with Http(emulator.url, name="crowd", basic=("crowdsync", "secret"), timeout=5, attempts=3) as one:
        yield one


@pytest.fixture
def receiver() -> Iterator[Listener]:
    with listening() as one:
        yield one


async def change(client: Http, name: str) -> None:
    answer = await client.call("POST", "/rest/usermanagement/1/user", json=new_user(name))
    assert answer.status == 201


def endpoints(emulator: RunningCrowd) -> list[str]:
    return [one["endpoint"] for one in emulator.webhooks()]


async def test_a_registration_is_made_and_kept(emulator: RunningCrowd, client: Http, receiver: Listener) -> None:
    made = await registered(client, receiver.url, TOKEN, None)
    emulator.reset_counts()
    assert await registered(client, receiver.url, TOKEN, made) == made
    assert emulator.counts()["requests"] == {"GET /webhook/ID": 1}
    await change(client, "ann")
    wait_until(lambda: receiver.taken)
    assert (receiver.taken[0].headers["authorization"], receiver.taken[0].body) == (f"Basic {TOKEN}", b"")
    assert endpoints(emulator) == [receiver.url]


@pytest.mark.parametrize("known", [None, "", "99999", "no id", "../config/cookie", "1?x=y"])
async def test_one_that_is_gone_is_made_anew(emulator: RunningCrowd, client: Http, known: str | None) -> None:
    made = await registered(client, ENDPOINT, TOKEN, known)
    assert made
    assert made != known
    assert endpoints(emulator) == [ENDPOINT]


async def test_what_leads_elsewhere_is_left_alone(emulator: RunningCrowd, client: Http) -> None:
    others = await registered(client, "https://other.example.org/", "t", None)
    assert others
    made = await registered(client, ENDPOINT, TOKEN, others)
    assert made != others
    assert endpoints(emulator) == ["https://other.example.org/", ENDPOINT]
    assert not await unregister(client, others, ENDPOINT)
    assert await unregister(client, others, "https://other.example.org/")
    assert not await unregister(client, others, "https://other.example.org/")
    assert endpoints(emulator) == [ENDPOINT]


async def test_the_token_of_before_does_not_stay(client: Http, receiver: Listener) -> None:
    """Crowd may answer with an older registration of the address, which proves itself by another token."""
    await registered(client, receiver.url, "of-before", None)
    await registered(client, receiver.url, TOKEN, None)
    await change(client, "bob")
    wait_until(lambda: receiver.taken)
    assert receiver.taken[0].headers["authorization"] == f"Basic {TOKEN}"


@pytest.mark.parametrize("fault", ["committed-reset", "reset", 503])
async def test_a_lost_answer_is_asked_for_again(emulator: RunningCrowd, client: Http, fault: Any) -> None:
    for method in ("GET", "POST", "DELETE"):
        emulator.faults([{"kind": fault, "method": method, "path": "/webhook", "nth": 1}])
        made = await registered(client, ENDPOINT, TOKEN, "99999")
        assert await registered(client, ENDPOINT, TOKEN, made) == made
    assert endpoints(emulator) == [ENDPOINT]


@pytest.mark.parametrize("page", ["html", "empty", "truncated-document"])
async def test_an_answer_that_is_none_is_refused(emulator: RunningCrowd, client: Http, page: str) -> None:
    made = await registered(client, ENDPOINT, TOKEN, None)
    assert made
    emulator.faults([{"kind": page}])
    for known in (made, None):
        with pytest.raises(IncompleteError):
            await registered(client, ENDPOINT, TOKEN, known)
    with pytest.raises(IncompleteError):
        await unregister(client, made, ENDPOINT)


@pytest.mark.parametrize(
    ("endpoint", "token"),
    [
        ("sync.example.org/crowd", TOKEN),
        ("ftp://sync.example.org", TOKEN),
        (ENDPOINT + "x" * 250, TOKEN),
        (ENDPOINT, ""),
        (ENDPOINT, "a b"),
        (ENDPOINT, "a\r\nX: y"),
        (ENDPOINT, "geheimnis-ä"),
    ],
)
async def test_what_cannot_be_is_not_sent(emulator: RunningCrowd, client: Http, endpoint: str, token: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await registered(client, endpoint, token, None)
    assert not token or token not in str(caught.value)
    assert emulator.counts()["requests"] == {}


async def test_crowd_may_not_take_the_address(client: Http) -> None:
    with pytest.raises(ConfigurationError, match="400 ILLEGAL_ARGUMENT"):
        await registered(client, "http://:1/x", TOKEN, None)


# --- canned answers


def canned(handler: Callable[[httpx.Request], httpx.Response]) -> Http:
    return Http("http://crowd.test/crowd", name="crowd", transport=httpx.MockTransport(handler), attempts=1)


def answer(status: int, body: Any = None, headers: Any = CROWD) -> httpx.Response:
    return httpx.Response(status, content=b"" if body is None else orjson.dumps(body), headers=headers)


async def test_a_crowd_too_old_offers_none() -> None:
    def old(request: httpx.Request) -> httpx.Response:
        return answer(200, {"domain": ""}) if request.url.path.endswith("/config/cookie") else answer(404)

    assert await registered(canned(old), ENDPOINT, TOKEN, None) is None
    assert await registered(canned(old), ENDPOINT, TOKEN, "7") is None
    assert not await unregister(canned(old), "7", ENDPOINT)


async def test_what_is_no_crowd_is_not_taken_for_an_old_one() -> None:
    def none(request: httpx.Request) -> httpx.Response:
        cookie = request.url.path.endswith("/config/cookie")
        return answer(200 if cookie else 404, {"domain": ""}, {"Content-Type": "application/json"})

    for handler in (none, lambda _: answer(404)):
        with pytest.raises(IncompleteError, match="404"):
            await registered(canned(handler), ENDPOINT, TOKEN, None)


@pytest.mark.parametrize("status", [400, 404, 410])
async def test_a_reason_says_that_it_is_gone(status: int) -> None:
    """With which status is not confirmed."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return answer(status, {"reason": "WEBHOOK_NOT_FOUND", "message": "m"})
        return answer(201, {"id": "b-8", "endpointUrl": ENDPOINT}) if request.method == "POST" else answer(204)

    assert await registered(canned(handler), ENDPOINT, TOKEN, "7") == "b-8"


@pytest.mark.parametrize("made", [[], {}, {"id": None}, {"id": True}, {"id": 1.5}, {"id": "a/b"}, {"id": ""}, None])
async def test_an_id_that_is_none(made: Any) -> None:
    with pytest.raises(IncompleteError):
        await registered(canned(lambda _: answer(201, made)), ENDPOINT, TOKEN, None)


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (401, None, AuthenticationError, "401"),
        (403, None, ForbiddenError, "Remote addresses"),
        (403, {"reason": "APPLICATION_PERMISSION_DENIED"}, ForbiddenError, "APPLICATION_PERMISSION_DENIED"),
        (405, None, IncompleteError, "405"),
        (503, None, RetryableError, "503"),
    ],
)
async def test_refusals(status: int, body: Any, error: type[Exception], says: str) -> None:
    for known in ("7", None):
        with pytest.raises(error, match=says) as caught:
            await registered(canned(lambda _: answer(status, body)), ENDPOINT, TOKEN, known)
        assert TOKEN not in str(caught.value)
