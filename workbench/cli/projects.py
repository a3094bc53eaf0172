"""Which project a command works in: the one named, the nearest one, or a new one beside the work. Knows folders."""

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.cli.output import say
from workbench.errors import StoreError

if TYPE_CHECKING:
    from workbench.store import Project

NEW_PROJECT = "workbench-project"


def find_project(named: Path | None, *, create: bool = False) -> "Project":
    """`named` (made if it is no project and `create`), else the project here or above, else ./workbench-project.

    Raises StoreError: there is none, and `create` is not set.
    """
    from workbench.store import Project

    if named is not None:
        return Project.open_or_init(named) if create else Project.find(named)
    try:
        return Project.find()
    except StoreError:
        beside = Path.cwd() / NEW_PROJECT
        if (beside / "workbench.yaml").is_file():
            return Project.find(beside)
        if not create:
            raise
    say(f"no project here or above: made ./{NEW_PROJECT}, which keeps every answer and report")
    return Project.init(beside)
