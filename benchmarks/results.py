"""Items of a task -> its estimates with intervals, and the notes a reader needs. Knows no model and no lm-eval task."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.catalog import TaskCard
from benchmarks.items import LeafItems, Metric
from benchmarks.robustness import guess_note, prompt_notes
from benchmarks.variants import split_variant
from workbench import statistics
from workbench.errors import TaskError
from workbench.prompts import mean_over_prompts
from workbench.records import Estimate, TaskResult

MACRO = "_macro"
"""Suffix of the unweighted mean over a group's subtasks."""
_CREDITS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")
_SLOW = ("bleu", "chrf", "chrf++", "ter")
"""Corpus metrics that take a second each: fewer resamples, as in lm-eval."""


def build_result(
    card: TaskCard,
    leaves: Mapping[str, LeafItems],
    *,
    num_fewshot: int,
    version: str,
    window: int,
    is_group: bool,
    seed: int,
    prompts: int | None = None,
    is_probe: bool = False,
) -> TaskResult:
    """The result of one task, or of a group pooled over its leaves: strata, or the same questions in other `prompts`.

    `window` is the model's, in tokens; `is_probe`: the questions were left out.
    """
    estimates: list[Estimate] = []
    names = dict.fromkeys(name for leaf in leaves.values() for name in leaf.metrics)
    for name in names:
        columns = {leaf: items for leaf, items in leaves.items() if name in items.metrics}
        rng = _generator(seed, card.name, name)
        estimates += _estimate(name, columns, is_group=is_group, over_prompts=prompts is not None, rng=rng)
    if not estimates:
        raise TaskError(f"task {card.name}: it yields no metric; leave it out, or give it a metric_list")
    headline, note = _headline(card.metric, [e.metric for e in estimates])
    notes = ([note] if note else []) + _notes(leaves.values(), window)
    notes += prompt_notes(leaves, headline) if prompts else []
    chance = _chance(card, headline, list(leaves.values()))
    if is_probe:
        notes.append(guess_note(card.name, next(e for e in estimates if e.metric == headline), chance))
    return TaskResult(
        task=card.name,
        role=card.role,
        margin=card.margin,
        required=card.required,
        metric=headline,
        estimates=tuple(estimates),
        n=sum(len(leaf.scores) for leaf in leaves.values()),
        num_fewshot=num_fewshot,
        chance=chance,
        version=version,
        notes=tuple(notes),
        subtasks=tuple(leaves) if is_group else (),
        prompts=prompts,
        is_probe=is_probe,
    )


def _estimate(
    name: str, leaves: Mapping[str, LeafItems], *, is_group: bool, over_prompts: bool, rng: np.random.Generator
) -> list[Estimate]:
    """The estimate of one metric; for a group also the mean over its subtasks."""
    first = next(iter(leaves.values())).metrics[name]
    raw: list[Any] = []
    groups: list[str] = []
    strata: list[str] = []
    for leaf, items in leaves.items():
        column = items.metrics[name].raw
        raw += column.values()
        groups += [items.scores[i].group for i in column]
        strata += [leaf] * len(column)
    if not raw:
        return []
    if not first.is_mean:
        return [_to_estimate(name, _bootstrap(name, first, raw, groups, rng), first)]
    # Right-or-wrong values, or credits of which ties have shared some.
    shares = name in _CREDITS and all(items.chance is not None for items in leaves.values())
    binary = shares or set(raw) <= {0.0, 1.0}
    if over_prompts:
        numbers = [split_variant(leaf)[1] for leaf in strata]
        return [_to_estimate(name, mean_over_prompts(raw, numbers, groups, binary=binary), first)]
    if not is_group:
        return [_to_estimate(name, statistics.mean_interval(raw, groups, binary=binary), first)]
    pooled = statistics.stratified_mean(raw, strata, groups)
    if not pooled.is_known:
        pooled = statistics.mean_interval(raw, groups, binary=binary)
    macro = statistics.stratified_mean(raw, strata, groups, macro=True)
    return [
        _to_estimate(name, pooled, first, within_unit=binary),
        _to_estimate(name + MACRO, macro, first, within_unit=binary),
    ]


def _bootstrap(
    name: str, metric: Metric, raw: Sequence[Any], groups: Sequence[str], rng: np.random.Generator
) -> statistics.Interval:
    slow = name.split(",")[0] in _SLOW
    return statistics.bootstrap_interval(
        raw, metric.aggregate, rng=rng, groups=groups, resamples=100 if slow else 1000, bca=not slow
    )


def _to_estimate(name: str, interval: statistics.Interval, metric: Metric, *, within_unit: bool = False) -> Estimate:
    low, high = interval.low, interval.high
    if within_unit and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(
        metric=name,
        value=interval.value,
        low=low,
        high=high,
        n=interval.n,
        clusters=interval.clusters if interval.clusters != interval.n else None,
        method=interval.method,
        direction=metric.direction,
    )


def _headline(wanted: str, names: Sequence[str]) -> tuple[str, str | None]:
    """The headline among the metrics that came out, and a note where it is not the one that was asked for."""
    if wanted in names:
        return wanted, None
    near = [name for name in names if name.split(",")[0] == wanted.split(",")[0]]
    if near:
        return near[0], None
    return names[0], f"headline {wanted} is not among the task's metrics; {names[0]} is shown"


def _chance(card: TaskCard, headline: str, leaves: Sequence[LeafItems]) -> float | None:
    if card.chance is not None:
        # The card speaks of its own headline metric, which a suite may have replaced by one without a chance level.
        same = headline == card.metric or headline in _CREDITS
        return card.chance if same else None
    if headline not in _CREDITS or any(leaf.chance is None for leaf in leaves):
        return None
    total = sum(len(leaf.scores) for leaf in leaves)
    return sum((leaf.chance or 0.0) * len(leaf.scores) for leaf in leaves) / total


def _notes(leaves: Any, window: int) -> list[str]:
    leaves = list(leaves)
    scores = [score for leaf in leaves for score in leaf.scores]
    notes: list[str] = []
    if cut := [score.truncated for score in scores if score.truncated]:
        notes.append(
            f"{len(cut):,} of {len(scores):,} prompts did not fit the model's window of {window:,} tokens and were cut "
            f"from the left, by {max(cut):,} tokens at most"
        )
    if ties := sum(leaf.ties for leaf in leaves):
        notes.append(f"{ties:,} of {len(scores):,} items tie exactly; the credit is shared")
    if long := sum(score.extra.get("finish") == "length" for score in scores):
        notes.append(f"{long:,} of {len(scores):,} answers ran out of tokens")
    return notes


def _generator(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each task and metric, so that no result depends on its neighbours."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
