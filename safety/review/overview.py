"""Numbers about a queue and a person's day, and what a ranker writes into it. Knows rows; no label is made here."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.review.claiming import exposure, iso, load_settings
from safety.review.people import Member
from safety.review.views import Decision, Kind, guideline, load_item
from workbench.errors import ReviewError
from workbench.store.identity import canonical_json
from workbench.store.review_schema import (
    review_items,
    review_labels,
    review_lanes,
    review_members,
    review_slots,
)
from workbench.store.reviews import STRATA, Stratum

_CHUNK = 500
_MANY = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescore:
    """What a ranker says of an item. None leaves what is there."""

    item: str
    priority: float
    pi: float | None = None
    stratum: Stratum | None = None
    draw_seed: int | None = None
    score_version: str | None = None
    expected_severity: float | None = None
    scores: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A person's day in a queue."""

    labelled_today: int
    seen_today: Mapping[str, int]
    """Severity -> items shown, of all queues."""
    spent: float
    """Of today's severity budget."""
    budget: float
    severe_until_break: int
    """Severe items until a break is due."""
    break_until: str | None
    severe: tuple[str, ...]
    """Severities that the queue counts as severe."""
    waiting: int
    """Open slots of the queue, at most `waiting_at_most`; of the kind that this person works on."""
    waiting_at_most: int = _MANY


