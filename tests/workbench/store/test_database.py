"""What can go wrong with a database or a disk: one clear line, and nothing lost."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.workbench.store.samples import make_checkpoint, make_items, make_report
from workbench.errors import RunError, StoreError, WorkbenchError
from workbench.store import LedgerEntry, Store, schema
from workbench.store.database import Database

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    with Store.open(store_url, folder=tmp_path, busy_timeout_s=0.3) as opened:
        yield opened


def one_line(error: pytest.ExceptionInfo[WorkbenchError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_tables_made_by_the_migrations_are_those_of_the_schema(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
    assert store.database.revision() == schema.REVISION


def test_sqlite_runs_with_a_write_ahead_log_and_foreign_keys(tmp_path: Path) -> None:
    database = Database("sqlite:///a.sqlite", folder=tmp_path)
    with database.read() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert settings == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_store_that_another_process_writes_for_too_long_is_one_clear_line(store: Store) -> None:
    store.add_checkpoint(make_checkpoint("before"))
    other = sa.create_engine(store.database.url)
    with other.connect() as connection:
        if store.database.is_sqlite:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("LOCK TABLE checkpoints IN EXCLUSIVE MODE")
        with pytest.raises(RunError) as error:
            store.add_checkpoint(make_checkpoint("during"))
        assert [checkpoint.name for checkpoint in store.checkpoints()] == ["before"]  # readers never wait
    other.dispose()
    assert "another process has been writing for more than 0.3 s" in one_line(error)
    store.add_checkpoint(make_checkpoint("after"))
    assert {checkpoint.name for checkpoint in store.checkpoints()} == {"before", "after"}


def test_a_newer_schema_is_refused_with_the_cure(store: Store, store_url: str, tmp_path: Path) -> None:
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError) as error:
        Store.open(store_url, folder=tmp_path)
    assert f"written by a newer workbench (schema 9999, this one knows {schema.REVISION})" in one_line(error)


def test_an_error_inside_a_transaction_undoes_all_of_it(store: Store) -> None:
    version = store.version()
    with pytest.raises(ZeroDivisionError), store.database.write() as connection:
        connection.execute(sa.delete(schema.counters))
        _ = 1 / 0
    assert store.version() == version


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Shopping list: bread, milk.\n" * 100)
    with pytest.raises(StoreError) as error:
        Store.open("sqlite:///notes.txt", folder=tmp_path)
    assert "no readable SQLite database" in one_line(error)
    assert (tmp_path / "notes.txt").read_text().startswith("Shopping list")


def test_a_damaged_database_is_one_clear_line(tmp_path: Path) -> None:
    Store.open("sqlite:///a.sqlite", folder=tmp_path).close()
    with (tmp_path / "a.sqlite").open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * 60_000)
    with pytest.raises(StoreError, match="no readable SQLite database") as error:
        Store.open("sqlite:///a.sqlite", folder=tmp_path).checkpoints()
    one_line(error)


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "photos.sqlite") as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
    connection.close()
    with pytest.raises(StoreError) as error:
        Store.open("sqlite:///photos.sqlite", folder=tmp_path)
    assert "belongs to another program (it has the table photos)" in one_line(error)
    with sqlite3.connect(tmp_path / "photos.sqlite") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("photos",)]
    connection.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("workbench.sqlite", "no database URL; write sqlite:///FILE"),
        ("mysql://host/x", "mysql is not supported"),
        ("sqlite://", "a database in memory keeps nothing"),
        ("sqlite:///no/such/folder/a.sqlite", "check that the folder exists"),
        ("postgresql://me:secret@127.0.0.1:1/x", "no connection"),
    ],
)
def test_a_wrong_url_is_one_clear_line_without_the_password(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(url, folder=tmp_path)
    assert message in one_line(error)
    assert "secret" not in str(error.value)


def test_a_missing_postgresql_database_is_one_clear_line(postgres_server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as error:
        Store.open(postgres_server.replace("@/postgres?", "@/nowhere?"), folder=tmp_path)
    assert "no connection" in one_line(error)
    assert '"nowhere" does not exist' in str(error.value)


def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_space(small_disk: Path) -> None:
    tile = {os.urandom(48): LedgerEntry(text="x" * 1000, tokens=1) for _ in range(100)}
    with Store.open("sqlite:///workbench.sqlite", folder=small_disk) as store:
        report, items = make_report()
        store.add_report(report, items)
        store.ledger.put_many(tile)
        ballast = small_disk / "ballast"
        free = os.statvfs(small_disk)
        ballast.write_bytes(b"\0" * (free.f_bavail * free.f_frsize))

        with pytest.raises(RunError) as ledger_error:
            store.ledger.put_many({os.urandom(48): entry for entry in tile.values()})
        other, other_items = make_report(items=make_items(2))
        with pytest.raises(RunError) as report_error:
            store.add_report(other, other_items)
        assert "the disk is full" in one_line(ledger_error)
        assert "the disk is full" in one_line(report_error)
        assert store.reports() == [report]
        assert store.items(report.id) == items
        assert store.ledger.get_many(tile) == tile
        assert [path.name for path in store.reports_folder.iterdir()] == [report.id]

        ballast.unlink()
        store.add_report(other, other_items)
        assert store.items("latest") == other_items


def test_a_read_only_folder_is_one_clear_line(small_disk: Path) -> None:
    Store.open("sqlite:///workbench.sqlite", folder=small_disk).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError) as error, Store.open("sqlite:///workbench.sqlite", folder=small_disk) as store:
        store.add_checkpoint(make_checkpoint())
    assert "cannot be opened for writing" in one_line(error)
    with pytest.raises(StoreError) as error:
        Store.open("sqlite:///new.sqlite", folder=small_disk)
    assert "cannot be opened for writing" in one_line(error)


def test_a_reports_folder_that_is_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("not a folder")
    report, items = make_report()
    with Store.open("sqlite:///a.sqlite", folder=tmp_path) as store:
        with pytest.raises(WorkbenchError) as error:
            store.add_report(report, items)
        assert "reports: " in one_line(error)
        assert store.reports() == []


def test_threads_that_open_a_new_store_at_once_all_get_it(store_url: str, tmp_path: Path) -> None:
    faults: list[BaseException] = []
    start = threading.Barrier(8)

    def open_and_write(number: int) -> None:
        try:
            start.wait()
            with Store.open(store_url, folder=tmp_path) as store:
                store.add_checkpoint(make_checkpoint(f"model-{number}"))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=open_and_write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    with Store.open(store_url, folder=tmp_path) as store:
        assert len(store.checkpoints()) == 8
        assert store.version() == 8


def test_opening_waits_for_a_process_that_is_making_the_same_store(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")  # SQLite answers "locked" at once when the journal mode is to be changed now
    with pytest.raises(RunError) as error:
        Store.open("sqlite:///a.sqlite", folder=tmp_path, busy_timeout_s=0.2)
    assert "another process has been writing for more than 0.2 s" in one_line(error)
    release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
    release.start()
    with Store.open("sqlite:///a.sqlite", folder=tmp_path) as store:
        assert store.version() == 0
    release.join()
    other.close()


def test_processes_that_open_a_new_store_at_once_all_get_it(store_url: str, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from workbench.store import Store; "
    code += "print(Store.open(sys.argv[1], folder=Path(sys.argv[2])).version())"
    arguments = [sys.executable, "-c", code, store_url, str(tmp_path)]
    children = [subprocess.Popen(arguments, cwd=REPOSITORY, stdout=-1, stderr=-1, text=True) for _ in range(4)]
    results = [(*child.communicate(timeout=120), child.returncode) for child in children]
    assert results == [("0\n", "", 0)] * 4
