"""Lists of what exists, a page at a time, searched and ordered by the database. Knows rows; judges and draws nothing.

Pages show thousands of checkpoints whose documents would not fit into memory: lists read `summaries`, and only what is
opened is read whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import sqlalchemy as sa

from workbench.errors import StoreError
from workbench.store import schema
from workbench.store.database import Database, insert
from workbench.store.review_schema import review_items
from workbench.store.runs import RunEntry
from workbench.store.summaries import Kind, summarise

T = TypeVar("T")
Order = Literal["newest", "gain", "loss", "name"]
_TABLES: Mapping[Kind, sa.Table] = {
    "report": schema.reports,
    "comparison": schema.comparisons,
    "decision": schema.decisions,
}
_BATCH = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, and how many there are in all."""

    rows: tuple[T, ...]
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A report, comparison or decision as lists show it."""

    id: str
    kind: Kind
    name: str
    """Of the checkpoint that it is about."""
    fingerprint: str
    run: str | None
    baseline: str
    baseline_fingerprint: str
    label: str
    """Report: `evaluation` or `assessment`; comparison and decision: `pass`, `hold` or `fail`."""
    words: str
    """Report: suites, or the policy; comparison: how many tasks of each verdict; decision: its reason."""
    gain: float | None
    """Comparison: mean change of the domain's tasks, in margins."""
    loss: float | None
    """Comparison: change of the worst retained task, in margins; -1 is a budget used up."""
    tasks: int
    """Tasks, or rules."""
    created_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointRow:
    """A checkpoint with what is known of it."""

    name: str
    fingerprint: str
    kind: str
    stage: str | None
    run: str | None
    seen_at: str
    outcome: str
    """Of the newest decision about these weights; empty before."""
    reports: int


def refresh(database: Database) -> int:
    """Make the rows that are missing; returns how many. Cheap when none are."""
    made = 0
    for kind, table in _TABLES.items():
        missing = sa.select(table.c.id).where(~sa.exists().where(schema.summaries.c.id == table.c.id).correlate(table))
        with database.read() as connection:
            ids = list(connection.scalars(missing))
        for start in range(0, len(ids), _BATCH):
            made += _summarise(database, kind, table, ids[start : start + _BATCH])
    return made


def _summarise(database: Database, kind: Kind, table: sa.Table, ids: Sequence[str]) -> int:
    labels = {"report": sa.literal(""), "comparison": sa.literal(""), "decision": schema.decisions.c.verdict}
    query = sa.select(table.c.id, table.c.document, table.c.created_at, labels[kind].label("label"))
    with database.read() as connection:
        found = list(connection.execute(query.where(table.c.id.in_(ids))))
    rows = [summarise(kind, row.id, json.loads(row.document), row.created_at, row.label) for row in found]
    if rows:
        with database.write(counts=False) as connection:  # no page shows anything else for it
            connection.execute(insert(connection, schema.summaries).on_conflict_do_nothing(), rows)
    return len(rows)


def browse(
    database: Database,
    kind: Kind,
    *,
    search: str = "",
    label: str = "",
    baseline: str = "",
    fingerprint: str = "",
    run: str = "",
    order: Order = "newest",
    limit: int | None = 50,
    offset: int = 0,
) -> Page[Summary]:
    """Summaries of one kind. `search`: part of a checkpoint's name, or the beginning of an id or a fingerprint.

    `baseline`, `fingerprint`, `run`: exactly these. Call `refresh` before, where the store may have grown.
    """
    table = schema.summaries
    where = [table.c.kind == kind]
    where += [column == value for column, value in _exact(label, baseline, fingerprint, run) if value]
    if search:
        part = _escaped(search)
        where.append(
            sa.or_(
                sa.func.lower(table.c.name).like(f"%{part.lower()}%", escape="\\"),
                table.c.id.like(f"{part.lower()}%", escape="\\"),
                table.c.fingerprint.like(f"{part.lower()}%", escape="\\"),
            )
        )
    orders = {
        "newest": [table.c.created_at.desc()],
        "gain": [sa.nulls_last(table.c.gain.desc())],
        "loss": [sa.nulls_last(table.c.loss.asc())],
        "name": [table.c.name],
    }
    query = sa.select(table).where(*where).order_by(*orders[order], table.c.id).offset(offset)
    if limit is not None:
        query = query.limit(limit)
    with database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()
        rows = tuple(Summary(**row) for row in connection.execute(query).mappings())
    return Page(rows=rows, total=total)


def _exact(label: str, baseline: str, fingerprint: str, run: str) -> list[tuple[Any, str]]:
    table = schema.summaries.c
    return [
        (table.label, label),
        (table.baseline_fingerprint, baseline),
        (table.fingerprint, fingerprint),
        (table.run, run),
    ]


