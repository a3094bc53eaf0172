"""Is what stands in the queue what was done? Knows rows, the audit's chain and its anchors; mends nothing.

Three things are held together: the chain (no row changed, none missing), the anchors outside the database (the chain
was not written anew), and the tables (each label, undo and role is one that the chain tells of, and no item, slot,
label or outcome contradicts another).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.store.anchors import Anchors
from workbench.store.audit import audit_head, verify_audit
from workbench.store.database import Database
from workbench.store.review_schema import review_grants, review_labels, review_outcomes
from workbench.store.schema import audit

_SHOWN = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was found. `faults` empty: all is as it was written."""

    faults: tuple[str, ...]
    notes: tuple[str, ...]
    audit_rows: int
    anchors: int
    labels: int
    items: int
    slots: int


def verify(database: Database, anchors: Anchors) -> Verified:
    """Go through everything. Reads each row of the audit and of the labels once."""
    faults: list[str] = []
    notes: list[str] = []
    broken = verify_audit(database)
    if broken is not None:
        faults.append(f"audit row {broken}: changed, or missing, or out of order")
    kept, _ = anchors.read()
    faults += anchors.faults(database)
    with database.read() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        faults += _anchored(connection, len(kept), anchors)
        for sentence, query in _CONTRADICTIONS:
            rows = connection.execute(sa.text(f"{query} LIMIT {_SHOWN + 1}")).all()
            faults += [sentence.format(*row) for row in rows[:_SHOWN]]
            if len(rows) > _SHOWN:
                faults.append(f"... and more like this: {sentence.format(*rows[_SHOWN])}")
        faults += _labels_against_audit(connection)
        faults += _grants_against_audit(connection)
        faults += _outcomes_against_labels(connection)
        counts = {
            name: int(connection.scalar(sa.text(f"SELECT count(*) FROM review_{name}")) or 0)  # noqa: S608
            for name in ("labels", "items", "slots")
        }
    if not kept:
        notes.append(f"{anchors.path.name}: no anchor yet; it begins with the first act on the queue")
    return Verified(
        faults=tuple(faults), notes=tuple(notes), audit_rows=audit_head(database).seq, anchors=len(kept), **counts
    )


def _anchored(connection: Connection, kept: int, anchors: Anchors) -> list[str]:
    """The first act on a queue is anchored at once, so acts without any anchor mean that the file was taken away."""
    acted = connection.scalar(sa.select(audit.c.seq).where(audit.c.kind.like("review.%")).limit(1))
    if acted is not None and not kept:
        return [f"{anchors.path}: not there, though the queue was worked on; put the file back"]
    return []


