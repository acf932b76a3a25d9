"""Who transmits security event tokens: its public keys, and the polling of RFC 8936.

https://www.rfc-editor.org/rfc/rfc8936: a POST says which tokens were taken (`ack`) and which were refused (`setErrs`),
and is answered with those that were not spoken of yet. What is neither comes again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from connectors.errors import AuthenticationError, ConfigurationError, ForbiddenError, IncompleteError
from connectors.http import Http
from connectors.records import as_dict
from connectors.source import EventSettings, SourceSettings, client, secret
from connectors.store import in_thread

AT_ONCE: Final = 100
"""Tokens in an answer, at most."""


async def keys_of(name: str, events: EventSettings) -> Any:
    """The public keys of the issuer of a source's tokens, as JSON. Raises `ConfigurationError`, and what a call
    may."""
    if events.jwks_file:
        try:
            return orjson.loads(await in_thread(Path(events.jwks_file).read_bytes))
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigurationError(f"sources.{name}.events.jwks_file: {events.jwks_file}: {error}") from None
    base, path = parted(events.jwks_url)
    async with Http(base, name=f"sources.{name}.events") as http:
        return (await http.call("GET", path)).json()


class Transmitter:
    """Where the tokens of a source are polled. `aclose` it. Raises `ConfigurationError` where there is no token for
    it."""

    def __init__(self, name: str, settings: SourceSettings) -> None:
        events = settings.events
        assert events is not None
        self._where = f"sources.{name}.events.poll_url"
        field = f"sources.{name}.events.token_{'file' if events.token_file else 'env'}"
        base, self._path = parted(events.poll_url)
        self._http = client(name, settings, base, bearer=secret(field, events.token_env, events.token_file), rate=None)

    async def poll(
        self, ack: Sequence[str] = (), refused: Mapping[str, Mapping[str, str]] | None = None
    ) -> Mapping[str, str]:
        """Answers those of before, by their ids, and asks for others: id → token. {}: there are none now."""
        said = {"maxEvents": AT_ONCE, "returnImmediately": True, "ack": list(ack), "setErrs": dict(refused or {})}
        asked = {name: value for name, value in said.items() if value or name in ("maxEvents", "returnImmediately")}
        # (Twice does no harm: what is spoken of twice was spoken of.)
        answer = await self._http.call("POST", self._path, json=asked, repeat=True, expect=(401,))
        if answer.status in (401, 403):
            kind = AuthenticationError if answer.status == 401 else ForbiddenError
            raise kind(f"{self._where}: {answer.status}; check the token, and what it may do")
        if answer.status == 404:
            raise ConfigurationError(f"{self._where}: 404; check the address")
        found = as_dict(answer.json()).get("sets") if answer.status == 200 else None
        if not isinstance(found, dict) or not all(type(one) is str for one in found.values()):
            raise IncompleteError(f"{self._where}: {answer.status}, and no tokens; check that the address is for polls")
        return found

    async def aclose(self) -> None:
        """Closes the client."""
        await self._http.aclose()


def parted(address: str) -> tuple[str, str]:
    """An address → its origin, and the rest of it."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}", f"{parts.path}{'?' if parts.query else ''}{parts.query}"
