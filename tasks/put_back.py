"""Whether an older copy of the database was put back (`connectors.store.put_back`): looked for at the beginning of each
run, by the file that the runs before left outside of it."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from connectors.settings import Settings
from connectors.store import Store
from connectors.store.put_back import read_head, write_head

log = logging.getLogger("crowdsync")


def look_back(store: Store, settings: Settings, directory: str, source: str, *, acts: bool) -> bool:
    """Whether this source's runs must know it. The first that `acts` takes back what the database says of the present,
    for all sources; one that does not (a preview) changes nothing."""
    file = settings.head_file()
    head = read_head(file)
    if head is None or not store.is_older(head):
        return store.put_back(directory, source)
    if acts:
        why = f"{file} knows of row {head.row:,} of the audit chain, at {head.at}; the database does not have it"
        store.note_put_back(every_source(settings), head=head, actor="crowdsync", why=why, at=datetime.now(UTC))
        keep_head(store, file)
        log.error("an older copy of the database was put back: %s. Everything is read, and what follows asks", why)
    return True


def standing(store: Store, settings: Settings) -> list[str]:
    """What is to be said of it, in lines; none where nothing is."""
    file = settings.head_file()
    head = read_head(file)
    found = [
        f"an older copy was put back, and {source} was not brought in step since: crowdsync sync {source}"
        for directory, source in every_source(settings)
        if store.put_back(directory, source)
    ]
    if head is not None and store.is_older(head):
        found.append(f"it is an older copy than {file} knows, of {head.at}: the next run reads everything, and asks")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        found.append(f"{file} cannot be written: an older copy that is put back would not be noticed; see [store]")
    return found


def every_source(settings: Settings) -> list[tuple[str, str]]:
    """Every source, with its directory: (directory, source)."""
    return [(settings.directory_of(name).name, name) for name in settings.sources]


def keep_head(store: Store, file: Path) -> None:
    """Keeps how far the database is. Where that cannot be, runs go on: `crowdsync check` says so."""
    head = store.head(datetime.now(UTC))
    try:
        if head is not None:
            write_head(file, head)
    except OSError as error:
        log.warning("%s cannot be written (%s): an older copy of the database would not be noticed", file, error)
