"""Records by key: the groups of one member, the keys under which records are found, the last wide read."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    holds = sa.text(f"valid_to = {2**31 - 1}")
    op.create_index(
        "membership_member",
        "membership_version",
        ["stream", "member_key"],
        sqlite_where=holds,
        postgresql_where=holds,
    )
    op.create_table(
        "indexed_key",
        *(sa.Column(name, sa.Text, primary_key=True, autoincrement=False) for name in ("space", "value", "id")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "indexed_space",
        sa.Column("space", sa.Text, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("snapshot", sa.Integer, nullable=False),
        sa.Column("event", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
    )
    op.create_table(
        "wide_read",
        *(sa.Column(name, sa.Text, primary_key=True, autoincrement=False) for name in ("directory", "source")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("policy", "requested", "snapshot", "at", "totals")),
        sqlite_with_rowid=False,
    )
