"""What listens: it keeps what proves itself, turns away all else without a word, and never answers with an error of
its own."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from connectors.errors import RetryableError
from connectors.settings import Settings
from connectors.store import Store
from deployments.gate import Gate
from deployments.receiver import receiving
from tests.support.deliveries import SECRET, with_signature

BODY = {"type": "user.updated", "data": {"user": "u1"}}
PING = "p" * 20


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("CROWDSYNC_WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("CROWDSYNC_CROWD_WEBHOOK_SECRET", PING)
    monkeypatch.delenv("MISSING", raising=False)
    return Settings.model_validate(
        {
            "store": {"url": f"sqlite:///{tmp_path}/store.db"},
            "directory": {"url": "http://crowd.example.org", "application": "crowdsync"},
            "receiver": {"max_megabytes": 1},
            "sources": {
                "acme": {"kind": "scim", "url": "https://idp.example.org", "webhook": {}},
                "unset": {"kind": "scim", "url": "https://idp.example.org", "webhook": {"secret_env": "MISSING"}},
                "quiet": {"kind": "scim", "url": "https://idp.example.org"},
                "pushed": {"kind": "push", "url": "https://sync.example.org"},
            },
        }
    )


@pytest.fixture
async def gate(settings: Settings, store: Store) -> AsyncIterator[Gate]:
    async with receiving(settings, store) as application:
        yield application


@pytest.fixture
async def http(gate: Gate) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(gate)
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        yield client


def genuine(sent: str = "msg_1", body: Any = BODY, **more: Any) -> dict[str, Any]:
    given = with_signature(body, sent=sent, stamp=str(int(datetime.now(UTC).timestamp())), **more)
    return {"content": given.body, "headers": dict(given.headers)}


def rows(store: Store) -> list[tuple[str, str, str, str]]:
    found = store.inbox()[["source", "kind", "key", "via"]]
    return sorted(found.itertuples(index=False, name=None))


async def test_what_proves_itself_is_kept_before_it_is_answered_and_once(http: httpx.AsyncClient, store: Store) -> None:
    for sent in ("m1", "m1", "m2"):  # again, and told anew
        answer = await http.post("/webhooks/acme", **genuine(sent))
        assert (answer.status_code, answer.content) == (204, b"")
    assert rows(store) == [("acme", "user", "u1", "webhook")]
    answer = await http.post("/crowd/crowd", headers={"authorization": f"Basic {PING}"})
    assert answer.status_code == 204
    assert rows(store) == [("", "crowd", "", "crowd"), ("acme", "user", "u1", "webhook")]


async def test_nobody_learns_why_they_are_turned_away(http: httpx.AsyncClient, store: Store) -> None:
    tried = [
        ("/webhooks/acme", genuine(secret="x" * 40)),
        ("/webhooks/acme", {"json": BODY}),
        ("/webhooks/unset", genuine()),
        ("/webhooks/quiet", genuine()),
        ("/webhooks/pushed", genuine()),
        ("/webhooks/nobody", genuine()),
        ("/events/acme", {"content": b"e.y.J"}),
        ("/events/nobody", {"content": b"e.y.J"}),
        ("/crowd/crowd", {"headers": {"authorization": "Basic " + "q" * 20}}),
        ("/crowd/crowd", {}),
        ("/crowd/other", {"headers": {"authorization": f"Basic {PING}"}}),
    ]
    for path, request in tried:
        answer = await http.post(path, **request)
        assert (answer.status_code, answer.content) == (401, b""), path
    assert not rows(store)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"x" * (1 << 20)}, 401),
        ({"content": b"x" * ((1 << 20) + 1)}, 413),
        ({"content": b'{"a": 1, "a": 2}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"[" * 5000 + b"]" * 5000, "headers": {"content-type": "application/scim+json"}}, 400),
        ({"content": b'{"a": "\\u0000"}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"\\u0000": 1}', "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"a": "\\ud800"}', "headers": {"content-type": "application/json"}}, 400),
        ({"headers": [(b"x-odd", b"\xff")]}, 400),
        ({"params": {"a": "\0"}}, 400),
        ({"params": {"a": "b" * 9000}}, 414),
    ],
)
async def test_what_cannot_be_kept_comes_no_further(
    http: httpx.AsyncClient, store: Store, request_: dict[str, Any], status: int
) -> None:
    for path in ("/webhooks/acme", "/scim/pushed/v2/Users"):
        answer = await http.post(path, **request_)
        assert answer.status_code == status, answer.text
    assert not rows(store)


async def test_a_query_that_is_no_text_and_a_websocket_are_turned_away(gate: Gate) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    for scope, status in (
        ({"type": "http", "method": "GET", "path": "/health", "headers": [], "query_string": b"a=%ff"}, 400),
        ({"type": "websocket", "path": "/health"}, 1008),
    ):
        said: list[Any] = []

        async def send(message: Any, said: list[Any] = said) -> None:
            said.append(message)

        await gate(scope, receive, send)
        assert said[0].get("status", said[0].get("code")) == status


async def test_where_nothing_can_be_kept_it_is_to_be_sent_again(
    http: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Any) -> list[int]:
        raise RetryableError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(store, "accept_all", away)
        answer = await http.post("/webhooks/acme", **genuine("m1"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "database" not in answer.text
    assert (await http.post("/webhooks/acme", **genuine("m1"))).status_code == 204
    assert rows(store) == [("acme", "user", "u1", "webhook")]


async def test_nothing_that_was_tampered_with_is_kept_or_answered_with_an_error(
    http: httpx.AsyncClient, store: Store
) -> None:
    rng = random.Random(7)
    for number in range(400):
        request = genuine(f"m{number}")
        body, headers = bytearray(request["content"]), dict(request["headers"])
        if rng.random() < 0.7:
            at = rng.randrange(len(body))
            body[at] = (body[at] + rng.randrange(1, 255)) % 256
        else:
            name = rng.choice(["webhook-id", "webhook-timestamp", "webhook-signature"])
            headers[name] = headers[name][: rng.randrange(len(headers[name]))] + rng.choice("a0,~")
            if headers == request["headers"]:
                continue  # (the time ended in 0)
        answer = await http.post("/webhooks/acme", content=bytes(body), headers=headers)
        assert answer.status_code in (400, 401), (answer.status_code, bytes(body), headers)
    assert not rows(store)


async def test_what_there_is_to_see(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).text == "ok\n"
    assert (await http.get("/ready")).text == "ready\n"
    await http.post("/webhooks/acme", **genuine("m1"))
    for place in ("webhooks", "events", "crowd"):  # (whatever is made up gets no line of its own)
        await http.post(f"/{place}/nobody-knows", **genuine("m1"))
    said = (await http.get("/metrics")).text
    assert 'crowdsync_deliveries_total{answer="204",source="acme"} 1.0' in said
    assert 'crowdsync_deliveries_total{answer="401",source="unknown"} 3.0' in said
    assert 'crowdsync_inbox_hints{source="acme",status="waiting"} 1.0' in said
    assert "nobody-knows" not in said
