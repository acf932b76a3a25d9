"""What batches of news decided while another run had lent them its right to write.

What tells is what they leave in any case: the snapshots that they save, their plans and the journal, and the rows of
the inbox that they took. Everything goes by numbers that only rise, and nothing by clocks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from sqlalchemy import Connection, func, or_, select

from connectors.model import crowd_id, sizes_only
from connectors.operations import KINDS, Kind
from connectors.store.database import Database
from connectors.store.history import GROUP, KEY, MEMBERSHIP, SNAPSHOT, STREAM, USER
from connectors.store.inbox import INBOX
from connectors.store.journal import OPERATION, PLAN, RUN
from connectors.store.leases import LEASE
from connectors.store.tables import instant

SETTLED: Final = ("nothing to do", "applied")
"""How a batch ends that left nothing open."""


@sizes_only
@dataclass(slots=True)
class Overtaken:
    """What batches did: their `runs`; `people` (ids of the source) about whom they decided, and `accounts` (names, as
    Crowd looks them up) that they wrote to; `seen`: people whom they read, and left to another run. `keys` and
    `groups`: how the news called people, accounts ("account:NAME") and groups that were decided about, and `asked`
    people who were not. `unclear`: a group of Crowd was written to, or what became of an operation is not known."""

    runs: list[str] = field(default_factory=list)
    people: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    unclear: bool = False


class Overtakings:
    """What came between, and the plan that is carried out meanwhile."""

    _db: Database

    def newest_snapshot(self) -> int:
        """The number of the newest snapshot of any stream; 0 where there is none."""
        with self._db.read() as connection:
            return int(connection.execute(select(func.max(SNAPSHOT.c.id))).scalar() or 0)

    def lending_plan(self, directory: str, turn: str) -> int | None:
        """The plan that is being carried out by the run that has the lease `turn`, where none of its operations is
        under way; None where there is none."""
        under_way = select(OPERATION.c.seq).where(OPERATION.c.plan_id == PLAN.c.id, OPERATION.c.state == "intended")
        statement = (
            select(PLAN.c.id)
            .join(LEASE, LEASE.c.holder == PLAN.c.run)
            .where(PLAN.c.directory == directory, PLAN.c.status == "applying", LEASE.c.directory == turn)
            .where(~under_way.exists())
            .order_by(PLAN.c.id.desc())
            .limit(1)
        )
        with self._db.read() as connection:
            lease = connection.execute(select(LEASE.c.until).where(LEASE.c.directory == turn)).scalar()
            if not lease or lease <= instant(self._db.now(connection)):
                return None
            found = connection.execute(statement).scalar()
        return None if found is None else int(found)

    def overtaken(self, directory: str, source: str, mark: int, *, memberships: bool) -> Overtaken:
        """What batches did since the snapshot `mark` was the newest. `memberships`: also whose memberships they found
        to be others, which takes longer to find."""
        with self._db.read() as connection:
            batches = (
                select(SNAPSHOT.c.id, RUN.c.run, RUN.c.status)
                .join(RUN, RUN.c.run == SNAPSHOT.c.run)
                .where(SNAPSHOT.c.id > mark, RUN.c.directory == directory, RUN.c.mode == "react")
            )
            rows = connection.execute(batches).all()
            found = Overtaken(sorted({row.run for row in rows}))
            if not rows:
                return found
            settled = {row.run for row in rows if row.status in SETTLED}
            _planned(connection, found, directory, source)
            _told(connection, found, directory, source, settled)
            for stream, records in ((f"source:{source}", found.seen), (f"directory:{directory}", found.accounts)):
                number = connection.execute(select(STREAM.c.id).where(STREAM.c.name == stream)).scalar()
                moved, groups = _moved(connection, number, [row.id for row in rows], memberships=memberships)
                found.unclear |= groups
                if stream.startswith("source:") or memberships:  # (what is written to, the journal says)
                    records |= moved
        found.seen -= found.people
        return found


def _planned(connection: Connection, found: Overtaken, directory: str, source: str) -> None:
    """By their plans and operations."""
    plans = select(PLAN.c.id, PLAN.c.source, PLAN.c.status, PLAN.c.about)
    rows = connection.execute(plans.where(PLAN.c.directory == directory, PLAN.c.run.in_(found.runs))).all()
    own = {row.id for row in rows if row.source == source}
    for row in rows:
        found.unclear |= row.status in ("applying", "interrupted")
        if row.id in own and row.about.startswith("people:"):
            about = orjson.loads(row.about.removeprefix("people:"))
            (found.people if row.status == "applied" else found.seen).update(about)
    columns = (OPERATION.c[name] for name in ("plan_id", "kind", "name", "target", "source_id"))
    written = select(*columns).where(OPERATION.c.plan_id.in_([row.id for row in rows]), OPERATION.c.state != "planned")
    for one in connection.execute(written):
        entity = KINDS[Kind(one.kind)].entity
        found.unclear |= entity in ("group", "nesting")
        found.accounts.add(crowd_id(one.name))
        if entity == "user" and one.target:
            found.accounts.add(crowd_id(one.target))
        if one.plan_id in own and one.source_id:
            found.people.add(one.source_id)


def _told(connection: Connection, found: Overtaken, directory: str, source: str, settled: Collection[str]) -> None:
    """By the news that they took, and did not give back."""
    rows = select(INBOX.c.kind, INBOX.c.key, INBOX.c.batch).where(
        INBOX.c.batch.in_(found.runs), INBOX.c.taken_at != "", INBOX.c.source == source, INBOX.c.directory == directory
    )
    for row in connection.execute(rows):
        if row.batch not in settled:
            found.asked |= {row.key} if row.kind == "user" else set()
        elif row.kind == "group":
            found.groups.add(row.key)
        elif row.kind in ("user", "account"):
            found.keys.add(row.key if row.kind == "user" else f"account:{row.key}")


def _moved(
    connection: Connection, stream: int | None, snapshots: Collection[int], *, memberships: bool
) -> tuple[set[str], bool]:
    """The users (ids) of a stream that these snapshots have otherwise than the ones before them; and whether a group
    is another."""

    def changed(table: Any) -> Any:
        return (table.c.stream == stream) & or_(table.c.valid_from.in_(snapshots), table.c.valid_to.in_(snapshots))

    of_users = select(KEY.c.external).join(USER, (USER.c.stream == KEY.c.stream) & (USER.c.key == KEY.c.key))
    users = set(connection.execute(of_users.where(changed(USER))).scalars())
    if memberships:
        member = (MEMBERSHIP.c.stream == KEY.c.stream) & (MEMBERSHIP.c.member_key == KEY.c.key)
        of_members = select(KEY.c.external).distinct().join(MEMBERSHIP, member)
        users |= set(connection.execute(of_members.where(changed(MEMBERSHIP))).scalars())
    groups = connection.execute(select(GROUP.c.key).where(changed(GROUP)).limit(1)).first()
    return users, groups is not None
