"""One file per identity provider, and the registry of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from connectors.idp.scim import Scim

SOURCES: Final[Mapping[str, type[Any]]] = {source.name: source for source in (Scim,)}
"""Name in the configuration → class, each a `connectors.contract.Source`."""
