"""One database, SQLite or PostgreSQL: opening it, its schema's revision, and transactions.

| | SQLite | PostgreSQL |
|---|---|---|
| readers and writers | WAL: readers never wait | MVCC |
| a write begins with | `BEGIN IMMEDIATE`: one writer at a time, the others wait up to `busy` seconds | a lock on what it is about (`Database.lock`) |
| durability | `synchronous=FULL`: the journal's intent must survive a power cut, and costs one fsync | as configured |
"""  # noqa: E501

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from connectors.errors import ConfigurationError, RetryableError
from connectors.store.tables import METADATA

MIGRATIONS: Final = Path(__file__).with_name("migrations")
REVISION_TABLE: Final = "crowdsync_revision"
"""Not Alembic's default `alembic_version`: Prefect's own database uses that name."""

CONNECT_SECONDS: Final = 10


class Lock(IntEnum):
    """What a PostgreSQL writer locks until its transaction ends. Taken in the order they stand here, AUDIT
    last; the numbers never change, because another version of the program may be at work."""

    SCHEMA = 1
    LINKS = 2
    LEASES = 4
    DEPARTURES = 5
    HEALTH = 6
    HELD = 7
    AUDIT = 3


class Database:
    """An engine with our conventions. Threads may share one; each transaction has its own connection."""

    def __init__(self, url: str, *, busy: float = 30.0) -> None:
        """Raises `ConfigurationError` for a URL that is neither SQLite file nor PostgreSQL."""
        self.url: Final = _parsed(url)
        self.place: Final = place(self.url)
        self.sqlite: Final = self.url.get_backend_name() == "sqlite"
        self._busy = busy
        if self.sqlite:
            self.engine = create_engine(self.url, connect_args={"timeout": busy})
            _sqlite_conventions(self.engine)
        else:
            self.engine = create_engine(self.url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads. Raises `RetryableError` when the database does not answer."""
        with self._retryable(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, or not at all when the block raises.

        Raises `RetryableError` when the database does not answer, or another writer holds it too long.
        """
        with (
            self._retryable(),
            self.engine.connect().execution_options(crowdsync_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def lock(self, connection: Connection, lock: Lock) -> None:
        """Wait until no other transaction holds `lock`; SQLite's writers hold everything already."""
        if not self.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(7737, :lock)"), {"lock": int(lock)})

    @contextmanager
    def _retryable(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.OperationalError) as error:
            cause = _cause(error)
            if _is_busy(cause):
                raise RetryableError(
                    f"{self.place} was held by another writer for {self._busy:g} s; try again when it is done."
                ) from error
            if isinstance(error, DBAPIError) and error.connection_invalidated:
                raise RetryableError(f"{self.place} broke the connection: {_line(cause)}") from error
            raise


def _sqlite_conventions(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        # Without this the driver begins and commits on its own, between our statements.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            "cache_size=-32000",
            "journal_size_limit=67108864",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that began as a reader could fail at its first write without ever waiting.
        write = connection.get_execution_options().get("crowdsync_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


# The revision of the schema


def revisions() -> list[str]:
    """The schema's revisions, oldest first: the number that each file in `migrations/versions` starts with."""
    return sorted(p.name.split("_")[0] for p in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def ready(database: Database) -> None:
    """Create an empty database at the newest revision; refuse any other that is not there.

    Raises `ConfigurationError`: not reachable, held, not ours, of an older or unknown schema.
    """
    with _configuration(database):
        with database.read() as connection:
            found, empty = _found(connection)
        if found is None and empty:
            found = _migrate(database)[1]
        if found is None:
            raise ConfigurationError(
                f"{database.place} holds tables named like ours and no {REVISION_TABLE}: it is not a crowdsync "
                "database; give crowdsync an empty one."
            )
        wanted = revisions()[-1]
        if found not in revisions():
            raise ConfigurationError(
                f"{database.place} has schema {found}, which this program (schema {wanted}) does not know: "
                "run the program version that made it, or a later one."
            )
        if found != wanted:
            raise ConfigurationError(
                f"{database.place} has schema {found}, this program wants {wanted}: "
                "back the database up, then run `crowdsync database upgrade`."
            )


def upgrade(database: Database) -> tuple[str | None, str]:
    """Bring the schema to the newest revision in one transaction: revision before (None: empty), and after.

    Raises `ConfigurationError` as `ready`, and for a schema that this program does not know.
    """
    with _configuration(database):
        with database.read() as connection:
            found, empty = _found(connection)
        if (found is None and not empty) or (found is not None and found not in revisions()):
            ready(database)
        return _migrate(database)


def _found(connection: Connection) -> tuple[str | None, bool]:
    # → our revision, and whether no table of ours stands there
    names = set(inspect(connection).get_table_names())
    if REVISION_TABLE in names:
        row = connection.execute(text(f"SELECT version_num FROM {REVISION_TABLE}")).first()  # noqa: S608
        if row is not None:
            return str(row[0]), False
    return None, not names & set(METADATA.tables)


def _migrate(database: Database) -> tuple[str | None, str]:
    # Imported here: Alembic costs a third of a second that opening an existing database need not pay.
    from alembic import command
    from alembic.config import Config

    with database.write() as connection:
        database.lock(connection, Lock.SCHEMA)
        found, _ = _found(connection)
        if found != revisions()[-1]:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = connection
            config.attributes["version_table"] = REVISION_TABLE
            command.upgrade(config, "head")
        return found, revisions()[-1]


# What went wrong, in one line


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text itself may hold a password, so it is not repeated.
        raise ConfigurationError(
            "The database URL cannot be read; write sqlite:///path/to/file.db or "
            "postgresql://user:password@host/database."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or ":memory:" in parsed.database or "mode=memory" in parsed.database:
            raise ConfigurationError("The database URL names no file: write sqlite:///path/to/file.db.")
        return parsed.set(drivername="sqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigurationError(
        f"The database URL asks for {backend!r}; sqlite:///path/to/file.db and "
        "postgresql://user:password@host/database are possible."
    )


def place(url: URL) -> str:
    """The URL for people: no user, no password, no query."""
    socket = {"host": url.query["host"]} if not url.host and "host" in url.query else {}
    backend = url.get_backend_name()
    return URL.create(backend, host=url.host, port=url.port, database=url.database, query=socket).render_as_string()


@contextmanager
def _configuration(database: Database) -> Iterator[None]:
    try:
        yield
    except RetryableError as error:
        raise ConfigurationError(
            f"{error} Wait for the other process to end, or stop it if it should not be running."
        ) from error
    except (DBAPIError, sqlite3.Error) as error:
        cause = _cause(error)
        if database.sqlite:
            step = (
                "the file is no SQLite database: name another file."
                if "not a database" in str(cause)
                else "check that its folder exists and that this user may write there."
            )
        else:
            step = "check host, port, database, user and password in the URL, and that the server runs."
        raise ConfigurationError(f"{database.place} cannot be opened ({_line(cause)}): {step}") from error


def _cause(error: Exception) -> Any:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _line(cause: Any) -> str:
    # psycopg reports every address it tried; the last line names the reason.
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    reason = next((line for line in lines if "failed" in line or "FATAL" in line), lines[0] if lines else "?")
    return reason.removeprefix("- ").rstrip(".")


def _is_busy(cause: Any) -> bool:
    return isinstance(cause, sqlite3.OperationalError) and ("locked" in str(cause) or "busy" in str(cause))
