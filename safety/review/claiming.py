"""Give a person the next slot, and no more of the worst than a person should see. Knows lanes, leases and exposure.

Of the lanes that a person may take, the one with the highest head is claimed from. On PostgreSQL rows that another
claim holds are skipped, so claims do not wait for each other; the unique indexes hold what row locks do not.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.review.people import Act, require
from safety.review.views import ItemView, Kind, item_view, load_item
from workbench.errors import ReviewError
from workbench.store.database import insert
from workbench.store.review_schema import (
    review_exposure,
    review_items,
    review_lanes,
    review_members,
    review_queues,
    review_slots,
)
from workbench.store.reviews import QueueSettings, is_storable

Reason = Literal["empty", "break", "budget", "opted_out"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A slot that is leased to a person. The token is the right to answer it."""

    token: str
    view: ItemView
    lease_until: str
    resumed: bool = False
    """It was held already: a page that was loaded again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Idle:
    """There is nothing for this person now, and why."""

    reason: Reason
    sentence: str
    until: str | None = None
    """When to ask again, where that is known."""


def iso(moment: datetime) -> str:
    """A time as the store writes it."""
    return moment.isoformat(timespec="microseconds")


def act_of(kind: Kind) -> Act:
    """The right that such slots need."""
    return "label" if kind == "opinion" else "adjudicate"


def load_settings(connection: Connection, queue: str) -> QueueSettings:
    """A queue's settings.

    Raises:
        ReviewError: `unknown`.
    """
    found = connection.scalar(sa.select(review_queues.c.settings).where(review_queues.c.id == queue))
    if found is None:
        raise ReviewError(f"queue {queue}: not here; it is made when the first item is added", "unknown")
    return QueueSettings.from_json(found)


def claim(connection: Connection, member: str, queue: str, kind: Kind, session: str, now: datetime) -> Claim | Idle:
    """Lease the next slot, or say why there is none. See `ReviewQueue.claim`."""
    person = require(connection, member, act_of(kind), queue, lock=True)  # two claims of one person wait in turn
    assert person is not None
    settings = load_settings(connection, queue)
    sweep(connection, now)
    held = _held(connection, member)
    for row in held:
        if (row["queue"], row["kind"], row["session"]) == (queue, kind, session):
            until = _extend(connection, row["token"], settings, now)
            view = _view(connection, row["item_id"], row["n"], kind, settings)
            return Claim(token=row["token"], view=view, lease_until=until, resumed=True)
    if len(held) >= settings.max_leases:
        raise ReviewError(f"{person.name} holds {len(held)} items; label or hand back one of them first", "too_many")
    state = _state(connection, member)
    pause = _break(connection, member, state, settings, now)
    if pause is not None:
        return pause
    lanes = connection.execute(
        sa.select(review_lanes).where(review_lanes.c.queue == queue, review_lanes.c.kind == kind)
    ).mappings()
    left = settings.daily_budget - _spent(connection, member, now)
    all_lanes = list(lanes)
    wanted = [lane for lane in all_lanes if lane["category"] not in person.opt_out]
    allowed = [lane for lane in wanted if settings.severity_cost.get(lane["severity"], 0.0) <= left]
    for lane in _in_order(connection, allowed, member, state["since_severe"], settings):
        token = secrets.token_hex(16)
        until = iso(now + timedelta(seconds=settings.lease_s))
        taken = _take(connection, lane["id"], member, token, until, session)
        if taken is not None:
            _count_exposure(connection, member, lane["severity"], state, settings, now)
            view = _view(connection, taken[0], taken[1], kind, settings)
            return Claim(token=token, view=view, lease_until=until)
    return _nothing(connection, member, all_lanes, wanted, allowed, now)


def heartbeat(connection: Connection, member: str, token: str, now: datetime) -> str:
    """Extend a lease; also one that has expired, while nobody else has taken the slot. Its new end."""
    slot = slot_of(connection, member, token)
    require(connection, member, act_of(slot["kind"]), slot["queue"])
    return _extend(connection, token, load_settings(connection, slot["queue"]), now)


def slot_of(connection: Connection, member: str, token: str) -> sa.RowMapping:
    """The slot that a token stands for, with its lane's queue and kind, if it is still this member's.

    Raises:
        ReviewError: `lease_lost`.
    """
    slots, lanes = review_slots, review_lanes
    query = (
        sa.select(slots, lanes.c.queue, lanes.c.kind, lanes.c.category, lanes.c.severity)
        .join(lanes, lanes.c.id == slots.c.lane)
        .where(slots.c.token == (token if is_storable(token) else ""), slots.c.member == member)
    )
    found = connection.execute(query).mappings().first()
    if found is None or found["state"] not in ("leased", "open"):
        raise ReviewError(
            "this item is no longer yours: its lease ended and somebody else has it, or it was settled meanwhile; "
            "claim the next one",
            "lease_lost",
        )
    return found


def sweep(connection: Connection, now: datetime) -> int:
    """Open the slots whose lease has ended. Who held one keeps its token, which counts until somebody else takes it."""
    if connection.dialect.name == "postgresql":
        return connection.execute(_SWEEP_POSTGRESQL, {"now": iso(now)}).rowcount
    return connection.execute(_SWEEP, {"now": iso(now)}).rowcount


def exposure(connection: Connection, member: str, now: datetime) -> dict[str, tuple[int, float]]:
    """What a person was shown today (UTC): severity -> items and their cost."""
    table = review_exposure.c
    query = sa.select(review_exposure).where(table.member == member, table.day == now.date().isoformat())
    return {row.severity: (row.items, row.cost) for row in connection.execute(query)}


def _spent(connection: Connection, member: str, now: datetime) -> float:
    return sum(cost for _, cost in exposure(connection, member, now).values())


def _held(connection: Connection, member: str) -> Sequence[sa.RowMapping]:
    slots, lanes = review_slots, review_lanes
    query = (
        sa.select(slots, lanes.c.queue, lanes.c.kind)
        .join(lanes, lanes.c.id == slots.c.lane)
        .where(slots.c.member == member, sa.text("review_slots.state = 'leased'"))
        .order_by(slots.c.item_id)
    )
    return connection.execute(query).mappings().all()


def _state(connection: Connection, member: str) -> sa.RowMapping:
    return connection.execute(sa.select(review_members).where(review_members.c.id == member)).mappings().one()


def _break(
    connection: Connection, member: str, state: sa.RowMapping, settings: QueueSettings, now: datetime
) -> Idle | None:
    """The break that is due or under way. A pause of the same length that a person took unasked counts as one."""
    moment, until = iso(now), state["break_until"]
    if until is not None and until > moment:
        return Idle(reason="break", sentence="This is a break after hard material.", until=until)
    rested = state["last_claim_at"] is None or state["last_claim_at"] <= iso(now - timedelta(seconds=settings.break_s))
    if rested or until is not None:
        _set(connection, member, severe_run=0, break_until=None)
        return None
    if state["severe_run"] < settings.break_after_severe:
        return None
    until = iso(now + timedelta(seconds=settings.break_s))
    _set(connection, member, severe_run=0, break_until=until)
    sentence = f"A break is due: {state['severe_run']} severe items since the last one."
    return Idle(reason="break", sentence=sentence, until=until)


def _set(connection: Connection, member: str, **values: Any) -> None:
    connection.execute(sa.update(review_members).where(review_members.c.id == member).values(values))


def _in_order(
    connection: Connection,
    lanes: Sequence[sa.RowMapping],
    member: str,
    since_severe: int,
    settings: QueueSettings,
) -> list[sa.RowMapping]:
    """Lanes with something for this person, the highest head first; severe ones last where one was just seen."""
    if not lanes:
        return []
    query = _HEADS.bindparams(sa.bindparam("lanes", [lane["id"] for lane in lanes], expanding=True))
    heads = {row.id: row.head for row in connection.execute(query, {"member": member}) if row.head is not None}
    found = [lane for lane in lanes if lane["id"] in heads]
    waits = since_severe < settings.spread

    def rank(lane: sa.RowMapping) -> tuple[bool, float, int]:
        return (waits and lane["severity"] in settings.severe, -heads[lane["id"]], lane["id"])

    return sorted(found, key=rank)


def _take(
    connection: Connection, lane: int, member: str, token: str, until: str, session: str
) -> tuple[str, int] | None:
    statement = _TAKE_POSTGRESQL if connection.dialect.name == "postgresql" else _TAKE
    values = {"lane": lane, "member": member, "token": token, "until": until, "session": session}
    row = connection.execute(statement, values).first()
    return None if row is None else (row[0], row[1])


def _count_exposure(
    connection: Connection,
    member: str,
    severity: str,
    state: sa.RowMapping,
    settings: QueueSettings,
    now: datetime,
) -> None:
    table, cost = review_exposure.c, settings.severity_cost.get(severity, 0.0)
    row = {"member": member, "day": now.date().isoformat(), "severity": severity, "items": 1, "cost": cost}
    statement = insert(connection, review_exposure).values(row)
    more = {"items": table["items"] + 1, "cost": table.cost + cost}
    connection.execute(statement.on_conflict_do_update(index_elements=["member", "day", "severity"], set_=more))
    values: dict[str, Any] = {"last_claim_at": iso(now)}
    if severity in settings.severe:
        values |= {"severe_run": review_members.c.severe_run + 1, "since_severe": 0}
    else:
        values |= {"since_severe": review_members.c.since_severe + 1}
    _set(connection, member, **values)


def _extend(connection: Connection, token: str, settings: QueueSettings, now: datetime) -> str:
    until, slots = iso(now + timedelta(seconds=settings.lease_s)), review_slots.c
    statement = sa.update(review_slots).where(slots.token == token, slots.state.in_(("leased", "open")))
    if connection.execute(statement.values(state="leased", lease_until=until)).rowcount != 1:
        raise ReviewError("this item is no longer yours; claim the next one", "lease_lost")
    return until


def _view(connection: Connection, item: str, n: int, kind: Kind, settings: QueueSettings) -> ItemView:
    found = load_item(connection, item)
    return item_view(connection, found, n, kind, settings, waiting=waiting_behind(connection, found.entry))


def waiting_behind(connection: Connection, entry: Any) -> int:
    """How many near-duplicates wait for this item's cluster."""
    if not entry.cluster:
        return 0
    slots, items = review_slots.c, review_items.c
    query = (
        sa.select(sa.func.count(sa.distinct(items.id)))
        .join(review_slots, slots.item_id == items.id)
        .where(items.queue == entry.queue_id, items.cluster == entry.cluster, slots.state == "waiting")
    )
    return int(connection.scalar(query) or 0)


