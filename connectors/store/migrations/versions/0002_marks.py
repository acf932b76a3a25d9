"""Marks: where the next incremental read of a stream begins."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mark",
        sa.Column("stream", sa.Text, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("mark", "scope", "full_at", "at")),
        sa.Column("snapshot", sa.Integer, nullable=False),
    )
