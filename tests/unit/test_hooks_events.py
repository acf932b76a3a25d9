"""Security event tokens: RFC 8417, RFC 8935, RFC 9967."""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64encode
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from connectors.hook import Accepted, Answer, MalformedError, News, NotVerifiedError
from connectors.hooks.events import EventTokens, UnknownKeyError
from tests.support.deliveries import AUDIENCE, ISSUER, JWKS, NOW, TOKENS, jwk, key, posted, pushed, set_claims, signed

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
RISC = "https://schemas.openid.net/secevent/risc/event-type/"
SCIM = "urn:ietf:params:scim:event:"
SOON = int(NOW.timestamp())


def received(claims: Any, hook: EventTokens = TOKENS, **how: Any) -> Accepted:
    return hook.verify(pushed(signed(claims, **how)), (), NOW)


def refused(token: bytes, hook: EventTokens = TOKENS) -> str:
    """The `err` of a token that is refused, as RFC 8935 words it."""
    with pytest.raises((NotVerifiedError, MalformedError)) as caught:
        hook.verify(pushed(token), (), NOW)
    error: Any = caught.value
    said = error.answer
    assert (said.status, said.content_type) == (400, "application/json")
    body = json.loads(said.body)
    assert set(body) == {"err", "description"}
    proved = body["err"] != "invalid_key"
    assert proved == (caught.type is MalformedError or body["err"] in ("invalid_issuer", "invalid_audience"))
    return str(body["err"])


def test_a_token_is_taken_and_answered_202() -> None:
    found = received(set_claims())
    assert found.news == (News("user", "44f6142df96bd6ab61e7521d9", "event"),)
    assert found.answer == Answer(202)
    assert found.delivery == "3d0c3cf797584bd193bd0fb1bd4e7d30"


@pytest.mark.parametrize(
    ("event", "names"),
    [
        *((f"{SCIM}prov:{one}", "event") for one in ("create:full", "create:notice", "patch:full", "put:notice")),
        *((f"{SCIM}prov:{one}", "event") for one in ("delete", "activate", "deactivate")),
        (f"{SCIM}feed:add", "event"),
        (f"{SCIM}feed:remove", "event"),
        ("urn:ietf:params:SCIM:event:prov:create:full", "event"),
        (f"{CAEP}session-revoked", "event"),
        (f"{CAEP}credential-change", "event"),
        (f"{CAEP}session-established", "sign-in"),
        (f"{RISC}account-disabled", "event"),
        (f"{SCIM}misc:asyncresp", ""),
        ("https://schemas.openid.net/secevent/ssf/event-type/verification", ""),
        (f"{CAEP}device-compliance-change", ""),
        ("https://example.org/event", ""),
    ],
)
def test_which_events_name_somebody(event: str, names: Any) -> None:
    found = received(set_claims(event))
    assert found.news == ((News("user", "44f6142df96bd6ab61e7521d9", names),) if names else ())
    assert (found.answer, found.dropped) == (Answer(202), 0)


SUBJECTS = {
    "scim user": ({"format": "scim", "uri": "/Users/u1"}, "user u1"),
    "scim group": ({"format": "scim", "uri": "https://idp.example.org/scim/v2/Groups/g1"}, "group g1"),
    "scim id": ({"format": "scim", "uri": "/Users/u1", "id": "u2"}, "user u2"),
    "scim id that is none": ({"format": "scim", "uri": "/Users/u%201", "id": 7}, "user u 1"),
    "scim other": ({"format": "scim", "uri": "/Devices/d1"}, ""),
    "scim without": ({"format": "scim", "id": "u1"}, ""),
    "scim list": ({"format": "scim", "uri": ["/Users/u1"]}, ""),
    "scim above": ({"format": "scim", "uri": "/Users/.."}, ""),
    "scim coded": ({"format": "scim", "uri": "/Users/%2e%2e"}, ""),
    "iss_sub": ({"format": "iss_sub", "iss": ISSUER, "sub": "u1"}, "user u1"),
    "iss_sub of others": ({"format": "iss_sub", "iss": "https://evil.example", "sub": "u1"}, ""),
    "iss-sub": ({"subject_type": "iss-sub", "iss": ISSUER, "sub": "u1"}, "user u1"),
    "opaque": ({"format": "opaque", "id": "u1"}, "user u1"),
    "email": ({"format": "email", "email": "ann@example.org"}, "user ann@example.org"),
    "account": ({"format": "account", "uri": "acct:ann@example.org"}, "user ann@example.org"),
    "account that is none": ({"format": "account"}, ""),
    "aliases": (
        {"format": "aliases", "identifiers": [{"format": "phone_number"}, {"format": "opaque", "id": "u1"}]},
        "user u1",
    ),
    "aliases of aliases": ({"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": []}]}, ""),
    "aliases that are none": ({"format": "aliases", "identifiers": 1}, ""),
    "complex": (
        {"format": "complex", "session": {"format": "opaque", "id": "s"}, "user": {"format": "opaque", "id": "u1"}},
        "user u1",
    ),
    "complex group": ({"format": "complex", "group": {"format": "opaque", "id": "g1"}}, "group g1"),
    "complex by aliases": (
        {"user": {"format": "aliases", "identifiers": [{"format": "opaque", "id": "u1"}]}},
        "user u1",
    ),
    "complex in complex": ({"format": "complex", "user": {"user": {"format": "opaque", "id": "u1"}}}, ""),
    "number": ({"format": "opaque", "id": 1}, ""),
    "control": ({"format": "opaque", "id": "a\nb"}, ""),
    "format": ({"format": 1}, ""),
    "none": (None, ""),
    "text": ("u1", ""),
}


