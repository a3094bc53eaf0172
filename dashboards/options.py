"""What the dashboard was started with: `app.py --project FOLDER [--read-only]`. Knows the command line alone."""

import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The arguments behind `--` of `streamlit run`."""

    project: Path
    read_only: bool = False
    """Nobody may change anything here, whatever their role."""


def options() -> Options:
    """Read from this process's arguments; the project is the working folder where none is named."""
    words = sys.argv[1:]
    named = words[words.index("--project") + 1] if "--project" in words[:-1] else "."
    return Options(project=Path(named).resolve(), read_only="--read-only" in words)
