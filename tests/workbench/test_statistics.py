"""Intervals against statsmodels, scipy and closed forms; laws by hypothesis."""

import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from workbench import statistics

values_in_unit = st.lists(st.floats(0, 1, allow_subnormal=False), min_size=2, max_size=40)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 20), (81, 263), (20, 20), (499, 500)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_equals_statsmodels(k: int, n: int, level: float) -> None:
    ours = statistics.wilson_interval(k, n, level=level)
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_cluster_t_equals_statsmodels_cluster_robust_ols() -> None:
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 12, size=80)
    values = rng.normal(size=80) + groups * 0.1
    fit = sm.OLS(values, np.ones(80)).fit(cov_type="cluster", cov_kwds={"groups": groups}, use_t=True)
    low, high = fit.conf_int(0.05)[0]
    ours = statistics.cluster_t_interval(values, groups.tolist())
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)
    assert ours.clusters == len(set(groups.tolist()))


def test_without_groups_the_cluster_t_interval_is_students() -> None:
    values = np.random.default_rng(4).normal(2, 3, size=25)
    low, high = scipy.stats.t.interval(0.95, 24, loc=values.mean(), scale=scipy.stats.sem(values))
    ours = statistics.cluster_t_interval(values)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_paired_difference_equals_the_paired_t_interval_of_scipy() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(size=30), rng.normal(0.2, 1, size=30)
    expected = scipy.stats.ttest_rel(after, before).confidence_interval(0.95)
    ours = statistics.paired_difference(before, after)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_bootstrap_bca_agrees_with_scipy_on_a_ratio() -> None:
    rng = np.random.default_rng(6)
    pairs = [(float(a), float(b)) for a, b in zip(rng.gamma(2, 1, 60), rng.gamma(5, 1, 60), strict=True)]

    def ratio(sample: list[tuple[float, float]]) -> float:
        return sum(a for a, _ in sample) / sum(b for _, b in sample)

    ours = statistics.bootstrap_interval(pairs, ratio, rng=np.random.default_rng(0), resamples=6000)
    theirs = scipy.stats.bootstrap(
        tuple(np.asarray(pairs).T),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        paired=True,
        method="BCa",
        n_resamples=6000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.method == "bootstrap-bca"
    # Two Monte Carlo runs of 6,000 draws: the ends differ by about 2% of the interval's width.
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_stratified_mean_equals_the_textbook_formula() -> None:
    rng = np.random.default_rng(7)
    strata = np.repeat([0, 1, 2], [10, 30, 20])
    values = rng.normal(size=60) + strata * 5
    parts = [values[strata == h] for h in range(3)]
    weights = np.array([10, 30, 20]) / 60
    variance = sum(w**2 * p.var(ddof=1) / len(p) for w, p in zip(weights, parts, strict=True))
    half = scipy.stats.t.ppf(0.975, 57) * math.sqrt(variance)
    ours = statistics.stratified_mean(values, strata.tolist())
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-12)
    macro = statistics.stratified_mean(values, strata.tolist(), macro=True)
    half = scipy.stats.t.ppf(0.975, 57) * math.sqrt(sum(p.var(ddof=1) / len(p) for p in parts) / 9)
    centre = np.mean([p.mean() for p in parts])
    assert (macro.value, macro.low) == pytest.approx((centre, centre - half), abs=1e-12)


def test_differences_between_subjects_do_not_widen_the_stratified_interval() -> None:
    rng = np.random.default_rng(8)
    strata = np.repeat(np.arange(10), 20)
    values = np.clip(strata / 10 + rng.normal(0, 0.05, 200), 0, 1)
    stratified = statistics.stratified_mean(values, strata.tolist())
    plain = statistics.cluster_t_interval(values)
    assert _width(stratified) < 0.5 * _width(plain)


def test_clusters_of_copies_give_the_interval_of_the_clusters_alone() -> None:
    x = np.random.default_rng(9).normal(size=15)
    copied = np.repeat(x, 7)
    groups = np.repeat(np.arange(15), 7).tolist()
    alone, clustered = statistics.cluster_t_interval(x), statistics.cluster_t_interval(copied, groups)
    assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))
    assert _width(statistics.cluster_t_interval(copied)) < 0.5 * _width(clustered)


def test_clustered_coverage_holds_where_the_naive_interval_fails() -> None:
    """40 passages of 7 items with intra-class correlation: the share of intervals that hold the truth."""
    rng = np.random.default_rng(10)
    groups = np.repeat(np.arange(40), 7).tolist()
    hits = {"cluster": 0, "naive": 0}
    for _ in range(400):
        passage = rng.beta(1.2, 1.2, 40)
        right = (rng.random(280) < np.repeat(passage, 7)).astype(float)
        for name, interval in (
            ("cluster", statistics.mean_interval(right, groups, binary=True)),
            ("naive", statistics.mean_interval(right, binary=True)),
        ):
            assert interval.low is not None and interval.high is not None
            hits[name] += interval.low <= 0.5 <= interval.high
    assert hits["cluster"] / 400 > 0.92
    assert hits["naive"] / 400 < 0.85


