"""Crowd's own webhook: Crowd tells an address of ours that its events changed, and never which.

`reference/crowd-rest.md` section 12. Crowd removes a registration whose pings fail for long enough, so that it has to
be looked after. Not confirmed with a real Crowd: the path `/webhook[/ID]` and its statuses, the members `endpointUrl`,
`token` and `id` and their JSON form, that the token comes as `Authorization: Basic <token>`, and what a second
registration of an address does with the first one's token.
"""

from __future__ import annotations

import re
from typing import Final

from connectors.crowd import ADDRESS_REFUSED, COOKIE, ROOT, VERSION
from connectors.errors import ConfigurationError, CrowdsyncError, ForbiddenError, IncompleteError
from connectors.http import Answer, Http

_ADDRESS: Final = re.compile(r"https?://[!-~]{1,247}")
_TOKEN: Final = re.compile(r"[!-~]{1,255}")
_ID: Final = re.compile(r"[A-Za-z0-9-]{1,60}")
_JSON: Final = {"accept": "application/json"}


async def registered(client: Http, endpoint: str, token: str, known: str | None) -> str | None:
    """Makes sure that Crowd pings an address → the id of the registration; None where this Crowd offers no webhooks.

    `client` speaks to Crowd as the application (`Crowd.clients`). `endpoint` is the address (http or https) and `token`
    what a ping proves itself by, both of at most 255 printable ASCII characters. A registration by the id `known` is
    left as it is where it leads to this address; Crowd does not tell its token. Otherwise a new one is made, and what
    stands under `known` is left alone. Raises `ConfigurationError` for an address or token that cannot be, or that
    Crowd refuses, and what else `Http.call` raises; `ForbiddenError`, `IncompleteError` for an answer that is not one.
    """
    if not _ADDRESS.fullmatch(endpoint) or not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"{client.name}: webhook: the address must begin with http:// or https://, and it and the token must be "
            "of at most 255 letters, digits and signs without blanks."
        )
    if known and await _stands(client, known, endpoint):
        return known
    made = await _register(client, endpoint, token)
    if made is None:
        return None
    # Where the address was registered before, Crowd may have answered with that registration and its old token.
    await _delete(client, made)
    return await _register(client, endpoint, token)


async def unregister(client: Http, known: str, endpoint: str) -> bool:
    """Takes a registration away where it leads to this address → whether there was one. Raises as `registered`."""
    if not await _stands(client, known, endpoint):
        return False
    await _delete(client, known)
    return True


async def _stands(client: Http, known: str, endpoint: str) -> bool:
    """Whether Crowd has a registration with this id and address."""
    if not _ID.fullmatch(known):
        return False
    answer = await client.call("GET", f"{ROOT}/webhook/{known}", headers=_JSON)
    if answer.status == 200:
        body = answer.json()
        return isinstance(body, dict) and body.get("endpointUrl") == endpoint
    if answer.status == 404 or _reason(answer) == "WEBHOOK_NOT_FOUND":
        return False
    raise _refusal(client, answer)


async def _register(client: Http, endpoint: str, token: str) -> str | None:
    """One registration → its id; None where Crowd has no such call."""
    body = {"endpointUrl": endpoint, "token": token}
    # Repeated where an answer is lost: the worst is a second registration, and so a second ping.
    answer = await client.call("POST", f"{ROOT}/webhook", json=body, headers=_JSON, repeat=True)
    if answer.status in (200, 201):
        made = answer.json()
        found = made.get("id") if isinstance(made, dict) else None
        if type(found) in (int, str) and _ID.fullmatch(str(found)):
            return str(found)
        raise IncompleteError(f"{client.name}: webhook: Crowd answered {answer.status} and named no id.")
    if answer.status == 404:
        cookie = await client.call("GET", ROOT + COOKIE, headers=_JSON)
        if cookie.status == 200 and VERSION in cookie.headers:
            return None
    if answer.status == 400:
        raise ConfigurationError(
            f"{client.name}: webhook: 400 {_reason(answer)}. Crowd does not take our address: it must be one that "
            "Crowd's machine reaches. See the public base address in the settings."
        )
    raise _refusal(client, answer)


async def _delete(client: Http, known: str) -> None:
    answer = await client.call("DELETE", f"{ROOT}/webhook/{known}", headers=_JSON, repeat=True)
    if answer.status not in (200, 204, 404) and _reason(answer) != "WEBHOOK_NOT_FOUND":
        raise _refusal(client, answer)


def _reason(answer: Answer) -> str:
    """Crowd's reason code, or ""."""
    reason = answer.problem().get("reason")
    return reason if isinstance(reason, str) and re.fullmatch(r"[A-Z_]{1,60}", reason) else ""


def _refusal(client: Http, answer: Answer) -> CrowdsyncError:
    """What to raise for an answer that says neither yes nor no."""
    where, reason = f"{client.name}: webhook", _reason(answer)
    if answer.status == 403:
        return ForbiddenError(f"{where}: 403. {reason or ADDRESS_REFUSED}")
    told = f"{where}: {answer.method} {answer.url} answered {answer.status} {reason}".rstrip()
    return IncompleteError(f"{told}. Check the base address.")
