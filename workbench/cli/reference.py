"""The reference of all commands as Markdown, made from their own help. `make docs` writes it to docs/cli.md."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.cli import build_cli
from workbench.cli.lazy import LazyGroup

HEAD = """# Command line

<!-- Made by `make docs` from the commands themselves: edit those, not this page. -->

Data goes to stdout, talk to stderr; `--json` prints one object. Exit codes: 0 done or pass · 1 gate failed · 2 usage or
configuration · 3 gate holds for lack of evidence · 4 the run failed (model, data, disk) · 130 interrupted.
"""
WIDTH = 100


def build_reference() -> str:
    """The whole page."""
    sections = [f"## `{path}`\n\n```text\n{text}\n```\n" for path, text in help_texts()]
    return "\n".join([HEAD, *sections])


def help_texts() -> Iterator[tuple[str, str]]:
    """(command line up to the command, its help) of the root, each group and each command."""
    yield from _walk(build_cli(), None, "workbench")


def _walk(command: Any, parent: Any, path: str) -> Iterator[tuple[str, str]]:
    context = command.make_context(path.split()[-1], [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    yield path, command.get_help(context).strip()
    if isinstance(command, LazyGroup):
        for name in command.table:
            yield from _walk(command.get_command(context, name), context, f"{path} {name}")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(build_reference(), encoding="utf-8")
