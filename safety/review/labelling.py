"""What a person does with a claimed slot: label it, skip it, hand it back, send it up, or take the label back.

Each is one transaction. A label is written under a key: the same call again gives the same answer and writes nothing,
another label under the same key is refused. Without a key of its own the lease's token is the key, so a second press
of a button labels nothing twice.
"""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.review.claiming import Claim, act_of, iso, load_settings, slot_of, waiting_behind
from safety.review.people import require
from safety.review.settling import (
    SETTLED,
    categories_of,
    categories_text,
    escalate,
    event,
    reopen,
    reopen_adjudication,
    settle,
)
from safety.review.views import DECISIONS, Decision, ModelView, guideline, item_view, load_item, model_view, shows_hint
from workbench.errors import ReviewError, did_you_mean
from workbench.store.audit import AuditEvent
from workbench.store.database import insert
from workbench.store.identity import canonical_json
from workbench.store.review_schema import review_labels, review_skips, review_slots
from workbench.store.reviews import INDEPENDENT, ReviewItem

_MAX_NOTE = 4_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A label as it is given."""

    decision: Decision
    categories: tuple[str, ...] = ()
    """What is violated; empty: the category in question."""
    severity: str | None = None
    confidence: float | None = None
    spans: tuple[tuple[int, int], ...] = ()
    """Places in the text that show it, as character offsets."""
    note: str = ""
    ms_spent: int | None = None
    policy_hash: str | None = None
    """As the view had it: a label under a rule that was changed meanwhile is refused. None: not checked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A label that is written down."""

    label: str
    item: str
    state: str
    """What the item is now: `open` (another opinion is needed), `conflict`, `escalated` or `decided`."""
    reveal: ModelView | None
    """What the model said; show it now. None while others still label the item blind."""
    similar: int = 0
    """Near-duplicates that wait: offer to apply the label to them."""
    replayed: bool = False
    """The same call was made before; nothing was written again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """An act that has no label."""

    item: str
    state: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def submit(
    connection: Connection,
    member: str,
    token: str,
    answer: Answer,
    key: str | None,
    now: datetime,
    events: list[AuditEvent],
) -> Submitted:
    """Write a label. See `ReviewQueue.submit`."""
    key = f"submit:{token}" if key is None else checked_key(key)
    request = hashlib.sha256(canonical_json({"token": token, "answer": answer}).encode()).hexdigest()
    before = _label_under(connection, member, key)
    if before is not None:
        return _replay(connection, before, request)
    slot = slot_of(connection, member, token)
    require(connection, member, act_of(slot["kind"]), slot["queue"])
    item = load_item(connection, slot["item_id"], lock=True)
    before = _label_under(connection, member, key)  # the lock may have been waited for
    if before is not None:
        return _replay(connection, before, request)
    _check(connection, item, answer)
    settings = load_settings(connection, slot["queue"])
    slots = review_slots.c
    mine = sa.update(review_slots).where(
        slots.item_id == item.id, slots.n == slot["n"], slots.token == token, slots.state.in_(("leased", "open"))
    )
    if connection.execute(mine.values(state="done", lease_until=None)).rowcount != 1:
        raise ReviewError("this item is no longer yours; claim the next one", "lease_lost")
    shown = shows_hint(settings, item, slot["n"], slot["kind"]) or _was_revealed(connection, item, slot["n"])
    row = {
        "id": f"l-{secrets.token_hex(12)}",
        "item_id": item.id,
        "n": slot["n"],
        "queue": slot["queue"],
        "kind": slot["kind"],
        "member": member,
        "decision": answer.decision,
        "category": item.entry.category,
        "categories": _categories(item, answer),
        "detail": canonical_json(_detail(answer)),
        "policy_hash": item.entry.policy_hash,
        "hint_shown": shown,
        "blind": item.blind,
        "ms_spent": answer.ms_spent,
        "key": key,
        "request_sha": request,
        "created_at": iso(now),
    }
    connection.execute(sa.insert(review_labels), row)
    similar = _similar(connection, item, answer)  # before the next of them is opened
    state = settle(connection, item, now)
    said = {name: row[name] for name in ("n", "kind", "decision", "category", "policy_hash", "hint_shown", "blind")}
    facts = said | {"label": row["id"], "categories": categories_of(row["categories"]), "state": state}
    facts["detail_sha"] = hashlib.sha256(row["detail"].encode()).hexdigest()
    events.append(event("adjudicate" if slot["kind"] == "adjudication" else "label", item, **facts))
    return Submitted(
        label=row["id"],
        item=item.id,
        state=state,
        reveal=_reveal(item, state),
        similar=similar if state == "decided" else 0,
    )


