"""Where a run's process is, and under which login a decision was made."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("process", sa.Text, nullable=False, server_default=""))
    op.add_column("decision", sa.Column("login", sa.Text, nullable=False, server_default=""))
