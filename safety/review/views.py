"""What a person is shown of an item, before and after the label. Knows rows; decides nothing.

Before the label nothing is shown that would say what a model, a draw or another person makes of the text: no
probability, no action, no priority, no stratum, and not whether the answer is known (gold). `hint` is the exception, by
chance, and never on items that several people label.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.compile import ScreenRule, reviewer_screen
from safety.resolved import ResolvedPolicy
from workbench.errors import ReviewError
from workbench.store.database import insert
from workbench.store.identity import canonical_json, read_record
from workbench.store.review_schema import review_guidelines, review_items, review_labels
from workbench.store.reviews import QueueSettings, ReviewItem, chance, is_storable, read_item

Kind = Literal["opinion", "adjudication"]
Decision = Literal["violates", "allowed", "unsure", "cannot_judge"]
DECISIONS: tuple[Decision, ...] = ("violates", "allowed", "unsure", "cannot_judge")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelView:
    """What the model said."""

    probability: float | None
    uncertainty: float | None
    action: str
    """What was done with the text meanwhile."""
    model: str
    source: str
    scores: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """What somebody said of an item before, without a name: shown to whoever settles it."""

    n: int
    decision: str
    categories: tuple[str, ...]
    note: str
    hint_shown: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemView:
    """An item as a page shows it. Its text is a stranger's: never render it as HTML or Markdown."""

    id: str
    n: int
    """Which opinion it is."""
    kind: Kind
    queue: str
    text: str | None
    """None where the policy does not let content be kept."""
    prompt: str | None
    """What the text answers."""
    context: Mapping[str, Any]
    """Title, parent, author signals: whatever came along."""
    community: str
    surface: str
    category: str
    """The category in question; empty: any of the policy's."""
    severity: str
    severe: bool
    """Whether the queue counts that as severe: hide the text until it is asked for."""
    policy_hash: str
    """Send it back with the label: a label under a rule that has changed since is refused."""
    policy: str
    """Name of the policy, where its rule texts are known."""
    rule: ScreenRule | None
    """The text of the rule in question."""
    rules: tuple[ScreenRule, ...]
    """All rules of the policy, with the keys that choose them."""
    blind: bool
    """Others label it as well, and nobody sees the others' labels."""
    hint: ModelView | None
    """The model's view, where chance lets it be shown before the label. Show it if it is there."""
    opinions: tuple[Opinion, ...]
    """Of those before: for adjudication only."""
    waiting_cluster: int
    """Near-duplicates that wait behind it (see `ReviewQueue.apply_to_cluster`)."""


def load_item(connection: Connection, item: str, *, lock: bool = False) -> ReviewItem:
    """An item by id; `lock`: others that would change it wait until the transaction ends.

    Raises:
        ReviewError: `unknown`.
    """
    query = sa.select(review_items).where(review_items.c.id == (item if is_storable(item) else ""))
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    if row is None:
        raise ReviewError(f"item {item[:12]}: not in the queue", "unknown")
    return read_item(row)


def shows_hint(settings: QueueSettings, item: ReviewItem, n: int, kind: str) -> bool:
    """Whether the model's view is shown before the label: by seeded chance, never where labels must be blind."""
    if item.blind or kind != "opinion" or item.entry.gold is not None or item.entry.probability is None:
        return False
    return chance(settings.seed, "hint", item.id, n) < settings.hint_share


def model_view(item: ReviewItem) -> ModelView:
    """What the model said of an item."""
    entry = item.entry
    return ModelView(
        probability=entry.probability,
        uncertainty=entry.uncertainty,
        action=entry.action,
        model=entry.model,
        source=entry.source,
        scores=entry.scores,
    )


def item_view(
    connection: Connection, item: ReviewItem, n: int, kind: Kind, settings: QueueSettings, *, waiting: int
) -> ItemView:
    """The item as the holder of one of its slots may see it."""
    entry = item.entry
    name, rules = guideline(connection, entry.policy_hash)
    return ItemView(
        id=item.id,
        n=n,
        kind=kind,
        queue=entry.queue_id,
        text=entry.text,
        prompt=entry.prompt,
        context=dict(entry.context or {}),
        community=entry.community,
        surface=entry.surface,
        category=entry.category,
        severity=entry.severity,
        severe=entry.severity in settings.severe,
        policy_hash=entry.policy_hash,
        policy=name,
        rule=next((rule for rule in rules if rule.category == entry.category), None),
        rules=rules,
        blind=item.blind,
        hint=model_view(item) if shows_hint(settings, item, n, kind) else None,
        opinions=tuple(opinions(connection, item)) if kind == "adjudication" else (),
        waiting_cluster=waiting,
    )


def opinions(connection: Connection, item: ReviewItem) -> list[Opinion]:
    """What was said of an item, and of the one whose decision it appeals, in the order of the slots."""
    labels = review_labels.c
    ids = [item.id, *([item.entry.parent] if item.entry.parent else [])]
    query = sa.select(review_labels).where(labels.item_id.in_(ids), labels.retracted_at.is_(None))
    rows = connection.execute(query.order_by(labels.created_at, labels.n)).mappings()
    return [
        Opinion(
            n=row["n"],
            decision=row["decision"],
            categories=tuple(json.loads(row["categories"])),
            note=str(json.loads(row["detail"]).get("note", "")),
            hint_shown=row["hint_shown"],
        )
        for row in rows
    ]


def guideline(connection: Connection, policy_hash: str) -> tuple[str, tuple[ScreenRule, ...]]:
    """Name and rule texts of a policy; empty where they were never put in."""
    query = sa.select(review_guidelines.c.name, review_guidelines.c.document)
    row = connection.execute(query.where(review_guidelines.c.hash == policy_hash)).first()
    if row is None:
        return "", ()
    return row.name, tuple(read_record(ScreenRule, json.dumps(rule)) for rule in json.loads(row.document)["rules"])


def put_guideline(connection: Connection, policy: ResolvedPolicy, *, now: str, proposed_by: str | None = None) -> bool:
    """Keep the rule texts that reviewers of this policy's items read; False: they were there already."""
    screen = reviewer_screen(policy)
    document = canonical_json({"rules": [asdict(rule) for rule in screen.rules]})
    row = {"hash": policy.hash, "name": policy.name, "document": document, "added_at": now, "proposed_by": proposed_by}
    statement = insert(connection, review_guidelines).on_conflict_do_nothing(index_elements=["hash"])
    return connection.execute(statement, row).rowcount > 0


def label_documents(connection: Connection, rows: Sequence[sa.RowMapping]) -> list[dict[str, Any]]:
    """Labels as plain values."""
    plain = []
    for row in rows:
        label = dict(row) | {"categories": json.loads(row["categories"]), "detail": json.loads(row["detail"])}
        del label["key"], label["request_sha"]
        plain.append(label)
    return plain
