"""`workbench gc`: which weights may be let go by policy, and letting them go."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import Column, print_json, print_table, say


def command(
    keep_last: Annotated[int, typer.Option(min=1, help="Checkpoints of each run that are kept in any case.")] = 1,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without it nothing is changed.")] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which checkpoints' weights may go and what that frees; with --apply let them go.

    Kept: what a gate passed, what something was made from, baselines, the last of each run, runs that are not over,
    and models that no run made. Reports, lineage and decisions always stay, and say that the weights are gone.

    Examples:
        workbench gc
        workbench gc --keep-last 3 --apply
    """
    from workbench.cli.projects import find_project
    from workbench.upkeep.collect import collect, weigh

    with find_project(project) as home:
        found = collect(home, keep_last=keep_last, actor=_name()) if apply else weigh(home, keep_last=keep_last)
    rows = [
        {
            "name": one.checkpoint.name,
            "weights": one.checkpoint.fingerprint,
            "bytes": one.bytes,
            "kept": one.kept,
            "reason": one.reason,
            "source": one.checkpoint.source,
        }
        for one in found.weighed
    ]
    if as_json:
        print_json({"applied": found.applied, "freed_bytes": found.freed, "checkpoints": rows})
        return
    columns = [Column("checkpoint"), Column("weights", drop=2), Column("MB", right=True), Column(""), Column("why")]
    going = "gone" if found.applied else "may go"
    print_table(
        columns,
        [
            [one["name"], str(one["weights"])[:12], f"{one['bytes'] / 1e6:,.1f}", "kept" if one["kept"] else going,
             "neither passed, nor parent, nor last" if one["reason"] == "too old" else one["reason"]]
            for one in rows
        ],
    )  # fmt: skip
    count = sum(not one["kept"] for one in rows)
    size = f"{found.freed / 1e6:,.1f} MB"
    if found.applied:
        say(f"{count} let go, {size} freed; their reports and lineage stay")
    elif count:
        say(f"{count} may go, {size}; nothing was changed. To do it: workbench gc --keep-last {keep_last} --apply")
    else:
        say("nothing may go")


def _name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"
