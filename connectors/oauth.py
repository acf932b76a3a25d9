"""Access tokens: the OAuth 2.0 grants by which one machine speaks to another.

client_credentials with a secret (RFC 6749 4.4) or a signed assertion (RFC 7523 2.2), and the assertion as the
grant itself (RFC 7523 2.1). Tokens are fetched when they are needed, once for all callers, and anew before they
end or when the other side no longer takes them.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from connectors.errors import AuthenticationError, ConfigurationError, IncompleteError
from connectors.http import Http

JWT_BEARER: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"

_PEM: Final = re.compile(r"\s*-----BEGIN ([A-Z ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----\s*")
_SECRET: Final = ("client_secret", "client_assertion", "assertion")

Form = Callable[[], Mapping[str, str]]
"""The form of a token request; called for each, because an assertion is good for minutes."""


class Tokens:
    """The access tokens of one client: a `bearer` for `connectors.http.Http`.

    `http` leads to the token endpoint's origin, `path` to the endpoint. `advice` ends the message where the
    credentials are refused. `now` gives seconds.
    """

    def __init__(
        self, http: Http, path: str, form: Form, *, advice: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._http, self._path, self._form, self._advice, self._now = http, path, form, advice, now
        self._token, self._until = "", 0.0
        self._lock = asyncio.Lock()

    async def __call__(self) -> str:
        """The token to use now. Raises `AuthenticationError`."""
        if self._now() >= self._until:
            async with self._lock:
                if self._now() >= self._until:
                    await self._fetch()
        return self._token

    def refused(self, token: str) -> bool:
        """The other side does not take this token: whether another one is worth a try."""
        if token == self._token:
            self._until = 0.0
        return True

    async def _fetch(self) -> None:
        started, form = self._now(), self._form()
        answer = await self._http.call("POST", self._path, form=form, repeat=True, expect=(401,))
        said = answer.problem()
        if answer.status in (400, 401, 403):
            why = " ".join(str(said[name]) for name in ("error", "error_description") if said.get(name))
            for secret in (self._token, *(form[name] for name in _SECRET if name in form)):
                why = why.replace(secret, "***") if secret else why
            why = answer.scrub(why) or "no reason given"
            raise AuthenticationError(
                f"{self._http.name}: no access token from {answer.url}: {answer.status}, {why}. {self._advice}"
            )
        token = said.get("access_token")
        if answer.status != 200 or not isinstance(token, str) or not token:
            raise IncompleteError(
                f"{self._http.name}: {answer.url} answered {answer.status} without an access token. "
                "Check that the address leads to the token endpoint."
            )
        lasts = said.get("expires_in")
        seconds = float(lasts) if isinstance(lasts, int | float) and lasts > 0 else 300.0
        self._token, self._until = token, started + seconds - min(60.0, seconds / 5)


def with_secret(client_id: str, secret: str, **more: str) -> Form:
    """client_credentials, the client's id and secret in the form."""
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret, **more}
    return lambda: form


def with_assertion(client_id: str, assertion: Callable[[], str], **more: str) -> Form:
    """client_credentials, the client proved by a signed assertion (private_key_jwt)."""
    return lambda: {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": assertion(),
        **more,
    }


# (More than seven parameters: the claims of RFC 7523, all by name.)
def assertion(
    key: str, *, field: str, audience: str, issuer: str, subject: str, headers: Mapping[str, str], seconds: int = 300,
    algorithm: str = "", **claims: Any,
) -> Callable[[], str]:  # fmt: skip
    """A function that signs a new assertion. `key` is PEM; RS256 or ES256 by its type unless `algorithm` is named.

    Raises `ConfigurationError` naming `field` where the key cannot be used.
    """
    private = private_key(key, field)
    by_type = "ES256" if isinstance(private, EllipticCurvePrivateKey) else "RS256"

    def sign() -> str:
        now = int(time.time())
        body = {"iss": issuer, "sub": subject, "aud": audience, "iat": now, "exp": now + seconds}
        return jwt.encode(
            {**body, "jti": str(uuid.uuid4()), **claims},
            private,
            algorithm=algorithm or by_type,
            headers=dict(headers),
        )

    return sign


def private_key(pem: str, field: str) -> RSAPrivateKey | EllipticCurvePrivateKey:
    """A PEM private key; its line ends may have got lost in a form or a variable. Raises `ConfigurationError`
    naming `field`."""
    parts = _PEM.fullmatch(pem.replace("\\n", "\n"))
    if parts:
        pem = f"-----BEGIN {parts[1]}-----\n{''.join(parts[2].split())}\n-----END {parts[1]}-----\n"
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        raise ConfigurationError(
            f"{field}: this is no private key in PEM form without a password (-----BEGIN PRIVATE KEY-----)"
        ) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigurationError(f"{field}: the key is neither an RSA nor an elliptic curve key; make one of these")
    return key
