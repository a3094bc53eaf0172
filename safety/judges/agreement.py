"""How well a judge agrees with people: kappa, error rates with intervals, AUPRC, calibration. Knows numbers only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.statistics import Interval, bootstrap_interval, mean_interval

Array = npt.NDArray[np.float64]
MIN_OF_A_KIND = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """A judge against people on one category. Unscorable rows count as errors of both kinds."""

    category: str
    n: int
    positives: int
    unscorable: int
    kappa: Interval
    """Cohen's, at the judge's own threshold."""
    sensitivity: Interval
    """Share of what people say violates that the judge says violates."""
    specificity: Interval
    """Share of what people say is allowed that the judge says is allowed."""
    macro_f1: Interval
    auprc: Interval | None
    ece: float | None
    """Mean gap between probability and share, 15 bins of equal mass; None without probabilities."""


def measure_agreement(
    category: str,
    truth: Sequence[int],
    verdicts: Sequence[int | None],
    probabilities: Sequence[float | None],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 500,
) -> Agreement:
    """Agreement on one category. `truth`: 0 or 1 a row; `verdicts`: the same, None where unscorable.

    Rows of one group (answers to one question) are drawn together. Raises ConfigError with fewer than 5 of a kind.
    """
    y = np.asarray(truth, dtype=int)
    positives = int(y.sum())
    if min(positives, len(y) - positives) < MIN_OF_A_KIND:
        raise ConfigError(
            f"category {category}: {positives} violating and {len(y) - positives} allowed rows; "
            f"an agreement needs {MIN_OF_A_KIND} of each"
        )
    # An unscorable row is wrong whatever people say.
    seen = np.array([1 - t if v is None else v for t, v in zip(y, verdicts, strict=True)])
    right = (seen == y).astype(float)
    clusters = list(groups) if groups is not None else None

    def of_kind(kind: int) -> Interval:
        rows = np.flatnonzero(y == kind)
        return mean_interval(right[rows], [clusters[i] for i in rows] if clusters else None, binary=True)

    rng = np.random.default_rng(seed)
    pairs = list(zip(y.tolist(), seen.tolist(), strict=True))
    known = [(t, p) for t, p in zip(y.tolist(), probabilities, strict=True) if p is not None]
    scored = [g for g, p in zip(clusters, probabilities, strict=True) if p is not None] if clusters else None

    def interval(statistic: Callable[[list[Any]], float], rows: list[Any], labels: Any) -> Interval:
        return bootstrap_interval(rows, statistic, rng=rng, groups=labels, resamples=resamples, bca=False)

    return Agreement(
        category=category,
        n=len(y),
        positives=positives,
        unscorable=sum(v is None for v in verdicts),
        kappa=interval(lambda rows: kappa(*_columns(rows)), pairs, clusters),
        sensitivity=of_kind(1),
        specificity=of_kind(0),
        macro_f1=interval(lambda rows: macro_f1(*_columns(rows)), pairs, clusters),
        auprc=interval(lambda rows: average_precision(*_columns(rows)), known, scored) if known else None,
        ece=expected_calibration_error(*_columns(known)) if known else None,
    )


def kappa(truth: Array, seen: Array) -> float:
    """Cohen's kappa of two vectors of 0 and 1; ValueError where chance alone agrees fully."""
    agree = float(np.mean(truth == seen))
    chance = float(truth.mean() * seen.mean() + (1 - truth.mean()) * (1 - seen.mean()))
    if chance >= 1.0:
        raise ValueError("kappa: only one class")
    return (agree - chance) / (1 - chance)


def macro_f1(truth: Array, seen: Array) -> float:
    """Mean F1 of both classes."""
    scores = []
    for kind in (0, 1):
        hit = float(np.sum((truth == kind) & (seen == kind)))
        named = float(np.sum(truth == kind) + np.sum(seen == kind))
        if named == 0:
            raise ValueError("macro_f1: a class that nobody names")
        scores.append(2 * hit / named)
    return sum(scores) / 2


def average_precision(truth: Array, scores: Array) -> float:
    """Area under precision-recall as scikit-learn has it; ValueError without a positive."""
    positives = float(truth.sum())
    if positives == 0:
        raise ValueError("average_precision: no positive row")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ordered = scores[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # ties share one point
    precision = hits[last] / (last + 1)
    return float(np.sum(np.diff(np.append(0.0, hits[last])) * precision) / positives)


def expected_calibration_error(truth: Array, probabilities: Array, *, bins: int = 15) -> float:
    """Mean absolute gap between mean probability and share of positives, over bins of equal mass."""
    order = np.argsort(probabilities, kind="stable")
    gap = 0.0
    for rows in np.array_split(order, min(bins, len(order))):
        gap += abs(float(probabilities[rows].mean()) - float(truth[rows].mean())) * len(rows)
    return gap / len(order)


def _columns(rows: Sequence[tuple[float, float]]) -> tuple[Array, Array]:
    both = np.asarray(rows, dtype=np.float64)
    return both[:, 0], both[:, 1]
