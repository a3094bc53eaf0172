"""Two reports -> a verdict per task, paired by item. Knows reports, items and tests; knows no store and no rule.

A comparison refuses before it tests: other shots, prompts, tokenizer or template, or items that only one side has, are
`incomparable`, and two guessing models `uninformative`. What remains is judged by `workbench.forgetting`.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.pooled import keeps_parts, pooled_statistic
from benchmarks.robustness import count_fragile
from benchmarks.side import Part, Side, in_part
from benchmarks.variants import split_variant
from workbench import forgetting, paired, prompts, statistics
from workbench.errors import RunError, TaskError, did_you_mean
from workbench.records import Comparison, Estimate, ItemScore, Report, Role, TaskComparison, TaskResult

MIN_PAIRED = 0.995
"""Share of the larger side's items that both must have."""
Z95 = 1.6448536269514722
"""One-sided 95% of the normal distribution."""
WHOLE_CREDITS = 0.8
"""Share of an item column's values that are 0 or 1 from which on it is taken for right or wrong."""
_SAME_SETTINGS = ("apply_chat_template", "system_instruction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What to compare: a task or a subtask of a group; None: as the reports have it."""

    task: str
    metric: str | None = None
    margin: float | None = None
    role: Role | None = None
    required: bool | None = None


@dataclass(kw_only=True)
class _Pairs:
    """The items of one question that both sides have."""

    before: np.ndarray
    """Row numbers of the baseline."""
    after: np.ndarray
    larger: int
    """Items of the side that has more."""


@dataclass(kw_only=True)
class _Comparing:
    """What all questions of one comparison share."""

    baseline: Side
    candidate: Side
    noise: Side | None
    alpha: float
    part: Part
    seed: int
    at: np.ndarray = field(init=False)
    """For each row of the candidate its row in the baseline, or -1."""

    def __post_init__(self) -> None:
        self.at = self.baseline.index.get_indexer(self.candidate.index)


def compare_reports(
    baseline: Side,
    candidate: Side,
    questions: Sequence[Question] | None = None,
    *,
    noise: Side | None = None,
    alpha: float = 0.05,
    part: Part = "all",
    seed: int = 0,
) -> Comparison:
    """Compare a candidate with its baseline; without questions, on every task that either report has.

    The comparison has no id yet: whoever records it gives it one.

    Args:
        noise: a second report of the baseline's weights, computed with other tiling or arithmetic (A/A).
        alpha: chance that a task whose true loss is the margin comes out as kept.
        part: all items, or the half of them to select the best checkpoint on, or the half to certify it on.

    Raises:
        TaskError: the two have no task in common.
        RunError: an item's metric is not a number.
    """
    if questions is None:
        results = {**baseline.results, **candidate.results}
        names = dict.fromkeys([*candidate.results, *baseline.results])
        questions = [Question(task=name) for name in names if not results[name].is_probe]
        if not set(candidate.results) & set(baseline.results):
            raise TaskError(
                f"reports {baseline.report.id[:12]} and {candidate.report.id[:12]}: no task in common "
                f"({_names(baseline)} | {_names(candidate)}); evaluate both on the same suite"
            )
    work = _Comparing(baseline=baseline, candidate=candidate, noise=noise, alpha=alpha, part=part, seed=seed)
    tasks = _with_holm([_compare_task(work, question) for question in questions])
    return Comparison(
        id="",
        baseline=baseline.report.id,
        candidate=candidate.report.id,
        baseline_checkpoint=baseline.report.checkpoint,
        candidate_checkpoint=candidate.report.checkpoint,
        tasks=tuple(tasks),
        alpha=alpha,
        part=part,
        settings={"seed": seed, "noise": noise.report.id if noise else None},
    )


def questions_of(
    baseline: Report, candidate: Report, *, tasks: Sequence[str] = (), margin: float | None = None
) -> list[Question] | None:
    """The questions about some tasks or subtasks, or all at another margin; None: what the reports say themselves.

    Raises TaskError: neither report has a task of that name.
    """
    if not tasks and margin is None:
        return None
    results = {result.task: result for result in (*baseline.results, *candidate.results)}
    known = {name for result in results.values() for name in (result.task, *result.subtasks)}
    for name in tasks:
        if name not in known:
            raise TaskError(f"--tasks: {name!r}: in neither report; {did_you_mean(name, known)}")
    return [Question(task=name, margin=margin) for name in tasks or results]


def _compare_task(work: _Comparing, question: Question) -> TaskComparison:
    before, after = work.baseline.find(question.task), work.candidate.find(question.task)
    result, leaves = after or before or (None, ())
    if result is None:
        return _absent(question)
    empty = TaskComparison(
        task=question.task,
        role=question.role or result.role,
        required=result.required if question.required is None else question.required,
        metric=question.metric or result.metric,
        direction=_direction(result, question.metric or result.metric),
        margin=question.margin or result.margin,
        verdict="incomparable",
        reason="",
        chance=result.chance if (question.metric or result.metric) == result.metric else None,
    )
    if before is None or after is None:
        who = "the baseline" if before is None else "the candidate"
        return replace(empty, reason=f"{who} was not asked it")
    if reason := _difference_of_settings(work, before[0], after[0], empty.metric):
        return replace(empty, reason=reason)
    pairs = _pair(work, leaves)
    empty = replace(empty, n=len(pairs.after), missing=pairs.larger - len(pairs.after))
    if len(pairs.after) < MIN_PAIRED * pairs.larger or not len(pairs.after):
        return replace(empty, reason=_why_unpaired(work, leaves, pairs))
    whole = question.task == after[0].task
    if whole and before[0].prompts != after[0].prompts:
        return replace(empty, reason=f"asked in {before[0].prompts} and {after[0].prompts} prompts")
    over_prompts = whole and after[0].prompts is not None
    return _judge(work, empty, pairs, is_group=whole and bool(after[0].subtasks), over_prompts=over_prompts)


def _judge(
    work: _Comparing, task: TaskComparison, pairs: _Pairs, *, is_group: bool, over_prompts: bool
) -> TaskComparison:
    """The verdict on items that pair."""
    rng = _generator(work.seed, task.task, task.metric)
    direction, margin, alpha = task.direction, task.margin, work.alpha
    columns = work.candidate.columns
    groups, leaves = columns.group[pairs.after], columns.task[pairs.after]
    pooled = pooled_statistic(task.metric)
    sides = [_full_rows(side, rows) for side, rows in _sides(work, pairs)] if pooled is not None else []
    if pooled is not None and all(keeps_parts(side, task.metric) for side in sides):
        old, new = sides
        both = list(zip(old, new, strict=True))
        judged = forgetting.judge_statistic(
            both, pooled, margin=margin, groups=groups.tolist(), direction=direction, alpha=alpha, rng=rng
        )
        values = pooled(old), pooled(new)
        return _finish(work, task, judged, values)
    old_values, new_values = (_values(side, rows, task.metric) for side, rows in _sides(work, pairs))
    both_have = ~(np.isnan(old_values) | np.isnan(new_values))
    if not both_have.any():
        return replace(task, reason=f"no item of the two has the metric {task.metric}")
    if len(both_have) * MIN_PAIRED > both_have.sum():
        lacking = int((~both_have).sum())
        return replace(task, reason=f"{lacking:,} of {len(both_have):,} items lack {task.metric} on one side")
    old_values, new_values = old_values[both_have], new_values[both_have]
    groups, leaves = groups[both_have], leaves[both_have]
    binary = _is_binary(old_values, new_values)
    task = replace(task, n=len(old_values), clusters=len(set(groups.tolist())))
    guessing = _both_guess(task, (old_values, new_values), groups, binary=binary)
    options: dict[str, Any] = {"margin": margin, "binary": binary, "direction": direction, "alpha": alpha, "rng": rng}
    options["groups"] = groups.tolist()
    told: tuple[str, ...] = ()
    if over_prompts:
        numbers = [split_variant(leaf)[1] for leaf in leaves]
        found = prompts.judge_over_prompts(old_values, new_values, prompts=numbers, **options)
        judged, told = found.judgement, (found.told, _fragile_told(work, pairs, task.metric))
    else:
        strata = leaves.tolist() if is_group else None
        judged = forgetting.judge(old_values, new_values, strata=strata, **options)
    noise = _noise_floor(work, task, pairs.before[both_have])
    made = _finish(work, replace(task, noise=noise), judged, (float(old_values.mean()), float(new_values.mean())))
    made = replace(made, notes=(*made.notes, *told))
    if guessing:
        return replace(made, verdict="uninformative", reason=guessing, items_needed=None, small_loss=False)
    return made


def _fragile_told(work: _Comparing, pairs: _Pairs, metric: str) -> str:
    (before, _), (after, all_of) = (count_fragile(_full_rows(side, rows), metric) for side, rows in _sides(work, pairs))
    return f"fragile (right in some prompts, wrong in others): {before:,} of {all_of:,} questions before, {after:,} now"


def _finish(
    work: _Comparing, task: TaskComparison, judged: forgetting.Judgement, values: tuple[float, float]
) -> TaskComparison:
    difference = difference_of(judged.interval, task, work.alpha)
    made = replace(
        task,
        verdict=judged.verdict,
        reason=_reason(judged, task),
        difference=difference,
        baseline=values[0],
        candidate=values[1],
        gained=judged.gained,
        lost=judged.lost,
        items_needed=judged.items_needed,
        small_loss=judged.small_loss,
        p_loss=judged.p_loss,
        clusters=difference.clusters,
        notes=_notes(work, task),
    )
    if made.noise is not None and made.noise > task.margin and made.verdict in ("kept", "improved"):
        # What arithmetic alone can hide, no certificate covers.
        reason = f"the margin is below the noise floor of {made.noise:.4g}; choose a wider one, or more items"
        return replace(made, verdict="inconclusive", reason=reason, small_loss=False, items_needed=None)
    return made


def difference_of(interval: statistics.Interval, task: TaskComparison, alpha: float) -> Estimate:
    """What was judged as it is recorded: turned so that a loss is negative whatever the metric's direction."""
    if task.direction == "lower":
        ends = (None if end is None else -end for end in (interval.high, interval.low))
        interval = replace(interval, value=-interval.value, **dict(zip(("low", "high"), ends, strict=True)))
    return Estimate(
        metric=task.metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=interval.n,
        clusters=interval.clusters if interval.clusters != interval.n else None,
        method=interval.method,
        level=1 - 2 * alpha,
        direction=task.direction,
    )


def _reason(judged: forgetting.Judgement, task: TaskComparison) -> str:
    match judged.verdict:
        case "improved":
            return "a gain is certain, so nothing was lost"
        case "kept" if judged.small_loss:
            return "a loss beyond the margin is excluded, but a smaller one is certain"
        case "kept":
            return "a loss beyond the margin is excluded"
        case "forgot":
            return "the whole interval lies beyond the margin"
        case _ if not judged.interval.is_known:
            return judged.how
        case _ if judged.items_needed is None:
            return "the interval straddles the margin, and no number of items would certify what is seen"
        case _:
            return f"the interval straddles the margin; {judged.items_needed:,} items in all would decide"


def _difference_of_settings(work: _Comparing, before: TaskResult, after: TaskResult, metric: str) -> str | None:
    """Why the two were not asked in the same way, as far as the reports themselves tell."""
    old, new = work.baseline.report, work.candidate.report
    if before.num_fewshot != after.num_fewshot:
        return f"asked with {before.num_fewshot} and {after.num_fewshot} shots"
    if before.version != after.version:
        return f"version {before.version} and {after.version} of the task"
    for name in _SAME_SETTINGS:
        if (old.settings.get(name) or None) != (new.settings.get(name) or None):
            return f"other {name.replace('_', ' ')}"
    digests = old.checkpoint.tokenizer, new.checkpoint.tokenizer
    if all(digests) and digests[0] != digests[1]:
        return f"another tokenizer ({digests[0][:8]} and {digests[1][:8]})"
    for result in (before, after):
        if metric not in {estimate.metric for estimate in result.estimates}:
            return f"no metric {metric} in one of the two"
    return None


def _why_unpaired(work: _Comparing, leaves: Sequence[str], pairs: _Pairs) -> str:
    """Other questions, other prompts for the same questions, or simply fewer of them."""
    documents = [{str(item.extra.get("doc", item.item)) for item in side.rows(leaves)} for side in _both(work)]
    common = len(documents[0] & documents[1])
    if common >= MIN_PAIRED * min(len(d) for d in documents) and len(pairs.after) < MIN_PAIRED * common:
        return f"other prompts: {common:,} questions are the same, {len(pairs.after):,} were asked in the same words"
    old, new = (len(side.rows_of(leaves)) for side in _both(work))
    if not pairs.larger:
        return "no items"
    return f"{len(pairs.after):,} items in common, of {old:,} and {new:,}; evaluate both with the same --limit"


def _pair(work: _Comparing, leaves: Sequence[str]) -> _Pairs:
    after = work.candidate.rows_of(leaves)
    after = after[in_part(work.candidate.columns.group[after], work.part)]
    old = work.baseline.rows_of(leaves)
    before = work.at[after]
    has = before >= 0
    larger = max(len(after), int(in_part(work.baseline.columns.group[old], work.part).sum()))
    return _Pairs(before=before[has], after=after[has], larger=larger)


def _both_guess(
    task: TaskComparison, values: tuple[np.ndarray, np.ndarray], groups: np.ndarray, *, binary: bool
) -> str | None:
    if task.chance is None:
        return None
    seen = [statistics.mean_interval(v, groups.tolist(), binary=binary) for v in values]
    if all(i.low is not None and i.high is not None and i.low <= task.chance <= i.high for i in seen):
        return f"both are no better than guessing ({task.chance:.1%}), so nothing can be seen here"
    return None


def _noise_floor(work: _Comparing, task: TaskComparison, before: np.ndarray) -> float | None:
    """The loss (95%) that arithmetic alone shows on these items: the larger of |D| and 1.645·√Σd²/n between A and A."""
    if work.noise is None:
        return None
    keys = work.baseline.index[before]
    at = work.noise.index.get_indexer(keys)
    has = at >= 0
    if has.sum() < MIN_PAIRED * len(before):
        return None
    one = _values(work.baseline, before[has], task.metric)
    other = _values(work.noise, at[has], task.metric)
    d = (other - one)[~(np.isnan(one) | np.isnan(other))]
    return max(abs(float(d.mean())), Z95 * math.sqrt(float(d @ d)) / len(d)) if len(d) else None


def _with_holm(tasks: Sequence[TaskComparison]) -> list[TaskComparison]:
    """Holm's correction over the tasks that were tested: the alarm "these tasks regressed"."""
    tested = [task.p_loss for task in tasks if task.p_loss is not None]
    adjusted = iter(paired.adjust_holm(tested)) if tested else iter(())
    return [replace(task, p_loss_holm=next(adjusted)) if task.p_loss is not None else task for task in tasks]


def _absent(question: Question) -> TaskComparison:
    """A task that a rule asks for and neither report has."""
    return TaskComparison(
        task=question.task,
        role=question.role or "general",
        required=question.required is not False,
        metric=question.metric or "",
        direction="higher",
        margin=question.margin or 0.0,
        verdict="incomparable",
        reason="neither was asked it",
    )


def _notes(work: _Comparing, task: TaskComparison) -> tuple[str, ...]:
    scorers = [side.report.settings.get("scorer") for side in _both(work)]
    notes: list[str] = []
    if scorers[0] != scorers[1]:
        notes.append(f"scored by different means: {scorers[0]} | {scorers[1]}")
    if task.missing:
        notes.append(f"{task.missing:,} items of one side have no counterpart")
    return tuple(notes)


def _direction(result: TaskResult, metric: str) -> Any:
    return next((e.direction for e in result.estimates if e.metric == metric), "higher")


def _is_binary(*columns: np.ndarray) -> bool:
    """Right-or-wrong credits: in [0, 1] and nearly all 0 or 1 (ties in the argmax share); not the mass of a choice."""
    whole = [np.isin(values, (0.0, 1.0)).mean() for values in columns]
    inside = all(bool(((values >= 0) & (values <= 1)).all()) for values in columns)
    return inside and min(whole) >= WHOLE_CREDITS


def _values(side: Side, rows: np.ndarray, metric: str) -> np.ndarray:
    column = side.columns.metrics.get(metric)
    values = np.full(len(rows), np.nan) if column is None else column[rows]
    if np.isinf(values).any():
        raise RunError(f"report {side.report.id[:12]}: {metric} of an item is infinite; evaluate again")
    return values


def _full_rows(side: Side, rows: np.ndarray) -> list[ItemScore]:
    """The items of some rows, in their order."""
    keys = [(str(side.columns.task[row]), str(side.columns.item[row])) for row in rows]
    found = {(item.task, item.item): item for item in side.rows({task for task, _ in keys})}
    return [found[key] for key in keys]


def _sides(work: _Comparing, pairs: _Pairs) -> tuple[tuple[Side, np.ndarray], tuple[Side, np.ndarray]]:
    return (work.baseline, pairs.before), (work.candidate, pairs.after)


def _both(work: _Comparing) -> tuple[Side, Side]:
    return work.baseline, work.candidate


def _names(side: Side) -> str:
    names = list(side.results)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _generator(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join([str(seed), *names, "compare"]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
