"""Nova's evaluation recipes, with the keys of the published ones."""

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.author import Options, read_questions, write_task
from benchmarks.nova import NEAREST, NovaTask, plan_recipe
from benchmarks.suite import build_tasks
from workbench.config import read_yaml
from workbench.errors import ConfigError

RECIPE = """
run:
  name: my-eval-job
  model_type: amazon.nova-2-lite-v1:0:256k
  model_name_or_path: {model}
  replicas: 1
  data_s3_path: "{data}"
  output_s3_path: ""
  mlflow_tracking_uri: ""
  mlflow_experiment_name : ""
  mlflow_run_name : ""

evaluation:
  task: {task}
  strategy: {strategy}
  metric: all
  subtask: "{subtask}"

inference:
  max_new_tokens: 32
  top_k: -1
  top_p: 1.0
  temperature: {temperature}
  top_logprobs: 0
  reasoning_effort: null
"""


def recipe(folder: Path, task: str, **changes: Any) -> dict[str, Any]:
    values = {"model": "my-model", "data": "", "strategy": "zs_cot", "subtask": "", "temperature": 0} | changes
    file = folder / "recipe.yaml"
    file.write_text(RECIPE.format(task=task, **values), encoding="utf-8")
    return read_yaml(file)


@pytest.mark.parametrize(
    ("task", "subtask", "ours"),
    [
        ("mmlu", "", ("mmlu_letter", "mmlu_cloze")),
        ("mmlu", "abstract_algebra", ("mmlu_letter_abstract_algebra", "mmlu_cloze_abstract_algebra")),
        ("ifeval", "", ("ifeval",)),
    ],
)
def test_a_task_that_we_have_is_mapped_to_ours(tmp_path: Path, task: str, subtask: str, ours: tuple[str, ...]):
    plan = plan_recipe(recipe(tmp_path, task, subtask=subtask), where="recipe.yaml")
    assert plan.tasks == ours
    assert plan.checkpoint == "my-model"


def test_every_task_of_nova_is_ours_or_refused_with_what_is_nearest(tmp_path: Path):
    for task in NovaTask.__args__:
        if task in NEAREST:
            with pytest.raises(ConfigError, match=f"evaluation.task: {task} is not among our tasks; "):
                plan_recipe(recipe(tmp_path, task), where="recipe.yaml")
        elif task != "gen_qa":
            assert plan_recipe(recipe(tmp_path, task), where="recipe.yaml").tasks


def test_what_is_called_nearest_exists():
    from lm_eval.tasks import TaskManager

    known = TaskManager().task_index
    named = [name for text in NEAREST.values() for name in re.findall(r"lm_eval:(\w+)", text)]
    assert len(named) == 4
    assert [name for name in named if name not in known] == []


def test_reasoning_that_is_not_asked_for_is_told(tmp_path: Path):
    plan = plan_recipe(recipe(tmp_path, "mmlu"), where="recipe.yaml")
    assert any("without reasoning" in note for note in plan.notes)
    assert any("max_new_tokens" in note for note in plan.notes)


def test_a_model_of_the_service_is_no_checkpoint(tmp_path: Path):
    plan = plan_recipe(recipe(tmp_path, "ifeval", model="nova-lite-2/prod"), where="recipe.yaml")
    assert (plan.checkpoint, plan.model) == (None, "nova-lite-2/prod")


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("ifevall", {}, 'evaluation.task: .*did you mean "ifeval"'),
        ("ifeval", {"temperature": 0.7}, "inference.temperature: .*got 0.7, set it to 0"),
        ("ifeval", {"subtask": "anatomy"}, "evaluation.subtask: ifeval has no subtasks here"),
        ("ifeval", {"model": "s3://bucket/model"}, "run.model_name_or_path: s3://bucket/model is in the cloud"),
        ("gen_qa", {"data": "s3://bucket/gen_qa.jsonl"}, "run.data_s3_path: s3://bucket/gen_qa.jsonl is in the cloud"),
        ("gen_qa", {}, "run.data_s3_path: gen_qa needs a file of questions"),
    ],
)
def test_what_cannot_be_had_is_told_with_its_key(tmp_path: Path, task: str, changes: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=f"recipe.yaml: {message}"):
        plan_recipe(recipe(tmp_path, task, **changes), where="recipe.yaml")


def test_an_unknown_key_is_told_with_a_near_one(tmp_path: Path):
    data = recipe(tmp_path, "mmlu")
    data["inference"]["max_new_token"] = 5
    with pytest.raises(ConfigError, match=r'inference\.max_new_token: unknown key; did you mean "max_new_tokens"'):
        plan_recipe(data, where="recipe.yaml")


def test_functions_in_the_cloud_are_refused(tmp_path: Path):
    data = recipe(tmp_path, "ifeval") | {"processor": {"lambda_arn": "arn:aws:lambda:x", "aggregation": "average"}}
    with pytest.raises(ConfigError, match=r"processor\.lambda_arn"):
        plan_recipe(data, where="recipe.yaml")


def test_a_gen_qa_file_becomes_a_task(tmp_path: Path):
    source = tmp_path / "gen_qa.jsonl"
    source.write_text(
        '{"system": "Be brief.", "query": "What do bees make?", "response": "Honey", "metadata": "a"}\n'
        '{"system": "Be brief.", "query": "Which planet is red?", "response": "Mars"}\n',
        encoding="utf-8",
    )
    options = Options(shots=0, tokens=12)
    draft = read_questions(source, options)
    assert draft.errors == []
    made = write_task("bees", draft, tmp_path / "bees", options)
    assert made.entries == ("bees_short",)
    task = build_tasks(["bees_short"], include_path=[tmp_path / "bees"])["bees_short"]
    doc = next(iter(task.eval_docs))
    assert task.doc_to_text(doc).startswith("Be brief.\n\nQuestion: ")
    assert task.config.generation_kwargs["max_gen_toks"] == 12
    # The instruction that rows share makes no cluster of them.
    assert len({question.cluster for question in draft.questions}) == 2
