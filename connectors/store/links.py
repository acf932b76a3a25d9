"""Links: the lasting ties between a source's immutable ids and the names of one Crowd directory.

A name belongs to one link at most, compared as Crowd compares names. So a reused username cannot inherit
the old person's account: the old link has to be dropped, or moved in the same call, first.
"""

# ruff: noqa: S608 (the only text put together here is the constant `_SAME`)
from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import pandas as pd
from sqlalchemy import Column, Connection, MetaData, Select, Table, Text, select, text

from connectors.errors import RecordError
from connectors.model import crowd_id
from connectors.store import audit, bulk
from connectors.store.database import Database, Lock
from connectors.store.history import rows_frame
from connectors.store.tables import Link, LinkEvent, instant

LINK: Final[Table] = Link.__table__  # type: ignore[attr-defined]
EVENT: Final[Table] = LinkEvent.__table__  # type: ignore[attr-defined]

KEYS: Final = ("source", "kind", "id")
LINKS: Final = (*KEYS, "name", "how")

_STAGED: Final = Table(
    "staged_link",
    MetaData(),
    # Without the key, SQLite would look each link up by going through all of them.
    *(Column(n, Text, primary_key=n in KEYS) for n in (*LINKS, "folded")),
    prefixes=["TEMPORARY"],
)
_SAME: Final = "l.directory = :directory AND l.source = s.source AND l.kind = s.kind AND l.id = s.id"


class Links:
    """Read and change the links of a directory. Every change leaves a row in `link_event`, every call that
    changed something one in the audit chain."""

    _db: Database

    def links(self, directory: str, source: str | None = None) -> pd.DataFrame:
        """source, kind (user | group), id, name, how, made_at (UTC): the links of a directory."""
        statement: Select[Any] = (
            select(*(LINK.c[n] for n in (*LINKS, "made_at")))
            .where(LINK.c.directory == directory)
            .order_by(LINK.c.source, LINK.c.kind, LINK.c.id)
        )
        if source is not None:
            statement = statement.where(LINK.c.source == source)
        with self._db.read() as connection:
            frame = bulk.read_frame(connection, statement, dict.fromkeys((*LINKS, "made_at"), "text"))
        frame["made_at"] = bulk.times(frame["made_at"])
        return frame

    def save_links(
        self, directory: str, links: pd.DataFrame, *, at: datetime, run: str, actor: str = "crowdsync"
    ) -> int:
        """Make or change links: source, kind, id, name, how → how many were new or changed.

        A link that is already so is left alone, its `made_at` too. Raises `RecordError`, and changes
        nothing, where a name would belong to two ids.
        """
        with self._db.write() as connection:
            return save(self._db, connection, directory, links, at=at, run=run, actor=actor)

    def drop_links(
        self, directory: str, links: pd.DataFrame, *, at: datetime, run: str, actor: str = "crowdsync"
    ) -> int:
        """Remove links by source, kind, id → how many there were."""
        with self._db.write() as connection:
            return drop(self._db, connection, directory, links, at=at, run=run, actor=actor)

    def link_history(
        self,
        directory: str,
        *,
        source: str | None = None,
        id: str | None = None,  # noqa: A002
        limit: int = 1000,
    ) -> pd.DataFrame:
        """Newest first: at (UTC), run, source, kind, id, action (made | changed | dropped), before, after, how."""
        columns = ("id", "at", "run", "source", "kind", "external", "action", "before", "after", "how")
        statement = select(*(EVENT.c[n] for n in columns)).where(EVENT.c.directory == directory)
        if source is not None:
            statement = statement.where(EVENT.c.source == source)
        if id is not None:
            statement = statement.where(EVENT.c.external == id)
        with self._db.read() as connection:
            frame = rows_frame(connection, statement.order_by(EVENT.c.id.desc()).limit(limit), times=("at",))
        return frame.drop(columns="id").rename(columns={"external": "id"})


def events_of(directory: Any) -> Any:
    """The condition that link events are those of a directory, where their numbers say which they are, and not the
    index that begins with it: by that, a database goes through all of the directory's."""
    return EVENT.c.directory.concat("") == directory


