"""Backups are whole or not there, are taken while others write, and go back into either database."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.workbench.upkeep.making import project_in
from workbench.cli import main
from workbench.errors import StoreError
from workbench.store import Project
from workbench.upkeep.backup import back_up
from workbench.upkeep.check import check_project
from workbench.upkeep.restore import restore

ROOT = Path(__file__).resolve().parents[3]


def faults(project: Project) -> list[str]:
    return [one.sentence for one in check_project(project).faults]


def rows_of(project: Project, first: Path) -> dict[str, list[tuple]]:
    """All that is recorded, but for where the project lies now, and where it lay first."""
    import sqlalchemy as sa

    from workbench.store import schema

    def plain(value: object) -> str:
        return str(value).replace(str(project.root), "ROOT").replace(str(first), "ROOT")

    with project.store.database.read() as connection:
        return {
            name: sorted(
                (tuple(plain(value) for value in row[skip:])
                 for row in connection.execute(sa.select(table))),
            )
            for name, table in schema.metadata.tables.items()
            for skip in [1 if name == "checkpoints" else 0]  # its id covers the place
        }  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    root = tmp_path_factory.mktemp("filled") / "project"
    project_in(root).close()
    return root


@pytest.fixture(scope="module")
def backup(filled, tmp_path_factory):
    target = tmp_path_factory.mktemp("backups") / "monday"
    with pytest.raises(SystemExit) as ended:
        main(["backup", str(target), "--project", str(filled), "--json"])
    assert not ended.value.code
    return target


def test_what_is_restored_is_what_was_backed_up_and_is_in_order(filled, backup, tmp_path):
    made = restore(backup, tmp_path / "again")
    with Project.find(filled) as before, Project.find(made.folder) as after:
        assert rows_of(after, filled) == rows_of(before, filled)
        assert faults(after) == []
        (run,) = after.store.runs()
        assert Path(run.folder) == tmp_path / "again" / "runs" / "tune"
        last = after.store.checkpoint("tune/checkpoint-4")
        assert Path(last.source).is_dir() and Path(last.source).is_relative_to(tmp_path)
    names = {path.relative_to(filled) for path in filled.rglob("*") if path.is_file() and ".sqlite" not in path.name}
    assert names <= {path.relative_to(made.folder) for path in made.folder.rglob("*")}


def test_a_backup_moves_from_sqlite_to_postgresql_and_back(filled, backup, tmp_path, postgres_url):
    restore(backup, tmp_path / "server", store_url=postgres_url)
    with Project.find(tmp_path / "server") as server, Project.find(filled) as before:
        assert not server.store.database.is_sqlite
        assert rows_of(server, filled) == rows_of(before, filled)
        assert faults(server) == []
        back_up(server, tmp_path / "from-server", link=True)
        with pytest.raises(StoreError, match="holds rows already"):
            restore(backup, tmp_path / "second", store_url=postgres_url)
    restore(tmp_path / "from-server", tmp_path / "home", store_url="sqlite:///workbench.sqlite")
    with Project.find(tmp_path / "home") as home, Project.find(filled) as before:
        assert rows_of(home, filled) == rows_of(before, filled)
        assert faults(home) == []


def test_weights_may_be_left_out_and_the_record_stays(filled, tmp_path):
    with Project.find(filled) as project:
        made = back_up(project, tmp_path / "light", checkpoints=False)
    assert made.checkpoints == 0 and made.bytes < 500_000
    assert not list((tmp_path / "light").rglob("*.safetensors"))
    restore(tmp_path / "light", tmp_path / "again")
    with Project.find(tmp_path / "again") as again:
        assert len(again.store.checkpoints()) == 3
        found = check_project(again)
        assert found.faults == ()
        notes = [one.what for one in found.findings if one.kind == "note"]
        assert len(notes) == 3 and all("the backup was taken without them" in one for one in notes)


WRITER = """
import sys
from pathlib import Path
from safety.review.queue import Answer, Claim, Operator, ReviewQueue
from tests.safety.review.people import entry
from tests.workbench.store.samples import make_checkpoint, make_items, make_report
from workbench.store import Project
project = Project.find(sys.argv[1])
queue, op = ReviewQueue.open(project), Operator(name="op")
ana = queue.local_member("ana")
(project.root / "runs" / "live" / "checkpoint-1").mkdir(parents=True)
log = (project.root / "runs" / "live" / "log.jsonl").open("a")
for number in range(100_000):
    report, items = make_report(make_checkpoint(), make_items(9, shift=float(number)))
    project.store.add_report(report, items)
    queue.add(op, [entry(1000 + number)])
    got = queue.claim(ana)
    if isinstance(got, Claim):
        queue.submit(ana, got.token, Answer(decision="allowed"))
    log.write('{"step": %d, "loss": ' % number); log.flush(); log.write("1.0}\\n"); log.flush()
    print(number, flush=True)
