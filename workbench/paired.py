"""Tests and plans for paired results: the same items before and after. Knows counts and differences, but no verdict.

"Gained" items became right, "lost" ones wrong; all others stayed. A difference is after less before, in shares (0.01 is
one point), so a loss is negative. Counts may be fractional: a tie that shares its credit turns by half an item, and
counting its share keeps the mean while it can only overstate the spread, so tests and intervals stay valid.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from workbench.statistics import Array, Interval, Labels, as_values, cluster_ids, normal_quantile

_HALVINGS = 50
"""Of an interval of length 2: the end is right to 2e-15."""

_ENUMERATED = 12  # clusters whose 2^12 sign patterns are all tried
_BLOCKS = 1000
_OUTSIDE = 1e-4  # of the exact test: chance that the nuisance interval misses


def tango_statistic(gained: Any, lost: Any, n: Any, at: Any) -> Any:
    """Score statistic of "the true difference is `at`" (Tango 1998, Statistics in Medicine 17:891, eqs. 24-26).

    Standard normal if it is; falls as `at` rises. At 0 it is McNemar's (gained − lost)/√(gained + lost). Numbers give a
    float, arrays are broadcast. Where the variance is 0 it is 0 if the data agree with `at`, else infinite.

    >>> round(tango_statistic(0, 1, 44, -0.1), 3)
    1.709
    """
    if all(isinstance(x, int | float) for x in (gained, lost, n, at)):
        return _tango_number(gained, lost, n, at)
    b, c, n, delta = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (gained, lost, n, at)))
    # Solved for delta >= 0, where the root below adds two numbers of one sign: no digits cancel. T(b,c,Δ) = −T(c,b,−Δ).
    turned = delta < 0
    b, c, d = np.where(turned, c, b), np.where(turned, b, c), np.abs(delta)
    middle = (2 * n - b + c) * d - b - c
    product = 8 * n * c * d * (1 - d)
    root = np.sqrt(middle * middle + product)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(middle > 0, product / (4 * n * (root + middle)), (root - middle) / (4 * n))
        variance = n * (2 * q + d * (1 - d))
        distance = b - c - n * d
        statistic = np.where(variance > 0, distance / np.sqrt(variance), np.sign(np.round(distance, 9)) * np.inf)
    statistic = np.where(np.abs(distance) <= 1e-12 * n, 0.0, np.where(turned, -statistic, statistic))
    return float(statistic) if statistic.ndim == 0 else statistic


def _tango_number(b: float, c: float, n: float, delta: float) -> float:
    """The same for numbers, without NumPy: finding an interval asks for a hundred of them."""
    turned = delta < 0
    if turned:
        b, c = c, b
    d = abs(delta)
    middle = (2 * n - b + c) * d - b - c
    product = 8 * n * c * d * (1 - d)
    root = math.sqrt(middle * middle + product)
    q = product / (4 * n * (root + middle)) if middle > 0 else (root - middle) / (4 * n)
    variance, distance = n * (2 * q + d * (1 - d)), b - c - n * d
    if abs(distance) <= 1e-12 * n:
        return 0.0
    statistic = distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)
    return -statistic if turned else statistic


def tango_interval(gained: float, lost: float, n: float, *, level: float = 0.95) -> Interval:
    """Difference (gained − lost)/n with the ends at which Tango's score test would just not reject.

    Zero cells are fine: with nothing gained and nothing lost of 268 items, the loss is below one point at one-sided 5%.
    `n` may be an effective number of items. Raises ValueError for no items or counts that do not fit `n`.

    >>> i = tango_interval(0, 1, 44, level=0.90)
    >>> round(i.low, 3), round(i.high, 3)
    (-0.096, 0.037)
    """
    _check_counts(gained, lost, n)
    z = normal_quantile(level)
    point = (gained - lost) / n
    low = -_tango_upper(lost, gained, n, z)
    high = _tango_upper(gained, lost, n, z)
    return Interval(
        value=point, low=min(point, low), high=max(point, high), n=round(n), clusters=round(n), method="tango"
    )


def exact_p(gained: float, lost: float, n: int, at: float) -> float:
    """Exact p-value of "the true difference is `at` or less": how often chance gives a table at least as good.

    Tango's statistic orders the tables, but its normal approximation errs where few items change: of 268 items, a model
    that lost exactly one point turns none 6.8% of the time. Here the tables' own probabilities are added up, at the
    worst share of changing items inside its 99.99% interval (Berger & Boos 1994, JASA 89:1012; that 0.01% is added).

    >>> [round(exact_p(0, 0, n, -0.01), 4) for n in (268, 298, 299)]
    [0.0677, 0.0501, 0.0496]
    """
    _check_counts(gained, lost, n)
    outside, flips = _OUTSIDE, gained + lost
    most = float(special.betaincinv(flips + 1, n - flips, 1 - outside / 2)) if flips < n else 1.0
    least = float(special.betaincinv(flips, n - flips + 1, outside / 2)) if flips > 0 else 0.0
    changing = np.linspace(max(least, abs(at)), max(most, abs(at)), 25)[:, None]
    gain, loss = (changing + at) / 2, (changing - at) / 2
    reach = 8 * math.sqrt(n * float(gain.max())) + 8
    rows = np.arange(max(0, math.floor(n * gain.min() - reach)), min(n, math.ceil(n * gain.max() + reach)) + 1)
    worst = _most_lost(rows, n, at, tango_statistic(gained, lost, n, at))
    rows, worst = rows[worst >= 0], worst[worst >= 0]
    if len(rows) == 0:
        return outside
    log_choices = special.gammaln(n + 1) - special.gammaln(rows + 1) - special.gammaln(n - rows + 1)
    chance = np.exp(log_choices + special.xlogy(rows, gain) + special.xlog1py(n - rows, -gain))
    # P(lost <= worst | gained), a binomial over the items that did not gain.
    left = n - rows - worst
    below = np.where(left > 0, special.betainc(np.maximum(left, 1), worst + 1.0, 1 - loss / (1 - gain)), 1.0)
    return min(1.0, float((chance * below).sum(axis=1).max()) + outside)


def mcnemar_loss_p(gained: float, lost: float) -> float:
    """Exact one-sided p-value of "nothing was lost" (McNemar 1947, binomial): small if more items fell than rose.

    Fractional counts are rounded to the harmless side. No change at all: 1.

    >>> mcnemar_loss_p(0, 5)
    0.03125
    """
    _check_counts(gained, lost, None)
    fell, rose = math.floor(lost + 1e-9), math.ceil(gained - 1e-9)
    return float(special.bdtrc(fell - 1, fell + rose, 0.5)) if fell + rose else 1.0


def sign_flip_loss_p(
    differences: Sequence[float] | Array,
    groups: Labels | None = None,
    *,
    rng: np.random.Generator,
    resamples: int = 9999,
) -> float:
    """One-sided p-value of "nothing changed" where items share clusters: each cluster's sum may have either sign.

    All sign patterns where at most 12 clusters changed; else Monte Carlo, (k+1)/(m+1) of up to `resamples` patterns,
    stopped early once 200 of them lost as much (Besag & Clifford 1991). Over 1,000 changed clusters are flipped in
    blocks, dealt by size of change: a coarser clustering is valid as well.
    """
    x = as_values(differences)
    labels, count = cluster_ids(groups, len(x))
    sums = np.bincount(labels, x, count)
    sums = sums[np.abs(sums) > 1e-12 * max(1.0, float(np.abs(x).max()))]
    if len(sums) == 0:
        return 1.0
    if len(sums) > _BLOCKS:
        dealt = np.argsort(np.argsort(-np.abs(sums), kind="stable"), kind="stable") % _BLOCKS
        sums = np.bincount(dealt, sums, _BLOCKS)
    limit = float(sums.sum()) + 1e-9 * float(np.abs(sums).sum())
    if len(sums) <= _ENUMERATED:
        patterns = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        return float(np.mean((1 - 2 * patterns) @ sums <= limit))
    enough, hits, done = 200, 0, 0
    while done < resamples:
        size = min(1000, resamples - done)
        signs = rng.integers(0, 2, size=(size, len(sums)), dtype=np.int8)
        # Σ ±s = 2·Σ_{positive} s − Σ s, with the signs of |s| drawn afresh.
        totals = 2 * (signs @ np.abs(sums)) - float(np.abs(sums).sum())
        below = np.cumsum(totals <= limit)
        if hits + below[-1] >= enough:
            return enough / (done + int(np.searchsorted(below, enough - hits)) + 1)
        hits, done = hits + int(below[-1]), done + size
    return (hits + 1) / (done + 1)


def bootstrap_t_interval(
    differences: Sequence[float] | Array,
    groups: Labels | None = None,
    *,
    rng: np.random.Generator,
    resamples: int = 1999,
    level: float = 0.95,
) -> Interval:
    """Mean difference with a cluster bootstrap-t interval (Efron & Tibshirani 1993, ch. 12): clusters drawn again.

    Each resample is studentised with its own cluster-robust error, so skewed differences widen the side they should.
    Resamples without spread count as infinitely far; an end that they reach, or fewer than two clusters, is None.
    """
    x = as_values(differences)
    labels, count = cluster_ids(groups, len(x))
    mean = float(x.mean())
    nothing = Interval(value=mean, low=None, high=None, n=len(x), clusters=count, method="none: no spread")
    if count < 2:
        return nothing
    sums, sizes = np.bincount(labels, x, count), np.bincount(labels, minlength=count).astype(np.float64)
    # In an order of their own, so that the same clusters give the same interval however the items are sorted.
    order = np.lexsort((sizes, np.round(sums, 12)))
    sums, sizes = sums[order], sizes[order]

    def errors(counts_RG: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        items = counts_RG @ sizes
        means = counts_RG @ sums / items
        squares = counts_RG @ sums**2 - 2 * means * (counts_RG @ (sums * sizes)) + means**2 * (counts_RG @ sizes**2)
        noise = 1e-12 * float((sums**2).sum() + 1e-300)
        return means, np.sqrt(np.where(squares > noise, squares, 0.0) * count / (count - 1)) / items

    _, error = errors(np.ones((1, count), dtype=np.int64))
    if error[0] == 0:
        return nothing
    means, spread = errors(rng.multinomial(count, np.full(count, 1 / count), size=resamples))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(spread > 0, (means - mean) / spread, np.sign(means - mean) * np.inf)
    t.sort()
    tail = (1 - level) / 2
    # Ends at order statistics, the outer ones: nothing is interpolated between a number and infinity.
    below, above = t[int(tail * (resamples + 1)) - 1], t[resamples - int(tail * (resamples + 1))]
    low = mean - float(above) * float(error[0]) if np.isfinite(above) else None
    high = mean - float(below) * float(error[0]) if np.isfinite(below) else None
    return Interval(value=mean, low=low, high=high, n=len(x), clusters=count, method="bootstrap-t")


def adjust_holm(p_values: Sequence[float] | Array) -> list[float]:
    """Holm's (1979) adjusted p-values: those at most 0.05 hold together at 5%, whatever their dependence.

    >>> adjust_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    p, order = _sorted_p(p_values)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return _unsorted(np.minimum(steps, 1.0), order)