def save(
    database: Database,
    connection: Connection,
    directory: str,
    links: pd.DataFrame,
    *,
    at: datetime,
    run: str,
    actor: str = "crowdsync",
) -> int:
    """`Links.save_links` inside the caller's transaction."""
    if links.empty:
        return 0
    wanted = bulk.texts(links, LINKS)
    wanted["folded"] = bulk.folded(wanted["name"], crowd_id)
    # The last word on one id counts only where it is the only one.
    wanted = wanted.drop_duplicates()
    _refuse_twins(directory, wanted)
    wanted = wanted.sort_values(list(KEYS), ignore_index=True)
    database.lock(connection, Lock.LINKS)
    with bulk.staged(connection, _STAGED, {n: wanted[n] for n in wanted.columns}, len(wanted)):
        _refuse_owned(connection, directory)
        changes = connection.execute(
            text(
                "INSERT INTO link_event "
                "(at, run, directory, source, kind, external, action, before, after, how) "
                "SELECT :at, :run, :directory, s.source, s.kind, s.id, "
                "CASE WHEN l.id IS NULL THEN 'made' ELSE 'changed' END, "
                f"COALESCE(l.name, ''), s.name, s.how FROM staged_link s LEFT JOIN link l ON {_SAME} "
                "WHERE l.id IS NULL OR l.name <> s.name OR l.how <> s.how"
            ),
            {"at": instant(at), "run": run, "directory": directory},
        ).rowcount
        if changes:
            same = f"EXISTS (SELECT 1 FROM link l WHERE {_SAME} AND l.name = s.name AND l.how = s.how)"
            # Unchanged ones leave the stage; the others go out and come in, so that names can be swapped.
            connection.execute(
                text(f"DELETE FROM staged_link AS s WHERE {same}"),
                {"directory": directory},
            )
            connection.execute(
                text(
                    "DELETE FROM link WHERE directory = :directory AND (source, kind, id) IN "
                    "(SELECT source, kind, id FROM staged_link)"
                ),
                {"directory": directory},
            )
            connection.execute(
                text(
                    "INSERT INTO link (directory, source, kind, id, name, folded, how, made_at, run) "
                    "SELECT :directory, source, kind, id, name, folded, how, :at, :run FROM staged_link "
                    "ORDER BY source, kind, id"
                ),
                {"directory": directory, "at": instant(at), "run": run},
            )
    return _audited(database, connection, "links saved", directory, changes, at=at, run=run, actor=actor)


def drop(
    database: Database,
    connection: Connection,
    directory: str,
    links: pd.DataFrame,
    *,
    at: datetime,
    run: str,
    actor: str = "crowdsync",
) -> int:
    """`Links.drop_links` inside the caller's transaction."""
    if links.empty:
        return 0
    wanted = bulk.texts(links, KEYS).drop_duplicates()
    database.lock(connection, Lock.LINKS)
    with bulk.staged(connection, _STAGED, {n: wanted[n] for n in wanted.columns}, len(wanted)):
        connection.execute(
            text(
                "INSERT INTO link_event "
                "(at, run, directory, source, kind, external, action, before, after, how) "
                "SELECT :at, :run, :directory, l.source, l.kind, l.id, 'dropped', l.name, '', l.how "
                f"FROM staged_link s JOIN link l ON {_SAME}"
            ),
            {"at": instant(at), "run": run, "directory": directory},
        )
        dropped = connection.execute(
            text(
                "DELETE FROM link WHERE directory = :directory AND (source, kind, id) IN "
                "(SELECT source, kind, id FROM staged_link)"
            ),
            {"directory": directory},
        ).rowcount
    return _audited(database, connection, "links dropped", directory, dropped, at=at, run=run, actor=actor)


def _audited(
    database: Database,
    connection: Connection,
    event: str,
    directory: str,
    count: int,
    *,
    at: datetime,
    run: str,
    actor: str,
) -> int:
    if count:
        details = {"run": run, "links": count}
        audit.append(database, connection, event=event, actor=actor, subject=directory, details=details, at=at)
    return count


def _refuse_twins(directory: str, wanted: pd.DataFrame) -> None:
    for columns, sentence in (
        (list(KEYS), "is given two names in one call"),
        (["kind", "folded"], "is given to two ids in one call"),
    ):
        doubled = wanted.duplicated(columns, keep=False)
        if doubled.any():
            twins = wanted[doubled].sort_values(columns)
            one = twins.iloc[0]
            what = f"{one['kind']} {one['source']}:{one['id']}" if columns[0] == "source" else f"name {one['name']!r}"
            raise RecordError(
                f"In directory {directory!r} the {what} {sentence} ({len(twins)} links are in such "
                "conflict); none was saved.",
                "LINK_CONFLICT",
            )


def _refuse_owned(connection: Connection, directory: str) -> None:
    owned = connection.execute(
        text(
            "SELECT s.kind, s.name, s.source, s.id, l.source AS owner_source, l.id AS owner_id "
            # CROSS JOIN: SQLite then goes from the stage to the links by name, and never the other way.
            "FROM staged_link s CROSS JOIN link l "
            "WHERE l.directory = :directory AND l.kind = s.kind AND l.folded = s.folded "
            "AND NOT (l.source = s.source AND l.id = s.id) AND NOT EXISTS "
            "(SELECT 1 FROM staged_link m WHERE m.source = l.source AND m.kind = l.kind AND m.id = l.id) "
            "ORDER BY s.kind, s.name LIMIT 1"
        ),
        {"directory": directory},
    ).first()
    if owned is not None:
        raise RecordError(
            f"In directory {directory!r} the {owned.kind} name {owned.name!r} belongs to "
            f"{owned.owner_source}:{owned.owner_id} and cannot also be linked to {owned.source}:{owned.id}; "
            "drop or move the first link.",
            "LINK_CONFLICT",
        )
