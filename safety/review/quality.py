"""How good a queue's labels are: agreement, known answers, and what hints do to them. Knows rows; the numbers are
`agreement`'s. Names of people are for seniors and auditors alone."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from safety.review.agreement import (
    Agreed,
    Bias,
    Rating,
    Share,
    automation_bias,
    gold_accuracy,
    gwet_ac1,
    krippendorff_alpha,
)
from safety.review.people import Actor, may, require
from safety.review.queue import ReviewQueue, queue_id
from workbench.store.review_schema import review_items, review_labels, review_members


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryAgreement:
    """Agreement on one category under one policy: labels under different rule texts are never pooled."""

    category: str
    policy_hash: str
    alpha: Agreed
    ac1: Agreed


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What a queue's labels tell of themselves."""

    queue: str
    labels: int
    categories: tuple[CategoryAgreement, ...]
    gold: Share
    gold_by_member: Mapping[str, Share]
    """Empty for whoever may not see names."""
    bias: Bias
    seed: int


def quality(queue: ReviewQueue, actor: Actor, name: str = "default", *, seed: int = 0) -> Quality:
    """Of the standing first opinions of a queue; seniors' settlements have seen the others and do not count.

    Agreement is taken over items labelled blind by at least two people. Bias is taken over items labelled once, with a
    probability of the model, that nobody had labelled and undone before.
    """
    place, labels, items = queue_id(name), review_labels.c, review_items.c
    with queue.database.read() as connection:
        require(connection, actor, "stats", place)
        with_names = may(connection, actor, "adjudicate", place) or may(connection, actor, "read", place)
        query = (
            sa.select(review_labels, items.gold, items.probability, review_members.c.name)
            .join(review_items, items.id == labels.item_id)
            .join(review_members, review_members.c.id == labels.member)
            .where(labels.queue == place, labels.kind == "opinion")
            .order_by(labels.created_at, labels.id)
        )
        rows = list(connection.execute(query).mappings())
    standing = [row for row in rows if row["retracted_at"] is None]
    redone = {(row["item_id"], row["n"]) for row in rows if row["retracted_at"] is not None}
    groups: dict[tuple[str, str], list[Rating]] = {}
    for row in standing:
        if row["blind"] and row["gold"] is None:
            rating = Rating(item=row["item_id"], member=row["member"], value=row["decision"])
            groups.setdefault((row["category"], row["policy_hash"]), []).append(rating)
    rng = np.random.default_rng(seed)
    known = [(row["name"], row["decision"], json.loads(row["gold"])["decision"]) for row in standing if row["gold"]]
    chosen = [
        (bool(row["hint_shown"]), (row["decision"] == "violates") == (row["probability"] >= 0.5))
        for row in standing
        if not row["blind"]
        and row["gold"] is None
        and row["probability"] is not None
        and row["decision"] in ("violates", "allowed")
        and (row["item_id"], row["n"]) not in redone
    ]
    return Quality(
        queue=place,
        labels=len(standing),
        categories=tuple(
            CategoryAgreement(
                category=category,
                policy_hash=policy,
                alpha=krippendorff_alpha(ratings, rng=rng),
                ac1=gwet_ac1(ratings, rng=rng),
            )
            for (category, policy), ratings in sorted(groups.items())
        ),
        gold=gold_accuracy([("all", answer, right) for _, answer, right in known]).get(
            "all", Share(value=None, low=None, high=None, n=0)
        ),
        gold_by_member=gold_accuracy(known) if with_names else {},
        bias=automation_bias(chosen),
        seed=seed,
    )
