"""Deliveries that were tampered with: none is believed, and none brings out anything but the two errors.

CROWDSYNC_MUTATIONS says how many (10,000): `CROWDSYNC_MUTATIONS=100000 pytest tests/unit/test_hooks_mutated.py`.
"""

from __future__ import annotations

import json
import os
import random
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.hook import Accepted, Delivery, MalformedError, NotVerifiedError, key_of
from tests.support.deliveries import (
    OTHER,
    SECRET,
    SENDERS,
    TOKENS,
    Sender,
    entra,
    entra_item,
    posted,
    pushed,
    set_claims,
    signed,
)

TOKEN = Sender("tokens", TOKENS, None, lambda *_: pushed(signed(set_claims())), signs=True)
ALL = pytest.mark.parametrize("sender", [*SENDERS, TOKEN], ids=lambda one: one.name)
EACH = int(os.environ.get("CROWDSYNC_MUTATIONS", "10000")) // (len(SENDERS) + 1)

BYTES = (
    b"",
    b"\0",
    b"\xff",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"0",
    b"-",
    b"e9",
    b"\\u0000",
    b"\\ud800",
    b".",
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2**63, 2**70, 1.5, 1e308, "", "x", "\0", "..", "a\nb", "é", "x" * 300, [], {}, [[]]),
    *([None] * 3, [{}] * 3, {"": None}, {"id": {"id": []}}, ["User"], {"type": "User", "id": "u"}),
)
TEXTS = (
    "",
    " ",
    "x",
    "\0",
    "\n",
    "é",
    "\ud800",
    "Bearer ",
    "Basic ",
    "v1,",
    "sha256=",
    ",",
    " v1,AAAA",
    "=",
    "0",
    "x" * 5000,
)


def bytes_mutated(body: bytes, by: random.Random) -> bytes:
    """A byte turned, a piece put in, taken out or doubled, or the end cut off."""
    start = by.randrange(len(body) + 1)
    end = min(len(body), start + by.choice((1, 1, 2, 8, 64)))
    piece = body[start:end]
    return by.choice(
        (
            body[:start] + bytes(one ^ 1 << by.randrange(8) for one in piece) + body[end:],
            body[:start] + by.choice(BYTES) + body[start:],
            body[:start] + by.choice(BYTES) + body[end:],
            body[:start] + piece + body[start:],
            body[:start],
            body[end:] + body[:start],
        )
    )


def value_mutated(value: Any, by: random.Random) -> Any:
    """JSON of which one value is another one, is gone, or stands under another key."""
    if isinstance(value, dict) and value and by.random() < 0.8:
        key = by.choice(list(value))
        changed = {**value, key: value_mutated(value[key], by)}
        if by.random() < 0.1:
            changed[by.choice(list(value))] = changed.pop(key)
        return changed
    if isinstance(value, list) and value and by.random() < 0.8:
        at = by.randrange(len(value))
        return [*value[:at], value_mutated(value[at], by), *value[at + by.randrange(2) :]]
    if isinstance(value, str) and value and by.random() < 0.3:
        return text_mutated(value, by)
    return by.choice(VALUES)


def text_mutated(text: str, by: random.Random) -> str:
    start = by.randrange(len(text) + 1)
    end = start + by.choice((0, 1, 1, 4))
    return by.choice(
        (
            text[:start] + by.choice(TEXTS) + text[end:],
            text[:start] + text[start:end].swapcase() + text[end:],
            text[:start],
            text[end:],
            text + text,
        )
    )


def headers_mutated(headers: Mapping[str, str], by: random.Random) -> dict[str, str]:
    """One header with another text, without it, or with that of another."""
    name = by.choice(list(headers))
    changed = dict(headers)
    if by.random() < 0.2:
        del changed[name]
    elif by.random() < 0.2:
        changed[name] = headers[by.choice(list(headers))]
    else:
        changed[name] = text_mutated(headers[name], by)
    return changed


def mutated(delivery: Delivery, by: random.Random) -> Delivery:
    what = by.random()
    if what < 0.35:
        return replace(delivery, body=bytes_mutated(delivery.body, by))
    if what < 0.7 and delivery.body[:1] in (b"{", b"["):
        return replace(delivery, body=json.dumps(value_mutated(json.loads(delivery.body), by)).encode())
    if what < 0.95:
        return replace(delivery, headers=headers_mutated(delivery.headers, by))
    return replace(delivery, method=by.choice(("GET", "HEAD", "PUT", "")), query={"validationToken": by.choice(TEXTS)})


def outcome(sender: Sender, delivery: Delivery) -> Accepted | None:
    """What comes of it; None is one of the two errors, and any other error fails the test."""
    try:
        found = sender.received(delivery)
    except (MalformedError, NotVerifiedError):
        return None
    assert all(key_of(one.key) or one.kind == "everybody" for one in found.news)
    assert found.delivery == "" or key_of(found.delivery)
    assert found.answer.status in (200, 202, 204)
    assert not found.confirm
    return found


PROOFS = ("authorization", "x-goog-channel-token", "x-keycloak-signature", "webhook-id", "webhook-timestamp")
"""Headers that prove. Of `webhook-signature` any one of several may fit."""


