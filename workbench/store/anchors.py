"""Heads of the audit's chain in a file outside the database. Knows a file of JSON lines; knows no row's meaning.

Whoever owns the database can write the whole chain anew, with hashes that fit. The file tells: each line says which
hash the chain had at a number, and lines are only ever added, each forced to disk. Keep it, or a copy of it, where
those who can write the database cannot write.
"""

import json
import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.store.audit import Head, audit_hashes
from workbench.store.database import Database
from workbench.store.faults import explained_files
from workbench.store.times import now

FILE_NAME = "audit-anchors.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchor:
    """A head as it was at a time."""

    seq: int
    hash: str
    at: str


class Anchors:
    """The file. Threads may share it; processes may write to it at the same time."""

    def __init__(self, path: Path, *, every: int = 64, seconds: float = 60.0) -> None:
        """`every`, `seconds`: `offer` writes a head that is so many rows or seconds newer than the last one."""
        self.path = path
        self._every, self._seconds = every, seconds
        self._lock = threading.Lock()
        self._last_seq: int | None = None
        self._last_s = 0.0

    def offer(self, head: Head) -> None:
        """Write the head if the last one is old. Call it after the transaction that wrote the row."""
        with self._lock:
            if self._last_seq is None:
                self._last_seq = max((anchor.seq for anchor in self.read()[0]), default=0)
            due = head.seq - self._last_seq >= self._every or time.monotonic() - self._last_s >= self._seconds
            if due and head.seq > self._last_seq:
                self._write(head)

    def add(self, head: Head) -> None:
        """Write the head now."""
        with self._lock:
            self._write(head)

    def _write(self, head: Head) -> None:
        line = json.dumps(asdict(Anchor(seq=head.seq, hash=head.hash, at=now()))).encode() + b"\n"
        with explained_files(self.path.parent):
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(handle).st_size
                if size and os.pread(handle, 1, size - 1) != b"\n":  # a power cut may have left half a line
                    line = b"\n" + line
                os.write(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
        self._last_seq, self._last_s = max(head.seq, self._last_seq or 0), time.monotonic()

    def read(self) -> tuple[list[Anchor], list[int]]:
        """The anchors in the order they were written, and the numbers of lines that are none."""
        if not self.path.exists():
            return [], []
        found: list[Anchor] = []
        damaged: list[int] = []
        with explained_files(self.path.parent):
            lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found.append(Anchor(**json.loads(line)))
            except (ValueError, TypeError):
                damaged.append(number)
        return found, damaged

    def faults(self, database: Database) -> list[str]:
        """What does not fit between the file and the chain; empty: everything does."""
        anchors, damaged = self.read()
        hashes = audit_hashes(database, {anchor.seq for anchor in anchors if anchor.seq})
        said = [f"{self.path.name}: line {number} is no anchor" for number in damaged]
        for anchor in anchors:
            if anchor.seq and hashes.get(anchor.seq) != anchor.hash:
                what = "another hash" if anchor.seq in hashes else "no such row"
                said.append(f"audit row {anchor.seq}: {what} than at {anchor.at}, when it was anchored")
        return said
