"""What lists show of reports, comparisons and decisions, without reading their documents."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, empty: `workbench.store.browse` fills it from the documents when somebody looks."""
    op.create_table(
        "summaries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("run", sa.Text),
        sa.Column("baseline", sa.Text, nullable=False),
        sa.Column("baseline_fingerprint", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.Column("gain", sa.Double),
        sa.Column("loss", sa.Double),
        sa.Column("tasks", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Text, nullable=False),
    )
    op.create_index("summaries_by_time", "summaries", ["kind", "created_at"])
    op.create_index("summaries_by_fingerprint", "summaries", ["fingerprint", "kind"])
    op.create_index("summaries_by_run", "summaries", ["run", "kind"])
