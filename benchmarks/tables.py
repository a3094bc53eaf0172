"""Read a table of questions from CSV, JSON Lines, JSON or Parquet: rows with their numbers, and the faults of the file.

Knows file formats; knows no question.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.errors import TaskError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Something wrong with a file. An error keeps a task from being made; a warning is for the reader to judge."""

    message: str
    row: int | None = None
    """Line of a JSON Lines or text file; row of a spreadsheet, its header being row 1; None: the file as a whole."""
    column: str | None = None
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row is not None else []
        where += [self.column] if self.column else []
        return ": ".join([", ".join(where), self.message] if where else [self.message])


@dataclass(kw_only=True, slots=True)
class Table:
    """Rows of a file as plain values. `numbers[i]` is where row i stands in the file."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def add(self, row: dict[str, Any], number: int) -> None:
        """Append a row."""
        self.rows.append(row)
        self.numbers.append(number)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in the order they first appear."""
        return list(dict.fromkeys(column for row in self.rows for column in row))


def read_table(path: Path, *, encoding: str = "utf-8-sig") -> Table:
    """Read a file by its ending; faults of single rows are kept in the table. Raises TaskError if it cannot be read."""
    if not path.is_file():
        raise TaskError(f"{path}: no such file")
    readers = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json, ".ndjson": _read_json, ".json": _read_json}
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _read_parquet(path)
        if path.suffix.lower() not in readers:
            raise TaskError(f"{path}: unknown ending {path.suffix!r}; known: .csv .tsv .jsonl .json .parquet")
        return readers[path.suffix.lower()](path, _decode(path, encoding))
    except OSError as error:
        raise TaskError(f"{path}: cannot be read: {error.strerror or error}") from error


def _decode(path: Path, encoding: str) -> str:
    data = path.read_bytes()
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TaskError(
            f"{path}: row {line}: byte {data[error.start]:#04x} is not {encoding}; save the file as UTF-8, or give "
            "--encoding (cp1252, shift_jis, ...)"
        ) from None
    except LookupError:
        raise TaskError(
            f"--encoding {encoding}: unknown encoding; utf-8, cp1252 and shift_jis are usual ones"
        ) from None
    if "\0" in text:
        raise TaskError(f"{path}: holds zero bytes; it is no text file, or UTF-16: give --encoding utf-16")
    return text


def _read_csv(path: Path, text: str) -> Table:
    table = Table(path=path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines += [(number, cells) for number, cells in enumerate(reader, 1) if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        table.faults.append(
            Fault(message=f"not CSV at line {reader.line_num}: {error}; is a quotation mark left open?")
        )
    if not lines:
        return table
    header, body = _header(lines)
    for name, count in Counter(header).items():
        if count > 1:
            table.faults.append(Fault(message=f"column {name!r} stands {count} times in the header", row=1))
    for number, cells in body:
        if len(cells) != len(header):
            message = f"{len(cells)} cells where the header has {len(header)}; quote cells that hold {delimiter!r}"
            table.faults.append(Fault(message=message, row=number))
        table.add(dict(zip(header, cells, strict=False)), number)
    return table


def _delimiter(text: str) -> str:
    first = text.lstrip().split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _header(lines: list[tuple[int, list[str]]]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Split off the header; the files of MMLU have none: question, choices, and a letter in the last cell."""
    widths = Counter(len(cells) for _, cells in lines)
    width = widths.most_common(1)[0][0]
    letters = LETTERS[: max(0, width - 2)]
    ends = [cells[-1].strip() for _, cells in lines if len(cells) == width]
    if width >= 4 and all(len(end) == 1 and end in letters for end in ends):
        return ["question", *letters, "answer"], lines
    return [name.strip() for name in lines[0][1]], lines[1:]


def _read_json(path: Path, text: str) -> Table:
    table = Table(path=path)
    if text.lstrip().startswith("["):
        try:
            rows: Iterable[tuple[int, Any]] = enumerate(json.loads(text), 1)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path}: row {error.lineno}: not JSON ({error.msg})") from None
        for number, row in rows:
            _add_object(table, row, number)
        return table
    # Not splitlines(): a line separator of Unicode inside a text is no end of a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            table.faults.append(Fault(message=f"not JSON ({error.msg}); one object a line is needed", row=number))
            continue
        _add_object(table, row, number)
    return table


def _add_object(table: Table, row: Any, number: int) -> None:
    if isinstance(row, dict):
        table.add(row, number)
    else:
        table.faults.append(Fault(message=f"a JSON object is needed, got {type(row).__name__}", row=number))


def _read_parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise TaskError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from error
    table = Table(path=path)
    for number, row in enumerate(rows, 1):
        table.add({key: value for key, value in row.items() if value is not None}, number)
    return table
