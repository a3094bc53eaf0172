"""`workbench backup` and `workbench restore`: a project as a folder that can be put back, and back again."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import Progress, print_json, say


def backup(
    target: Annotated[Path, typer.Argument(help="Folder to write, which is not there yet.")],
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints/--without-checkpoints", help="Weights too; without them the record is whole.")
    ] = True,
    link: Annotated[
        bool, typer.Option("--link", help="Link weights and reports instead of copying them, on the same disk.")
    ] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Back a project up while everybody goes on working: store, reports, runs, weights, with a hash for each file.

    Whether the store is SQLite or PostgreSQL, the backup is the same and can be restored into either. It gets its name
    when all of it is on disk, so one that was killed is never taken for a whole one.

    Examples:
        workbench backup backups/monday
        workbench backup /mnt/backups/shop-0301 --without-checkpoints --project shop
    """
    from workbench.cli.projects import find_project
    from workbench.upkeep.backup import back_up

    with find_project(project) as home, Progress("backing up", 0, unit="files") as progress:

        def show(_name: str, _size: int) -> None:
            progress.total += 1
            progress.advance()

        made = back_up(home, target, checkpoints=checkpoints, link=link, on_file=show)
    if as_json:
        print_json(made)
        return
    for line in made.left_out:
        say(f"  not in it: {line}")
    total = sum(made.rows.values())
    size = f"{made.bytes / 1e6:,.1f} MB"
    say(f"{made.folder}: {total:,} rows, {made.files:,} files, {made.checkpoints} of weights, {size}")
    say(f"next: workbench restore {made.folder} FOLDER, to see that it can be put back")


def restore(
    source: Annotated[Path, typer.Argument(help="Folder of a backup.")],
    folder: Annotated[Path, typer.Argument(help="Project folder to make.")],
    store: Annotated[
        str | None, typer.Option(help="Another store: sqlite:///FILE, postgresql://..., or env:NAME.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Where a project is already, move it aside; nothing is deleted.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Put a backup back: every byte is verified before anything is written, and nothing is overwritten.

    Examples:
        workbench restore backups/monday shop
        workbench restore backups/monday shop --store postgresql://workbench@db/shop
        workbench restore backups/monday shop --replace
    """
    from workbench.upkeep.restore import restore as put_back

    with Progress("verifying", 0, unit="files") as progress:

        def show(_name: str) -> None:
            progress.total += 1
            progress.advance()

        made = put_back(source, folder, store_url=store, replace_existing=replace, on_file=show)
    if as_json:
        print_json(made)
        return
    for line in made.left_out:
        say(f"  was not in the backup: {line}")
    if made.before is not None:
        say(f"what was there before: {made.before}")
    say(f"{made.folder}: {made.rows:,} rows in {made.store}, {made.files:,} files")
    say(f"next: workbench doctor --deep --project {made.folder}")
