"""Since when, and for how many runs, each record of a source has been held."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_record",
        *(
            sa.Column(name, sa.Text, primary_key=True, autoincrement=False)
            for name in ("directory", "source", "kind", "id")
        ),
        sa.Column("since", sa.Text, nullable=False),
        sa.Column("runs", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("run", "reason", "told_at")),
        sqlite_with_rowid=False,
    )
