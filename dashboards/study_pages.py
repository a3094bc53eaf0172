"""The pages of `docs/studies` as the dashboard shows them: the table of results, and a page in parts. Draws nothing.

Only files of that very folder are read, and no name comes from an address: an address chooses among those in the table.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "studies"
"""Beside the packages in a checkout; not there in an installed package."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_PLOT = re.compile(r"^!\[([^\]]*)\]\(([A-Za-z0-9_-]+\.svg)\)\s*$", re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_HEAD = re.compile(r"^# .*\n+", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A row of the table of results."""

    name: str
    asks: str
    found: str
    page: str
    """Its file in the folder; empty where it is written down elsewhere."""
    elsewhere: str = ""

    @property
    def is_open(self) -> bool:
        """Nothing was found yet."""
        return self.found.strip().lower().startswith(("not finished", "not measured", "not run"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A stretch of Markdown, or a plot with its words."""

    text: str
    plot: Path | None = None


def read_studies(folder: Path = FOLDER) -> list[Study]:
    """The table of studies in the folder's README; empty where there is none."""
    found = []
    for row in read_table(folder, "study"):
        link = _LINK.search(row.get("page", ""))
        target = link[2] if link else ""
        is_here = bool(target) and "/" not in target and (folder / target).is_file()
        found.append(
            Study(
                name=row["study"], asks=row["asks"], found=row["found"], page=target if is_here else "",
                elsewhere="" if is_here or not target else f"docs/{target.removeprefix('../')}",
            )
        )  # fmt: skip
    return found


def read_table(folder: Path, first: str) -> list[dict[str, str]]:
    """The rows of the README's table whose first column is called so, by the names of its columns."""
    file = folder / "README.md"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    start = next((at for at, line in enumerate(lines) if line.startswith(f"| {first} |")), None)
    if start is None:
        return []
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start:]))
    names = _cells(rows[0])
    return [dict(itertools.zip_longest(names, _cells(row)[: len(names)], fillvalue="")) for row in rows[2:]]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def read_parts(file: Path) -> list[Part]:
    """A page without its first heading, cut where a plot stands; a plot that is not there is left out."""
    text = _COMMENT.sub("", _HEAD.sub("", file.read_text(encoding="utf-8"), count=1))
    parts: list[Part] = []
    end = 0
    for match in _PLOT.finditer(text):
        parts.append(Part(text=as_shown(text[end : match.start()])))
        plot = file.parent / match[2]
        if plot.is_file():
            parts.append(Part(text=match[1], plot=plot))
        end = match.end()
    parts.append(Part(text=as_shown(text[end:])))
    return [part for part in parts if part.text.strip() or part.plot is not None]


def as_shown(text: str) -> str:
    r"""Markdown for Streamlit, which would take dollars for formulas; links between files of the source as words.

    >>> as_shown("see [planning](../planning.md), $5")
    'see planning (docs/planning.md), \\$5'
    """
    return plain_links(text).replace("$", r"\$")


def plain_links(text: str) -> str:
    """Links to other files of the source as words, since no page of the dashboard is there; others stay."""

    def as_words(link: "re.Match[str]") -> str:
        words, target = link[1], link[2]
        if target.startswith(("https://", "http://")):
            return link[0]
        name = target.partition("#")[0].removeprefix("../")
        where = f"docs/{name}" if target.startswith("../") else f"docs/studies/{name}"
        return f"{words} ({where})" if name else words

    return _LINK.sub(as_words, text)


def without_markup(text: str) -> str:
    """A cell as a sentence of plain text."""
    cell = told(text)
    return f"{capital(cell)}{'' if cell.endswith(('.', '?', '!')) else '.'}"


def told(text: str) -> str:
    """A cell as plain text."""
    return _LINK.sub(lambda link: link[1], text).replace("`", "").replace("**", "")


def capital(text: str) -> str:
    """With a capital at its beginning."""
    return f"{text[:1].upper()}{text[1:]}"


def asked_of(text: str) -> str:
    """A question that begins with a capital and ends with its sign."""
    cell = without_markup(text).rstrip(".")
    return cell if cell.endswith("?") else f"{cell}?"