"""


@pytest.fixture
def written_to(store_url, tmp_path):
    """A project with a process that writes to it all the time."""
    with project_in(tmp_path / "busy", store_url) as project:
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(project.root)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        for _ in range(3):
            child.stdout.readline()
        yield project, child
        child.kill()
        child.communicate()


def test_a_backup_taken_while_others_write_is_consistent(written_to, tmp_path):
    project, child = written_to
    made = back_up(project, tmp_path / "live")
    assert child.poll() is None
    restore(made.folder, tmp_path / "again", store_url="sqlite:///workbench.sqlite")
    with Project.find(tmp_path / "again") as again:
        assert faults(again) == []
        assert len(again.store.reports()) >= 5
    assert any("is being written" in line for line in made.left_out)
    for line in (tmp_path / "again/runs/live/log.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_backup_that_is_killed_leaves_nothing_that_looks_whole(filled, tmp_path):
    command = [sys.executable, "-m", "workbench.cli", "backup", str(tmp_path / "b"), "--project", str(filled)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".backup-*/files/models")) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "b").exists()
    (half,) = tmp_path.glob(".backup-*")
    with pytest.raises(StoreError, match="no backup"):
        restore(half, tmp_path / "again")
    os.utime(half, (time.time() - 7200,) * 2)
    with Project.find(filled) as project:
        back_up(project, tmp_path / "b")
    assert not half.exists()
    restore(tmp_path / "b", tmp_path / "again")


def change_manifest(folder: Path, path: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["path"] = path
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


SPOILT = {
    "a changed file": lambda b: flip(next((b / "files/reports").glob("*/items.parquet"))),
    "a changed store": lambda b: flip(b / "store.sqlite"),
    "a missing file": lambda b: (b / "files/models/start/config.json").unlink(),
    "a file too many": lambda b: (b / "files/evil.py").write_text("import os"),
    "a name that leads up": lambda b: change_manifest(b, "../../outside"),
    "an absolute name": lambda b: change_manifest(b, "/etc/passwd"),
    "a link instead of a file": lambda b: (
        (b / "files/workbench.yaml").unlink(), (b / "files/workbench.yaml").symlink_to("/etc/hostname")
    ),
    "a manifest that is none": lambda b: (b / "manifest.json").write_text("[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_not_as_it_was_backed_up_is_refused_before_anything_is_written(backup, tmp_path, spoil):
    import shutil

    shutil.copytree(backup, tmp_path / "b")
    SPOILT[spoil](tmp_path / "b")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError) as told:
        restore(tmp_path / "b", tmp_path / "home", replace_existing=True)
    assert "\n" not in str(told.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "home"]
    assert (tmp_path / "home" / "mine.txt").read_text() == "mine"


def test_a_project_is_never_overwritten_and_replace_keeps_what_was_there(backup, tmp_path):
    with Project.init(tmp_path / "home") as home:
        (home.root / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="--replace"):
        restore(backup, tmp_path / "home")
    made = restore(backup, tmp_path / "home", replace_existing=True)
    assert made.before is not None and (made.before / "mine.txt").read_text() == "mine"
    with Project.find(tmp_path / "home") as home, pytest.raises(StoreError, match="exists already"):
        back_up(home, backup)


def test_the_store_of_a_backup_is_one_file_without_a_log_beside_it(backup):
    assert sorted(path.name for path in backup.iterdir()) == ["files", "manifest.json", "store.sqlite"]
    connection = sqlite3.connect(f"file:{backup / 'store.sqlite'}?mode=ro", uri=True)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
