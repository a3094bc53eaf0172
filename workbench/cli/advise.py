"""`workbench advise`: which stage fits some data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from training.advise import Advised


def command(
    data: Annotated[Path, typer.Argument(help="JSONL, Parquet, CSV or text.", show_default=False)],
    start: Annotated[str, typer.Option(help="Checkpoint that would be trained, or run/NAME.", show_default=False)],
    minutes: Annotated[float, typer.Option(min=0.05, help="For all probes together.")] = 5.0,
    column: Annotated[str, typer.Option(help="Column of plain text.")] = "text",
    sequence_length: Annotated[int, typer.Option(min=16, help="Tokens of a packed row.")] = 512,
    learning_rate: Annotated[float, typer.Option(help="Of the probes.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Draws the rows that are held out.")] = 0,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say which stage fits some data: pre-train, mid-train, SFT, DPO, or just prompt.

    Rows are held out; each candidate makes a few real steps, and what the held-out answers gain is compared row by row
    with what examples in the prompt gain. Training must win by more than twice its standard error.

    Examples:
        workbench advise pairs.jsonl --start smollm2
        workbench advise notes.jsonl --start run/my-domain --minutes 2
        workbench advise posts.csv --start smollm2 --column body --json
    """
    from workbench.advising import advise
    from workbench.cli.projects import find_project

    found = advise(
        data,
        start,
        project=find_project(project, create=True),
        column=column,
        length=sequence_length,
        seconds=60 * minutes,
        learning_rate=learning_rate,
        seed=seed,
    )
    if as_json:
        print_json(found)
        return
    _print(found)


def _print(found: "Advised") -> None:
    numbers = ["loss", "gain", "± 95%", "KL to start", "steps", "seconds"]
    rows = [
        [
            arm.name,
            f"{arm.loss:.3f}",
            f"{arm.gain:+.3f}",
            f"{2 * arm.error:.3f}",
            f"{arm.kl:.3f}",
            arm.steps,
            f"{arm.seconds:.0f}",
        ]
        for arm in found.arms
    ]
    print_table(["arm", *(Column(name, right=True) for name in numbers)], rows)
    say(f"{found.rows:,} rows of {found.kind}, about {found.tokens:,} tokens; {found.held_out} held out")
    print_line(f"{found.advice}: {found.why}")
    if found.advice != "prompt":
        say(f"next: workbench recipes {found.advice}")
