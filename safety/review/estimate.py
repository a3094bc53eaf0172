"""Precision, recall and missed violations of a whole stream, from a part of it that was drawn by rank.

A ranked queue shows people the worst of the stream, so a plain mean over what they saw is wrong, and no more labels
cure it. Each label counts for the texts that it stands for: 1/pi of them, pi being the probability with which it was
drawn. Two ways: `hajek` uses the labels alone; `model_assisted` (the default) starts from the model's own sum of
probabilities over all texts and lets the labels correct it, which is as unbiased and has a smaller variance where the
model knows anything. Knows arrays; knows no queue.

Variances are those of Poisson sampling, linearised for ratios and drawn towards what the model expects where few labels
speak; intervals are Wilson's for shares, on the log scale for counts, with Student's t.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.records import Estimate
from workbench.statistics import normal_quantile

Floats = npt.NDArray[np.float64]
Method = Literal["model_assisted", "hajek"]
PRIOR = 4.0
"""Labels that the model's own expectation of a residual's square counts for."""
_CLIP = (0.005, 0.995)
_LONGEST = 50.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What people said of the texts that were drawn."""

    violates: Floats
    """In [0, 1]: 1 violates, 0 allowed; a split vote lies between."""
    probability: Floats
    """The model's, in [0, 1]; of a text that could not be scored give 0.5."""
    flagged: npt.NDArray[np.bool_]
    """Whether the system acted on it as on a violation."""
    inclusion: Floats
    """Probability with which it was drawn; NaN (a report, an appeal: nobody knows it) is left out."""

    def __post_init__(self) -> None:
        sizes = {len(self.violates), len(self.probability), len(self.flagged), len(self.inclusion)}
        if len(sizes) != 1:
            raise ValueError(f"columns of {sorted(sizes)} rows")
        known = self.inclusion[~np.isnan(self.inclusion)]
        if len(known) and not (known.min() > 0.0 and known.max() <= 1.0):
            raise ValueError("inclusion: a probability in (0, 1] is expected")

    def known(self) -> "Sample":
        """Only rows whose probability of inclusion is known."""
        keep = ~np.isnan(self.inclusion)
        return Sample(
            violates=self.violates[keep],
            probability=self.probability[keep],
            flagged=self.flagged[keep],
            inclusion=self.inclusion[keep],
        )


