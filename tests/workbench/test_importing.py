"""Imported runs stand in the store beside our own reports."""

import json
import os
from pathlib import Path

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.errors import CheckpointError, LogError, TaskError
from workbench.importing import import_reports
from workbench.pipeline import EvaluationRequest
from workbench.store import Project

LOGS = Path(__file__).parents[1] / "data" / "inspect"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.init(tmp_path / "project")


def lm_eval_log(folder: Path, *, model_args: object, date: float) -> Path:
    """A run of one question in lm-eval's layout, as small as it gets, with the model that is asked for."""
    day = "2026-01-02T03-04-05.678901"
    row = {
        "doc_id": 0,
        "doc": {"question": "What do bees make?", "answer": "honey"},
        "target": "honey",
        "arguments": {"gen_args_0": {"arg_0": "What do bees make?", "arg_1": {"until": ["\n"]}}},
        "resps": [["honey"]],
        "filtered_resps": ["honey"],
        "filter": "none",
        "metrics": ["exact_match"],
        "exact_match": 1.0,
    }
    results = {
        "results": {"bees": {"exact_match,none": 1.0}},
        "group_subtasks": {},
        "configs": {
            "bees": {"task": "bees", "output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
        },
        "versions": {"bees": 1.0},
        "n-shot": {"bees": 0},
        "higher_is_better": {"bees": {"exact_match": True}},
        "n-samples": {"bees": {"original": 1, "effective": 1}},
        "config": {"model": "hf", "model_args": model_args, "fewshot_seed": 1234, "limit": None},
        "lm_eval_version": "0.4.13",
        "date": date,
        "model_name": "some/model",
    }
    folder.mkdir(parents=True)
    (folder / f"results_{day}.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / f"samples_bees_{day}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return folder


def test_a_report_of_each_log_is_stored_with_its_items(project: Project):
    found = import_reports([LOGS / "facts_before.eval", LOGS / "facts_after.eval"], project=project)
    assert {r.id for r in project.store.reports()} == {one.report.id for one in found}
    for one in found:
        assert project.store.items(one.report.id) == list(one.items)
        assert project.store.report(one.report.id) == one.report


def test_the_same_log_again_is_the_same_report(project: Project):
    first, again = (import_reports([LOGS / "facts_before.eval"], project=project)[0] for _ in range(2))
    assert first.report.id == again.report.id
    assert len(project.store.reports()) == 1


def test_nothing_is_stored_if_one_file_is_damaged(project: Project, tmp_path: Path):
    cut = tmp_path / "cut.eval"
    cut.write_bytes((LOGS / "facts_after.eval").read_bytes()[:3000])
    with pytest.raises(LogError, match=r"cut\.eval"):
        import_reports([LOGS / "facts_before.eval", cut], project=project)
    assert project.store.reports() == []


def test_weights_on_this_machine_give_the_report_their_fingerprint(project: Project, tmp_path: Path):
    from workbench.pipeline import resolve_checkpoint

    folder = save_tiny_checkpoint(tmp_path / "tiny")
    log = lm_eval_log(tmp_path / "log", model_args=f"pretrained={folder},dtype=float32", date=2e9)
    (found,) = import_reports([log], project=project)
    assert found.report.checkpoint == resolve_checkpoint(folder)
    assert found.note is None


@pytest.mark.parametrize(
    ("more", "date", "reason"),
    [
        ({}, 1.0, "newer than the run"),
        ({"peft": "adapters/shop"}, 2e9, "loaded with peft, which changes the weights"),
        ({"pretrained": "no-such-owner/no-such-model"}, 2e9, "is not on this machine"),
        ({"pretrained": None}, 2e9, "names no weights"),
    ],
)
def test_a_digest_of_the_log_stands_for_weights_that_may_not_be_those(
    project: Project, tmp_path: Path, more: dict[str, str], date: float, reason: str
):
    folder = save_tiny_checkpoint(tmp_path / "tiny")
    log = lm_eval_log(tmp_path / "log", model_args={"pretrained": str(folder), **more}, date=date)
    (found,) = import_reports([log], project=project)
    assert found.report.checkpoint.source.startswith("imported:")
    assert found.report.checkpoint.name.startswith("imported/")
    assert reason in (found.note or "")


def test_a_model_that_only_a_log_tells_of_cannot_be_evaluated_but_is_a_baseline(project: Project, tmp_path: Path):
    from workbench.pipeline import evaluate_many, resolve_checkpoint

    import_reports([LOGS / "facts_before.eval"], project=project, name="before")
    with pytest.raises(CheckpointError, match="mockllm/model: only a run of it was imported"):
        resolve_checkpoint("before", project)
    folder = save_tiny_checkpoint(tmp_path / "tiny")
    request = EvaluationRequest(tasks=["sample_general_cloze"], limit=2, dtype="float32")
    # Its report is what the candidate is held against; these two have no task in common.
    with pytest.raises(TaskError, match=r"no task in common \(facts \| sample_general_cloze\)"):
        evaluate_many([folder], project=project, request=request, baseline="before")


def test_the_command_prints_the_table_and_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "project"
    paths = [str(LOGS / f"{name}.eval") for name in ("facts_before", "facts_after")]
    with pytest.raises(SystemExit) as left:
        main(["import", *paths, "--project", str(folder), "--name", "shop"])
    shown = capsys.readouterr()
    assert left.value.code in (0, None)
    assert "facts\tmatch ↑\t4\t0.500 [0.150, 0.850]\t0.750 [0.301, 0.954]" in shown.out
    ids = [report.id[:12] for report in Project.find(folder).store.reports()]
    assert f"next: workbench compare {ids[1]} {ids[0]} --project {folder}" in shown.err


def test_the_command_gives_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["import", str(LOGS / "organs_twice.eval"), "--project", str(tmp_path / "project"), "--json"])
    shown = json.loads(capsys.readouterr().out)
    (report,) = shown["reports"]
    assert report["results"][0]["task"] == "organs"
    assert list(shown["sources"].values()) == [report["id"]]


def test_a_damaged_file_ends_the_command_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "cut.eval"
    file.write_bytes(b"PK" + os.urandom(50))
    with pytest.raises(SystemExit) as left:
        main(["import", str(file), "--project", str(tmp_path / "project")])
    assert left.value.code == 2
    assert len(capsys.readouterr().err.strip().split("\n")) == 1
