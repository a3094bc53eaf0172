"""Weights that are not kept any more, as rows of the audit: which, when, by whom, why. Knows rows; deletes nothing.

A checkpoint's record outlives its weights: its reports, its lineage and what was decided about it stay true.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.records import Checkpoint
from workbench.store.audit import AuditEvent, Head, append_within, audit_rows
from workbench.store.database import Database

KIND = "weights.let_go"


@dataclass(frozen=True, kw_only=True, slots=True)
class LetGo:
    """Weights that were let go."""

    fingerprint: str
    source: str
    """Where they lay."""
    at: str
    why: str


def record_let_go(database: Database, checkpoints: Sequence[Checkpoint], *, actor: str, why: str) -> Head | None:
    """Write down that these weights are let go, before they are; the audit's new head."""
    events = [
        AuditEvent(kind=KIND, actor=actor, document={"fingerprint": c.fingerprint, "source": c.source, "why": why})
        for c in checkpoints
    ]
    if not events:
        return None
    with database.write(durable=True) as connection:  # counts: pages say that they are gone
        return append_within(connection, events)


def let_go(database: Database) -> dict[tuple[str, str], LetGo]:
    """(fingerprint, source) -> what was let go there last. They may have been made again since."""
    return {
        (row.document["fingerprint"], row.document["source"]): LetGo(at=row.at, **row.document)
        for row in audit_rows(database, kind=KIND)
    }
