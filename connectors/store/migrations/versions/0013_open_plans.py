"""What one page about everything asks: the plans that wait for somebody, and the latest runs of a source."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, table, columns, where in (
        ("plan_open", "plan", ["directory", "source", "id"], "status IN ('waiting', 'approved')"),
        ("run_synced", "run", ["source", "directory", "finished_at"], "mode = 'sync'"),
    ):
        rows = sa.text(where)
        op.create_index(name, table, columns, sqlite_where=rows, postgresql_where=rows)
