"""Which rows each step of a run saw, and which steps saw a row. Knows one run's folder; knows no model and no project.

A run keeps `rows.sqlite`: each packed row's documents by step, and of each document that was seen the source, its row
in the file, and keys of what it says (`training.rows`), so that a text is found again although its file has changed or
is gone. A run that goes on from a checkpoint first forgets the steps after it: they come again.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.mixing import Span
from training.rows import normalise, text_key, text_keys
from workbench.errors import RunError, StoreError

NAME = "rows.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS sources (name TEXT PRIMARY KEY, path TEXT NOT NULL, text_column TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS documents (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL, row INTEGER NOT NULL, key BLOB NOT NULL, UNIQUE (source, row));
CREATE INDEX IF NOT EXISTS documents_key ON documents (key);
CREATE TABLE IF NOT EXISTS texts (
    key BLOB NOT NULL, document INTEGER NOT NULL, PRIMARY KEY (key, document)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spans (
    step INTEGER NOT NULL, packed INTEGER NOT NULL, part INTEGER NOT NULL, document INTEGER NOT NULL,
    epoch INTEGER NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    PRIMARY KEY (step, packed, part)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spans_document ON spans (document, step);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenRow:
    """A stretch of a row that a step saw."""

    step: int
    packed: int
    """Which packed row of the step, from 0."""
    source: str
    row: int
    """Of the file, from 1."""
    epoch: int
    start: int
    """First token of the row's document."""
    stop: int
    key: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """A row that a run saw, and when."""

    source: str
    row: int
    """Of the file, from 1, as it was when the run was carried out."""
    key: bytes
    steps: tuple[int, ...]
    epochs: int
    """Passes in which it was seen."""


class Ledger:
    """A run's record of rows, while the run writes it. Close it when training ends."""

    def __init__(self, folder: Path, sources: Mapping[str, Any]) -> None:
        """`sources`: RowDocuments by name; they say which row of the file a document is and what it says."""
        self._sources = sources
        with _disk_faults(folder):
            self._connection = sqlite3.connect(folder / NAME)
            self._connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {_TABLES}")
            with self._connection as connection:
                known = [(name, one.path, one.column) for name, one in sources.items()]
                connection.executemany("INSERT OR REPLACE INTO sources VALUES (?, ?, ?)", known)
        self._folder = folder

    def forget_after(self, step: int) -> None:
        """Those steps come again; documents that only they saw were not seen."""
        with _disk_faults(self._folder), self._connection as connection:
            connection.execute("DELETE FROM spans WHERE step > ?", (step,))
            connection.execute("DELETE FROM documents WHERE id NOT IN (SELECT document FROM spans)")
            connection.execute("DELETE FROM texts WHERE document NOT IN (SELECT id FROM documents)")

    def record(self, step: int, rows: Sequence[Sequence[Span]]) -> None:
        """A step saw these packed rows: all of it is written, or nothing."""
        with _disk_faults(self._folder), self._connection as connection:
            lines = [
                (step, packed, part, self._document(connection, span), span.epoch, span.start, span.end)
                for packed, spans in enumerate(rows)
                for part, span in enumerate(spans)
            ]
            connection.executemany("INSERT INTO spans VALUES (?, ?, ?, ?, ?, ?, ?)", lines)

    def close(self) -> None:
        """Fold what was written into one file."""
        self._connection.close()

    def __del__(self) -> None:
        if hasattr(self, "_connection"):
            self._connection.close()

    def _document(self, connection: sqlite3.Connection, span: Span) -> int:
        documents = self._sources[span.source]
        number = documents.number(span.row)
        wanted = (span.source, number)
        known = connection.execute("SELECT id FROM documents WHERE source = ? AND row = ?", wanted).fetchone()
        if known:
            return known[0]
        made = connection.execute(
            "INSERT INTO documents (source, row, key) VALUES (?, ?, ?)", (*wanted, documents.key(span.row))
        ).lastrowid
        keys = {(key, made) for key in text_keys(documents.texts(span.row))}
        connection.executemany("INSERT OR IGNORE INTO texts VALUES (?, ?)", sorted(keys))
        assert made is not None
        return made


