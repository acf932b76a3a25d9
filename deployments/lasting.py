"""The commands about a lasting Prefect server: deployments, blocks, messages to people."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.source import secret
from deployments import serving
from deployments.notify import create, create_webhook
from deployments.server import prefect_explained, prefect_there, quiet_prefect
from deployments.terminal import console, explained

blocks = typer.Typer(help="Credentials as Prefect blocks.", no_args_is_help=True)
notify = typer.Typer(help="Messages to people, through automations of Prefect.", no_args_is_help=True)


@blocks.command()
def register() -> None:
    """Make the block types for credentials known to Prefect's server (PREFECT_API_URL), for its UI."""
    quiet_prefect()
    from tasks.read.blocks import register as run

    with explained(), prefect_explained(), prefect_there() as ready:
        ready()
        for name in asyncio.run(run()):
            console.print(f"[green]✓[/] {escape(name)}: fill one in under Blocks in the Prefect UI", highlight=False)


def deploy() -> None:
    """Make the work pool and every deployment known to Prefect's server (PREFECT_API_URL). May be run again."""
    quiet_prefect()
    with explained(), prefect_explained():
        _needs_server()
        for name in asyncio.run(serving.deploy()):
            console.print(f"[green]✓[/] {escape(name)}", highlight=False)
        console.print(
            f"Now start a worker where crowdsync.toml is: prefect worker start --pool {serving.POOL}", highlight=False
        )


@notify.command("block")
def notify_block(
    block: Annotated[
        str, typer.Argument(help="TYPE/NAME of a block made in the Prefect UI, such as slack-webhook/ops.")
    ],
) -> None:
    """Tell people through a notification block that somebody made under Blocks in the Prefect UI."""
    _notified(lambda: create(block))


@notify.command("webhook")
def notify_webhook(
    url_env: Annotated[str, typer.Option(help="Environment variable with its address.")] = "CROWDSYNC_WEBHOOK",
) -> None:
    """Tell people by a webhook that takes {"text": …}, as Slack and Mattermost do; its address is kept as a secret."""
    _notified(lambda: create_webhook(secret("the webhook's address", url_env)))


def _notified(make: Callable[[], Awaitable[list[tuple[str, str]]]]) -> None:
    quiet_prefect()
    with explained(), prefect_explained():
        _needs_server()
        for name, what in asyncio.run(_awaited(make())):
            console.print(f"[green]✓[/] {escape(name)}: {what}", highlight=False)


async def _awaited(made: Awaitable[list[tuple[str, str]]]) -> list[tuple[str, str]]:
    return await made


def _needs_server() -> None:
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        raise ConfigurationError("PREFECT_API_URL is not set, and this is about a lasting Prefect server; name yours")