def adjust_benjamini_hochberg(p_values: Sequence[float] | Array) -> list[float]:
    """Benjamini and Hochberg's (1995) q-values: of those at most 0.05, at most 5% are expected to be false.

    >>> adjust_benjamini_hochberg([0.01, 0.04, 0.03])
    [0.03, 0.04, 0.04]
    """
    p, order = _sorted_p(p_values)
    steps = p[order] * len(p) / np.arange(1, len(p) + 1)
    return _unsorted(np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0), order)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicFlips:
    """How often the items of one topic flipped, against all other items."""

    topic: Hashable
    flips: int
    items: int
    share: float
    share_elsewhere: float | None
    """None where there is no other topic."""
    p: float
    """Fisher's exact test, one-sided: more flips than elsewhere."""
    q: float
    """The same over all topics (Benjamini-Hochberg)."""


def enrichment(topics: Sequence[Hashable], flipped: Sequence[bool] | npt.NDArray[np.bool_]) -> list[TopicFlips]:
    """Which topics have more flips than the rest, most striking first (by p, then flips, then the topic's text).

    One topic and one flag an item. Raises ValueError if their numbers differ or there are none.
    """
    if len(topics) != len(flipped) or len(topics) == 0:
        raise ValueError(f"enrichment: {len(topics)} topics for {len(flipped)} items")
    sizes = Counter(topics)
    flips = Counter(topic for topic, flip in zip(topics, flipped, strict=True) if flip)
    n, total = len(topics), sum(flips.values())
    # Fisher's one-sided p is the upper tail of the hypergeometric distribution.
    from scipy import stats

    p_values = [float(stats.hypergeom.sf(flips[t] - 1, n, total, size)) for t, size in sizes.items()]
    rows = [
        TopicFlips(
            topic=t,
            flips=flips[t],
            items=size,
            share=flips[t] / size,
            share_elsewhere=(total - flips[t]) / (n - size) if n > size else None,
            p=min(1.0, p),
            q=q,
        )
        for (t, size), p, q in zip(sizes.items(), p_values, adjust_benjamini_hochberg(p_values), strict=True)
    ]
    return sorted(rows, key=lambda row: (row.p, -row.flips, str(row.topic)))


