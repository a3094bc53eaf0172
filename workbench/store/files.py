"""A folder of files that appears whole or not at all. Knows disks; knows nothing of what is written.

The files are written into a hidden folder beside, forced to disk, and then renamed in one step.
"""

import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection
from pathlib import Path

_STALE_S = 3600.0


def write_folder(target: Path, names: Collection[str], fill: Callable[[Path], None]) -> None:
    """Let `fill` write the files `names` into a new folder, then make that folder `target`.

    A target that holds them all stays as it is; one that has lost some is replaced.
    """
    if target.exists():
        if all((target / name).is_file() for name in names):
            return
        target.rename(hidden_in(target.parent))  # swept later, in case somebody still reads from it
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target.parent)
    hidden = hidden_in(target.parent)
    hidden.mkdir()
    try:
        fill(hidden)
        for file in hidden.iterdir():
            sync(file)
        sync(hidden)
        try:
            hidden.rename(target)
        except OSError:
            if not target.exists():  # else another process wrote the same content first
                raise
        sync(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step."""
    hidden = hidden_in(path.parent)
    try:
        hidden.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(hidden)
        hidden.replace(path)
        sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder; a link itself, never what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def hidden_in(folder: Path, prefix: str = "tmp") -> Path:
    """A name in a folder that nobody else uses, and that says that it is not finished."""
    return folder / f".{prefix}-{uuid.uuid4().hex}"


def sweep(folder: Path, prefix: str = "tmp") -> None:
    """Remove what killed processes left behind; young folders may belong to a living one."""
    for left in folder.glob(f".{prefix}-*"):
        try:
            if time.time() - left.stat().st_mtime > _STALE_S:
                remove_tree(left)
        except FileNotFoundError:
            continue  # another process sweeps too


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
