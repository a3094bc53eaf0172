"""What follows for an item from the labels it has: agreement, a senior's word, near-duplicates, appeals. Knows rows.

Every function is called in a transaction that has locked the item, so that two last labels cannot each think the other
is missing.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.review.claiming import iso
from safety.review.views import load_item
from workbench.errors import ReviewError
from workbench.store.audit import AuditEvent
from workbench.store.database import insert
from workbench.store.identity import canonical_json
from workbench.store.review_schema import (
    review_clusters,
    review_items,
    review_labels,
    review_lanes,
    review_outcomes,
    review_skips,
    review_slots,
)
from workbench.store.reviews import INDEPENDENT, ReviewItem, add_reviews, lane_id, lead_cluster

SOFT = {"violates": 1.0, "allowed": 0.0, "unsure": 0.5}
SETTLED = ("violates", "allowed")


def settle(connection: Connection, item: ReviewItem, now: datetime) -> str:
    """Give an item the state that its labels call for; the state.

    A senior's label decides. Else all opinions must be in, and be the same clear answer (the decision, and for a
    violation its categories); anything else is a conflict, which opens a slot for a senior who has not labelled it.
    """
    labels = _labels(connection, item.id)
    senior = [label for label in labels if label["kind"] == "adjudication"]
    slots = _slots(connection, item.id)
    pending = [s for s in slots if s["kind"] == "opinion" and s["state"] in ("open", "leased", "waiting")]
    if item.entry.gold is not None:
        return _enter(connection, item, "open" if pending else "decided", now)
    if senior:
        _decide(connection, item, senior[-1], labels, "adjudicator", now)
        return _enter(connection, item, "decided", now)
    if pending or item.state == "escalated":
        return item.state
    answers = {(label["decision"], label["categories"]) for label in labels}
    if len(answers) == 1 and labels[0]["decision"] in SETTLED:
        _decide(connection, item, labels[0], labels, "agreement", now)
        return _enter(connection, item, "decided", now)
    send_to_senior(connection, item)
    return _enter(connection, item, "conflict", now)


def send_to_senior(connection: Connection, item: ReviewItem) -> None:
    """Open a slot for whoever settles it, unless there is one."""
    slots = _slots(connection, item.id)
    if any(slot["kind"] == "adjudication" and slot["state"] != "void" for slot in slots):
        return
    entry = item.entry
    lane = lane_id(connection, entry.queue_id, "adjudication", entry.severity, entry.category)
    n = max(slot["n"] for slot in slots) + 1
    row = {"item_id": item.id, "n": n, "lane": lane, "state": "open", "priority": item.priority, "session": ""}
    connection.execute(sa.insert(review_slots), row)


def void_open(connection: Connection, item: str) -> None:
    """Nobody else is to be asked for a first opinion."""
    slots = review_slots.c
    opinions = sa.select(review_lanes.c.id).where(review_lanes.c.kind == "opinion")
    statement = sa.update(review_slots).where(
        slots.item_id == item, slots.state.in_(("open", "waiting")), slots.lane.in_(opinions)
    )
    connection.execute(statement.values(state="void", member=None, token=None, lease_until=None))


def escalate(connection: Connection, item: ReviewItem, now: datetime) -> str:
    """A senior is to decide, whatever others say meanwhile."""
    void_open(connection, item.id)
    send_to_senior(connection, item)
    return _enter(connection, item, "escalated", now)


def reopen(connection: Connection, item: ReviewItem, now: datetime) -> None:
    """Take back what followed from a label that is undone: the outcome, its near-duplicates', a senior's open slot.

    Raises:
        ReviewError: `too_late`: a senior has it or has decided, or an appeal is under way.
    """
    slots, items = review_slots.c, review_items.c
    if item.state == "escalated":
        return  # somebody has asked a senior, and that stands
    senior = [slot for slot in _slots(connection, item.id) if slot["kind"] == "adjudication"]
    busy = [slot for slot in senior if slot["state"] in ("leased", "done")]
    if busy:
        raise ReviewError("too late to undo: a senior looks at this item or has decided it", "too_late")
    if connection.scalar(sa.select(items.id).where(items.queue == item.entry.queue_id, items.parent == item.id)):
        raise ReviewError("too late to undo: the decision is under appeal", "too_late")
    for slot in senior:
        connection.execute(sa.delete(review_slots).where(slots.item_id == item.id, slots.n == slot["n"]))
    _take_back(connection, item, now)
    _enter(connection, item, "open", now)


def reopen_adjudication(connection: Connection, item: ReviewItem, now: datetime) -> None:
    """Take back what followed from a senior's label that is undone; an appealed item has its first decision again.

    Raises:
        ReviewError: `too_late`: the decision is under appeal.
    """
    items, labels = review_items.c, review_labels.c
    if connection.scalar(sa.select(items.id).where(items.queue == item.entry.queue_id, items.parent == item.id)):
        raise ReviewError("too late to undo: the decision is under appeal", "too_late")
    _take_back(connection, item, now)
    if item.entry.parent is not None:
        parent = load_item(connection, item.entry.parent, lock=True)
        settle(connection, parent, now)
        _enter(connection, item, "open", now)
        return
    opinions = sa.select(labels.id).where(
        labels.item_id == item.id, labels.kind == "opinion", labels.retracted_at.is_(None)
    )
    _enter(connection, item, "conflict" if connection.scalar(opinions.limit(1)) else "escalated", now)


def _take_back(connection: Connection, item: ReviewItem, now: datetime) -> None:
    """Remove an outcome, and those that near-duplicates have from it."""
    slots, outcomes = review_slots.c, review_outcomes.c
    if item.entry.cluster:
        taken_over = list(connection.scalars(sa.select(outcomes.item_id).where(outcomes.representative == item.id)))
        lead = lead_cluster(connection, item.entry.queue_id, item.entry.cluster, item.id)
        for other in sorted(taken_over):
            connection.execute(sa.delete(review_outcomes).where(outcomes.item_id == other))
            waits = "open" if other == lead else "waiting"
            connection.execute(
                sa.update(review_slots).where(slots.item_id == other, slots.state == "void").values(state=waits)
            )
            _enter(connection, load_item(connection, other, lock=True), "open", now)
    connection.execute(sa.delete(review_outcomes).where(outcomes.item_id == item.id))


def apply_to_cluster(connection: Connection, item: ReviewItem, now: datetime) -> list[str]:
    """Give the near-duplicates that nobody has or had yet the same outcome; their ids.

    Raises:
        ReviewError: `invalid`: it is not decided, or is like no other.
    """
    outcome = (
        connection.execute(sa.select(review_outcomes).where(review_outcomes.c.item_id == item.id)).mappings().first()
    )
    if outcome is None or outcome["decision"] not in SETTLED:
        raise ReviewError("only a decision that violates or allows can be applied to near-duplicates")
    if not item.entry.cluster or item.entry.stratum in INDEPENDENT:
        raise ReviewError("this item stands for itself alone")
    items, slots = review_items.c, review_slots.c
    _lock_cluster(connection, item)
    query = sa.select(items.id).where(
        items.queue == item.entry.queue_id,
        items.cluster == item.entry.cluster,
        items.state == "open",
        items.stratum.not_in(INDEPENDENT),
        items.id != item.id,
    )
    applied = []
    for other in sorted(connection.scalars(query)):
        locked = sa.select(review_slots).where(slots.item_id == other).with_for_update(skip_locked=True)
        states = [row["state"] for row in connection.execute(locked).mappings()]
        if len(states) < len(_slots(connection, other)) or not set(states) <= {"open", "waiting"}:
            continue  # somebody looks at it, or has
        void = {"state": "void", "member": None, "token": None, "lease_until": None}
        connection.execute(sa.update(review_slots).where(slots.item_id == other).values(void))
        row = dict(outcome) | {"item_id": other, "decided_by": "cluster", "representative": item.id}
        connection.execute(sa.insert(review_outcomes), row | {"decided_at": iso(now)})
        _enter(connection, load_item(connection, other, lock=True), "decided", now)
        applied.append(other)
    return applied


def appeal(connection: Connection, item: ReviewItem, reason: str, now: datetime) -> str:
    """Put a decided item before a senior who has had nothing to do with it; the id of the appeal's item.

    Raises:
        ReviewError: `invalid`: it is not decided, or is appealed already.
    """
    entry = item.entry
    if item.state != "decided" or entry.gold is not None:
        raise ReviewError("only a decided item can be appealed")
    context = dict(entry.context or {}) | ({"appeal": reason} if reason else {})
    fresh = replace(entry, source="appeal", stratum="appeal", parent=item.id, pi=None, cluster="", context=context)
    fresh = replace(fresh, priority=item.priority, need=None, text=entry.text)
    if not add_reviews(connection, [fresh]):
        raise ReviewError("this decision is appealed already")
    labels = review_labels.c
    before = set(connection.scalars(sa.select(labels.member).where(labels.item_id.in_(_ancestors(connection, item)))))
    for member in sorted(before):
        row = {"item_id": fresh.id, "member": member, "reason": "took part in the decision", "at": iso(now)}
        connection.execute(insert(connection, review_skips).on_conflict_do_nothing(), row)
    return fresh.id


def _ancestors(connection: Connection, item: ReviewItem) -> list[str]:
    found = [item.id]
    while item.entry.parent is not None:
        item = load_item(connection, item.entry.parent)
        found.append(item.id)
    return found


def _decide(
    connection: Connection,
    item: ReviewItem,
    label: sa.RowMapping,
    labels: Sequence[sa.RowMapping],
    decided_by: str,
    now: datetime,
) -> None:
    """Write the outcome. An appeal's outcome is the appealed item's as well."""
    numbers = [SOFT[one["decision"]] for one in labels if one["decision"] in SOFT]
    row = {
        "item_id": item.id,
        "queue": item.entry.queue_id,
        "decision": label["decision"],
        "categories": label["categories"],
        "soft": sum(numbers) / len(numbers) if numbers else 0.5,
        "decided_by": decided_by,
        "representative": None,
        "policy_hash": label["policy_hash"],
        "decided_at": iso(now),
    }
    rows = [row]
    if item.entry.parent is not None:
        ancestors = _ancestors(connection, item)[1:]
        rows += [row | {"item_id": old, "decided_by": "appeal", "representative": item.id} for old in ancestors]
    for one in rows:
        statement = insert(connection, review_outcomes).values(one)
        changed = {key: statement.excluded[key] for key in one if key != "item_id"}
        connection.execute(statement.on_conflict_do_update(index_elements=["item_id"], set_=changed))
    _lead_on(connection, item)


def _lead_on(connection: Connection, item: ReviewItem) -> None:
    """The item is done with: the next of its cluster that waits is opened."""
    if not item.entry.cluster:
        return
    items, slots, clusters = review_items.c, review_slots.c, review_clusters.c
    if _lock_cluster(connection, item) != item.id:
        return
    here = (clusters.queue == item.entry.queue_id, clusters.cluster == item.entry.cluster)
    query = (
        sa.select(items.id)
        .join(review_slots, slots.item_id == items.id)
        .where(items.queue == item.entry.queue_id, items.cluster == item.entry.cluster, slots.state == "waiting")
        .order_by(slots.priority.desc(), items.id)
        .limit(1)
    )
    following = connection.scalar(query)
    if following is None:
        connection.execute(sa.delete(review_clusters).where(*here))
        return
    connection.execute(sa.update(review_clusters).where(*here).values(representative=following))
    opened = sa.update(review_slots).where(slots.item_id == following, slots.state == "waiting")
    connection.execute(opened.values(state="open"))


def _lock_cluster(connection: Connection, item: ReviewItem) -> str | None:
    clusters = review_clusters.c
    query = sa.select(clusters.representative).where(
        clusters.queue == item.entry.queue_id, clusters.cluster == item.entry.cluster
    )
    return connection.scalar(query.with_for_update())


def _enter(connection: Connection, item: ReviewItem, state: str, now: datetime) -> str:
    if item.state != state:
        changed = sa.update(review_items).where(review_items.c.id == item.id)
        connection.execute(changed.values(state=state, state_at=iso(now)))
    return state


def _labels(connection: Connection, item: str) -> list[sa.RowMapping]:
    labels = review_labels.c
    query = sa.select(review_labels).where(labels.item_id == item, labels.retracted_at.is_(None))
    return list(connection.execute(query.order_by(labels.n)).mappings())


def _slots(connection: Connection, item: str) -> list[sa.RowMapping]:
    slots, lanes = review_slots, review_lanes
    query = sa.select(slots, lanes.c.kind).join(lanes, lanes.c.id == slots.c.lane).where(slots.c.item_id == item)
    return list(connection.execute(query.order_by(slots.c.n)).mappings())


def event(name: str, item: ReviewItem, /, **facts: object) -> AuditEvent:
    """An audit event about an item: ids and digests, never its text."""
    about = {"item": item.id, "queue": item.entry.queue_id, "content_sha": item.entry.content_sha}
    return AuditEvent(kind=f"review.{name}", actor="", document=about | facts)


def categories_of(text: str) -> tuple[str, ...]:
    """Categories from their column."""
    return tuple(json.loads(text))


def categories_text(categories: Sequence[str]) -> str:
    """Categories as their column has them: the same set is the same text."""
    return canonical_json(sorted(set(categories)))
