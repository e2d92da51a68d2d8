"""Alembic runs this; `deployments.database.database` hands it a connection, in a transaction."""

from alembic import context

from deployments.database.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
