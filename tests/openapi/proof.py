"""Loaded by Schemathesis: puts in what each sender proves itself with, and says what is wrong with an answer."""

from __future__ import annotations

import os
import zlib
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import jwt
import schemathesis
from requests import PreparedRequest
from requests.auth import AuthBase

from tests.support import deliveries
from tests.support.receiver import PING

WITH = {
    "okta": deliveries.with_header,
    "onelogin": deliveries.with_header,
    "keycloak": deliveries.with_hmac,
    "google": deliveries.with_token,
    "idcs": deliveries.with_basic,
}


class Proof(AuthBase):
    """One request in eight goes without."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """The request with headers, and a token instead of claims."""
        sent: Any = request.body or b""
        body = sent.encode() if isinstance(sent, str) else bytes(sent)
        place, _, name = urlsplit(request.url or "").path.strip("/").partition("/")
        if zlib.crc32(body + str(request.url).encode()) % 8 == 0:
            return request
        proof: dict[str, str] = {}
        if place == "scim":
            proof = {"authorization": f"Bearer {os.environ['SCIM_TOKEN']}"}
        elif place == "crowd":
            proof = {"authorization": f"Basic {PING}"}
        elif place == "events" and body[:1] == b"{":
            head = {"typ": "secevent+jwt", "kid": "rsa"}
            request.prepare_body(jwt.PyJWS().encode(body, os.environ["EVENT_KEY"], "RS256", headers=head), None)
            request.headers["content-type"] = "application/secevent+jwt"
        elif place == "webhooks" and name == "standard":
            now = str(int(datetime.now(UTC).timestamp()))
            proof = dict(deliveries.with_signature(body, sent=f"msg_{zlib.crc32(body)}", stamp=now).headers)
        elif place == "webhooks" and name in WITH:
            proof = dict(WITH[name](body).headers)
        proof.pop("content-type", None)
        for header, value in proof.items():
            request.headers.setdefault(header, value)
        return request


schemathesis.auth.set_from_requests(Proof())


@schemathesis.check  # type: ignore[untyped-decorator]
def no_error_of_ours(_context: Any, response: Any, _case: Any) -> None:
    """A server says 5xx only where it can take nothing now, or, in SCIM, of what it does not offer."""
    later = response.status_code == 503 and "retry-after" in response.headers
    not_offered = response.status_code == 501 and urlsplit(response.request.url).path.startswith("/scim/")
    assert response.status_code < 500 or later or not_offered, f"answered {response.status_code}"
