"""Evaluation recipes of Amazon Nova (Nova Forge, SageMaker HyperPod) -> tasks of ours. Knows their keys; runs nothing.

Every key of the published recipes is known. What has a counterpart is used; what only their service needs (replicas,
output paths, MLflow) is passed over with a note where it is set; what would change the numbers and cannot be had is
refused. Nova asks for a reasoned answer in writing where our tasks mostly compare log-probabilities, so scores are not
those of Nova's tables: a recipe says what to measure, and a baseline measured the same way says what it means.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from benchmarks.catalog import shipped_entries
from workbench.config import StrictModel, validate
from workbench.errors import ConfigError

NovaTask = Literal[
    "mmlu", "mmlu_pro", "bbh", "gpqa", "math", "ifeval", "mmmu", "strong_reject", "gen_qa", "llm_judge",
    "rubric_llm_judge", "rft_eval", "rft_multiturn_eval", "inspect_lens",
]  # fmt: skip
NEAREST = {
    "mmlu_pro": "nearest are mmlu, and lm-eval's own with --tasks lm_eval:mmlu_pro",
    "bbh": "nearest is lm-eval's own with --tasks lm_eval:bbh_cot_fewshot",
    "gpqa": "nearest is lm-eval's own with --tasks lm_eval:gpqa_main_cot_zeroshot",
    "math": "nearest are gsm8k, and lm-eval's own with --tasks lm_eval:minerva_math",
    "mmmu": "it asks about images, and engines here read text",
    "strong_reject": "it needs a judge of refusals, which this release does not have; nearest is the suite instruction",
    "llm_judge": "nearest is gen_qa with a registered judge: workbench task new NAME --from FILE --judge JUDGE",
    "rubric_llm_judge": "nearest is gen_qa with a registered judge: workbench task new NAME --from FILE --judge JUDGE",
    "rft_eval": "nearest is gen_qa with a registered judge: workbench task new NAME --from FILE --judge JUDGE",
    "rft_multiturn_eval": "nearest is gen_qa, one turn each",
    "inspect_lens": "run it with inspect eval, then workbench import LOG.eval",
}
"""Tasks of Nova's that are not ours, and what comes nearest."""


class NovaRun(StrictModel):
    """Block `run`."""

    name: str = ""
    """What the job is called."""
    model_type: str = ""
    """Model of Amazon's service."""
    base_model_name: str = ""
    """JumpStart id."""
    model_name_or_path: str = ""
    """The checkpoint: a folder, a GGUF file, a hub id or an alias here."""
    replicas: int = 1
    """Machines of the job."""
    data_s3_path: str = ""
    """File of questions for gen_qa: a local one here."""
    output_s3_path: str = ""
    """Where the service writes."""
    mlflow_tracking_uri: str = ""
    """Tracking of the service."""
    mlflow_experiment_name: str = ""
    """Tracking of the service."""
    mlflow_run_name: str = ""
    """Tracking of the service."""
    mlflow_run_id: str = ""
    """Tracking of the service."""


class NovaEvaluation(StrictModel):
    """Block `evaluation`."""

    task: NovaTask
    """What is measured."""
    strategy: str = ""
    """How Nova asks."""
    metric: str = ""
    """What Nova reports; our tasks report all of theirs."""
    subtask: str | None = None
    """One subject, such as `anatomy` of mmlu."""


class NovaInference(StrictModel):
    """Block `inference`."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest answer, in tokens."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Window of the service."""
    top_k: int | None = None
    """Of sampling; greedy writing takes the first anyway."""
    top_p: float | None = None
    """Of sampling."""
    temperature: float | None = None
    """0 writes greedily, as all our tasks do."""
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probabilities to keep; ours are always kept."""
    reasoning_effort: str | None = None
    """Of Nova 2."""


class NovaRecipe(StrictModel):
    """A whole evaluation recipe."""

    run: NovaRun
    """Which model, which data."""
    evaluation: NovaEvaluation
    """Which task."""
    inference: NovaInference = NovaInference()
    """How to write."""
    output: dict[str, Any] = Field(default_factory=dict)
    """Where the service writes."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Functions of the user's own that score, in the cloud."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NovaPlan:
    """What a recipe asks of us."""

    checkpoint: str | None
    """None: the recipe names a model that only Amazon's service has; another must be named."""
    model: str
    """What the recipe says of it."""
    tasks: tuple[str, ...]
    questions: str | None = None
    """File of questions (gen_qa), as the recipe writes it, to make a task of."""
    max_new_tokens: int | None = None
    notes: tuple[str, ...] = ()
    """What was passed over."""


