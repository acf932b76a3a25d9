"""The tables of our own database, as SQLModel classes.

They are the schema's single statement: a test holds that the migrations lead exactly here. Bulk reads
and writes go past the ORM (`bulk.py`), so the classes carry columns and constraints, and no behaviour.

Every time is ISO 8601 text in UTC with microseconds, written by `instant` alone, in both databases: such
text sorts as time sorts, and SQLite has no date type whose text all writers agree on.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, Text, UniqueConstraint
from sqlalchemy import text as text_clause
from sqlmodel import Field, SQLModel

_LARGE: Final = BigInteger().with_variant(Integer, "sqlite")

OPEN: Final = 2**31 - 1
"""`valid_to` of a version that still holds."""


def instant(at: datetime) -> str:
    """A timezone-aware time → `2026-11-23T23:31:50.000000+00:00`. ValueError for a naive one."""
    if at.tzinfo is None:
        raise ValueError(f"a time without a timezone: {at!r}")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def text(**kwargs: Any) -> Any:
    """A column of text that is never null."""
    return Field(sa_column=Column(Text, nullable=False, **kwargs))


def key(type_: Any = Integer, **kwargs: Any) -> Any:
    """A part of a primary key whose value we give."""
    return Field(sa_column=Column(type_, primary_key=True, autoincrement=False, **kwargs))


def number(type_: Any = Integer, **more: Any) -> Any:
    """An integer that is never null."""
    return Field(sa_column=Column(type_, nullable=False, **more))


def serial(type_: Any = Integer) -> Any:
    """A primary key that the database counts up and never gives twice."""
    return Field(default=None, sa_column=Column(type_, primary_key=True, autoincrement=True))


class Stream(SQLModel, table=True):
    """What snapshots are taken of: `source:acme`, `directory:crowd`."""

    __tablename__: ClassVar[Any] = "stream"
    id: int | None = serial()
    name: str = text(unique=True)


def _where(rows: str) -> dict[str, Any]:
    """What makes an index one of these rows alone, in both databases."""
    return {"sqlite_where": text_clause(rows), "postgresql_where": text_clause(rows)}


class SnapshotRow(SQLModel, table=True):
    """One snapshot. `changed` and `held` are JSON text; the counts are rows."""

    __tablename__: ClassVar[Any] = "snapshot"
    __table_args__: ClassVar[Any] = (
        Index("snapshot_stream", "stream", "id"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = serial()
    stream: int = Field(sa_column=Column(Integer, ForeignKey("stream.id"), nullable=False))
    taken_at: str = text()
    run: str = text()
    digest: str = text()
    users: int = number()
    groups: int = number()
    memberships: int = number()
    changed: str = text()
    held: str = text()


class RecordKey(SQLModel, table=True):
    """The small integer that stands for a user or group of a stream in the version tables.

    `kind` is the code in `model.MEMBER_KINDS` (0 group, 1 user). `nth` tells records apart that a source
    gave the same id: 0 is the first.
    """

    __tablename__: ClassVar[Any] = "record_key"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("stream", "kind", "external", "nth", name="record_key_external"),
        {"sqlite_with_rowid": False},
    )
    stream: int = key()
    key: int = key()
    kind: int = number()
    nth: int = number()
    external: str = text()


class UserVersion(SQLModel, table=True):
    """One content of one user, true from snapshot `valid_from` until before `valid_to`.

    `valid_to` stands in the key before `key`: the current versions lie side by side, and reading them
    does not pass through the history. So also in the two tables below.
    """

    __tablename__: ClassVar[Any] = "user_version"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    stream: int = key()
    valid_to: int = key()
    key: int = key()
    valid_from: int = number()
    username: str = text()
    email: str = text()
    first_name: str = text()
    last_name: str = text()
    display_name: str = text()
    active: bool = Field(sa_column=Column(Boolean, nullable=False))
    attributes: str = text()


class GroupVersion(SQLModel, table=True):
    """One content of one group."""

    __tablename__: ClassVar[Any] = "group_version"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    stream: int = key()
    valid_to: int = key()
    key: int = key()
    valid_from: int = number()
    name: str = text()
    description: str = text()
    attributes: str = text()


class MembershipVersion(SQLModel, table=True):
    """One stretch of one membership. The member's kind is that of its key."""

    __tablename__: ClassVar[Any] = "membership_version"
    __table_args__: ClassVar[Any] = (
        # The groups of one member, of those that hold.
        Index(
            "membership_member",
            "stream",
            "member_key",
            sqlite_where=text_clause(f"valid_to = {OPEN}"),
            postgresql_where=text_clause(f"valid_to = {OPEN}"),
        ),
        {"sqlite_with_rowid": False},
    )
    stream: int = key()
    valid_to: int = key()
    group_key: int = key()
    member_key: int = key()
    valid_from: int = number()


