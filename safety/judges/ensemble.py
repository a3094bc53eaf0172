"""Several judges as one: mean probability, and disagreement as uncertainty. Knows judges; knows no policy."""

from collections.abc import Mapping, Sequence
from typing import Any

from safety.judges.base import CategoryLike, Judge, Passage, build_judge, judgement_of, unscorable
from workbench.errors import ConfigError
from workbench.records import Judgement

MAX_DISAGREEMENT = 0.5
"""Highest less lowest probability; above it nobody may act on the mean."""


class EnsembleJudge:
    """Members weigh alike. One unscorable member leaves the rest; none left is unscorable.

    A member without a probability that found something (a rule) raises the whole to `violates`; one that found nothing
    clears nothing.
    """

    def __init__(self, *, name: str, members: Sequence[Judge], max_disagreement: float = MAX_DISAGREEMENT) -> None:
        if len(members) < 2:
            raise ConfigError(f"judge {name}: an ensemble needs two members or more, got {len(members)}")
        self.name = name
        self.members = tuple(members)
        self.max_disagreement = max_disagreement

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        """[passage][category]"""
        each = [member.judge(passages, categories) for member in self.members]
        return [
            [self._combine(category.id, [own[i][k] for own in each]) for k, category in enumerate(categories)]
            for i in range(len(passages))
        ]

    def _combine(self, category: str, judgements: Sequence[Judgement]) -> Judgement:
        raised = [one for one in judgements if one.value == "violates" and one.uncertainty == 0.0]
        if raised:
            return Judgement(
                category=category,
                value="violates",
                judge=self.name,
                probability=1.0,
                uncertainty=0.0,
                evidence=raised[0].evidence,
                spans=raised[0].spans,
            )
        numbers = [one.probability for one in judgements if one.value != "unscorable" and one.probability is not None]
        if not numbers:
            return unscorable(category, self.name, "; ".join(one.evidence for one in judgements if one.evidence))
        spread = max(numbers) - min(numbers)
        mean = sum(numbers) / len(numbers)
        found = judgement_of(category, self.name, mean, uncertainty=max(spread, 1 - abs(2 * mean - 1)))
        if spread <= self.max_disagreement:
            return found
        return Judgement(
            category=category,
            value="uncertain",
            judge=self.name,
            probability=mean,
            uncertainty=spread,
            evidence=f"{len(numbers)} judges differ by {spread:.2f}",
        )


def build_ensemble(
    *, name: str, members: Sequence[Mapping[str, Any]], max_disagreement: float = MAX_DISAGREEMENT
) -> EnsembleJudge:
    """From options: each member is a mapping with `kind` and its own options."""
    made = [
        build_judge(
            str(one.get("id", f"{name}/{place}")),
            str(one["kind"]),
            {k: v for k, v in one.items() if k not in ("kind", "id")},
        )
        for place, one in enumerate(members)
    ]
    return EnsembleJudge(name=name, members=made, max_disagreement=max_disagreement)
