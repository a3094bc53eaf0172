"""Plain paired differences between two reports, task by task, with intervals. Knows item scores; gives no verdict."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench import statistics
from workbench.records import Direction, ItemScore, TaskResult

Pair = tuple[ItemScore, ItemScore]
"""The same item: baseline's score, candidate's score."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Candidate less baseline on the headline metric of one task, over the items that both have."""

    task: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    """Items that both have."""
    missing: int
    """Items of the candidate that the baseline lacks."""
    method: str
    direction: Direction


def paired_changes(
    results: Sequence[TaskResult], candidate: Sequence[ItemScore], baseline: Sequence[ItemScore], *, seed: int = 0
) -> list[Change]:
    """One Change for each task of which the baseline has at least one item; `results` are the candidate's."""
    before = {(item.task, item.item): item for item in baseline}
    by_task: dict[str, list[ItemScore]] = {}
    for item in candidate:
        by_task.setdefault(item.task, []).append(item)
    changes: list[Change] = []
    for result in results:
        own = [item for task in result.subtasks or (result.task,) for item in by_task.get(task, ())]
        pairs = [(before[item.task, item.item], item) for item in own if (item.task, item.item) in before]
        interval = _difference(result, own, pairs, seed) if pairs else None
        if interval is not None:
            changes.append(
                Change(
                    task=result.task,
                    metric=result.metric,
                    value=interval.value,
                    low=interval.low,
                    high=interval.high,
                    n=len(pairs),
                    missing=len(own) - len(pairs),
                    method=interval.method,
                    direction=result.headline.direction,
                )
            )
    return changes


def _difference(
    result: TaskResult, own: Sequence[ItemScore], pairs: Sequence[Pair], seed: int
) -> statistics.Interval | None:
    pooled = _POOLED.get(result.metric)
    groups = [after.group for _, after in pairs]
    if pooled is not None:
        digest = hashlib.sha256(f"{seed}\0{result.task}\0change".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))

        def statistic(sample: list[Pair]) -> float:
            return pooled([after for _, after in sample]) - pooled([before for before, _ in sample])

        return statistics.bootstrap_interval(pairs, statistic, rng=rng, groups=groups)
    if not _is_mean_of(own, result):
        return None
    both = [(b.metrics[result.metric], a.metrics[result.metric], a) for b, a in pairs if result.metric in a.metrics]
    differences = [after - before for before, after, _ in both]
    if not differences:
        return None
    own_groups, strata = [a.group for *_, a in both], [a.task for *_, a in both]
    if result.subtasks:
        return statistics.stratified_mean(differences, strata, own_groups)
    return statistics.cluster_t_interval(differences, own_groups)


def _is_mean_of(items: Sequence[ItemScore], result: TaskResult) -> bool:
    """F1 and BLEU are no means of their items; a difference of item means would be that of another metric."""
    values = [item.metrics[result.metric] for item in items if result.metric in item.metrics]
    return bool(values) and math.isclose(sum(values) / len(values), result.headline.value, abs_tol=1e-9)


def _mean_logprob(items: Sequence[ItemScore]) -> float:
    return sum(item.logprobs[0] for item in items) / len(items)


def _per(unit: str) -> Callable[[Sequence[ItemScore]], float]:
    """Negative log-likelihood (nats) per unit of text, pooled over documents."""

    def rate(items: Sequence[ItemScore]) -> float:
        extras: list[Mapping[str, Any]] = [item.extra for item in items]
        return -sum(e["loglikelihood"] for e in extras) / sum(e[unit] for e in extras)

    return rate


_POOLED: Mapping[str, Callable[[Sequence[ItemScore]], float]] = {
    "bits_per_byte": lambda items: _per("bytes")(items) / math.log(2),
    "byte_perplexity": lambda items: math.exp(_per("bytes")(items)),
    "word_perplexity": lambda items: math.exp(_per("words")(items)),
    "perplexity": lambda items: math.exp(-_mean_logprob(items)),
}
"""Metrics that pool their items, computed from what items keep."""
