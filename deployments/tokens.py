"""`crowdsync tokens`: bearer tokens for identity providers that push."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.idp.push import PushSettings
from connectors.settings import load
from deployments import show
from deployments.listing import AsCsv, AsJson, Form
from deployments.opened import opened_store
from deployments.terminal import console, explained

tokens = typer.Typer(help="Bearer tokens for identity providers that push by SCIM.", no_args_is_help=True)


@tokens.command()
def make(
    source: Annotated[str, typer.Argument(help='A source of kind "push" in crowdsync.toml.')],
    days: Annotated[int, typer.Option(help="How long it lives.", min=1, max=3650)] = 365,
) -> None:
    """Make a token and show it, once: the last line is the token alone. Older ones of the source live on."""
    with explained():
        settings = load().source(source)
        if not isinstance(settings, PushSettings):
            raise ConfigurationError(
                f'sources.{source} is of kind "{settings.kind}", which pushes nothing; tokens are for kind "push"'
            )
    with opened_store() as store:
        made, text = store.make_token(source, days=days, now=datetime.now(UTC))
    console.print(f"SCIM address: {escape(settings.scim_address(source))}", highlight=False, soft_wrap=True)
    console.print(f"token {made.id} lives until {made.expires_at:%Y-%m-%d}; it is shown this once", highlight=False)
    print(text)  # noqa: T201  (as it is, for scripts)


@tokens.command("list")
def listed(as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """The tokens, and when each was used last; never the tokens themselves."""
    with opened_store() as store:
        show.tokens(console, store.tokens(), datetime.now(UTC), Form.of(as_json, as_csv))


@tokens.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Its id, as `crowdsync tokens list` shows it.", metavar="ID")],
) -> None:
    """End a token, at once."""
    with opened_store() as store:
        ended = store.revoke_token(token, datetime.now(UTC))
    console.print(f"token {ended.id} of {escape(ended.source)} is revoked", highlight=False)