def proofs(delivery: Delivery) -> list[str]:
    """What proves a delivery: of Basic authentication the password, of a bearer the token."""
    found = [delivery.headers.get(name, "") for name in PROOFS]
    scheme, _, rest = found[0].partition(" ")
    if scheme.lower() == "bearer":
        found[0] = rest
    elif scheme.lower() == "basic":
        found[0] = b64decode(rest).decode("latin-1").partition(":")[2]
    return found


@ALL
def test_nothing_that_was_tampered_with_is_believed(sender: Sender) -> None:
    by = random.Random(f"tampered {sender.name}")
    genuine = sender.send(sender.body)
    whole = outcome(sender, genuine)
    assert whole
    assert whole.news
    believed = 0
    for _ in range(EACH):
        given = mutated(genuine, by)
        found = outcome(sender, given)
        if found is None or (found.answer.status == 200 and given.method == "GET"):
            continue
        believed += 1
        assert proofs(given) == proofs(genuine)
        if sender.signs:
            assert given.body.strip() == genuine.body.strip()
            assert found == whole
    assert believed < EACH, "mutations change something"


HOW: dict[str, Callable[[str], str]] = {
    "shorter": lambda one: one[:-1],
    "longer": lambda one: one + "A",
    "blank": lambda one: f" {one}",
    "other case": str.swapcase,
    "one letter": lambda one: "a" + one[1:],
    "twice": lambda one: one * 2,
    "empty": lambda _: "",
    "another": lambda _: OTHER,
    "half a letter": lambda one: one + "\ud800",
    "NUL": lambda one: one + "\0",
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_entra_a_state_that_was_tampered_with_names_nobody(how: Callable[[str], str]) -> None:
    (sender,) = (one for one in SENDERS if one.name == "entra")
    found = outcome(sender, sender.send(entra(entra_item(clientState=how(SECRET)), entra_item("Group", "g1"))))
    if found:  # half a letter cannot be read at all
        assert [one.key for one in found.news] == ["g1"]
        assert found.dropped == 1


def test_entra_only_items_whose_state_is_whole_name_anybody() -> None:
    (sender,) = (one for one in SENDERS if one.name == "entra")
    by = random.Random("states")
    for _ in range(EACH):
        body = value_mutated(entra(*(entra_item(key=f"e{n}") for n in range(3))), by)
        items = body.get("value") if isinstance(body, dict) else None
        states = [one.get("clientState") for one in items or [] if isinstance(one, dict)] if type(items) is list else []
        found = outcome(sender, posted(body))
        assert len(found.news if found else ()) <= states.count(SECRET)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=8), below, max_size=4),
    max_leaves=12,
)
KEYS = sorted(
    {
        *(
            "data",
            "events",
            "value",
            "target",
            "actor",
            "outcome",
            "result",
            "type",
            "id",
            "eventType",
            "eventId",
            "uuid",
        ),
        *(
            "clientState",
            "resource",
            "resourceData",
            "@odata.type",
            "lifecycleEvent",
            "event_type_id",
            "user_id",
            "role_id",
        ),
        *(
            "resourcePath",
            "representation",
            "authDetails",
            "details",
            "userId",
            "realmName",
            "uid",
            "kind",
            "primaryEmail",
        ),
        *(
            "user",
            "users",
            "group",
            "groups",
            "format",
            "uri",
            "sub_id",
            "identifiers",
            "iss",
            "aud",
            "iat",
            "exp",
            "jti",
        ),
    }
)
TELLING = (
    "User",
    "UserGroup",
    "user.session.start",
    "group.user_membership.add",
    SECRET,
    "users/k1",
    "LOGIN",
    "SUCCESS",
)
likely = st.recursive(
    st.sampled_from(TELLING) | st.sampled_from(VALUES),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(KEYS), below, max_size=6),
    max_leaves=20,
)


@ALL
@given(body=values | likely)
@settings(max_examples=max(40, EACH // 20), deadline=None)
def test_whatever_is_sent_by_the_right_sender_is_accepted_or_refused(sender: Sender, body: Any) -> None:
    text = json.dumps(body).encode()
    if sender is TOKEN:
        outcome(sender, pushed(signed(text)))
        likely_claims = {**set_claims(), **(body if isinstance(body, dict) else {"sub_id": body})}
        outcome(sender, pushed(signed(likely_claims)))
    elif sender.name == "entra":
        outcome(sender, posted(text))
        outcome(sender, sender.send(entra({**entra_item(), **body} if isinstance(body, dict) else body)))
    else:
        outcome(sender, sender.send(text))


@ALL
@given(
    method=st.sampled_from(("GET", "POST")) | st.text(max_size=5),
    query=st.dictionaries(st.text(max_size=3) | st.just("validationToken"), st.text(max_size=20), max_size=2),
    headers=st.dictionaries(
        st.sampled_from(
            (*PROOFS, "webhook-signature", "content-type", "x-okta-verification-challenge", "x-goog-resource-state")
        ),
        st.text(max_size=20)
        | st.sampled_from(("application/secevent+jwt", "Basic eDp5", "1767261600", "sync", "\ud800")),
    ),
    body=st.binary(max_size=60),
)
@settings(max_examples=max(40, EACH // 20), deadline=None)
def test_whatever_a_stranger_sends_names_nobody(
    sender: Sender, method: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    found = outcome(sender, Delivery(method, "/webhooks/acme", query, headers, body))
    assert not found or not found.news
