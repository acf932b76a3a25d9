"""Past plans by what is asked of them for each batch of news, however many there are."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name, table, columns, where in (
        ("plan_everybody", "plan", ["source", "directory", "id"], "about = ''"),
        ("plan_unfinished", "plan", ["directory", "id"], "status IN ('applying', 'interrupted')"),
        ("operation_finished", "operation", ["kind", "finished_at"], "finished_at <> ''"),
        ("run_running", "run", ["run"], "status = 'running'"),
        ("run_passed", "run", ["source", "directory", "finished_at"], """summary LIKE '%"passed":[%'"""),
    ):
        rows = sa.text(where)
        op.create_index(name, table, columns, sqlite_where=rows, postgresql_where=rows)
