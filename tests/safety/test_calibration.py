"""Probabilities are calibrated with as much freedom as there are labels, for one model, one policy and one wording."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.calibration import (
    Binding,
    Calibrator,
    brier,
    calibration_error,
    fit_curve,
    log_loss,
    measure,
    reliability,
    temperature_of,
)
from workbench.errors import ConfigError

BINDING = Binding(model="m" * 64, policy_hash="p" * 64, prompt_version="moderation/1/rules_first")


def stream(n, *, seed=0, slope=2.0, shift=-1.0):
    """Texts whose probability is off: the truth is a logit of (z - shift) / slope."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.0, 1.5, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    return 1 / (1 + np.exp(-(slope * z + shift))), y


@pytest.mark.parametrize(("n", "how"), [(150, "none"), (400, "platt"), (999, "platt"), (2000, "isotonic")])
def test_the_method_goes_by_the_number_of_labels(n, how):
    assert fit_curve(*stream(n)).how == how


def test_few_violations_among_many_labels_get_two_parameters():
    p, y = stream(5000)
    y[np.flatnonzero(y)[150:]] = 0.0
    assert fit_curve(p, y).how == "platt"


def test_with_few_labels_the_prior_of_a_text_without_content_is_taken_off():
    curve = fit_curve(*stream(50), content_free=0.8)
    assert curve.how == "prior"
    assert curve.apply(np.array([0.8, 0.5]))[0] == pytest.approx(0.5)


def test_platt_is_sklearns_logistic_regression_on_the_logit():
    from sklearn.linear_model import LogisticRegression

    p, y = stream(900)
    z = np.log(p / (1 - p)).clip(-13.8, 13.8)
    wanted = LogisticRegression(C=1e10, tol=1e-8, max_iter=1000).fit(z[:, None], y)
    curve = fit_curve(p, y)
    # Platt's smoothed targets move it by less than a label's worth
    assert curve.slope == pytest.approx(wanted.coef_[0, 0], rel=0.03)
    assert curve.shift == pytest.approx(wanted.intercept_[0], abs=0.05)


@pytest.mark.parametrize("n", [400, 3000])
def test_calibration_brings_the_error_down_on_texts_it_has_not_seen(n):
    curve = fit_curve(*stream(n))
    p, y = stream(20_000, seed=9)
    assert calibration_error(p, y) > 0.08
    assert calibration_error(curve.apply(p), y) < 0.03


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([30, 300, 1500]))
def test_no_curve_falls_or_leaves_its_bounds(seed, n):
    curve = fit_curve(*stream(n, seed=seed))
    found = curve.apply(np.linspace(0, 1, 200))
    assert np.all(np.diff(found) >= -1e-12) and found.min() >= 0 and found.max() <= 1


def test_a_community_leans_on_its_parent_until_it_has_labels_of_its_own():
    p, y = stream(900)
    rng = np.random.default_rng(1)
    names = np.where(rng.random(900) < 0.04, "small", np.where(rng.random(900) < 0.5, "strict", "other"))
    y = np.where(names != "other", np.maximum(y, rng.random(900) < 0.5), y)  # both have more violations than the rest
    curve = fit_curve(p, y, communities=names.tolist())
    assert 0 < curve.offsets["small"] < curve.offsets["strict"] and curve.offsets["other"] < 0
    found = curve.apply(np.array([0.3, 0.3]), ["strict", "unheard-of"])
    assert found[0] > found[1] == pytest.approx(curve.apply(np.array([0.3]))[0])


def test_a_community_without_a_label_of_one_kind_has_a_finite_offset():
    p, _ = stream(300)
    y = np.array([0.0, 1.0] * 150)
    curve = fit_curve(p, y, communities=["all" if value else "none" for value in y])
    assert all(np.isfinite(u) and abs(u) < 12 for u in curve.offsets.values())


def test_a_calibration_comes_back_as_it_was_saved(tmp_path):
    names = ["a", "b"] * 1000
    curves = {"spam": fit_curve(*stream(2000), communities=names), "hate": fit_curve(*stream(500))}
    Calibrator(binding=BINDING, curves=curves).save(tmp_path / "c.json")
    loaded = Calibrator.load(tmp_path / "c.json", BINDING)
    p = np.linspace(0, 1, 50)
    for name in ("spam", "hate", "unlabelled"):
        wanted = Calibrator(binding=BINDING, curves=curves).apply(name, p, ["a"] * 50)
        np.testing.assert_array_equal(loaded.apply(name, p, ["a"] * 50), wanted)


@pytest.mark.parametrize("what", ["model", "policy_hash", "prompt_version"])
def test_a_calibration_of_something_else_refuses_to_load(tmp_path, what):
    Calibrator(binding=BINDING, curves={}).save(tmp_path / "c.json")
    with pytest.raises(ConfigError, match=f"stale.*{what.replace('_', ' ')}"):
        Calibrator.load(tmp_path / "c.json", replace(BINDING, **{what: "other"}))


@pytest.mark.parametrize("text", ["", "{}", '{"binding": {"model": "m"}, "curves": {}}'])
def test_what_is_no_calibration_is_told(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match="no calibration"):
        Calibrator.load(tmp_path / "c.json", BINDING)


def test_scores_are_sklearns():
    from sklearn.metrics import brier_score_loss
    from sklearn.metrics import log_loss as sklearn_log_loss

    p, y = stream(500)
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert log_loss(p, y) == pytest.approx(sklearn_log_loss(y, p), abs=1e-4)


def test_the_error_of_equal_bins_by_hand():
    p, y = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(p, y, bins=2) == pytest.approx((0.4 + 0.1) / 2)
    assert reliability(p, y, bins=2) == [(pytest.approx(0.1), 0.5, 2), (pytest.approx(0.9), 1.0, 2)]


def test_measures_come_with_intervals_that_hold_them():
    found = measure(*stream(800), rng=np.random.default_rng(0), resamples=100)
    assert set(found) == {"ece", "ece_band", "brier", "log_loss"}
    for one in found.values():
        assert one.low is not None and one.high is not None and one.low <= one.value <= one.high


def test_the_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (chance.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert temperature_of(logits * 3.0, labels) == pytest.approx(3.0, rel=0.05)
