"""Security event tokens: RFC 8417, pushed by RFC 8935, with the events of SCIM (RFC 9967), CAEP and RISC.

A token is proved by a key of its issuer, who is known beforehand, as are the audience and the keys: a JWKS that the
caller has read. Only signatures with public keys are taken. A token needs no end, for it tells what happened; one that
has an end all the same is not taken after it. Its `jti` tells it apart. `txn` does not: several tokens of one
transaction may be about several people.

The answers are those of RFC 8935: 202, or 400 with `err`. Of a token that is not proved they say no more than that.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import unquote

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWK, PyJWS
from jwt.exceptions import PyJWTError

from connectors.hook import (
    Accepted,
    Answer,
    Delivery,
    MalformedError,
    News,
    NotVerifiedError,
    Via,
    accepted,
    at,
    id_of,
    json_of,
    named,
    posted,
)

_ALGORITHMS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("RSA", ""): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""Key type and curve → the signatures that a key may make. Secrets that are shared (`oct`) make none."""
_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_AHEAD: Final = 300
"""Seconds that the clock of an issuer may be ahead of ours."""
_MOST_ALIASES: Final = 20
_SCIM: Final = ("urn:ietf:params:scim:event:prov:", "urn:ietf:params:scim:event:feed:")
_SIGNALS: Final[Mapping[str, Via]] = {
    "caep/event-type/session-revoked": "event",
    "caep/event-type/credential-change": "event",
    "caep/event-type/session-established": "sign-in",
    "caep/event-type/session-presented": "sign-in",
    "risc/event-type/account-disabled": "event",
    "risc/event-type/account-enabled": "event",
    "risc/event-type/account-purged": "event",
    "risc/event-type/identifier-changed": "event",
    "risc/event-type/identifier-recycled": "event",
}
_OPENID: Final = "https://schemas.openid.net/secevent/"

Who = tuple[Literal["user", "group"], Any]


class UnknownKeyError(NotVerifiedError):
    """No key of the JWKS has the id that the token names: perhaps the issuer has a new one, and the JWKS is old."""


@dataclass(frozen=True, slots=True)
class EventTokens:
    """A `Hook` of one issuer. `keys` is its JWKS (RFC 7517) as read from JSON; `secrets` are not looked at."""

    issuer: str
    audience: str
    keys: Mapping[str, Any] = field(repr=False)

    def verify(self, delivery: Delivery, secrets: Sequence[str], now: datetime) -> Accepted:  # noqa: ARG002
        """As `Hook.verify`. Raises `UnknownKeyError` besides."""
        posted(delivery)
        if delivery.headers.get("content-type", "").split(";")[0].strip().lower() != "application/secevent+jwt":
            raise _malformed("the content type is not application/secevent+jwt")
        return self.read(delivery.body, now)

    def read(self, token: bytes, now: datetime) -> Accepted:
        """A token, pushed or polled (RFC 8936) → what it says. Raises as `verify`."""
        claims = _claims(_proved(token.strip(), self.keys))
        wrong = self._stranger(claims)
        if wrong:
            raise NotVerifiedError(f"token: {wrong}", _refusal(wrong, "not for this receiver"))
        _in_time(claims, now)
        events = claims.get("events")
        if not isinstance(events, dict) or not all(isinstance(one, dict) for one in events.values()):
            raise _malformed("events is no object of objects")
        news = (one for uri, event in events.items() for one in _news(uri, event, claims, self.issuer))
        return accepted(news, id_of(claims.get("jti")), Answer(202))

    def _stranger(self, claims: dict[str, Any]) -> str:
        """The `err` of a token that another issuer made, or for somebody else; "" for one of ours."""
        if claims.get("iss") != self.issuer:
            return "invalid_issuer"
        audience = claims.get("aud")
        meant = audience if isinstance(audience, list) else [audience]
        return "" if self.audience in meant else "invalid_audience"


def _proved(token: bytes, keys: Mapping[str, Any]) -> bytes:
    """The payload of a token that one of the keys signed."""
    if not _TOKEN.fullmatch(token):
        raise _malformed("is no signed token")
    parts = token.split(b".")
    header, payload, _ = map(_decoded, parts)
    head = _claims(header)
    kind, algorithm, key_id = (head.get(one) for one in ("typ", "alg", "kid"))
    if type(kind) is not str or kind.lower().removeprefix("application/") != "secevent+jwt":
        raise _malformed("typ is not secevent+jwt")
    if type(algorithm) is not str or {"crit", "b64"} & head.keys():
        raise _unproved()
    for key in _fitting(keys, algorithm, key_id):
        try:
            PyJWS().decode_complete(token, PyJWK(key, algorithm), algorithms=[algorithm])
        except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):  # (also of a key that is none)
            continue
        return payload
    raise _unproved()


