"""Every number leads back: from a decision to the weights it is about. Knows ids and links; judges nothing."""

from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from workbench.errors import StoreError, did_you_mean
from workbench.records import Checkpoint
from workbench.store import schema
from workbench.store.database import Database
from workbench.store.identity import read_record

NodeKind = Literal["decision", "comparison", "report", "checkpoint", "run"]
_MIN_PREFIX = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """One thing, and what it was made from."""

    kind: NodeKind
    id: str
    """A checkpoint's id here is its fingerprint."""
    label: str
    """Verdict, kind of comparison, suites, name or status; empty for what is not in this project."""
    parents: tuple["Lineage", ...] = ()


def lineage(database: Database, reference: str) -> Lineage:
    """The tree above a decision, comparison, report, checkpoint or run, named by id, id prefix or checkpoint name.

    Raises:
        StoreError: unknown (with near names), or the beginning of several ids.
    """
    with database.read() as connection:
        return _Tree(connection).find(reference)


class _Tree:
    """All ids and links in memory (a project has thousands, not millions), then a walk without queries."""

    def __init__(self, connection: sa.Connection) -> None:
        tables = schema
        self.labels: dict[str, tuple[NodeKind, str]] = {}
        self.parents: dict[str, list[tuple[NodeKind, str]]] = {}
        self.names: dict[str, str] = {}
        self._read_runs(connection)
        self._read_checkpoints(connection)
        for row in connection.execute(sa.select(tables.reports.c.id, tables.reports.c.fingerprint)):
            self.labels[row.id] = ("report", self.labels.get(row.fingerprint, ("checkpoint", ""))[1])
            self.parents[row.id] = [("checkpoint", row.fingerprint)]
        for row in connection.execute(sa.select(tables.comparisons.c.id, tables.comparisons.c.kind)):
            self.labels[row.id] = ("comparison", row.kind)
        for row in connection.execute(sa.select(tables.decisions.c.id, tables.decisions.c.verdict)):
            self.labels[row.id] = ("decision", row.verdict)
        for row in connection.execute(sa.select(tables.links).order_by(tables.links.c.position)):
            known = self.parents.setdefault(row.child, [])
            if (row.parent_kind, row.parent) not in known:
                known.append((row.parent_kind, row.parent))

    def find(self, reference: str) -> Lineage:
        full = self.names.get(reference, reference)
        if full in self.labels:
            return self._node(self.labels[full][0], full, ())
        folded = reference.lower()
        found = sorted(i for i in self.labels if len(folded) >= _MIN_PREFIX and i.startswith(folded))
        if len(found) > 1:
            shown = ", ".join(f"{self.labels[i][0]} {i[:16]}" for i in found[:4])
            raise StoreError(f"{reference!r}: {len(found)} ids begin with this ({shown}); write more characters")
        if not found:
            known = [*self.names, *(i[:12] for i in self.labels)]
            raise StoreError(f"{reference!r}: not in this project; {did_you_mean(reference, known)}")
        return self._node(self.labels[found[0]][0], found[0], ())

    def _read_runs(self, connection: sa.Connection) -> None:
        for row in connection.execute(sa.select(schema.runs.c.id, schema.runs.c.status, schema.runs.c.start)):
            self.labels[row.id] = ("run", row.status)
            self.parents[row.id] = [("checkpoint", row.start)] if row.start else []

    def _read_checkpoints(self, connection: sa.Connection) -> None:
        table = schema.checkpoints
        for text in connection.scalars(sa.select(table.c.document).order_by(table.c.seen_at, table.c.id)):
            checkpoint = read_record(Checkpoint, text)  # the last seen of a name or of weights wins
            self.names[checkpoint.name] = checkpoint.fingerprint
            self.labels[checkpoint.fingerprint] = ("checkpoint", checkpoint.name)
            above: list[tuple[NodeKind, Any]] = [("checkpoint", checkpoint.parent), ("run", checkpoint.run)]
            known = self.parents.setdefault(checkpoint.fingerprint, [])
            known += [link for link in above if link[1] and link not in known]

    def _node(self, kind: NodeKind, node_id: str, path: tuple[str, ...]) -> Lineage:
        if node_id in path:  # a record that names itself as its ancestor: show it once, then stop
            return Lineage(kind=kind, id=node_id, label=self.labels.get(node_id, (kind, ""))[1])
        above = tuple(self._node(*link, (*path, node_id)) for link in self.parents.get(node_id, ()))
        return Lineage(kind=kind, id=node_id, label=self.labels.get(node_id, (kind, ""))[1], parents=above)
