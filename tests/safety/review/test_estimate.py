"""What a ranked sample says of the whole stream: unbiased, and its intervals hold the truth as often as they say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.review.estimate import Sample, Stream, estimate_quality
from safety.review.ranking import Pool, draw_batch
from workbench.errors import ConfigError

NAMES = ("precision", "recall", "missed", "violations")


def simulate(seed, *, n=20_000, size=1000):
    """One queue: 4% violate, 15% of those look like any other text. Returns drawn sample, stream, truth."""
    rng = np.random.default_rng([seed, 17])
    y = rng.random(n) < 0.04
    blind = y & (rng.random(n) < 0.15)
    score = np.where(y & ~blind, rng.normal(2.4, 1.2, n), rng.normal(-2.2, 1.0, n))
    p = 1 / (1 + np.exp(-(1.1 * score - 0.8)))
    flagged = p >= 0.5
    pool = Pool(probability=p, severity=np.ones(n, np.int8), withheld=flagged)
    draw = draw_batch(pool, size=size, seed=seed)
    sample = Sample(
        violates=y[draw.items].astype(float),
        probability=p[draw.items],
        flagged=flagged[draw.items],
        inclusion=draw.inclusion,
    )
    truth = {
        "precision": y[flagged].mean(),
        "recall": (y & flagged).sum() / y.sum(),
        "missed": (y & ~flagged).sum(),
        "violations": y.sum(),
    }
    return sample, Stream(probability=p, flagged=flagged), truth


@pytest.mark.parametrize("method", ["model_assisted", "hajek"])
def test_estimates_are_unbiased_and_their_intervals_hold_the_truth(method):
    queues = 150
    errors = {name: [] for name in NAMES}
    held = dict.fromkeys(NAMES, 0)
    for seed in range(queues):
        sample, stream, truth = simulate(seed)
        found = estimate_quality(sample, stream, method=method)
        for name in NAMES:
            own = getattr(found, name)
            errors[name].append(own.value - truth[name])
            held[name] += own.low <= truth[name] <= own.high
    for name in NAMES:
        error = np.array(errors[name])
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(queues), name
        assert held[name] / queues > 0.95 - 4 * np.sqrt(0.95 * 0.05 / queues), name


def test_the_naive_share_of_a_ranked_sample_is_far_off_where_the_estimate_is_not():
    naive, weighted, truths = [], [], []
    for seed in range(20):
        sample, stream, truth = simulate(seed)
        naive.append(sample.violates.mean())
        weighted.append(estimate_quality(sample, stream).violations.value / len(stream))
        truths.append(truth["violations"] / len(stream))
    assert np.mean(weighted) == pytest.approx(np.mean(truths), abs=0.004)
    assert np.mean(naive) > 1.5 * np.mean(truths)


def test_a_census_is_exact():
    rng = np.random.default_rng(0)
    y, p = (rng.random(300) < 0.2).astype(float), rng.random(300)
    flagged = p > 0.6
    sample = Sample(violates=y, probability=p, flagged=flagged, inclusion=np.ones(300))
    found = estimate_quality(sample, Stream(probability=p, flagged=flagged))
    assert found.recall is not None and found.precision is not None
    assert found.recall.value == pytest.approx((y * flagged).sum() / y.sum())
    assert found.precision.value == pytest.approx(y[flagged].mean())
    assert found.missed.value == pytest.approx((y * ~flagged).sum())
    assert found.recall.high - found.recall.low < 1e-9


def test_uniform_labels_give_the_plain_share_with_an_interval_like_wilsons():
    from statsmodels.stats.proportion import proportion_confint

    rng = np.random.default_rng(1)
    n, labels = 200_000, 2000
    flagged = np.zeros(n, bool)
    flagged[: n // 2] = True
    chosen = rng.choice(n, labels, replace=False)
    y = (rng.random(labels) < 0.3).astype(float)
    sample = Sample(
        violates=y, probability=np.full(labels, 0.3), flagged=flagged[chosen], inclusion=np.full(labels, labels / n)
    )
    found = estimate_quality(sample, Stream(probability=np.full(n, 0.3), flagged=flagged), method="hajek").precision
    own = y[flagged[chosen]]
    assert found is not None and found.value == pytest.approx(own.mean())
    low, high = proportion_confint(own.sum(), len(own), method="wilson")
    assert (found.low, found.high) == (pytest.approx(low, abs=0.003), pytest.approx(high, abs=0.003))


def test_labels_of_unknown_chance_are_left_out_and_counted():
    sample, stream, _ = simulate(0)
    reports = Sample(
        violates=np.append(sample.violates, np.ones(50)),
        probability=np.append(sample.probability, np.full(50, 0.1)),
        flagged=np.append(sample.flagged, np.zeros(50, bool)),
        inclusion=np.append(sample.inclusion, np.full(50, np.nan)),
    )
    with_reports, without = estimate_quality(reports, stream), estimate_quality(sample, stream)
    assert with_reports.left_out == 50
    assert with_reports.recall == without.recall


def test_no_label_that_disagrees_is_no_certainty():
    n = 10_000
    p, flagged = np.full(n, 0.9), np.ones(n, bool)
    sample = Sample(
        violates=np.ones(60), probability=np.full(60, 0.9), flagged=np.ones(60, bool), inclusion=np.full(60, 0.006)
    )
    found = estimate_quality(sample, Stream(probability=p, flagged=flagged)).precision
    assert found is not None and found.value == 1.0
    # the rule of three: 60 of 60 leave about 1 - 3.7/60 with 95% on both sides
    assert 0.92 < found.low < 0.96


def test_nothing_to_say_it_from_is_told():
    nothing = Sample(
        violates=np.ones(3), probability=np.ones(3), flagged=np.ones(3, bool), inclusion=np.full(3, np.nan)
    )
    with pytest.raises(ConfigError, match="known probability"):
        estimate_quality(nothing, Stream(probability=np.ones(9), flagged=np.ones(9, bool)))
    none = Sample(violates=np.zeros(3), probability=np.zeros(3), flagged=np.zeros(3, bool), inclusion=np.full(3, 0.5))
    found = estimate_quality(none, Stream(probability=np.zeros(9), flagged=np.zeros(9, bool)))
    assert found.precision is None and found.recall is None


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_every_interval_holds_its_value_and_stays_in_bounds(seed, labels):
    rng = np.random.default_rng(seed)
    n = 500
    p, flagged = rng.random(n), rng.random(n) < 0.3
    chosen = rng.choice(n, labels, replace=False)
    sample = Sample(
        violates=(rng.random(labels) < p[chosen]).astype(float),
        probability=p[chosen],
        flagged=flagged[chosen],
        inclusion=rng.uniform(0.01, 1.0, labels),
    )
    found = estimate_quality(sample, Stream(probability=p, flagged=flagged))
    for share in (found.precision, found.recall):
        assert share is None or 0.0 <= share.low <= share.value <= share.high <= 1.0
    for count in (found.missed, found.violations):
        assert count.low is not None and count.high is not None and 0.0 <= count.low <= count.high