def _fitting(keys: Mapping[str, Any], algorithm: str, key_id: Any) -> list[dict[str, Any]]:
    """The keys that may have made a signature. Without a key id in the token the JWKS must leave no choice."""
    listed = keys.get("keys")
    known = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    if key_id is not None:
        known = [one for one in known if one.get("kid") == key_id]
        if not known:
            raise UnknownKeyError("token: the issuer has no key with its key id", _unproved().answer)
    found = [one for one in known if _may_sign(one, algorithm)]
    return found if key_id is not None or len(found) == 1 else []


def _may_sign(key: dict[str, Any], algorithm: str) -> bool:
    kind = (str(key.get("kty")), "" if key.get("kty") == "RSA" else str(key.get("crv")))
    return (
        algorithm in _ALGORITHMS.get(kind, ())
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (kind[0] != "RSA" or len(str(key.get("n"))) >= 342)  # 2048 bits in base64
    )


def _decoded(part: bytes) -> bytes:
    """Base64 for addresses, written in the one way that it has."""
    try:
        found = urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:
        found = b""
    if urlsafe_b64encode(found).rstrip(b"=") != part:
        raise _malformed("is no signed token")
    return found


def _claims(text: bytes) -> dict[str, Any]:
    try:
        found = json_of(text)
    except MalformedError:
        found = None
    if not isinstance(found, dict):
        raise _malformed("is no JSON object, or says a key twice")
    return found


def _in_time(claims: dict[str, Any], now: datetime) -> None:
    made, end = claims.get("iat"), claims.get("exp", now.timestamp())
    if not isinstance(made, (int, float)) or not isinstance(end, (int, float)) or bool in (type(made), type(end)):
        raise _malformed("iat is missing, or no number; or exp is none")
    if made > now.timestamp() + _AHEAD:
        raise _malformed("iat lies in the future")
    if end < now.timestamp() - _AHEAD:
        raise _malformed("exp is over")


def _news(uri: str, event: dict[str, Any], claims: dict[str, Any], issuer: str) -> Iterator[News | None]:
    kind = uri.lower()
    via: Via | None = "event" if kind.startswith(_SCIM) else _SIGNALS.get(kind.removeprefix(_OPENID))
    if via is None:
        return
    subject = claims.get("sub_id") or event.get("subject")  # of events before RFC 9493
    if subject is None and "sub" in claims:
        subject = {"format": "iss_sub", "iss": issuer, "sub": claims["sub"]}
    # Several identifiers are one person, by several names: the first that makes sense.
    yield next(filter(None, (named(what, key, via) for what, key in _who(subject, issuer))), None)


def _who(subject: Any, issuer: str) -> Iterator[Who]:
    """Whom a subject identifier (RFC 9493) may name, the surest first."""
    form = _form(subject)
    if form == "aliases":
        listed = subject.get("identifiers")
        for one in listed[:_MOST_ALIASES] if isinstance(listed, list) else ():
            yield from _simply(one, issuer)
    elif form in ("complex", "") and isinstance(subject, dict):
        parts: tuple[Literal["user", "group"], ...] = ("user", "group")
        for what in parts:
            part = subject.get(what)
            yield from ((what, key) for _, key in (_who if _form(part) == "aliases" else _simply)(part, issuer))
    else:
        yield from _simply(subject, issuer)


def _simply(subject: Any, issuer: str) -> Iterator[Who]:
    form = _form(subject)
    if form == "scim":
        yield from _resource(subject)
    elif form == "iss_sub" and subject.get("iss") == issuer:
        yield "user", subject.get("sub")
    elif form == "opaque":
        yield "user", subject.get("id")
    elif form == "email":
        yield "user", subject.get("email")
    elif form == "account" and type(uri := subject.get("uri")) is str:
        yield "user", uri.removeprefix("acct:")


def _form(subject: Any) -> str:
    form = at(subject, "format") or at(subject, "subject_type")
    return form.replace("-", "_") if type(form) is str else ""


def _resource(subject: dict[str, Any]) -> Iterator[Who]:
    uri = subject.get("uri")
    steps = uri.split("?")[0].rstrip("/").split("/") if type(uri) is str else []
    if len(steps) > 1 and steps[-2] in ("Users", "Groups"):
        what: Literal["user", "group"] = "user" if steps[-2] == "Users" else "group"
        yield what, subject.get("id")
        yield what, unquote(steps[-1])


def _unproved() -> NotVerifiedError:
    return NotVerifiedError("token: not signed by a key of the issuer", _refusal("invalid_key", "not accepted"))


def _malformed(wrong: str) -> MalformedError:
    return MalformedError(f"token: {wrong}", _refusal("invalid_request", wrong))


def _refusal(err: str, description: str) -> Answer:
    return Answer(400, json.dumps({"err": err, "description": description}).encode(), "application/json")
