"""What a plan asks a person, so that their word holds where it is made anew and asks no more."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("plan", sa.Column("asks", sa.Text, nullable=False, server_default=""))
