"""The commands that ask our own database: what was planned, what ran, what was read."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
import typer

from connectors.errors import ConfigurationError
from connectors.model import Snapshot
from connectors.settings import Settings, load
from connectors.spelling import meant
from connectors.store import Store
from deployments import show
from deployments.listing import AsCsv, AsJson, Form
from deployments.opened import opened_store
from deployments.restored import restored
from deployments.terminal import Many, Most, SourceName, console, explained

database = typer.Typer(help="crowdsync's own database.", no_args_is_help=True)


def plans(limit: Many = 20, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """The stored plans and what became of them."""
    with opened_store() as store:
        form = Form.of(as_json, as_csv)
        found = store.plans(limit)
        show.plans(console, found, store.plans_overtaken(found["id"].tolist()), form)


def runs(limit: Many = 20, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """The latest runs, how they ended, their plans and the snapshots that they took."""
    with opened_store() as store:
        show.runs(console, store.runs(limit), Form.of(as_json, as_csv))


def snapshots(
    stream: Annotated[str, typer.Option("--of", help="Only source:NAME or directory:NAME.")] = "",
    limit: Many = 20,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """The snapshots in history."""
    with opened_store() as store:
        form = Form.of(as_json, as_csv)
        if stream:
            _known_stream(load(), store, stream)
        show.snapshots(console, store.snapshots(stream or None, limit), stream, form)


def _known_stream(settings: Settings, store: Store, stream: str) -> None:
    """Raises `ConfigurationError` for what is neither configured nor was ever read."""
    known = [f"source:{name}" for name in settings.sources]
    known += [f"directory:{one.name}" for one in settings.all_directories()]
    if stream not in known and store.latest_snapshot(stream) is None:
        alike = meant(stream, known) or meant(f"source:{stream}", known)
        raise ConfigurationError(f"--of: {stream!r} is none of {', '.join(known)}{alike}")


def diff(
    a: Annotated[int, typer.Argument(help="The earlier snapshot.")],
    b: Annotated[int, typer.Argument(help="The later one, of the same stream.")],
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """What changed between two snapshots."""
    with opened_store() as store:
        form = Form.of(as_json, as_csv)
        frames = store.compare_snapshots(a, b)
        names: dict[tuple[str, str], str] = {}
        for number in (a, b) if any(len(frame) for frame in frames.values()) else ():
            names |= _names(store.load_snapshot(number))
        show.difference(console, frames, lambda kind, identity: names.get((kind, identity), identity), form)


def _names(snapshot: Snapshot) -> dict[tuple[str, str], str]:
    """Kind and id of each record → its name."""
    users, groups = snapshot.users, snapshot.groups
    found = {("user", identity): name for identity, name in zip(users["id"], users["username"], strict=True)}
    return found | {("group", identity): name for identity, name in zip(groups["id"], groups["name"], strict=True)}


def held(source: SourceName = "", limit: Most = 100, as_json: AsJson = False, as_csv: AsCsv = False) -> None:
    """What is held, why, and for how many runs, as of the last run of each source that was to write."""
    with opened_store() as store:
        form, settings = Form.of(as_json, as_csv), load()
        frames = []
        for name in [source] if source else sorted(settings.sources):
            frame = store.held_records(settings.directory_of(name).name, name).assign(source=name)
            latest = store.latest_snapshot(f"source:{name}") if len(frame) else None
            names = {} if latest is None else _names(store.load_snapshot(latest.id))
            keys = list(zip(frame["kind"], frame["id"], strict=True))
            frames.append(frame.assign(name=[names.get(key, key[1]) for key in keys]))
        show.held(console, pd.concat(frames, ignore_index=True), limit, form)


database.command()(restored)


@database.command()
def upgrade() -> None:
    """Bring the database to this program's schema."""
    with explained():
        settings = load()
        before, after = Store.upgrade(settings.store_url(), busy=settings.store.busy)
        console.print(f"schema {after}: was current" if before == after else f"schema {before or 'none'} → {after}")
