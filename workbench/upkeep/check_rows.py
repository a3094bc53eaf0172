"""Do the rows of the store fit together? Knows tables, ids and links; knows no file."""

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import Connection

from workbench.records import Checkpoint
from workbench.store import schema
from workbench.store.identity import content_hash, read_record
from workbench.store.ledger import damaged_plans
from workbench.upkeep.findings import Finding, fault, left

if TYPE_CHECKING:
    from workbench.store import Store

_SHOWN = 20
_RESTORE = "restore a backup: no command of the workbench writes this"


def check_database(store: "Store") -> list[Finding]:
    """The database file itself, its tables, and the triggers that keep the audit from being changed."""
    found: list[Finding] = []
    database = store.database
    with database.read() as connection:
        if database.is_sqlite:
            said = [str(row[0]) for row in connection.execute(sa.text("PRAGMA integrity_check(20)"))]
            found += [fault("store", f"{database.where}: {one}", _RESTORE) for one in said if one != "ok"]
            names = set(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")))
            wanted = {"audit_no_update", "audit_no_delete"}
        else:
            query = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'audit'::regclass AND tgenabled <> 'D'"
            names = set(connection.scalars(sa.text(query)))
            wanted = {"audit_no_change", "audit_no_truncate"}
        missing = sorted(wanted - names)
        if missing:
            what = f"the audit can be changed: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} gone"
            found.append(fault("store", what, "ask who took the trigger away, and restore a backup"))
        tables = set(sa.inspect(connection).get_table_names())
        gone = sorted(set(schema.metadata.tables) - tables)
        if gone:
            found.append(fault("store", f"{database.where}: no table {', '.join(gone)}", _RESTORE))
        if connection.scalar(sa.select(sa.func.count()).select_from(schema.counters)) != 1:
            found.append(fault("store", f"{database.where}: its counter of versions is gone", _RESTORE))
    return found


def check_rows(store: "Store", looked: Counter[str]) -> list[Finding]:
    """Each id is the hash of what it names, and everything that a row refers to is there."""
    with store.database.read() as connection:
        found = [*_checkpoint_rows(connection, looked), *_derived(connection, looked), *_links(connection)]
        found += _references(connection)
    return found


def check_ledger(store: "Store", looked: Counter[str]) -> list[Finding]:
    """Each answer ever paid for is a score or a text, under a key of the right length."""
    found: list[Finding] = []
    table, odd = schema.ledger, 0
    with store.database.read() as connection:
        rows = connection.execution_options(yield_per=5000).execute(sa.select(table))
        for row in rows:
            looked["ledger"] += 1
            if not _is_answer(row) and (odd := odd + 1) <= _SHOWN:
                what = f"ledger {bytes(row.key).hex()[:24]}: neither a score nor a text"
                found.append(fault("ledger", what, "workbench cannot have written it: restore a backup"))
        if odd > _SHOWN:
            found.append(fault("ledger", f"{odd - _SHOWN:,} more rows of the ledger like this", _RESTORE))
        plans = connection.execute(sa.select(schema.ledger_plans.c.key, schema.ledger_plans.c.questions)).all()
    for key in damaged_plans((bytes(row.key), bytes(row.questions)) for row in plans):
        what = f"plan {key.hex()[:24]} of an evaluation cannot be read"
        found.append(fault("ledger", what, "the evaluation computes what is missing all the same"))
    if plans:
        what = f"{len(plans)} evaluation{'s' if len(plans) > 1 else ''} began and did not come to an end"
        found.append(left("ledger", what, "workbench eval --resume, or leave it"))
    return found


def _is_answer(row: Any) -> bool:
    score = row.logprob is not None and not math.isnan(row.logprob) and row.is_greedy is not None
    text = row.text is not None
    return len(bytes(row.key)) == 48 and row.tokens >= 0 and (score != text)


def _checkpoint_rows(connection: Connection, looked: Counter[str]) -> list[Finding]:
    found: list[Finding] = []
    names = ("name", "source", "kind", "fingerprint", "tokenizer")
    for row in connection.execute(sa.select(schema.checkpoints)):
        looked["checkpoint rows"] += 1
        checkpoint = read_record(Checkpoint, row.document)
        key = content_hash("checkpoint", {name: getattr(checkpoint, name) for name in names})
        if key != row.id or (row.name, row.fingerprint) != (checkpoint.name, checkpoint.fingerprint):
            found.append(fault("rows", f"checkpoint {row.name}: its row is not what its id is of", _RESTORE))
    return found


def _derived(connection: Connection, looked: Counter[str]) -> list[Finding]:
    found: list[Finding] = []
    parents: dict[str, list[str]] = {}
    for link in connection.execute(sa.select(schema.links).order_by(schema.links.c.position)):
        parents.setdefault(link.child, []).append(link.parent)
    for kind, table, label in (
        ("comparison", schema.comparisons, "kind"),
        ("decision", schema.decisions, "verdict"),
    ):
        for row in connection.execute(sa.select(table)).mappings():
            looked[f"{kind}s"] += 1
            content = {"label": row[label], "document": json.loads(row["document"]), "parents": parents.get(row["id"])}
            content["parents"] = content["parents"] or []
            if content_hash(kind, content) != row["id"]:
                what = f"{kind} {row['id'][:12]}: its content or its parents are not those that gave it its id"
                found.append(fault("rows", what, _RESTORE))
    return found


def _links(connection: Connection) -> list[Finding]:
    """Both ends of each link are there."""
    known = {
        "report": set(connection.scalars(sa.select(schema.reports.c.id))),
        "comparison": set(connection.scalars(sa.select(schema.comparisons.c.id))),
        "decision": set(connection.scalars(sa.select(schema.decisions.c.id))),
    }
    found: list[Finding] = []
    for link in connection.execute(sa.select(schema.links)):
        for kind, end in ((link.child_kind, link.child), (link.parent_kind, link.parent)):
            if end not in known.get(kind, ()):
                what = f"link {link.child[:12]} -> {link.parent[:12]}: there is no {kind} {end[:12]}"
                found.append(fault("rows", what, _RESTORE))
    return found


_REFERENCES = (
    (
        "report {0}: no checkpoint has its weights",
        "SELECT r.id FROM reports r WHERE NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.fingerprint = r.fingerprint)",
    ),
    (
        "run {0}: the checkpoint that it began from is not on record",
        "SELECT r.id FROM runs r WHERE r.start IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM checkpoints c WHERE c.fingerprint = r.start)",
    ),
    (
        "summary {0}: of nothing that is there",
        "SELECT s.id FROM summaries s WHERE NOT EXISTS (SELECT 1 FROM reports r WHERE r.id = s.id) AND NOT EXISTS "
        "(SELECT 1 FROM comparisons c WHERE c.id = s.id) AND NOT EXISTS (SELECT 1 FROM decisions d WHERE d.id = s.id)",
    ),
    (
        "review slot {0}: its lane is gone",
        "SELECT s.item_id FROM review_slots s WHERE NOT EXISTS (SELECT 1 FROM review_lanes l WHERE l.id = s.lane)",
    ),
    (
        "review item {0}: its queue {1} is gone",
        "SELECT i.id, i.queue FROM review_items i WHERE NOT EXISTS "
        "(SELECT 1 FROM review_queues q WHERE q.id = i.queue)",
    ),
    (
        "grant of {0} to {1}: there is no such member",
        "SELECT g.role, g.member FROM review_grants g WHERE NOT EXISTS "
        "(SELECT 1 FROM review_members m WHERE m.id = g.member)",
    ),
    (
        "review label {0}: its member is gone",
        "SELECT l.id FROM review_labels l WHERE NOT EXISTS (SELECT 1 FROM review_members m WHERE m.id = l.member)",
    ),
)


def _references(connection: Connection) -> list[Finding]:
    said: list[str] = []
    for sentence, query in _REFERENCES:
        rows = connection.execute(sa.text(f"{query} LIMIT {_SHOWN}"))
        said += [sentence.format(*(str(value)[:12] for value in row)) for row in rows]
    table = schema.checkpoints.c.document
    checkpoints = [read_record(Checkpoint, text) for text in connection.scalars(sa.select(table))]
    lost = {one.parent for one in checkpoints if one.parent} - {one.fingerprint for one in checkpoints}
    said += [f"parent {one[:12]}: a checkpoint was made from it, and it is not on record" for one in sorted(lost)]
    runs = set(connection.scalars(sa.select(schema.runs.c.id)))
    lost = {one.run for one in checkpoints if one.run} - runs
    said += [f"run {one[:12]}: a checkpoint came of it, and it is not on record" for one in sorted(lost)]
    return [fault("rows", one, _RESTORE) for one in said]
