"""Waiting until something may have come for a directory: told by PostgreSQL, looked for in a file of SQLite.

PostgreSQL tells whoever listens when the transaction that accepted is kept. SQLite tells nobody, but it counts what
others committed, and says how much for a few microseconds of work. So there, whatever is committed may be news.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import aclosing, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

import psycopg

from connectors.store.database import CONNECT_SECONDS, Database

CHANNEL: Final = "crowdsync_inbox"
POLL: Final = 0.02
"""Seconds between two looks into a file."""
PAUSE: Final = 1.0
"""Seconds after which a database that could not be asked is asked again."""
# A connection on which nothing is sent does not notice by itself that the other side is gone.
ALIVE: Final = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}


class Wake:
    """Call it to wait; it has a connection of its own. One coroutine uses it at a time."""

    def __init__(self, database: Database, directory: str) -> None:
        self._database = database
        self._directory = directory
        self._file: sqlite3.Connection | None = None
        self._version = 0
        self._listening: psycopg.AsyncConnection[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def __call__(self, seconds: float) -> bool:
        """Wait until something may have come for the directory: True; False after `seconds`.

        The first call returns at once, and the next ones also for what came since the last: who looks into the inbox
        after each call misses nothing. Trouble with the database is no error here, and answered with True after
        at most a second: the look into the inbox tells it.
        """
        try:
            return await (self._looked if self._database.sqlite else self._told)(seconds)
        except (psycopg.Error, sqlite3.Error):
            await self._close()
            await asyncio.sleep(min(seconds, PAUSE))
            return True

    async def _told(self, seconds: float) -> bool:
        if self._listening is None:
            options: dict[str, Any] = {**ALIVE, "connect_timeout": CONNECT_SECONDS, **self._address()[1]}
            self._listening = await psycopg.AsyncConnection.connect(**options, autocommit=True)
            await self._listening.execute(f"LISTEN {CHANNEL}")
            return True
        async with aclosing(self._listening.notifies(timeout=seconds)) as notes:
            async for note in notes:
                if note.payload == self._directory:
                    return True
        return False

    async def _looked(self, seconds: float) -> bool:
        if self._file is None:
            (file,), options = self._address()
            self._file = sqlite3.connect(file, **options)
            self._version = self._committed(self._file)
            return True
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0:
            # Before the look: where another process commits all the time, the caller still has a pause.
            await asyncio.sleep(min(left, POLL))
            version = self._committed(self._file)
            if version != self._version:
                self._version = version
                return True
        return False

    def _address(self) -> tuple[Any, Any]:
        return self._database.engine.dialect.create_connect_args(self._database.url)

    @staticmethod
    def _committed(file: sqlite3.Connection) -> int:
        return int(file.execute("PRAGMA data_version").fetchone()[0])

    async def _close(self) -> None:
        file, self._file = self._file, None
        listening, self._listening = self._listening, None
        with suppress(psycopg.Error, sqlite3.Error):
            if file is not None:
                file.close()
            if listening is not None:
                await listening.close()