def undo(connection: Connection, member: str, label: str | None, now: datetime, events: list[AuditEvent]) -> Claim:
    """Take a label back; its slot is leased to the same person again. See `ReviewQueue.undo`."""
    labels = review_labels.c
    query = sa.select(review_labels).where(labels.member == member).order_by(labels.created_at.desc(), labels.id)
    newest = connection.execute(query.limit(100)).mappings().all()
    found = next((r for r in newest if r["id"] == label or (label is None and r["retracted_at"] is None)), None)
    if found is None:
        raise ReviewError("no label of yours to undo" if label is None else "not a recent label of yours", "unknown")
    require(connection, member, act_of(found["kind"]), found["queue"])
    settings = load_settings(connection, found["queue"])
    item = load_item(connection, found["item_id"], lock=True)
    token = secrets.token_hex(16)
    if found["retracted_at"] is not None:
        raise ReviewError("this label is undone already", "invalid")
    standing = [row["id"] for row in newest if row["retracted_at"] is None][: settings.undo_last]
    if found["id"] not in standing:
        raise ReviewError(
            f"only the last {settings.undo_last} labels can be undone; appeal the decision instead", "too_late"
        )
    if found["kind"] == "opinion":
        reopen(connection, item, now)
    else:
        reopen_adjudication(connection, item, now)
    retracted = sa.update(review_labels).where(labels.id == found["id"], labels.retracted_at.is_(None))
    if connection.execute(retracted.values(retracted_at=iso(now))).rowcount != 1:
        raise ReviewError("this label is undone already", "invalid")
    until, slots = iso(now + timedelta(seconds=settings.lease_s)), review_slots.c
    leased = {"state": "leased", "member": member, "token": token, "lease_until": until}
    mine = sa.update(review_slots).where(slots.item_id == item.id, slots.n == found["n"])
    connection.execute(mine.values(leased))
    events.append(event("undo", item, label=found["id"], n=found["n"]))
    item = load_item(connection, item.id)
    view = item_view(connection, item, found["n"], found["kind"], settings, waiting=0)
    return Claim(token=token, view=view, lease_until=until, resumed=True)


def skip(connection: Connection, member: str, token: str, reason: str, now: datetime, events: list[AuditEvent]) -> Done:
    """Give a slot back and never be shown the item again; after some such people a senior has to see it."""
    slot = slot_of(connection, member, token)
    require(connection, member, act_of(slot["kind"]), slot["queue"])
    item = load_item(connection, slot["item_id"], lock=True)
    _free(connection, item.id, slot["n"], token)
    row = {"item_id": item.id, "member": member, "reason": canonical_json(reason[:_MAX_NOTE]), "at": iso(now)}
    connection.execute(insert(connection, review_skips).on_conflict_do_nothing(), row)
    skipped = connection.scalar(
        sa.select(sa.func.count()).select_from(review_skips).where(review_skips.c.item_id == item.id)
    )
    state, settings = item.state, load_settings(connection, slot["queue"])
    if slot["kind"] == "opinion" and state == "open" and (skipped or 0) >= settings.skips_to_senior:
        state = escalate(connection, item, now) if item.entry.gold is None else state
    events.append(event("skip", item, n=slot["n"], given=bool(reason), state=state))
    return Done(item=item.id, state=state)


def hand_back(connection: Connection, member: str, token: str) -> Done:
    """End a lease early. No reason is asked for, and nothing is written down."""
    slot = slot_of(connection, member, token)
    _free(connection, slot["item_id"], slot["n"], token)
    return Done(item=slot["item_id"], state=load_item(connection, slot["item_id"]).state)


def send_up(
    connection: Connection, member: str, token: str, reason: str, now: datetime, events: list[AuditEvent]
) -> Done:
    """Ask a senior to decide instead. See `ReviewQueue.escalate`."""
    slot = slot_of(connection, member, token)
    require(connection, member, act_of(slot["kind"]), slot["queue"])
    if slot["kind"] != "opinion":
        raise ReviewError("this item is before a senior already; decide it, or skip it for another senior")
    item = load_item(connection, slot["item_id"], lock=True)
    if item.entry.gold is not None:
        return skip(connection, member, token, reason, now, events)
    slots = review_slots.c
    mine = sa.update(review_slots).where(
        slots.item_id == item.id, slots.n == slot["n"], slots.token == token, slots.state.in_(("leased", "open"))
    )
    if connection.execute(mine.values(state="void", token=None, lease_until=None)).rowcount != 1:
        raise ReviewError("this item is no longer yours; claim the next one", "lease_lost")
    row = {"item_id": item.id, "member": member, "reason": canonical_json(reason[:_MAX_NOTE]), "at": iso(now)}
    connection.execute(insert(connection, review_skips).on_conflict_do_nothing(), row)
    state = escalate(connection, item, now)
    events.append(event("escalate", item, n=slot["n"], given=bool(reason)))
    return Done(item=item.id, state=state)


