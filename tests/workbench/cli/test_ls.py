"""`workbench ls` lists what there is, for people and for scripts."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suite import list_suites, list_tasks
from tests.workbench.store.samples import make_checkpoint, make_report
from workbench.cli import main
from workbench.records import Report
from workbench.store import LedgerEntry, Project, ledger_key


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["ls", *args])
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """The one report of the project in the working folder."""
    made, items = make_report(make_checkpoint("shop-sft", stage="posttrain"))
    key = ledger_key(made.checkpoint.fingerprint, "t", "s", "score", ((1,), (2,)))
    with Project.init(tmp_path) as project:
        project.store.add_report(made, items)
        project.store.ledger.put_many({key: LedgerEntry(logprob=-1.0, is_greedy=True, tokens=1)})
    return made


def rows_of(capsys: Any, what: str, *args: str) -> list[dict[str, Any]]:
    assert run(what, *args, "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert output["schema_version"] == 1
    return output[what]


def test_reports_are_listed_with_their_ids(report: Report, capsys: Any) -> None:
    assert run("reports") == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split("\t") == ["id", "checkpoint", "measured", "items", "created"]
    assert line.split("\t")[:4] == [report.id[:12], "shop-sft", "shop", "5"]
    (row,) = rows_of(capsys, "reports")
    assert (row["id"], row["suites"], row["tasks"]) == (report.id, ["shop"], ["shop_mc"])
    assert run("reports", "-q") == 0
    assert capsys.readouterr().out == f"{report.id}\n"


def test_checkpoints_are_listed_with_what_was_paid_for_them(report: Report, capsys: Any) -> None:
    (row,) = rows_of(capsys, "checkpoints")
    assert row["weights"] == report.checkpoint.fingerprint
    assert (row["name"], row["stage"], row["reports"], row["answers"]) == ("shop-sft", "posttrain", 1, 1)
    assert run("checkpoints", "-q") == 0
    assert capsys.readouterr().out == "shop-sft\n"


def test_shipped_tasks_and_suites_are_listed_without_a_project(tmp_path: Path, capsys: Any) -> None:
    assert [row["name"] for row in rows_of(capsys, "tasks")] == list_tasks()
    suites = rows_of(capsys, "suites")
    assert [suite["name"] for suite in suites] == list_suites()
    assert all(suite["tasks"] and suite["title"] for suite in suites)
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_the_name_selects(report: Report, capsys: Any) -> None:
    tasks = rows_of(capsys, "tasks", "sample_")
    assert len(tasks) == len([name for name in list_tasks() if "sample_" in name]) > 0
    assert all("sample_" in task["name"] for task in tasks)
    assert [row["id"] for row in rows_of(capsys, "reports", "shop")] == [report.id]
    assert rows_of(capsys, "reports", "base") == []


def test_nothing_found_is_said_on_stderr_and_the_data_is_empty(capsys: Any) -> None:
    assert run("tasks", "zzz") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "no tasks with 'zzz' in their name" in err


def test_suites_of_the_project_and_of_named_folders_are_listed_too(
    report: Report, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: Any
) -> None:
    assert report.id
    (tmp_path / "suites" / "mine.yaml").write_text("suite: mine\ntitle: My own\ntasks: [sample_general_cloze]\n")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "other.yaml").write_text("suite: other\ntitle: Another\ntasks: [sample_general_cloze]\n")
    names = [row["name"] for row in rows_of(capsys, "suites", "--include-path", str(elsewhere))]
    assert names == sorted([*list_suites(), "mine", "other"])
    assert run("suites", "mine") == 0
    assert capsys.readouterr().out.splitlines() == ["name\ttasks\ttitle", "mine\tsample_general_cloze\tMy own"]


def test_an_empty_project_says_what_comes_next(tmp_path: Path, capsys: Any) -> None:
    Project.init(tmp_path / "empty").close()
    assert run("reports", "--project", str(tmp_path / "empty")) == 0
    assert capsys.readouterr() == ("", "no reports yet; next: workbench eval --help\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("reports",), "no workbench.yaml here or in any folder above; run workbench init"),
        (("tasks", "--include-path", "nowhere"), "nowhere: no such folder"),
        (("tasks", "--project", "nowhere"), "run workbench init"),
        (("models",), "checkpoints"),
    ],
)
def test_what_cannot_be_listed_is_a_usage_error(args: tuple[str, ...], message: str, capsys: Any) -> None:
    assert run(*args) == 2
    assert message in capsys.readouterr().err
