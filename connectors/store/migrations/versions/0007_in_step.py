"""Where what happened since Crowd was last in step with a source begins."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "in_step",
        *(sa.Column(name, sa.Text, primary_key=True, autoincrement=False) for name in ("directory", "source")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("policy", "requested", "cursor", "token")),
        sa.Column("event", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("full_at", "at")),
        sqlite_with_rowid=False,
    )
