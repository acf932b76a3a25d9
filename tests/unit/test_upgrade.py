"""A database of every earlier schema, with rows in all of its tables, is led to the newest one and loses none of them;
and whoever has an older program is told so in a line."""

from __future__ import annotations

from typing import Any, Final

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Boolean, Connection, Integer, MetaData, Table, select, text

from connectors.errors import ConfigurationError
from connectors.store import Store, database
from connectors.store.tables import METADATA

REVISIONS: Final = database.revisions()
Rows = dict[str, list[dict[str, Any]]]


def to(connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    config.attributes |= {"connection": connection, "version_table": database.REVISION_TABLE}
    command.upgrade(config, revision)


def filled(connection: Connection, made: int, before: Rows) -> Rows:
    """Proves that the rows of before are there, with all that they said; puts two more into every table that there is,
    each value its own, parents first."""
    found = MetaData()
    found.reflect(connection)
    after: Rows = {}
    for table in found.sorted_tables:
        if table.name == database.REVISION_TABLE:
            continue
        there = [dict(row) for row in connection.execute(select(table)).mappings()]
        for row in before.get(table.name, ()):
            assert [now for now in there if row.items() <= now.items()], f"{table.name}: {row} is lost"
        more = [_row(table, made * 2 + n) for n in (1, 2)]
        connection.execute(table.insert(), more)
        after[table.name] = [*there, *more]
    assert before.keys() <= after.keys()
    return after


def _row(table: Table, number: int) -> dict[str, Any]:
    def value(column: Any) -> Any:
        if isinstance(column.type, Boolean):
            return bool(number % 2)
        return number if isinstance(column.type, Integer) else f"{column.name} {number}"

    return {column.name: value(column) for column in table.columns}


def test_rows_of_every_schema_reach_the_newest(url: str) -> None:
    opened = database.Database(url)
    try:
        before: Rows = {}
        for made, revision in enumerate(REVISIONS[:-1]):
            with opened.write() as connection:
                to(connection, revision)
                before = filled(connection, made, before)
            with pytest.raises(ConfigurationError, match=rf"schema {revision}.*crowdsync database upgrade"):
                database.ready(opened)
        assert Store.upgrade(url) == (REVISIONS[-2], REVISIONS[-1])
        with opened.write() as connection:
            after = filled(connection, len(REVISIONS), before)
            context = MigrationContext.configure(connection, opts={"version_table": database.REVISION_TABLE})
            assert compare_metadata(context, METADATA) == []
            assert set(after) == set(METADATA.tables)
            assert len(after["plan"]) == 2 * len(REVISIONS)
    finally:
        opened.close()


def test_an_older_program_is_refused_by_a_newer_schema(store_url: str) -> None:
    newer = database.Database(store_url)
    with newer.write() as connection:
        connection.execute(text(f"UPDATE {database.REVISION_TABLE} SET version_num = '9999'"))
    newer.close()
    for opening in (Store.open, Store.upgrade):
        with pytest.raises(ConfigurationError, match=r"schema 9999, which this program .* does not know: run") as said:
            opening(store_url)
        assert "\n" not in str(said.value)
