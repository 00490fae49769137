"""Alembic's entry: runs the migrations on the connection that `database` hands over."""

from __future__ import annotations

from alembic import context

from tidegate.adapters.run_store.tables import SCHEMA_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=SCHEMA_TABLE,
    # SQLite cannot alter most things in place; Alembic then copies the table.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
