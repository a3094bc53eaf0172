"""From a few short runs with other shares of replay to the share to take. Knows changes of items; no model, no disk.

Each arm's change of a task is a mean over the same items, so the arms are resampled together, by item (or cluster).
Over the share of replay a retained task's change rises and the domain's gain falls; among four shapes the one that fits
best is taken, anew in each resample, so that the choice of a shape is part of the uncertainty. What the curve misses of
the arms is taken for what another run would differ by, and is added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
SHAPES = {
    "straight": lambda s: s,
    "root": np.sqrt,
    "early": lambda s: np.log1p(s / 0.02),
    "saturated": lambda s: 1 - np.exp(-s / 0.05),
}
"""Of the share s; the curve bends early, so three of four do."""
MIN_ARMS = 4
_GRID = 0.005


@dataclass(frozen=True, kw_only=True)
class ArmTask:
    """One task in all arms."""

    task: str
    is_domain: bool
    margin: float
    changes: Array
    """[items, arms]: candidate less start, losses negative, in the task's own unit."""
    groups: tuple[str, ...] = ()
    """Cluster of each item; empty: each its own."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A task over the share of replay."""

    task: str
    is_domain: bool
    margin: float
    shape: str
    shares: Array
    """Grid."""
    value: Array
    low: Array
    """Of a two-sided 90% interval for another run: a one-sided 95% bound."""
    high: Array
    arms: Array
    """Mean changes as measured."""

    def at(self, share: float) -> tuple[float, float, float]:
        """Value, low and high at the nearest share of the grid."""
        i = int(np.abs(self.shares - share).argmin())
        return float(self.value[i]), float(self.low[i]), float(self.high[i])


@dataclass(frozen=True, kw_only=True)
class MixPlan:
    """The share to take, or why there is none."""

    curves: tuple[Curve, ...]
    share: float | None
    """The share with the largest domain gain at which no retained task's bound lies beyond its budget."""
    safest: float
    """The share with the best worst bound, where none keeps all budgets."""
    why: str


def fit_mix(
    shares: Sequence[float], tasks: Sequence[ArmTask], *, seed: int, resamples: int = 1000, level: float = 0.9
) -> MixPlan:
    """Fit a curve for each task and choose.

    `shares`: of replay, one for each arm, at least four different ones; the choice lies between the smallest and the
    largest of them. Raises ValueError: too few arms, or no task of the domain or none that is retained.
    """
    at = np.asarray(shares, dtype=float)
    if len(set(shares)) < MIN_ARMS:
        raise ValueError(f"{len(set(shares))} different shares are too few for a curve; at least {MIN_ARMS}")
    if not any(task.is_domain for task in tasks) or all(task.is_domain for task in tasks):
        raise ValueError("tasks of the domain and retained tasks are needed")
    grid = np.round(np.arange(at.min(), at.max() + _GRID / 2, _GRID, dtype=np.float64), 6)
    curves = tuple(_curve(at, task, grid, seed, resamples, level) for task in tasks)
    return _choose(curves, grid)


def _choose(curves: tuple[Curve, ...], grid: Array) -> MixPlan:
    kept = [curve for curve in curves if not curve.is_domain]
    room = np.min([curve.low / curve.margin + 1 for curve in kept], axis=0)  # in margins; below 0: beyond a budget
    gain = np.mean([curve.value / curve.margin for curve in curves if curve.is_domain], axis=0)
    safest = float(grid[int(room.argmax())])
    if room.max() < 0:
        worst = min(kept, key=lambda curve: curve.at(safest)[1] / curve.margin)
        loss = f"a loss of {-worst.at(safest)[1]:.3g} of {worst.task} is not excluded (budget {worst.margin:g})"
        cure = "lower the rate or the tokens, or ask more items"
        why = f"no share up to {grid.max():.0%} keeps every budget: at {safest:.0%} {loss}; {cure}"
        return MixPlan(curves=curves, share=None, safest=safest, why=why)
    allowed = np.flatnonzero(room >= 0)
    best = allowed[int(gain[allowed].argmax())]
    span = f"{grid[0]:.0%} to {grid[-1]:.0%}"
    why = f"of {span} the largest gain in the domain at which no budget is overrun with 95% confidence"
    return MixPlan(curves=curves, share=float(grid[best]), safest=safest, why=why)


