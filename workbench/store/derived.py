"""What is made from reports: comparisons and decisions, with links to their parents. Knows rows; judges nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from workbench.errors import StoreError, did_you_mean
from workbench.store import schema
from workbench.store.database import Database, insert
from workbench.store.identity import canonical_json, content_hash
from workbench.store.times import now

Kind = Literal["comparison", "decision"]
_TABLES = {"comparison": schema.comparisons, "decision": schema.decisions}
_PARENTS = {"report": schema.reports, "comparison": schema.comparisons}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A comparison or a decision as it is stored."""

    id: str
    label: str
    """A comparison's kind, a decision's verdict."""
    document: Mapping[str, Any]
    parents: tuple[str, ...]
    """Ids of what it was made from, in the order given."""
    created_at: str


def add_entry(database: Database, kind: Kind, label: str, document: Mapping[str, Any], parents: Sequence[str]) -> str:
    """Write one with its links; returns its id. The same content again changes nothing.

    Raises:
        StoreError: a parent that does not exist.
    """
    new_id = content_hash(kind, {"label": label, "document": document, "parents": list(parents)})
    table = _TABLES[kind]
    with database.write() as connection:
        links = [
            {
                "child": new_id,
                "parent": parent,
                "position": position,
                "child_kind": kind,
                "parent_kind": _kind_of(connection, parent, child=kind),
            }
            for position, parent in enumerate(parents)
        ]
        row = {"id": new_id, _label(kind): label, "document": canonical_json(document), "created_at": now()}
        connection.execute(insert(connection, table).on_conflict_do_nothing(), row)
        if links:
            connection.execute(insert(connection, schema.links).on_conflict_do_nothing(), links)
    return new_id


def entries(database: Database, kind: Kind, *, of: str | None = None) -> list[Entry]:
    """All of one kind, the newest first; `of`: only those made from this id."""
    table = _TABLES[kind]
    query = sa.select(table).order_by(table.c.created_at.desc(), table.c.id)
    if of is not None:
        query = query.where(table.c.id.in_(sa.select(schema.links.c.child).where(schema.links.c.parent == of)))
    links = sa.select(schema.links).where(schema.links.c.child_kind == kind).order_by(schema.links.c.position)
    parents: dict[str, list[str]] = {}
    with database.read() as connection:
        for link in connection.execute(links):
            parents.setdefault(link.child, []).append(link.parent)
        return [
            Entry(
                id=row.id,
                label=getattr(row, _label(kind)),
                document=json.loads(row.document),
                parents=tuple(parents.get(row.id, ())),
                created_at=row.created_at,
            )
            for row in connection.execute(query)
        ]


def _label(kind: Kind) -> str:
    return "kind" if kind == "comparison" else "verdict"


def _kind_of(connection: sa.Connection, parent: str, *, child: Kind) -> str:
    known: list[str] = []
    for kind, table in _PARENTS.items():
        if kind == child:
            continue
        if connection.scalar(sa.select(table.c.id).where(table.c.id == parent)) is not None:
            return kind
        known += connection.scalars(sa.select(table.c.id))
    raise StoreError(f"{child}: made from {parent[:12]!r}, which is not in this project; {did_you_mean(parent, known)}")
