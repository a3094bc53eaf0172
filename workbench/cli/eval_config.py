"""`workbench eval --config FILE`: the command's own options in a file, or a Nova recipe. Knows keys; runs nothing."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from workbench.cli.output import say
from workbench.config import StrictModel, read_yaml, validate
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.store import Project


class EvalFile(StrictModel):
    """The keys of a file: the options of `workbench eval`, with `_` for `-`."""

    checkpoint: str | None = None
    """One checkpoint; or several:"""
    checkpoints: tuple[str, ...] = ()
    """Folders, GGUF files, hub ids, aliases."""
    baseline: str | None = None
    """Checkpoint or report to compare with."""
    suite: str | tuple[str, ...] = ()
    """Suite, or a list of them."""
    tasks: str | tuple[str, ...] = ()
    """Tasks: a list, or names separated by commas."""
    environment: str | tuple[str, ...] = ()
    """Files of environments."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in each prompt."""
    limit: float | None = Field(default=None, gt=0)
    """Items a task; below 1, a share."""
    seed: int | None = None
    """Draws shots, samples and resamples."""
    apply_chat_template: bool = False
    """Put prompts into the chat format."""
    variants: int | None = Field(default=None, ge=2, le=6)
    """Prompts to ask each question in."""
    choices_only: bool = False
    """Ask without the question too."""
    include_path: str | tuple[str, ...] = ()
    """Folders of task and suite files."""
    engine: str | None = None
    """transformers, vllm or openai."""
    dtype: str | None = None
    """auto, float32, bfloat16 or float16."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one forward pass."""
    cache_gb: float | None = Field(default=None, ge=0)
    """Most memory for shared prefixes, GB."""
    workers: int | str | None = None
    """Processes that share the work, or a Ray cluster."""
    model_args: str | dict[str, Any] | None = None
    """More options of the engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What a file asks for, in the command's own words; empty and None: nothing was said."""

    checkpoints: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def or_else(self, name: str, given: Any) -> Any:
        """The option as given on the command line; where it was left out, what the file says."""
        is_left_out = given is None or given is False or given == []  # but 0 is an answer
        return self.options.get(name, given) if is_left_out else given


def read_eval_config(file: Path | None, project: "Project") -> Asked:
    """What the file asks for. A recipe's `gen_qa` file becomes a task in the project's folder `tasks`.

    Raises ConfigError: no such file, unknown keys, a recipe that cannot be had here. None gives an empty Asked.
    """
    from benchmarks.nova import is_nova_recipe

    if file is None:
        return Asked()
    data = read_yaml(file)
    return _from_recipe(file, data, project) if is_nova_recipe(data) else _from_options(file, data)


def _from_options(file: Path, data: dict[str, Any]) -> Asked:
    found = validate(data, EvalFile, where=str(file))
    if found.checkpoint is not None and found.checkpoints:
        raise ConfigError(f"{file}: checkpoint: checkpoints is given too; keep one of them")
    options = {name: getattr(found, name) for name in found.model_fields_set - {"checkpoint", "checkpoints"}}
    named = (found.checkpoint,) if found.checkpoint is not None else found.checkpoints
    for name in ("suite", "tasks", "include_path", "environment"):
        if name in options:
            options[name] = [options[name]] if isinstance(options[name], str) else list(options[name])
    for name in ("include_path", "environment"):
        if name in options:
            options[name] = [Path(_beside(file, path)) for path in options[name]]
    if isinstance(options.get("model_args"), dict):
        options["model_args"] = ",".join(f"{key}={value}" for key, value in options["model_args"].items())
    if options.get("workers") is not None:
        options["workers"] = str(options["workers"])
    if "baseline" in options and options["baseline"] is not None:
        options["baseline"] = _beside(file, options["baseline"])
    return Asked(checkpoints=tuple(_beside(file, one) for one in named), options=options)


def _from_recipe(file: Path, data: dict[str, Any], project: "Project") -> Asked:
    from benchmarks.nova import plan_recipe

    plan = plan_recipe(data, where=str(file))
    for note in plan.notes:
        say(f"note: {file}: {note}")
    if plan.checkpoint is None:
        model = plan.model or "its model"
        say(f"note: {file}: {model} is only in Amazon's service; what the command names is evaluated")
    tasks = list(plan.tasks)
    if plan.questions is not None:
        tasks.append(_write_questions(file, plan.questions, plan.max_new_tokens, project))
    checkpoints = () if plan.checkpoint is None else (_beside(file, plan.checkpoint),)
    return Asked(checkpoints=checkpoints, options={"tasks": tasks})


def _write_questions(file: Path, questions: str, tokens: int | None, project: "Project") -> str:
    """Make a task of a gen_qa file; returns its name. Short answers count as right or wrong, longer ones by overlap."""
    from benchmarks.author import Options, read_questions, write_task

    source = Path(_beside(file, questions))
    if not source.is_file():
        raise ConfigError(f"{file}: run.data_s3_path: {source}: no such file; name a local gen_qa.jsonl")
    kinds = {question.kind for question in read_questions(source).questions}
    options = Options(kind="short" if kinds == {"short"} else "text", shots=0, tokens=tokens)
    draft = read_questions(source, options)
    # A name of its own, so that no task of the user's is written over.
    name = "nova_" + (re.sub(r"[^a-z0-9]+", "_", source.stem.lower()).strip("_") or "gen_qa")
    made = write_task(name, draft, project.root / "tasks" / name, options)
    say(f"{source}: made the task {name} (questions: {sum(made.items.values()):,}) in {made.folder}")
    return name


def _beside(file: Path, reference: str) -> str:
    """A path in a file is meant from the file's folder, if there is something; names and hub ids stay as they are."""
    path = Path(reference).expanduser()
    beside = file.parent / path
    return str(beside) if not path.is_absolute() and beside.exists() else reference
