"""`workbench doctor --deep` finds what is not as it was written, and nothing else."""

import json
import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from tests.workbench.upkeep.making import project_in
from workbench.cli import main
from workbench.store import Project
from workbench.upkeep.check import check_project


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole") / "project"
    project_in(root).close()
    return root


@pytest.fixture
def root(whole, tmp_path):
    """The project, to be damaged: it is put back afterwards."""
    shutil.copytree(whole, tmp_path / "kept")
    yield whole
    shutil.rmtree(whole)
    shutil.copytree(tmp_path / "kept", whole)


def doctor(capsys, root: Path, *more: str):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--deep", "--json", "--project", str(root), *more])
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


def test_a_project_in_order_has_no_fault_and_what_is_left_over_is_mended_when_asked(capsys, whole, tmp_path):
    with Project.find(whole) as project:
        found = check_project(project)
    assert [one.sentence for one in found.faults] == []
    kinds = {"reports": 2, "items": 14, "checkpoints": 3, "ledger": 5, "labels": 1, "decisions": 1, "runs": 1}
    assert {name: found.looked_at[name] for name in kinds} == kinds
    assert found.looked_at["bytes"] > 1_000_000
    temporary = [whole / "reports" / ".tmp-old", whole / ".tmp-young"]
    for path in temporary:
        path.write_text("half")
    os.utime(temporary[0], (time.time() - 7200,) * 2)
    code, said = doctor(capsys, whole, "--repair")
    mended = {one["what"].split(":")[0]: one["repaired"] for one in said["findings"]}
    assert code == 0 and said["in_order"]
    assert mended == {"1 lease has ended and nobody has claimed since": True, "reports/.tmp-old": True,
                      ".tmp-young": False}  # fmt: skip
    assert [path.exists() for path in temporary] == [False, True]
    temporary[1].unlink()
    assert doctor(capsys, whole)[1]["findings"] == []


def flip_a_byte(file: Path, at: int = -100) -> None:
    """As a bad disk does: neither the size nor the time of change tells."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rewrite_report(root: Path) -> None:
    file = next((root / "reports").glob("*/report.json"))
    file.write_text(file.read_text().replace("0.4", "0.9"))


def sql(*statements: str):
    def damage(root: Path) -> None:
        connection = sqlite3.connect(root / "workbench.sqlite")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return damage


DAMAGES = {
    "a flipped bit in weights": (
        lambda root: flip_a_byte(next((root / "runs/tune/checkpoint-2").glob("*.safetensors"))),
        "checkpoints",
        "give the fingerprint",
    ),
    "weights cut short": (
        lambda root: os.truncate(root / "runs/tune/checkpoint-4/model.safetensors", 1000),
        "checkpoints",
        "truncated",
    ),
    "weights taken away": (
        lambda root: shutil.rmtree(root / "runs/tune/checkpoint-2"),
        "checkpoints",
        "weights are gone",
    ),
    "another tokenizer": (
        lambda root: flip_a_byte(root / "models/start/tokenizer.json"),
        "checkpoints",
        "tokenizer is another",
    ),
    "a report made better": (rewrite_report, "reports", "says something else than its row"),
    "a report's folder lost": (
        lambda root: shutil.rmtree(next((root / "reports").iterdir())),
        "reports",
        "No such file",
    ),
    "damaged answers": (
        lambda root: flip_a_byte(next((root / "reports").glob("*/items.parquet")), 40),
        "reports",
        "",
    ),
    "a row of a report changed": (
        sql("UPDATE reports SET document = replace(document, '\"value\":0.4', '\"value\":0.8')"),
        "reports",
        "its answers are not those",
    ),
    "a decision turned round": (
        sql("UPDATE decisions SET verdict = 'fail'"),
        "rows",
        "not those that gave it its id",
    ),
    "a comparison deleted": (sql("DELETE FROM comparisons"), "rows", "there is no comparison"),
    "a run deleted": (sql("DELETE FROM runs"), "rows", "a checkpoint came of it"),
    "a start deleted": (sql("DELETE FROM checkpoints WHERE name = 'start'"), "rows", "not on record"),
    "a ledger row emptied": (sql("UPDATE ledger SET logprob = NULL"), "ledger", "neither a score nor a text"),
    "the audit's guard dropped": (sql("DROP TRIGGER audit_no_update"), "store", "the audit can be changed"),
    "an audit row changed": (
        sql("DROP TRIGGER audit_no_update", "UPDATE audit SET actor = 'eve' WHERE seq = 2"),
        "audit",
        "audit row 2",
    ),
    "the anchors taken away": (lambda root: (root / "audit-anchors.jsonl").unlink(), "audit", "put the file back"),
    "a label turned round": (sql("UPDATE review_labels SET decision = 'allowed'"), "audit", "something else"),
    "a label lost": (sql("DELETE FROM review_labels"), "audit", "the table has lost it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_found_and_named(root, damage):
    hurt, area, words = DAMAGES[damage]
    hurt(root)
    with Project.find(root) as project:
        faults = check_project(project).faults
    assert any(one.area == area and words in one.what for one in faults), [one.sentence for one in faults]
    assert len({one.area for one in faults}) <= 2


def test_a_postgresql_project_is_looked_through_as_well(postgres_url, tmp_path):
    with project_in(tmp_path / "project", postgres_url) as project:
        found = check_project(project, repair=True)
        assert [one.sentence for one in found.faults] == []
        assert [one.what for one in found.findings if one.repaired] == [
            "1 lease has ended and nobody has claimed since"
        ]
        assert found.looked_at["labels"] == 1


def test_a_report_whose_process_was_killed_before_its_row_is_no_fault(tmp_path):
    from dataclasses import replace

    from tests.workbench.store.samples import make_report
    from workbench.store import schema

    with Project.init(tmp_path / "p") as project:
        report, items = make_report()
        project.store.add_report(report, items)
        with project.store.database.write() as connection:  # as if killed just before it
            connection.execute(schema.reports.delete())
        assert [(one.kind, one.area) for one in check_project(project).findings if one.kind != "note"] == [
            ("left", "reports")
        ]
        project.store.add_report(replace(report, created_at="2027-01-01T00:00:00+00:00"), items)
        (found,) = (one for one in check_project(project).findings if one.kind != "note")
        assert (found.kind, found.area) == ("left", "reports")
        assert "of the same evaluation again" in found.what


def test_damage_ends_with_code_1_and_what_to_do(capsys, root):
    sql("UPDATE decisions SET verdict = 'fail'")(root)
    code, said = doctor(capsys, root)
    assert code == 1 and not said["in_order"]
    assert any("restore a backup" in one["next_step"] for one in said["findings"])
