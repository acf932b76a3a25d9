"""The store: our own database as one object."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from connectors.store import database
from connectors.store.audit import AuditChain
from connectors.store.database import Database
from connectors.store.decisions import Decisions
from connectors.store.departures import DepartureLog
from connectors.store.health import Health
from connectors.store.history import History
from connectors.store.holds import Holds
from connectors.store.in_step import InStepLog
from connectors.store.inbox import Inbox
from connectors.store.journal import Journal
from connectors.store.leases import Leases
from connectors.store.links import Links
from connectors.store.mirror import Mirror
from connectors.store.overtaken import Overtakings
from connectors.store.overview import Overviews
from connectors.store.put_back import PutBack
from connectors.store.records import Records
from connectors.store.tokens import Tokens


class Store(
    History,
    Links,
    Journal,
    AuditChain,
    Leases,
    DepartureLog,
    Decisions,
    Health,
    Holds,
    Records,
    InStepLog,
    Inbox,
    Mirror,
    Overtakings,
    Tokens,
    PutBack,
    Overviews,
):
    """History, verdicts, links, plans, journal, runs, audit, leases, departures, decisions, health, what is held, since
    when Crowd is in step, what was told in real time, what sources push to us, and their tokens, older copies that were
    put back, and how all of it stands; each part is a file of its own.

    Every public write is one transaction. Times are timezone-aware. Methods may be called from any thread;
    they block, so that a coroutine calls them through a thread. Raises `RetryableError` where the database
    does not answer for the moment.
    """

    def __init__(self, opened: Database) -> None:
        """Use `open`."""
        self._db = opened
        self._of_groups, self._group_links, self._numbers = {}, {}, {}

    @classmethod
    def open(cls, url: str = "sqlite:///crowdsync.db", *, busy: float = 30.0) -> Self:
        """Open the database, creating its tables if it is empty.

        `busy`: seconds to wait for another SQLite writer. Raises `ConfigurationError`, one line with the
        next step: not reachable, held, not ours, an older or newer schema.
        """
        opened = Database(url, busy=busy)
        try:
            database.ready(opened)
        except BaseException:
            opened.close()
            raise
        return cls(opened)

    @classmethod
    def upgrade(cls, url: str = "sqlite:///crowdsync.db", *, busy: float = 30.0) -> tuple[str | None, str]:
        """Bring the schema to this program's: the revision before (None: it was empty), and after."""
        opened = Database(url, busy=busy)
        try:
            return database.upgrade(opened)
        finally:
            opened.close()

    @property
    def one_machine(self) -> bool:
        """Whether only processes of one machine can have it open: a file of SQLite."""
        return self._db.sqlite

    def one_read(self) -> AbstractContextManager[None]:
        """What this thread reads in the block, it reads in one transaction; nothing may be written in it."""
        return self._db.one_read()

    def refuse_damage(self) -> None:
        """Look through a whole file of SQLite, which no query does. Raises `RefusedError` where it is damaged."""
        self._db.refuse_damage()

    def close(self) -> None:
        """Give the connections back. The store cannot be used afterwards."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
