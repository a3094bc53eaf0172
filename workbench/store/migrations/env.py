"""Alembic's entry point: runs the steps on the connection, and in the transaction, that the store hands in."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, transactional_ddl=True)
context.run_migrations()