def _events(connection: Connection, *kinds: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    query = sa.select(audit.c.kind, audit.c.actor, audit.c.document).where(audit.c.kind.in_(kinds))
    for row in connection.execute(query.order_by(audit.c.seq)):
        yield row.kind, row.actor, json.loads(row.document)


def _labels_against_audit(connection: Connection) -> list[str]:
    """Each label has its event and says what the event says; each event has its label; undone ones are undone."""
    told: dict[str, tuple[str, str]] = {}
    undone: set[str] = set()
    for kind, actor, document in _events(connection, "review.label", "review.adjudicate", "review.undo"):
        if kind == "review.undo":
            undone.add(document["label"])
        else:
            told[document["label"]] = (document["item"], _digest(actor, document))
    faults = []
    for row in connection.execute(sa.select(review_labels)).mappings():
        detail = hashlib.sha256(row["detail"].encode()).hexdigest()
        plain = dict(row) | {"categories": json.loads(row["categories"]), "detail_sha": detail}
        item, digest = told.pop(row["id"], ("", ""))
        if not digest:
            faults.append(f"label {row['id']}: the audit knows nothing of it")
        elif item != row["item_id"] or digest != _digest(row["member"], plain):
            faults.append(f"label {row['id']}: it says something else than the audit")
        if (row["id"] in undone) != (row["retracted_at"] is not None):
            faults.append(f"label {row['id']}: undone in one of table and audit, and not in the other")
    faults += [f"label {label}: the audit has it, the table has lost it" for label in told]
    return faults


def _digest(actor: str, label: Mapping[str, Any]) -> str:
    names = ("n", "kind", "decision", "category", "policy_hash", "hint_shown", "blind", "categories", "detail_sha")
    said = [actor, *(label[name] if name != "categories" else list(label[name]) for name in names)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _grants_against_audit(connection: Connection) -> list[str]:
    """Roles that somebody holds are those that were granted and not revoked."""
    held: set[tuple[str, ...]] = set()
    for _, _, document in _events(connection, "review.member"):
        member = document["member"]
        held |= {(member, *grant.split("/")) for grant in document.get("granted", ())}
        revoked = document.get("revoked", ())
        held -= {grant for grant in held if grant[0] == member and (revoked == "all" or grant[1] in revoked)}
    found = {tuple(row) for row in connection.execute(sa.select(review_grants))}
    faults = [f"role {'/'.join(grant)}: nobody granted it" for grant in sorted(found - held)]
    return faults + [f"role {'/'.join(grant)}: granted, and not there" for grant in sorted(held - found)]


def _outcomes_against_labels(connection: Connection) -> list[str]:
    """An outcome is what the standing labels say; one taken over from another item is that item's."""
    labels, outcomes, other = review_labels.c, review_outcomes.c, review_outcomes.alias("other")
    differs = sa.or_(outcomes.decision != labels.decision, outcomes.categories != labels.categories)
    by_kind = sa.or_(
        sa.and_(outcomes.decided_by == "agreement", labels.kind == "opinion"),
        sa.and_(outcomes.decided_by == "adjudicator", labels.kind == "adjudication"),
    )
    query = (
        sa.select(outcomes.item_id)
        .join(review_labels, labels.item_id == outcomes.item_id)
        .where(labels.retracted_at.is_(None), by_kind, differs)
        .distinct()
        .limit(_SHOWN)
    )
    faults = [f"item {item[:12]}: its outcome is not what its labels say" for item in connection.scalars(query)]
    taken = (
        sa.select(outcomes.item_id)
        .outerjoin(other, other.c.item_id == outcomes.representative)
        .where(
            outcomes.decided_by.in_(("cluster", "appeal")),
            sa.or_(other.c.item_id.is_(None), other.c.decision != outcomes.decision),
        )
        .limit(_SHOWN)
    )
    found = connection.scalars(taken)
    return faults + [f"item {item[:12]}: its outcome is not that of the item it was taken from" for item in found]


_CONTRADICTIONS = (
    (
        "slot {0} {1}: leased, but not to one person until some time",
        "SELECT item_id, n FROM review_slots WHERE state = 'leased' "
        "AND (member IS NULL OR token IS NULL OR lease_until IS NULL)",
    ),
    (
        "item {0}: {1} has {2} of its slots",
        "SELECT item_id, member, count(*) FROM review_slots WHERE member IS NOT NULL GROUP BY item_id, member "
        "HAVING count(*) > 1",
    ),
    (
        "lease {0}: {1} slots have it",
        "SELECT token, count(*) FROM review_slots WHERE token IS NOT NULL GROUP BY token HAVING count(*) > 1",
    ),
    (
        "slot {0} {1}: done without a label",
        "SELECT s.item_id, s.n FROM review_slots s WHERE s.state = 'done' AND NOT EXISTS "
        "(SELECT 1 FROM review_labels l WHERE l.item_id = s.item_id AND l.n = s.n AND l.member = s.member "
        "AND l.retracted_at IS NULL)",
    ),
    (
        "label {0}: its slot is not done",
        "SELECT l.id FROM review_labels l WHERE l.retracted_at IS NULL AND NOT EXISTS (SELECT 1 FROM review_slots s "
        "WHERE s.item_id = l.item_id AND s.n = l.n AND s.member = l.member AND s.state = 'done')",
    ),
    (
        "label {0}: there is no such item as {1}",
        "SELECT l.id, l.item_id FROM review_labels l WHERE NOT EXISTS "
        "(SELECT 1 FROM review_items i WHERE i.id = l.item_id)",
    ),
    (
        "slot {0} {1}: there is no such item",
        "SELECT s.item_id, s.n FROM review_slots s WHERE NOT EXISTS "
        "(SELECT 1 FROM review_items i WHERE i.id = s.item_id)",
    ),
    (
        "item {0}: nobody can be asked about it, it has no slot",
        "SELECT i.id FROM review_items i WHERE i.state <> 'decided' AND NOT EXISTS "
        "(SELECT 1 FROM review_slots s WHERE s.item_id = i.id)",
    ),
    (
        "item {0}: {1} labelled it {2} times",
        "SELECT item_id, member, count(*) FROM review_labels WHERE retracted_at IS NULL GROUP BY item_id, member "
        "HAVING count(*) > 1",
    ),
    (
        "item {0}: decided, and no outcome",
        "SELECT i.id FROM review_items i WHERE i.state = 'decided' AND i.gold IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM review_outcomes o WHERE o.item_id = i.id)",
    ),
    (
        "item {0}: an outcome, and it is {1}",
        "SELECT o.item_id, i.state FROM review_outcomes o JOIN review_items i ON i.id = o.item_id "
        "WHERE i.state <> 'decided'",
    ),
    (
        "outcome {0}: there is no such item",
        "SELECT o.item_id FROM review_outcomes o WHERE NOT EXISTS "
        "(SELECT 1 FROM review_items i WHERE i.id = o.item_id)",
    ),
    (
        "item {0}: {1}, and no senior can be asked",
        "SELECT i.id, i.state FROM review_items i WHERE i.state IN ('conflict', 'escalated') AND NOT EXISTS "
        "(SELECT 1 FROM review_slots s JOIN review_lanes a ON a.id = s.lane WHERE s.item_id = i.id "
        "AND a.kind = 'adjudication' AND s.state IN ('open', 'leased'))",
    ),
    (
        "item {0}: it waits for its cluster, in which nobody is asked",
        "SELECT DISTINCT s.item_id FROM review_slots s JOIN review_items i ON i.id = s.item_id "
        "LEFT JOIN review_clusters c ON c.queue = i.queue AND c.cluster = i.cluster "
        "LEFT JOIN review_items r ON r.id = c.representative "
        "WHERE s.state = 'waiting' AND (r.id IS NULL OR r.state = 'decided')",
    ),
)
