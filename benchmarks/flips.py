"""Which items two reports answer differently, with both answers side by side. Knows item scores; gives no verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.robustness import by_question, told_over_prompts
from benchmarks.side import Side
from benchmarks.variants import PROMPTS
from workbench.records import Flip, ItemScore, TaskComparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """The rows of one task whose headline value changed, as numbers into both item files; nothing of them is read."""

    task: TaskComparison
    before: np.ndarray
    after: np.ndarray
    lost: np.ndarray
    """bool: right before and wrong now."""


def find_moved(task: TaskComparison, baseline: Side, candidate: Side) -> Moved | None:
    """Which rows of a task changed, in the order of the file; None where its items are not right or wrong."""
    found = candidate.find(task.task)
    if found is None or task.gained is None:
        return None
    after = candidate.rows_of(found[1])
    before = baseline.index.get_indexer(candidate.index[after])
    after, before = after[before >= 0], before[before >= 0]
    values = [side.columns.metrics[task.metric][rows] for side, rows in ((baseline, before), (candidate, after))]
    moved = (values[0] != values[1]) & ~(np.isnan(values[0]) & np.isnan(values[1]))
    worse = np.nan_to_num(values[1][moved]) < np.nan_to_num(values[0][moved])
    return Moved(
        task=task,
        before=before[moved],
        after=after[moved],
        lost=worse if task.direction == "higher" else ~worse,
    )


def read_moved(moved: Moved, chosen: np.ndarray, baseline: Side, candidate: Side) -> list[Flip]:
    """Some of the rows that moved (places in `moved`), read whole, in the order given."""
    pairs = zip(baseline.take(moved.before[chosen]), candidate.take(moved.after[chosen]), strict=True)
    return [_flip(moved.task, old, new) for old, new in pairs]


def list_flips(tasks: Sequence[TaskComparison], baseline: Side, candidate: Side) -> list[Flip]:
    """Items whose headline value changed, lost ones first, the largest change of log-probability first.

    Tasks without a verdict about right or wrong items (perplexity, F1 over a corpus) have none.
    """
    flips: list[Flip] = []
    for task in tasks:
        moved = find_moved(task, baseline, candidate)
        if moved is None:
            continue
        pairs = zip(baseline.take(moved.before), candidate.take(moved.after), strict=True)
        told = _told_over_prompts(task, baseline, candidate)
        changed = [(_shift(old, new), _with_note(_flip(task, old, new), told.get(new.item))) for old, new in pairs]
        changed.sort(key=lambda entry: (entry[1].kind != "lost", -entry[0], entry[1].item))
        flips += [flip for _, flip in changed]
    return flips


def _told_over_prompts(task: TaskComparison, baseline: Side, candidate: Side) -> dict[str, str | None]:
    """Item of the task itself -> what became of its question over all prompts; empty where both were asked in one."""
    name = task.task + PROMPTS
    results = [side.results.get(name) for side in (baseline, candidate)]
    if any(result is None for result in results):
        return {}
    before, after = (
        by_question(side.rows(result.subtasks), task.metric)
        for side, result in zip((baseline, candidate), results, strict=True)
        if result is not None
    )
    return {
        asked[0].item: told_over_prompts(_values(before[question], task.metric), _values(asked, task.metric))
        for question, asked in after.items()
        if question in before and 0 in asked
    }


def _values(asked: Mapping[int, ItemScore], metric: str) -> dict[int, float]:
    return {number: item.metrics[metric] for number, item in asked.items()}


def _with_note(flip: Flip, note: str | None) -> Flip:
    return flip if note is None else replace(flip, notes=(*flip.notes, note))


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
