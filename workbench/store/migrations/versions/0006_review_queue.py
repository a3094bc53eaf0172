"""The review queue: slots that are leased, labels, outcomes, people and what they were shown.

Items that the guard has recorded so far become items of their tenant's queue `default`, with one slot each.
"""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, Index, Integer, MetaData, Table, Text, UniqueConstraint

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_SEVERITY = {"low": 1.0, "medium": 2.0, "high": 3.0, "critical": 4.0}
_tables = MetaData()


def upgrade() -> None:
    """Make the tables, and move what is there. The old table's unique key is the digest in its id already."""
    connection = op.get_bind()
    op.drop_index("review_items_by_state", "review_items")
    op.rename_table("review_items", "review_items_before")
    if connection.dialect.name == "postgresql":
        op.execute(sa.text("ALTER INDEX review_items_pkey RENAME TO review_items_before_pkey"))
    _tables.create_all(connection, checkfirst=False)
    old = sa.Table("review_items_before", sa.MetaData(), autoload_with=connection)
    rows = [dict(row) for row in connection.execute(sa.select(old)).mappings()]
    queues: dict[str, dict[str, str]] = {}
    lanes: dict[tuple[str, str, str], int] = {}
    for row in rows:
        queue = f"{row['tenant']}/default"
        first = {"id": queue, "tenant": row["tenant"], "name": "default", "settings": json.dumps({})}
        queues.setdefault(queue, first | {"policy_hash": "", "created_at": row["created_at"]})
        lane = lanes.setdefault((queue, row["severity"], row["category"]), len(lanes) + 1)
        priority = _SEVERITY.get(row["severity"], 1.0)
        fresh = {"queue": queue, "need": 1, "blind": False, "priority": priority, "stratum": "priority"}
        connection.execute(sa.insert(_review_items), row | fresh | {"score_version": "", "cluster": ""})
        if row["state"] == "open":
            slot = {"item_id": row["id"], "n": 1, "lane": lane, "state": "open", "priority": priority, "session": ""}
            connection.execute(sa.insert(_review_slots), slot)
    for queue in queues.values():
        connection.execute(sa.insert(_review_queues), queue)
    for queue, severity, category in lanes:
        named = {"queue": queue, "kind": "opinion", "severity": severity, "category": category}
        connection.execute(sa.insert(_review_lanes), named)
    op.drop_table("review_items_before")


_review_items = Table(
    "review_items",
    _tables,
    Column("id", Text, primary_key=True),
    Column("created_at", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("community", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("surface", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("probability", Double),
    Column("uncertainty", Double),
    Column("policy_hash", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("content_sha", Text, nullable=False),
    # canonical JSON of {"text": ..., "prompt": ..., "context": ...}: plain text may hold NUL, which PostgreSQL refuses
    Column("content", Text),
    Column("seen", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_at", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("need", Integer, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("priority", Double, nullable=False),
    Column("stratum", Text, nullable=False),
    Column("pi", Double),
    Column("draw_seed", BigInteger),
    Column("score_version", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("expected_severity", Double),
    Column("scores", Text),
    Column("gold", Text),
    Column("parent", Text),
    Index("review_items_by_state", "state", "created_at"),
    Index("review_items_by_queue", "queue", "state", "created_at"),
    Index(
        "review_items_by_cluster",
        "queue",
        "cluster",
        sqlite_where=sa.text("cluster <> ''"),
        postgresql_where=sa.text("cluster <> ''"),
    ),
)

_review_queues = Table(
    "review_queues",
    _tables,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("policy_hash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

_review_lanes = Table(
    "review_lanes",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("category", Text, nullable=False),
    UniqueConstraint("queue", "kind", "severity", "category", name="review_lanes_once"),
)

_review_slots = Table(
    "review_slots",
    _tables,
    Column("item_id", Text, primary_key=True),
    Column("n", Integer, primary_key=True),
    Column("lane", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("priority", Double, nullable=False),
    Column("member", Text),
    Column("token", Text),
    Column("lease_until", Text),
    Column("session", Text, nullable=False),
    Index(
        "review_slots_open",
        "lane",
        "priority",
        "item_id",
        "n",
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    ),
    Index(
        "review_slots_leased",
        "lease_until",
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    ),
    Index(
        "review_slots_held_by",
        "member",
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    ),
    Index(
        "review_slots_one_each",
        "item_id",
        "member",
        unique=True,
        sqlite_where=sa.text("member IS NOT NULL"),
        postgresql_where=sa.text("member IS NOT NULL"),
    ),
    Index(
        "review_slots_token",
        "token",
        unique=True,
        sqlite_where=sa.text("token IS NOT NULL"),
        postgresql_where=sa.text("token IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)

_review_labels = Table(
    "review_labels",
    _tables,
    Column("id", Text, primary_key=True),
    Column("item_id", Text, nullable=False),
    Column("n", Integer, nullable=False),
    Column("queue", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("member", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("categories", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("policy_hash", Text, nullable=False),
    Column("hint_shown", Boolean, nullable=False),
    Column("blind", Boolean, nullable=False),
    Column("ms_spent", BigInteger),
    Column("key", Text, nullable=False),
    Column("request_sha", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("retracted_at", Text),
    UniqueConstraint("member", "key", name="review_labels_key"),
    Index(
        "review_labels_one",
        "item_id",
        "n",
        unique=True,
        sqlite_where=sa.text("retracted_at IS NULL"),
        postgresql_where=sa.text("retracted_at IS NULL"),
    ),
    Index("review_labels_by_member", "member", "created_at"),
    Index("review_labels_by_queue", "queue", "created_at"),
)

_review_outcomes = Table(
    "review_outcomes",
    _tables,
    Column("item_id", Text, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("categories", Text, nullable=False),
    Column("soft", Double, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("representative", Text),
    Column("policy_hash", Text, nullable=False),
    Column("decided_at", Text, nullable=False),
    Index("review_outcomes_by_queue", "queue", "decided_at"),
)

_review_skips = Table(
    "review_skips",
    _tables,
    Column("item_id", Text, primary_key=True),
    Column("member", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Text, nullable=False),
    sqlite_with_rowid=False,
)

_review_clusters = Table(
    "review_clusters",
    _tables,
    Column("queue", Text, primary_key=True),
    Column("cluster", Text, primary_key=True),
    Column("representative", Text, nullable=False),
    sqlite_with_rowid=False,
)

_review_members = Table(
    "review_members",
    _tables,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("token_sha", Text, unique=True),
    Column("identity", Text, unique=True),
    Column("opt_out", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("removed_at", Text),
    Column("severe_run", Integer, nullable=False),
    Column("since_severe", Integer, nullable=False),
    Column("last_claim_at", Text),
    Column("break_until", Text),
)

_review_grants = Table(
    "review_grants",
    _tables,
    Column("member", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("queue", Text, primary_key=True),
    sqlite_with_rowid=False,
)

_review_exposure = Table(
    "review_exposure",
    _tables,
    Column("member", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("severity", Text, primary_key=True),
    Column("items", Integer, nullable=False),
    Column("cost", Double, nullable=False),
    sqlite_with_rowid=False,
)

_review_keys = Table(
    "review_keys",
    _tables,
    Column("member", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("at", Text, nullable=False),
    sqlite_with_rowid=False,
)

_review_guidelines = Table(
    "review_guidelines",
    _tables,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("added_at", Text, nullable=False),
    Column("proposed_by", Text),
)
