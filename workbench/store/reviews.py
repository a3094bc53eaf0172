"""Texts that people are to look at, as they are recorded. Knows rows; ranks and assigns nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.store.database import Database, insert
from workbench.store.identity import canonical_json, content_hash
from workbench.store.schema import review_items as table
from workbench.store.times import now


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewEntry:
    """A text with what was said of it."""

    tenant: str
    source: str
    """Why it is here: `uncertain`, `severe`, `action` (the policy asks for review) or `sample`."""
    surface: str
    category: str
    """The category in question; empty for a sample in which nothing was found."""
    severity: str
    action: str
    """What was done with it meanwhile."""
    policy_hash: str
    model: str
    content_sha: str
    community: str = ""
    probability: float | None = None
    uncertainty: float | None = None
    text: str | None = None
    """Only where the policy lets content be kept."""
    prompt: str | None = None
    """What it answers, under the same condition."""

    @property
    def id(self) -> str:
        """Content hash of what makes two texts the same item."""
        key = [self.tenant, self.surface, self.category, self.content_sha, self.policy_hash]
        return content_hash("review_item", {"key": key})


@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewItem:
    """An entry as it was written."""

    id: str
    created_at: str
    entry: ReviewEntry
    seen: int
    """How often the same text came."""
    state: str
    """`open` until somebody decides."""
    state_at: str


def add_reviews(connection: Connection, entries: Sequence[ReviewEntry]) -> None:
    """Write entries as a part of a transaction; one that is there already is counted, its state stays."""
    time = now()
    for entry in entries:
        content = None if entry.text is None else canonical_json({"text": entry.text, "prompt": entry.prompt})
        row = {
            "id": entry.id,
            "created_at": time,
            "content": content,
            "seen": 1,
            "state": "open",
            "state_at": time,
            **{name: getattr(entry, name) for name in _COLUMNS},
        }
        again = {"seen": table.c.seen + 1}
        statement = insert(connection, table).on_conflict_do_update(index_elements=["id"], set_=again)
        connection.execute(statement, row)


def review_items(database: Database, *, state: str | None = "open", limit: int | None = None) -> list[ReviewItem]:
    """Items, the oldest first; `state` None gives all."""
    query = sa.select(table).order_by(table.c.created_at, table.c.id)
    if state is not None:
        query = query.where(table.c.state == state)
    if limit is not None:
        query = query.limit(limit)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    found = []
    for row in rows:
        content = json.loads(row["content"]) if row["content"] else {}
        entry = ReviewEntry(**{name: row[name] for name in _COLUMNS}, **content)
        own = {name: row[name] for name in ("id", "created_at", "seen", "state", "state_at")}
        found.append(ReviewItem(entry=entry, **own))
    return found


_COLUMNS = (
    "tenant",
    "community",
    "source",
    "surface",
    "category",
    "severity",
    "action",
    "probability",
    "uncertainty",
    "policy_hash",
    "model",
    "content_sha",
)
