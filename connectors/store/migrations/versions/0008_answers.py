"""How both sides answered the last read of everything, for those that cannot say what changed since."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("source_answers", "crowd_answers"):
        op.add_column("in_step", sa.Column(name, sa.Text, nullable=False, server_default=""))
