"""The tables of the review queue. Knows columns and keys; knows no query. Part of `schema.metadata`.

What is leased is a slot: one opinion on one item. A slot lies in a lane: the slots of one queue that ask for the same
kind of opinion on the same category and severity. A claim looks at the heads of the lanes that a person may take, so
it costs the same whether a queue holds a hundred items or a million.
"""

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
)

from workbench.store.schema import metadata

review_items = Table(
    "review_items",
    metadata,
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
"""Texts for people to look at. Its id is the digest of tenant, surface, category, content and policy, so the same text
under the same policy is one item that was seen more often. `stratum`, `pi` (inclusion probability), `draw_seed` and
`score_version` say how it came into the queue; `gold` is a known answer; `parent` is the item that is appealed."""

review_queues = Table(
    "review_queues",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("settings", Text, nullable=False),
    Column("policy_hash", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)
"""`tenant/name`: a queue holds the items of one tenant."""

review_lanes = Table(
    "review_lanes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("queue", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("category", Text, nullable=False),
    UniqueConstraint("queue", "kind", "severity", "category", name="review_lanes_once"),
)

review_slots = Table(
    "review_slots",
    metadata,
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
"""One opinion on an item: `open`, `leased`, `done`, `void`, or `waiting` behind another item of its cluster. A row has
one `member`, so no slot is leased to two people; the unique index keeps a person from two slots of one item."""

review_labels = Table(
    "review_labels",
    metadata,
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
"""What a person said of a slot, with the digest of the policy that was shown. Undone ones stay, with the time."""

review_outcomes = Table(
    "review_outcomes",
    metadata,
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
"""What holds of an item: by `agreement`, by the `adjudicator`, or by an act for the whole `cluster`."""

review_skips = Table(
    "review_skips",
    metadata,
    Column("item_id", Text, primary_key=True),
    Column("member", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Who is not to be shown an item (again)."""

review_clusters = Table(
    "review_clusters",
    metadata,
    Column("queue", Text, primary_key=True),
    Column("cluster", Text, primary_key=True),
    Column("representative", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""The one item of a cluster of near-duplicates that people look at now; the others wait."""

review_members = Table(
    "review_members",
    metadata,
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
"""People and services. Tokens are kept as SHA-256 only; `identity` is what an identity provider calls the person."""

review_grants = Table(
    "review_grants",
    metadata,
    Column("member", Text, primary_key=True),
    Column("role", Text, primary_key=True),
    Column("tenant", Text, primary_key=True),
    Column("queue", Text, primary_key=True),
    sqlite_with_rowid=False,
)
"""A role of a member in a tenant's queue; `*` stands for all."""

review_exposure = Table(
    "review_exposure",
    metadata,
    Column("member", Text, primary_key=True),
    Column("day", Text, primary_key=True),
    Column("severity", Text, primary_key=True),
    Column("items", Integer, nullable=False),
    Column("cost", Double, nullable=False),
    sqlite_with_rowid=False,
)
"""What a person was shown on a day (UTC), by severity."""

review_keys = Table(
    "review_keys",
    metadata,
    Column("member", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha", Text, nullable=False),
    Column("response", Text, nullable=False),
    Column("at", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Acts that were done under an idempotency key, with their answers. Labels carry theirs themselves."""

review_guidelines = Table(
    "review_guidelines",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("added_at", Text, nullable=False),
    Column("proposed_by", Text),
)
"""The rule texts that reviewers read, under the policy's digest."""
