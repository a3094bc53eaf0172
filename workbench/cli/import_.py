"""`workbench import`: runs of lm-eval and Inspect that people already have, as reports."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from workbench.importing import Imported


def command(
    paths: Annotated[
        list[Path], typer.Argument(help="lm-eval output folder or results file, Inspect log or folder of logs.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call the checkpoint (default: its folder).")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column of the documents whose equal values belong together.")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Import runs of lm-eval and Inspect as reports, to compare and gate them like our own.

    lm-eval must have written its answers (--output_path X --log_samples). Nothing is recorded if any file is faulty.

    Examples:
        workbench import results/my-model
        workbench import logs/2026-11-22_gpqa.eval --name release-candidate
        workbench import before/ after/ --cluster passage_id
    """
    from workbench.cli.projects import find_project
    from workbench.importing import import_reports

    home = find_project(project, create=True)
    found = import_reports(paths, project=home, name=name, cluster=cluster)
    _print_imported(found, as_json)
    option = "" if project is None else f" --project {shlex.quote(str(project))}"
    say(f"next: {_next(found)}{option}")


def _print_imported(found: "list[Imported]", as_json: bool) -> None:
    from workbench.cli import tables

    reports = list({one.report.id: one.report for one in found}.values())
    if as_json:
        print_json({"reports": reports, "sources": {one.source: one.report.id for one in found}})
    else:
        print_table(*tables.report_table(reports, {}))
    for note in tables.report_notes(reports, {}):
        say(f"note: {note}")
    for note in dict.fromkeys(f"{one.report.checkpoint.name}: {one.note}" for one in found if one.note is not None):
        say(f"note: {note}")
    for one in found:
        checkpoint = one.report.checkpoint
        say(f"report {one.report.id[:12]} ({checkpoint.name}, weights {checkpoint.fingerprint[:12]}) from {one.source}")


def _next(found: "list[Imported]") -> str:
    ids = list(dict.fromkeys(one.report.id[:12] for one in found))
    if len(ids) == 1:
        return f"workbench compare BASELINE {ids[0]}"
    return f"workbench compare {ids[0]} {ids[1]}"
