"""Who proves what each provider sends. A new provider is a file here and a line in `HOOKS`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from connectors.errors import ConfigurationError
from connectors.hook import Hook
from connectors.hooks.entra import Entra
from connectors.hooks.events import EventTokens
from connectors.hooks.google import Google
from connectors.hooks.idcs import Idcs
from connectors.hooks.keycloak import Keycloak
from connectors.hooks.okta import Okta
from connectors.hooks.onelogin import OneLogin
from connectors.hooks.standard import Standard, key_in
from connectors.source import SourceSettings, secret

HOOKS: Final[Mapping[str, type[Hook]]] = {
    "entra": Entra,
    "google": Google,
    "idcs": Idcs,
    "keycloak": Keycloak,
    "okta": Okta,
    "onelogin": OneLogin,
    "scim": Standard,
    "standard": Standard,
}
"""Kind of source, or of its webhook → the hook."""

_SECRET: Final = re.compile(r"[!-~]{16,128}")  # Graph takes 128 characters, headers take these


def hook_of(name: str, settings: SourceSettings) -> Hook:
    """The hook of a source. Raises `ConfigurationError` where it has no webhook."""
    if settings.webhook is None:
        raise ConfigurationError(f"sources.{name}.webhook: is missing; add it, with secret_env or secret_file")
    kind = settings.webhook.kind or settings.kind
    if kind not in HOOKS:
        raise ConfigurationError(
            f'sources.{name}.webhook: {kind} sends none; remove it, or set kind = "standard" in it'
        )
    return Keycloak(getattr(settings, "realm", "")) if kind == "keycloak" else HOOKS[kind]()


def webhook_secrets(name: str, settings: SourceSettings) -> tuple[str, ...]:
    """The one or two live secrets of a source's webhook. Raises `ConfigurationError` naming the place."""
    given = settings.webhook
    if given is None:
        return ()
    field = f"sources.{name}.webhook.secret_{'file' if given.secret_file else 'env'}"
    found = tuple(secret(field, given.secret_env, given.secret_file).split())
    if not 1 <= len(found) <= 2:
        raise ConfigurationError(
            f"{field}: holds {len(found)} secrets; put one in it, or two while one replaces another"
        )
    if not all(_SECRET.fullmatch(one) for one in found):
        raise ConfigurationError(f"{field}: a secret has 16 to 128 letters, digits and signs of ASCII; make a new one")
    if HOOKS.get(given.kind or settings.kind) is Standard and not all(map(key_in, found)):
        raise ConfigurationError(
            f"{field}: a secret of Standard Webhooks is base64, after whsec_ or alone; make a new one"
        )
    return found


def events_of(name: str, settings: SourceSettings, keys: Any) -> EventTokens:
    """The hook of a source's security event tokens; `keys` is the JWKS of its issuer, read from JSON. Raises
    `ConfigurationError`."""
    if settings.events is None:
        raise ConfigurationError(f"sources.{name}.events: is missing; add it, with issuer, audience and jwks_url")
    if not isinstance(keys, dict) or not isinstance(keys.get("keys"), list):
        raise ConfigurationError(f"sources.{name}.events: what jwks_url or jwks_file names is no JWKS; check it")
    return EventTokens(settings.events.issuer, settings.events.audience, keys)
