"""Training runs as they are recorded: what was asked, where it is, how far it came. Knows rows; trains nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from workbench.errors import StoreError, did_you_mean
from workbench.store.database import Database, insert
from workbench.store.identity import canonical_json, content_hash
from workbench.store.schema import runs as table
from workbench.store.times import now

RunStatus = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEntry:
    """One execution of a recipe."""

    id: str
    status: RunStatus
    start: str | None
    """Fingerprint of the checkpoint it began from."""
    folder: str
    document: Mapping[str, Any]
    """Recipe, data manifest, seeds, versions."""
    created_at: str
    changed_at: str


def add_run(database: Database, document: Mapping[str, Any], *, folder: str, start: str | None) -> str:
    """Record that a run begins, or goes on: the same document in the same folder is the same run."""
    run_id = content_hash("run", {"document": document, "folder": folder, "start": start})
    time = now()
    row = {
        "id": run_id,
        "status": "running",
        "start": start,
        "folder": folder,
        "document": canonical_json(document),
        "created_at": time,
        "changed_at": time,
    }
    with database.write() as connection:
        statement = insert(connection, table)
        again = {"status": statement.excluded.status, "changed_at": statement.excluded.changed_at}
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=again), row)
    return run_id


def set_run_status(database: Database, run_id: str, status: RunStatus) -> None:
    """Say how a run ended.

    Raises:
        StoreError: there is no such run.
    """
    with database.write() as connection:
        change = sa.update(table).where(table.c.id == run_id).values(status=status, changed_at=now())
        if connection.execute(change).rowcount == 0:
            known = list(connection.scalars(sa.select(table.c.id)))
            raise StoreError(f"run {run_id[:12]!r}: not in this project; {did_you_mean(run_id, known)}")


def runs(database: Database) -> list[RunEntry]:
    """All runs, the newest first."""
    query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return [RunEntry(**(row | {"document": json.loads(row["document"])})) for row in rows]