def has_ledger(folder: Path) -> bool:
    """Was this run's reading recorded?"""
    return (folder / NAME).is_file()


def rows_of_step(folder: Path, step: int) -> list[SeenRow]:
    """What a step saw, in order; empty for a step that was never reached."""
    query = """
        SELECT step, packed, source, row, epoch, start, stop, key FROM spans JOIN documents ON id = document
        WHERE step = ? ORDER BY packed, part"""
    with _reading(folder) as connection:
        return [_seen(line) for line in connection.execute(query, (step,))]


def seen_rows(folder: Path) -> list[SeenRow]:
    """All that a run saw, in order."""
    query = """
        SELECT step, packed, source, row, epoch, start, stop, key FROM spans JOIN documents ON id = document
        ORDER BY step, packed, part"""
    with _reading(folder) as connection:
        return [_seen(line) for line in connection.execute(query)]


def last_step(folder: Path) -> int:
    """The last step that was recorded; 0 if none was."""
    with _reading(folder) as connection:
        return connection.execute("SELECT coalesce(max(step), 0) FROM spans").fetchone()[0]


def source_files(folder: Path) -> dict[str, tuple[str, str]]:
    """Name of a source -> where it was read from, and its column of text."""
    with _reading(folder) as connection:
        return {name: (path, column) for name, path, column in connection.execute("SELECT * FROM sources")}


def find_text(folder: Path, text: str) -> list[Sighting]:
    """Rows that are this text, or hold it as one of their texts or lines; case and white space make no difference."""
    wanted = text_key(normalise(text))
    query = "SELECT id, source, row, key FROM documents WHERE id IN (SELECT document FROM texts WHERE key = ?)"
    with _reading(folder) as connection:
        return _sightings(connection, connection.execute(query, (wanted,)))


def find_keys(folder: Path, keys: Iterable[bytes]) -> list[Sighting]:
    """Rows that say what these keys stand for, wherever they stood."""
    with _reading(folder) as connection:
        found = [
            line
            for key in sorted(set(keys))
            for line in connection.execute("SELECT id, source, row, key FROM documents WHERE key = ?", (key,))
        ]
        return _sightings(connection, found)


def find_row(folder: Path, source: str, row: int) -> list[Sighting]:
    """A row by its source's name and its number in the file."""
    query = "SELECT id, source, row, key FROM documents WHERE source = ? AND row = ?"
    with _reading(folder) as connection:
        return _sightings(connection, connection.execute(query, (source, row)))


def _sightings(connection: sqlite3.Connection, documents: Iterable[Sequence[Any]]) -> list[Sighting]:
    found: list[Sighting] = []
    for number, source, row, key in list(documents):
        lines = connection.execute("SELECT DISTINCT step, epoch FROM spans WHERE document = ?", (number,)).fetchall()
        steps = tuple(sorted({step for step, _ in lines}))
        found.append(Sighting(source=source, row=row, key=key, steps=steps, epochs=len({epoch for _, epoch in lines})))
    return sorted(found, key=lambda one: (one.source, one.row))


def _seen(line: Sequence[Any]) -> SeenRow:
    names = ("step", "packed", "source", "row", "epoch", "start", "stop", "key")
    return SeenRow(**dict(zip(names, line, strict=True)))


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    path = folder / NAME
    if not path.is_file():
        raise StoreError(f"{path}: no such file: the run recorded no rows; it was not begun, or by an older version")
    try:
        with closing(sqlite3.connect(path)) as connection:
            yield connection
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RunError(
            f"{folder / NAME}: {error}; make room on the disk, then the same command goes on from the last checkpoint"
        ) from None