@pytest.mark.parametrize(("subject", "names"), SUBJECTS.values(), ids=SUBJECTS)
def test_whom_a_subject_names(subject: Any, names: str) -> None:
    found = received(set_claims(sub_id=subject))
    assert [f"{one.kind} {one.key}" for one in found.news] == ([names] if names else [])
    assert found.dropped == (0 if names else 1)
    assert found.answer == Answer(202)


def test_a_subject_of_the_event_or_of_the_token() -> None:
    old = set_claims(events={f"{CAEP}session-revoked": {"subject": {"user": {"format": "email", "email": "a@b.c"}}}})
    del old["sub_id"]
    assert received(old).news == (News("user", "a@b.c", "event"),)
    plain = set_claims(f"{CAEP}session-revoked", sub="u5")
    del plain["sub_id"]
    assert received(plain).news == (News("user", "u5", "event"),)


def test_one_person_in_several_events_is_named_once() -> None:
    events: dict[str, Any] = {
        f"{CAEP}session-established": {},
        f"{SCIM}feed:add": {},
        f"{SCIM}prov:create:full": {"data": {}},
    }
    assert received(set_claims(events=events)).news == (News("user", "44f6142df96bd6ab61e7521d9", "both"),)


def test_a_transaction_is_no_delivery() -> None:
    """Two tokens of one transaction are about two people: the second must not be taken for the first."""
    one = received(set_claims(txn="t", jti="1"))
    two = received(set_claims(txn="t", jti="2", sub_id={"format": "opaque", "id": "u2"}))
    assert (one.delivery, two.delivery) == ("1", "2")
    nameless = set_claims(txn="t")
    del nameless["jti"]
    assert received(nameless).delivery == ""


# --- what does not prove itself ----------------------------------------------------------------


@pytest.mark.parametrize(("by", "algorithm"), [("rsa", "RS256"), ("rsa", "PS512"), ("ec", "ES256"), ("ed", "EdDSA")])
def test_signatures_that_are_taken(by: str, algorithm: str) -> None:
    assert received(set_claims(), by=by, algorithm=algorithm).news


def coded(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_no_signature_is_no_proof() -> None:
    for name in ("none", "None", "NONE", ""):
        head = {"alg": name, "typ": "secevent+jwt", "kid": "rsa"}
        assert refused(f"{coded(head)}.{coded(set_claims())}.".encode()) == "invalid_request"
        assert refused(f"{coded(head)}.{coded(set_claims())}.AAAA".encode()) == "invalid_key"
    heads: tuple[dict[str, Any], ...] = (
        {"typ": "secevent+jwt"},
        {"alg": 1, "typ": "secevent+jwt"},
        {"alg": ["RS256"], "typ": "secevent+jwt"},
    )
    for head in heads:
        assert refused(f"{coded(head)}.{coded(set_claims())}.AAAA".encode()) == "invalid_key"


def test_a_public_key_is_no_shared_secret() -> None:
    """The oldest trick: HMAC with the text of the public key."""
    public = key().public_key()
    for secret in (
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk()).encode(),
        jwk()["n"].encode(),
    ):
        text = f"{coded({'alg': 'HS256', 'typ': 'secevent+jwt', 'kid': 'rsa'})}.{coded(set_claims())}".encode()
        token = text + b"." + urlsafe_b64encode(hmac.digest(secret, text, "sha256")).rstrip(b"=")
        assert refused(token) == "invalid_key"
        shared = EventTokens(ISSUER, AUDIENCE, {"keys": [{"kty": "oct", "kid": "rsa", "k": coded("x")}]})
        assert refused(token, shared) == "invalid_key"


