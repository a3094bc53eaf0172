"""`workbench verify-resume`: kill a run of a recipe and see whether it goes on to the same bits."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import print_json, print_table, say


def command(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.")],
    steps: Annotated[int, typer.Option(help="Steps to the checkpoint that is gone on from; half of each run.")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Another value for a key of the recipe.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Kill a run of a recipe (SIGKILL), go on, and compare with one that was not killed: exit code 0 same, 1 not.

    Compares weights, optimiser, schedule, random state, rows and counters to the last bit, on this machine with this
    recipe. The recipe's own run is not touched.

    Examples:
        workbench verify-resume recipe.yaml
        workbench verify-resume recipe.yaml --steps 5
        workbench verify-resume recipe.yaml --set sequence_length=256 --set batch_tokens=512
    """
    from workbench.cli.projects import find_project
    from workbench.verify import verify_resume

    found = verify_resume(
        recipe, find_project(project, create=True), set_ or [], steps=steps, on_part=lambda what: say(f"{what} ...")
    )
    if as_json:
        print_json({"same": found.same, "resumption": found})
    else:
        rows = [["● same" if part.same else "■ differs", part.part, part.detail] for part in found.parts]
        print_table(["", "part", "compared"], rows)
        verdict = "goes on to the same bits" if found.same else "does not go on to the same state"
        say(f"{found.recipe}: killed after step {found.killed}, on from step {found.saved} to {found.steps}: {verdict}")
    if not found.same:
        raise SystemExit(1)
