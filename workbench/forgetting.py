"""Decide whether a task was kept. Knows paired values and a margin; knows no report, no model, no disk.

`kept` is a certificate: a loss beyond the margin is excluded at one-sided `alpha`. It is never the absence of evidence.
Inside, differences are turned so that a loss is negative whatever the metric's direction; the interval that comes out
is candidate − baseline in the metric's own unit and sign (for direction "lower" a loss is a positive difference).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from workbench import paired
from workbench.records import Direction
from workbench.statistics import (
    Array,
    Interval,
    Labels,
    Statistic,
    as_values,
    bootstrap_interval,
    cluster_ids,
    cluster_t_interval,
    normal_quantile,
    stratified_mean,
    t_quantile,
    try_statistic,
)

FEW_CHANGES = 10
"""Fewer changed clusters than this say nothing about the spread: no t interval rests on them."""
FEW_CLUSTERS = 30
"""With fewer changed clusters than this a t interval is checked by a bootstrap-t, and the worse of the two counts."""
MANY_CHANGES = 1000
"""From here on Tango's normal approximation is as good as exact, and the exact test would take longer than all else."""
_POWER = 0.8
Verdict = Literal["improved", "kept", "forgot", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The verdict about one task, and what it rests on."""

    verdict: Verdict
    interval: Interval
    """Candidate − baseline in the metric's own unit and sign, at level 1 − 2·alpha; ends None: nothing is known."""
    p_loss: float | None
    """One-sided p-value of "nothing was lost"; not corrected for many tasks."""
    items_needed: int | None
    """Of an inconclusive task: items in all at which the test would decide with 80% chance, at the spread seen and no
    true difference if the data allow that, else the difference seen. None: no number would, or none can be named."""
    small_loss: bool
    """Kept (no loss beyond the margin), and yet a loss is certain."""
    gained: int | None
    """Items whose credit rose (for direction "lower": fell); None where items are not right or wrong."""
    lost: int | None
    how: str
    """The test in words, or why there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    """An interval with losses negative, and how many items a true difference would need."""

    interval: Interval
    how: str
    needed: Callable[[float], int | None]


def judge(
    before: Sequence[float] | Array,
    after: Sequence[float] | Array,
    *,
    margin: float,
    binary: bool,
    rng: np.random.Generator,
    groups: Labels | None = None,
    strata: Labels | None = None,
    direction: Direction = "higher",
    alpha: float = 0.05,
) -> Judgement:
    """Judge a metric that is a mean over items, from the values of the same items before and after.

    `binary`: values are right-or-wrong credits in [0, 1] (ties may share). `groups`: items with one label share a
    passage or template. `strata`: fixed parts of the task (subjects), used where a t interval is. Independent binary
    items: Tango's score test, its verdict checked exactly. Clustered or fractional values in [0, 1]: Tango's test on as
    many items as the spread between clusters allows, and a cluster-robust t; the worse counts. Other values: the t.
    Fewer than 30 changed clusters: also a bootstrap-t. Fewer than 10: Tango's test on whole clusters if values lie in
    [0, 1], else no verdict. Raises ValueError for unequal lengths, no items, values not finite, or a margin that is not
    positive (or not below 1 for binary values).

    >>> rng = np.random.default_rng(0)
    >>> judge([1.0] * 300, [1.0] * 300, margin=0.01, binary=True, rng=rng).verdict
    'kept'
    >>> judge([1.0] * 10, [1.0] * 10, margin=0.01, binary=True, rng=rng).items_needed
    299
    """
    old, new = as_values(before), as_values(after)
    if len(old) != len(new):
        raise ValueError(f"judge: {len(old)} items before but {len(new)} after")
    shares = bool(min(old.min(), new.min()) >= 0 and max(old.max(), new.max()) <= 1)
    if binary and not shares:
        raise ValueError("judge: binary values must lie between 0 and 1")
    # Bits per byte may happen to lie in [0, 1] as well; a margin of 1 or more says that values are no shares.
    shares = shares and (binary or margin < 1)
    _check(margin, alpha, shares=shares)
    d = new - old if direction == "higher" else old - new
    labels, clusters = cluster_ids(groups, len(d))
    if binary and clusters == len(d):
        evidence = _independent_items(d, margin, alpha)
        p_loss = paired.mcnemar_loss_p(float(d[d > 0].sum()), -float(d[d < 0].sum()))
    else:
        evidence = _clusters(d, labels, clusters, strata, margin, alpha, binary=binary, shares=shares, rng=rng)
        p_loss = paired.sign_flip_loss_p(d, labels, rng=rng)
    flips = (int((d > 0).sum()), int((d < 0).sum())) if binary else (None, None)
    return _conclude(evidence, margin, direction, p_loss=p_loss, gained=flips[0], lost=flips[1])


def judge_statistic(
    pairs: Sequence[tuple[Any, Any]],
    statistic: Statistic,
    *,
    margin: float,
    rng: np.random.Generator,
    groups: Labels | None = None,
    direction: Direction = "higher",
    alpha: float = 0.05,
    resamples: int = 1000,
) -> Judgement:
    """Judge a metric that pools items (micro-F1, BLEU, perplexity): `statistic` makes a number of one side's items.

    `pairs` holds (before, after) of each item. Paired cluster bootstrap (BCa, whole clusters with both sides), a
    jackknife t, and a bootstrap-t of the jackknife's pseudo-values: the worst counts. Fewer than 10 clusters that
    change give no verdict. `p_loss` swaps before and after in whole clusters.
    Raises ValueError for no items or a margin that is not positive.
    """
    _check(margin, alpha, shares=False)
    sign = 1.0 if direction == "higher" else -1.0

    def difference(sample: list[Any]) -> float:
        return sign * (float(statistic([new for _, new in sample])) - float(statistic([old for old, _ in sample])))

    items = list(pairs)
    level = 1 - 2 * alpha
    labels, clusters = cluster_ids(groups, len(items))
    members = [np.flatnonzero(labels == g) for g in range(clusters)] if clusters < len(items) else [[i] for i in labels]
    bootstrap = bootstrap_interval(items, difference, rng=rng, groups=labels, resamples=resamples, level=level)
    pseudo = _pseudo_values(items, difference, members, bootstrap.value)
    changed = 0 if pseudo is None else int((np.abs(pseudo) > np.abs(pseudo).max() / 50).sum())
    if not bootstrap.is_known:
        why = bootstrap.method.removeprefix("none: ")
        evidence = _nothing_known(bootstrap, f"no verdict: {why}", bootstrap.method)
    elif pseudo is None or changed < FEW_CHANGES:
        why = f"only {changed} of {clusters} clusters changed, too few for a bootstrap"
        evidence = _nothing_known(bootstrap, f"no verdict: {why}", f"none: {why}")
    else:
        evidence = _worst([bootstrap, *_pseudo_intervals(pseudo, bootstrap, level, rng)], margin, alpha)
    p_loss = _swap_p(items, difference, labels, clusters, bootstrap.value, rng)
    return _conclude(evidence, margin, direction, p_loss=p_loss, gained=None, lost=None)


def verdict_of(low: float, high: float, margin: float) -> Verdict:
    """The verdict of an interval at level 1 − 2·alpha in which losses are negative."""
    if low >= -margin:
        # Superiority is tested only after non-inferiority was shown: a fixed sequence costs no alpha.
        return "improved" if low > 0 else "kept"
    return "forgot" if high < -margin else "inconclusive"


def _conclude(
    evidence: _Evidence, margin: float, direction: Direction, *, p_loss: float, gained: int | None, lost: int | None
) -> Judgement:
    interval = evidence.interval
    low = -math.inf if interval.low is None else interval.low
    high = math.inf if interval.high is None else interval.high
    verdict = verdict_of(low, high, margin)
    needed = _still_needed(evidence, low, high) if verdict == "inconclusive" else None
    if direction == "lower":
        # 0 − x, since −x would print a zero as −0.
        turned = [None if end is None else 0 - end for end in (interval.high, interval.low)]
        interval = replace(interval, value=0 - interval.value, low=turned[0], high=turned[1])
    return Judgement(
        verdict=verdict,
        interval=interval,
        p_loss=p_loss,
        items_needed=needed,
        small_loss=verdict == "kept" and high < 0,
        gained=gained,
        lost=lost,
        how=evidence.how,
    )


def _still_needed(evidence: _Evidence, low: float, high: float) -> int | None:
    """Items in all: for no true difference if that is compatible and would not have been decided already."""
    n, seen = evidence.interval.n, evidence.interval.value
    for difference in [0.0, seen] if low <= 0 <= high else [seen]:
        needed = evidence.needed(difference)
        if needed is not None and needed > n:
            return needed
    return None


def _independent_items(d: Array, margin: float, alpha: float) -> _Evidence:
    gained, lost = float(d[d > 0].sum()), -float(d[d < 0].sum())
    interval = _tango(gained, lost, len(d), margin, 1 - 2 * alpha)
    needed = _tango_needed((gained + lost) / len(d), margin, alpha, effect=1.0)
    return _Evidence(interval=interval, how="Tango's score test, checked exactly", needed=needed)


def _tango(gained: float, lost: float, n: float, margin: float, level: float) -> Interval:
    """Tango's interval, its ends moved out where one of the four verdicts would not survive the exact test."""
    i = paired.tango_interval(gained, lost, n, level=level)
    low, high = i.value if i.low is None else i.low, i.value if i.high is None else i.high
    whole = max(1, math.floor(n + 1e-9))
    up, down = gained * whole / n, lost * whole / n
    tail, z = (1 - level) / 2, normal_quantile(level)
    if gained + lost >= MANY_CHANGES:
        return replace(i, low=low, high=high)

    def doubtful(rose: float, fell: float, at: float) -> bool:
        # A statistic this far out is certain enough: there the exact p is below a fifth of the nominal one at 5%.
        near = paired.tango_statistic(rose, fell, whole, at) < z + 1
        return near and paired.exact_p(rose, fell, whole, at) > tail

    if low >= -margin and doubtful(up, down, -margin):
        refused, allowed = -margin, max(-1.0, -2 * margin - 4 / whole)
        for _ in range(12):
            middle = (refused + allowed) / 2
            refused, allowed = (middle, allowed) if doubtful(up, down, middle) else (refused, middle)
        low = allowed
    elif low > 0 and doubtful(up, down, 0.0):
        low = 0.0
    if high < -margin and doubtful(down, up, margin):
        high = -margin
    elif high < 0 and doubtful(down, up, 0.0):
        high = 0.0
    return replace(i, low=low, high=high)


def _clusters(
    d: Array,
    labels: npt.NDArray[np.intp],
    clusters: int,
    strata: Labels | None,
    margin: float,
    alpha: float,
    *,
    binary: bool,
    shares: bool,
    rng: np.random.Generator,
) -> _Evidence:
    level = 1 - 2 * alpha
    sums: Array = np.bincount(labels, d, clusters).astype(np.float64)
    largest = float(np.abs(sums).max())
    # A change below a fiftieth of the largest tells nothing about how often large ones happen.
    changed = int((np.abs(sums) > largest / 50).sum()) if largest > 1e-12 else 0
    if changed < FEW_CHANGES:
        what = "items" if clusters == len(d) else "clusters"
        few = f"only {changed} of {clusters} {what} changed, too few for a t test"
        if shares:
            return _whole_clusters(sums, np.bincount(labels, minlength=clusters), margin, alpha, few)
        value = cluster_t_interval(d, labels, level=level)
        return _nothing_known(value, f"no verdict: {few}, and values are not shares", f"none: {few}")
    plain = cluster_t_interval(d, labels, level=level)
    t = plain if strata is None else stratified_mean(d, strata, labels, level=level)
    if not t.is_known or plain.low is None:
        return _nothing_known(t, f"no verdict: {t.method.removeprefix('none: ')}", t.method)
    intervals = [t]
    if shares:
        error = (plain.value - plain.low) / t_quantile(level, clusters - 1)
        intervals.insert(0, _effective_tango(d, error, clusters, margin, level, binary=binary))
    # Beyond 500 clusters it would take too long; there so few changes leave Tango's end the outer one.
    if changed < FEW_CLUSTERS and clusters <= 500:
        # For the certifying end only: resamples without spread would keep a loss in every cluster from being `forgot`.
        resampled = paired.bootstrap_t_interval(d, labels, rng=rng, level=level)
        low = -1.0 if shares and resampled.low is None else resampled.low
        intervals.append(replace(resampled, low=low, high=t.high))
    evidence = _worst(intervals, margin, alpha)
    if shares and evidence.interval.low is not None and evidence.interval.high is not None:
        low, high = max(-1.0, evidence.interval.low), min(1.0, evidence.interval.high)
        evidence = replace(evidence, interval=replace(evidence.interval, low=low, high=high))
    return evidence


def _effective_tango(d: Array, error: float, clusters: int, margin: float, level: float, *, binary: bool) -> Interval:
    """Tango's test on n over the design effect, with t's quantile.

    A t test takes its error from the data alone, and where losses are rare and clustered the samples that happen to
    show few of them also show a small error: such a t certifies 10% of the models at the margin. Tango's variance
    is that of a loss of exactly the margin, so it cannot shrink along (Obuchowski 1998, Stat. Med. 17:1495, likewise).
    """
    gained, lost, n = float(d[d > 0].sum()), -float(d[d < 0].sum()), len(d)
    independent = ((gained + lost) / n - float(d.mean()) ** 2) / n
    effect = error**2 / independent if independent > 0 else 1.0
    # Right-or-wrong items are never worth more than one each; a change by half an item is.
    effect = max(1.0, effect) if binary else effect
    quantile_level = float(2 * special.ndtr(t_quantile(level, clusters - 1)) - 1)
    i = _tango(gained / effect, lost / effect, n / effect, margin, quantile_level)
    return replace(i, n=n, clusters=clusters)


def _whole_clusters(sums: Array, sizes: npt.NDArray[np.intp], margin: float, alpha: float, few: str) -> _Evidence:
    """Tango's test as if every change were of a whole cluster: what so few clusters can exclude.

    Moving a change outwards to ±1 keeps its mean and can only widen. Unequal clusters count as n²/Σm² (Kish).
    """
    n = int(sizes.sum())
    effective = n * n / float((sizes.astype(np.float64) ** 2).sum())
    gained, lost = (effective * float(np.maximum(side, 0).sum()) / n for side in (sums, -sums))
    tango = _tango(gained, lost, effective, margin, 1 - 2 * alpha)
    clustered = len(sizes) < n
    interval = replace(tango, n=n, clusters=len(sizes), method="tango-clusters" if clustered else "tango")
    needed = _tango_needed((gained + lost) / effective, margin, alpha, effect=n / effective)
    on = " on whole clusters" if clustered else " as if every change were a whole item"
    return _Evidence(interval=interval, how=f"Tango's score test{on}: {few}", needed=needed)


_NAMES = {
    "tango": "Tango's score test",
    "cluster-t": "a cluster-robust t",
    "stratified-t": "a stratified cluster-robust t",
    "bootstrap-t": "a bootstrap-t",
    "bootstrap-bca": "a paired cluster bootstrap (BCa)",
    "bootstrap-percentile": "a paired cluster bootstrap",
    "jackknife-t": "a jackknife t",
}


def _worst(intervals: list[Interval], margin: float, alpha: float) -> _Evidence:
    """The outer ends of all: an end is known only where each test knows it."""
    lows, highs = [i.low for i in intervals], [i.high for i in intervals]
    last = intervals[-1]
    low = None if None in lows else min(end for end in lows if end is not None)
    high = None if None in highs else max(end for end in highs if end is not None)
    methods = [i.method for i in intervals]
    interval = replace(last, low=low, high=high, method="+".join(methods))
    names = [_NAMES.get(method, method) for method in methods]
    tests = names[0] if len(names) == 1 else f"the worse of {', '.join(names[:-1])} and {names[-1]}"
    independent = last.clusters == last.n
    how = tests.replace("cluster-robust ", "").replace("cluster ", "") if independent else tests
    units = f"{last.n} items" if independent else f"{last.clusters} clusters"
    # The final width holds everything: clusters, t quantile, and the worse of several tests.
    width = None if low is None else (last.value - low) / normal_quantile(1 - 2 * alpha)
    return _Evidence(interval=interval, how=f"{how} over {units}", needed=_width_needed(width, last.n, margin, alpha))


def _nothing_known(interval: Interval, how: str, method: str) -> _Evidence:
    unknown = replace(interval, low=None, high=None, method=method)
    return _Evidence(interval=unknown, how=how, needed=lambda _: None)


def _tango_needed(discordance: float, margin: float, alpha: float, *, effect: float) -> Callable[[float], int | None]:
    """Items to certify a true difference above −margin, or to find one below it."""

    def needed(difference: float) -> int | None:
        p = min(1.0, max(discordance, abs(difference)))
        if difference > -margin:
            return paired.items_needed(
                discordance=p, margin=margin, difference=difference, alpha=alpha, power=_POWER, design_effect=effect
            )
        beyond = -(difference + margin)
        return paired.mean_items_needed(
            variance=p - difference**2, margin=beyond, alpha=alpha, power=_POWER, design_effect=effect
        )

    return needed


def _width_needed(error: float | None, n: int, margin: float, alpha: float) -> Callable[[float], int | None]:
    """The same from the standard error seen at `n` items, which shrinks with the root of their number."""

    def needed(difference: float) -> int | None:
        if error is None:
            return None
        distance = abs(margin + difference)
        return paired.mean_items_needed(variance=n * error**2, margin=distance, alpha=alpha, power=_POWER)

    return needed


def _pseudo_values(items: list[Any], difference: Statistic, members: Sequence[Any], whole: float) -> Array | None:
    """What each cluster adds: k·whole − (k−1)·without it (Tukey 1958), in at most 200 blocks of clusters."""
    values = []
    for block in np.array_split(np.arange(len(members)), min(len(members), 200)):
        gone = {i for g in block for i in members[g]}
        value = try_statistic(difference, [item for i, item in enumerate(items) if i not in gone])
        if value is None:
            return None
        values.append(value)
    k = len(values)
    return k * whole - (k - 1) * np.asarray(values)


def _pseudo_intervals(pseudo: Array, whole: Interval, level: float, rng: np.random.Generator) -> list[Interval]:
    """Student's t and the bootstrap-t of the pseudo-values, around the whole sample's value.

    Where losses are rare, samples that show few of them also show a small spread, and BCa and t believe it: the two
    without a third certified 8.5% ± 2.0 of the models at the margin. The bootstrap-t sees how value and spread move
    together.
    """
    plain = cluster_t_interval(pseudo, level=level)
    studentised = paired.bootstrap_t_interval(pseudo, rng=rng, level=level)
    found = []
    for interval, method in ((plain, "jackknife-t"), (studentised, "bootstrap-t")):
        ends = [None if end is None else whole.value + end - interval.value for end in (interval.low, interval.high)]
        found.append(replace(whole, low=ends[0], high=ends[1], method=method))
    return found


def _swap_p(
    items: list[Any],
    difference: Statistic,
    labels: npt.NDArray[np.intp],
    clusters: int,
    seen: float,
    rng: np.random.Generator,
) -> float:
    """Share of swaps of before and after, cluster by cluster, that lose as much; (k+1)/(m+1), stopped early at 50."""
    limit = seen + 1e-12 * max(1.0, abs(seen))
    hits = 0
    for done in range(1, 1000):
        swapped = rng.integers(0, 2, size=clusters)[labels]
        sample = [(new, old) if swap else (old, new) for (old, new), swap in zip(items, swapped, strict=True)]
        value = try_statistic(difference, sample)
        # A swap on which the statistic is undefined counts against the alarm.
        hits += value is None or value <= limit
        if hits == 50:
            return hits / done
    return (hits + 1) / 1000


def _check(margin: float, alpha: float, *, shares: bool) -> None:
    if not margin > 0 or not math.isfinite(margin) or (shares and margin >= 1):
        raise ValueError(f"margin {margin} must be above 0" + (" and below 1" if shares else ""))
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha {alpha} must lie between 0 and 0.5")
