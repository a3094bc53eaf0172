"""A backup back into a project: everything verified before anything is replaced. Knows the format of `backup`.

The project is put together beside its place and moved there in one step; what was there before is kept under another
name. A store may change its kind: rows of a backup go into SQLite or into an empty PostgreSQL.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from workbench.config import PROJECT_FILE, load_project_config, resolve_env
from workbench.errors import StoreError
from workbench.records import Checkpoint
from workbench.store import schema
from workbench.store.database import Database
from workbench.store.faults import explained_files
from workbench.store.files import hidden_in, sweep, sync, write_file
from workbench.store.identity import canonical_json, content_hash, read_record
from workbench.store.let_go import let_go, record_let_go
from workbench.store.project import project_yaml
from workbench.upkeep.backup import FILES, FORMAT, MANIFEST, STORE
from workbench.upkeep.copying import copy_file, copy_rows, fold_log, is_empty, sha256, sync_folders

_MAX_MANIFEST = 500_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was put back."""

    folder: Path
    store: str
    """URL without a password."""
    files: int
    rows: int
    before: Path | None
    """Where the project lies that was there before."""
    left_out: tuple[str, ...]
    """What the backup said it does not hold."""


def read_manifest(backup: Path, on_file: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The manifest of a backup of which every byte was verified.

    Raises:
        StoreError: no backup, one of a newer version, a file missing, changed or not named, or a name that leads out.
    """
    file = backup / MANIFEST
    try:
        if file.stat().st_size > _MAX_MANIFEST:
            raise ValueError("it is too large")
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        named = {str(one["path"]): (int(one["bytes"]), str(one["sha256"])) for one in manifest["files"]}
        store = str(manifest["store_sha256"])
    except OSError as error:
        raise StoreError(f"{backup}: no backup ({MANIFEST}: {error.strerror or error}); name the folder") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{file}: cannot be read ({error}); take another backup") from None
    if manifest.get("format") != FORMAT:
        raise StoreError(f"{file}: format {manifest.get('format')!r}, this workbench knows {FORMAT}; pip install -U")
    faults = [f"{name!r}: a name that leads out of the backup" for name in named if not _stays_within(name)]
    if faults:
        raise StoreError(f"{backup}: damaged or made to harm: {faults[0]}; take another backup")
    if _bad(backup / STORE, None, store):
        raise StoreError(f"{backup / STORE}: missing or changed since the backup was taken; take another backup")
    for name, (size, digest) in named.items():
        if _bad(backup / FILES / name, size, digest):
            raise StoreError(f"{backup}: {name} is missing or changed since the backup; take another one")
        on_file(name)
    there = {
        path.relative_to(backup / FILES).as_posix() for path in (backup / FILES).rglob("*") if not _is_folder(path)
    }
    if odd := sorted(there - set(named)):
        raise StoreError(f"{backup}: {odd[0]} is not of this backup; take it away, or take another backup")
    return manifest


def restore(
    backup: Path,
    folder: Path,
    *,
    store_url: str | None = None,
    replace_existing: bool = False,
    on_file: Callable[[str], None] = lambda _: None,
) -> Restored:
    """Put a backup back as the project `folder`.

    Args:
        store_url: another store than `workbench.yaml` of the backup names.
        replace_existing: where there is a project already, move it aside.

    Raises:
        StoreError: the backup is not whole, the folder is not empty, or the database is not.
    """
    backup, folder = backup.expanduser().resolve(), folder.expanduser().resolve()
    _check_place(folder, replace_existing)
    manifest = read_manifest(backup, on_file)
    with explained_files(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent, "restore")
        hidden = hidden_in(folder.parent, "restore")
        hidden.mkdir()
        try:
            for one in manifest["files"]:
                copy_file(backup / FILES / one["path"], hidden / one["path"])
            url = _write_config(hidden, store_url)
            staged = hidden / ".restored.sqlite"
            copy_file(backup / STORE, staged)
            where, rows = _put_rows(staged, url, hidden, Path(manifest["root"]), folder)
            sync_folders(hidden)
            before = _move_aside(folder)
            hidden.rename(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    return Restored(
        folder=folder,
        store=where,
        files=len(manifest["files"]),
        rows=rows,
        before=before,
        left_out=tuple(manifest.get("left_out", ())),
    )


def _check_place(folder: Path, replace_existing: bool) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not replace_existing:
        raise StoreError(
            f"{folder}: not empty; name a new folder, or give --replace, which keeps what is there under another name"
        )


def _put_rows(staged: Path, url: str, hidden: Path, old: Path, new: Path) -> tuple[str, int]:
    """The rows into their store; its URL without a password, and how many rows."""
    source = Database(f"sqlite:///{staged}")  # upgrades it, if an older version wrote the backup
    try:
        if old != new:
            _move_paths(source, old, new)
        _record_missing(source, hidden, new)
        if make_url(url).get_backend_name() == "sqlite":
            rows = _count(source)
            target = hidden / str(make_url(url).database)
            if not target.resolve().is_relative_to(hidden.resolve()):
                raise StoreError(
                    f"store {url}: outside the project; give --store sqlite:///workbench.sqlite, or empty it"
                )
            source.close()
            fold_log(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target)
            return url, rows
        server = Database(url)
        try:
            if not is_empty(server):
                raise StoreError(
                    f"store {server.where}: it holds rows already; name an empty database or schema with --store"
                )
            return str(server.where), sum(copy_rows(source, server).values())
        finally:
            server.close()
    finally:
        source.close()
        for end in ("", "-wal", "-shm"):
            staged.with_name(staged.name + end).unlink(missing_ok=True)


def _write_config(folder: Path, store_url: str | None) -> str:
    """`workbench.yaml` with the store that is wanted; its URL."""
    file = folder / PROJECT_FILE
    if not file.exists():
        write_file(file, project_yaml(store_url))
    elif store_url is not None:
        line, text = f"store: {json.dumps(store_url)}", file.read_text(encoding="utf-8")
        changed, count = re.subn(r"^store:.*$", lambda _: line, text, count=1, flags=re.MULTILINE)
        write_file(file, changed if count else f"{line}\n{text}")
    config = load_project_config(folder)
    return resolve_env(config.store, where=f"{PROJECT_FILE}: store")


def _move_paths(database: Database, old: Path, new: Path) -> None:
    """Checkpoints and runs that lay in the old place lie in the new one."""
    names = ("name", "source", "kind", "fingerprint", "tokenizer")
    table, runs = schema.checkpoints, schema.runs
    with database.write(counts=False) as connection:
        for row in connection.execute(sa.select(table)).all():
            checkpoint = read_record(Checkpoint, row.document)
            moved = _moved(checkpoint.source, old, new)
            if moved == checkpoint.source:
                continue
            found = replace(checkpoint, source=moved)
            key = content_hash("checkpoint", {name: getattr(found, name) for name in names})
            values = {"id": key, "document": canonical_json(found)}
            connection.execute(sa.update(table).where(table.c.id == row.id).values(values))
        for row in connection.execute(sa.select(runs.c.id, runs.c.folder)).all():
            change = sa.update(runs).where(runs.c.id == row.id)
            connection.execute(change.values(folder=_moved(row.folder, old, new)))


def _record_missing(database: Database, hidden: Path, new: Path) -> None:
    """Weights that the backup was taken without are let go, and the record says so."""
    with database.read() as connection:
        documents = list(connection.scalars(sa.select(schema.checkpoints.c.document)))
    known = let_go(database)
    missing = []
    for one in (read_record(Checkpoint, text) for text in documents):
        path = Path(one.source)
        if one.kind not in ("folder", "gguf") or not path.is_absolute() or not path.is_relative_to(new):
            continue
        if not (hidden / path.relative_to(new)).exists() and (one.fingerprint, one.source) not in known:
            missing.append(one)
    record_let_go(database, missing, actor="restore", why="the backup was taken without them")


def _moved(text: str, old: Path, new: Path) -> str:
    path = Path(text)
    return str(new / path.relative_to(old)) if path.is_absolute() and path.is_relative_to(old) else text


def _move_aside(folder: Path) -> Path | None:
    if not folder.exists():
        return None
    if not any(folder.iterdir()):
        folder.rmdir()
        return None
    before = folder.with_name(f"{folder.name}.before-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    folder.rename(before)
    return before


def _count(database: Database) -> int:
    with database.read() as connection:
        tables: Mapping[str, sa.Table] = schema.metadata.tables
        return sum(connection.scalar(sa.select(sa.func.count()).select_from(t)) or 0 for t in tables.values())


def _stays_within(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
    )


def _bad(path: Path, size: int | None, digest: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return True
    return (size is not None and path.stat().st_size != size) or sha256(path) != digest


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