def intraclass_correlation(values: Sequence[float] | Array, groups: Labels) -> float | None:
    """Correlation of two items of one cluster: the one-way ANOVA estimator for clusters of unequal size.

    (MSB − MSW)/(MSB + (k−1)·MSW) with k = (n − Σm²/n)/(G−1) (Donner 1986). May be negative. None where clusters have
    one item each, or there is one cluster, or no spread.
    """
    x = as_values(values)
    labels, count = cluster_ids(groups, len(x))
    if count < 2 or count == len(x):
        return None
    sizes = np.bincount(labels, minlength=count)
    means = np.bincount(labels, x, count) / sizes
    between = float(sizes @ (means - x.mean()) ** 2) / (count - 1)
    within = float(((x - means[labels]) ** 2).sum()) / (len(x) - count)
    typical = (len(x) - float((sizes**2).sum()) / len(x)) / (count - 1)
    whole = between + (typical - 1) * within
    return (between - within) / whole if whole > 1e-24 else None


def design_effect(cluster_sizes: Sequence[int] | npt.NDArray[np.intp], correlation: float) -> float:
    """How many clustered items are worth one independent item: 1 + (m − 1)·ρ with m = Σm²/Σm (Kish 1965), at least 1.

    >>> round(design_effect([7] * 40, 0.3), 6)
    2.8
    """
    sizes = np.asarray(cluster_sizes, dtype=np.float64)
    if len(sizes) == 0 or (sizes <= 0).any():
        raise ValueError("design_effect: clusters without items")
    return max(1.0, 1 + (float((sizes**2).sum() / sizes.sum()) - 1) * correlation)


