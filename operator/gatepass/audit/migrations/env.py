"""Runs the migrations in the transaction that the caller has begun, under its lock."""

from alembic import context

from gatepass.audit.database import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table="gatepass_audit_version",
)
context.run_migrations()
