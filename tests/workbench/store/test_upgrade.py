"""Old projects stay readable: a stored project of schema 0001, made by the code of that time, opens with this code."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.workbench.store.samples import make_checkpoint, make_report
from workbench.errors import WorkbenchError
from workbench.records import ItemScore, Report
from workbench.store import LedgerEntry, Project, Store, read_record, schema

OLD = Path(__file__).parents[2] / "data" / "project_schema_0001"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
MIGRATIONS = Path(schema.__file__).parent / "migrations"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def revision_of(file: Path) -> str:
    connection = sqlite3.connect(file)
    try:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    finally:
        connection.close()


def assert_holds_the_old_project(store: Store) -> None:
    for name in ("acme/base-1b", "shop-sft"):
        report = store.report(name)
        assert report == read_record(Report, json.dumps(EXPECTED[name]["report"]))
        items = [read_record(ItemScore, json.dumps(item)) for item in EXPECTED[name]["items"]]
        assert store.items(report.id) == sorted(items, key=lambda item: (item.task, item.doc_id))
    (comparison,) = store.comparisons()
    (decision,) = store.decisions()
    assert (comparison.id, comparison.document["verdict"]) == (EXPECTED["comparison"], "inconclusive")
    assert (decision.id, decision.label) == (EXPECTED["decision"], "hold")
    entries = {bytes.fromhex(key): LedgerEntry(**entry) for key, entry in EXPECTED["ledger"].items()}
    assert store.ledger.get_many(entries) == entries
    tree = store.lineage(decision.id)
    assert tree.parents[1].parents[0].parents[0].label == "acme/base-1b"


def test_a_project_of_schema_0001_is_upgraded_and_reads_back_equal(old: Path) -> None:
    assert revision_of(old / "workbench.sqlite") == "0001"
    project = Project.find(old)
    with project.store as store:
        assert store.database.revision() == schema.REVISION != "0001"
        assert_holds_the_old_project(store)


def test_an_upgraded_project_goes_on_like_a_new_one(old: Path) -> None:
    with Project.find(old).store as store:
        assert store.version() == 2  # two reports
        run = store.add_run({"recipe": "sft"}, folder="runs/a")
        report, items = make_report(make_checkpoint("next", run=run))
        store.add_report(report, items)
        assert store.report("latest") == report
        assert store.version() == 4
    with Project.find(old).store as store:  # opened again: nothing is upgraded twice
        assert store.version() == 4
        assert_holds_the_old_project(store)


def test_an_upgrade_that_fails_leaves_the_old_project_as_it_was(old: Path) -> None:
    connection = sqlite3.connect(old / "workbench.sqlite")
    connection.execute("CREATE TABLE counters (something_else TEXT)")  # in the way of the upgrade's second table
    connection.commit()
    connection.close()
    with pytest.raises(WorkbenchError, match="table counters already exists") as error:
        _ = Project.find(old).store
    assert "\n" not in str(error.value)
    assert revision_of(old / "workbench.sqlite") == "0001"
    connection = sqlite3.connect(old / "workbench.sqlite")
    assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'runs'").fetchall() == []
    connection.execute("DROP TABLE counters")
    connection.commit()
    connection.close()
    with Project.find(old).store as store:
        assert_holds_the_old_project(store)


def test_a_postgresql_store_of_schema_0001_is_upgraded_too(old: Path, postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    copy_rows(old / "workbench.sqlite", engine)
    engine.dispose()
    with Store.open(postgres_url, folder=old) as store:
        assert store.database.revision() == schema.REVISION
        assert store.version() == 2
        assert_holds_the_old_project(store)


def copy_rows(source: Path, target: sa.Engine) -> None:
    """The old project's rows in a PostgreSQL of the old schema."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    old = sqlite3.connect(source)
    old.row_factory = sqlite3.Row
    with target.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables = sa.MetaData()
        tables.reflect(connection)
        for name, table in tables.tables.items():
            rows = [dict(row) for row in old.execute(f"SELECT * FROM {name}")]
            for row in rows:
                if name == "ledger" and row["is_greedy"] is not None:
                    row["is_greedy"] = bool(row["is_greedy"])
            if rows and name != "alembic_version":
                connection.execute(table.insert(), rows)
    old.close()


def fill_revision(connection: sa.Connection, tables: sa.MetaData) -> dict[str, list[dict[str, Any]]]:
    """Two rows in every table that a schema has; what was written. Values are of the column's own type."""
    written: dict[str, list[dict[str, Any]]] = {}
    for table in tables.sorted_tables:
        if table.name == "alembic_version":
            continue
        if table.name == "counters":
            connection.execute(table.update().values(value=41))
            written[table.name] = [{"name": "version", "value": 41}]
            continue
        rows = [{column.name: sample(table.name, column, number) for column in table.columns} for number in (1, 2)]
        connection.execute(table.insert(), rows)
        written[table.name] = rows
    return written


def sample(table: str, column: sa.Column[Any], number: int) -> Any:
    if column.name == "state":
        return "open" if number == 1 else "decided"
    if column.name in ("tenant", "queue") and table == "review_items":
        return "acme"
    match column.type:
        case sa.LargeBinary():
            return bytes([number]) * 48
        case sa.Boolean():
            return number == 1
        case sa.Integer():
            return number
        case sa.Float():
            return number / 7
        case _:
            return f"{table}.{column.name} \u00e4 {number}"


@pytest.mark.parametrize("revision", [f"{number:04}" for number in range(1, int(schema.REVISION) + 1)])
def test_a_store_of_every_earlier_schema_is_upgraded_and_loses_no_row(
    revision: str, store_url: str, tmp_path: Path
) -> None:
    engine = sa.create_engine(store_url.replace("postgresql:", "postgresql+psycopg:"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        tables = sa.MetaData()
        tables.reflect(connection)
        written = fill_revision(connection, tables)
    engine.dispose()
    with Store.open(store_url, folder=tmp_path) as store, store.database.read() as connection:
        assert store.database.revision() == schema.REVISION
        now = sa.MetaData()
        now.reflect(connection)
        for name, rows in written.items():
            found = [dict(row) for row in connection.execute(sa.select(now.tables[name])).mappings()]
            for row in rows:  # columns may be added; none that was there says anything else
                assert any(row.items() <= plain_row(one).items() for one in found), (name, row)
            assert len(found) == len(rows)
        if "review_items" in written and revision < "0006":
            assert connection.scalar(sa.text("SELECT count(*) FROM review_slots WHERE state = 'open'")) == 1
        assert {table.name for table in now.sorted_tables} == {*schema.metadata.tables, "alembic_version"}


def plain_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}
