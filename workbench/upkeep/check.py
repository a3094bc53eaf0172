"""Is everything of a project as it was written? Reads every byte; changes nothing but leftovers, and those if asked.

Files are held against the hashes on record, rows against each other, the audit's chain against its anchors outside the
database. Knows each part by its front door. A project that is at work may be looked through: what is being written
shows as left behind, never as a fault.
"""

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from workbench.errors import WorkbenchError
from workbench.store import schema
from workbench.store.review_schema import review_slots
from workbench.store.times import now
from workbench.upkeep.check_rows import check_database, check_ledger, check_rows
from workbench.upkeep.check_runs import check_checkpoints, check_runs
from workbench.upkeep.findings import Checked, Finding, fault, left

if TYPE_CHECKING:
    from workbench.store import Project

STALE_S = 3600.0
"""Temporary files younger than this may belong to a living process."""
_TEMPORARY = (".tmp-*", ".*.new", "*.partial", ".backup-*")
_SKIPPED = {".git", ".venv", "node_modules", "__pycache__"}


def check_project(
    project: "Project", *, repair: bool = False, on_part: Callable[[str], None] = lambda _: None
) -> Checked:
    """Look at everything. `repair`: remove temporary files that nobody writes any more, and free expired leases.

    Raises:
        StoreError, RunError: the database cannot be opened at all.
    """
    looked: Counter[str] = Counter()
    found: list[Finding] = []
    store = project.store
    on_part("database")
    found += check_database(store)
    on_part("reports")
    found += _check_reports(project, looked)
    on_part("rows")
    found += check_rows(store, looked)
    on_part("ledger")
    found += check_ledger(store, looked)
    on_part("checkpoints")
    found += check_checkpoints(project, looked)
    on_part("runs")
    found += check_runs(project, looked)
    on_part("audit")
    found += _check_audit(project, looked)
    found += _check_leases(project, repair=repair)
    found += _check_temporary(project.root, repair=repair)
    found += _check_lines(project.root, looked)
    order = {"fault": 0, "left": 1, "note": 2}
    found.sort(key=lambda one: order[one.kind])
    return Checked(root=str(project.root), findings=tuple(found), looked_at=dict(looked))


def _check_reports(project: "Project", looked: Counter[str]) -> list[Finding]:
    """Each report's folder says what its row says, and its answers give the id that it bears."""
    from workbench.records import Report
    from workbench.store import report_id
    from workbench.store.identity import canonical_json, read_record
    from workbench.store.items import read_items

    found: list[Finding] = []
    with project.store.database.read() as connection:
        rows = connection.execute(sa.select(schema.reports)).mappings().all()
    cure = "restore the folder from a backup, or evaluate again: the ledger still holds the answers"
    for row in rows:
        looked["reports"] += 1
        short = row["id"][:12]
        try:
            folder = project.store.report_folder(row["id"])
            report = read_record(Report, row["document"])
            looked["bytes"] += sum(file.stat().st_size for file in folder.iterdir())
            items = read_items(folder / "items.parquet")
            kept = read_record(Report, (folder / "report.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, WorkbenchError) as error:
            told = error.strerror or str(error) if isinstance(error, OSError) else str(error).partition(";")[0]
            found.append(fault("reports", f"report {short}: {told}", cure))
            continue
        looked["items"] += len(items)
        if len(items) != row["items"] or report_id(report, items) != row["id"] or report.id != row["id"]:
            found.append(fault("reports", f"report {short}: its answers are not those that gave it its id", cure))
        if report_id(kept, items) != row["id"] or kept.id != row["id"]:
            found.append(fault("reports", f"report {short}: report.json says something else than its row", cure))
        elif canonical_json(kept) != canonical_json(report):
            what = f"report {short}: its folder is of a killed process, its row of the same evaluation again"
            found.append(left("reports", what, "both say the same but for when and where it was made: nothing to do"))
        if report.checkpoint.fingerprint != row["fingerprint"]:
            found.append(fault("reports", f"report {short}: its row names other weights than its document", cure))
    named = {row["id"] for row in rows}
    if project.reports_folder.is_dir():
        for folder in sorted(project.reports_folder.iterdir()):
            if folder.is_dir() and not folder.name.startswith(".") and folder.name not in named:
                what = f"reports/{folder.name[:12]}: whole, but its row was never written"
                found.append(left("reports", what, "the same evaluation again takes it up, or delete it"))
    return found


def _check_audit(project: "Project", looked: Counter[str]) -> list[Finding]:
    from safety.review.verify import verify
    from workbench.store.anchors import FILE_NAME, Anchors

    said = verify(project.store.database, Anchors(project.root / FILE_NAME))
    looked["audit rows"] += said.audit_rows
    looked["anchors"] += said.anchors
    looked["labels"] += said.labels
    looked["review items"] += said.items
    looked["review slots"] += said.slots
    cure = "somebody changed the database by hand, or it was damaged: restore a backup, and ask who could write to it"
    return [fault("audit", one, cure) for one in said.faults]


def _check_leases(project: "Project", *, repair: bool) -> list[Finding]:
    """A lease that has ended is freed by the next claim; until then it is only untidy."""
    slots = review_slots.c
    overdue = sa.and_(slots.state == "leased", slots.lease_until < now())
    with project.store.database.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(review_slots).where(overdue)) or 0
    if not count:
        return []
    freed = 0
    if repair:
        from safety.review.claiming import sweep

        with project.store.database.write(counts=False, durable=True) as connection:
            freed = sweep(connection, datetime.now(UTC))
    what = f"{count:,} {'lease has' if count == 1 else 'leases have'} ended and nobody has claimed since"
    step = "the next claim frees them, or now: workbench doctor --deep --repair"
    return [left("leases", what, step, repaired=freed >= count)]


def _check_temporary(root: Path, *, repair: bool) -> list[Finding]:
    from workbench.store.files import remove_tree

    found: list[Finding] = []
    for path in _walk(root):
        if not any(path.match(pattern) for pattern in _TEMPORARY):
            continue
        try:
            age = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue  # its process has just renamed it
        if age < STALE_S:
            step = "if nothing is at work, it is removed an hour after it was last written"
            found.append(left("files", f"{path.relative_to(root)}: being written, or left {age:.0f} s ago", step))
            continue
        if repair:
            remove_tree(path)
        step = "workbench doctor --deep --repair removes it"
        what = f"{path.relative_to(root)}: half-written {age / 3600:.0f} h ago by a process that was killed"
        found.append(left("files", what, step, repaired=repair))
    return found


def _walk(root: Path) -> list[Path]:
    """Files and folders below the project; what is temporary is named, not entered. Links are not followed."""
    found: list[Path] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            continue
        for path in entries:
            found.append(path)
            hidden = any(path.match(pattern) for pattern in _TEMPORARY)
            if path.is_dir() and not path.is_symlink() and not hidden and path.name not in _SKIPPED:
                waiting.append(path)
    return found


def _check_lines(root: Path, looked: Counter[str]) -> list[Finding]:
    """Outputs that a killed run goes on with: each whole line is JSON, and only the last may be torn."""
    found: list[Finding] = []
    for header in _walk(root):
        if not header.name.endswith(".jsonl.run.json"):
            continue
        file = header.with_name(header.name.removesuffix(".run.json"))
        name = file.relative_to(root)
        if not file.is_file():
            continue
        looked["outputs"] += 1
        *lines, last = file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                json.loads(line)
            except ValueError:
                found.append(fault("files", f"{name}:{number}: no JSON", "write it anew with --restart"))
                break
        if last:
            found.append(left("files", f"{name}: its last line is torn", "the same command again cuts it off"))
    return found
