"""`workbench show`: a report, a task of it, the items behind a number."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.pipeline import evaluate
from workbench.records import Report
from workbench.store import Project

GROUP = """\
group: both_forms
task: [sub_one, sub_two]
"""
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["red", "blue"]
doc_to_target: answer
num_fewshot: 0
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    home = tmp_path_factory.mktemp("home")
    save_tiny_checkpoint(home / "tiny")
    (home / "tasks").mkdir()
    for name in ("sub_one", "sub_two"):
        rows = home / "tasks" / f"{name}.jsonl"
        rows.write_text("".join(json.dumps({"question": f"{name} {i}?", "answer": i % 2}) + "\n" for i in range(6)))
        (home / "tasks" / f"{name}.yaml").write_text(TASK.format(name=name, rows=rows))
    (home / "tasks" / "both.yaml").write_text(GROUP)
    project = Project.init(home / "project")
    tasks = ["both_forms", "sample_anatomy_cloze", "sample_anatomy_text"]
    report = evaluate(home / "tiny", tasks=tasks, limit=4, include_path=[home / "tasks"], project=project)
    project.store.close()
    return home / "project", report


@pytest.fixture
def show(recorded: tuple[Path, Report], capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["show", *args, "--project", str(recorded[0])])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def rows_of(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_the_report_is_a_table_of_headlines(show: Any, recorded: Any) -> None:
    code, out, err = show()
    assert code == 0
    head, *rows = rows_of(out)
    assert head == ["task", "metric", "n", "tiny"]
    assert [row[0] for row in rows] == [result.task for result in recorded[1].results]
    assert recorded[1].id[:12] in err and "seed 0, limit 4" in err


def test_a_task_shows_every_metric_and_a_group_its_subtasks(show: Any, recorded: Any) -> None:
    code, out, _ = show("latest", "--task", "both_forms")
    assert code == 0
    result = recorded[1].results[0]
    rows = rows_of(out)
    assert [row[0] for row in rows[1:3]] == ["acc ↑", "acc_macro ↑"]
    subtasks = rows[rows.index(["subtask", "n", "acc"]) + 1 :]
    assert {row[0] for row in subtasks} == set(result.subtasks)
    values = [float(row[2]) for row in subtasks]
    assert values == sorted(values)
    assert sum(values) / 2 == pytest.approx(result.headline.value, abs=1e-3)


def test_items_are_the_questions_behind_the_number(show: Any, recorded: Any) -> None:
    code, out, err = show(recorded[1].id[:8], "--task", "sample_anatomy_cloze", "--items", "--limit", "3")
    assert code == 0
    head, *rows = rows_of(out)
    assert head == ["task", "item", "metrics", "answer", "target", "prompt"]
    assert len(rows) == 3 and all(row[0] == "sample_anatomy_cloze" for row in rows)
    assert all("acc_norm=" in row[2] and row[5].endswith("Answer:") for row in rows)
    assert "3 of 4 items; --limit 4 shows all" in err


def test_json_holds_report_task_and_items(show: Any, recorded: Any) -> None:
    report = recorded[1]
    whole = json.loads(show("--json")[1])
    assert whole["report"]["id"] == report.id
    task = json.loads(show("--task", "sample_anatomy_text", "--json")[1])
    assert task["report"] == report.id and task["task"]["metric"] == "bits_per_byte"
    items = json.loads(show("--task", "both_forms", "--items", "--json")[1])
    assert items["total"] == len(items["items"]) == 8
    assert {"item", "logprobs", "metrics", "extra"} <= items["items"][0].keys()


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("lastest",), 'did you mean "latest"?'),
        (("latest", "--task", "both_form"), 'did you mean "both_forms"?'),
    ],
)
def test_what_is_not_there_is_one_line(show: Any, args: tuple[str, ...], complaint: str) -> None:
    code, out, err = show(*args)
    assert (code, out) == (2, "")
    assert complaint in err


def test_without_a_project_the_command_that_makes_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["show"])
    assert ended.value.code == 2
    assert "run workbench init" in capsys.readouterr().err
