"""What exists: checkpoints, reports with their items, comparisons, decisions. Knows rows and files; judges nothing.

A report is a folder `reports/<id>` (report.json, items.parquet) and a row; the row is written last, so whatever a
killed process leaves behind is either a whole report or no report.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from workbench.errors import StoreError, did_you_mean
from workbench.records import Checkpoint, ItemScore, Report
from workbench.store import schema
from workbench.store.database import Database, insert
from workbench.store.derived import Entry, add_entry, entries
from workbench.store.faults import explained_files
from workbench.store.files import write_folder
from workbench.store.identity import canonical_json, content_hash, read_record, to_plain, without_defaults
from workbench.store.items import (
    ItemColumns,
    find_text,
    items_digest,
    read_item_columns,
    read_items,
    read_items_frame,
    write_items,
)
from workbench.store.ledger import Ledger
from workbench.store.lineage import Lineage, lineage
from workbench.store.runs import RunEntry, RunStatus, add_run, runs, set_run_status
from workbench.store.storage import REPORTS, Storage, fill_from
from workbench.store.times import now

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_MIN_PREFIX = 4
_REPORT_FILES = ("items.parquet", "report.json")


def report_id(report: Report, items: Sequence[ItemScore]) -> str:
    """Content hash of a report and its items: weights, tokenizer, settings, results and each answer.

    Where the weights lie, what they are called, when and on which machine the numbers were made do not count.
    """
    content = without_defaults(report)
    for name in ("id", "created_at", "environment", "timing"):
        content.pop(name, None)
    content["checkpoint"] = {"fingerprint": report.checkpoint.fingerprint, "tokenizer": report.checkpoint.tokenizer}
    return content_hash("report", content | {"items": items_digest(items)})


class Store:
    """All that is recorded of one project. Threads may share it."""

    def __init__(self, database: Database, reports_folder: Path, storage: Storage | None = None) -> None:
        """`storage`: where reports lie for other machines too; the folder is then a copy, filled as it is read."""
        self.database = database
        self.reports_folder = reports_folder
        self.storage = storage
        self.ledger = Ledger(database)

    @classmethod
    def open(
        cls, url: str, *, folder: Path, busy_timeout_s: float = 30.0, storage: Storage | None = None, pool_size: int = 5
    ) -> "Store":
        """Open, make or upgrade the store of a project folder; see `Database` for what is raised."""
        database = Database(url, folder=folder, busy_timeout_s=busy_timeout_s, pool_size=pool_size)
        return cls(database, folder / "reports", storage)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Checkpoints ------------------------------------------------------------------------------------------------------

    def add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record that it exists. Seen again, it becomes the newest; a stage, parent or run once known stays known."""
        with self.database.write() as connection:
            self._put_checkpoint(connection, checkpoint)

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, the last seen first."""
        query = sa.select(schema.checkpoints.c.document).order_by(
            schema.checkpoints.c.seen_at.desc(), schema.checkpoints.c.id
        )
        with self.database.read() as connection:
            return [read_record(Checkpoint, text) for text in connection.scalars(query)]

    def checkpoint(self, reference: str) -> Checkpoint:
        """By name (the last seen of that name) or by the first characters of its fingerprint.

        Raises:
            StoreError: unknown (with near names), or a prefix of several fingerprints.
        """
        known = self.checkpoints()
        for found in known:
            if reference in (found.name, found.source):
                return found
        prefixed = [c for c in known if len(reference) >= _MIN_PREFIX and c.fingerprint.startswith(reference.lower())]
        _refuse_several("checkpoint", reference, sorted({c.fingerprint for c in prefixed}))
        if prefixed:
            return prefixed[0]
        names = [name for c in known for name in (c.name, c.fingerprint[:12])]
        raise StoreError(f"checkpoint {reference!r}: not in this project; {did_you_mean(reference, names)}")

    # Reports ----------------------------------------------------------------------------------------------------------

    def add_report(self, report: Report, items: Sequence[ItemScore]) -> Path:
        """Write a report and its items; returns their folder. The same content again makes it the latest.

        Raises:
            StoreError: `report.id` is not `report_id(report, items)`, or the folder cannot be written.
            RunError: the disk is full or the store is locked; nothing of the report is then visible.
        """
        expected = report_id(report, items)
        if report.id != expected:
            raise StoreError(f"report {report.id[:12]!r}: its content hash is {expected[:12]}; set it with report_id()")
        folder = self.reports_folder / report.id

        def fill(hidden: Path) -> None:
            write_items(hidden / "items.parquet", items)
            document = json.dumps(to_plain(report), indent=2, allow_nan=False)
            (hidden / "report.json").write_text(document + "\n", encoding="utf-8")

        with explained_files(self.reports_folder):
            write_folder(folder, _REPORT_FILES, fill)
        if self.storage is not None:
            self.storage.at(f"{REPORTS}/{report.id}").put(folder, _REPORT_FILES)
        row = {
            "id": report.id,
            "fingerprint": report.checkpoint.fingerprint,
            "document": canonical_json(report),
            "items": len(items),
            "created_at": report.created_at,
            "added_at": now(),
        }
        with self.database.write() as connection:
            self._put_checkpoint(connection, report.checkpoint)
            statement = insert(connection, schema.reports)
            statement = statement.on_conflict_do_update(
                index_elements=["id"], set_={"added_at": statement.excluded.added_at}
            )
            connection.execute(statement, row)
        return folder

    def reports(
        self, *, checkpoint: str | None = None, suite: str | None = None, limit: int | None = None
    ) -> list[Report]:
        """Reports, the last added first; of one checkpoint (name or fingerprint prefix) or holding one suite."""
        query = sa.select(schema.reports.c.document).order_by(schema.reports.c.added_at.desc(), schema.reports.c.id)
        if checkpoint is not None:
            query = query.where(schema.reports.c.fingerprint == self.checkpoint(checkpoint).fingerprint)
        with self.database.read() as connection:
            found = [read_record(Report, text) for text in connection.scalars(query)]
        return [report for report in found if suite is None or suite in report.suites][:limit]

    def report(self, reference: str = "latest") -> Report:
        """By id, unique beginning of an id, `latest`, or a checkpoint (its last report).

        Raises:
            StoreError: unknown (with near names), or a prefix of several ids.
        """
        query = sa.select(schema.reports.c.id).order_by(schema.reports.c.added_at.desc(), schema.reports.c.id)
        with self.database.read() as connection:
            ids = list(connection.scalars(query))
        if reference == "latest":
            if not ids:
                raise StoreError("report 'latest': this project has no reports yet; run workbench eval")
            return self._report(ids[0])
        found = [i for i in ids if len(reference) >= _MIN_PREFIX and i.startswith(reference.lower())]
        _refuse_several("report", reference, found)
        if found:
            return self._report(found[0])
        try:
            of_checkpoint = self.reports(checkpoint=reference, limit=1)
        except StoreError:
            names = ["latest", *(i[:12] for i in ids), *(c.name for c in self.checkpoints())]
            raise StoreError(f"report {reference!r}: not in this project; {did_you_mean(reference, names)}") from None
        if not of_checkpoint:
            raise StoreError(
                f"report {reference!r}: this checkpoint has no reports yet; run workbench eval {reference}"
            )
        return of_checkpoint[0]

    def items(self, reference: str, *, tasks: Iterable[str] | None = None) -> list[ItemScore]:
        """The item scores behind a report, or those of some of its tasks, in row order."""
        return read_items(self._items_file(reference), tasks=tasks)

    def items_at(self, reference: str, rows: "np.ndarray") -> list[ItemScore]:
        """The item scores of some row numbers, in their order."""
        return read_items(self._items_file(reference), rows=rows)

    def items_with(self, reference: str, text: str) -> "np.ndarray":
        """bool for each row: whether the text stands in its prompt, answer or target."""
        return find_text(self._items_file(reference), text)

    def item_columns(self, reference: str) -> ItemColumns:
        """Their tasks, hashes, groups and metrics as columns."""
        return read_item_columns(self._items_file(reference))

    def items_digest(self, reference: str) -> str:
        """SHA-256 hex over the bytes of a report's item file."""
        with explained_files(self.reports_folder), self._items_file(reference).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def items_frame(self, reference: str) -> "pd.DataFrame":
        """The same as a frame; see `read_items_frame` for the columns."""
        return read_items_frame(self._items_file(reference))

    # Comparisons and decisions ----------------------------------------------------------------------------------------

    def add_comparison(self, document: Mapping[str, Any], *, kind: str, reports: Sequence[str]) -> str:
        """Record a comparison of reports (ids); returns its id. The same content again changes nothing."""
        return add_entry(self.database, "comparison", kind, document, reports)

    def add_decision(self, document: Mapping[str, Any], *, verdict: str, made_from: Sequence[str]) -> str:
        """Record a decision made from comparisons and reports (ids); returns its id."""
        return add_entry(self.database, "decision", verdict, document, made_from)

    def comparisons(self, *, of: str | None = None) -> list[Entry]:
        """All comparisons, the newest first; `of`: only those made from this report id."""
        return entries(self.database, "comparison", of=of)

    def decisions(self, *, of: str | None = None) -> list[Entry]:
        """All decisions, the newest first; `of`: only those made from this comparison or report id."""
        return entries(self.database, "decision", of=of)

    # Runs and lineage -------------------------------------------------------------------------------------------------

    def add_run(self, document: Mapping[str, Any], *, folder: str, start: str | None = None) -> str:
        """Record that a training run begins or goes on; returns its id. `start`: fingerprint of its first weights."""
        return add_run(self.database, document, folder=folder, start=start)

    def set_run_status(self, run_id: str, status: RunStatus) -> None:
        """Say how a training run ended."""
        set_run_status(self.database, run_id, status)

    def runs(self) -> list[RunEntry]:
        """All training runs, the newest first."""
        return runs(self.database)

    def lineage(self, reference: str) -> Lineage:
        """What something was made from: decision, comparison, report, checkpoint, parent checkpoint, run."""
        return lineage(self.database, reference)

    def version(self) -> int:
        """Grows with each write, except the ledger's (which changes no page); equal versions mean equal answers."""
        with self.database.read() as connection:
            counter = schema.counters.c
            return connection.execute(sa.select(counter.value).where(counter.name == "version")).scalar_one()

    # Inside -----------------------------------------------------------------------------------------------------------

    def _put_checkpoint(self, connection: sa.Connection, checkpoint: Checkpoint) -> None:
        table = schema.checkpoints
        names = ("name", "source", "kind", "fingerprint", "tokenizer")
        key = content_hash("checkpoint", {name: getattr(checkpoint, name) for name in names})
        row = {
            "id": key,
            "fingerprint": checkpoint.fingerprint,
            "name": checkpoint.name,
            "document": canonical_json(checkpoint),
            "seen_at": now(),
        }
        connection.execute(insert(connection, table).on_conflict_do_nothing(), row)
        mine = table.c.id == key
        stored = connection.execute(sa.select(table.c.document).where(mine).with_for_update()).scalar_one()
        before = read_record(Checkpoint, stored)
        known = {name: getattr(checkpoint, name) or getattr(before, name) for name in ("stage", "parent", "run")}
        values = {"document": canonical_json(replace(checkpoint, **known)), "seen_at": row["seen_at"]}
        connection.execute(sa.update(table).where(mine).values(values))

    def _report(self, full_id: str) -> Report:
        query = sa.select(schema.reports.c.document).where(schema.reports.c.id == full_id)
        with self.database.read() as connection:
            return read_record(Report, connection.execute(query).scalar_one())

    def _items_file(self, reference: str) -> Path:
        return self.report_folder(self.report(reference).id) / "items.parquet"

    def report_folder(self, full_id: str) -> Path:
        """Where a report's files are; fetched from storage where they are not here."""
        folder = self.reports_folder / full_id
        if self.storage is not None and not (folder / "items.parquet").is_file():
            with explained_files(self.reports_folder):
                fill_from(self.storage.at(f"{REPORTS}/{full_id}"), _REPORT_FILES, folder)
        return folder


def _refuse_several(kind: str, reference: str, found: Sequence[str]) -> None:
    if len(found) > 1:
        shown = ", ".join(full[:16] for full in found[:4])
        raise StoreError(f"{kind} {reference!r}: {len(found)} begin with this ({shown}); write more characters")
