"""A change of policy for a pull request: Markdown, safe against text that attacks its reader. Rows in, text out."""

from collections.abc import Sequence

from workbench.publish.markdown import escape_prose


def heading(title: str, sentence: str) -> str:
    """The title and what matters most."""
    return f"## {escape_prose(title)}\n\n{escape_prose(sentence)}\n"


def section(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]], *, limit: int = 50) -> str:
    """A titled table of at most `limit` rows, which says how many it leaves out; empty where there are none."""
    if not rows:
        return ""
    lines = [f"### {escape_prose(title)}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows[:limit]]
    left = len(rows) - limit
    return "\n".join(lines) + (f"\n\n{left:,} more rows are left out.\n" if left > 0 else "\n")


def _cell(value: object) -> str:
    return escape_prose("" if value is None else str(value)).replace("|", "&#124;")
