"""What a model may clear alone, with what is promised about it, in a sentence. The thresholds are `safety.risk`'s.

Labels must be of the exploration stream, a plain random sample; a ranked one would break the promise. Where labels do
not suffice, a category borrows those of its parent; where these do not, nothing is cleared and everything goes to
people, and it says how many labels are missing. Knows numbers and names; knows no model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safety.resolved import Risk, Threshold
from safety.risk import calibrate, needed


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Probabilities of one category's exploration labels."""

    violating: Sequence[float]
    allowed: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Triage:
    """What is cleared in one category."""

    category: str
    threshold: Threshold
    feasible: bool
    violations: int
    """Labels that the promise rests on."""
    pooled: tuple[str, ...]
    """Categories whose labels it rests on, its own among them."""
    cleared: float
    """Share of the exploration stream that is cleared alone."""
    missing: int
    """Violations that are still to be labelled."""
    days: int | None
    """Until then, at the pace at which they were found; None: there is no pace yet, or none is missing."""

    @property
    def sentence(self) -> str:
        """The promise, or why there is none."""
        if not self.feasible:
            days = "" if self.days is None else f"{self.days:,} more {'day' if self.days == 1 else 'days'}"
            when = f", about {days} at this pace" if days else ""
            return (
                f"{self.category}: no guarantee with {self.violations} labelled violations, {self.missing} more are "
                f"needed{when}; nothing is cleared, everything goes to people"
            )
        of = "" if self.pooled == (self.category,) else f" pooled over {', '.join(self.pooled)}"
        return (
            f"{self.category}: clears {self.cleared:.0%} alone below {self.threshold.low:.3g}; "
            f"{self.threshold.guarantee} of the exploration stream{of}"
        )


def triage(labels: Mapping[str, Labelled], risk: Risk, *, days: float | None = None) -> list[Triage]:
    """A promise for each category, or none.

    Args:
        days: over which the labels were collected; for how long the rest will take.
    """
    least = needed(risk.miss, 1 - risk.confidence) if risk.miss is not None else 0
    return [_one(category, labels, risk, least, days) for category in sorted(labels)]


def _one(category: str, labels: Mapping[str, Labelled], risk: Risk, least: int, days: float | None) -> Triage:
    pooled = _pool(category, labels, least)
    violating = sorted(p for name in pooled for p in labels[name].violating)
    allowed = sorted(p for name in pooled for p in labels[name].allowed)
    threshold = calibrate(risk, violating=violating, allowed=allowed)
    feasible = risk.miss is not None and len(violating) >= least and threshold.low > 0.0
    own = [*labels[category].violating, *labels[category].allowed]
    missing = max(0, least - len(violating))
    pace = len(violating) / days if days else 0.0
    return Triage(
        category=category,
        threshold=threshold,
        feasible=feasible,
        violations=len(violating),
        pooled=pooled,
        cleared=sum(p < threshold.low for p in own) / len(own) if own and feasible else 0.0,
        missing=missing,
        days=math.ceil(missing / pace) if missing and pace else None,
    )


def _pool(category: str, labels: Mapping[str, Labelled], least: int) -> tuple[str, ...]:
    """The category; while its labels do not suffice, all below the parent, and so on upwards.

    Pooled, the promise is about the pool: of all its violations together at most so many are missed.
    """
    parts = category.split(".")
    for count in range(len(parts), 0, -1):
        above = ".".join(parts[:count])
        members = tuple(sorted(n for n in labels if n == above or n.startswith(f"{above}.")))
        names = (category,) if count == len(parts) else members
        if sum(len(labels[name].violating) for name in names) >= least:
            return names
    return (category,)