def is_nova_recipe(data: dict[str, Any]) -> bool:
    """Has it the blocks of a recipe?"""
    return "evaluation" in data or isinstance(data.get("run"), dict)


def plan_recipe(data: dict[str, Any], *, where: str) -> NovaPlan:
    """What to evaluate; `where` begins each line of the ConfigError.

    Raises ConfigError: unknown keys, a task that is not ours (with what is nearest), data in the cloud, sampling.
    """
    recipe = validate(data, NovaRecipe, where=where)
    name, run = recipe.evaluation.task, recipe.run
    if name in NEAREST:
        raise ConfigError(f"{where}: evaluation.task: {name} is not among our tasks; {NEAREST[name]}")
    if recipe.inference.temperature:
        raise ConfigError(
            f"{where}: inference.temperature: answers here are written greedily, so that a report can be repeated; got "
            f"{recipe.inference.temperature}, set it to 0"
        )
    if arn := recipe.processor.get("lambda_arn"):
        raise ConfigError(
            f"{where}: processor.lambda_arn: functions in the cloud ({arn}) are not called; register a judge, and make "
            "the task with workbench task new --judge"
        )
    questions = _questions(run.data_s3_path, where) if name == "gen_qa" else None
    model = run.model_name_or_path or run.base_model_name or run.model_type
    return NovaPlan(
        checkpoint=_checkpoint(run.model_name_or_path, where),
        model=model,
        tasks=() if name == "gen_qa" else _tasks(recipe.evaluation, where),
        questions=questions,
        max_new_tokens=recipe.inference.max_new_tokens,
        notes=tuple(_notes(recipe)),
    )


def _checkpoint(reference: str, where: str) -> str | None:
    if reference.startswith("s3://"):
        raise ConfigError(
            f"{where}: run.model_name_or_path: {reference} is in the cloud; copy the checkpoint here, name its folder"
        )
    # nova-lite-2/prod and its kin are names inside Amazon's service: no hub model is called that.
    return None if not reference or re.fullmatch(r"nova-[\w.-]+/[\w.-]+", reference) else reference


def _questions(path: str, where: str) -> str:
    if path.startswith("s3://"):
        raise ConfigError(f"{where}: run.data_s3_path: {path} is in the cloud; copy the file here and name its path")
    if not path:
        raise ConfigError(f"{where}: run.data_s3_path: gen_qa needs a file of questions; name a local gen_qa.jsonl")
    return path


def _tasks(evaluation: NovaEvaluation, where: str) -> tuple[str, ...]:
    """Our tasks, one for each form that ours is asked in; a subject of it where the recipe names one."""
    forms = [task for task in shipped_entries() if task in (evaluation.task, f"{evaluation.task}_letter")]
    if evaluation.task == "mmlu":
        forms.append("mmlu_cloze")
    if not evaluation.subtask:
        return tuple(forms)
    if evaluation.task != "mmlu":
        raise ConfigError(f"{where}: evaluation.subtask: {evaluation.task} has no subtasks here; leave it empty")
    subject = re.sub(r"\W+", "_", evaluation.subtask.strip().lower())
    return tuple(f"{form}_{subject}" for form in forms)


def _notes(recipe: NovaRecipe) -> list[str]:
    run, inference = recipe.run, recipe.inference
    notes: list[str] = []
    tracked = any((run.mlflow_tracking_uri, run.mlflow_experiment_name, run.mlflow_run_name, run.mlflow_run_id))
    unused = {
        "run.output_s3_path": bool(run.output_s3_path),
        "run.replicas": run.replicas != 1,
        "run.mlflow_*": tracked,
        "output": any(recipe.output.values()),
        "inference.reasoning_effort": inference.reasoning_effort is not None,
        "inference.max_model_len": inference.max_model_len is not None,
    }
    if set_ := [key for key, is_set in unused.items() if is_set]:
        notes.append(f"{', '.join(set_)}: has no meaning here and is passed over")
    if recipe.evaluation.strategy in ("zs_cot", "fs_cot") and recipe.evaluation.task == "mmlu":
        notes.append(
            f"strategy {recipe.evaluation.strategy}: mmlu is asked without reasoning, by log-probability, with five "
            "examples; compare with a baseline that was measured here, not with Nova's tables"
        )
    if inference.max_new_tokens is not None and recipe.evaluation.task != "gen_qa":
        notes.append("inference.max_new_tokens: the task's own limit is used")
    return notes
