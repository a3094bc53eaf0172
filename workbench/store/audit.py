"""What was decided, as rows that only grow. Knows rows and hashes; knows no policy.

Each row's hash covers the row before it, so a row that was changed or taken out behind the triggers shows. Whoever owns
the database can still write the whole chain anew: heads are kept outside it to notice that (`workbench.store.anchors`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.store.database import Database
from workbench.store.identity import canonical_json
from workbench.store.schema import audit as table
from workbench.store.times import now

_APPEND_LOCK = 0x7762_6175_6469_7421  # PostgreSQL's advisory lock has one number: "wbaudit!"
_FIRST = "0" * 64


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditEvent:
    """Something that was decided."""

    kind: str
    """`guard`, `override`, ..."""
    actor: str
    """Who: a tenant, a person, a command."""
    document: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """An event as it was written."""

    seq: int
    at: str
    actor: str
    kind: str
    document: Mapping[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The end of the chain: whoever keeps it can tell later whether the chain up to there was written anew."""

    seq: int
    hash: str


def append_audit(database: Database, events: Sequence[AuditEvent]) -> None:
    """Write events in one transaction, in order."""
    if events:
        with database.write(counts=False) as connection:
            append_within(connection, events)


def append_within(connection: Connection, events: Sequence[AuditEvent]) -> Head:
    """As `append_audit`, as a part of a transaction that writes more; the chain's new head."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_APPEND_LOCK)))
    last = connection.execute(sa.select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
    seq, prev = (last.seq, last.hash) if last else (0, _FIRST)
    at = now()
    rows = []
    for event in events:
        seq += 1
        document = canonical_json(event.document)
        digest = _hash(prev, seq, at, event.actor, event.kind, document)
        rows.append(
            {
                "seq": seq,
                "at": at,
                "actor": event.actor,
                "kind": event.kind,
                "document": document,
                "prev": prev,
                "hash": digest,
            }
        )
        prev = digest
    if rows:
        connection.execute(sa.insert(table), rows)
    return Head(seq=seq, hash=prev)


def audit_head(database: Database) -> Head:
    """The last row's number and hash; 0 and zeros of a chain that has not begun."""
    with database.read() as connection:
        last = connection.execute(sa.select(table.c.seq, table.c.hash).order_by(table.c.seq.desc()).limit(1)).first()
    return Head(seq=last.seq, hash=last.hash) if last else Head(seq=0, hash=_FIRST)


def audit_hashes(database: Database, numbers: Iterable[int]) -> dict[int, str]:
    """The hashes of some rows, by number; a row that is not there is left out."""
    wanted, found = list(numbers), {}
    with database.read() as connection:
        for start in range(0, len(wanted), 500):
            query = sa.select(table.c.seq, table.c.hash).where(table.c.seq.in_(wanted[start : start + 500]))
            found |= {row.seq: row.hash for row in connection.execute(query)}
    return found


def audit_rows(
    database: Database, *, kind: str | None = None, after: int = 0, limit: int | None = None
) -> list[AuditRow]:
    """Rows behind number `after`, the oldest first."""
    query = sa.select(table).where(table.c.seq > after).order_by(table.c.seq)
    if kind is not None:
        query = query.where(table.c.kind == kind)
    if limit is not None:
        query = query.limit(limit)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
    return [AuditRow(**(row | {"document": json.loads(row["document"])})) for row in rows]


def verify_audit(database: Database) -> int | None:
    """Number of the first row that was tampered with or follows a gap; None: all are as they were written."""
    prev, wanted = _FIRST, 1
    for row in _raw_rows(database):
        digest = _hash(prev, row["seq"], row["at"], row["actor"], row["kind"], row["document"])
        if row["seq"] != wanted or row["prev"] != prev or row["hash"] != digest:
            return wanted
        prev, wanted = row["hash"], wanted + 1
    return None


def _raw_rows(database: Database) -> Iterator[sa.RowMapping]:
    with database.read() as connection:
        query = sa.select(table).order_by(table.c.seq)
        yield from connection.execution_options(yield_per=1000).execute(query).mappings()


def _hash(prev: str, seq: int, at: str, actor: str, kind: str, document: str) -> str:
    """SHA-256 over the fields, each with its length, so that no two rows give the same bytes."""
    parts = [prev, str(seq), at, actor, kind, document]
    joined = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()
