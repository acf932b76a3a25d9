"""The first tables: history, verdicts, links, plans with their journal, runs, audit."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _key(name: str, type_: Any = sa.Integer) -> "sa.Column[Any]":
    return sa.Column(name, type_, primary_key=True, autoincrement=False)


def _serial(type_: Any = sa.Integer) -> "sa.Column[Any]":
    return sa.Column("id", type_, primary_key=True, autoincrement=True)


def _texts(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _numbers(*names: str) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Integer, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table("stream", _serial(), *_texts("name"), sa.UniqueConstraint("name"))
    op.create_table(
        "snapshot",
        _serial(),
        sa.Column("stream", sa.Integer, sa.ForeignKey("stream.id"), nullable=False),
        *_texts("taken_at", "run", "digest"),
        *_numbers("users", "groups", "memberships"),
        *_texts("changed", "held"),
        sqlite_autoincrement=True,
    )
    op.create_index("snapshot_stream", "snapshot", ["stream", "id"])
    op.create_table(
        "record_key",
        _key("stream"),
        _key("key"),
        *_numbers("kind", "nth"),
        *_texts("external"),
        sa.UniqueConstraint("stream", "kind", "external", "nth", name="record_key_external"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "user_version",
        *(_key("stream"), _key("valid_to"), _key("key")),
        *_numbers("valid_from"),
        *_texts("username", "email", "first_name", "last_name", "display_name"),
        sa.Column("active", sa.Boolean, nullable=False),
        *_texts("attributes"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "group_version",
        *(_key("stream"), _key("valid_to"), _key("key")),
        *_numbers("valid_from"),
        *_texts("name", "description", "attributes"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "membership_version",
        *(_key("stream"), _key("valid_to"), _key("group_key"), _key("member_key")),
        *_numbers("valid_from"),
        sqlite_with_rowid=False,
    )
    op.create_table("verdict", _key("digest", sa.Text), _key("rules", sa.Text), *_texts("at", "held"))
    op.create_table(
        "link",
        *(_key("directory", sa.Text), _key("source", sa.Text), _key("kind", sa.Text), _key("id", sa.Text)),
        *_texts("name", "folded", "how", "made_at", "run"),
        sa.UniqueConstraint("directory", "kind", "folded", name="link_name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "link_event",
        _serial(BIG),
        *_texts(*("at", "run", "directory", "source", "kind", "external", "action", "before", "after", "how")),
        sqlite_autoincrement=True,
    )
    op.create_index("link_event_record", "link_event", ["directory", "source", "kind", "external"])
    op.create_table(
        "plan",
        _serial(),
        *_texts("run", "source", "directory", "digest"),
        *_numbers("source_snapshot", "directory_snapshot"),
        *_texts("policy", "held", "created_at", "status", "status_at"),
        sqlite_autoincrement=True,
    )
    op.create_index("plan_directory", "plan", ["directory", "id"])
    op.create_table(
        "operation",
        *(_key("plan_id"), _key("seq")),
        *_numbers("phase"),
        *_texts("kind", "name", "target", "source_id", "record", "before", "reason", "state", "note"),
        *_numbers("attempts"),
        *_texts("intended_at", "finished_at"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run",
        _key("run", sa.Text),
        *_texts("source", "directory", "mode", "flow_run_id", "status", "started_at", "finished_at", "summary"),
    )
    op.create_index("run_started", "run", ["started_at"])
    op.create_table(
        "audit",
        _key("id", BIG),
        *_texts("at", "event", "actor", "subject", "details", "prev", "hash"),
    )


def downgrade() -> None:
    raise NotImplementedError("Restore the backup made before the upgrade.")
