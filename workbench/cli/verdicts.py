"""Comparisons, decisions and flips as table rows. Pure: knows records and how they are told; no store, no terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from workbench.cli.output import Column, Tone
from workbench.cli.tables import shorten
from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, VERDICTS
from workbench.publish.text import reveal_line
from workbench.records import Checkpoint, Comparison, Decision, Flip, TaskComparison

if TYPE_CHECKING:
    from benchmarks.clean import CleanGain
    from benchmarks.nearest import NearRow
    from benchmarks.why import Topic

Table = tuple[list[Column], list[list[Any]]]
TONES: dict[str, Tone] = {sign.shape: sign.tone for sign in (*OUTCOMES.values(), *VERDICTS.values())}
_ANSWER, _PROMPT, _EXCERPT = 32, 60, 120


def comparison_table(comparison: Comparison) -> Table:
    """A row for each task. On a narrow terminal verdict and change stay longest."""
    columns = [
        Column("task"),
        Column("verdict", tones=TONES),
        Column(f"change [{wording.interval_level(comparison)}]"),
        Column("margin", right=True, drop=1),
        Column("noise", right=True, drop=2),
        Column("baseline", right=True, drop=4),
        Column("candidate", right=True, drop=3),
        Column("n", right=True, drop=5),
        Column("lost", right=True, drop=6),
        Column("gained", right=True, drop=7),
    ]
    return columns, [_task_row(task) for task in comparison.tasks]


def decision_table(decision: Decision, comparison: Comparison | None = None) -> Table:
    """A row for each rule; with the `comparison` that it rests on, margins are told in their task's unit."""
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    columns = [
        Column("rule"),
        Column("outcome", tones=TONES),
        Column("measured", drop=1),
        Column("limit", right=True, drop=2),
    ]
    rows: list[list[Any]] = []
    for rule in decision.rules:
        name = reveal_line(rule.rule) + ("" if rule.required else " (advisory)")
        outcome = OUTCOMES[rule.outcome].label + (" (overridden)" if rule.overridden else "")
        task = tasks.get(rule.task)
        rows.append(
            [
                name,
                outcome,
                wording.format_measured(rule, task),
                wording.format_limit(rule, task),
                reveal_line(rule.reason),
            ]
        )
    return [*columns, Column("why", drop=3)], rows


def flips_table(flips: Sequence[Flip]) -> Table:
    """A row for each item, in the order given; texts are cut to a few words."""
    columns = [
        Column("flip", tones=TONES),
        Column("task", drop=1),
        Column("target", drop=2),
        Column("baseline's answer"),
        Column("candidate's answer"),
        Column("item", drop=4),
        Column("question", drop=3),
        *([Column("note", drop=5)] if any(flip.notes for flip in flips) else []),
    ]
    rows = [
        [
            VERDICTS["forgot" if flip.kind == "lost" else "improved"].shape + f" {flip.kind}",
            reveal_line(flip.task),
            *(_start(text) for text in (flip.target, flip.baseline_answer, flip.candidate_answer)),
            flip.item[:12],
            shorten(reveal_line(flip.prompt), _PROMPT),
            *([reveal_line("; ".join(flip.notes))] if any(one.notes for one in flips) else []),
        ]
        for flip in flips
    ]
    return columns, rows


def trajectory_table(comparisons: Sequence[Comparison]) -> Table:
    """Candidates in the order given against one baseline: task rows, a column for each, the latest kept longest.

    A cell is the mark of the verdict and the change in points, or in the unit beside the task's name. The last row says
    what the required tasks say together. Tasks that a candidate was not asked are empty.
    """
    names = _unique_names([comparison.candidate_checkpoint for comparison in comparisons])
    columns = [Column("task")]
    columns += [Column(name, drop=len(names) - place, tones=TONES) for place, name in enumerate(names)]
    found = [{task.task: task for task in comparison.tasks} for comparison in comparisons]
    rows: list[list[Any]] = []
    for name in dict.fromkeys(task.task for comparison in comparisons for task in comparison.tasks):
        cells = [tasks.get(name) for tasks in found]
        unit = next((wording.task_unit(task) for task in cells if task and task.difference), "points")
        label = reveal_line(name) + ("" if unit == "points" else f" ({unit})")
        rows.append([label, *(None if task is None else _mark(task) for task in cells)])
    outcomes = [OUTCOMES[wording.comparison_outcome(comparison)].label for comparison in comparisons]
    return columns, [*rows, ["required tasks", *outcomes]]


