"""`workbench init`: start a project folder."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import print_json, print_line, say


def command(
    folder: Annotated[Path, typer.Argument(help="Where the project shall be.")] = Path(),
    store: Annotated[
        str | None,
        typer.Option(help="sqlite:///FILE, postgresql://USER@HOST/DATABASE, or env:NAME of a variable with the URL."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Start a project folder with its store and workbench.yaml.

    Reports, your own tasks and suites, and every answer of a model are kept there. Commands find the project that the
    working folder lies in. On a folder that is a project already, nothing changes.

    Examples:
        workbench init
        workbench init shop
        workbench init shop --store env:WORKBENCH_STORE
    """
    from workbench.store import Project

    project = Project.init(folder, store_url=store)
    if as_json:
        print_json({"root": project.root, "store": project.config.store})
    else:
        print_line(str(project.root))
        say(f"store: {project.store.database.where}")
        say("next: workbench eval smollm2 --suite sample-general")
