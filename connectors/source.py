"""What every source's configuration has in common, and how its client is opened from it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from connectors.errors import ConfigurationError
from connectors.http import Http


class Strict(BaseModel):
    """Settings: unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WebhookSettings(Strict):
    """What comes to /webhooks/NAME: how it is proved."""

    kind: Literal["standard"] | None = Field(None, description="Standard Webhooks, instead of the provider's own.")
    secret_env: str = Field("CROWDSYNC_WEBHOOK_SECRET", description="Environment variable with its secret, or two.")
    secret_file: str = Field("", description="Or the file that holds it.")
    subscribe: bool = Field(True, description="Whether we ask the provider to send them, where that ends after a time.")


class PollingSettings(Strict):
    """How the provider is asked for its events."""

    seconds: float = Field(10, ge=2, le=3600, description="Seconds between two polls.")
    sign_ins: bool = Field(True, description="Whether sign-ins are asked for, too.")


class WithPolling(Strict):
    """A source whose provider can be asked for its events (`connectors.contract.Polls`)."""

    polling: PollingSettings | None = Field(None, description="That its events are polled; they are not without it.")


class EventSettings(Strict):
    """The security event tokens that come to /events/NAME, or are polled: who signs them, and for whom."""

    issuer: str = Field(min_length=1, description="Who signs them: `iss`, to the letter.")
    audience: str = Field(min_length=1, description="For whom: one of `aud`.")
    jwks_url: str = Field("", pattern="^(https://.+)?$", description="Address of the issuer's public keys (JWKS).")
    jwks_file: str = Field("", description="Or the file that holds them.")
    poll_url: str = Field(
        "", pattern="^(https?://[^/]+/.*)?$", description="Where they are polled (RFC 8936), where they are not pushed."
    )
    poll_seconds: float = Field(10, ge=2, le=3600, description="Seconds between two polls.")
    token_env: str = Field("CROWDSYNC_EVENTS_TOKEN", description="Environment variable with the token for polling.")
    token_file: str = Field("", description="Or the file that holds it.")

    @model_validator(mode="after")
    def _keys(self) -> EventSettings:
        if bool(self.jwks_url) == bool(self.jwks_file):
            raise ValueError("name the issuer's public keys by one of jwks_url and jwks_file")
        return self


class SourceSettings(Strict):
    """What all sources have. A connector adds its own; secrets are named, never stated."""

    kind: str = Field(description="Which connector reads it.")
    url: str = Field(description="Base address of its API.")
    directory: str = Field("", description="The Crowd directory to sync into, where there are several.")
    block: str = Field("", description="Prefect block with its secrets; else they come from the environment.")
    concurrency: int = Field(8, ge=1, le=64, description="Requests under way at once.")
    requests_per_second: float | None = Field(None, gt=0, description="The provider's limit, if it does not say.")
    timeout: float = Field(60, gt=0, description="Seconds to wait for an answer.")
    page_size: int = Field(1000, ge=1, le=10_000, description="Records a page; the server may give fewer.")
    max_megabytes: int = Field(256, ge=1, le=4096, description="The largest answer that is taken.")
    run_hours: float = Field(12, gt=0, le=168, description="How long a run may take until it is stopped.")
    ca_file: str = Field("", description="PEM file of the certificate authority, where it is not a public one.")
    webhook: WebhookSettings | None = Field(None, description="The webhooks that it sends to /webhooks/NAME.")
    events: EventSettings | None = Field(None, description="The security event tokens that it sends to /events/NAME.")
    sign_in_minutes: float = Field(
        15, ge=0, le=1440, description="Who was read within so many minutes is not read again for signing in."
    )
    policy: dict[str, Any] = Field(default_factory=dict, description="See tasks/policy/POLICY.md.")
    policy_file: str = Field("", description="Or a YAML or TOML file with it, beside crowdsync.toml.")

    known: ClassVar[tuple[str, ...]] = ()
    """Secrets that this kind of source can have, by name; each has a field `…_env` and a field `…_file`."""

    def secrets(self) -> tuple[str, ...]:
        """The secrets that this configuration needs."""
        return self.known

    def same_names(self) -> str:
        """The setting that keeps two groups of one name apart, for messages; "" where there is none, or it is set."""
        return ""

    def place(self, secret: str) -> str:
        """Where a secret comes from, for messages: `$VARIABLE`, a file or a block."""
        if self.block:
            return f"the Prefect block {self.block}"
        return str(getattr(self, f"{secret}_file") or f"${getattr(self, f'{secret}_env')}")


class WithToken(Strict):
    """A source that a fixed token opens."""

    token_env: str = Field("CROWDSYNC_SOURCE_TOKEN", description="Environment variable with the API token.")
    token_file: str = Field("", description="Or the file that holds it.")


class WithClientSecret(Strict):
    """A source that an OAuth client with a secret opens."""

    client_secret_env: str = Field("CROWDSYNC_SOURCE_SECRET", description="Environment variable with its secret.")
    client_secret_file: str = Field("", description="Or the file that holds it.")


class WithPrivateKey(Strict):
    """A source that an OAuth client with a key of its own opens."""

    private_key_env: str = Field("CROWDSYNC_SOURCE_KEY", description="Environment variable with its private key (PEM).")
    private_key_file: str = Field("", description="Or the file that holds it.")


def secret(field: str, env: str, file: str = "") -> str:
    """A secret from its file or environment variable. Raises `ConfigurationError` naming the place."""
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigurationError(f"{field}: {file} cannot be read: {error.strerror}") from None
        if not value:
            raise ConfigurationError(f"{field}: {file} is empty; put the secret in it")
        return value
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", env):  # (what stands there may be the secret: it is not repeated)
        name = field.rpartition(".")[2]
        raise ConfigurationError(
            f"{field}: {name}_env holds no name of an environment variable; write the variable's name there, and the "
            "secret into the variable"
        )
    value = os.environ.get(env, "")
    if not value:
        raise ConfigurationError(f"{field}: the environment variable {env} is not set; set it to the secret")
    return value


def secrets_of(name: str, settings: SourceSettings) -> dict[str, str]:
    """The secrets of a source from the environment and from files. Raises `ConfigurationError`."""
    return {
        one: secret(f"sources.{name}.{one}", getattr(settings, f"{one}_env"), getattr(settings, f"{one}_file"))
        for one in settings.secrets()
    }


def client(name: str, settings: SourceSettings, url: str = "", **more: Any) -> Http:
    """A client of a source: to its API, or to `url`. Raises `ConfigurationError`."""
    return Http(
        url or settings.url,
        name=f"sources.{name}",
        **{
            "rate": settings.requests_per_second,
            "concurrency": settings.concurrency,
            "timeout": settings.timeout,
            "max_bytes": settings.max_megabytes * 2**20,
            "verify": settings.ca_file or True,
            **more,
        },
    )