def topics_table(topics: "Sequence[Topic]", limit: int = 10) -> Table:
    """A row for each topic, the most striking first; those that stand out are marked."""
    columns = [
        Column("topic"),
        Column("task", drop=2),
        Column("lost", right=True),
        Column("of", right=True),
        Column("elsewhere", right=True, drop=1),
        Column("q", right=True, drop=3),
        Column("stands out"),
    ]
    rows: list[list[Any]] = [
        [
            reveal_line(topic.topic),
            reveal_line(topic.task),
            f"{topic.lost:,}",
            f"{topic.items:,}",
            None if topic.share_elsewhere is None else f"{topic.share_elsewhere:.1%}",
            f"{topic.q:.2g}",
            "yes" if topic.stands_out else "no",
        ]
        for topic in topics[:limit]
    ]
    return columns, rows


def nearest_table(rows: "Sequence[NearRow]") -> Table:
    """A row for each training row near a lost item; foreign text in one line, its control characters made visible."""
    columns = [
        Column("lost item", drop=2),
        Column("topic", drop=4),
        Column("source"),
        Column("row", right=True),
        Column("first seen", right=True, drop=3),
        Column("nearness", right=True, drop=1),
        Column("text of the row"),
    ]
    return columns, [
        [
            shorten(reveal_line(f"{row.question} {row.answer}"), _PROMPT),
            reveal_line(row.topic),
            reveal_line(row.source),
            f"{row.row:,}",
            None if row.step is None else f"step {row.step:,}" + (f", {row.times} times" if row.times != 1 else ""),
            f"{row.similarity:.2f}",
            _start(row.excerpt, _EXCERPT),
        ]
        for row in rows
    ]


def clean_table(gains: "Sequence[CleanGain]", comparison: Comparison) -> Table:
    """A row for each part of each task that has items."""
    columns = [
        Column("task"),
        Column("items"),
        Column("n", right=True),
        Column("baseline", right=True, drop=2),
        Column("candidate", right=True, drop=1),
        Column(f"change [{wording.interval_level(comparison)}]"),
    ]
    tasks = {task.task: task for task in comparison.tasks}
    rows: list[list[Any]] = []
    for gain in gains:
        task = tasks[gain.task]
        unit = wording.task_unit(task)
        for part in (part for part in gain.parts if part.items):
            values = [wording.format_value(value, unit) for value in (part.baseline, part.candidate)]
            change = wording.format_change(replace(task, difference=part.difference))
            rows.append([reveal_line(gain.task), part.part, f"{part.items:,}", *values, change])
    return columns, rows


def first_lost_table(first: "Mapping[str, Sequence[int]]", names: Sequence[str]) -> Table:
    """A row for each task: how many items were lost for the first time at each candidate."""
    columns = [Column("task"), *(Column(reveal_line(name), right=True) for name in names)]
    return columns, [[reveal_line(task), *(f"{count:,}" for count in counts)] for task, counts in first.items()]


def verdict_notes(comparison: Comparison) -> list[str]:
    """What the table of a comparison cannot show: what could not be certified and why, small losses, noise floors."""
    notes = [f"{reveal_line(task.task)} {reveal_line(why)}" for task, why in wording.gaps(comparison.tasks)]
    if all(task.noise is None for task in comparison.tasks):
        notes.append("the noise floor was not measured: evaluate the baseline with --noise-floor")
    for task in comparison.tasks:
        name = reveal_line(task.task)
        if task.small_loss:
            notes.append(f"{name}: kept, with a small real loss")
        if task.missing:
            notes.append(f"{name}: {task.missing:,} items have no pair")
        notes += [f"{name}: {reveal_line(note)}" for note in task.notes]
    return notes


def _task_row(task: TaskComparison) -> list[Any]:
    unit = wording.task_unit(task)
    values = [wording.format_value(value, unit) for value in (task.baseline, task.candidate)]
    counts = [None if count is None else f"{count:,}" for count in (task.n, task.lost, task.gained)]
    said = [*([] if unit == "points" else [unit]), *([] if task.required else ["advisory"])]
    name = reveal_line(task.task) + (f" ({', '.join(said)})" if said else "")
    change = wording.format_change(task)
    limits = [None if limit is None else wording.format_margin(limit, unit) for limit in (task.margin, task.noise)]
    return [name, VERDICTS[task.verdict].label, change, *limits, *values, *counts]


def _mark(task: TaskComparison) -> str:
    numbers = wording.change_numbers(task)
    return f"{VERDICTS[task.verdict].shape} {numbers[0] if numbers else '–'}"


def _start(text: str, width: int = _ANSWER) -> str:
    line = reveal_line(text)
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _unique_names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    names = [reveal_line(checkpoint.name) for checkpoint in checkpoints]
    return [
        name if names.count(name) == 1 else f"{name}@{checkpoint.fingerprint[:6]}"
        for name, checkpoint in zip(names, checkpoints, strict=True)
    ]
