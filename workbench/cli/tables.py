"""Reports as table rows and lines of talk. Pure: knows records, no store and no terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.cli.output import Column, format_duration
from workbench.publish.signs import VERDICTS
from workbench.publish.wording import interval_level as level
from workbench.records import Comparison, Estimate, Report, TaskComparison, TaskResult

ARROWS = {"higher": "↑", "lower": "↓"}


def format_number(value: float) -> str:
    """Three decimals for shares, fewer for large numbers.

    >>> [format_number(v) for v in (0.28312, 41.257, 1234.5, 8.7e10)]
    ['0.283', '41.26', '1,234', '8.7e+10']
    """
    size = abs(value)
    if size < 10:
        return f"{value:.3f}"
    if size < 100:
        return f"{value:.2f}"
    return f"{value:,.0f}" if size < 1e7 else f"{value:.1e}"


def format_estimate(estimate: Estimate) -> str:
    """`0.283 [0.255, 0.312]`; the value alone where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return format_number(estimate.value)
    return f"{format_number(estimate.value)} [{format_number(estimate.low)}, {format_number(estimate.high)}]"


def format_change(task: TaskComparison | None) -> str | None:
    """`+0.006 [-0.012, +0.024]` in the metric's own sign; None where nothing was compared."""
    if task is None or task.difference is None:
        return None
    turn = 1 if task.direction == "higher" else -1  # records hold losses as negative, whatever the direction
    value, ends = turn * task.difference.value, [task.difference.low, task.difference.high][::turn]
    if ends[0] is None or ends[1] is None:
        return _signed(value)
    return f"{_signed(value)} [{_signed(turn * ends[0])}, {_signed(turn * ends[1])}]"


def name_metric(result: TaskResult) -> str:
    """The headline metric with an arrow that says which way is better."""
    return f"{result.metric} {ARROWS[result.headline.direction]}"


def report_table(
    reports: Sequence[Report], comparisons: Mapping[str, Comparison]
) -> tuple[list[Column], list[list[Any]]]:
    """Columns and rows: a row for each task, a column for each report, then change and verdict against the baseline.

    `comparisons`: id of a candidate's report -> its comparison.
    """
    names = unique_names(reports)
    compared = [report for report in reports if report.id in comparisons]
    columns = [Column("task"), Column("metric", drop=2), Column("n", right=True, drop=3)]
    columns += [Column(names[r.id], drop=1) for r in reports]
    for report in compared:
        whose = "" if len(compared) == 1 else f" {names[report.id]}"
        columns += [Column(f"change [{level(comparisons[report.id])}]{whose}"), Column(f"verdict{whose}")]
    results = {r.id: {result.task: result for result in r.results} for r in reports}
    judged = {r.id: {task.task: task for task in comparisons[r.id].tasks} for r in compared}
    rows: list[list[Any]] = []
    for task in dict.fromkeys(result.task for report in reports for result in report.results):
        first = next(results[r.id][task] for r in reports if task in results[r.id])
        row: list[Any] = [task, name_metric(first), f"{first.headline.n:,}"]
        for report in reports:
            result = results[report.id].get(task)
            row.append(format_estimate(result.headline) if result else None)
        for report in compared:
            found = judged[report.id].get(task)
            row += [format_change(found), VERDICTS[found.verdict].label if found else None]
        rows.append(row)
    return columns, rows


def unique_names(reports: Sequence[Report]) -> dict[str, str]:
    """Report id -> name of its checkpoint; where two share a name, the weights' digest is added."""
    shared = [report.checkpoint.name for report in reports]
    return {
        r.id: r.checkpoint.name
        if shared.count(r.checkpoint.name) == 1
        else f"{r.checkpoint.name}@{r.checkpoint.fingerprint[:6]}"
        for r in reports
    }


def report_notes(reports: Sequence[Report], comparisons: Mapping[str, Comparison]) -> list[str]:
    """What a reader must know: notes of tasks, results at chance, intervals that are missing, items without a pair."""
    names = unique_names(reports)
    notes: list[str] = []
    guessing: dict[str, list[str]] = {}
    for report in reports:
        for result in report.results:
            where = f"{result.task}, {names[report.id]}" if len(reports) > 1 else result.task
            notes += [f"{where}: {note}" for note in result.notes]
            if result.headline.method.startswith("none"):
                notes.append(f"{where}: no interval, {result.headline.method.removeprefix('none: ')}")
            if is_at_chance(result) and not result.is_probe:
                what = f"{result.task}: {{}} not told from guessing ({format_number(result.chance or 0)})"
                guessing.setdefault(what, []).append(names[report.id])
        if report.id in comparisons:
            notes += [note for task in comparisons[report.id].tasks for note in _comparison_notes(task)]
    notes += [what.format(join_names(who)) for what, who in guessing.items()]
    return list(dict.fromkeys(notes))


def _comparison_notes(task: TaskComparison) -> list[str]:
    if task.verdict == "incomparable":
        return [f"{task.task}: not compared, {task.reason}"]
    return [f"{task.task}: {note}" for note in task.notes]


def is_at_chance(result: TaskResult) -> bool:
    """Does the headline's interval contain what a guesser would score?"""
    low, high = result.headline.low, result.headline.high
    return result.chance is not None and low is not None and high is not None and low <= result.chance <= high


def cost_line(timing: Mapping[str, float]) -> str:
    """What a report cost: tokens, time, and how near the machine's limit that was."""
    tokens = timing.get("prompt_tokens", 0) + timing.get("new_tokens", 0)
    reused = int(timing.get("requests_reused", 0))
    parts: list[str] = []
    if tokens:
        parts.append(f"{tokens:,.0f} tokens in {format_duration(timing['compute_seconds'])}")
        naive, computed = timing.get("naive_tokens", 0), timing.get("prompt_tokens", 0)
        if computed and naive / computed >= 1.05:
            parts.append(f"{naive / computed:.1f} times fewer than one pass a request")
        if limit := timing.get("limit_seconds"):
            parts.append(f"{timing['compute_seconds'] / limit:.1f} times the physical limit")
    if driven := int(timing.get("episodes", 0)):
        parts.append(f"{driven:,} episodes")
    if kept := int(timing.get("episodes_kept", 0)):
        parts.append(f"{kept:,} episodes kept from before")
    if not parts:
        parts.append("nothing to compute")
    if reused:
        parts.append(f"{reused:,} answers from the ledger")
    return ", ".join(parts)


def settings_line(report: Report) -> str:
    """How the numbers were made, in one line."""
    settings = report.settings
    parts = [str(settings.get("scorer", "")), f"seed {settings.get('seed', 0)}"]
    if settings.get("limit") is not None:
        parts.append(f"limit {settings['limit']}")
    if settings.get("num_fewshot") is not None:
        parts.append(f"{settings['num_fewshot']} shots")
    if settings.get("apply_chat_template"):
        parts.append("chat template")
    return ", ".join(parts)


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, the end kept: a prompt's question stands at its end.

    >>> shorten("a long text", 8)
    '… text'
    """
    line = " ".join(text.split())
    if len(line) <= width:
        return line
    kept = line[len(line) - width + 1 :]
    return "…" + (kept[kept.find(" ") :] if " " in kept else kept)


def join_names(names: Iterable[str]) -> str:
    """`a, b and c`."""
    *first, last = list(names)
    return f"{', '.join(first)} and {last}" if first else last


def _signed(value: float) -> str:
    text = format_number(value)
    return text if value <= 0 else f"+{text}"