def items_needed(
    *,
    discordance: float,
    margin: float,
    difference: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int | None:
    """Right-or-wrong items at which "no loss beyond `margin`" is certified with chance `power`; None: never.

    `discordance` is the share of items that change, `difference` the true difference. Sample size of Tango's test:
    n = (z_{1−α}·√V0 + z_power·√V1)²/(margin + difference)², with V1 = discordance − difference² the true variance and
    V0 the one under a loss of exactly `margin`. At least as many as certify by showing no change at all, by the exact
    test: log α/log(1 − margin).

    >>> [items_needed(discordance=0, margin=m) for m in (0.01, 0.02, 0.05)]
    [299, 149, 59]
    """
    _check_plan(discordance, margin, difference, design_effect)
    if difference <= -margin:
        return None
    under_null, true = _plan_variances(discordance, margin, difference)
    spread = _z(alpha) * math.sqrt(under_null) - special.ndtri(1 - power) * math.sqrt(true)
    score = max(0.0, spread) ** 2 / (margin + difference) ** 2
    return _ceil(design_effect * max(score, _exact_floor(margin, alpha)))


def pass_probability(
    n: float,
    *,
    discordance: float,
    margin: float,
    difference: float = 0.0,
    alpha: float = 0.05,
    design_effect: float = 1.0,
) -> float:
    """Chance that `n` right-or-wrong items come out as kept: the inverse of `items_needed`, on the same terms."""
    _check_plan(discordance, margin, difference, design_effect)
    under_null, true = _plan_variances(discordance, margin, difference)
    if n / design_effect < _exact_floor(margin, alpha) - 1e-9:
        return 0.0
    reach = (margin + difference) * math.sqrt(n / design_effect) - _z(alpha) * math.sqrt(under_null)
    if true <= 0:
        return float(reach >= -1e-9)
    return float(special.ndtr(reach / math.sqrt(true)))


def mean_items_needed(
    *,
    variance: float,
    margin: float,
    difference: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
    design_effect: float = 1.0,
) -> int | None:
    """Items for a t test of the mean difference: n = (z_{1−α} + z_power)²·variance/(margin + difference)²; None: never.

    `variance` is that of one item's difference, and of a design effect 1.
    """
    if variance < 0 or design_effect < 1:
        raise ValueError(f"mean_items_needed: variance {variance}, design effect {design_effect}")
    if margin + difference <= 0:
        return None
    spread = _z(alpha) - float(special.ndtri(1 - power))
    return _ceil(design_effect * max(0.0, spread) ** 2 * variance / (margin + difference) ** 2)


def _tango_upper(gained: float, lost: float, n: float, z: float) -> float:
    """Largest difference that the score test does not reject."""
    point = (gained - lost) / n
    if point >= 1:
        return 1.0
    # The statistic falls, so halving finds the end; scipy's root finders take half a second to import.
    low, high = point, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango_number(gained, lost, n, middle) > -z else (low, middle)
    return (low + high) / 2


def _most_lost(gained: npt.NDArray[np.intp], n: int, at: float, limit: float) -> npt.NDArray[np.intp]:
    """For each number of gains, the most losses at which Tango's statistic reaches `limit`; −1: not even with 0."""
    low, high = np.full(len(gained), -1), n - gained
    while (low < high).any():
        middle = (low + high + 1) // 2
        reached = tango_statistic(gained, np.maximum(middle, 0), n, at) >= limit - 1e-9
        low, high = np.where(reached, middle, low), np.where(reached, high, middle - 1)
    return low


def _plan_variances(discordance: float, margin: float, difference: float) -> tuple[float, float]:
    """Variance of one item's difference: at the margin (restricted maximum likelihood), and in truth."""
    gained, lost = (discordance + difference) / 2, (discordance - difference) / 2
    middle = (2 - lost + gained) * margin - lost - gained
    product = 8 * gained * margin * (1 - margin)
    q = (math.sqrt(middle * middle + product) - middle) / 4
    return 2 * max(q, 0.0) + margin * (1 - margin), discordance - difference**2


def _exact_floor(margin: float, alpha: float) -> float:
    """Items below which not even a perfect copy is certified: (1 − margin)^n must not exceed alpha (less 0.01%)."""
    return math.log(alpha - _OUTSIDE) / math.log1p(-margin)


def _check_plan(discordance: float, margin: float, difference: float, effect: float) -> None:
    if not 0 <= discordance <= 1 or abs(difference) > discordance + 1e-12:
        raise ValueError(f"discordance {discordance} must lie in [|difference|, 1]; difference {difference}")
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin} must lie between 0 and 1")
    if effect < 1:
        raise ValueError(f"design effect {effect} is below 1")


def _check_counts(gained: float, lost: float, n: float | None) -> None:
    if n is not None and n <= 0:
        raise ValueError("no items")
    if gained < 0 or lost < 0 or (n is not None and gained + lost > n * (1 + 1e-12)):
        raise ValueError(f"{gained} gained and {lost} lost do not fit {n} items")


def _sorted_p(p_values: Sequence[float] | Array) -> tuple[Array, npt.NDArray[np.intp]]:
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]")
    return p, np.argsort(p, kind="stable")


def _unsorted(steps: Array, order: npt.NDArray[np.intp]) -> list[float]:
    adjusted = np.empty(len(steps))
    adjusted[order] = steps
    return adjusted.tolist()


def _z(alpha: float) -> float:
    return normal_quantile(1 - 2 * alpha)


def _ceil(items: float) -> int | None:
    """Whole items, at least 1; None beyond a billion, which nobody can collect."""
    return max(1, math.ceil(items - 1e-9)) if items < 1e9 else None
