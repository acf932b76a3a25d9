"""The disk of the database is full, fails or is damaged: one line says so, with the next step and an exit code."""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from connectors.errors import ConfigurationError, CrowdsyncError, RefusedError, RetryableError
from connectors.model import Snapshot, users_frame
from connectors.store import Store
from deployments.cli import app

AT = datetime(2026, 11, 23, 23, 31, 50, tzinfo=UTC)
PAGE = 4096


def people(count: int, first: int = 0) -> Snapshot:
    return Snapshot.of(
        users_frame(
            [(f"u{i}", f"user{i}", f"user{i}@x", "A", "B", "A B", True, "{}") for i in range(first, first + count)]
        )
    )


def filled(file: Path) -> str:
    """A database with some history."""
    url = f"sqlite:///{file}"
    with Store.open(url) as store:
        store.save_snapshot("source:acme", people(2000), taken_at=AT, run="r1")
        for i in range(50):
            store.audit(event="e", actor="a", subject=str(i), details={"i": i}, at=AT)
            store.start_run(run=f"r{i}", source="acme", directory="crowd", mode="sync", at=AT)
    return url


@contextmanager
def file_size(most: int) -> Iterator[None]:
    """This process may write no file beyond `most` bytes, as under a quota."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    url = filled(tmp_path / "store.db")
    with Store.open(url) as store:

        @event.listens_for(store._db.engine, "connect")
        def full(connection: sqlite3.Connection, _: Any) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages + 4}")

        store._db.engine.dispose()
        with pytest.raises(RetryableError, match=r"store\.db: database or disk is full; .* make room") as told:
            store.save_snapshot("source:acme", people(5000, 5000), taken_at=AT, run="r2")
        assert "\n" not in str(told.value)
        assert list(store.snapshots("source:acme")["run"]) == ["r1"]
        assert store.verify_audit() is None
    with Store.open(url) as store:
        assert store.save_snapshot("source:acme", people(5000, 5000), taken_at=AT, run="r3").users == 5000


def test_a_quota_is_told(tmp_path: Path) -> None:
    url = filled(tmp_path / "store.db")
    with (
        Store.open(url) as store,
        file_size((tmp_path / "store.db").stat().st_size + 20 * PAGE),
        pytest.raises(CrowdsyncError, match=r"store\.db: disk I/O error; its disk fails, or a quota"),
    ):
        store.save_snapshot("source:acme", people(5000, 5000), taken_at=AT, run="r2")
    with Store.open(url) as store:
        assert list(store.snapshots("source:acme")["run"]) == ["r1"]


def test_a_disk_that_is_full_from_the_beginning_is_told(tmp_path: Path) -> None:
    with file_size(8 * PAGE), pytest.raises(RefusedError, match=r"store\.db: disk I/O error; its disk fails"):
        Store.open(f"sqlite:///{tmp_path}/store.db")


def test_damaged_pages_are_told_by_every_command_that_meets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "store.db"
    filled(file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0"))
    whole = file.read_bytes()
    (tmp_path / "crowdsync.toml").write_text(
        f'[store]\nurl = "sqlite:///{file}"\n[directory]\nurl = "http://127.0.0.1:1/crowd"\napplication = "x"\n'
        '[sources.acme]\nkind = "scim"\nurl = "http://127.0.0.1:1"\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("CROWDSYNC_CONFIG", str(tmp_path / "crowdsync.toml"))
    for table, command in (("run", "runs"), ("audit", "audit"), ("snapshot", "snapshots"), ("plan", "plans")):
        damaged = bytearray(whole)
        at = (roots[table] - 1) * PAGE
        damaged[at : at + PAGE] = os.urandom(PAGE)
        damaged[at] = 0xFF  # no kind of page
        file.write_bytes(damaged)
        answer = CliRunner().invoke(app, [command])
        assert answer.exit_code == 3, (answer.output, answer.exception)
        [line] = answer.stderr.splitlines()
        assert "store.db: database disk image is malformed; its content is damaged" in line
        assert "put the last backup back" in line
    answer = CliRunner().invoke(app, ["check"])
    assert answer.exit_code == 3
    assert "its content is damaged" in answer.output
    file.write_bytes(whole)
    assert CliRunner().invoke(app, ["runs"]).exit_code == 0


def test_damage_that_no_query_meets_is_found_by_check(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    url = filled(file)
    with Store.open(url) as store:
        store.refuse_damage()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'user_version'").fetchone()[0]
    content = bytearray(file.read_bytes())
    content[(root - 1) * PAGE + 3 : (root - 1) * PAGE + 5] = b"\xff\xff"  # how many cells it has
    file.write_bytes(content)
    with Store.open(url) as store, pytest.raises(RefusedError, match="its content is damaged"):
        store.refuse_damage()


def test_what_is_no_database_stays_a_setting(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"a letter to somebody" * 500)
    with pytest.raises(ConfigurationError, match="is no SQLite database: name another file"):
        Store.open(f"sqlite:///{tmp_path}/store.db")


@pytest.mark.postgres
def test_postgresql_says_the_same(server: Any) -> None:
    with server.database() as url:
        with Store.open(url) as store, store._db.write() as connection:
            name = connection.execute(text("SELECT current_database()")).scalar_one()
        with Store.open(url) as store:
            with pytest.raises(RefusedError, match="cannot be written to"), store._db.write() as connection:
                connection.connection.dbapi_connection.execute(  # type: ignore[union-attr]
                    "SET TRANSACTION READ ONLY; DELETE FROM run"
                )
            for state, kind, says in (
                ("53100", RetryableError, "make room"),
                ("XX001", RefusedError, "its content is damaged"),
                ("58030", RefusedError, "its disk fails"),
                ("57014", RetryableError, "run again in a moment"),
                ("40P01", RetryableError, "run again in a moment"),
                ("42501", ConfigurationError, "rights of the owner"),
            ):
                raising = f"DO $$ BEGIN RAISE EXCEPTION 'it happened' USING ERRCODE = '{state}'; END $$"
                with pytest.raises(kind, match=f"{name}: it happened; .*{says}"), store._db.write() as connection:
                    connection.execute(text(raising))
                with pytest.raises(kind, match=says), store._db.write() as connection:  # as the bulk writer does
                    connection.connection.dbapi_connection.cursor().execute(raising)  # type: ignore[union-attr]
            with pytest.raises((psycopg.Error, DBAPIError)), store._db.write() as connection:
                connection.execute(text("SELECT 1 / 0"))  # a mistake of the program stays one
