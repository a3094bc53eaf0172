"""Intervals and paired differences: pure functions. Knows numbers and groups; knows no task, no model, no disk.

Items that share a passage, a template or a conversation are not independent: wherever a function takes `groups`, items
with the same label form one cluster, and clusters are what was sampled. `None` makes each item its own cluster.
No data raises ValueError; data without an estimable spread gives an Interval whose ends are None.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]
Statistic = Callable[[list[Any]], float]
Labels = Sequence[Hashable] | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with the ends of its confidence interval, and how they came to be."""

    value: float
    low: float | None
    high: float | None
    n: int
    clusters: int
    method: str
    """`wilson`, `cluster-t`, `stratified-t`, `bootstrap-bca`, `bootstrap-percentile`, or `none: <why>`."""

    @property
    def is_known(self) -> bool:
        """Whether both ends could be computed."""
        return self.low is not None and self.high is not None


def wilson_interval(successes: float, n: int, *, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927).

    `successes` may be fractional: with credits in [0, 1] the variance is below the binomial's, so the interval is
    never too short. Raises ValueError if `n` is 0 or `successes` lies outside [0, n].

    >>> i = wilson_interval(81, 263)
    >>> round(i.low, 4), round(i.high, 4)
    (0.2553, 0.3662)
    """
    if n <= 0:
        raise ValueError("wilson_interval: no items")
    if not 0 <= successes <= n:
        raise ValueError(f"wilson_interval: {successes} successes of {n}")
    z = normal_quantile(level)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding may put an end past the value itself by one unit in the last place (share 0 or 1).
    low, high = min(share, (centre - half) / scale), max(share, (centre + half) / scale)
    return Interval(value=share, low=max(0.0, low), high=min(1.0, high), n=n, clusters=n, method="wilson")


def cluster_t_interval(
    values: Sequence[float] | Array, groups: Labels | None = None, *, level: float = 0.95
) -> Interval:
    """Mean with a cluster-robust t interval (CR1, df = clusters − 1; Miller 2024, arXiv 2411.00640).

    One cluster, or no spread between clusters, gives no interval: zero width would claim certainty.
    """
    x = as_values(values)
    labels, count = cluster_ids(groups, len(x))
    mean = float(x.mean())
    if count < 2:
        return Interval(value=mean, low=None, high=None, n=len(x), clusters=count, method="none: one cluster")
    variance = cluster_variance(x, labels, count)
    if variance <= rounding_variance(x):
        return Interval(value=mean, low=None, high=None, n=len(x), clusters=count, method="none: no spread")
    half = t_quantile(level, count - 1) * math.sqrt(variance)
    return Interval(value=mean, low=mean - half, high=mean + half, n=len(x), clusters=count, method="cluster-t")


def mean_interval(
    values: Sequence[float] | Array,
    groups: Labels | None = None,
    *,
    binary: bool = False,
    level: float = 0.95,
) -> Interval:
    """The interval that fits the data: Wilson for independent right-or-wrong items, cluster-t for everything else.

    `binary` says that the values are right-or-wrong credits in [0, 1], ties shared. Where credits show no spread
    between clusters (all right, all wrong), Wilson over the clusters says what so few of them can exclude.
    """
    x = as_values(values)
    _, count = cluster_ids(groups, len(x))
    if binary and count == len(x):
        return wilson_interval(float(x.sum()), len(x), level=level)
    interval = cluster_t_interval(x, groups, level=level)
    if binary and not interval.is_known:
        w = wilson_interval(interval.value * count, count, level=level)
        return Interval(value=interval.value, low=w.low, high=w.high, n=len(x), clusters=count, method="wilson")
    if binary and interval.low is not None and interval.high is not None:
        low, high = max(0.0, interval.low), min(1.0, interval.high)
        return Interval(value=interval.value, low=low, high=high, n=len(x), clusters=count, method="cluster-t")
    return interval


def stratified_mean(
    values: Sequence[float] | Array,
    strata: Labels,
    groups: Labels | None = None,
    *,
    macro: bool = False,
    level: float = 0.95,
) -> Interval:
    """Mean over fixed strata (the 57 subjects of MMLU are not a sample of subjects), clusters within each.

    The value is the mean over all items; with `macro`, the unweighted mean of the strata's means. The variance is the
    sum of the strata's own, so differences between subjects don't widen it. Strata with a single cluster have no
    variance of their own: they are taken together as one stratum for it (which can only widen the interval).
    """
    x = as_values(values)
    if len(strata) != len(x):
        raise ValueError(f"stratified_mean: {len(x)} values but {len(strata)} strata")
    stratum, names = _codes(strata)
    cluster, _ = cluster_ids(groups, len(x))
    # A passage may serve two subjects; within a stratum its items are still one cluster.
    cluster, count = _codes_of_pairs(stratum, cluster)
    weights = _stratum_weights(stratum, len(names), macro=macro)
    means = np.bincount(stratum, x, len(names)) / np.bincount(stratum, minlength=len(names))
    value = float(weights @ means)
    scaled = x * weights[stratum] * len(x) / np.bincount(stratum, minlength=len(names))[stratum]
    pools = _variance_pools(stratum, cluster)
    variance, df = 0.0, 0
    for pool in np.unique(pools):
        rows = pools == pool
        inside, g = np.unique(cluster[rows], return_inverse=True)
        if len(inside) < 2:
            continue
        # mean of `scaled` over all items is `value`; this pool's part of it is sum/n.
        variance += cluster_variance(scaled[rows], g, len(inside)) * (rows.sum() / len(x)) ** 2
        df += len(inside) - 1
    if df == 0 or variance <= rounding_variance(x):
        why = "none: one cluster" if df == 0 else "none: no spread"
        return Interval(value=value, low=None, high=None, n=len(x), clusters=count, method=why)
    half = t_quantile(level, df) * math.sqrt(variance)
    return Interval(value=value, low=value - half, high=value + half, n=len(x), clusters=count, method="stratified-t")


def bootstrap_interval(
    items: Sequence[Any],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    groups: Labels | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    bca: bool = True,
) -> Interval:
    """Interval of a statistic that is no mean of items (perplexity, F1, BLEU): whole clusters are drawn again.

    BCa (Efron 1987), with the acceleration from leaving out one cluster at a time (at most 200 blocks of them);
    percentile where BCa has no answer. A resample on which the statistic fails or is not finite is drawn again.
    """
    if not items:
        raise ValueError("bootstrap_interval: no items")
    labels, count = cluster_ids(groups, len(items))
    value = float(statistic(list(items)))
    members = [np.flatnonzero(labels == g) for g in range(count)]
    if count < 2:
        return Interval(value=value, low=None, high=None, n=len(items), clusters=count, method="none: one cluster")
    draws = _bootstrap_draws(items, statistic, members, resamples, rng)
    if len(draws) < resamples:
        why = "none: undefined on resamples"
        return Interval(value=value, low=None, high=None, n=len(items), clusters=count, method=why)
    if float(draws.max() - draws.min()) <= 1e-12 * max(1.0, abs(value)):
        return Interval(value=value, low=None, high=None, n=len(items), clusters=count, method="none: no spread")
    shares = _bca_shares(items, statistic, members, draws, value, level) if bca else None
    method = "bootstrap-percentile" if shares is None else "bootstrap-bca"
    tail = (1 - level) / 2
    low, high = np.quantile(draws, shares or (tail, 1 - tail))
    return Interval(value=value, low=float(low), high=float(high), n=len(items), clusters=count, method=method)


def paired_difference(
    baseline: Sequence[float] | Array,
    candidate: Sequence[float] | Array,
    groups: Labels | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """Mean of candidate − baseline over the same items, with a cluster-t interval.

    Raises ValueError if the two differ in length. No item changed: no interval, since zero width would claim that
    nothing can change.
    """
    before, after = as_values(baseline), as_values(candidate)
    if len(before) != len(after):
        raise ValueError(f"paired_difference: {len(before)} baseline items but {len(after)} candidate items")
    return cluster_t_interval(after - before, groups, level=level)


def as_values(values: Sequence[float] | Array) -> Array:
    """A vector of finite floats; raises ValueError for no items, other shapes, NaN and infinities."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError("no items" if x.size == 0 else f"values have {x.ndim} dimensions, expected 1")
    if not np.isfinite(x).all():
        raise ValueError("values are not all finite")
    return x


