"""Commands for the tests of the command line: each ends in its own way."""

import errno
from typing import Annotated

import typer

from workbench.errors import CheckpointError, RunError


def greet(
    name: Annotated[str, typer.Argument(help="Whom to greet.")],
    model_args: Annotated[str, typer.Option(help="Key=value pairs.", rich_help_panel="Model")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.", rich_help_panel="Tasks")] = 0,
) -> None:
    """Greet somebody.

    Examples:
        workbench greet Ada
        workbench greet Ada --limit 3
    """
    typer.echo(f"{name} {model_args} {limit}")


def fail(how: str) -> None:
    """Fail in a given way."""
    match how:
        case "user":
            raise CheckpointError("models/x: no config.json; name a folder that holds a model")
        case "run":
            raise RunError("logits are NaN in tile 3")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "items.parquet")
        case "missing":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "questions.csv")
        case "bug":
            raise ZeroDivisionError("division by zero")
        case "interrupt":
            raise KeyboardInterrupt
        case "pipe":
            raise BrokenPipeError
        case "gate":
            raise typer.Exit(3)
