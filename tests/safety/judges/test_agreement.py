"""Agreement with people against scikit-learn, and rates corrected by a judge's error against a simulation."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, cohen_kappa_score, f1_score

from safety.judges.agreement import average_precision, expected_calibration_error, kappa, macro_f1, measure_agreement
from safety.rates import JudgeError, correct_rate, effective_items
from workbench.errors import ConfigError
from workbench.statistics import mean_interval, wilson_interval


@pytest.fixture
def sample():
    rng = np.random.default_rng(3)
    truth = (rng.random(400) < 0.3).astype(float)
    scores = np.clip(np.round(0.4 * truth + rng.random(400) * 0.6, 2), 0, 1)  # with ties
    return truth, scores


def test_the_measures_are_those_of_scikit_learn(sample):
    truth, scores = sample
    seen = (scores >= 0.5).astype(float)
    assert kappa(truth, seen) == pytest.approx(cohen_kappa_score(truth, seen))
    assert macro_f1(truth, seen) == pytest.approx(f1_score(truth, seen, average="macro"))
    assert average_precision(truth, scores) == pytest.approx(average_precision_score(truth, scores))


def test_a_calibrated_judge_has_a_small_calibration_error_and_a_bold_one_a_large_one():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    truth = (rng.random(20_000) < p).astype(float)
    assert expected_calibration_error(truth, p) < 0.02
    assert expected_calibration_error(truth, np.where(p > 0.5, 1.0, 0.0)) > 0.2


def test_an_unscorable_row_is_an_error_of_both_kinds():
    truth = [1] * 10 + [0] * 10
    sure = measure_agreement("hate", truth, [1] * 10 + [0] * 10, [None] * 20)
    silent = measure_agreement("hate", truth, [None, *[1] * 9, None, *[0] * 9], [None] * 20)
    assert (sure.sensitivity.value, sure.specificity.value) == (1.0, 1.0)
    assert (silent.sensitivity.value, silent.specificity.value) == (0.9, 0.9)
    assert silent.unscorable == 2


def test_too_few_rows_of_a_kind_are_an_error():
    with pytest.raises(ConfigError, match="4 violating"):
        measure_agreement("hate", [1] * 4 + [0] * 10, [1] * 14, [None] * 14)


def test_the_correction_gives_back_a_rate_that_errors_have_moved():
    error = JudgeError(caught=900, violations=1000, cleared=950, allowed=1000)
    seen = 0.10 * 0.90 + 0.90 * 0.05
    found = correct_rate(wilson_interval(seen * 2000, 2000), error, rng=np.random.default_rng(0))
    assert found is not None
    assert found.value == pytest.approx(0.10, abs=1e-9)
    assert found.low < 0.10 < found.high


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity"), [(0.3, 0.9, 0.9), (0.08, 0.95, 0.97), (0.6, 0.8, 0.85)]
)
def test_the_corrected_interval_covers_the_true_rate_as_often_as_it_says(rate, sensitivity, specificity):
    rng = np.random.default_rng(11)
    hits, plain, rounds = 0, 0, 200
    for _ in range(rounds):
        violations = rng.binomial(300, rate)
        seen = rng.binomial(violations, sensitivity) + rng.binomial(300 - violations, 1 - specificity)
        interval = wilson_interval(seen, 300)
        error = JudgeError(
            caught=rng.binomial(200, sensitivity),
            violations=200,
            cleared=rng.binomial(200, specificity),
            allowed=200,
        )
        found = correct_rate(interval, error, rng=rng, draws=2000)
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= rate <= found.high
        plain += interval.low <= rate <= interval.high
    assert hits / rounds >= 0.92
    assert hits >= plain


def test_the_interval_is_wider_than_the_uncorrected_one():
    seen = wilson_interval(60, 300)
    error = JudgeError(caught=90, violations=100, cleared=90, allowed=100)
    found = correct_rate(seen, error, rng=np.random.default_rng(0))
    assert found is not None
    assert found.high - found.low > seen.high - seen.low


@pytest.mark.parametrize("counts", [(50, 100, 50, 100), (0, 0, 10, 10)])
def test_a_judge_that_guesses_corrects_nothing(counts):
    error = JudgeError(**dict(zip(("caught", "violations", "cleared", "allowed"), counts, strict=True)))
    assert correct_rate(wilson_interval(10, 100), error, rng=np.random.default_rng(0)) is None


def test_clusters_count_as_fewer_items():
    values, groups = [1.0] * 40 + [0.0] * 60, [str(i // 20) for i in range(100)]
    assert effective_items(mean_interval(values, groups, binary=True)) < 20
    assert effective_items(wilson_interval(40, 100)) == pytest.approx(100, rel=0.1)
