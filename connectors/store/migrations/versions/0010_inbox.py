"""What was told in real time and is still to be looked at, and the deliveries that told it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def _texts(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        *_texts("directory", "source", "kind", "key", "via", "delivery", "received_at", "due_at"),
        sa.Column("attempts", sa.Integer, nullable=False),
        *_texts("status", "batch", "taken_at", "note", "done_at"),
        sqlite_autoincrement=True,
    )
    for name, columns, unique, where in (
        ("inbox_open", ["key", "kind", "source", "directory"], True, "status <> 'done' AND taken_at = ''"),
        ("inbox_due", ["directory", "due_at", "id"], False, "status <> 'done'"),
        ("inbox_batch", ["batch"], False, "batch <> ''"),
        ("inbox_done", ["done_at"], False, "status = 'done'"),
    ):
        rows = sa.text(where)
        op.create_index(name, "inbox", columns, unique=unique, sqlite_where=rows, postgresql_where=rows)
    op.create_table(
        "delivery",
        *(
            sa.Column(name, sa.Text, primary_key=True, autoincrement=False)
            for name in ("delivery", "source", "directory")
        ),
        *_texts("at"),
        sqlite_with_rowid=False,
    )
    op.create_index("delivery_at", "delivery", ["at"])
