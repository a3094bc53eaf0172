"""Decided items of a queue, as feedback takes them. Knows rows of the store and who may export; makes no training row.

Names of people are no part of it: what leaves is the decision, the share of people who found a violation, and the
digest of the rule that they read. A decision that was appealed and decided anew counts as it was decided last.
"""

import json
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.compile import ScreenRule
from safety.review.feedback import Settled, rule_digest
from safety.review.people import Actor, require
from safety.review.queue import ReviewQueue, queue_id
from safety.review.views import guideline
from workbench.store.audit import AuditEvent
from workbench.store.review_schema import review_items, review_outcomes
from workbench.store.reviews import ReviewItem, read_item


def read_settled(review: ReviewQueue, queue: str, *, actor: Actor, as_of: str | None = None) -> list[Settled]:
    """All decided items of a queue, by id; the export is a row of the audit.

    Args:
        as_of: UTC ISO 8601 time; decisions after it are left out, so an export can be repeated.

    Raises:
        ReviewError: no right to export from this queue.
    """
    place = queue_id(queue)

    def act(connection: Connection, events: list[AuditEvent]) -> list[Settled]:
        require(connection, actor, "export", place)
        found = _read(connection, place, as_of)
        events.append(
            AuditEvent(kind="review.export", actor="", document={"queue": place, "as_of": as_of, "items": len(found)})
        )
        return found

    return review.act(actor, act)


def _read(connection: Connection, queue: str, as_of: str | None) -> list[Settled]:
    outcomes = review_outcomes.c
    query = sa.select(review_outcomes).where(outcomes.queue == queue)
    if as_of is not None:
        query = query.where(outcomes.decided_at <= as_of)
    decided = {row["item_id"]: row for row in connection.execute(query.order_by(outcomes.item_id)).mappings()}
    items = {item.id: item for item in _items(connection, sorted(decided))}
    digests: dict[str, Mapping[str, str]] = {}
    appealed = {item.entry.parent for item in items.values() if item.entry.parent}
    found = []
    for name, row in decided.items():
        item, policy_hash = items[name], row["policy_hash"]
        if name in appealed:
            continue  # the appeal's own decision stands for it
        if policy_hash not in digests:
            _, rules = guideline(connection, policy_hash)
            digests[policy_hash] = {rule.category: _digest(rule) for rule in rules}
        found.append(_settled(item, row, digests[policy_hash], items))
    return found


def _items(connection: Connection, ids: list[str], *, chunk: int = 500) -> Iterable[ReviewItem]:
    for at in range(0, len(ids), chunk):
        query = sa.select(review_items).where(review_items.c.id.in_(ids[at : at + chunk]))
        yield from (read_item(row) for row in connection.execute(query).mappings())


def _settled(
    item: ReviewItem, row: sa.RowMapping, digests: Mapping[str, str], items: Mapping[str, ReviewItem]
) -> Settled:
    entry = item.entry
    # an appeal bears the text; how it was drawn, and so which side of the split it is on, is the first item's
    drawn = items[entry.parent].entry if entry.parent and entry.parent in items else entry
    context = {
        name: str(value) for name, value in (entry.context or {}).items() if isinstance(value, str | int | float)
    }
    return Settled(
        id=item.id,
        text=entry.text or "",
        prompt=entry.prompt or "",
        context=context | ({"community": entry.community} if entry.community else {}),
        category=entry.category,
        decision=row["decision"],
        categories=tuple(json.loads(row["categories"])),
        soft=float(row["soft"]),
        decided_by=row["decided_by"],
        rule_digests=digests,
        cluster=drawn.cluster,
        stratum=drawn.stratum,
        pi=drawn.pi,
        probability=entry.probability,
        model=entry.model,
        policy_hash=row["policy_hash"],
    )


def _digest(rule: ScreenRule) -> str:
    return rule_digest(definition=rule.definition, not_this=rule.not_this, violates=rule.violates, allowed=rule.allowed)