@dataclass(frozen=True, kw_only=True, slots=True)
class Stats:
    """A queue as a whole."""

    queue: str
    items: Mapping[str, int]
    """State -> items."""
    slots: Mapping[str, int]
    """`kind state` -> slots."""
    strata: Mapping[str, int]
    """Stratum -> items that are open."""
    oldest_open: str | None
    labels_last_day: int
    expired: int
    """Leases that have ended and that nobody has taken yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnLabel:
    """A label that a person gave and may still want back."""

    label: str
    item: str
    kind: Kind
    decision: Decision
    category: str
    categories: tuple[str, ...]
    state: str
    """What the item is now."""
    severity: str
    severe: bool
    """Whether the queue counts that as severe."""
    text: str | None
    titles: Mapping[str, str]
    """Category -> its title in the policy it was labelled under."""
    created_at: str


def progress(connection: Connection, member: Member, queue: str, now: datetime) -> Progress:
    """See `ReviewQueue.progress`. Costs the same however large the queue is."""
    settings, labels = load_settings(connection, queue), review_labels.c
    today = now.date().isoformat()
    query = sa.select(sa.func.count()).where(
        labels.member == member.id, labels.created_at >= today, labels.queue == queue, labels.retracted_at.is_(None)
    )
    shown = exposure(connection, member.id, now)
    state = connection.execute(sa.select(review_members).where(review_members.c.id == member.id)).mappings().one()
    roles = member.roles_in(queue)
    kinds = [kind for kind, role in (("opinion", "reviewer"), ("adjudication", "senior")) if role in roles]
    lanes = sa.select(review_lanes.c.id).where(review_lanes.c.queue == queue, review_lanes.c.kind.in_(kinds))
    open_slots = sa.select(review_slots.c.n).where(review_slots.c.lane.in_(lanes), sa.text("state = 'open'"))
    rested = state["last_claim_at"] is None or state["last_claim_at"] <= iso(now - timedelta(seconds=settings.break_s))
    until = state["break_until"]
    return Progress(
        labelled_today=int(connection.scalar(query) or 0),
        seen_today={severity: items for severity, (items, _) in sorted(shown.items())},
        spent=sum(cost for _, cost in shown.values()),
        budget=settings.daily_budget,
        severe_until_break=settings.break_after_severe - (0 if rested else state["severe_run"]),
        break_until=until if until is not None and until > iso(now) else None,
        severe=settings.severe,
        waiting=int(connection.scalar(sa.select(sa.func.count()).select_from(open_slots.limit(_MANY).subquery())) or 0),
    )


def stats(connection: Connection, queue: str, now: datetime) -> Stats:
    """See `ReviewQueue.stats`."""
    load_settings(connection, queue)
    items, slots, lanes, labels = review_items.c, review_slots.c, review_lanes.c, review_labels.c
    count = sa.func.count()
    here = items.queue == queue
    by_state = connection.execute(sa.select(items.state, count).where(here).group_by(items.state)).all()
    by_slot = connection.execute(
        sa.select(lanes.kind, slots.state, count)
        .join(review_slots, slots.lane == lanes.id)
        .where(lanes.queue == queue)
        .group_by(lanes.kind, slots.state)
    ).all()
    is_open = sa.and_(here, items.state != "decided")
    by_stratum = connection.execute(sa.select(items.stratum, count).where(is_open).group_by(items.stratum)).all()
    day = iso(now - timedelta(days=1))
    recent = sa.select(count).where(labels.queue == queue, labels.created_at >= day, labels.retracted_at.is_(None))
    late = (
        sa.select(count)
        .select_from(review_slots)
        .join(review_lanes, lanes.id == slots.lane)
        .where(lanes.queue == queue, sa.text("review_slots.state = 'leased'"), slots.lease_until < iso(now))
    )
    return Stats(
        queue=queue,
        items={row[0]: row[1] for row in by_state},
        slots={f"{row[0]} {row[1]}": row[2] for row in by_slot},
        strata={row[0]: row[1] for row in by_stratum},
        oldest_open=connection.scalar(sa.select(sa.func.min(items.created_at)).where(is_open)),
        labels_last_day=int(connection.scalar(recent) or 0),
        expired=int(connection.scalar(late) or 0),
    )


def own_labels(connection: Connection, member: Member, queue: str, limit: int) -> list[OwnLabel]:
    """See `ReviewQueue.own_labels`."""
    labels = review_labels.c
    query = sa.select(review_labels).where(
        labels.member == member.id, labels.queue == queue, labels.retracted_at.is_(None)
    )
    rows = connection.execute(query.order_by(labels.created_at.desc(), labels.id).limit(limit)).mappings().all()
    rules = {hash_: guideline(connection, hash_)[1] for hash_ in {row["policy_hash"] for row in rows}}
    severe = load_settings(connection, queue).severe if rows else ()
    found = []
    for row in rows:
        item = load_item(connection, row["item_id"])
        found.append(
            OwnLabel(
                label=row["id"],
                item=item.id,
                kind=row["kind"],
                decision=row["decision"],
                category=row["category"],
                categories=tuple(json.loads(row["categories"])),
                state=item.state,
                severity=item.entry.severity,
                severe=item.entry.severity in severe,
                text=item.entry.text,
                titles={rule.category: rule.title for rule in rules[row["policy_hash"]]},
                created_at=row["created_at"],
            )
        )
    return found


def categories(connection: Connection, queue: str) -> list[str]:
    """The categories that a queue's texts were ever asked about."""
    lanes = review_lanes.c
    found = connection.scalars(sa.select(lanes.category).where(lanes.queue == queue, lanes.category != "").distinct())
    return sorted(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """An item without its text."""

    id: str
    state: str
    category: str
    severity: str
    priority: float
    stratum: str
    need: int
    labels: int
    created_at: str


def listed(connection: Connection, queue: str, state: str | None, limit: int) -> list[Listed]:
    """See `ReviewQueue.listed`."""
    load_settings(connection, queue)
    items, labels = review_items.c, review_labels.c
    given = (
        sa.select(sa.func.count())
        .where(labels.item_id == items.id, labels.retracted_at.is_(None))
        .correlate(review_items)
        .scalar_subquery()
    )
    names = [name for name in Listed.__dataclass_fields__ if name != "labels"]
    wanted = items.state != "decided" if state is None else items.state == state
    query = (
        sa.select(*(items[name] for name in names), given.label("labels"))
        .where(items.queue == queue, wanted)
        .order_by(items.priority.desc(), items.id)
        .limit(limit)
    )
    return [Listed(**row) for row in connection.execute(query).mappings()]


def queues_of(connection: Connection, items: Sequence[str]) -> list[str]:
    """The queues that some items are in."""
    found: set[str] = set()
    for start in range(0, len(items), _CHUNK):
        part = list(items[start : start + _CHUNK])
        found |= set(connection.scalars(sa.select(review_items.c.queue).where(review_items.c.id.in_(part)).distinct()))
    return sorted(found)


def rescore(connection: Connection, rows: Sequence[Rescore]) -> int:
    """Write priorities and what belongs to them; how many items took them.

    Raises:
        ReviewError: a priority or probability that is none.
    """
    changed = 0
    for row in rows:
        if not -1e300 < row.priority < 1e300:
            raise ReviewError(f"item {row.item[:12]}: priority {row.priority} is no finite number")
        if row.pi is not None and not 0 < row.pi <= 1:
            raise ReviewError(f"item {row.item[:12]}: pi {row.pi}: above 0 and at most 1 is expected")
        if row.stratum is not None and (row.stratum not in STRATA or row.stratum in ("gold", "appeal")):
            raise ReviewError(f"item {row.item[:12]}: {row.stratum!r} is no stratum that a ranker draws")
    for start in range(0, len(rows), _CHUNK):
        changed += _rescore_part(connection, rows[start : start + _CHUNK])
    return changed


def _rescore_part(connection: Connection, rows: Sequence[Rescore]) -> int:
    """Items first, then the slots that nobody holds. Sorted, so that two rankers cannot lock each other out."""
    plain = [
        {
            "item": row.item,
            "new_priority": row.priority,
            "new_pi": row.pi,
            "new_stratum": row.stratum,
            "new_draw_seed": row.draw_seed,
            "new_score_version": row.score_version,
            "new_expected_severity": row.expected_severity,
            "new_scores": None if row.scores is None else canonical_json(row.scores),
        }
        for row in sorted(rows, key=lambda row: row.item)
    ]
    items, slots = review_items.c, review_slots.c
    kept = ("pi", "stratum", "draw_seed", "score_version", "expected_severity", "scores")
    values: dict[str, Any] = {"priority": sa.bindparam("new_priority")}
    for name in kept:
        column = items[name]
        values[name] = sa.func.coalesce(sa.cast(sa.bindparam(f"new_{name}"), column.type), column)
    fixed = sa.or_(items.stratum == "gold", items.stratum == "appeal")  # what they are, no ranker changes
    values["stratum"] = sa.case((fixed, items.stratum), else_=values["stratum"])
    count = connection.execute(
        sa.update(review_items).where(items.id == sa.bindparam("item")).values(values), plain
    ).rowcount
    unsettled = sa.or_(*(slots.state == state for state in ("open", "waiting", "leased")))  # IN would bar many at once
    free = sa.update(review_slots).where(slots.item_id == sa.bindparam("item"), unsettled)
    connection.execute(
        free.values(priority=sa.bindparam("new_priority")),
        [{"item": row["item"], "new_priority": row["new_priority"]} for row in plain],
    )
    return max(count, 0)


def swap_policy(connection: Connection, queue: str, old: str, new: str) -> int:
    """Put open items without a label under another policy; how many."""
    items, labels = review_items.c, review_labels.c
    labelled = sa.select(labels.id).where(labels.item_id == items.id, labels.retracted_at.is_(None))
    statement = sa.update(review_items).where(
        items.queue == queue, items.policy_hash == old, items.state == "open", ~labelled.exists()
    )
    return connection.execute(statement.values(policy_hash=new)).rowcount
