"""The commands of real time: what listens, and what acts on it."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from connectors.errors import ConfigurationError
from connectors.settings import Settings, load
from deployments.opened import settings_store
from deployments.process import freeze_imports
from deployments.server import quiet_prefect
from deployments.terminal import console, explained

if TYPE_CHECKING:
    from deployments.react import Reactor


def receive(
    host: Annotated[str, typer.Option(help="Address to listen on; a reverse proxy stands before it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any that is free.", min=0, max=65535)] = 8471,
) -> None:
    """Listen for webhooks, event tokens and SCIM, and put what they tell into the inbox, until it is ended."""
    with explained():
        settings = load()
        with settings_store(settings):
            pass
        from deployments.receiver import serve

        freeze_imports()
        asyncio.run(serve(settings, host, port, lambda url: console.print(f"listening on {url}", highlight=False)))


def react(
    directory: Annotated[
        str, typer.Argument(help="A directory of crowdsync.toml; may be left out where there is one.")
    ] = "",
) -> None:
    """Take what the inbox has and bring Crowd in step, within a second, until it is ended."""
    with explained():
        settings = load()
        name = _directory(settings, directory)
        quiet_prefect()
        logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
        logging.getLogger("crowdsync").setLevel(logging.INFO)
        # What others say below a warning, as Prefect does of its runs, stands on their pages.
        logging.getLogger().handlers[0].addFilter(
            lambda record: record.levelno >= logging.WARNING or record.name.startswith("crowdsync")
        )
        with settings_store(settings) as store:
            from deployments.react import Reactor

            reactor = Reactor(name, store)
            freeze_imports()
            asyncio.run(_until_ended(reactor))


async def _until_ended(reactor: Reactor) -> None:
    """Works until SIGTERM or Ctrl-C; the batch that runs is finished first."""
    work = asyncio.ensure_future(reactor.work())
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, reactor.end)
    console.print(f"reacting for {escape(reactor.directory)}", highlight=False)
    await work


def _directory(settings: Settings, name: str) -> str:
    known = [one.name for one in settings.all_directories()]
    if not name and len(known) > 1:
        raise ConfigurationError(f"there are several directories: name one of {', '.join(known)}")
    return settings.directory_named(name or known[0]).name
