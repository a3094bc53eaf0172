"""Which items two reports answer differently, with both answers side by side. Knows item scores; gives no verdict."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.side import Side
from workbench.records import Flip, ItemScore, TaskComparison


def list_flips(tasks: Sequence[TaskComparison], baseline: Side, candidate: Side) -> list[Flip]:
    """Items whose headline value changed, lost ones first, the largest change of log-probability first.

    Tasks without a verdict about right or wrong items (perplexity, F1 over a corpus) have none.
    """
    flips: list[Flip] = []
    for task in tasks:
        found = candidate.find(task.task)
        if found is None or task.gained is None:
            continue
        after = candidate.rows_of(found[1])
        before = baseline.index.get_indexer(candidate.index[after])
        after, before = after[before >= 0], before[before >= 0]
        values = [side.columns.metrics[task.metric][rows] for side, rows in ((baseline, before), (candidate, after))]
        moved = (values[0] != values[1]) & ~(np.isnan(values[0]) & np.isnan(values[1]))
        pairs = zip(baseline.take(before[moved]), candidate.take(after[moved]), strict=True)
        changed = [(_shift(old, new), _flip(task, old, new)) for old, new in pairs]
        changed.sort(key=lambda entry: (entry[1].kind != "lost", -entry[0], entry[1].item))
        flips += [flip for _, flip in changed]
    return flips


def _flip(task: TaskComparison, old: ItemScore, new: ItemScore) -> Flip:
    values = old.metrics.get(task.metric), new.metrics.get(task.metric)
    worse = (values[1] or 0.0) < (values[0] or 0.0)
    return Flip(
        task=new.task,
        item=new.item,
        kind="lost" if worse == (task.direction == "higher") else "gained",
        prompt=new.prompt,
        target=new.target,
        baseline_answer=old.answer,
        candidate_answer=new.answer,
        metric=task.metric,
        choices=_choices(new.extra),
        baseline_logprobs=old.logprobs,
        candidate_logprobs=new.logprobs,
        baseline_value=values[0],
        candidate_value=values[1],
    )


def _choices(extra: Mapping[str, object]) -> tuple[str, ...]:
    choices = extra.get("choices")
    return tuple(str(choice) for choice in choices) if isinstance(choices, list) else ()


def _shift(old: ItemScore, new: ItemScore) -> float:
    """Largest change (nats) of a choice's log-probability; 0 where answers were written."""
    return max((abs(a - b) for a, b in zip(old.logprobs, new.logprobs, strict=False)), default=0.0)
