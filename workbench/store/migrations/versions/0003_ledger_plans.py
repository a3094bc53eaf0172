"""What an unfinished run set out to compute."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; runs that were killed before it existed are tiled anew."""
    op.create_table(
        "ledger_plans",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("questions", sa.LargeBinary, nullable=False),
    )
