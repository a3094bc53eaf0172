"""`workbench eval --config`: the command's own options in a file, and Nova's recipes, with a tiny real model."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.cli import main
from workbench.cli.eval_config import Asked, read_eval_config
from workbench.errors import ConfigError
from workbench.store import Project

ROWS = [
    {"system": "Be brief.", "query": "What do bees make?", "response": "Honey", "metadata": "a"},
    {"system": "Be brief.", "query": "Which planet is called red?", "response": "Mars", "metadata": "b"},
    {"system": "Be brief.", "query": "What is frozen water?", "response": "Ice", "metadata": "b"},
]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.init(tmp_path / "project")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def write(folder: Path, text: str) -> Path:
    file = folder / "eval.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def run(*args: Any) -> int:
    with pytest.raises(SystemExit) as left:
        main(["eval", *map(str, args)])
    return int(left.value.code or 0)


def test_a_file_of_options_is_the_command_itself(
    tmp_path: Path, model: Path, project: Project, capsys: pytest.CaptureFixture[str]
):
    text = f"checkpoint: {model}\ntasks: sample_general_cloze\nlimit: 3\nseed: 7\ndtype: float32\n"
    assert run("--config", write(tmp_path, text), "--project", project.root, "--json") == 0
    (report,) = json.loads(capsys.readouterr().out)["reports"]
    assert [result["task"] for result in report["results"]] == ["sample_general_cloze"]
    assert (report["settings"]["limit"], report["settings"]["seed"]) == (3, 7)


def test_options_on_the_command_line_win_over_the_file(tmp_path: Path, project: Project):
    text = "checkpoints: [one, two]\ntasks: [a, b]\nlimit: 10\napply_chat_template: true\nmodel_args: {window: 4}\n"
    asked = read_eval_config(write(tmp_path, text), project)
    assert asked.checkpoints == ("one", "two")
    assert asked.or_else("limit", 5.0) == 5.0
    assert asked.or_else("limit", None) == 10
    assert asked.or_else("limit", 0) == 0
    assert asked.or_else("tasks", ["c"]) == ["c"]
    assert asked.or_else("tasks", None) == ["a", "b"]
    assert asked.or_else("apply_chat_template", False) is True
    assert asked.or_else("engine", None) is None
    assert asked.or_else("model_args", None) == "window=4"


def test_no_file_asks_for_nothing(project: Project):
    assert read_eval_config(None, project) == Asked()


def test_paths_are_meant_from_the_files_folder(tmp_path: Path, project: Project):
    (tmp_path / "model").mkdir()
    (tmp_path / "tasks").mkdir()
    asked = read_eval_config(write(tmp_path, "checkpoint: model\nbaseline: smollm2\ninclude_path: tasks\n"), project)
    assert asked.checkpoints == (str(tmp_path / "model"),)
    assert asked.options["include_path"] == [tmp_path / "tasks"]
    assert asked.options["baseline"] == "smollm2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suites: [general]\n", r'eval\.yaml: suites: unknown key; did you mean "suite"\?'),
        ("limit: many\n", r"eval\.yaml: limit: "),
        ("checkpoint: a\ncheckpoints: [b]\n", r"checkpoint: checkpoints is given too"),
        ("- a\n", r"a mapping \(key: value\) is expected"),
    ],
)
def test_faults_of_the_file_are_told_in_one_line(tmp_path: Path, project: Project, text: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        read_eval_config(write(tmp_path, text), project)
    assert "\n" not in str(caught.value)


RECIPE = """
run:
  name: byod-eval-job
  model_type: amazon.nova-2-lite-v1:0:256k
  model_name_or_path: {model}
  replicas: 1
  data_s3_path: {data}
  output_s3_path: s3://bucket/out
evaluation: {{task: gen_qa, strategy: gen_qa, metric: all}}
inference: {{max_new_tokens: 6, top_k: -1, top_p: 1.0, temperature: 0}}
"""


def test_a_recipe_with_a_file_of_questions_is_evaluated(
    tmp_path: Path, model: Path, project: Project, capsys: pytest.CaptureFixture[str]
):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "gen_qa.jsonl").write_text(lines, encoding="utf-8")
    file = write(tmp_path, RECIPE.format(model=model, data="gen_qa.jsonl"))
    for _ in range(2):  # again: the task is made anew, the answers are in the ledger
        assert run("--config", file, "--project", project.root, "--json", "--dtype", "float32") == 0
        shown = capsys.readouterr()
        (report,) = json.loads(shown.out)["reports"]
        (result,) = report["results"]
        assert (result["task"], result["n"]) == ("nova_gen_qa_short", 3)
        assert {estimate["metric"] for estimate in result["estimates"]} == {"exact_match", "token_f1"}
        assert "run.output_s3_path: has no meaning here and is passed over" in shown.err
    items = project.store.items(report["id"])
    assert all(item.prompt.startswith("Be brief.\n\nQuestion: ") for item in items)
    assert {item.target for item in items} == {"Honey", "Mars", "Ice"}
    assert max(item.extra["tokens"] for item in items) <= 6
    assert len({item.group for item in items}) == 3
    assert len(project.store.reports()) == 1


def test_longer_answers_make_a_task_of_overlap(tmp_path: Path, project: Project):
    rows = [*ROWS, {"query": "How does a plant feed?", "response": "It makes sugar of light, water and air."}]
    (tmp_path / "own data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = read_eval_config(write(tmp_path, RECIPE.format(model="smollm2", data="own data.jsonl")), project)
    assert asked.options["tasks"] == ["nova_own_data"]
    assert (project.root / "tasks" / "nova_own_data" / "nova_own_data_text.yaml").is_file()


def test_a_missing_file_of_questions_ends_with_2(tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]):
    file = write(tmp_path, RECIPE.format(model="smollm2", data="no.jsonl"))
    assert run("--config", file, "--project", project.root) == 2
    assert "run.data_s3_path: no.jsonl: no such file" in capsys.readouterr().err


def test_a_model_of_the_service_asks_for_another(tmp_path: Path, project: Project, capsys: pytest.CaptureFixture[str]):
    text = "run: {model_name_or_path: nova-lite-2/prod}\nevaluation: {task: ifeval}\n"
    assert run("--config", write(tmp_path, text), "--project", project.root) == 2
    shown = capsys.readouterr().err
    assert "nova-lite-2/prod is only in Amazon's service; what the command names is evaluated" in shown
    assert "no checkpoint named" in shown