def test_all_right_in_few_clusters_is_no_certainty() -> None:
    interval = statistics.mean_interval([1.0] * 40, [i // 10 for i in range(40)], binary=True)
    assert interval.low is not None and interval.low < 0.6  # four passages exclude little
    assert interval.value == interval.high == 1.0


def test_no_spread_and_one_cluster_give_no_interval_and_say_why() -> None:
    assert statistics.cluster_t_interval([0.5, 0.5, 0.5]).method == "none: no spread"
    assert statistics.cluster_t_interval([0.1, 0.9], ["a", "a"]).method == "none: one cluster"
    assert statistics.paired_difference([1, 0, 1], [1, 0, 1]).low is None
    assert statistics.bootstrap_interval([2, 2], sum, rng=np.random.default_rng(0)).low is None
    assert statistics.stratified_mean([0.1, 0.9], ["s", "t"], ["g", "g"]).clusters == 2


def test_a_single_item_subject_keeps_a_variance_by_joining_others() -> None:
    strata = ["a"] * 5 + ["b"]
    interval = statistics.stratified_mean([0, 1, 0, 1, 1, 1], strata)
    assert interval.is_known


@pytest.mark.parametrize(
    "call",
    [
        lambda: statistics.wilson_interval(0, 0),
        lambda: statistics.wilson_interval(3, 2),
        lambda: statistics.cluster_t_interval([]),
        lambda: statistics.mean_interval([], binary=True),
        lambda: statistics.stratified_mean([], []),
        lambda: statistics.paired_difference([], []),
        lambda: statistics.paired_difference([1.0], [1.0, 2.0]),
        lambda: statistics.bootstrap_interval([], sum, rng=np.random.default_rng(0)),
        lambda: statistics.cluster_t_interval([1.0, math.nan]),
        lambda: statistics.cluster_t_interval([1.0, 2.0], ["a"]),
        lambda: statistics.cluster_t_interval([1.0, 2.0], level=1.0),
    ],
)
def test_no_data_or_senseless_data_raises(call) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        call()


def test_bootstrap_draws_whole_clusters_and_repeats_with_its_seed() -> None:
    items = [(g, i) for g in range(6) for i in range(4)]
    groups = [g for g, _ in items]

    def statistic(sample: list[tuple[int, int]]) -> float:
        for g in {g for g, _ in sample}:
            assert len([i for h, i in sample if h == g]) % 4 == 0
        return sum(g * (i + 1) for g, i in sample) / len(sample)

    first, second = (
        statistics.bootstrap_interval(items, statistic, rng=np.random.default_rng(2), groups=groups, resamples=50)
        for _ in range(2)
    )
    assert first == second
    assert first.clusters == 6


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_lies_in_the_unit_interval_and_holds_its_value(case: tuple[float, int]) -> None:
    interval = statistics.wilson_interval(*case)
    assert interval.low is not None and interval.high is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high - interval.low > 0


@given(values_in_unit, st.randoms())
def test_the_order_of_items_does_not_matter(values: list[float], random) -> None:
    groups = [random.randrange(4) for _ in values]
    strata = [random.randrange(3) for _ in values]
    order = list(range(len(values)))
    random.shuffle(order)
    x, g, s = ([column[i] for i in order] for column in (values, groups, strata))
    for a, b in (
        (statistics.cluster_t_interval(values, groups), statistics.cluster_t_interval(x, g)),
        (statistics.stratified_mean(values, strata, groups), statistics.stratified_mean(x, s, g)),
        (statistics.stratified_mean(values, strata, macro=True), statistics.stratified_mean(x, s, macro=True)),
    ):
        assert a.value == pytest.approx(b.value, abs=1e-9)
        if a.is_known and b.is_known:
            assert (a.low, a.high) == pytest.approx((b.low, b.high), abs=1e-6)


@given(values_in_unit, st.floats(-5, 5))
def test_swapping_the_sides_of_a_pair_mirrors_the_interval(values: list[float], shift: float) -> None:
    other = [shift * v for v in reversed(values)]
    there, back = statistics.paired_difference(values, other), statistics.paired_difference(other, values)
    assert there.value == pytest.approx(-back.value)
    if there.is_known:
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low))  # type: ignore[operator]


@given(values_in_unit)
def test_one_stratum_is_no_stratification(values: list[float]) -> None:
    plain, stratified = statistics.cluster_t_interval(values), statistics.stratified_mean(values, ["s"] * len(values))
    assert stratified.value == pytest.approx(plain.value)
    assert (stratified.low is None) == (plain.low is None)
    if plain.is_known:
        assert (stratified.low, stratified.high) == pytest.approx((plain.low, plain.high))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.integers(0, 10))
def test_bootstrap_ends_are_values_the_statistic_can_take(values: list[int], seed: int) -> None:
    interval = statistics.bootstrap_interval(
        values, lambda s: sum(s) / len(s), rng=np.random.default_rng(seed), resamples=40
    )
    if interval.is_known:
        assert min(values) <= interval.low <= interval.high <= max(values)  # type: ignore[operator]


def _width(interval: statistics.Interval) -> float:
    assert interval.low is not None and interval.high is not None
    return interval.high - interval.low
