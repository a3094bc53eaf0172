"""A project as a folder that can be put back, taken while everybody goes on working. Knows files and one database.

    manifest.json    what is in it: each file with its size and SHA-256, rows of each table, which version wrote it
    store.sqlite     one state of the store, whether it was SQLite or PostgreSQL
    files/           the project's files

The store is read first, then the files: whatever a row names was written before the row. Anchors of the audit are cut
at that state's last row. The folder gets its name when all of it is on disk, so a killed backup is never taken for one.
"""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__
from workbench.errors import StoreError
from workbench.store.anchors import FILE_NAME, Anchors
from workbench.store.faults import explained_files
from workbench.store.files import hidden_in, sweep, sync
from workbench.store.times import now
from workbench.upkeep.copying import (
    CopiedFile,
    copy_file,
    copy_sqlite,
    sha256,
    snapshot,
    sync_folders,
    whole_lines,
    write_bytes,
)

if TYPE_CHECKING:
    from workbench.store import Project

MANIFEST, STORE, FILES = "manifest.json", "store.sqlite", "files"
FORMAT = "workbench.backup/1"
_SKIPPED = {".git", ".venv", "node_modules", "__pycache__"}
_TEMPORARY = (".tmp-*", ".*.new", "*.partial", ".backup-*", ".restore-*")
_APPENDED = {"log.jsonl", "events.jsonl", "output.txt"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """What was written."""

    folder: Path
    files: int
    bytes: int
    rows: dict[str, int]
    checkpoints: int
    """Folders and files of weights that are in it."""
    left_out: tuple[str, ...]
    """Weights that are not in it (by wish, or because they lie outside the project), links, what vanished meanwhile."""


def back_up(
    project: "Project",
    target: Path,
    *,
    checkpoints: bool = True,
    link: bool = False,
    on_file: Callable[[str, int], None] = lambda _path, _bytes: None,
) -> Backup:
    """Write a backup into a folder that is not there yet.

    `checkpoints=False` leaves weights out: the record stays whole, they can be trained again. `link` links files that
    never change (weights, reports) instead of copying them, where the disk is the same.

    Raises:
        StoreError: `target` exists and is not empty, or cannot be written.
        RunError: the disk is full; what was written so far is removed.
    """
    target = target.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target}: exists already; a backup goes into a new folder")
    with explained_files(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, "backup")
        hidden = hidden_in(target.parent, "backup")
        hidden.mkdir()
        try:
            made = _Writing(project, hidden, checkpoints=checkpoints, link=link, on_file=on_file).write()
            sync_folders(hidden)
            if target.exists():
                target.rmdir()
            hidden.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    return Backup(folder=target, **made)


