"""Correct a rate that a judge measured by the judge's own errors (Rogan and Gladen 1978). Pure functions.

A judge that sees 90% of violations and calls 5% of the rest violations makes 5% out of a true 0%. With sensitivity and
specificity measured on people's labels, true = (seen + specificity − 1) / (sensitivity + specificity − 1); the interval
takes in that all three are estimates.
"""

from dataclasses import dataclass

import numpy as np

from workbench.records import Estimate
from workbench.statistics import Interval, normal_quantile

USELESS = 0.1
"""Sensitivity + specificity − 1 below which a judge says too little for a correction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeError:
    """What people's labels say of a judge: counts, so that their uncertainty is known."""

    caught: int
    """Violations that the judge called so."""
    violations: int
    cleared: int
    """Allowed texts that the judge called so."""
    allowed: int
    source: str = ""
    """The labels: data set, date, or `card`."""

    @property
    def sensitivity(self) -> float:
        """Share of violations that are called so."""
        return self.caught / self.violations

    @property
    def specificity(self) -> float:
        """Share of allowed texts that are called so."""
        return self.cleared / self.allowed


def correct_rate(
    seen: Estimate | Interval,
    error: JudgeError,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    draws: int = 20_000,
) -> Interval | None:
    """The rate that a perfect judge would have seen; None where the judge tells too little (or is worse than chance).

    Interval: the three rates are drawn from Beta distributions with Jeffreys' prior (for the seen rate with the number
    of items that its own interval is worth, so clusters count), and the corrected rate's quantiles are taken.
    """
    if error.violations < 1 or error.allowed < 1:
        return None
    youden = error.sensitivity + error.specificity - 1
    if youden < USELESS:
        return None

    def at(rate: float) -> float:
        return float(np.clip((rate + error.specificity - 1) / youden, 0.0, 1.0))

    value = at(seen.value)
    n = effective_items(seen, level=level)
    p = rng.beta(seen.value * n + 0.5, (1 - seen.value) * n + 0.5, draws)
    sensitivity = rng.beta(error.caught + 0.5, error.violations - error.caught + 0.5, draws)
    specificity = rng.beta(error.cleared + 0.5, error.allowed - error.cleared + 0.5, draws)
    useful = sensitivity + specificity - 1 > USELESS / 2
    corrected = np.clip((p + specificity - 1)[useful] / (sensitivity + specificity - 1)[useful], 0.0, 1.0)
    tail = (1 - level) / 2
    low, high = np.quantile(corrected, (tail, 1 - tail))
    # Never narrower than the seen interval carried over: a t interval of few clusters has longer tails than a Beta.
    ends = [value] if seen.low is None or seen.high is None else [at(seen.low), at(seen.high), value]
    return Interval(
        value=value,
        low=min(float(low), *ends),
        high=max(float(high), *ends),
        n=seen.n,
        clusters=seen.clusters or seen.n,
        method="rogan-gladen",
    )


def effective_items(seen: Estimate | Interval, *, level: float = 0.95) -> float:
    """How many independent items would give an interval as wide; at most n."""
    if seen.low is None or seen.high is None:
        return float(seen.clusters or seen.n)
    half = (seen.high - seen.low) / 2
    spread = seen.value * (1 - seen.value)
    if half <= 0 or spread <= 0:
        return float(seen.clusters or seen.n)
    z = normal_quantile(level)
    return float(np.clip(spread * z * z / half**2, 1.0, seen.n))
