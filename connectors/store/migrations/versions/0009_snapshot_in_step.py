"""The snapshot of the source that Crowd was last in step with."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("in_step", sa.Column("snapshot", sa.Integer, nullable=False, server_default="0"))