class _Writing:
    """One backup under way."""

    def __init__(
        self, project: "Project", folder: Path, *, checkpoints: bool, link: bool, on_file: Callable[[str, int], None]
    ) -> None:
        self.project, self.folder, self.files = project, folder, folder / FILES
        self.with_weights, self.link, self.on_file = checkpoints, link, on_file
        self.copied: dict[str, CopiedFile] = {}
        self.left_out: list[str] = []
        self.weights: set[str] = set()
        database = project.store.database
        self.own = {Path(f"{database.url.database}{end}") for end in ("", "-wal", "-shm", "-journal")}
        if not database.is_sqlite:
            self.own = set()

    def write(self) -> dict[str, Any]:
        self.files.mkdir()
        rows = snapshot(self.project.store.database, self.folder / STORE)
        last = _last_audit_row(self.folder / STORE)
        for path in self._walk(self.project.root):
            self._take(path, last)
        self._note_outside()
        manifest = {
            "format": FORMAT,
            "workbench": __version__,
            "created_at": now(),
            "revision": self.project.store.database.revision(),
            "root": str(self.project.root),
            "store": "sqlite" if self.project.store.database.is_sqlite else "postgresql",
            "rows": rows,
            "checkpoints": self.with_weights,
            "left_out": self.left_out,
            "store_sha256": sha256(self.folder / STORE),
            "files": [asdict(one) for one in sorted(self.copied.values(), key=lambda one: one.path)],
        }
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        write_bytes(self.folder / MANIFEST, text.encode())
        size = sum(one.bytes for one in self.copied.values()) + (self.folder / STORE).stat().st_size
        return {
            "files": len(self.copied),
            "bytes": size,
            "rows": rows,
            "checkpoints": len(self.weights),
            "left_out": tuple(self.left_out),
        }

    def _walk(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path.name in _SKIPPED or path in self.own or any(path.match(pattern) for pattern in _TEMPORARY):
                continue
            if path.is_symlink():
                name = path.relative_to(self.project.root).as_posix()
                self.left_out.append(f"{name}: a link, whose target may lie anywhere")
            elif path.is_dir():
                if self._enters(path):
                    yield from self._walk(path)
            elif path.is_file():
                yield path

    def _enters(self, path: Path) -> bool:
        """Whether what lies in a folder is to be copied."""
        name = path.relative_to(self.project.root).as_posix()
        if self.folder.is_relative_to(path) or ((path / MANIFEST).is_file() and (path / STORE).is_file()):
            return False  # this backup, or an earlier one
        if is_half_written(path):
            self.left_out.append(f"{name}: a checkpoint that is being written")
            return False
        if is_weights(path):
            if not self.with_weights:
                self.left_out.append(f"{name}: weights, left out as asked")
                return False
            self.weights.add(name)
        return True

    def _take(self, path: Path, last: int) -> None:
        name = path.relative_to(self.project.root).as_posix()
        target = self.files / name
        if path.suffix == ".gguf":
            if not self.with_weights:
                self.left_out.append(f"{name}: weights, left out as asked")
                return
            self.weights.add(name)
        try:
            if path.name == FILE_NAME and path.parent == self.project.root:
                size, digest = write_bytes(target, _anchors_until(path, last))
            elif path.name in _APPENDED:
                size, digest = write_bytes(target, whole_lines(path))
            elif path.suffix == ".sqlite" and (found := copy_sqlite(path, target)) is not None:
                size, digest = found
            else:
                unchanging = name.startswith("reports/") or path.suffix in (".safetensors", ".gguf")
                size, digest = copy_file(path, target, link=self.link and unchanging)
        except FileNotFoundError:
            self.left_out.append(f"{name}: removed while the backup was taken")
            target.unlink(missing_ok=True)
            return
        self.copied[name] = CopiedFile(path=name, bytes=size, sha256=digest)
        self.on_file(name, size)

    def _note_outside(self) -> None:
        for checkpoint in self.project.store.checkpoints():
            outside = checkpoint.kind in ("folder", "gguf") and Path(checkpoint.source).is_absolute()
            if outside and not Path(checkpoint.source).is_relative_to(self.project.root):
                self.left_out.append(f"{checkpoint.name}: its weights lie outside the project, at {checkpoint.source}")


def is_weights(folder: Path) -> bool:
    """Whether a folder is a checkpoint: a run's, or a model."""
    return (folder / "mixer.json").is_file() or (
        (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    )


def is_half_written(folder: Path) -> bool:
    """Whether a folder is a run's checkpoint that does not count yet."""
    in_run = folder.parent.parent.name == "runs" and folder.name.startswith("checkpoint-")
    return in_run and not (folder / "mixer.json").is_file()


def _anchors_until(path: Path, last: int) -> bytes:
    """The anchors up to a row: later ones are of rows that the backup does not hold."""
    anchors, _ = Anchors(path).read()
    return b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in anchors if one.seq <= last)


def _last_audit_row(store: Path) -> int:
    with closing(sqlite3.connect(store)) as connection:
        return int(connection.execute("SELECT coalesce(max(seq), 0) FROM audit").fetchone()[0])
