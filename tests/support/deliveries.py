"""What each provider sends, as the reference has it, signed as each provider signs it."""

from __future__ import annotations

import hmac
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from connectors.hook import Accepted, Delivery, Hook
from connectors.hooks import HOOKS
from connectors.hooks.events import EventTokens

NOW: Final = datetime(2026, 1, 1, 10, 0, 0, tzinfo=UTC)
SECRET: Final = "Zm9ydHktdHdvIGJlYXJzIGRhbmNl"
OTHER: Final = "YW5vdGhlciBzZWNyZXQgb2YgdXM="
ISSUER: Final = "https://idp.example.org"
AUDIENCE: Final = "https://crowdsync.example.org/events/acme"


def okta_event(kind: str = "group.user_membership.add", **more: Any) -> dict[str, Any]:
    return {
        "uuid": "f1d0",
        "published": "2026-01-01T10:00:00.000Z",
        "eventType": kind,
        "version": "0",
        "severity": "INFO",
        "outcome": {"result": "SUCCESS", "reason": None},
        "actor": {"id": "00uADM", "type": "User", "alternateId": "adm@x.io", "displayName": "Adm"},
        "target": [
            {"id": "00g1", "type": "UserGroup", "alternateId": "unknown", "displayName": "jira-users"},
            {"id": "00u1", "type": "User", "alternateId": "ann@x.io", "displayName": "Ann"},
        ],
        **more,
    }


def okta(*events: Any) -> dict[str, Any]:
    return {
        "eventType": "com.okta.event_hook",
        "eventTypeVersion": "1.0",
        "cloudEventsVersion": "0.1",
        "source": "https://org.okta.com/api/v1/eventHooks/who1",
        "eventId": "85b60edb-0001",
        "eventTime": "2026-01-01T10:00:01.000Z",
        "contentType": "application/json",
        "data": {"events": list(events or [okta_event()])},
    }


def entra_item(kind: str = "User", key: str = "e1", **more: Any) -> dict[str, Any]:
    path = f"{kind}s/{key}"
    return {
        "id": f"notification-{key}",
        "subscriptionId": "sub-1",
        "subscriptionExpirationDateTime": "2026-01-20T10:00:00Z",
        "clientState": SECRET,
        "changeType": "updated",
        "resource": path,
        "tenantId": "t1",
        "resourceData": {
            "@odata.type": f"#Microsoft.Graph.{kind}",
            "@odata.id": path,
            "@odata.etag": 'W/"1"',
            "id": key,
        },
        **more,
    }


def entra(*items: Any) -> dict[str, Any]:
    return {"value": list(items or [entra_item(), entra_item("Group", "g1")])}


def onelogin_event(kind: Any = 147, uuid: str = "d210", **more: Any) -> dict[str, Any]:
    return {
        "create": {"_id": uuid},
        "uuid": uuid,
        "account_id": 92920,
        "event_type_id": kind,
        "event_timestamp": "2026-01-01 10:00:00 UTC",
        "actor_user_id": 1,
        "actor_user_name": "Adm",
        "user_id": 32916209,
        "user_name": "Ann Lee",
        "role_id": 77,
        "role_name": "jira-users",
        "app_id": None,
        "ipaddr": "192.0.2.1",
        "notes": None,
        **more,
    }


def keycloak_event(kind: str = "admin.GROUP_MEMBERSHIP-CREATE", path: Any = "users/k1/groups/kg1", **more: Any) -> Any:
    """As a real one sends it (keycloak-events 0.52). One of a person's own has no path and what follows from it."""
    what, _, operation = kind.removeprefix("admin.").rpartition("-")
    administered = {
        "operationType": operation,
        "resourceType": what,
        "resourcePath": path,
        "resourceId": path.rpartition("/")[2] if isinstance(path, str) else None,
        "representation": '{"id":"kg1","name":"devs","path":"/devs"}',
    }
    return {
        "uid": "0d8c1e5e-0001",
        "id": "event-1",
        "type": kind,
        "time": 1763900000000,
        "realmId": "realm-uuid",
        "realmName": "demo",
        **(administered if kind.startswith("admin.") else {}),
        "authDetails": {"realmId": "master", "userId": "kADM", "ipAddress": "192.0.2.1", "username": "admin"},
        "details": {"email": "ann@x.io", "username": "ann"},
        **more,
    }


def google_user(key: str = "117", **more: Any) -> dict[str, Any]:
    return {"kind": "admin#directory#user", "id": key, "etag": "e", "primaryEmail": "ann@example.org", **more}


def idcs_event(kind: str = "updateuser") -> dict[str, Any]:
    return {
        "eventType": f"com.oraclecloud.identitycontrolplane.{kind}",
        "cloudEventsVersion": "0.1",
        "eventID": "event-1",
        "eventTime": "2026-01-01T10:00:00Z",
        "data": {"resourceName": "ann", "resourceId": "ocid1.user.oc1..aaaa"},
    }