class MarkRow(SQLModel, table=True):
    """Where the next incremental read of a stream begins, and the snapshot that it starts from.

    `scope` says what was asked for, `full_at` when the stream was last read whole.
    """

    __tablename__: ClassVar[Any] = "mark"
    stream: str = key(Text)
    mark: str = text()
    scope: str = text()
    full_at: str = text()
    at: str = text()
    snapshot: int = number()


class VerdictRow(SQLModel, table=True):
    """What validation held of a content under given rules; `held` is JSON text."""

    __tablename__: ClassVar[Any] = "verdict"
    digest: str = key(Text)
    rules: str = key(Text)
    at: str = text()
    held: str = text()


class IndexedKey(SQLModel, table=True):
    """A key (`value`) under which a record of a `space` is found, and its id. What follows from other tables alone.

    A record may stand under keys that it has no longer: whoever finds it looks at what it is now.
    """

    __tablename__: ClassVar[Any] = "indexed_key"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    space: str = key(Text)
    value: str = key(Text)
    id: str = key(Text)


class IndexedSpace(SQLModel, table=True):
    """How far the keys of a space are made: by which rules (`digest`), up to which snapshot and which link event."""

    __tablename__: ClassVar[Any] = "indexed_space"
    space: str = key(Text)
    digest: str = text()
    snapshot: int = number()
    event: int = number(BigInteger().with_variant(Integer, "sqlite"))


class WideRead(SQLModel, table=True):
    """The last run of a source that read both sides whole and found nothing to object to, and what it counted.

    `policy` and `requested` are digests of the policy and of what was asked for, `snapshot` that of the source's
    content, also as narrow runs found it since; `totals` is JSON text.
    """

    __tablename__: ClassVar[Any] = "wide_read"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    directory: str = key(Text)
    source: str = key(Text)
    policy: str = text()
    requested: str = text()
    snapshot: str = text()
    at: str = text()
    totals: str = text()


class InStep(SQLModel, table=True):
    """The last run about everybody that left Crowd in step with a source, and where what happened since begins: at the
    source (`cursor`), at Crowd (`token`) and among the links (`event`, the newest one then).

    `policy` and `requested` are as in `wide_read`; `full_at`: when the source was last read whole before.
    `source_answers` and `crowd_answers`: what a side that cannot say what changed had answered (`connectors.answers`).
    `snapshot`: the source's that Crowd was in step with.
    """

    __tablename__: ClassVar[Any] = "in_step"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    directory: str = key(Text)
    source: str = key(Text)
    policy: str = text()
    requested: str = text()
    cursor: str = text()
    token: str = text()
    event: int = number(BigInteger().with_variant(Integer, "sqlite"))
    full_at: str = text()
    at: str = text()
    source_answers: str = text(server_default="")
    crowd_answers: str = text(server_default="")
    snapshot: int = number(server_default="0")


class Link(SQLModel, table=True):
    """The tie between a source's immutable id and a Crowd name; `folded` is the name's `crowd_id`."""

    __tablename__: ClassVar[Any] = "link"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("directory", "kind", "folded", name="link_name"),
        {"sqlite_with_rowid": False},
    )
    directory: str = key(Text)
    source: str = key(Text)
    kind: str = key(Text)
    id: str = key(Text)
    name: str = text()
    folded: str = text()
    how: str = text()
    made_at: str = text()
    run: str = text()


