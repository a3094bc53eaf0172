"""Judges: rules, refusal detector, trained classifier, model judge, ensembles; each with its measured agreement."""

from safety.judges.base import (
    CategoryLike,
    Judge,
    Passage,
    PlainCategory,
    build_judge,
    judgement_of,
    judges,
    unscorable,
)

__all__ = [
    "CategoryLike",
    "Judge",
    "Passage",
    "PlainCategory",
    "build_judge",
    "judgement_of",
    "judges",
    "unscorable",
]
