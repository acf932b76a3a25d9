"""One database, SQLite or PostgreSQL: opening it, its schema's revision, and transactions.

| | SQLite | PostgreSQL |
|---|---|---|
| readers and writers | WAL: readers never wait | MVCC |
| a write begins with | `BEGIN IMMEDIATE`: one writer at a time, the others wait up to `busy` seconds | a lock on what it is about (`Database.lock`) |
| durability | `synchronous=FULL`: the journal's intent must survive a power cut, and costs one fsync | as configured |
"""  # noqa: E501

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum, IntEnum, auto
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError, RetryableError
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
    MIRROR = 9
    INBOX = 8
    AUDIT = 3


class Database:
    """An engine with our conventions. Threads may share one; each transaction has its own connection."""

    def __init__(self, url: str, *, busy: float = 30.0) -> None:
        """Raises `ConfigurationError` for a URL that is neither SQLite file nor PostgreSQL."""
        self.url: Final = _parsed(url)
        self.place: Final = place(self.url)
        self.sqlite: Final = self.url.get_backend_name() == "sqlite"
        self.busy: Final = busy
        self._reading = threading.local()
        if self.sqlite:
            self.engine = create_engine(self.url, connect_args={"timeout": busy})
            _sqlite_conventions(self.engine)
        else:
            self.engine = create_engine(self.url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS})

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: within `one_read` that one. Raises `RetryableError` when the database does not
        answer, `RefusedError` when it is damaged or its disk fails."""
        if (open_one := getattr(self._reading, "connection", None)) is not None:
            yield open_one
            return
        with self._explained(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def one_read(self) -> Iterator[None]:
        """All that this thread reads in the block is read in one transaction, which costs as much as a look-up does.
        Nothing may be written in it."""
        with self.read() as connection:
            before, self._reading.connection = getattr(self._reading, "connection", None), connection
            try:
                yield
            finally:
                self._reading.connection = before

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits at the end of the block, or not at all when the block raises.

        Raises `RetryableError` when the database does not answer, its disk is full, or another writer holds it too
        long; `RefusedError` when it is damaged, cannot be written to, or its disk fails.
        """
        if getattr(self._reading, "connection", None) is not None:
            raise AssertionError("written within `one_read`, which would not see it")
        with (
            self._explained(),
            self.engine.connect().execution_options(crowdsync_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    def lock(self, connection: Connection, lock: Lock) -> None:
        """Wait until no other transaction holds `lock`; SQLite's writers hold everything already."""
        if not self.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(7737, :lock)"), {"lock": int(lock)})

    def refuse_damage(self) -> None:
        """Look through a whole file of SQLite. Raises `RefusedError` where its pages do not fit together."""
        if not self.sqlite:
            return
        with self.read() as connection:
            found = str(connection.execute(text("PRAGMA quick_check(1)")).scalar())
        if found != "ok":
            raise RefusedError(f"{self.place}: {_line(found)}; {_DAMAGED}")

    def now(self, connection: Connection) -> datetime:
        """The time by the one clock that all who use the database share."""
        if self.sqlite:  # a file is opened by one machine alone
            return datetime.now(UTC)
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return now.astimezone(UTC)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What goes wrong with the database itself, as an error of ours. Any other is a mistake of the program."""
        try:
            yield
        except (DBAPIError, sqlite3.DatabaseError, psycopg.Error) as error:
            known = self._known(error)
            if known is None:
                raise
            raise known from error

    def _known(self, error: Exception) -> CrowdsyncError | None:
        cause = _cause(error)
        if _is_busy(cause):
            return _HeldError(
                f"{self.place} was held by another writer for {self.busy:g} s; try again when it is done."
            )
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return RetryableError(f"{self.place} broke the connection: {_line(cause)}")
        trouble = _TROUBLES[_trouble(cause)]
        if trouble is None:
            return None
        kind, step = trouble
        return kind(f"{self.place}: {_line(cause)}; {step}")


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
        # (SQLAlchemy takes longer to say so than SQLite to do it.)
        raw: Any = connection.connection.dbapi_connection
        raw.execute("BEGIN IMMEDIATE" if write else "BEGIN")


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


class _HeldError(RetryableError):
    """Another process writes to the database."""


class _Trouble(Enum):
    FULL = auto()
    DAMAGED = auto()
    READ_ONLY = auto()
    DISK = auto()
    RIGHTS = auto()
    MOMENT = auto()
    OTHER = auto()


_DAMAGED: Final = (
    "its content is damaged: let no crowdsync run, keep a copy of it, and put the last backup back; with an empty "
    "database, accounts and groups are known again by their marks in Crowd."
)
_TROUBLES: Final[dict[_Trouble, tuple[type[CrowdsyncError], str] | None]] = {
    _Trouble.FULL: (RetryableError, "what it was to keep was not kept: make room where it lies, then run again."),
    _Trouble.DAMAGED: (
        RefusedError,
        _DAMAGED,
    ),
    _Trouble.READ_ONLY: (
        RefusedError,
        "it cannot be written to: see that this user may write to it and to its folder, and that it is no standby.",
    ),
    _Trouble.DISK: (RefusedError, "its disk fails, or a quota or limit on the size of files is reached: see to that."),
    _Trouble.RIGHTS: (ConfigurationError, "the user in its URL may not do that: give it the rights of the owner."),
    _Trouble.MOMENT: (RetryableError, "run again in a moment."),
    _Trouble.OTHER: None,
}
"""What each kind of trouble means: the error, and the operator's next step."""

# SQLite names its errors; extended ones (IOERR_WRITE) begin with the plain one.
_SQLITE: Final = {
    "SQLITE_FULL": _Trouble.FULL,
    "SQLITE_CORRUPT": _Trouble.DAMAGED,
    "SQLITE_NOTADB": _Trouble.DAMAGED,
    "SQLITE_FORMAT": _Trouble.DAMAGED,
    "SQLITE_READONLY": _Trouble.READ_ONLY,
    "SQLITE_PERM": _Trouble.READ_ONLY,
    "SQLITE_CANTOPEN": _Trouble.DISK,
    "SQLITE_IOERR": _Trouble.DISK,
    "SQLITE_NOLFS": _Trouble.DISK,
    "SQLITE_PROTOCOL": _Trouble.MOMENT,
    "SQLITE_NOMEM": _Trouble.MOMENT,
}

# PostgreSQL numbers them, by class and in full: https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRESQL: Final = {
    "53100": _Trouble.FULL,
    "53": _Trouble.MOMENT,  # out of memory, of connections
    "XX001": _Trouble.DAMAGED,
    "XX002": _Trouble.DAMAGED,
    "25006": _Trouble.READ_ONLY,
    "58": _Trouble.DISK,
    "42501": _Trouble.RIGHTS,
    "40": _Trouble.MOMENT,  # a deadlock, which it has ended
    "55P03": _Trouble.MOMENT,
    "57": _Trouble.MOMENT,  # it shuts down, starts, or was told to end the statement
}


def _trouble(cause: Any) -> _Trouble:
    if isinstance(cause, sqlite3.Error):
        if "Could not decode to UTF-8" in str(cause):
            return _Trouble.DAMAGED  # (Python's own finding)
        name = getattr(cause, "sqlite_errorname", "")
        return next((trouble for known, trouble in _SQLITE.items() if name.startswith(known)), _Trouble.OTHER)
    state = getattr(cause, "sqlstate", None) or ""
    return _POSTGRESQL.get(state) or _POSTGRESQL.get(state[:2]) or _Trouble.OTHER


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
    except _HeldError as error:
        raise ConfigurationError(
            f"{error} Wait for the other process to end, or stop it if it should not be running."
        ) from error
    except (DBAPIError, sqlite3.Error, RefusedError) as error:
        cause = _cause(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        if isinstance(error, RefusedError) and not _is_place(cause):
            raise
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


def _is_place(cause: Any) -> bool:
    """Whether it is the wrong file, or one that cannot be used: that is a setting."""
    name = getattr(cause, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_NOTADB", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM"))


def _is_busy(cause: Any) -> bool:
    return isinstance(cause, sqlite3.OperationalError) and ("locked" in str(cause) or "busy" in str(cause))