class LinkEvent(SQLModel, table=True):
    """One change of one link: who and when, from which name to which. Rows are only ever added."""

    __tablename__: ClassVar[Any] = "link_event"
    __table_args__: ClassVar[Any] = (
        Index("link_event_record", "directory", "source", "kind", "external"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = serial(BigInteger().with_variant(Integer, "sqlite"))
    at: str = text()
    run: str = text()
    directory: str = text()
    source: str = text()
    kind: str = text()
    external: str = text()
    action: str = text()  # made | changed | dropped
    before: str = text()
    after: str = text()
    how: str = text()


class PlanRow(SQLModel, table=True):
    """One plan. `policy`, `held` and `asks` are JSON text; `about` is "", person:ID, group:NAME, link:… or links:…."""

    __tablename__: ClassVar[Any] = "plan"
    __table_args__: ClassVar[Any] = (
        Index("plan_directory", "directory", "id"),
        Index("plan_everybody", "source", "directory", "id", **_where("about = ''")),
        Index("plan_unfinished", "directory", "id", **_where("status IN ('applying', 'interrupted')")),
        Index("plan_open", "directory", "source", "id", **_where("status IN ('waiting', 'approved')")),
        {"sqlite_autoincrement": True},
    )
    id: int | None = serial()
    run: str = text()
    source: str = text()
    directory: str = text()
    digest: str = text()
    source_snapshot: int = number()
    directory_snapshot: int = number()
    policy: str = text()
    held: str = text()
    created_at: str = text()
    status: str = text()
    status_at: str = text()
    about: str = Field("", sa_column=Column(Text, nullable=False, server_default=""))
    asks: str = Field("", sa_column=Column(Text, nullable=False, server_default=""))


class OperationRow(SQLModel, table=True):
    """One operation of a plan and what became of it: the journal.

    No foreign key to `plan`: PostgreSQL would look the plan up a million times for one COPY.
    """

    __tablename__: ClassVar[Any] = "operation"
    __table_args__: ClassVar[Any] = (
        Index("operation_finished", "kind", "finished_at", **_where("finished_at <> ''")),
        {"sqlite_with_rowid": False},
    )
    plan_id: int = key()
    seq: int = key()
    phase: int = number()
    kind: str = text()
    name: str = text()
    target: str = text()
    source_id: str = text()
    record: str = text()
    before: str = text()
    reason: str = text()
    state: str = text()
    note: str = text()
    attempts: int = number()
    intended_at: str = text()
    finished_at: str = text()


class RunRow(SQLModel, table=True):
    """One run of a flow; `summary` is JSON text, `process` says where it runs."""

    __tablename__: ClassVar[Any] = "run"
    __table_args__: ClassVar[Any] = (
        Index("run_started", "started_at"),
        Index("run_running", "run", **_where("status = 'running'")),
        Index("run_synced", "source", "directory", "finished_at", **_where("mode = 'sync'")),
        Index("run_passed", "source", "directory", "finished_at", **_where("""summary LIKE '%"passed":[%'""")),
    )
    run: str = key(Text)
    source: str = text()
    directory: str = text()
    mode: str = text()
    flow_run_id: str = text()
    status: str = text()
    started_at: str = text()
    finished_at: str = text()
    summary: str = text()
    process: str = Field("", sa_column=Column(Text, nullable=False, server_default=""))


class LeaseRow(SQLModel, table=True):
    """Who may write to a directory. The row stays for good: its `token` only ever rises.

    `holder` and `until` are "" once the lease was given back.
    """

    __tablename__: ClassVar[Any] = "lease"
    directory: str = key(Text)
    holder: str = text()
    token: int = number(BigInteger)
    taken_at: str = text()
    until: str = text()


class Departure(SQLModel, table=True):
    """A person of a source who counts as having left, and since when."""

    __tablename__: ClassVar[Any] = "departure"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    directory: str = key(Text)
    source: str = key(Text)
    id: str = key(Text)
    since: str = text()
    why: str = text()


class HeldRecord(SQLModel, table=True):
    """A record of a source that is held: since when, for how many runs in a row, the last of them, and when people
    were told of it ("" where they were not)."""

    __tablename__: ClassVar[Any] = "held_record"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    directory: str = key(Text)
    source: str = key(Text)
    kind: str = key(Text)
    id: str = key(Text)
    since: str = text()
    runs: int = number()
    run: str = text()
    reason: str = text()
    told_at: str = text()


class DecisionRow(SQLModel, table=True):
    """What a person decided about a plan; `without` is a JSON list. Rows are only ever added.

    `actor` is who the person says they are, `login` who the machine says, "" where it cannot say."""

    __tablename__: ClassVar[Any] = "decision"
    __table_args__: ClassVar[Any] = (
        Index("decision_plan", "plan_id", "id"),
        {"sqlite_autoincrement": True},
    )
    id: int | None = serial()
    plan_id: int = number()
    digest: str = text()
    at: str = text()
    actor: str = text()
    decision: str = text()  # approve | approve_without | reject
    without: str = text()
    reason: str = text()
    expires_at: str = text()
    via: str = text()  # prefect | command line
    login: str = Field("", sa_column=Column(Text, nullable=False, server_default=""))


class SourceHealth(SQLModel, table=True):
    """A source that failed and has not answered since. A healthy one has no row."""

    __tablename__: ClassVar[Any] = "source_health"
    source: str = key(Text)
    failures: int = number()
    since: str = text()
    until: str = text()
    error: str = text()


class AuditRow(SQLModel, table=True):
    """One link of the audit chain: `hash` covers `prev` and the row."""

    __tablename__: ClassVar[Any] = "audit"
    id: int = key(BigInteger().with_variant(Integer, "sqlite"))
    at: str = text()
    event: str = text()
    actor: str = text()
    subject: str = text()
    details: str = text()
    prev: str = text()
    hash: str = text()


class InboxRow(SQLModel, table=True):
    """One thing that was told in real time: that a record (`key`) of a source may have changed, and what became of it.

    `status`: waiting | done | held. `received_at`: since when it waits; `due_at`: when it is to be looked at;
    `taken_at`: since when the run `batch` looks at it, "" while none does; `attempts`: how often one began to;
    `done_at`: "" before. Of one record there is at most one row that is not done and that nobody looks at
    (`inbox_open`).
    """

    __tablename__: ClassVar[Any] = "inbox"
    __table_args__: ClassVar[Any] = (
        Index(
            *("inbox_open", "key", "kind", "source", "directory"),  # (what tells rows apart stands first)
            unique=True,
            **_where("status <> 'done' AND taken_at = ''"),
        ),
        Index("inbox_due", "directory", "due_at", "id", **_where("status <> 'done'")),
        Index("inbox_batch", "batch", **_where("batch <> ''")),
        Index("inbox_done", "done_at", **_where("status = 'done'")),
        {"sqlite_autoincrement": True},
    )
    id: int | None = serial(BigInteger().with_variant(Integer, "sqlite"))
    directory: str = text()
    source: str = text()
    kind: str = text()
    key: str = text()
    via: str = text()
    delivery: str = text()
    received_at: str = text()
    due_at: str = text()
    attempts: int = number()
    status: str = text()
    batch: str = text()
    taken_at: str = text()
    note: str = text()
    done_at: str = text()


class DeliveryRow(SQLModel, table=True):
    """A delivery that a source sent, by its own id, and when: what it sends again is not taken twice."""

    __tablename__: ClassVar[Any] = "delivery"
    __table_args__: ClassVar[Any] = (Index("delivery_at", "at"), {"sqlite_with_rowid": False})
    delivery: str = key(Text)
    source: str = key(Text)
    directory: str = key(Text)
    at: str = text()


class MirrorState(SQLModel, table=True):
    """How far the mirror of a source is: the number of its latest change. It only rises."""

    __tablename__: ClassVar[Any] = "mirror"
    __table_args__: ClassVar[Any] = ({"sqlite_with_rowid": False},)
    source: str = key(Text)
    change: int = number(_LARGE)


class MirrorRecord(SQLModel, table=True):
    """A user or group as an identity provider pushed it; `body` is its JSON text, without id, times and members.

    `name` is the username or the group's name, folded (`crowd_id`), `email` the work address, folded. `place` orders
    lists and never changes; `change` is the number of the change that made the record what it is.
    """

    __tablename__: ClassVar[Any] = "mirror_record"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("source", "kind", "name", name="mirror_record_name"),
        *(
            Index(f"mirror_record_{name}", "source", "kind", name)
            for name in ("external_id", "email", "place", "change")
        ),
    )
    source: str = key(Text)
    kind: str = key(Text)  # user | group
    id: str = key(Text)
    name: str = text()
    external_id: str = text()
    email: str = text()
    body: str = text()
    place: int = number(_LARGE)
    change: int = number(_LARGE)
    created: str = text()
    modified: str = text()


class MirrorMember(SQLModel, table=True):
    """A member of a group in the mirror, a user or a group; it may be one that the mirror does not know."""

    __tablename__: ClassVar[Any] = "mirror_member"
    __table_args__: ClassVar[Any] = (
        Index("mirror_member_of", "source", "member_id", "group_id"),
        {"sqlite_with_rowid": False},
    )
    source: str = key(Text)
    group_id: str = key(Text)
    member_id: str = key(Text)
    kind: str = text()


class MirrorGone(SQLModel, table=True):
    """A record that an identity provider deleted, by which change."""

    __tablename__: ClassVar[Any] = "mirror_gone"
    __table_args__: ClassVar[Any] = (
        Index("mirror_gone_change", "source", "kind", "change"),
        {"sqlite_with_rowid": False},
    )
    source: str = key(Text)
    kind: str = key(Text)
    id: str = key(Text)
    change: int = number(_LARGE)


class TokenRow(SQLModel, table=True):
    """A bearer token of a source, by its digest; `revoked_at` and `used_on` (a date) are "" where there is none."""

    __tablename__: ClassVar[Any] = "token"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("digest", name="token_digest"),
        {"sqlite_with_rowid": False},
    )
    id: str = key(Text)
    source: str = text()
    digest: str = text()
    made_at: str = text()
    expires_at: str = text()
    used_on: str = text()
    revoked_at: str = text()


METADATA: Final = SQLModel.metadata
