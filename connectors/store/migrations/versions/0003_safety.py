"""What keeps writing safe: leases, departures, decisions, the health of sources; what a plan is about."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _keys(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.Text, primary_key=True, autoincrement=False) for name in names]


def _texts(*names: str) -> "list[sa.Column[str]]":
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def upgrade() -> None:
    op.add_column("plan", sa.Column("about", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "lease",
        *_keys("directory"),
        *_texts("holder"),
        sa.Column("token", sa.BigInteger, nullable=False),
        *_texts("taken_at", "until"),
    )
    op.create_table(
        "departure",
        *_keys("directory", "source", "id"),
        *_texts("since", "why"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("plan_id", sa.Integer, nullable=False),
        *_texts("digest", "at", "actor", "decision", "without", "reason", "expires_at", "via"),
        sqlite_autoincrement=True,
    )
    op.create_index("decision_plan", "decision", ["plan_id", "id"])
    op.create_table(
        "source_health",
        *_keys("source"),
        sa.Column("failures", sa.Integer, nullable=False),
        *_texts("since", "until", "error"),
    )
