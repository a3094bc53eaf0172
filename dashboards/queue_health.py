"""How a review queue is doing, counted by the database: pace, agreement, exposure. Knows rows; judges nobody."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from workbench.statistics import Interval, wilson_interval
from workbench.store.database import Database
from workbench.store.review_schema import review_exposure, review_items, review_labels, review_members

DAYS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Of the items of a category that two people labelled blind: how many they agreed on."""

    category: str
    items: int
    share: Interval | None
    """With its interval; None where nothing was labelled twice."""


def pace(database: Database, queue: str) -> list[dict[str, Any]]:
    """Labels of each of the last days, with the mean seconds that one took."""
    table = review_labels.c
    day = sa.func.substr(table.created_at, 1, 10)
    since = (datetime.now(UTC) - timedelta(days=DAYS)).date().isoformat()
    query = (
        sa.select(day.label("day"), sa.func.count().label("labels"), sa.func.avg(table.ms_spent).label("ms"))
        .where(table.queue == queue, table.retracted_at.is_(None), table.created_at >= since)
        .group_by(day)
        .order_by(day)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        {
            "day": row.day,
            "labels": row.labels,
            "seconds each": None if row.ms is None else round(float(row.ms) / 1e3, 1),
        }
        for row in rows
    ]


def agreement(database: Database, queue: str) -> list[Agreement]:
    """Blind double labels, all together and by the category in question, the newest thousand of them."""
    first, second = review_labels.alias("first"), review_labels.alias("second")
    query = (
        sa.select(review_items.c.category, first.c.decision, second.c.decision.label("other"))
        .select_from(first)
        .join(second, sa.and_(second.c.item_id == first.c.item_id, second.c.n > first.c.n))
        .join(review_items, review_items.c.id == first.c.item_id)
        .where(
            first.c.queue == queue,
            first.c.kind == "opinion",
            second.c.kind == "opinion",
            first.c.blind,
            second.c.blind,
            first.c.retracted_at.is_(None),
            second.c.retracted_at.is_(None),
        )
        .order_by(first.c.created_at.desc())
        .limit(1_000)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    found = {"all": [row.decision == row.other for row in rows]}
    for row in rows:
        found.setdefault(row.category or "none", []).append(row.decision == row.other)
    return [Agreement(category=name, items=len(same), share=_share(same)) for name, same in found.items()]


def exposure(database: Database) -> list[dict[str, Any]]:
    """What each person was shown today, by severity, and what of the daily budget it took."""
    table = review_exposure.c
    query = (
        sa.select(review_members.c.name, table.severity, table["items"].label("shown"), table.cost)
        .join(review_members, review_members.c.id == table.member)
        .where(table.day == datetime.now(UTC).date().isoformat())
        .order_by(review_members.c.name, table.severity)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [{"who": row.name, "severity": row.severity, "items": row.shown, "cost": row.cost} for row in rows]


def tell(share: Interval | None) -> str:
    """`80.0% [60.1%, 91.3%]`."""
    if share is None:
        return "–"
    if share.low is None or share.high is None:
        return f"{100 * share.value:.1f}%"
    return f"{100 * share.value:.1f}% [{100 * share.low:.1f}%, {100 * share.high:.1f}%]"


def _share(same: Sequence[bool]) -> Interval | None:
    if not same:
        return None
    return wilson_interval(sum(same), len(same))
