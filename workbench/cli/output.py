"""What commands print: data on stdout, talk on stderr. Knows terminals and pipes; knows nothing of what is shown.

On a terminal tables are aligned, and where it is too narrow the least important columns are left out; no cell wraps.
In a pipe a table is tab-separated with a header line, and progress is a line every ten seconds.
"""

import json
import math
import os
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Literal, TextIO

from workbench.errors import RunError

SCHEMA_VERSION = 1
Tone = Literal["plain", "good", "warn", "bad", "dim", "strong"]
_COLOUR = re.compile(r"\x1b\[\d+m")
_CODES = {"good": "32", "warn": "33", "bad": "31", "dim": "2", "strong": "1"}


@dataclass(frozen=True)
class Column:
    """A column of a table. The first is always shown; others are left out on a terminal that is too narrow."""

    name: str
    right: bool = False
    """Align to the right: numbers."""
    drop: int = 0
    """Columns with a higher number are left out earlier; of equal ones those to the right."""
    tones: Mapping[str, Tone] | None = None
    """First character of a cell -> its tone, on a terminal that has colours."""


def print_json(data: Any, *, file: TextIO | None = None) -> None:
    """One JSON object with `schema_version`. A list stands under `rows`. Raises RunError rather than write NaN."""
    body = to_plain(data)
    body = body if isinstance(body, dict) else {"rows": body}
    text = json.dumps({"schema_version": SCHEMA_VERSION, **body}, indent=2, ensure_ascii=False, allow_nan=False)
    print(text, file=file or sys.stdout)


def to_plain(data: Any, where: str = "output") -> Any:
    """Dataclasses, paths, numpy numbers and the like as plain JSON values; RunError names a NaN's place."""
    if is_dataclass(data) and not isinstance(data, type):
        data = {field.name: getattr(data, field.name) for field in fields(data)}
    elif isinstance(data, Enum):
        data = data.value
    elif hasattr(data, "tolist"):  # numpy scalars and arrays, without importing numpy
        data = data.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    match data:
        case float() if not math.isfinite(data):
            raise RunError(f"{where}: {data} is no number; this is a fault of the workbench, please report it")
        case None | bool() | str() | int() | float():
            return data
        case Mapping():
            return {str(key): to_plain(value, f"{where}.{key}") for key, value in data.items()}
        case list() | tuple():
            return [to_plain(value, f"{where}[{index}]") for index, value in enumerate(data)]
        case _:
            return str(data)  # paths, times, UUIDs


def print_table(
    columns: Sequence[Column | str],
    rows: Iterable[Sequence[Any]],
    *,
    file: TextIO | None = None,
    width: int | None = None,
) -> None:
    """Print rows under a header. `width` is the terminal's (default: asked); None values show as an empty cell."""
    out = file or sys.stdout
    heads = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [[_cell(value) for value in row] for row in rows]
    if not is_terminal(out):
        for line in [[head.name for head in heads], *cells]:
            print("\t".join(line), file=out)
        return
    widths = [max(cell_width(text) for text in (head.name, *(row[i] for row in cells))) for i, head in enumerate(heads)]
    shown = _columns_that_fit(heads, widths, width or shutil.get_terminal_size().columns)
    for number, line in enumerate([[head.name for head in heads], *cells]):
        parts = [line[i] if number == 0 else _toned(line[i], heads[i], out) for i in shown]
        text = "  ".join(_pad(part, widths[i], right=heads[i].right) for part, i in zip(parts, shown, strict=True))
        print(tone(text.rstrip(), "strong", file=out) if number == 0 else text.rstrip(), file=out)
    hidden = [head.name for place, head in enumerate(heads) if place not in shown]
    if hidden:
        say(f"{len(hidden)} {'column does' if len(hidden) == 1 else 'columns do'} not fit: {', '.join(hidden)}")


def print_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """A titled list of names and values; in a pipe `title<TAB>name<TAB>value` lines."""
    if not is_terminal(sys.stdout):
        for name, value in facts:
            print(f"{title}\t{_cell(name)}\t{_cell(value)}")
        return
    width = max(cell_width(name) for name, _ in facts)
    print(tone(title, "strong"))
    for name, value in facts:
        print(f"  {_pad(name, width, right=False)}  {value}")
    print()


def print_line(text: str = "") -> None:
    """A line of data on stdout."""
    print(text)


def say(text: str) -> None:
    """A line of talk on stderr: what is done, what comes next."""
    print(text, file=sys.stderr)


def tone(text: str, kind: Tone, *, file: TextIO | None = None) -> str:
    """Text in colour where `file` is a terminal and NO_COLOR is not set."""
    if kind == "plain" or not has_colour(file or sys.stdout):
        return text
    return f"\x1b[{_CODES[kind]}m{text}\x1b[0m"


def is_terminal(file: TextIO) -> bool:
    """Does a person look at it?"""
    return file.isatty() and os.environ.get("TERM") != "dumb"


def has_colour(file: TextIO) -> bool:
    """May escape codes be written? (https://no-color.org)"""
    return is_terminal(file) and not os.environ.get("NO_COLOR")


def cell_width(text: str) -> int:
    """Columns that text takes on a terminal: East Asian wide characters take two, marks and colour codes none."""
    visible = _COLOUR.sub("", text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in visible
    )


def format_duration(seconds: float) -> str:
    """`0:41`, `12:05`, `3:10:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Items done, rate and time left, on stderr. A context manager; in pipes a line every ten seconds."""

    def __init__(
        self,
        label: str,
        total: int,
        *,
        unit: str = "items",
        done: int = 0,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.label, self.total, self.unit = label, total, unit
        self.done = self._at_start = self._shown = done
        self._file = file or sys.stderr
        self._clock = clock
        self._started = self._last = clock()
        self._live = is_terminal(self._file)
        self._interval_s = 0.1 if self._live else 10.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._live or self.done != self._shown:
            self._write(end="\n")

    def advance(self, items: int = 1) -> None:
        """So many more are done."""
        self.done += items
        if self._clock() - self._last >= self._interval_s:
            self._write(end="" if self._live else "\n")

    def line(self, width: int) -> str:
        """What is shown, at most `width` columns: label, count, rate, time; parts are dropped from the right."""
        elapsed = self._clock() - self._started
        parts = [f"{self.label}  {self.done:,}/{self.total:,} {self.unit}"]
        fresh = self.done - self._at_start
        if fresh and elapsed > 0:
            rate = fresh / elapsed
            parts.append(f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s")
            left = (self.total - self.done) / rate
            parts.append(f"{format_duration(left)} left" if left > 0 else f"in {format_duration(elapsed)}")
        while len(parts) > 1 and cell_width("  ".join(parts)) > width:
            parts.pop()
        return _cut("  ".join(parts), width)

    def _write(self, *, end: str) -> None:
        self._last, self._shown = self._clock(), self.done
        width = shutil.get_terminal_size().columns - 1 if self._live else 1000
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{self.line(width)}", end=end, file=self._file, flush=True)


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")


def _columns_that_fit(heads: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Places of the columns that are shown, from the left; the first always is."""
    shown = list(range(len(heads)))
    while len(shown) > 1 and sum(widths[i] + 2 for i in shown) - 2 > width:
        shown.remove(max(shown[1:], key=lambda i: (heads[i].drop, i)))
    return shown


def _toned(text: str, head: Column, out: TextIO) -> str:
    return tone(text, (head.tones or {}).get(text[:1], "plain"), file=out)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_width(text))
    return space + text if right else text + space


def _cut(text: str, width: int) -> str:
    while cell_width(text) > width:
        text = text[:-1]
    return text
