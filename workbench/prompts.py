"""Judge a task over several prompts: questions and prompts are both samples. Knows values and labels; no template.

The same questions are asked in K prompts, and what is said is meant for prompts like these, not for these K alone. So
the mean has two sources of chance, and its interval holds both:

    half-width² = (half-width over questions)² + (t with K − 1 degrees of freedom · s/√K)²

The first part is what `forgetting.judge` says of all items where a question with all its prompts is one cluster; s is
the standard deviation of the K prompts' means. With both samples crossed, the variance of the mean is V_questions +
V_prompts − V_both (Cameron, Gelbach & Miller 2011, J. Bus. Econ. Stat. 29:238; Brennan 2001, Generalizability Theory,
ch. 2). V_both is not subtracted, so that nothing is claimed where the prompts' part comes out as zero or less by
chance. Each part keeps a quantile of its own and the squares add up (Zou & Donner 2008, Stat. Med. 27:1693; Graybill &
Wang 1980). How often it certifies a model at the margin is measured, not proven: `make study-prompts`, in
docs/statistics.md. No method can see from 4 prompts what only a fifth would show.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from workbench import forgetting, paired
from workbench.forgetting import Judgement
from workbench.records import Direction
from workbench.statistics import Array, Interval, Labels, as_values, cluster_ids, mean_interval, normal_quantile

_POWER = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How the prompts' means differ."""

    means: tuple[float, ...]
    """Mean of each prompt, in the order of first appearance."""
    sd: float
    """Standard deviation between prompts beyond what the questions' own chance explains; 0 where there is no more."""
    error: float
    """Standard error that the choice of prompts gives to the mean: s/√K, the questions' chance within it."""

    @property
    def prompts(self) -> int:
        """How many."""
        return len(self.means)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptJudgement:
    """A verdict over prompts, and how much hangs on the prompt."""

    judgement: Judgement
    """`gained` and `lost` are None: a question may be gained in one prompt and lost in another. `items_needed` counts
    each question once a prompt."""
    spread: Spread
    """Of candidate − baseline in the metric's own unit and sign."""
    share: float | None
    """Share of the mean's variance that the prompts bring; None where nothing varies or no interval is known."""

    @property
    def told(self) -> str:
        """How much hangs on the prompt, in a sentence; for values that are shares."""
        by_prompt = " ".join(f"{100 * mean:+.1f}" for mean in self.spread.means)
        share = "" if self.share is None else f", {self.share:.0%} of the mean's variance"
        return (
            f"change by prompt {by_prompt} points; standard deviation between prompts "
            f"{100 * self.spread.sd:.1f} points{share}"
        )


def prompt_spread(values: Sequence[float] | Array, prompts: Labels, groups: Labels) -> Spread:
    """How the means of the prompts differ; `groups`: a question with all its prompts, or a passage with its questions.

    Crossed analysis of variance: σ² between prompts = s² − (residual of question × prompt)/questions, not below 0.
    Raises ValueError: fewer than two prompts, or labels of another length.

    >>> spread = prompt_spread([1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 0, 1, 2, 3])
    >>> spread.means, round(spread.error, 4), round(spread.sd, 4)
    ((0.75, 0.25), 0.25, 0.2887)
    """
    x = as_values(values)
    prompt, k = cluster_ids(prompts, len(x))
    group, g = cluster_ids(groups, len(x))
    if k < 2:
        raise ValueError("prompt_spread: one prompt; at least two are needed")
    sizes = np.bincount(prompt, minlength=k)
    means = np.bincount(prompt, x, k) / sizes
    # What each cluster adds to the mean of each prompt; what is left of it beyond the cluster's own level is chance.
    parts = np.bincount(group * k + prompt, (x - means[prompt]) / sizes[prompt], g * k).reshape(g, k)
    residual = parts - parts.mean(axis=1, keepdims=True)
    chance = g / (g - 1) * float((residual**2).sum()) / (k - 1) if g > 1 else 0.0
    between = float(means.var(ddof=1))
    return Spread(
        means=tuple(float(mean) for mean in means),
        sd=math.sqrt(max(0.0, between - chance)),
        error=math.sqrt(between / k),
    )


def mean_over_prompts(
    values: Sequence[float] | Array, prompts: Labels, groups: Labels, *, binary: bool = False, level: float = 0.95
) -> Interval:
    """Mean over questions and prompts, both taken as samples. Arguments as in `prompt_spread` and `mean_interval`."""
    inner = mean_interval(values, groups, binary=binary, level=level)
    spread = prompt_spread(values, prompts, groups)
    return _widen(inner, spread, level, bounds=(0.0, 1.0) if binary else None)


