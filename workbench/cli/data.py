"""`workbench data trace`: which rows a step saw, which models saw a row."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import Column, print_json, print_table, say

if TYPE_CHECKING:
    from workbench.tracing import StepRow, Trace

STEPS_SHOWN = 6


def trace(
    run: Annotated[str | None, typer.Argument(help="Run whose step is looked at.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="Show the rows that this step saw.")] = None,
    text: Annotated[str | None, typer.Option(help="Find the models that saw this text.")] = None,
    row: Annotated[str | None, typer.Option(help="Find the models that saw a row: SOURCE:N or FILE:N.")] = None,
    contains: Annotated[
        bool, typer.Option("--contains", help="Also rows that hold the text somewhere; reads the files.")
    ] = False,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which rows a step saw, or which models saw a row or a text, over all runs of the project.

    A row is followed by what it says: it is found although its file has changed or is gone. A checkpoint saw it if its
    run had by then, and so did whatever was made from that checkpoint.

    Examples:
        workbench data trace my-domain --step 12
        workbench data trace --text "the whole text of a deleted post"
        workbench data trace --row domain:7
    """
    from workbench.cli.projects import find_project
    from workbench.errors import ConfigError
    from workbench.tracing import trace_row, trace_step, trace_text

    asked = [name for name, value in (("--step", step), ("--text", text), ("--row", row)) if value is not None]
    if len(asked) != 1 or (step is None) != (run is None):
        raise ConfigError("data trace: give RUN with --step N, or --text TEXT, or --row SOURCE:N")
    home = find_project(project)
    if run is not None and step is not None:
        _print_step(run, step, trace_step(home, run, step), as_json)
    elif text is not None:
        _print_trace(trace_text(home, text, contains=contains), as_json)
        if not contains and not as_json:
            say("rows that hold the text among others: --contains")
    elif row is not None:
        _print_trace(trace_row(home, row), as_json)


def _print_step(run: str, step: int, found: "list[StepRow]", as_json: bool) -> None:
    if as_json:
        rows = [{**_plain_row(one), "text": one.text} for one in found]
        print_json({"run": run, "step": step, "rows": rows})
        return
    heads = [Column("packed", right=True), "source", Column("row", right=True), Column("epoch", right=True, drop=2)]
    lines = [
        [s.packed, s.source, s.row, s.epoch, f"{s.start}–{s.stop}", "(changed since)" if one.text is None else one.text]
        for one in found
        for s in [one.seen]
    ]
    print_table([*heads, Column("tokens", drop=3), Column("begins", drop=1)], [_cut(line) for line in lines])


def _cut(line: list[object]) -> list[object]:
    return [*line[:-1], str(line[-1])[:60]]


def _plain_row(one: "StepRow") -> dict[str, object]:
    seen = one.seen
    return {
        "packed": seen.packed,
        "source": seen.source,
        "row": seen.row,
        "epoch": seen.epoch,
        "start": seen.start,
        "stop": seen.stop,
        "key": seen.key.hex(),
    }


def _print_trace(found: "Trace", as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    if found.sightings:
        heads = ["run", "source", Column("row", right=True), Column("times", right=True), "steps", "checkpoints"]
        lines = [
            [s.run, s.source, s.row, len(s.steps), _some(s.steps), _some(s.checkpoints) or "none on disk"]
            for s in found.sightings
        ]
        print_table(heads, lines)
    looked = f"{found.runs} {'run' if found.runs == 1 else 'runs'}"
    if not found.sightings:
        say(f"no step of {looked} saw it")
    elif found.checkpoints:
        say(f"{len(found.checkpoints)} recorded checkpoints saw it, in {looked}:")
        for one in found.checkpoints:
            by_descent = " (made from one that did)" if one.how == "inherited" else ""
            say(f"  {one.name}  {one.fingerprint[:12]}  {one.source}{by_descent}")
    else:
        say(f"no recorded checkpoint saw it, in {looked}: the run was stopped before it kept one")
    if found.unrecorded:
        say(f"nothing is known of runs without a record of rows: {', '.join(found.unrecorded)}")


def _some(steps: tuple[int, ...]) -> str:
    shown = ", ".join(str(step) for step in steps[:STEPS_SHOWN])
    return f"{shown}, … {steps[-1]}" if len(steps) > STEPS_SHOWN else shown
