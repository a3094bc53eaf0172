"""The tables. Knows columns and keys; knows no query. How they came to be is in `migrations/versions`.

Documents are canonical JSON in text columns: both databases then keep the same bytes. Digests are lower-case hex.
Times are UTC ISO 8601 text, which sorts by time. The review queue's tables are in `review_schema`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

REVISION = "0006"
"""The newest file in `migrations/versions`; a test holds the two together."""

metadata = MetaData()

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("seen_at", Text, nullable=False),
    Index("checkpoints_by_fingerprint", "fingerprint"),
    Index("checkpoints_by_name", "name"),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("items", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("added_at", Text, nullable=False),
    Index("reports_by_fingerprint", "fingerprint"),
    Index("reports_by_time", "added_at"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("verdict", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

links = Table(
    "links",
    metadata,
    Column("child", Text, primary_key=True),
    Column("parent", Text, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("child_kind", Text, nullable=False),
    Column("parent_kind", Text, nullable=False),
    Index("links_by_parent", "parent"),
)
"""What was made from what: a comparison from reports, a decision from comparisons and reports."""

ledger = Table(
    "ledger",
    metadata,
    # 16 bytes of the weights' digest, then 32 of everything: one checkpoint's entries lie side by side, so counting
    # and forgetting them needs no second index.
    Column("key", LargeBinary, primary_key=True),
    Column("logprob", Double),
    Column("is_greedy", Boolean),
    Column("tokens", Integer, nullable=False),
    # Bytes, not text: a model may write NUL, which PostgreSQL's text refuses.
    Column("text", LargeBinary),
    Column("finish", Text),
    sqlite_with_rowid=False,
)

ledger_plans = Table(
    "ledger_plans",
    metadata,
    # As in the ledger: first the owner's 16 bytes, then the digest of all questions of a run.
    Column("key", LargeBinary, primary_key=True),
    Column("questions", LargeBinary, nullable=False),
)
"""Which questions of an unfinished run were unpaid when it began: a resumed run is tiled as it was the first time."""

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("start", Text),
    Column("folder", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("changed_at", Text, nullable=False),
)
"""Training runs; `start` is the fingerprint of the checkpoint they began from."""

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""One row, `version`: grows with each write but the ledger's, so that pages know when to read again."""

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("prev", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_by_kind", "kind", "seq"),
)
"""What was decided, in order; each row's hash covers the row before. Triggers refuse to change or remove a row."""

summaries = Table(
    "summaries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("run", Text),
    Column("baseline", Text, nullable=False),
    Column("baseline_fingerprint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("words", Text, nullable=False),
    Column("gain", Double),
    Column("loss", Double),
    Column("tasks", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
    Index("summaries_by_time", "kind", "created_at"),
    Index("summaries_by_fingerprint", "fingerprint", "kind"),
    Index("summaries_by_run", "run", "kind"),
)
"""A short row for each report, comparison and decision, made from its document: lists read these and no documents."""