def test_a_strangers_key_is_none() -> None:
    assert refused(signed(set_claims(), "stranger", kid="rsa")) == "invalid_key"
    own: dict[str, Any] = {"jwk": jwk("stranger"), "jku": "https://evil.example/keys"}
    assert refused(signed(set_claims(), "stranger", kid="rsa", **own)) == "invalid_key"
    with pytest.raises(UnknownKeyError) as caught:
        TOKENS.verify(pushed(signed(set_claims(), "stranger")), (), NOW)
    assert json.loads(caught.value.answer.body)["err"] == "invalid_key"


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"keys": None},
        {"keys": [None, 1, "rsa"]},
        {"keys": [{"kid": "rsa"}]},
        {"keys": [{"kid": "rsa", "kty": "RSA", "n": 1, "e": "AQAB"}]},
        {"keys": [{"kid": "rsa", "kty": "RSA", "n": "x" * 400, "e": "?"}]},
        {"keys": [{"kid": "rsa", "kty": "RSA", "n": "A" * 400, "e": "AQAB"}]},
        {"keys": [{"kid": "rsa", "kty": "RSA", "n": "x" * 400}]},
        {"keys": [{**jwk(), "use": "enc"}]},
        {"keys": [{**jwk(), "alg": "RS512"}]},
        {"keys": [{**jwk("ec"), "kid": "rsa"}]},
    ],
    ids=[*map(str, range(8)), "use", "alg", "kind"],
)
def test_keys_that_prove_nothing(keys: Any) -> None:
    assert refused(signed(set_claims()), EventTokens(ISSUER, AUDIENCE, keys)) == "invalid_key"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_weak_key_proves_nothing() -> None:
    assert (
        refused(signed(set_claims(), "weak"), EventTokens(ISSUER, AUDIENCE, {"keys": [jwk("weak")]})) == "invalid_key"
    )


def test_without_a_key_id_there_must_be_no_choice() -> None:
    token = signed(set_claims(), kid=None)
    assert TOKENS.verify(pushed(token), (), NOW).news
    two = EventTokens(ISSUER, AUDIENCE, {"keys": [jwk(), jwk("stranger")]})
    assert refused(token, two) == "invalid_key"
    twice = EventTokens(ISSUER, AUDIENCE, {"keys": [{**jwk("stranger"), "kid": "rsa"}, jwk()]})
    assert twice.verify(pushed(signed(set_claims())), (), NOW).news


def test_headers_that_change_the_meaning_of_a_signature() -> None:
    assert refused(signed(set_claims(), crit=["exp"])) == "invalid_key"
    head = {"alg": "RS256", "typ": "secevent+jwt", "kid": "rsa", "b64": False, "crit": ["b64"]}
    assert refused(f"{coded(head)}.{coded(set_claims())}.AAAA".encode()) == "invalid_key"


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "at+jwt", "", "secevent+jwt ", "text/secevent+jwt"])
def test_another_type_of_token_is_none(typ: str | None) -> None:
    """A login token of the same issuer must not be taken for an event."""
    token = signed(set_claims(), typ=typ) if typ is not None else signed(set_claims(), typ="JWT")
    assert refused(token) == "invalid_request"


@pytest.mark.parametrize("typ", ["secevent+jwt", "SecEvent+JWT", "application/secevent+jwt"])
def test_the_type_of_an_event(typ: str) -> None:
    assert received(set_claims(), typ=typ).news


def test_the_issuer_is_pinned_and_the_audience_is_us() -> None:
    for issuer in ("https://evil.example", ISSUER + "/", ISSUER.upper(), None, [ISSUER], 1):
        assert refused(signed(set_claims(iss=issuer))) == "invalid_issuer"
    for audience in ("https://evil.example", AUDIENCE + "/", None, [], [[AUDIENCE]], {AUDIENCE: 1}, 1):
        assert refused(signed(set_claims(aud=audience))) == "invalid_audience"
    assert received(set_claims(aud=AUDIENCE)).news