def _codes(labels: Labels) -> tuple[npt.NDArray[np.intp], list[Hashable]]:
    """Number labels by first appearance: the result does not depend on their text."""
    if isinstance(labels, np.ndarray) and labels.dtype != object:
        names, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return np.argsort(order)[inverse], names[order].tolist()
    seen: dict[Hashable, int] = {}
    codes = np.fromiter((seen.setdefault(label, len(seen)) for label in labels), dtype=np.intp, count=len(labels))
    return codes, list(seen)


def _codes_of_pairs(first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], int]:
    codes, names = _codes(first * (int(second.max()) + 1) + second)
    return codes, len(names)


def cluster_ids(groups: Labels | None, n: int) -> tuple[npt.NDArray[np.intp], int]:
    """Cluster of each item as 0..count−1, by first appearance, and the count; `None`: each item is its own.

    Raises ValueError if there are not `n` labels.
    """
    if groups is None:
        return np.arange(n), n
    if len(groups) != n:
        raise ValueError(f"{n} values but {len(groups)} groups")
    codes, names = _codes(groups)
    return codes, len(names)


def cluster_variance(x: Array, labels: npt.NDArray[np.intp], count: int) -> float:
    """Variance of the mean: [G/(G−1)]·Σ_g(Σ_{i∈g}(x_i−mean))²/n²."""
    sums = np.bincount(labels, x - x.mean(), count)
    return float(count / (count - 1) * (sums @ sums) / len(x) ** 2)


