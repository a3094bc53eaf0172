"""SHA-256 over files, remembered until a file changes. Knows bytes and the user's cache folder; knows no format.

A digest is remembered by the path, size, time of change and inode of its files, so asking again costs a few `stat`
calls. The cache may be deleted at any time.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from workbench.config import cache_folder
from workbench.errors import CheckpointError

Framing = Literal["bytes", "named"]
_RACY_NS = 100_000_000
"""A file changed in the last 0.1 s may change again within one tick of the file system's clock: not remembered."""


def digest_files(
    files: Sequence[Path],
    *,
    framing: Framing,
    check: Callable[[], None] = lambda: None,
    compute: Callable[[], str] | None = None,
) -> str:
    """SHA-256 hex over files in the order given; `check` is called first unless the digest is remembered.

    `framing`: `bytes` joins the files' bytes, `named` puts each file's name and size before its bytes. `compute`
    replaces the hashing, for digests over parts of a file.

    Raises:
        CheckpointError: a file changes while it is read.
    """
    before = _stats(files)
    entry = cache_folder() / "digests" / f"{_key(before, framing, compute)}.json"
    remembered = _recall(entry, before)
    if remembered is not None:
        return remembered
    check()
    digest = compute() if compute else hash_files(files, framing)
    if _stats(files) != before:
        raise CheckpointError(f"{files[0].parent}: its files change while they are read; wait until they are written")
    if time.time_ns() - max(stat[2] for stat in before) > _RACY_NS:
        _remember(entry, before, digest)
    return digest


Stat = tuple[str, int, int, int]


def _stats(files: Sequence[Path]) -> list[Stat]:
    found: list[Stat] = []
    for file in files:
        stat = file.stat()
        found.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return found


def _key(stats: Sequence[Stat], framing: Framing, compute: Callable[[], str] | None) -> str:
    what = [framing, compute is not None, [stat[0] for stat in stats]]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def hash_files(files: Sequence[Path], framing: Framing) -> str:
    """SHA-256 hex over files as they are now; nothing remembered is used."""
    digest = hashlib.sha256()
    for file in files:
        if framing == "named":
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _recall(entry: Path, stats: Sequence[Stat]) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):  # a damaged entry is no entry
        saved = json.loads(entry.read_bytes())
        if saved["files"] == [list(stat) for stat in stats] and len(saved["digest"]) == 64:
            return str(saved["digest"])
    return None


def _remember(entry: Path, stats: Sequence[Stat], digest: str) -> None:
    with suppress(OSError):  # no right to write there: the next call hashes again
        entry.parent.mkdir(parents=True, exist_ok=True)
        hidden = entry.with_name(f".{entry.name}.{time.time_ns()}")
        hidden.write_text(json.dumps({"files": stats, "digest": digest}))
        hidden.replace(entry)