def browse_checkpoints(
    database: Database, *, search: str = "", limit: int = 50, offset: int = 0
) -> Page[CheckpointRow]:
    """Checkpoints, the last seen first, with the newest outcome and how many reports there are."""
    table, known = schema.checkpoints, schema.summaries
    where = []
    if search:
        part = _escaped(search)
        where.append(
            sa.or_(
                sa.func.lower(table.c.name).like(f"%{part.lower()}%", escape="\\"),
                table.c.fingerprint.like(f"{part.lower()}%", escape="\\"),
            )
        )
    newest = (
        sa.select(known.c.label)
        .where(known.c.fingerprint == table.c.fingerprint, known.c.kind == "decision")
        .order_by(known.c.created_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    count = sa.select(sa.func.count()).where(schema.reports.c.fingerprint == table.c.fingerprint).scalar_subquery()
    query = sa.select(table.c.document, table.c.seen_at, newest.label("outcome"), count.label("reports"))
    query = query.where(*where).order_by(table.c.seen_at.desc(), table.c.id).limit(limit).offset(offset)
    with database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()
        rows = tuple(_checkpoint(row) for row in connection.execute(query))
    return Page(rows=rows, total=total)


def browse_run_entries(
    database: Database, *, search: str = "", limit: int = 50, offset: int = 0
) -> Page[tuple[RunEntry, str]]:
    """Runs with the outcome of the newest decision about their checkpoints, the newest first."""
    table, known = schema.runs, schema.summaries
    where = []
    if search:
        part = _escaped(search)
        # a run's folder bears its recipe's name
        inside = sa.func.lower(table.c.folder).like(f"%/%{part.lower()}%", escape="\\")
        where.append(sa.or_(inside, table.c.id.like(f"{part.lower()}%", escape="\\")))
    newest = (
        sa.select(known.c.label)
        .where(known.c.run == table.c.id, known.c.kind == "decision")
        .order_by(known.c.created_at.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = sa.select(table, newest.label("outcome")).where(*where)
    query = query.order_by(table.c.created_at.desc(), table.c.id).limit(limit).offset(offset)
    with database.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one()
        rows = [dict(row) for row in connection.execute(query).mappings()]
    found = [(row.pop("outcome") or "", row | {"document": json.loads(row["document"])}) for row in rows]
    return Page(rows=tuple((RunEntry(**row), outcome) for outcome, row in found), total=total)


def read_run(database: Database, identity: str) -> RunEntry | None:
    """One run by its id; None where it is not in this project."""
    with database.read() as connection:
        row = connection.execute(sa.select(schema.runs).where(schema.runs.c.id == identity)).mappings().first()
    return None if row is None else RunEntry(**(dict(row) | {"document": json.loads(row["document"])}))


def names_of(database: Database, fingerprints: Sequence[str]) -> dict[str, str]:
    """Fingerprint -> the name that these weights were last seen under."""
    table = schema.checkpoints.c
    query = sa.select(table.fingerprint, table.name).where(table.fingerprint.in_(list(fingerprints)))
    with database.read() as connection:
        return {row.fingerprint: row.name for row in connection.execute(query.order_by(table.seen_at))}


def read_document(database: Database, kind: Kind, identity: str) -> Mapping[str, Any]:
    """The whole document of one report, comparison or decision.

    Raises:
        StoreError: there is none of that id.
    """
    table = _TABLES[kind]
    with database.read() as connection:
        row = connection.execute(sa.select(table.c.document, table.c.created_at).where(table.c.id == identity)).first()
    if row is None:
        raise StoreError(f"{kind} {identity[:12]!r}: not in this project; workbench ls lists what is")
    # Documents of comparisons and decisions are hashed without id and time, which stand in their rows.
    document = json.loads(row.document)
    return document | {"id": identity, "created_at": document.get("created_at") or row.created_at}


def parents_of(database: Database, identity: str) -> tuple[tuple[str, str], ...]:
    """(kind, id) of what a comparison or decision was made from, in order."""
    table = schema.links.c
    query = sa.select(table.parent_kind, table.parent).where(table.child == identity).order_by(table.position)
    with database.read() as connection:
        return tuple((row.parent_kind, row.parent) for row in connection.execute(query))


def children_of(database: Database, identity: str, kind: Kind) -> tuple[str, ...]:
    """Ids of the comparisons or decisions that were made from this one, the newest first."""
    links, table = schema.links.c, schema.summaries.c
    query = (
        sa.select(table.id)
        .join(schema.links, links.child == table.id)
        .where(links.parent == identity, table.kind == kind)
        .order_by(table.created_at.desc(), table.id)
    )
    with database.read() as connection:
        return tuple(dict.fromkeys(connection.scalars(query)))


def counts(database: Database) -> dict[str, int]:
    """How many checkpoints, runs, reports, comparisons and decisions there are."""
    tables = {"checkpoints": schema.checkpoints, "runs": schema.runs, "reports": schema.reports}
    tables |= {"comparisons": schema.comparisons, "decisions": schema.decisions, "review items": review_items}
    with database.read() as connection:
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
            for name, table in tables.items()
        }


def _checkpoint(row: Any) -> CheckpointRow:
    document = json.loads(row.document)
    known = {name: document.get(name) for name in ("name", "fingerprint", "kind", "stage", "run")}
    return CheckpointRow(**known, seen_at=row.seen_at, outcome=row.outcome or "", reports=row.reports)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