def _curve(at: Array, task: ArmTask, grid: Array, seed: int, resamples: int, level: float) -> Curve:
    rng = np.random.default_rng([seed, *task.task.encode()])
    sign = -1.0 if task.is_domain else 1.0  # the domain's gain falls with more replay, what is retained rises
    means = task.changes.mean(axis=0)
    point, shape, residual = _fit(at, means[None], grid, sign)
    sampled = _resampled_means(task, rng, resamples)
    # the residual of three free numbers, drawn once for the arms that are fitted and once for the run to come; so few
    # arms know their own scatter badly, hence Student's t
    free = max(1, len(at) - 3)
    scatter = float(np.sqrt((residual[0] ** 2).sum() / free))
    drawn, _, _ = _fit(at, sampled + scatter * rng.normal(size=sampled.shape), grid, sign)
    drawn = drawn + scatter * rng.standard_t(free, (resamples, 1))
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    return Curve(
        task=task.task, is_domain=task.is_domain, margin=task.margin, shape=shape[0], shares=grid, value=point[0],
        low=np.minimum(low, point[0]), high=np.maximum(high, point[0]), arms=means,
    )  # fmt: skip


def _resampled_means(task: ArmTask, rng: np.random.Generator, resamples: int) -> Array:
    """[resamples, arms]: the same clusters drawn for every arm."""
    labels = np.unique(np.asarray(task.groups), return_inverse=True)[1] if task.groups else np.arange(len(task.changes))
    count = int(labels.max()) + 1
    sums = np.stack([np.bincount(labels, column, count) for column in task.changes.T], axis=1)
    sizes = np.bincount(labels, minlength=count).astype(float)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    return (weights @ sums) / (weights @ sizes)[:, None]


def _fit(at: Array, means_RA: Array, grid: Array, sign: float) -> tuple[Array, list[str], Array]:
    """Least squares of a + b·shape(share), b not against `sign`, R rows at once: values on grid, shapes, residuals."""
    best = np.full(len(means_RA), np.inf)
    values = np.empty((len(means_RA), len(grid)))
    names = np.empty(len(means_RA), dtype=object)
    residuals = np.empty_like(means_RA)
    for name, shape in SHAPES.items():
        x, on_grid = shape(at), shape(grid)
        centred = x - x.mean()
        slope = (means_RA - means_RA.mean(axis=1, keepdims=True)) @ centred / (centred @ centred)
        slope = np.where(slope * sign > 0, slope, 0.0)[:, None]
        start = means_RA.mean(axis=1, keepdims=True) - slope * x.mean()
        left = means_RA - (start + slope * x)
        error = (left**2).sum(axis=1)
        better = error < best - 1e-15
        best = np.where(better, error, best)
        values[better] = (start + slope * on_grid)[better]
        residuals[better] = left[better]
        names[better] = name
    return values, names.tolist(), residuals


def scaled_shares(shares: Mapping[str, float], replay: Sequence[str], share: float) -> dict[str, float]:
    """Shares with the replay's sources together at `share`, each side in its own proportions.

    >>> scaled_shares({"new": 0.9, "chat": 0.05, "text": 0.05}, ["chat", "text"], 0.3)
    {'new': 0.7, 'chat': 0.15, 'text': 0.15}
    """
    old = {True: 0.0, False: 0.0}
    for name, value in shares.items():
        old[name in replay] += value
    counts = {side: sum((name in replay) is side for name in shares) for side in old}
    wanted = {True: share, False: 1 - share}
    return {
        name: round(
            wanted[name in replay]
            * (value / old[name in replay] if old[name in replay] else 1 / counts[name in replay]),
            6,
        )
        for name, value in shares.items()
    }
