"""Runs migrations on the connection that `database._migrate` hands over, inside its transaction."""

from alembic import context
from sqlmodel import SQLModel

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=SQLModel.metadata,
    version_table=attributes["version_table"],
    transactional_ddl=True,
)
context.run_migrations()
