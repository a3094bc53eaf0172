"""What all policy commands share: where policies are looked for, and the day on which they are read."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from safety.policy import PolicyLibrary

Folders = Annotated[
    list[Path] | None,
    typer.Option("--folder", help="Folder of policies and parents (besides ./policies and the shipped ones)."),
]
Day = Annotated[str | None, typer.Option("--on", metavar="DAY", help="Read it as on this day, YYYY-MM-DD.")]
Reference = Annotated[str, typer.Argument(help="A policy file, or the id of a policy.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Markdown = Annotated[Path | None, typer.Option(help="Write it for a pull request.")]


def open_library(folders: list[Path] | None, on: str | None) -> "PolicyLibrary":
    """Policies by name: in the folders, in ./policies, and the shipped ones."""
    from safety.policy import PolicyLibrary

    beside = Path("policies")
    return PolicyLibrary([*(folders or []), *([beside] if beside.is_dir() else [])], today=read_day(on))


def read_day(text: str | None) -> date:
    """The day that was asked for; today (UTC) by default. Raises ConfigError: it is no day."""
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--on {text}: a day such as 2027-03-31 is expected") from None


def write_markdown(path: Path | None, parts: list[str]) -> None:
    """Write a document where a path is given. Raises ConfigError: it cannot be written."""
    from workbench.cli.output import say

    if path is None:
        return
    try:
        path.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
    say(f"wrote {path}")
