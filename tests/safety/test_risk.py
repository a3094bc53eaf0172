"""Thresholds from risk targets: what is promised holds, and what cannot be promised is said."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from safety.resolved import Risk
from safety.risk import calibrate, needed
from tests.safety.policy_files import child, load, root
from workbench.errors import ConfigError


@pytest.mark.parametrize("n", [59, 100, 450])
def test_the_promise_about_misses_is_broken_in_at_most_five_of_a_hundred_resamples(n: int) -> None:
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(2000):
        low = calibrate(Risk(miss=0.05), violating=sorted(rng.uniform(size=n)), allowed=[]).low
        broken += low > 0.05  # of uniform scores, the share below a threshold is the threshold
    assert broken / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize("n", [59, 93, 200, 1000])
def test_the_threshold_is_the_largest_whose_exact_bound_keeps_the_target(n: int) -> None:
    scores = [i / n for i in range(n)]
    misses = round(calibrate(Risk(miss=0.05), violating=scores, allowed=[]).low * n)
    upper = [beta.ppf(0.95, k + 1, n - k) for k in (misses, misses + 1)]  # Clopper-Pearson, one-sided
    assert upper[0] <= 0.05 < upper[1]


def test_too_few_violations_mean_that_nothing_is_cleared_and_the_number_needed_is_said() -> None:
    found = calibrate(Risk(miss=0.05), violating=[0.9] * 58, allowed=[])
    assert found.low == 0.0
    assert found.guarantee == "no guarantee for misses: 58 violations, 59 are needed"
    assert needed(0.01, 0.05) == 299


def test_the_promise_about_wrong_actions_holds_from_above() -> None:
    scores = [i / 100 for i in range(100)]
    found = calibrate(Risk(wrong_action=0.1), violating=[], allowed=scores)
    acted_on = sum(score >= found.high for score in scores)
    assert beta.ppf(0.95, acted_on + 1, 100 - acted_on) <= 0.1


def test_well_separated_scores_leave_nothing_uncertain() -> None:
    found = calibrate(Risk(miss=0.05, wrong_action=0.1), violating=[0.9] * 100, allowed=[0.1] * 100)
    assert found.low == found.high


def test_calibration_data_of_a_judge_become_thresholds_of_the_policy(tmp_path: Path) -> None:
    rows = [{"category": "hate", "probability": i / 100, "label": "violates"} for i in range(100)]
    (tmp_path / "cal.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with_data = root(judges={"m": {"kind": "model", "calibration": "cal.jsonl"}, "k": {"kind": "keyword"}})
    found = load(tmp_path, with_data)
    threshold = found.categories["hate"].thresholds["m"]
    assert threshold.low == 0.01
    assert "misses at most 5% of violations" in threshold.guarantee
    assert "no guarantee for misses" in found.categories["csae"].thresholds["m"].guarantee
    other = [row | {"category_hash": "0" * 64} for row in rows]
    (tmp_path / "cal.jsonl").write_text("\n".join(map(json.dumps, other)))
    again = load(tmp_path, with_data).categories["hate"].thresholds["m"]
    assert again.low == 0.0 and "0 violations" in again.guarantee, "labelled under another definition"
    (tmp_path / "cal.jsonl").write_text('{"category": "hate", "probability": 2, "label": "violates"}')
    with pytest.raises(ConfigError, match=r"cal\.jsonl:1"):
        load(tmp_path, with_data)


def test_a_childs_own_calibration_is_never_looser_than_its_parents(tmp_path: Path) -> None:
    for name, start in (("org", 20), ("own", 60)):
        rows = [{"category": "hate", "probability": (start + i / 3) / 100, "label": "violates"} for i in range(100)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    judges = {"m": {"kind": "model", "calibration": "org.jsonl"}, "k": {"kind": "keyword"}}
    own = child(
        judges={"m": {"kind": "model", "calibration": "own.jsonl"}}, categories={"hate": {"risk": {"miss": 0.04}}}
    )
    found = load(tmp_path, root(judges=judges), own)
    assert found.categories["hate"].thresholds["m"].low == pytest.approx(0.2 + 1 / 300)