def set_claims(event: str = "urn:ietf:params:scim:event:prov:put:notice", **more: Any) -> dict[str, Any]:
    """RFC 9967's example of a changed user, with an audience of ours."""
    return {
        "iss": ISSUER,
        "iat": int(NOW.timestamp()) - 1,
        "jti": "3d0c3cf797584bd193bd0fb1bd4e7d30",
        "aud": [AUDIENCE, "https://scim.example.com/Feeds/5d7604516b1d08641d7676ee7"],
        "sub_id": {"format": "scim", "uri": "/Users/44f6142df96bd6ab61e7521d9", "externalId": "jdoe"},
        "events": {event: {"attributes": ["emails"]}},
        **more,
    }


# --- deliveries --------------------------------------------------------------------------------


def posted(body: Any, headers: Mapping[str, str] = {}, path: str = "/webhooks/acme", method: str = "POST") -> Delivery:
    """A request with this body: bytes as they are, all else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery(method, path, {}, {"content-type": "application/json", **headers}, data)


def with_header(body: Any, secret: str = SECRET) -> Delivery:
    return posted(body, {"authorization": secret})


def in_items(body: Any, secret: str = SECRET) -> Delivery:
    return posted(json.loads(json.dumps(body).replace(SECRET, secret)))


def with_hmac(body: Any, secret: str = SECRET) -> Delivery:
    given = posted(body)
    signature = hmac.new(secret.encode(), given.body, "sha256").hexdigest()
    return replace(given, headers={**given.headers, "x-keycloak-signature": signature})


def with_token(body: Any, secret: str = SECRET) -> Delivery:
    channel = {"id": "c1", "token": secret, "resource-id": "r1", "resource-state": "update", "message-number": "7"}
    return posted(body, {f"x-goog-{'' if 'res' in k or 'mess' in k else 'channel-'}{k}": v for k, v in channel.items()})


def with_basic(body: Any, secret: str = SECRET, **headers: str) -> Delivery:
    given = {"authorization": f"Basic {b64encode(f'crowdsync:{secret}'.encode()).decode()}", **headers}
    return posted(body, {"x-oci-ns-messagetype": "Notification", "x-oci-ns-messageid": "m1", **given})


def with_signature(body: Any, secret: str = SECRET, sent: str = "msg_1", stamp: str = "") -> Delivery:
    given = posted(body)
    stamp = stamp or str(int(NOW.timestamp()))
    signed = hmac.new(b64decode(secret.removeprefix("whsec_")), f"{sent}.{stamp}.".encode() + given.body, "sha256")
    said = {
        "webhook-id": sent,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{b64encode(signed.digest()).decode()}",
    }
    return replace(given, headers={**given.headers, **said})


# --- keys of an issuer -------------------------------------------------------------------------


@cache
def key(name: str = "rsa") -> Any:
    """A private key, made once."""
    made: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "stranger": lambda: rsa.generate_private_key(65537, 2048),
        "weak": lambda: rsa.generate_private_key(65537, 1024),
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed": ed25519.Ed25519PrivateKey.generate,
    }
    return made[name]()


def jwk(name: str = "rsa", **more: Any) -> dict[str, Any]:
    """Its public half, as it stands in a JWKS."""
    kinds: Any = {"ec": jwt.algorithms.ECAlgorithm, "ed": jwt.algorithms.OKPAlgorithm}
    of = kinds.get(name, jwt.algorithms.RSAAlgorithm)
    return {**of.to_jwk(key(name).public_key(), as_dict=True), "kid": name, "use": "sig", **more}


JWKS: Final = {"keys": [jwk(), jwk("ec"), jwk("ed")]}


def signed(claims: Any, by: str = "rsa", algorithm: str = "RS256", **head: Any) -> bytes:
    """A token; `head` with None leaves a header out."""
    text = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    said = {"typ": "secevent+jwt", "kid": by, **head}
    return (
        jwt.PyJWS().encode(text, key(by), algorithm, headers={k: v for k, v in said.items() if v is not None}).encode()
    )


def pushed(token: bytes) -> Delivery:
    return posted(token, {"content-type": "application/secevent+jwt", "accept": "application/json"}, "/events/acme")


# --- one of each -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sender:
    """A provider that sends: `send(body, secret)` makes a delivery as it would, `body` is one of its own."""

    name: str
    hook: Hook
    body: Any
    send: Callable[..., Delivery]
    signs: bool = False
    """Whether what is sent is signed, and not only accompanied by a secret."""

    def received(self, delivery: Delivery | None = None, secrets: tuple[str, ...] = (SECRET,)) -> Accepted:
        return self.hook.verify(delivery or self.send(self.body), secrets, NOW)


TOKENS: Final = EventTokens(ISSUER, AUDIENCE, JWKS)
SENDERS: Final = (
    Sender("okta", HOOKS["okta"](), okta(), with_header),
    Sender("entra", HOOKS["entra"](), entra(), in_items),
    Sender("onelogin", HOOKS["onelogin"](), [onelogin_event()], with_header),
    Sender("keycloak", HOOKS["keycloak"](), keycloak_event(), with_hmac, signs=True),
    Sender("google", HOOKS["google"](), google_user(), with_token),
    Sender("idcs", HOOKS["idcs"](), idcs_event(), with_basic),
    Sender(
        "standard", HOOKS["standard"](), {"type": "user.updated", "data": {"user": "u1"}}, with_signature, signs=True
    ),
)
BY_NAME: Final = {one.name: one for one in SENDERS}