def checked_key(key: str) -> str:
    """An idempotency key that can be kept. Raises ReviewError: `invalid`."""
    if not 0 < len(key) <= 200 or not key.isascii() or not key.isprintable():
        raise ReviewError("an idempotency key has 1 to 200 printable ASCII characters")
    return key


def _free(connection: Connection, item: str, n: int, token: str) -> None:
    slots = review_slots.c
    mine = sa.update(review_slots).where(
        slots.item_id == item, slots.n == n, slots.token == token, slots.state.in_(("leased", "open"))
    )
    if connection.execute(mine.values(state="open", member=None, token=None, lease_until=None)).rowcount != 1:
        raise ReviewError("this item is no longer yours; claim the next one", "lease_lost")


def _label_under(connection: Connection, member: str, key: str) -> sa.RowMapping | None:
    labels = review_labels.c
    query = sa.select(review_labels).where(labels.member == member, labels.key == key)
    return connection.execute(query).mappings().first()


def _replay(connection: Connection, label: sa.RowMapping, request: str) -> Submitted:
    if label["request_sha"] != request:
        raise ReviewError(
            "this slot has another label of yours already; undo that first"
            if label["key"].startswith("submit:")
            else "this key was used for another label; use a new one",
            "key_reused",
        )
    item = load_item(connection, label["item_id"])
    return Submitted(label=label["id"], item=item.id, state=item.state, reveal=_reveal(item, item.state), replayed=True)


def _reveal(item: ReviewItem, state: str) -> ModelView | None:
    return None if item.blind and state == "open" else model_view(item)


def _similar(connection: Connection, item: ReviewItem, answer: Answer) -> int:
    """How many near-duplicates the label could be applied to, once it decides."""
    if item.entry.stratum in INDEPENDENT or answer.decision not in SETTLED:
        return 0
    return waiting_behind(connection, item.entry)


def _was_revealed(connection: Connection, item: ReviewItem, n: int) -> bool:
    """Whether this slot had a label that was undone: its giver has seen the model's view since."""
    labels = review_labels.c
    query = sa.select(labels.id).where(labels.item_id == item.id, labels.n == n, labels.retracted_at.is_not(None))
    return not item.blind and connection.scalar(query.limit(1)) is not None


def _check(connection: Connection, item: ReviewItem, answer: Answer) -> None:
    if answer.decision not in DECISIONS:
        raise ReviewError(f"decision {answer.decision!r}: {did_you_mean(answer.decision, DECISIONS)}")
    if answer.policy_hash is not None and answer.policy_hash != item.entry.policy_hash:
        raise ReviewError("the rule has changed since this item was shown; read it again", "rule_changed")
    if answer.decision == "violates" and not answer.categories and not item.entry.category:
        raise ReviewError("categories: which are violated? This item has none in question")
    _, rules = guideline(connection, item.entry.policy_hash)
    known = {rule.category for rule in rules} | {item.entry.category}
    for category in answer.categories:
        if rules and category not in known:
            raise ReviewError(f"category {category!r}: not of this policy; {did_you_mean(category, known)}")
    _check_details(item, answer)


def _check_details(item: ReviewItem, answer: Answer) -> None:
    if answer.confidence is not None and not 0 <= answer.confidence <= 1:
        raise ReviewError(f"confidence {answer.confidence}: a number from 0 to 1 is expected")
    if answer.ms_spent is not None and not 0 <= answer.ms_spent < 2**53:
        raise ReviewError(f"ms_spent {answer.ms_spent}: milliseconds are expected")
    if len(answer.note) > _MAX_NOTE:
        raise ReviewError(f"note: at most {_MAX_NOTE:,} characters, got {len(answer.note):,}")
    length = len(item.entry.text or "")
    for start, end in answer.spans:
        if not 0 <= start < end <= length:
            raise ReviewError(f"span {start}-{end}: outside the text of {length} characters")


def _categories(item: ReviewItem, answer: Answer) -> str:
    if answer.decision != "violates":
        return "[]"
    return categories_text(answer.categories or (item.entry.category,))


def _detail(answer: Answer) -> dict[str, Any]:
    detail: dict[str, Any] = {"note": answer.note} if answer.note else {}
    for name in ("severity", "confidence"):
        if getattr(answer, name) is not None:
            detail[name] = getattr(answer, name)
    if answer.spans:
        detail["spans"] = [list(span) for span in answer.spans]
    return detail
