"""Checkpoints, reports, comparisons, decisions and the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("seen_at", sa.Text, nullable=False),
    )
    op.create_index("checkpoints_by_fingerprint", "checkpoints", ["fingerprint"])
    op.create_index("checkpoints_by_name", "checkpoints", ["name"])
    op.create_table(
        "reports",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
        sa.Column("added_at", sa.Text, nullable=False),
    )
    op.create_index("reports_by_fingerprint", "reports", ["fingerprint"])
    op.create_index("reports_by_time", "reports", ["added_at"])
    for table, label in (("comparisons", "kind"), ("decisions", "verdict")):
        op.create_table(
            table,
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column(label, sa.Text, nullable=False),
            sa.Column("document", sa.Text, nullable=False),
            sa.Column("created_at", sa.Text, nullable=False),
        )
    op.create_table(
        "links",
        sa.Column("child", sa.Text, primary_key=True),
        sa.Column("parent", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("child_kind", sa.Text, nullable=False),
        sa.Column("parent_kind", sa.Text, nullable=False),
    )
    op.create_index("links_by_parent", "links", ["parent"])
    op.create_table(
        "ledger",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("logprob", sa.Double),
        sa.Column("is_greedy", sa.Boolean),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("text", sa.LargeBinary),
        sa.Column("finish", sa.Text),
        sqlite_with_rowid=False,
    )
