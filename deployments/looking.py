"""The commands that ask our own database: what was planned, what ran, what was read."""

from __future__ import annotations

from typing import Annotated

import typer

from connectors.settings import load
from connectors.store import Store
from deployments import show
from deployments.opened import opened_store
from deployments.restored import restored
from deployments.terminal import Many, console, explained

database = typer.Typer(help="crowdsync's own database.", no_args_is_help=True)


def plans(limit: Many = 20) -> None:
    """The stored plans and what became of them."""
    with opened_store() as store:
        show.plans(console, store.plans(limit))


def runs(limit: Many = 20) -> None:
    """The latest runs and how they ended."""
    with opened_store() as store:
        show.runs(console, store.runs(limit))


def snapshots(
    stream: Annotated[str, typer.Option("--of", help="Only source:NAME or directory:NAME.")] = "", limit: Many = 20
) -> None:
    """The snapshots in history."""
    with opened_store() as store:
        show.snapshots(console, store.snapshots(stream or None, limit))


def diff(
    a: Annotated[int, typer.Argument(help="The earlier snapshot.")],
    b: Annotated[int, typer.Argument(help="The later one, of the same stream.")],
) -> None:
    """What changed between two snapshots."""
    with opened_store() as store:
        show.difference(console, store.compare_snapshots(a, b))


database.command()(restored)


@database.command()
def upgrade() -> None:
    """Bring the database to this program's schema."""
    with explained():
        settings = load()
        before, after = Store.upgrade(settings.store_url(), busy=settings.store.busy)
        console.print(f"schema {after}: was current" if before == after else f"schema {before or 'none'} → {after}")
