"""Access tokens: fetched once for all, anew before they end and after a refusal, and never shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import parse_qs

import jwt
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from connectors.errors import AuthenticationError, ConfigurationError, IncompleteError, RetryableError
from connectors.http import Http
from connectors.oauth import JWT_BEARER, Tokens, assertion, private_key, with_assertion, with_secret
from tests.support.scripted import CLOSE, answer, serving

SECRET = "cl13nt-s3cret"


def token(value: str, expires: object = 3600) -> bytes:
    return answer(200, orjson.dumps({"access_token": value, "token_type": "Bearer", "expires_in": expires}))


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tokens(http: Http, clock: Clock | None = None) -> Tokens:
    return Tokens(http, "/token", with_secret("me", SECRET, scope="a b"), advice="Do this.", now=clock or Clock())


async def test_one_token_for_all_callers() -> None:
    async with serving(token("t1"), token("t2")) as server, Http(server.url, name="s") as http:
        given = tokens(http)
        assert set(await asyncio.gather(*(given() for _ in range(20)))) == {"t1"}
        assert len(server.requests) == 1
        body = parse_qs(server.requests[0].partition(b"\r\n\r\n")[2].decode())
        assert body == {
            "grant_type": ["client_credentials"], "client_id": ["me"], "client_secret": [SECRET], "scope": ["a b"]
        }  # fmt: skip


@pytest.mark.parametrize(
    ("lasts", "kept", "renewed"), [(3600, 3539, 3541), (60, 47, 49), ("x", 239, 241), (0, 239, 241)]
)
async def test_it_is_renewed_before_it_ends(lasts: object, kept: float, renewed: float) -> None:
    clock = Clock()
    async with serving(token("t1", lasts), token("t2")) as server, Http(server.url, name="s") as http:
        given = tokens(http, clock)
        await given()
        clock.now = 100 + kept
        assert await given() == "t1"
        clock.now = 100 + renewed
        assert await given() == "t2"


async def test_a_refused_token_is_replaced_but_not_the_one_after_it() -> None:
    async with serving(token("t1"), token("t2")) as server, Http(server.url, name="s") as http:
        given = tokens(http)
        await given()
        assert given.refused("t1")
        assert await given() == "t2"
        given.refused("t1")  # an answer that came late
        assert await given() == "t2"


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_refused_credentials_are_told_with_the_way_out(status: int) -> None:
    said = orjson.dumps({"error": "invalid_client", "error_description": f"no such\nclient {SECRET}"})
    async with serving(answer(status, said)) as server, Http(server.url, name="s") as http:
        with pytest.raises(AuthenticationError) as refused:
            await tokens(http)()
        message = str(refused.value)
        assert "invalid_client no such client" in message
        assert message.endswith("Do this.")
        assert SECRET not in message
        assert "\n" not in message


async def test_a_page_that_is_no_token_endpoint() -> None:
    for body in (b"<html>", b"[]", b"{}", b'{"access_token":""}', b'{"access_token":7}'):
        async with serving(answer(200, body)) as server, Http(server.url, name="s") as http:
            with pytest.raises(IncompleteError, match="without an access token"):
                await tokens(http)()


async def test_a_token_endpoint_that_has_no_time_is_asked_again() -> None:
    async with serving(answer(503), CLOSE, token("t1")) as server, Http(server.url, name="s") as http:
        assert await tokens(http)() == "t1"
        assert len(server.requests) == 3
    async with serving(answer(500)) as server, Http(server.url, name="s", attempts=2) as http:
        with pytest.raises(RetryableError):
            await tokens(http)()


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@pytest.mark.parametrize(
    ("key", "algorithm", "named"), [("rsa", "RS256", ""), ("ec", "ES256", ""), ("rsa", "PS256", "PS256")]
)
def test_an_assertion_is_what_the_rfc_wants(key: str, algorithm: str, named: str) -> None:
    private = rsa.generate_private_key(65537, 2048) if key == "rsa" else ec.generate_private_key(ec.SECP256R1())
    sign = assertion(
        pem(private), field="f", audience="https://idp/token", issuer="me", subject="me", headers={"kid": "k"},
        algorithm=named,
    )  # fmt: skip
    one, two = sign(), sign()
    claims = jwt.decode(one, private.public_key(), algorithms=[algorithm], audience="https://idp/token")
    assert (claims["iss"], claims["sub"], claims["exp"] - claims["iat"]) == ("me", "me", 300)
    assert jwt.get_unverified_header(one)["kid"] == "k"
    assert claims["jti"] != jwt.decode(two, options={"verify_signature": False})["jti"]
    form = with_assertion("me", sign, scope="s")()
    assert (form["client_assertion_type"], form["scope"]) == (JWT_BEARER, "s")


@pytest.mark.parametrize(
    "spoilt", [lambda k: k.replace("\n", " "), lambda k: k.replace("\n", "\\n"), lambda k: f"\n {k}\n"]
)
def test_a_key_survives_a_form_of_one_line(spoilt: Callable[[str], str]) -> None:
    key = rsa.generate_private_key(65537, 2048)
    assert private_key(spoilt(pem(key)), "f").private_numbers() == key.private_numbers()


@pytest.mark.parametrize("text", ["", "secret", pem(ed25519.Ed25519PrivateKey.generate())])
def test_a_key_that_cannot_be_used_is_named_but_not_shown(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"sources\.a\.private_key") as wrong:
        assertion(text, field="sources.a.private_key", audience="", issuer="", subject="", headers={})
    assert not text or text not in str(wrong.value)