def rounding_variance(x: Array) -> float:
    """Variance below this is float noise, not spread."""
    return (1e-12 * max(1.0, float(np.abs(x).max()))) ** 2


def _stratum_weights(stratum: npt.NDArray[np.intp], count: int, *, macro: bool) -> Array:
    if macro:
        return np.full(count, 1 / count)
    return np.bincount(stratum, minlength=count) / len(stratum)


def _variance_pools(stratum: npt.NDArray[np.intp], cluster: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Stratum per item, with all single-cluster strata merged into pool −1."""
    pools = stratum.copy()
    for s in np.unique(stratum):
        rows = stratum == s
        if len(np.unique(cluster[rows])) < 2:
            pools[rows] = -1
    if (pools == -1).any() and len(np.unique(cluster[pools == -1])) < 2:
        # One single-cluster stratum has nobody to be pooled with: no stratification, the wider variance.
        pools[:] = -1
    return pools


def _bootstrap_draws(
    items: Sequence[Any],
    statistic: Statistic,
    members: list[npt.NDArray[np.intp]],
    resamples: int,
    rng: np.random.Generator,
) -> Array:
    draws: list[float] = []
    for _ in range(2 * resamples):
        if len(draws) == resamples:
            break
        chosen = rng.integers(len(members), size=len(members))
        value = try_statistic(statistic, [items[i] for g in chosen for i in members[g]])
        if value is not None:
            draws.append(value)
    return np.asarray(draws)


def try_statistic(statistic: Statistic, sample: list[Any]) -> float | None:
    """The statistic, or None where it fails or is not finite."""
    try:
        value = float(statistic(sample))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _bca_shares(
    items: Sequence[Any],
    statistic: Statistic,
    members: list[npt.NDArray[np.intp]],
    draws: Array,
    value: float,
    level: float,
) -> tuple[float, float] | None:
    """The two shares of the draws that BCa reads its ends from, or None where the correction is not defined."""
    below = float(np.mean(draws < value) + np.mean(draws == value) / 2)
    if not 0 < below < 1:
        return None
    left_out = []
    for block in np.array_split(np.arange(len(members)), min(len(members), 200)):
        gone = set(block.tolist())
        left = try_statistic(statistic, [items[i] for g, rows in enumerate(members) if g not in gone for i in rows])
        if left is None:
            return None
        left_out.append(left)
    influence = np.mean(left_out) - np.asarray(left_out)
    spread = float((influence**2).sum())
    if spread <= 0:
        return None
    acceleration = float((influence**3).sum()) / (6 * spread**1.5)
    bias = float(special.ndtri(below))
    shares = []
    for z in (-normal_quantile(level), normal_quantile(level)):
        shifted = bias + z
        denominator = 1 - acceleration * shifted
        if denominator <= 0:
            return None
        shares.append(float(special.ndtr(bias + shifted / denominator)))
    return shares[0], shares[1]


def normal_quantile(level: float) -> float:
    """z of a two-sided interval: 1.96 at 0.95."""
    _check_level(level)
    return float(special.ndtri((1 + level) / 2))


def t_quantile(level: float, df: int) -> float:
    """t of a two-sided interval with `df` degrees of freedom."""
    _check_level(level)
    return float(special.stdtrit(df, (1 + level) / 2))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
