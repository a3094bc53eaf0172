"""Is a gain real? A task's change split by what the training data gave away, and by what can be guessed.

An item *overlaps* where a run of its question's words stands in a training row (see `contamination`: 13 words, or the
whole of a shorter question), as text; paraphrases are not found. An item is *guessable* where the baseline is right
from its options alone (`--choices-only`). Each part has the interval of the usual test, and no verdict: what is
decided stays the task as a whole. Knows reports, items and texts; knows no run and no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.compare import difference_of
from benchmarks.contamination import TestItem, find_in_rows
from benchmarks.nearest import TrainingRow
from benchmarks.questions_asked import asked_text
from benchmarks.side import Side
from benchmarks.variants import CHOICES_ONLY
from workbench import forgetting
from workbench.records import Comparison, Estimate, ItemScore, TaskComparison

PartName = Literal["overlapping", "clean", "guessable", "not guessable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanPart:
    """One part of a task's items."""

    part: PartName
    items: int
    baseline: float | None
    """Mean value; None where there are no items."""
    candidate: float | None
    difference: Estimate | None
    """As in TaskComparison: a loss is negative, the interval at level 1 - 2 alpha."""

    @property
    def gains(self) -> bool:
        """Whether a gain is certain at alpha."""
        return _is_gain(self.difference)


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanGain:
    """A task's change in parts."""

    task: str
    metric: str
    parts: tuple[CleanPart, ...]
    gains: bool
    """Whether a gain over all items is certain."""
    unchecked: int
    """Items too short to be told from chance; they count as clean."""
    with_answer: int
    """Overlapping items whose right answer follows in the training row."""

    def part(self, name: PartName) -> CleanPart | None:
        """The part of that name, where it has items."""
        return next((part for part in self.parts if part.part == name and part.items), None)

    @property
    def told(self) -> str:
        """What it means, in a sentence."""
        clean, overlapping = self.part("clean"), self.part("overlapping")
        if overlapping is None:
            return f"{self.task}: no question stands in the training rows, so the change is clean"
        count = f"{overlapping.items:,} of {sum(p.items for p in (clean, overlapping) if p):,} questions"
        stands = f"{self.task}: {count} stand in the training rows ({self.with_answer:,} with the answer)"
        if clean is None:
            return f"{stands}: there is no clean item left, so no gain can be shown"
        if clean.gains:
            return f"{stands}; the gain holds on the clean ones"
        if overlapping.gains or self.gains:
            return f"{stands}; THE GAIN LIVES IN THEM ALONE: on the clean ones none can be shown"
        return f"{stands}; no gain can be shown on the clean ones"


def split_gain(
    comparison: Comparison,
    baseline: Side,
    candidate: Side,
    rows: Sequence[TrainingRow],
    *,
    tasks: Sequence[str] = (),
    seed: int = 0,
) -> list[CleanGain]:
    """Split each domain task (or the named ones) whose items have values of their own."""
    found: list[CleanGain] = []
    chosen = [t for t in comparison.tasks if (t.task in tasks if tasks else t.role == "domain")]
    for task in chosen:
        if task.difference is None or (items := _paired(task, baseline, candidate)) is None:
            continue
        found.append(_split(task, *items, rows, _guessable(task, baseline), comparison.alpha, seed))
    return found


def _split(
    task: TaskComparison,
    before: list[ItemScore],
    after: list[ItemScore],
    rows: Sequence[TrainingRow],
    guessable: set[int] | None,
    alpha: float,
    seed: int,
) -> CleanGain:
    asked = [asked_text(item) for item in after]
    tests = [TestItem(id=str(i), question=one.question, answer=one.answer) for i, one in enumerate(asked)]
    contamination = find_in_rows(tests, ((row.source, row.row, row.text) for row in rows))
    overlaps = np.zeros(len(after), bool)
    overlaps[[int(hit.item) for hit in contamination.hits]] = True
    masks: dict[PartName, np.ndarray] = {"overlapping": overlaps, "clean": ~overlaps}
    if guessable is not None:
        guessed = np.array([item.doc_id in guessable for item in after])
        masks |= {"guessable": guessed, "not guessable": ~guessed}
    parts = [_part(task, name, mask, before, after, alpha, seed) for name, mask in masks.items()]
    return CleanGain(
        task=task.task,
        metric=task.metric,
        parts=tuple(parts),
        gains=_is_gain(task.difference),
        unchecked=len(contamination.unchecked),
        with_answer=sum(hit.with_answer for hit in contamination.hits),
    )


def _part(
    task: TaskComparison,
    name: PartName,
    mask: np.ndarray,
    before: Sequence[ItemScore],
    after: Sequence[ItemScore],
    alpha: float,
    seed: int,
) -> CleanPart:
    places = np.flatnonzero(mask)
    if not len(places):
        return CleanPart(part=name, items=0, baseline=None, candidate=None, difference=None)
    old, new = (np.array([side[i].metrics[task.metric] for i in places]) for side in (before, after))
    values = np.concatenate([old, new])
    binary = bool(values.min() >= 0 and values.max() <= 1 and np.isin(values, (0.0, 1.0)).mean() >= 0.8)
    judged = forgetting.judge(
        old,
        new,
        margin=task.margin,
        binary=binary,
        groups=[after[i].group for i in places],
        direction=task.direction,
        alpha=alpha,
        rng=np.random.default_rng(seed),
    )
    return CleanPart(
        part=name,
        items=len(places),
        baseline=float(old.mean()),
        candidate=float(new.mean()),
        difference=difference_of(judged.interval, task, alpha),
    )


def _is_gain(difference: Estimate | None) -> bool:
    return difference is not None and difference.low is not None and difference.low > 0


def _paired(task: TaskComparison, baseline: Side, candidate: Side) -> tuple[list[ItemScore], list[ItemScore]] | None:
    """Items of the task that both have with the metric; None where it pools its items or is asked in many prompts."""
    found = candidate.find(task.task)
    if found is None or found[0].prompts is not None:
        return None
    old = {(item.task, item.item): item for item in baseline.rows(found[1])}
    both = [(old[key], item) for item in candidate.rows(found[1]) if (key := (item.task, item.item)) in old]
    both = [pair for pair in both if all(task.metric in item.metrics for item in pair)]
    return ([one for one, _ in both], [other for _, other in both]) if both else None


def _guessable(task: TaskComparison, baseline: Side) -> set[int] | None:
    """Documents that the baseline answers right from the options alone; None where it was not asked so."""
    probe = baseline.results.get(task.task + CHOICES_ONLY)
    if probe is None or probe.subtasks:
        return None
    items = baseline.rows([probe.task])
    return {item.doc_id for item in items if item.metrics.get(task.metric, 0.0) >= 1.0}