def _nothing(
    connection: Connection,
    member: str,
    lanes: Sequence[sa.RowMapping],
    wanted: Sequence[sa.RowMapping],
    allowed: Sequence[sa.RowMapping],
    now: datetime,
) -> Idle:
    """Why: what is left lies in lanes beyond the budget, in categories opted out of, or nowhere."""
    unbound = QueueSettings(spread=0)
    if _in_order(connection, [lane for lane in wanted if lane not in allowed], member, 0, unbound):
        tomorrow = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), now.tzinfo)
        return Idle(
            reason="budget",
            sentence="What is left is more severe than today's budget allows. It is there tomorrow, or for others.",
            until=iso(tomorrow),
        )
    if _in_order(connection, [lane for lane in lanes if lane not in wanted], member, 0, unbound):
        return Idle(reason="opted_out", sentence="What is left is in categories that you do not look at.")
    return Idle(reason="empty", sentence="Nothing is left for you here.")


# Somebody who holds or has answered another slot of the item, or has skipped it, is not given this one.
_MINE = """
    NOT EXISTS (SELECT 1 FROM review_slots x WHERE x.item_id = s.item_id AND x.member = :member AND x.n <> s.n)
    AND NOT EXISTS (SELECT 1 FROM review_skips k WHERE k.item_id = s.item_id AND k.member = :member)
"""
# `state = 'open'` is written out: SQLite uses a partial index only where it sees its condition.
_NEXT = f"""
    SELECT s.item_id, s.n FROM review_slots s
    WHERE s.lane = :lane AND s.state = 'open' AND {_MINE}
    ORDER BY s.priority DESC, s.item_id DESC, s.n DESC LIMIT 1
"""  # noqa: S608  (constants only)
_HEADS = sa.text(f"""
    SELECT l.id AS id, (
        SELECT s.priority FROM review_slots s WHERE s.lane = l.id AND s.state = 'open' AND {_MINE}
        ORDER BY s.priority DESC, s.item_id DESC, s.n DESC LIMIT 1
    ) AS head FROM review_lanes l WHERE l.id IN :lanes
""")  # noqa: S608
_SET = "state = 'leased', member = :member, token = :token, lease_until = :until, session = :session"
_TAKE = sa.text(
    f"UPDATE review_slots SET {_SET} WHERE (item_id, n) = ({_NEXT}) RETURNING item_id, n"  # noqa: S608
)
_TAKE_POSTGRESQL = sa.text(f"""
    WITH next AS MATERIALIZED ({_NEXT} FOR UPDATE OF s SKIP LOCKED)
    UPDATE review_slots t SET {_SET} FROM next WHERE t.item_id = next.item_id AND t.n = next.n
    RETURNING t.item_id, t.n
""")  # noqa: S608
_SWEEP = sa.text("UPDATE review_slots SET state = 'open' WHERE state = 'leased' AND lease_until < :now")
_SWEEP_POSTGRESQL = sa.text("""
    WITH ended AS MATERIALIZED (
        SELECT item_id, n FROM review_slots WHERE state = 'leased' AND lease_until < :now FOR UPDATE SKIP LOCKED
    )
    UPDATE review_slots t SET state = 'open' FROM ended WHERE t.item_id = ended.item_id AND t.n = ended.n
""")
