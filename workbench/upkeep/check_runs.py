"""Are weights those that were recorded, and are runs whole? Reads every byte of the weights; loads none."""

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import WorkbenchError
from workbench.records import Checkpoint
from workbench.store.checkpoints import measure
from workbench.store.let_go import LetGo, let_go
from workbench.upkeep.findings import Finding, fault, left, note

if TYPE_CHECKING:
    from workbench.store import Project


def check_checkpoints(project: "Project", looked: Counter[str]) -> list[Finding]:
    """The bytes of each checkpoint that is here give the fingerprint on record; no digest is taken from a cache."""
    found: list[Finding] = []
    seen: set[tuple[str, str, str]] = set()
    gone = let_go(project.store.database)
    for checkpoint in project.store.checkpoints():
        key = (checkpoint.source, checkpoint.fingerprint, checkpoint.tokenizer)
        if checkpoint.kind not in ("folder", "gguf") or key in seen:
            continue
        seen.add(key)
        found += _check_weights(project, checkpoint, gone, looked)
    return found


def _check_weights(
    project: "Project", checkpoint: Checkpoint, gone: Mapping[tuple[str, str], LetGo], looked: Counter[str]
) -> list[Finding]:
    path, name = Path(checkpoint.source), f"checkpoint {checkpoint.name} ({checkpoint.fingerprint[:12]})"
    if not path.is_absolute():
        return []  # imported from a log: its weights were never here
    if not path.exists():
        if (known := gone.get((checkpoint.fingerprint, checkpoint.source))) is not None:
            what = f"{name}: its weights were let go on {known.at[:10]} ({known.why})"
            return [note("checkpoints", what, "its reports and its lineage stay; train it again for the weights")]
        if project.storage is not None:
            return [note("checkpoints", f"{name}: its weights are not on this machine", "storage may hold a copy")]
        if _is_within(path, project.root):
            step = "restore it from a backup, or train it again; its reports and its lineage stay"
            return [fault("checkpoints", f"{name}: its weights are gone from {path.relative_to(project.root)}", step)]
        return [note("checkpoints", f"{name}: its weights are not at {path}", "name it anew if they moved")]
    try:
        fingerprint, tokenizer, size = measure(path)
    except (OSError, WorkbenchError) as error:
        told = str(error).partition(";")[0]
        return [fault("checkpoints", f"{name}: {told}", "restore it from a backup, or make it again")]
    looked["checkpoints"] += 1
    looked["bytes"] += size
    if fingerprint != checkpoint.fingerprint:
        if not _is_within(path, project.root):
            step = "evaluate what lies there now under a name of its own"
            return [note("checkpoints", f"{name}: other weights lie at {path} now", step)]
        what = f"{name}: the bytes at {path} give the fingerprint {fingerprint[:12]}"
        return [fault("checkpoints", what, "restore it from a backup, or train it again; trust no report made since")]
    if tokenizer != checkpoint.tokenizer:
        kind = fault if _is_within(path, project.root) else note
        return [kind("checkpoints", f"{name}: its tokenizer is another than on record", "restore its tokenizer files")]
    return []


def check_runs(project: "Project", looked: Counter[str]) -> list[Finding]:
    """Folders of runs: no checkpoint that is half there but the one that a killed process was writing."""
    from training.checkpoints import MARK, complete_checkpoints
    from workbench.progress import list_runs

    found: list[Finding] = []
    known: set[Path] = set()
    gone = let_go(project.store.database)
    for run in list_runs(project):
        looked["runs"] += 1
        known.add(run.folder)
        if run.state == "silent":
            what = f"run {run.name} ({run.id[:12]}): called running, and nothing was written for long"
            found.append(left("runs", what, "the same workbench train goes on with it"))
        over = (
            run.state == "done" and run.folder.is_dir() and not any(Path(one[1]).parent == run.folder for one in gone)
        )
        if over and not complete_checkpoints(run.folder):
            what = f"run {run.name} ({run.id[:12]}): done, and its folder holds no whole checkpoint"
            found.append(fault("runs", what, "restore it from a backup, or train it again"))
    home = project.root / "runs"
    for folder in sorted(home.iterdir()) if home.is_dir() else ():
        if not folder.is_dir():
            continue
        name = folder.relative_to(project.root)
        halves = [path.name for path in folder.glob("checkpoint-*") if not (path / MARK).is_file()]
        if halves:
            what = f"{name}: {', '.join(sorted(halves)[:3])} {'is' if len(halves) == 1 else 'are'} half-written"
            found.append(left("runs", what, "the same workbench train throws it away and goes on"))
        if folder not in known and complete_checkpoints(folder):
            found.append(left("runs", f"{name}: no row of the store knows this run", "workbench train goes on with it"))
        found += _check_lines(folder, str(name))
        found += _check_rows_file(folder, str(name))
    return found


def _check_lines(folder: Path, name: str) -> list[Finding]:
    found: list[Finding] = []
    for file in (folder / "log.jsonl", folder / "events.jsonl"):
        if not file.is_file():
            continue
        *lines, last = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                json.loads(line)
            except ValueError:
                step = "restore it from a backup; the weights are not touched by it"
                found.append(fault("runs", f"{name}/{file.name}:{number}: no JSON", step))
                break
        if last:
            what = f"{name}/{file.name}: its last line is torn"
            found.append(left("runs", what, "the same workbench train cuts it off"))
    return found


def _check_rows_file(folder: Path, name: str) -> list[Finding]:
    import sqlite3

    file = folder / "rows.sqlite"
    if not file.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30.0)) as connection:
            said = [str(row[0]) for row in connection.execute("PRAGMA quick_check(5)")]
    except sqlite3.Error as error:
        said = [str(error)]
    step = "restore it from a backup; without it nobody can say which rows a step saw"
    return [fault("runs", f"{name}/rows.sqlite: {one}", step) for one in said if one != "ok"]


def _is_within(path: Path, root: Path) -> bool:
    return path.is_relative_to(root.resolve()) or path.is_relative_to(root)
