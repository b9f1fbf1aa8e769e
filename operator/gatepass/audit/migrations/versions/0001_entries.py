"""The table of entries."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "gatepass_audit",
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("on_behalf_of", sa.Text),
        sa.Column("credential", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("subject_kind", sa.Text),
        sa.Column("subject_name", sa.Text),
        sa.Column("subject_uid", sa.Text),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("seal", sa.String(64), nullable=False),
    )
    op.create_index("gatepass_audit_newest", "gatepass_audit", ["namespace", "at", "seq"])
