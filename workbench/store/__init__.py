"""The record of what exists: projects, checkpoints, reports, items, comparisons, decisions, the ledger.

project = Project.open_or_init("my-project")
project.store.add_report(report, items)      # reports/<id>/{report.json,items.parquet}, then a row
project.store.report("latest")
project.store.ledger.get_many(keys)
"""

from workbench.store.catalog import Store, report_id
from workbench.store.checkpoints import local_path, resolve
from workbench.store.derived import Entry
from workbench.store.identity import canonical_json, content_hash, read_record, to_plain
from workbench.store.items import ItemColumns, columns_of
from workbench.store.ledger import Ledger, LedgerEntry, ledger_key
from workbench.store.lineage import Lineage
from workbench.store.project import Project
from workbench.store.runs import RunEntry, RunStatus

__all__ = [
    "Entry",
    "ItemColumns",
    "Ledger",
    "LedgerEntry",
    "Lineage",
    "Project",
    "RunEntry",
    "RunStatus",
    "Store",
    "canonical_json",
    "columns_of",
    "content_hash",
    "ledger_key",
    "local_path",
    "read_record",
    "report_id",
    "resolve",
    "to_plain",
]
