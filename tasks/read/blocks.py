"""Credentials as Prefect blocks: secret fields, kept encrypted by Prefect's server and shown in its UI as dots.

`crowdsync blocks register` makes the types known to the server; people then fill them in under *Blocks*, and
crowdsync.toml names them (`block = "acme"`). Without a block the secrets come from the environment or from files.
"""

from __future__ import annotations

from typing import TypeVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from connectors.errors import ConfigurationError
from connectors.settings import DirectorySettings
from connectors.source import SourceSettings


class CrowdCredentials(Block):
    """The password of a Crowd application."""

    _block_type_name = "Crowd credentials"
    _block_type_slug = "crowd-credentials"
    _description = "The password of the Crowd application that crowdsync uses."

    password: SecretStr = Field(title="Password", description="Of the application, as set in Crowd.")


class SourceCredentials(Block):
    """The secrets of one identity provider. Only those that its kind needs are filled in."""

    _block_type_name = "Identity provider credentials"
    _block_type_slug = "idp-credentials"
    _description = "The secrets of an identity provider that crowdsync reads."

    token: SecretStr | None = Field(None, title="API token", description="SCIM bearer token, or an Okta API token.")
    client_secret: SecretStr | None = Field(
        None, title="Client secret", description="Of the OAuth client: Entra ID, OneLogin, Keycloak, Oracle IDCS."
    )
    private_key: SecretStr | None = Field(
        None, title="Private key", description="PEM, for Okta and Entra ID; for Google the service account's JSON file."
    )


B = TypeVar("B", bound=Block)
BLOCKS = (CrowdCredentials, SourceCredentials)


async def source_secrets(name: str, settings: SourceSettings) -> dict[str, str]:
    """The secrets of a source by name, from its block. Raises `ConfigurationError`."""
    block = await _load(SourceCredentials, settings.block, f"sources.{name}.block")
    found: dict[str, str] = {}
    for one in settings.secrets():
        value: SecretStr | None = getattr(block, one)
        if value is None or not value.get_secret_value():
            raise ConfigurationError(
                f"sources.{name}.block: the Prefect block {settings.block!r} has no {one}; a {settings.kind} source "
                "needs it: fill it in under Blocks in the Prefect UI"
            )
        found[one] = value.get_secret_value()
    return found


async def directory_secret(settings: DirectorySettings) -> str:
    """The password of the Crowd application, from its block. Raises `ConfigurationError`."""
    block = await _load(CrowdCredentials, settings.block, "directory.block")
    password: str = block.password.get_secret_value()
    return password


async def _load(kind: type[B], name: str, field: str) -> B:
    try:
        return await kind.aload(name)
    except ValueError:
        raise ConfigurationError(
            f"{field}: Prefect has no block {name!r} of the type {kind._block_type_name!r}; make it under Blocks in "
            "the Prefect UI (`crowdsync blocks register` makes the type known)"
        ) from None


async def register() -> list[str]:
    """Makes the block types known to Prefect's server; their names."""
    for block in BLOCKS:
        await block.aregister_type_and_schema()
    return [str(block._block_type_name) for block in BLOCKS]
