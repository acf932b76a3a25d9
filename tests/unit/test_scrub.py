"""What the other side says in an error: no e-mail address, no secret, nothing that a terminal obeys; short."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.contract import Scope
from connectors.crowd import Crowd
from connectors.errors import CrowdsyncError, RecordError, RetryableError, visible, without_emails
from connectors.http import Http, scrubbed
from connectors.idp import SOURCES
from tests.support.scripted import answer, serving

HOSTILE = "no user Ann.Bell+x@corp.example \x1b[2J\u202egnp\r\n\x00 'bob%40corp.example' " + "long " * 400
TOKEN = "t0ken-s3cret"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ann.b+c@corp.example is gone", "***@corp.example is gone"),
        ("<ann@x.example>,mailto:bob@y.example;k=c@z", "<***@x.example>,mailto:***@y.example;k=***@z"),
        ("/users/ann%40corp.example?x", "/users/***%40corp.example?x"),
        ("Ünï@bücher.example", "***@bücher.example"),
        ("ann_corp.example#EXT#@t.example", "***@t.example"),
        ("two\r\nlines\tand \x1b[31mred\u202e \U000e0041", "two lines and \\u001b[31mred\\u202e \\U000e0041"),
        ("\ud800 half", "\\ud800 half"),
        ("@ alone, x@ and @y", "@ alone, x@ and @y"),
        ("x" * 500, "x" * 200 + "…"),
        ("", ""),
    ],
)
def test_what_is_said_is_one_harmless_line(said: str, shown: str) -> None:
    assert scrubbed(said) == shown


def test_every_error_is_a_line_that_nothing_obeys() -> None:
    for kind in (CrowdsyncError, RetryableError, RecordError):
        assert str(kind("a\x1b[2Jb\u202ec\nd /users/ann%40x.example: 404")) == (
            "a\\u001b[2Jb\\u202ec d /users/***%40x.example: 404"
        )
    assert str(RecordError("link 'ann@x.example' by hand")) == "link 'ann@x.example' by hand"  # (our own words)


@pytest.mark.parametrize("said", ["a" * 10**6, "a@" * 10**5, "a%40" * 10**5, "@" * 10**6, "%40" * 10**5])
def test_it_takes_no_long_time(said: str) -> None:
    start = time.perf_counter()
    without_emails(said)
    visible(said)
    assert time.perf_counter() - start < 2


def key() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem.decode()


def settings_of(kind: str, url: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The least that a source of this kind must be told, and its secrets."""
    more: dict[str, dict[str, Any]] = {
        "entra": {"login_url": url, "tenant": "t", "client_id": "c"},
        "keycloak": {"realm": "r", "client_id": "c"},
        "google": {"token_url": url, "subject": "admin@corp.example"},
        "onelogin": {"client_id": "c"},
        "idcs": {"client_id": "c"},
    }
    secrets = {"token": TOKEN, "client_secret": "s3cret"}
    if kind == "google":
        file = {"type": "service_account", "client_email": "c@p.example", "private_key": key(), "private_key_id": "1"}
        secrets["private_key"] = orjson.dumps(file).decode()
    return {"kind": kind, "url": url, **more.get(kind, {})}, secrets


BODY = {
    **dict.fromkeys(("errorCode", "errorSummary", "scimType", "detail", "error_description"), f"{TOKEN} {HOSTILE}"),
    "error": {"code": HOSTILE, "message": f"{TOKEN} {HOSTILE}", "errors": [{"reason": HOSTILE}]},
    "status": {"message": f"{TOKEN} {HOSTILE}"},
    "urn:ietf:params:scim:api:oracle:idcs:extension:messages:Error": {"messageId": HOSTILE},
    "message": HOSTILE,
    "reason": HOSTILE,
}


def harmless(error: BaseException) -> None:
    told = str(error)
    assert told.isprintable(), told
    assert "Ann.Bell" not in told
    assert "bob%40" not in told
    assert TOKEN not in told
    assert "s3cret" not in told
    assert len(told) < 1500, len(told)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
@pytest.mark.parametrize("kind", sorted({*SOURCES} - {"push"}))  # (which asks nobody)
async def test_no_source_repeats_what_it_was_told(kind: str, status: int) -> None:
    token = answer(200, orjson.dumps({"access_token": TOKEN, "expires_in": 300}))
    for body in (BODY, {**BODY, "error": f"{TOKEN} {HOSTILE}"}, [HOSTILE], HOSTILE):
        failure = answer(status, orjson.dumps(body))
        by_login = kind in ("entra", "google", "idcs", "keycloak", "onelogin")
        async with serving(*([token] if by_login else []), failure) as server:
            said, secrets = settings_of(kind, server.url)
            source = SOURCES[kind].open("acme", SOURCES[kind].settings.model_validate(said), secrets)
            with pytest.raises(CrowdsyncError) as caught:
                await source.check()
            harmless(caught.value)
            assert len(server.requests) >= 1
            for client in source.clients:
                await client.aclose()


@pytest.mark.parametrize("kind", ["entra", "google", "idcs", "keycloak", "onelogin"])
async def test_no_token_endpoint_is_repeated_either(kind: str) -> None:
    said = HOSTILE if kind == "google" else f"s3cret {HOSTILE}"  # (Google's key is never sent)
    refusal = orjson.dumps({"error": said, "error_description": said})
    for body in (b'{"access_token":"' + TOKEN.encode(), refusal):
        for status in (200, 400, 401):
            async with serving(answer(status, body)) as server:
                chosen, secrets = settings_of(kind, server.url)
                source = SOURCES[kind].open("acme", SOURCES[kind].settings.model_validate(chosen), secrets)
                with pytest.raises(CrowdsyncError) as caught:
                    await source.check()
                harmless(caught.value)
                for client in source.clients:
                    await client.aclose()


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500])
async def test_crowd_is_not_repeated(status: int) -> None:
    version = f"x-embedded-crowd-version: Crowd/7 {'y' * 500}"
    async with (
        serving(answer(status, orjson.dumps(BODY), version)) as server,
        Http(server.url, name="directory", basic=("app", TOKEN), attempts=1) as http,
    ):
        crowd = Crowd(http)
        for call in (crowd.check(), crowd.user("Ann.Bell@corp.example", Scope())):
            with pytest.raises(CrowdsyncError) as caught:
                await call
            harmless(caught.value)