def test_the_time_of_a_token() -> None:
    for iat in (SOON + 299, 1, SOON - 10**8, SOON - 0.5):
        assert received(set_claims(iat=iat)).news, "a token has no end"
    never: tuple[Any, ...] = (SOON + 301, 10**30, 1e308, None, "1", True, [])
    for iat in never:
        assert refused(signed(set_claims(iat=iat))) == "invalid_request"
    assert received(set_claims(exp=SOON - 299)).news
    over: tuple[Any, ...] = (SOON - 301, "1", None, True)
    for exp in over:
        assert refused(signed(set_claims(exp=exp))) == "invalid_request"


@pytest.mark.parametrize("events", [None, [], "x", 1, {"a": 1}, {"a": None}, {f"{SCIM}feed:add": []}])
def test_events_that_are_none(events: Any) -> None:
    assert refused(signed(set_claims(events=events))) == "invalid_request"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b'{"iss": "a", "iss": "b"}',
        b'{"iat": NaN}',
        b"[" * 5000,
        b'{"a": ' * 300,
    ],
)
def test_a_payload_that_is_no_object_is_malformed_though_signed(payload: bytes) -> None:
    assert refused(signed(payload)) == "invalid_request"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"x",
        b"a.b",
        b"a.b.c.d",
        b"..",
        b"a..c",
        b"a.b.c",
        b"e30.e30.e30",
        b"\xff.\xff.\xff",
        b"a.b." + b"c" * 100_000,
        b"{}",
    ],
)
def test_what_is_no_token_is_malformed(token: bytes) -> None:
    assert refused(token) == "invalid_request"


def test_a_token_is_written_in_one_way_only() -> None:
    token = signed(set_claims())
    for other in (token + b"=", token[:-10] + b"!" + token[-10:], token.replace(b".", b"\n.", 1), token[:-1] + b"+"):
        assert refused(other) == "invalid_request"
    last = token[-1:]
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = alphabet[
        alphabet.index(last) ^ 1 : (alphabet.index(last) ^ 1) + 1
    ]  # the last bits of a 256-byte value are 0
    assert refused(token[:-1] + twin) == "invalid_request"
    assert TOKENS.verify(pushed(token + b"\r\n"), (), NOW).news


def test_the_content_type_is_that_of_a_token() -> None:
    token = signed(set_claims())
    for kind in ("application/secevent+jwt; charset=utf-8", "Application/SecEvent+JWT"):
        assert TOKENS.verify(posted(token, {"content-type": kind}), (), NOW).news
    for kind in ("", "application/json", "application/jwt", "application/secevent+jwtx"):
        with pytest.raises(MalformedError):
            TOKENS.verify(posted(token, {"content-type": kind}), (), NOW)
    with pytest.raises(MalformedError):
        TOKENS.verify(replace(pushed(token), method="GET"), (), NOW)


def test_a_token_that_was_polled_is_read_alike() -> None:
    assert TOKENS.read(signed(set_claims()), NOW) == received(set_claims())


def test_keys_are_not_shown() -> None:
    assert jwk()["n"] not in repr(EventTokens(ISSUER, AUDIENCE, JWKS))


def test_the_example_of_rfc_8417_is_not_ours() -> None:
    """RFC 8417, 2.1, figure 1, with our issuer and audience: proved, and of a type that names nobody."""
    claims = {
        "iss": ISSUER,
        "iat": 1458496404,
        "jti": "4d3559ec67504aaba65d40b0363faad8",
        "aud": [AUDIENCE, "https://scim.example.com/Feeds/5d7604516b1d08641d7676ee7"],
        "events": {
            "urn:ietf:params:scim:event:create": {
                "ref": "https://scim.example.com/Users/44f6142df96bd6ab61e7521d9",
                "attributes": ["id", "name", "userName", "password", "emails"],
            }
        },
    }
    found = received(claims)
    assert (found.news, found.dropped, found.answer) == ((), 0, Answer(202))
    # RFC 7515, A.2.1, and 8417, 2.3: unsigned with "alg": "none", as figure 6 has it
    head = "eyJ0eXAiOiJzZWNldmVudCtqd3QiLCJhbGciOiJub25lIn0"
    assert json.loads(jwt.utils.base64url_decode(head)) == {"typ": "secevent+jwt", "alg": "none"}
    assert refused(f"{head}.{coded(claims)}.".encode()) == "invalid_request"
