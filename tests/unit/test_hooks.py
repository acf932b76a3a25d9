"""What holds for every hook: who is let in, whom it names, and that nothing but its two errors comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.errors import ConfigurationError
from connectors.hook import (
    MOST_NEWS,
    Answer,
    Delivery,
    Hook,
    MalformedError,
    News,
    NotVerifiedError,
    accepted,
    id_of,
    key_of,
)
from connectors.hooks import HOOKS, events_of, hook_of, webhook_secrets
from connectors.hooks.events import EventTokens
from connectors.idp import SOURCES
from connectors.idp.keycloak import KeycloakSettings
from connectors.idp.okta import OktaSettings
from connectors.idp.scim import ScimSettings
from connectors.settings import load
from connectors.source import SourceSettings
from tests.support.deliveries import (
    BY_NAME,
    JWKS,
    NOW,
    OTHER,
    SECRET,
    SENDERS,
    Sender,
    keycloak_event,
    with_hmac,
)

ALL = pytest.mark.parametrize("sender", SENDERS, ids=lambda one: one.name)


def test_every_kind_of_source_has_a_hook_and_a_sender_here() -> None:
    assert set(HOOKS) >= set(SOURCES) - {"push"}  # (what it sends is no hint)
    assert {type(one.hook) for one in SENDERS} == set(HOOKS.values())
    assert all(isinstance(one.hook, Hook) for one in SENDERS)


@ALL
def test_what_is_sent_names_somebody(sender: Sender) -> None:
    found = sender.received()
    assert found.news
    assert found.delivery
    assert found.answer.status // 100 == 2
    assert not found.dropped
    assert found == sender.received(), "the same delivery has the same id when it comes again"


@ALL
@pytest.mark.parametrize("secrets", [(), ("",), (OTHER,), ("", OTHER)], ids=["none", "empty", "another", "one empty"])
def test_without_the_secret_nobody_is_named(sender: Sender, secrets: tuple[str, ...]) -> None:
    for given in (sender.send(sender.body), sender.send(sender.body, "")):
        if sender.name == "entra" and any(secrets):  # as Graph asks: left out, and answered 202
            found = sender.received(given, secrets)
            assert (found.news, found.dropped, found.answer) == ((), 2, Answer(202))
            continue
        with pytest.raises(NotVerifiedError) as caught:
            sender.received(given, secrets)
        assert caught.value.answer == Answer(401)


@ALL
def test_either_of_two_secrets_fits(sender: Sender) -> None:
    assert sender.received(secrets=(SECRET, OTHER)).news == sender.received(secrets=(OTHER, SECRET)).news
    assert sender.received(sender.send(sender.body, OTHER), (SECRET, OTHER)).news == sender.received().news


@ALL
def test_headers_that_are_missing_prove_nothing(sender: Sender) -> None:
    bare = replace(sender.send(sender.body), headers={})
    with pytest.raises(NotVerifiedError):  # an empty secret is none
        sender.received(bare, secrets=("",))
    if sender.name == "entra":
        bare = replace(bare, body=bare.body.replace(b'"clientState"', b'"ClientState"'))
        assert sender.received(bare).news == ()
        return
    with pytest.raises(NotVerifiedError):
        sender.received(bare)


@ALL
@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "", "post"])
def test_another_method_is_refused(sender: Sender, method: str) -> None:
    with pytest.raises(MalformedError):
        sender.received(replace(sender.send(sender.body), method=method))


HOSTILE = {
    "nothing": b"",
    "blank": b" \n",
    "no JSON": b"{",
    "HTML": b"<html>",
    "no text": b"\xff\xfe{",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep": b"[" * 100_000,
    "deep and whole": b"[" * 600 + b"]" * 600,
    "a key twice": b'{"data": {"user": "u1", "user": "u2"}, "value": [], "value": [], "id": "1", "id": "2"}',
    "not a number": b'{"data": NaN}',
    "a long number": b"9" * 5000,
    "half a letter": b'{"data": {"user": "\\ud800"}}',
    "null": b"null",
    "true": b"true",
    "text": b'"text"',
    "number": b"1",
    "list": b"[]",
    "object": b"{}",
    "lists": b'{"data": [], "value": {}, "type": [], "events": 1, "eventType": {}, "target": 1}',
    "items": b'[null, 1, "a", [], {}, {"event_type_id": {}}, {"event_type_id": 5}]',
}


@ALL
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_a_body_that_makes_no_sense_names_nobody(sender: Sender, body: bytes) -> None:
    """With the right secret: refused as malformed, or answered without news of anybody that it could name."""
    if sender.name == "entra":
        given = sender.send({})
        given = replace(given, body=body)
    else:
        given = sender.send(body)
    try:
        found = sender.received(given)
    except MalformedError:
        return
    except NotVerifiedError:
        pytest.fail("the secret was right")
    assert not [one for one in found.news if one.kind != "everybody"]
    if found.news:
        assert sender.name == "google", "only Google tells by headers alone"


@ALL
def test_nobody_is_shown(sender: Sender) -> None:
    delivery = sender.send(sender.body)
    assert SECRET not in repr(delivery)
    for text in ("ann@", "00u1", "Ann"):
        assert text not in repr(delivery)
    assert not [one for one in sender.received().news if one.key and one.key in repr(sender.received().news)]


# --- the values --------------------------------------------------------------------------------


def user(key: str, via: Any = "webhook") -> News:
    return News("user", key, via)


def test_each_person_is_named_once_and_a_sign_in_is_not_forgotten() -> None:
    given = [
        user("1", "sign-in"),
        user("2"),
        user("1"),
        None,
        user("2", "sign-in"),
        user("2"),
        News("group", "1", "webhook"),
    ]
    found = accepted(given, "d", Answer(204), dropped=2)
    assert found.news == (user("1", "both"), user("2", "both"), News("group", "1", "webhook"))
    assert found.dropped == 3


def test_very_many_are_everybody() -> None:
    assert len(accepted((user(str(n)) for n in range(MOST_NEWS)), "", Answer(204)).news) == MOST_NEWS
    found = accepted((user(str(n)) for n in range(MOST_NEWS + 1)), "", Answer(204))
    assert found.news == (News("everybody", "", "webhook"),)


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "a\0b", "a\nb", "\x7f", "\x85", "\u2028", "\ud800", "x" * 256, None, 1, True, 1.5, [], {}, b"a"],
    ids=repr,
)
def test_what_is_no_id(value: Any) -> None:
    assert key_of(value) == ""


@pytest.mark.parametrize("value", ["a", "x" * 255, "ann@example.org", "f:1:ann", "a/b", "…", "é", "ann lee", "0"])
def test_what_is_an_id(value: str) -> None:
    assert key_of(value) == value


def test_the_id_of_a_delivery() -> None:
    assert id_of("a") == "a"
    assert id_of() == id_of("a", "") == id_of(None) == id_of("a", 1) == ""
    assert len(id_of("a", "b")) == len(id_of("x" * 256)) == len(id_of("a\0b")) == 64
    assert len({id_of("a", "b"), id_of("ab", "c"), id_of("a", "bc"), id_of("b", "a"), id_of("a\0b")}) == 5


# --- settings ----------------------------------------------------------------------------------

OKTA: dict[str, Any] = {"url": "https://acme.okta.com"}


def settings(**webhook: Any) -> SourceSettings:
    return OktaSettings(**OKTA, webhook=webhook)


def test_the_hook_of_a_source() -> None:
    assert type(hook_of("acme", settings())) is HOOKS["okta"]
    assert type(hook_of("acme", settings(kind="standard"))) is HOOKS["standard"]
    assert type(hook_of("acme", ScimSettings(url="https://idp", webhook={}))) is HOOKS["standard"]
    with pytest.raises(ConfigurationError, match=r"^sources\.acme\.webhook: is missing"):
        hook_of("acme", OktaSettings(**OKTA))


def test_a_realm_hears_only_of_itself() -> None:
    of = KeycloakSettings(url="https://idp", realm="demo", client_id="c", webhook={})
    hook = hook_of("acme", of)
    assert hook.verify(with_hmac(keycloak_event()), (SECRET,), NOW).news == (user("k1"),)
    other = hook.verify(with_hmac(keycloak_event(realmName="master")), (SECRET,), NOW)
    assert (other.news, other.dropped, other.answer.status) == ((), 0, 204)
    assert BY_NAME["keycloak"].received(with_hmac(keycloak_event(realmName="master"))).news == (user("k1"),)


def test_secrets_from_the_environment_and_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CROWDSYNC_WEBHOOK_SECRET", f"{SECRET} {OTHER}")
    assert webhook_secrets("acme", settings()) == (SECRET, OTHER)
    (tmp_path / "secret").write_text(f"{SECRET}\n{OTHER}\n")
    assert webhook_secrets("acme", settings(secret_file=str(tmp_path / "secret"))) == (SECRET, OTHER)
    assert webhook_secrets("acme", OktaSettings(**OKTA)) == ()


@pytest.mark.parametrize(
    ("text", "webhook", "wrong"),
    [
        ("", {}, r"secret_env: the environment variable CROWDSYNC_WEBHOOK_SECRET is not set"),
        (" \n ", {}, r"secret_env: holds 0 secrets"),
        ("x" * 15, {}, r"secret_env: a secret has 16 to 128 "),
        ("x" * 129, {}, r"secret_env: a secret has 16 to 128 "),
        ("é" * 20, {}, r"secret_env: a secret has 16 to 128 "),
        (" ".join([SECRET] * 3), {}, r"secret_env: holds 3 secrets"),
        ("not base64, this one", {"kind": "standard"}, r"secret_env: holds 4 secrets"),
        ("not-base64-this-one", {"kind": "standard"}, r"secret_env: a secret of Standard Webhooks is base64"),
        ("", {"secret_file": "/nowhere"}, r"secret_file: /nowhere cannot be read"),
    ],
)
def test_a_secret_that_will_not_do_names_its_field(
    text: str, webhook: dict[str, str], wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROWDSYNC_WEBHOOK_SECRET", text)
    with pytest.raises(ConfigurationError, match=r"^sources\.acme\.webhook\." + wrong) as caught:
        webhook_secrets("acme", settings(**webhook))
    assert not text.strip() or text.strip() not in str(caught.value)


EVENTS = {"issuer": "https://idp", "audience": "us", "jwks_url": "https://idp/keys"}


def test_the_hook_of_security_event_tokens() -> None:
    found = events_of("acme", OktaSettings(**OKTA, events=EVENTS), JWKS)
    assert found == EventTokens("https://idp", "us", JWKS)
    wrong: tuple[Any, ...] = (None, [], {}, {"keys": {}})
    for keys in wrong:
        with pytest.raises(ConfigurationError, match=r"^sources\.acme\.events: what jwks_url .* is no JWKS"):
            events_of("acme", OktaSettings(**OKTA, events=EVENTS), keys)
    with pytest.raises(ConfigurationError, match=r"^sources\.acme\.events: is missing"):
        events_of("acme", OktaSettings(**OKTA), JWKS)


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ('[sources.acme.events]\nissuer = "i"\naudience = "a"', "sources.acme.events: name the issuer's public keys"),
        (
            '[sources.acme.events]\nissuer = "i"\naudience = "a"\njwks_url = "https://i/k"\njwks_file = "k"',
            "sources.acme.events: name the issuer's public keys by one of",
        ),
        ('[sources.acme.events]\nissuer = "i"\njwks_file = "k"', "sources.acme.events.audience: is missing"),
        ('[sources.acme.events]\nissuer = ""\naudience = "a"\njwks_file = "k"', "sources.acme.events.issuer: "),
        (
            '[sources.acme.events]\nissuer = "i"\naudience = "a"\njwks_url = "http://i/k"',
            "sources.acme.events.jwks_url: ",
        ),
        ('[sources.acme.webhook]\nsecret = "x"', "sources.acme.webhook.secret: a secret never stands in this file"),
        ('[sources.acme.webhook]\nkind = "okta"', "sources.acme.webhook.kind: "),
    ],
)
def test_a_setting_that_will_not_do_is_named(more: str, wrong: str, tmp_path: Path) -> None:
    file = tmp_path / "crowdsync.toml"
    base = '[directory]\nurl = "https://c"\napplication = "a"\n[sources.acme]\nkind = "okta"\nurl = "https://acme.okta.com"\n'
    file.write_text(base + more)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert wrong in str(caught.value)


def test_an_error_shows_no_text_of_the_body_and_is_a_400() -> None:
    body = json.dumps({"data": {"events": "ann.secret@corp.example"}}).encode()
    with pytest.raises(MalformedError) as caught:
        BY_NAME["okta"].received(BY_NAME["okta"].send(body))
    assert "secret" not in str(caught.value)
    assert caught.value.answer == Answer(400)


def test_a_delivery_is_a_value() -> None:
    assert Delivery("POST", "/", {}, {}, b"") == Delivery("POST", "/", {}, {}, b"")
