"""Beside the batches of `crowdsync react`: that providers go on telling who changed."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from connectors.settings import load
from connectors.store import Store
from tasks.read.subscribed import look_after, subscribed

EVERY: Final = 600.0
"""Seconds between two looks."""
SOON: Final = 15.0
"""Seconds until the next look where something is missing, such as while what listens is starting; twice as long each
time."""

log = logging.getLogger("crowdsync.react")


async def keep_subscribed(directory: str, store: Store) -> None:
    """Looks after the subscriptions of a directory's sources, until it is cancelled."""
    pause, told = SOON, set[str]()
    while True:
        missing = False
        try:
            settings = load()
            names = [name for name in subscribed(settings) if settings.directory_of(name).name == directory]
            rows = await look_after(settings, store, names) if settings.receiver.public_url else []
            for row in rows:
                missing = missing or row["what"] == "missing"
                line = f"{row['source']}: tells of {row['tells of'] or 'changes'}: {row['what']} {row['why']}".rstrip()
                if row["what"] == "missing" or "could not" in row["why"]:
                    (log.debug if line in told else log.warning)("%s", line)
                    told.add(line)
                elif row["until"] and row["why"]:  # made, or another one was gone
                    log.info("%s", line)
            told = told if missing else set()
        except Exception as error:  # such as a configuration that is being written
            missing = True
            log.warning("subscriptions: %s", error)
        await asyncio.sleep(pause if missing else EVERY)
        pause = min(2 * pause, EVERY) if missing else SOON