def judge_over_prompts(
    before: Sequence[float] | Array,
    after: Sequence[float] | Array,
    *,
    prompts: Labels,
    groups: Labels,
    margin: float,
    binary: bool,
    rng: np.random.Generator,
    direction: Direction = "higher",
    alpha: float = 0.05,
) -> PromptJudgement:
    """Judge the mean over questions and prompts, from the values of the same items before and after.

    An item is a question in a prompt. `prompts`: which prompt; `groups`: which question, or which passage where several
    questions share one. The rest as in `forgetting.judge`. Raises ValueError: what that raises, fewer than two prompts.
    """
    inner = forgetting.judge(
        before, after, margin=margin, binary=binary, rng=rng, groups=groups, direction=direction, alpha=alpha
    )
    difference = as_values(after) - as_values(before)
    spread = prompt_spread(difference, prompts, groups)
    level = 1 - 2 * alpha
    interval = _widen(inner.interval, spread, level, bounds=(-1.0, 1.0) if binary else None)
    value, low, high = _losses_negative(interval, direction)
    verdict = forgetting.verdict_of(low, high, margin)
    inner_value, inner_low, inner_high = _losses_negative(inner.interval, direction)
    known = inner.interval.is_known
    error = (inner_value - inner_low) / normal_quantile(level) if known else math.inf
    judgement = replace(
        inner,
        verdict=verdict,
        interval=interval,
        p_loss=_loss_p(inner, value, inner_high - inner_value, spread, level),
        items_needed=_needed(interval, value, low, high, spread, margin, alpha) if verdict == "inconclusive" else None,
        small_loss=verdict == "kept" and high < 0,
        gained=None,
        lost=None,
        how=f"{inner.how}, with a t over {spread.prompts} prompts" if known else inner.how,
    )
    total = spread.error**2 + error**2
    share = spread.error**2 / total if known and total > 0 else None
    return PromptJudgement(judgement=judgement, spread=spread, share=share)


def _widen(inner: Interval, spread: Spread, level: float, *, bounds: tuple[float, float] | None) -> Interval:
    """The interval over questions, with the prompts' part added in squares at each end."""
    if inner.low is None or inner.high is None:
        return inner
    more = _t(level, spread) * spread.error
    low = inner.value - math.hypot(inner.value - inner.low, more)
    high = inner.value + math.hypot(inner.high - inner.value, more)
    if bounds is not None:
        low, high = max(bounds[0], low), min(bounds[1], high)
    return replace(inner, low=low, high=high, method="prompts-t")


def _losses_negative(interval: Interval, direction: Direction) -> tuple[float, float, float]:
    """Value and ends with losses negative; unknown ends are infinitely far."""
    low = -math.inf if interval.low is None else interval.low
    high = math.inf if interval.high is None else interval.high
    return (interval.value, low, high) if direction == "higher" else (-interval.value, -high, -low)


def _loss_p(inner: Judgement, value: float, half: float, spread: Spread, level: float) -> float | None:
    """The larger of the questions' own p and the level at which the widened upper end reaches 0."""
    if inner.p_loss is None or value >= 0 or not math.isfinite(half):
        return inner.p_loss
    error = half / normal_quantile(level)

    def end(p: float) -> float:
        return value + math.hypot(_z(p) * error, float(special.stdtrit(spread.prompts - 1, 1 - p)) * spread.error)

    return max(inner.p_loss, _root(end, 1e-12, 0.5))


def _needed(
    interval: Interval, value: float, low: float, high: float, spread: Spread, margin: float, alpha: float
) -> int | None:
    """Items at which these prompts would decide: more questions narrow everything but the spread between prompts."""
    if not interval.is_known:
        return None
    level = 1 - 2 * alpha
    stays = (_t(level, spread) * spread.sd) ** 2 / spread.prompts
    shrinks = max(0.0, (value - low) ** 2 - stays) / normal_quantile(level) ** 2
    for difference in [0.0, value] if low <= 0 <= high else [value]:
        left = (margin + difference) ** 2 - stays
        if left <= 0 or shrinks <= 0:
            continue
        found = paired.mean_items_needed(
            variance=interval.n * shrinks, margin=math.sqrt(left), alpha=alpha, power=_POWER
        )
        if found is not None and found > interval.n:
            return found
    return None


def _t(level: float, spread: Spread) -> float:
    return float(special.stdtrit(spread.prompts - 1, (1 + level) / 2))


def _z(p: float) -> float:
    return float(special.ndtri(1 - p))


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function reaches 0, by halving; `low` where it is negative everywhere."""
    if falling(low) < 0:
        return low
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) >= 0 else (low, middle)
    return high
