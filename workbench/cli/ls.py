"""`workbench ls`: what there is to evaluate, and what has been evaluated."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say

What = Literal["checkpoints", "reports", "tasks", "suites"]
Row = dict[str, Any]


def command(
    what: Annotated[What, typer.Argument(help="What to list.")],
    part: Annotated[str, typer.Argument(help="Only those with this in their name.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Names only, one a line.")] = False,
    include_path: Annotated[list[Path] | None, typer.Option(help="Folder of task and suite files.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List tasks, suites, checkpoints or reports.

    Examples:
        workbench ls suites
        workbench ls tasks mmlu
        workbench ls reports --json
    """
    rows = [row for row in _LISTS[what](project, include_path or []) if part in row[_SEARCHED.get(what, "name")]]
    if as_json:
        print_json({what: rows})
    elif quiet:
        for row in rows:
            print_line(row[_NAMED.get(what, "name")])
    elif rows:
        print_table(_COLUMNS[what], [[_show(row[_heading(column)]) for column in _COLUMNS[what]] for row in rows])
    if not rows:
        say(f"no {what} with {part!r} in their name" if part else f"no {what} yet; next: workbench eval --help")


def _list_checkpoints(named: Path | None, _: Sequence[Path]) -> list[Row]:
    from workbench.cli.projects import find_project
    from workbench.store.let_go import let_go

    with find_project(named) as project:
        store = project.store
        checkpoints = store.checkpoints()
        answers = store.ledger.counts(checkpoint.fingerprint for checkpoint in checkpoints)
        reports = [report.checkpoint.fingerprint for report in store.reports()]
        gone = let_go(store.database)
    here = {c.source: c.kind not in ("folder", "gguf") or Path(c.source).exists() for c in checkpoints}
    dates = {c.source: gone[c.fingerprint, c.source].at for c in checkpoints if (c.fingerprint, c.source) in gone}
    return [
        {
            "name": checkpoint.name,
            "weights": checkpoint.fingerprint,
            "kind": checkpoint.kind,
            "stage": checkpoint.stage,
            "reports": reports.count(checkpoint.fingerprint),
            "answers": answers[checkpoint.fingerprint],
            "parent": checkpoint.parent,
            "source": checkpoint.source,
            "let_go": None if here[checkpoint.source] else dates.get(checkpoint.source),
        }
        for checkpoint in checkpoints
    ]


def _list_reports(named: Path | None, _: Sequence[Path]) -> list[Row]:
    from workbench.cli.projects import find_project

    with find_project(named) as project:
        reports = project.store.reports()
    return [
        {
            "id": report.id,
            "created": report.created_at,
            "checkpoint": report.checkpoint.name,
            "measured": ", ".join(report.suites or [result.task for result in report.results]),
            "suites": list(report.suites),
            "tasks": [result.task for result in report.results],
            "items": sum(result.n for result in report.results),
        }
        for report in reports
    ]


def _list_tasks(named: Path | None, include_path: Sequence[Path]) -> list[Row]:
    from benchmarks.suite import list_tasks, task_card

    folders = _task_folders(named, include_path)
    cards = [task_card(name, folders) for name in list_tasks(folders)]
    return [
        {
            "name": card.name,
            "role": card.role,
            "form": card.form,
            "shots": card.num_fewshot,
            "metric": card.metric,
            "language": card.language,
            "dataset": card.dataset,
            "margin": card.margin,
            "licence": card.licence,
            "title": card.title,
        }
        for card in cards
    ]


def _list_suites(named: Path | None, include_path: Sequence[Path]) -> list[Row]:
    from benchmarks.suite import list_suites, load_suite

    folders = _task_folders(named, include_path)
    suites = [load_suite(name, folders) for name in list_suites(folders)]
    return [
        {"name": suite.name, "title": suite.title, "tasks": [task.task for task in suite.tasks]} for suite in suites
    ]


def _task_folders(named: Path | None, include_path: Sequence[Path]) -> list[Path]:
    """The project's folders that hold task files, and those named; shipped tasks need no project."""
    from workbench.cli.projects import find_project
    from workbench.errors import StoreError
    from workbench.pipeline import include_folders

    more = [path.expanduser().resolve() for path in include_path]
    try:
        project = find_project(named)
    except StoreError:
        if named is not None:
            raise
        return more
    # lm-eval takes seconds to read folders, so empty ones are left out.
    return [folder for folder in include_folders(project, more) if folder in more or any(folder.glob("**/*.yaml"))]


def _heading(column: Column | str) -> str:
    return column if isinstance(column, str) else column.name


def _show(value: Any) -> Any:
    """A cell: digests and times shortened, lists as words. --json has them whole."""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return f"{value:,}" if isinstance(value, int) else value


_LISTS: dict[What, Callable[[Path | None, Sequence[Path]], list[Row]]] = {
    "checkpoints": _list_checkpoints,
    "reports": _list_reports,
    "tasks": _list_tasks,
    "suites": _list_suites,
}
_NAMED = {"reports": "id"}
_SEARCHED = {"reports": "checkpoint"}
_COLUMNS: dict[What, list[Column | str]] = {
    "checkpoints": [
        "name",
        "weights",
        Column("reports", right=True),
        Column("answers", right=True),
        "kind",
        "stage",
        "source",
    ],
    "reports": ["id", "checkpoint", "measured", Column("items", right=True), "created"],
    "tasks": ["name", "role", "form", Column("shots", right=True), "language", "dataset", "title"],
    "suites": ["name", "tasks", "title"],
}
