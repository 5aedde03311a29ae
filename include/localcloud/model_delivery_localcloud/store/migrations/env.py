"""Alembic's entry: runs the migrations on the connection that `Database.migrate` opened."""

from alembic import context
from model_delivery_localcloud.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
