"""`workbench show`: a report, one of its tasks, or the items behind a number."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from workbench.records import ItemScore, Report, TaskResult
    from workbench.store import Store


def command(
    report: Annotated[str, typer.Argument(help="Report id (or its beginning), checkpoint, or latest.")] = "latest",
    task: Annotated[str | None, typer.Option(help="One task, with all its metrics.")] = None,
    items: Annotated[bool, typer.Option("--items", help="The questions and answers behind the numbers.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Items shown.")] = 20,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a report, one of its tasks, or the items behind a number.

    Examples:
        workbench show
        workbench show latest --task arc_easy
        workbench show 3f9a --task arc_easy --items --limit 5
    """
    from workbench.cli.projects import find_project

    home = find_project(project)
    found = home.store.report(report)
    result = None if task is None else _find_result(found, task)
    if items:
        rows = _select(home.store.items(found.id), result)
        _print_items(found, rows[:limit], len(rows), as_json)
    elif as_json:
        print_json({"report": found} if result is None else _task_json(found, result, home.store))
    elif result is not None:
        _print_task(result, home.store.items(found.id), limit)
    else:
        _print_report(found)


def _find_result(report: "Report", task: str) -> "TaskResult":
    """The task of the report, or the group that it is a subtask of."""
    from workbench.errors import TaskError, did_you_mean

    for result in report.results:
        if task == result.task or task in result.subtasks:
            return result
    known = [name for result in report.results for name in (result.task, *result.subtasks)]
    raise TaskError(f"task {task!r}: not in report {report.id[:12]}; {did_you_mean(task, known)}")


def _select(items: "list[ItemScore]", result: "TaskResult | None") -> "list[ItemScore]":
    if result is None:
        return items
    names = set(result.subtasks or (result.task,))
    return [item for item in items if item.task in names]


def _print_report(report: "Report") -> None:
    from workbench.cli import tables

    say(f"{report.checkpoint.name}: weights {report.checkpoint.fingerprint[:12]}, {report.checkpoint.source}")
    say(f"report {report.id[:12]} of {report.created_at}: {tables.settings_line(report)}")
    print_table(*tables.report_table([report], {}))
    for note in tables.report_notes([report], {}):
        say(f"note: {note}")
    if engine := report.environment.get("notes"):
        say(f"note: {engine}")
    say(f"next: workbench show {report.id[:12]} --task {report.results[0].task} --items")


def _task_json(report: "Report", result: "TaskResult", store: "Store") -> dict[str, Any]:
    from benchmarks.robustness import find_fragile

    more = {"fragile": find_fragile(_select(store.items(report.id), result), result.metric)} if result.prompts else {}
    return {"report": report.id, "task": result, **more}


def _print_task(result: "TaskResult", items: "list[ItemScore]", limit: int) -> None:
    from workbench.cli import tables

    say(f"{result.task}: {result.role}, {result.num_fewshot} shots, {result.n:,} items; headline {result.metric}")
    rows: list[list[Any]] = [
        [f"{e.metric} {tables.ARROWS[e.direction]}", f"{e.n:,}", tables.format_estimate(e), e.method]
        for e in result.estimates
    ]
    print_table(["metric", Column("n", right=True), f"value [{result.headline.level:.0%} interval]", "method"], rows)
    if result.prompts:
        _print_fragile(result, _select(items, result), limit)
    elif result.subtasks:
        print_line()
        columns = ["subtask", Column("n", right=True), Column(result.metric, right=True)]
        print_table(columns, _subtask_rows(result, _select(items, result)))
    for note in result.notes:
        say(f"note: {note}")


def _print_fragile(result: "TaskResult", items: "list[ItemScore]", limit: int) -> None:
    """The questions that are right in some prompts and wrong in others, the most divided first."""
    from benchmarks.robustness import find_fragile
    from workbench.cli import tables
    from workbench.publish.text import reveal_line

    found = find_fragile(items, result.metric)
    if not found:
        return
    rows = [
        [
            reveal_line(one.task),
            f"{one.right} of {len(one.values)}",
            *(
                tables.shorten(reveal_line(text), width)
                for text, width in (
                    (one.target, 40),
                    (" | ".join(one.answers[number] for number in sorted(one.answers)), 60),
                    (one.prompt, 80),
                )
            ),
        ]
        for one in found[:limit]
    ]
    print_line()
    print_table(["fragile question of", "right in", "target", "answer by prompt", "prompt"], rows)
    if len(found) > limit:
        say(f"{limit} of {len(found):,} fragile questions; --limit {len(found)} shows all")


def _subtask_rows(result: "TaskResult", items: "list[ItemScore]") -> list[list[Any]]:
    """Mean of the headline metric in each subtask, the lowest first."""
    from workbench.cli.tables import format_number

    values: dict[str, list[float]] = {}
    for item in items:
        if result.metric in item.metrics:
            values.setdefault(item.task, []).append(item.metrics[result.metric])
    means = {task: sum(own) / len(own) for task, own in values.items()}
    return [
        [task, f"{len(values[task]):,}", format_number(means[task])] for task in sorted(means, key=lambda t: means[t])
    ]


def _print_items(report: "Report", items: "list[ItemScore]", total: int, as_json: bool) -> None:
    from workbench.cli import tables

    if as_json:
        print_json({"report": report.id, "total": total, "items": items})
        return
    rows = [
        [
            item.task,
            item.item[:8],
            " ".join(f"{name}={tables.format_number(value)}" for name, value in item.metrics.items()),
            tables.shorten(item.answer, 40),
            tables.shorten(item.target, 40),
            tables.shorten(item.prompt, 80),
        ]
        for item in items
    ]
    print_table(["task", "item", "metrics", "answer", "target", "prompt"], rows)
    if total > len(items):
        say(f"{len(items)} of {total:,} items; --limit {total} shows all")