@dataclass(frozen=True, kw_only=True)
class Stream:
    """All texts of the same time, drawn or not."""

    probability: Floats
    flagged: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.probability)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What the labels say of the whole stream. None: there is nothing to say it from."""

    precision: Estimate | None
    """Share of what was flagged that violates."""
    recall: Estimate | None
    """Share of violations that was flagged."""
    missed: Estimate
    """Violations that were not flagged: a number of texts."""
    violations: Estimate
    """All of them."""
    left_out: int
    """Labels whose probability of inclusion is not known."""


def estimate_quality(
    sample: Sample, stream: Stream, *, method: Method = "model_assisted", level: float = 0.95
) -> Quality:
    """Precision, recall and counts with intervals.

    Raises ConfigError: no label has a known probability of inclusion.
    """
    own = sample.known()
    if not len(own.violates):
        raise ConfigError("no label was drawn with a known probability; label some of a drawn batch")
    design = _Design(own, stream, method, level)
    return Quality(
        precision=design.precision(),
        recall=design.recall(),
        missed=design.count("missed", ~own.flagged, ~stream.flagged),
        violations=design.count("violations", np.ones(len(own.flagged), bool), np.ones(len(stream), bool)),
        left_out=len(sample.violates) - len(own.violates),
    )


class _Design:
    """One sample with its weights: totals, and the variance of what is made of them."""

    def __init__(self, sample: Sample, stream: Stream, method: Method, level: float) -> None:
        self.sample, self.stream, self.method, self.level = sample, stream, method, level
        self.weights = 1.0 / sample.inclusion
        self.flagged = sample.flagged.astype(np.float64)
        self.expected = np.clip(sample.probability, *_CLIP)
        if method == "model_assisted":
            self.start = np.asarray(sample.probability, np.float64)
            self.base = np.asarray(stream.probability, np.float64)
        else:
            # Hajek: weights are scaled to the known number of texts
            self.weights = self.weights * (len(stream) / self.weights.sum())
            self.start, self.base = np.zeros(len(sample.violates)), np.zeros(len(stream))
        self.residual = sample.violates - self.start

    def total(self, drawn: Floats, all_of: Floats) -> float:
        """Of violations, with an indicator on the drawn and on all."""
        return float((self.base * all_of).sum() + (self.weights * self.residual * drawn).sum())

    def precision(self) -> Estimate | None:
        """The number of flagged texts is known: the mean of the model over them, corrected by a mean residual."""
        flags = self.stream.flagged.astype(np.float64)
        count = float(flags.sum())
        if count == 0 or not self.sample.flagged.any():
            return None
        among = float((self.weights * self.flagged).sum())
        mean = float((self.weights * self.residual * self.flagged).sum()) / among
        value = float((self.base * flags).sum()) / count + mean
        return self._share("precision", value, self.flagged / among, mean, self.sample.flagged)

    def recall(self) -> Estimate | None:
        """A ratio of two totals, linearised."""
        ones, flags = np.ones(len(self.flagged)), self.stream.flagged.astype(np.float64)
        violations = self.total(ones, np.ones(len(self.stream)))
        if violations <= 0 or not (self.sample.violates > 0).any():
            return None
        value = min(max(self.total(self.flagged, flags) / violations, 0.0), 1.0)
        return self._share("recall", value, (self.flagged - value) / violations, 0.0, self.sample.violates > 0)

    def count(self, name: str, drawn: npt.NDArray[np.bool_], all_of: npt.NDArray[np.bool_]) -> Estimate:
        """A number of violations, with an interval that never reaches below those that were seen."""
        own = drawn.astype(np.float64)
        value = self.total(own, all_of.astype(np.float64))
        seen = float((self.sample.violates * own).sum())
        mean = value / len(self.stream) if self.method == "hajek" else 0.0
        error, df = self._error(own, mean)
        value = max(value, seen)
        half = _t(self.level, df) * error
        # log scale: a count is not below 0, and its interval is longer above
        spread = math.exp(min(half / value, _LONGEST)) if value > 0 else 1.0
        low, high = (value / spread, value * spread) if value > 0 else (0.0, half)
        return Estimate(
            metric=name,
            value=value,
            low=max(low, seen),
            high=min(max(high, value), float(all_of.sum())),
            n=int(drawn.sum()),
            method=f"{self.method}, poisson, log-t",
            level=self.level,
            direction="lower",
        )

    def _share(self, name: str, value: float, factor: Floats, mean: float, about: npt.NDArray[np.bool_]) -> Estimate:
        error, df = self._error(factor, mean)
        n = int(about.sum())
        value = min(max(value, 0.0), 1.0)
        agreed = self.sample.violates[about] if name == "precision" else self.flagged[about]
        if np.all(agreed == agreed[0]) and self.sample.inclusion[about].min() < 1.0:
            # none disagrees: a square of residuals says nothing, the number of labels that weigh does
            weights = self.weights[about]
            alike = float(weights.sum() ** 2 / (weights**2).sum()) / float(np.mean(1.0 - self.sample.inclusion[about]))
            value = float(agreed[0]) if name == "precision" else value
            low, high = _wilson(float(agreed[0]), alike, _t(self.level, max(alike, 1.0)))
        elif error > 0.0:
            inner = min(max(value, 0.5 / (n + 1.0)), 1 - 0.5 / (n + 1.0))
            low, high = _wilson(inner, inner * (1 - inner) / error**2, _t(self.level, df))
        else:
            low = high = value
        return Estimate(
            metric=name,
            value=value,
            low=min(low, value),
            high=max(high, value),
            n=n,
            method=f"{self.method}, poisson, wilson-t",
            level=self.level,
        )

    def _error(self, factor: Floats, mean: float) -> tuple[float, float]:
        """Standard error of sum(w factor (residual - mean)) under Poisson sampling, and its degrees of freedom.

        Squares of few residuals are a poor estimate of a variance, and none at all where no label disagrees. They are
        drawn towards those that the model expects (a violation with probability p) as by PRIOR more labels.
        """
        weight = (1.0 - self.sample.inclusion) * (self.weights * factor) ** 2
        p, at = self.expected, self.start + mean
        expected = weight * (p * (1 - at) ** 2 + (1 - p) * at**2)
        total = float(expected.sum())
        if total <= 0.0:
            return 0.0, math.inf
        labels = total**2 / float((expected**2).sum())  # as many as really weigh
        seen = float((weight * (self.residual - mean) ** 2).sum())
        scale = (seen / total + PRIOR / labels) / (1.0 + PRIOR / labels)
        return math.sqrt(scale * total), labels + PRIOR


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share on a number of labels that need not be whole."""
    square = quantile**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = quantile * math.sqrt(share * (1 - share) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _t(level: float, df: float) -> float:
    if math.isinf(df):
        return normal_quantile(level)
    from scipy.stats import t

    return float(t.ppf(0.5 + level / 2, df))
