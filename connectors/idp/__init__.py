"""One file per identity provider, and the registry of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connectors.idp.entra import Entra
from connectors.idp.google import Google
from connectors.idp.idcs import Idcs
from connectors.idp.keycloak import Keycloak
from connectors.idp.okta import Okta
from connectors.idp.onelogin import OneLogin
from connectors.idp.push import Push
from connectors.idp.scim import Scim

SOURCES: Final[Mapping[str, type[Any]]] = {
    source.name: source for source in (Entra, Google, Idcs, Keycloak, Okta, OneLogin, Push, Scim)
}
"""Name in the configuration → class, each a `connectors.contract.Source`."""
