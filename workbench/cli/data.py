"""`workbench data`: what a run is fed, which rows a step saw, which models saw a row."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import Column, Progress, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from training.replay import Written
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


def inspect(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.", show_default=False)],
    rows: Annotated[int, typer.Option(min=0, help="Packed rows shown with their loss mask.")] = 1,
    samples: Annotated[int, typer.Option(min=0, help="Samples of each source.")] = 2,
    step: Annotated[int, typer.Option(min=1, help="Show the packed rows of this step.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Another value for a key: seed=1.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the mix of a recipe: samples of each source, shares, and packed rows with what carries loss.

    What carries loss is green, or stands in ⟦ ⟧ where there are no colours. Documents of one row cannot see each other;
    each begins with its source and row. Shares given are exact: the very rows of the run are walked.

    Examples:
        workbench data inspect recipe.yaml
        workbench data inspect recipe.yaml --samples 5 --rows 0
        workbench data inspect recipe.yaml --step 12 --rows 8
    """
    from training.inspection import look_at, packed_rows
    from workbench.cli.preflight import print_findings, print_look, print_row
    from workbench.cli.projects import find_project
    from workbench.errors import ConfigError
    from workbench.runs import prepare_run

    run = prepare_run(recipe, find_project(project, create=True), set_ or [])
    if step > run.plan.steps:
        raise ConfigError(f"--step {step}: the run has {run.plan.steps} steps; name one of them")
    looks = look_at(run.recipe, run.sources, samples=samples, seed=run.recipe.seed)
    first = (step - 1) * run.plan.rows_per_step
    packed = packed_rows(run.recipe, run.sources, first=first, count=rows)
    if as_json:
        print_json({"sources": looks, "plan": run.plan, "checks": run.findings, "step": step, "packed": packed})
        return
    print_look(looks)
    for source in run.plan.sources:
        say(f"{source.name}: asked {source.asked:.1%}, given {source.share:.1%} of the tokens that carry loss")
    for number, pieces in enumerate(packed, start=1):
        say(f"step {step}, packed row {number}:")
        print_row(pieces)
    print_findings([one for one in run.findings if one.level != "ok"])
    say(f"next: workbench train {recipe} --dry-run")


def replay(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint that will be trained, or run/NAME.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="JSONL file to write.")] = Path("replay.jsonl"),
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to keep.")] = 20_000,
    kind: Annotated[str | None, typer.Option(help="chat or text (default: chat with a chat template).")] = None,
    seed: Annotated[int, typer.Option(help="Other seeds write other texts.")] = 0,
    temperature: Annotated[float, typer.Option(help="1 writes as the model would.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Share of the probability that tokens are drawn from.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(min=8, help="Longest turn, or text.")] = 256,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Let a checkpoint write its own replay, for those who have no old data to mix in.

    A chat model writes users' turns and answers them; a base model writes texts. Repeats, circles and unfinished texts
    are left out and counted. An interrupted writing goes on with the same command, to the same file.

    Examples:
        workbench data replay smollm2 --tokens 50000
        workbench data replay run/my-domain --out own.jsonl --seed 1
        workbench data replay smollm2 --kind text --max-new-tokens 400
    """
    from workbench.cli.projects import find_project
    from workbench.errors import ConfigError, did_you_mean
    from workbench.replaying import write_replay

    if kind is not None and kind not in ("chat", "text"):
        raise ConfigError(f"--kind {kind}: {did_you_mean(kind, ('chat', 'text'))}")
    home = find_project(project, create=True)
    with Progress("writing", tokens, unit="tokens") as bar:
        try:
            found = write_replay(
                checkpoint,
                out,
                project=home,
                tokens=tokens,
                kind=kind,  # pyright: ignore[reportArgumentType]
                seed=seed,
                temperature=temperature,
                top_p=top_p,
                max_new_tokens=max_new_tokens,
                on_round=lambda done: bar.advance(done.tokens - bar.done),
            )
        except KeyboardInterrupt:
            say(f"interrupted. To go on: {shlex.join(['workbench', *sys.argv[1:]])}")
            raise SystemExit(130) from None
    if as_json:
        print_json({"out": out.resolve(), "written": found})
        return
    print_line(str(out.resolve()))
    say(f"{found.rows:,} rows, {found.tokens:,} tokens; left out: {_reasons(found.left_out) or 'none'}")
    say(_refusals(found))
    say(f"next: in the recipe's mix: {{name: own-replay, data: {out}, share: 0.05, role: replay}}")


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _refusals(found: "Written") -> str:
    from workbench.statistics import wilson_interval

    if not found.rows:
        return "no row was kept"
    around = wilson_interval(found.refusals, found.rows)
    return (
        f"refusals: {found.refusals / found.rows:.1%} [{around.low:.1%}, {around.high:.1%}] of the answers; a model's "
        "own texts hold few, so mix real safety rows in too"
    )


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
