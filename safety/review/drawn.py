"""Texts of a queue that were drawn with a known probability, with what people decided, or that they have not yet.

What calibration, triage and estimates rest on. Holds no text and no name of a person. A decision that was appealed and
decided anew counts as it was decided last.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import sqlalchemy as sa
from sqlalchemy import Connection

from safety.compile import ScreenRule
from safety.resolved import Category
from safety.review.claiming import load_settings
from safety.review.feedback import rule_digest
from safety.review.people import Actor, require
from safety.review.queue import ReviewQueue, queue_id
from safety.review.views import guideline
from workbench.store.review_schema import review_items, review_outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """A text that was drawn."""

    id: str
    post: str
    """Its id in the file that it came from."""
    category: str
    """The rule in question."""
    community: str
    probability: float | None
    """What the model said of the rule in question; None: it could not be scored."""
    action: str
    """What was done with it meanwhile."""
    model: str
    policy_hash: str
    score_version: str
    draw_seed: int | None
    stratum: str
    pi: float
    cluster: str
    created_at: str
    decided_at: str = ""
    """Empty: nobody has decided it yet."""
    decision: str = ""
    categories: tuple[str, ...] = ()
    soft: float = 0.0
    """Share of people who found a violation, in 0..1."""
    decided_by: str = ""
    rule_digests: Mapping[str, str] | None = None
    """Of the rule texts that people read."""

    @property
    def is_clear(self) -> bool:
        """Whether people said yes or no."""
        return self.decision in ("violates", "allowed")

    @property
    def violates(self) -> bool:
        """Whether it violates any rule."""
        return self.decision == "violates"

    @property
    def violates_rule(self) -> bool:
        """Whether it violates the rule in question."""
        return self.violates and self.category in (self.categories or (self.category,))

    def reads_as(self, rule: Category) -> bool:
        """Whether people read the rule as it is worded now; unknown texts of rules count as read."""
        read = None if self.rule_digests is None else self.rule_digests.get(rule.id)
        return read is None or read == rule_digest(
            definition=rule.definition, not_this=rule.not_this, violates=rule.violates, allowed=rule.allowed
        )


def read_drawn(review: ReviewQueue, queue: str, *, actor: Actor) -> list[Drawn]:
    """All texts of a queue that were drawn with a known probability, in the order in which they came.

    Raises:
        ReviewError: no such queue, or no right to see its numbers.
    """
    place = queue_id(queue)
    with review.database.read() as connection:
        require(connection, actor, "stats", place)
        load_settings(connection, place)
        return _read(connection, place)


def _read(connection: Connection, queue: str) -> list[Drawn]:
    items, outcomes = review_items.c, review_outcomes.c
    columns = (
        items.id, items.category, items.community, items.probability, items.action, items.model, items.policy_hash,
        items.score_version, items.draw_seed, items.stratum, items.pi, items.cluster, items.created_at, items.content,
    )  # fmt: skip
    query = sa.select(*columns).where(items.queue == queue, items.pi.is_not(None)).order_by(items.created_at, items.id)
    decided = {
        row["item_id"]: row
        for row in connection.execute(sa.select(review_outcomes).where(outcomes.queue == queue)).mappings()
    }
    digests: dict[str, Mapping[str, str]] = {}
    found = []
    for row in connection.execution_options(yield_per=2000).execute(query).mappings():
        values = dict(row)
        content = json.loads(values.pop("content") or "{}")
        one = Drawn(post=str((content.get("context") or {}).get("id", "")), **values)
        outcome = decided.get(one.id)  # of one that was appealed it is the appeal's
        found.append(one if outcome is None else _with_outcome(connection, one, outcome, digests))
    return found


def _with_outcome(
    connection: Connection, one: Drawn, row: sa.RowMapping, digests: dict[str, Mapping[str, str]]
) -> Drawn:
    read = row["policy_hash"]
    if read not in digests:
        digests[read] = {rule.category: _digest(rule) for rule in guideline(connection, read)[1]}
    return replace(
        one,
        decided_at=row["decided_at"],
        decision=row["decision"],
        categories=tuple(json.loads(row["categories"])),
        soft=float(row["soft"]),
        decided_by=row["decided_by"],
        rule_digests=digests[read],
    )


def _digest(rule: ScreenRule) -> str:
    return rule_digest(definition=rule.definition, not_this=rule.not_this, violates=rule.violates, allowed=rule.allowed)
