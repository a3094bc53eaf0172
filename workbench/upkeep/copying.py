"""Rows from one database to another, files with their hashes. Knows tables and bytes, and nothing of what they mean."""

import hashlib
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from workbench.store import schema
from workbench.store.database import Database
from workbench.store.faults import explained_files
from workbench.store.files import sync

_ROWS = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class CopiedFile:
    """A file of a backup."""

    path: str
    """Relative to the backup's `files` folder, with forward slashes."""
    bytes: int
    sha256: str


def snapshot(database: Database, target: Path) -> dict[str, int]:
    """One state of a store as a new SQLite file, while others go on writing; rows of each table."""
    if database.is_sqlite:
        with explained_files(target.parent), closing(sqlite3.connect(str(database.url.database), timeout=60)) as own:
            own.execute("VACUUM INTO ?", (str(target),))  # one transaction: writers do not wait for it
        with closing(sqlite3.connect(target)) as copy:
            names = list(schema.metadata.tables)
            return {name: copy.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}  # noqa: S608
    copy = Database(f"sqlite:///{target}")
    try:
        return copy_rows(database, copy)
    finally:
        copy.close()
        fold_log(target)


def copy_rows(source: Database, target: Database) -> dict[str, int]:
    """All rows of one state of `source` into an empty `target`, in one transaction; how many of each table."""
    counts: dict[str, int] = {}
    reading = source.engine.connect()
    if not source.is_sqlite:
        reading = reading.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with source.explained(), target.write(counts=False, durable=True) as writing, reading, reading.begin():
        writing.execute(sa.delete(schema.counters))  # the one row that a new store has
        for table in schema.metadata.sorted_tables:
            counts[table.name] = 0
            found = reading.execution_options(yield_per=_ROWS).execute(sa.select(table)).mappings()
            for part in found.partitions(_ROWS):
                writing.execute(sa.insert(table), [dict(row) for row in part])
                counts[table.name] += len(part)
        if not target.is_sqlite:  # rows came with their numbers: the next one is behind them
            for table in schema.metadata.sorted_tables:
                if (column := table.autoincrement_column) is not None:
                    query = "SELECT setval(pg_get_serial_sequence(:table, :column), coalesce(max({0}), 0) + 1, false) "
                    text = sa.text(f"{query.format(column.name)} FROM {table.name}")  # our own names
                    writing.execute(text, {"table": table.name, "column": column.name})
    return counts


def is_empty(database: Database) -> bool:
    """Whether a store holds no row but its counter."""
    with database.read() as connection:
        return all(
            connection.scalar(sa.select(sa.literal(1)).select_from(table).limit(1)) is None
            for table in schema.metadata.sorted_tables
            if table is not schema.counters
        )


def copy_file(source: Path, target: Path, *, link: bool = False) -> tuple[int, str]:
    """Copy (or link) a file and read the copy back; its size and SHA-256.

    Raises:
        OSError: what was read back is not what was read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(source, target, follow_symlinks=False)
            return target.stat().st_size, sha256(target)
        except OSError:
            target.unlink(missing_ok=True)  # another disk, or one that knows no links
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while block := reading.read(1 << 20):
            digest.update(block)
            size += writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    shutil.copystat(source, target)
    if sha256(target) != digest.hexdigest():
        raise OSError(5, f"{target}: what was read back is not what was written")
    return size, digest.hexdigest()


def copy_sqlite(source: Path, target: Path) -> tuple[int, str] | None:
    """A consistent copy of a database that may be written to; None: it is none that can be read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.exists():
        raise FileNotFoundError(source)
    try:
        with closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as reading:
            reading.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.Error:
        target.unlink(missing_ok=True)
        return None
    return target.stat().st_size, sha256(target)


def write_bytes(target: Path, data: bytes) -> tuple[int, str]:
    """A new file, on disk when this returns."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return len(data), hashlib.sha256(data).hexdigest()


def sha256(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folders(folder: Path) -> None:
    """Force the names in a tree of folders to disk."""
    for inner, _, _ in os.walk(folder):
        sync(Path(inner))


def whole_lines(path: Path) -> bytes:
    """A file of lines that somebody appends to, up to its last whole line."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def fold_log(target: Path) -> None:
    """Put what stands in the write-ahead log into the file itself: the log is no part of a backup."""
    with closing(sqlite3.connect(target, timeout=60)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
