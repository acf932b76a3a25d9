"""Security event tokens, polled (RFC 8936) from a real HTTP server: what is proved stands in the inbox before it is
acknowledged, what is not is refused with its reason, and what cannot be told yet comes again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import AuthenticationError, ConfigurationError, IncompleteError, RetryableError
from connectors.settings import Settings
from connectors.store import Store
from deployments import polling
from deployments.polling import Tokens
from tests.support.deliveries import AUDIENCE, ISSUER, JWKS, jwk, set_claims, signed

TOKEN = "t" * 20
CAEP = "https://schemas.openid.net/secevent/caep/event-type/"


@dataclass
class Transmitter:
    """As RFC 8936 has it: gives what was not spoken of, `at_once` in an answer, and takes what is said of it."""

    tokens: dict[str, str] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    refused: dict[str, Any] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 2
    status: int = 200
    url: str = ""

    def answer(self, said: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(said)
        for key in said.get("ack", ()):
            self.tokens.pop(key)
            self.acknowledged.append(key)
        for key, why in said.get("setErrs", {}).items():
            self.tokens.pop(key)
            self.refused[key] = why
        some = list(self.tokens.items())[: min(self.at_once, said.get("maxEvents", 100))]
        return {"sets": dict(some), "moreAvailable": len(some) < len(self.tokens)}

    def add(self, key: str, user: str = "", **more: Any) -> None:
        now = int(datetime.now(UTC).timestamp())
        by = more.pop("by", "rsa")
        claims = set_claims(jti=key, iat=now, sub_id={"format": "scim", "uri": f"/Users/{user or key}"}, **more)
        self.tokens[key] = signed(claims, by).decode()


@contextmanager
def transmitting() -> Iterator[Transmitter]:
    here = Transmitter()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["content-length"])))
            good = self.headers["authorization"] == f"Bearer {TOKEN}" and self.path == "/poll/1?of=acme"
            status = here.status if good else 401
            body = json.dumps(here.answer(said) if status == 200 else {}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    here.url = f"http://127.0.0.1:{server.server_port}/poll/1?of=acme"
    try:
        yield here
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def transmitter() -> Iterator[Transmitter]:
    with transmitting() as here:
        yield here


@pytest.fixture
def tokens(transmitter: Transmitter, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    monkeypatch.setenv("CROWDSYNC_EVENTS_TOKEN", TOKEN)
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps(JWKS), encoding="utf-8")
    events = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": str(keys), "poll_url": transmitter.url}
    settings = Settings.model_validate(
        {
            "directory": {"url": "http://crowd.example.org", "application": "crowdsync"},
            "sources": {"acme": {"kind": "scim", "url": "https://idp.example.org", "events": events}},
        }
    )
    return Tokens("acme", settings.source("acme"), store, "crowd", "event tokens:crowd:acme")


def publish(file: str, *keys: Any) -> None:
    Path(file).write_text(json.dumps({"keys": keys}), encoding="utf-8")


def waiting(store: Store) -> list[tuple[str, str, str]]:
    rows = store.inbox(limit=100)[["kind", "key", "via"]]
    return sorted(rows.itertuples(index=False, name=None))


async def test_what_is_proved_is_kept_and_then_acknowledged(
    tokens: Tokens, transmitter: Transmitter, store: Store
) -> None:
    for number in range(5):
        transmitter.add(f"jti-{number}", f"u{number}")
    transmitter.add(
        "signed-in", "u9", events={"https://schemas.openid.net/secevent/caep/event-type/session-established": {}}
    )
    transmitter.add("other", "u8", events={"https://example.org/something-else": {}})
    await tokens.once()
    assert waiting(store) == [*(("user", f"u{number}", "event") for number in range(5)), ("user", "u9", "sign-in")]
    assert sorted(transmitter.acknowledged) == ["jti-0", "jti-1", "jti-2", "jti-3", "jti-4", "other", "signed-in"]
    assert not transmitter.tokens
    assert not transmitter.refused
    assert transmitter.asked[0] == {"maxEvents": 100, "returnImmediately": True}
    transmitter.add("jti-0", "u0")  # it was not heard that it was taken
    store.settle(store.inbox()["id"].tolist(), "done", "", datetime.now(UTC))
    await tokens.once()
    assert waiting(store) == []
    assert transmitter.acknowledged[-1] == "jti-0"
    await tokens.aclose()


async def test_what_is_not_proved_is_refused_and_the_others_are_taken(
    tokens: Tokens, transmitter: Transmitter, store: Store
) -> None:
    transmitter.add("good")
    transmitter.add("elsewhere", aud="https://elsewhere.example.org")
    transmitter.add("foreign", iss="https://other.example.org")
    transmitter.tokens["nonsense"] = "no token"
    now = int(datetime.now(UTC).timestamp())
    transmitter.tokens["forged"] = signed(set_claims(iat=now), "stranger", kid="rsa").decode()
    await tokens.once()
    assert waiting(store) == [("user", "good", "event")]
    assert {key: why["err"] for key, why in transmitter.refused.items()} == {
        "elsewhere": "invalid_audience",
        "foreign": "invalid_issuer",
        "nonsense": "invalid_request",
        "forged": "invalid_key",
    }
    assert transmitter.acknowledged == ["good"]
    await tokens.aclose()


async def test_a_token_under_a_new_key_waits_until_the_key_is_known(
    tokens: Tokens, transmitter: Transmitter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    transmitter.add("new", by="stranger")
    transmitter.add("good")
    await tokens.once()
    assert waiting(store) == [("user", "good", "event")]
    assert list(transmitter.tokens) == ["new"]
    assert not transmitter.refused
    assert tokens.settings.events is not None
    publish(tokens.settings.events.jwks_file, *JWKS["keys"], jwk("stranger"))
    await tokens.once()
    assert ("user", "new", "event") in waiting(store)
    transmitter.add("never", by="weak")
    await tokens.once()
    monkeypatch.setattr(polling, "PATIENCE", timedelta(seconds=-1))
    await tokens.once()
    assert transmitter.refused["never"]["err"] == "invalid_key"
    await tokens.aclose()


async def test_nothing_is_acknowledged_that_cannot_be_kept(
    tokens: Tokens, transmitter: Transmitter, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    transmitter.add("good")

    def away(_: Any) -> list[int]:
        raise RetryableError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store, "accept_all", away)
        with pytest.raises(RetryableError):
            await tokens.once()
    assert list(transmitter.tokens) == ["good"]
    await tokens.once()
    assert transmitter.acknowledged == ["good"]
    await tokens.aclose()


async def test_what_is_wrong_with_the_other_side_is_said(
    tokens: Tokens, transmitter: Transmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for status, error in ((404, ConfigurationError), (204, IncompleteError), (401, AuthenticationError)):
        transmitter.status = status
        with pytest.raises(error, match=r"sources\.acme\.events\.poll_url"):
            await tokens.once()
    await tokens.aclose()
    monkeypatch.setenv("CROWDSYNC_EVENTS_TOKEN", "")
    with pytest.raises(ConfigurationError, match="CROWDSYNC_EVENTS_TOKEN"):
        await Tokens("acme", tokens.settings, tokens.store, "crowd", "x").once()
