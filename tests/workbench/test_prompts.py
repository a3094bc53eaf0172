"""Verdicts over several prompts: against a mixed model, closed forms, and simulation."""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st

from studies import prompts as study
from workbench import forgetting
from workbench.prompts import judge_over_prompts, mean_over_prompts, prompt_spread
from workbench.statistics import mean_interval


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def crossed(questions: int, k: int) -> tuple[list[int], list[int]]:
    """(prompts, groups) of values that stand question by question."""
    return np.tile(np.arange(k), questions).tolist(), np.repeat(np.arange(questions), k).tolist()


def judged(before: np.ndarray, after: np.ndarray, **more: Any) -> Any:
    """Both of shape (questions, prompts)."""
    prompts, groups = crossed(*before.shape)
    options: dict[str, Any] = {"margin": 0.05, "binary": True, "rng": rng()} | more
    return judge_over_prompts(before.ravel(), after.ravel(), prompts=prompts, groups=groups, **options)


def test_the_spread_between_prompts_is_that_of_a_mixed_model() -> None:
    """Balanced and crossed, analysis of variance and REML agree."""
    draw = np.random.default_rng(3)
    questions, k = 30, 5
    y = draw.normal(0, 1, (questions, 1)) + np.array([-0.9, 0.3, 0.8, -0.4, 0.1]) + draw.normal(0, 0.7, (questions, k))
    prompts, groups = crossed(questions, k)
    spread = prompt_spread(y.ravel(), prompts, groups)
    frame = pd.DataFrame({"y": y.ravel(), "prompt": prompts, "question": groups, "all": 1})
    parts = {"prompt": "0 + C(prompt)", "question": "0 + C(question)"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = smf.mixedlm("y ~ 1", frame, groups="all", vc_formula=parts).fit(reml=True)
    variances = dict(zip(fit.model.exog_vc.names, fit.vcomp, strict=True))
    assert spread.sd**2 == pytest.approx(variances["prompt"], rel=1e-3)
    assert spread.means == pytest.approx(y.mean(axis=0))
    assert spread.error == pytest.approx(y.mean(axis=0).std(ddof=1) / math.sqrt(k))


def test_prompts_that_differ_by_the_questions_chance_alone_have_no_spread() -> None:
    draw = np.random.default_rng(1)
    found = [prompt_spread(draw.normal(size=400), *crossed(100, 4)).sd for _ in range(200)]
    assert np.mean(np.square(found)) < 0.01 * 0.5  # the prompts' means vary by 1/100 of the questions' variance
    assert np.median(found) < 0.1


def test_the_interval_is_that_over_questions_widened_by_a_t_over_prompts() -> None:
    before = np.ones((100, 4))
    after = before.copy()
    after[:20, 0], after[:10, 1], after[:4, 3] = 0.0, 0.0, 0.0
    _, groups = crossed(100, 4)
    inner = forgetting.judge(before.ravel(), after.ravel(), groups=groups, margin=0.05, binary=True, rng=rng()).interval
    means = np.array([-0.2, -0.1, 0.0, -0.04])
    more = scipy.stats.t.ppf(0.95, 3) * means.std(ddof=1) / 2
    found = judged(before, after).judgement.interval
    assert inner.low is not None and inner.high is not None
    assert found.value == pytest.approx(means.mean())
    assert found.low == pytest.approx(inner.value - math.hypot(inner.value - inner.low, more))
    assert found.high == pytest.approx(inner.value + math.hypot(inner.high - inner.value, more))


def test_a_loss_in_some_prompts_alone_is_not_certified_away_by_the_others() -> None:
    before = np.ones((600, 4))
    after = before.copy()
    after[:60, 0] = 0.0  # 10 points in one prompt, 2.5 on the mean
    found = judged(before, after)
    _, groups = crossed(600, 4)
    ignored = forgetting.judge(before.ravel(), after.ravel(), groups=groups, margin=0.05, binary=True, rng=rng())
    assert (ignored.verdict, found.judgement.verdict) == ("kept", "inconclusive")
    assert found.spread.sd == pytest.approx(0.05, abs=0.005) and found.share > 0.8
    assert "change by prompt -10.0 +0.0 +0.0 +0.0 points" in found.told
    # 2.35 · 5/√4 points come from the prompts alone, more than the margin leaves: questions do not help
    assert found.judgement.items_needed is None


def test_more_questions_are_asked_for_where_they_would_decide() -> None:
    draw = np.random.default_rng(2)
    before = (draw.random((60, 4)) < 0.7).astype(float)
    after = np.where(draw.random((60, 4)) < 0.08, 1 - before, before)
    found = judged(before, after, margin=0.03)
    assert found.judgement.verdict == "inconclusive"
    assert found.judgement.items_needed is None or found.judgement.items_needed > 240


def test_a_copy_is_kept_and_a_lower_is_better_metric_is_turned() -> None:
    same = judged(np.ones((400, 4)), np.ones((400, 4)))
    assert same.judgement.verdict == "kept" and same.spread.sd == 0 and same.judgement.lost is None
    draw = np.random.default_rng(5)
    before, after = draw.normal(1, 0.1, (200, 4)), draw.normal(1.3, 0.1, (200, 4))
    worse = judged(before, after, binary=False, direction="lower", margin=0.05)
    better = judged(before, after, binary=False, direction="higher", margin=0.05)
    assert (worse.judgement.verdict, better.judgement.verdict) == ("forgot", "improved")
    assert worse.judgement.p_loss < 0.01 < better.judgement.p_loss


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_interval_holds_the_one_that_takes_these_prompts_for_all(seed: int, k: int) -> None:
    draw = np.random.default_rng(seed)
    values = (draw.random((40, k)) < draw.random(k)).astype(float).ravel()
    prompts, groups = crossed(40, k)
    inner, outer = mean_interval(values, groups, binary=True), mean_over_prompts(values, prompts, groups, binary=True)
    assert outer.low is not None and outer.high is not None and inner.low is not None and inner.high is not None
    assert outer.low <= max(0.0, inner.low) + 1e-12 and outer.high >= min(1.0, inner.high) - 1e-12
    assert outer.value == pytest.approx(values.mean())


def test_one_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        prompt_spread([1.0, 0.0], [0, 0], [0, 1])


def test_a_mean_loss_of_the_margin_is_kept_at_most_one_time_in_twenty_and_one_prompt_keeps_it_more_often() -> None:
    """Small version of studies/prompts.py."""
    found = study.rates(rng(), 100, 400, 3, 0.02)["passed"]
    # One chance in ten thousand to fail at a true rate of 5%.
    assert round(found["ours"]["rate"] * 100) <= scipy.stats.binom.isf(1e-4, 100, 0.05)
    assert found["one prompt"]["rate"] > 0.05  # the simulation can tell
