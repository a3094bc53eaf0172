"""The main path, readable in one sitting: resolve a checkpoint, load an engine, run the tasks, record a report.

`evaluate` is what `workbench eval` calls, and what Python users call. Knows every part by its front door only.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError, ConfigError, EngineError, StoreError, UserError, did_you_mean
from workbench.records import Checkpoint, ItemScore, Report

if TYPE_CHECKING:
    from benchmarks.changes import Change
    from benchmarks.cost import TaskCost
    from benchmarks.lm import EngineLM
    from benchmarks.progress import ProgressReport
    from benchmarks.runner import Plan
    from workbench.engines.base import Engine, Usage
    from workbench.store import Project

DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("model-workbench", "torch", "transformers", "lm-eval", "datasets", "numpy", "tokenizers", "vllm")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What to ask of every checkpoint of a run. All of it shapes the numbers."""

    suites: Sequence[str] = ()
    tasks: Sequence[str] = ()
    num_fewshot: int | None = None
    """Overrides every task's own number of shots."""
    limit: int | float | None = None
    """Items per leaf task at most; below 1, a share. Overrides the suites' own limits."""
    seed: int = 0
    """Draws shots (0: as lm-eval does), samples and bootstraps."""
    apply_chat_template: bool = False
    system_instruction: str | None = None
    include_path: Sequence[str | Path] = ()
    """Folders of task and suite files, besides those of the project."""
    engine: str | None = None
    """None: the project's, or `openai` for an endpoint."""
    dtype: str | None = None
    batch_tokens: int | None = None
    """Tokens of one forward pass."""
    cache_gb: float | None = None
    """Most memory for shared prefixes, in GB."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """More options of the engine."""


@dataclass(kw_only=True, slots=True)
class Listener:
    """Who is told how a run goes. Every call is optional to hear."""

    on_loaded: Callable[[Checkpoint, "Engine", float], None] = lambda *_: None
    """Checkpoint, engine, seconds."""
    on_progress: Callable[[Checkpoint, "ProgressReport"], None] = lambda *_: None
    on_note: Callable[[str], None] = lambda *_: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """One checkpoint's report, and what this run of it cost."""

    report: Report
    items: tuple[ItemScore, ...]
    usage: "Usage | None" = None
    """None: the report was taken from the store."""
    computed: int = 0
    """Distinct requests that were paid for now."""
    reused: int = 0
    """Distinct requests whose answer was in the ledger."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Several checkpoints on the same tasks, and their changes against the baseline (report id -> changes)."""

    evaluated: tuple[Evaluated, ...]
    baseline: Evaluated | None
    changes: Mapping[str, Sequence["Change"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointCost:
    """What evaluating one checkpoint would cost."""

    checkpoint: Checkpoint
    tasks: tuple["TaskCost", ...]
    seconds: float | None
    """Expected; None where no earlier report tells how fast this checkpoint is computed."""


def evaluate(
    checkpoint: str | Path | Checkpoint,
    *,
    project: "Project | str | Path",
    baseline: str | Path | Checkpoint | None = None,
    listener: Listener | None = None,
    **request: Any,
) -> Report:
    """Evaluate one checkpoint and record its report; `request` takes the fields of EvaluationRequest.

    With a `baseline`, that is evaluated too (or read from the ledger) and recorded beside it.

    >>> evaluate("my-run/checkpoint-300", suites=["general"], project="my-project")  # doctest: +SKIP
    """
    many = evaluate_many(
        [checkpoint], project=project, baseline=baseline, listener=listener, request=EvaluationRequest(**request)
    )
    return many.evaluated[0].report


def evaluate_many(
    checkpoints: Sequence[str | Path | Checkpoint],
    *,
    project: "Project | str | Path",
    request: EvaluationRequest,
    baseline: str | Path | Checkpoint | None = None,
    listener: Listener | None = None,
) -> Evaluation:
    """Evaluate checkpoints on the same items, the baseline first; record a report of each.

    Raises UserError for what can be mended, RunError where a run failed; in both cases nothing computed is lost.
    """
    from benchmarks.changes import paired_changes

    project, listener = open_project(project), listener or Listener()
    plan = _build_plan(project, request)
    resolved = [resolve_checkpoint(one, project) for one in checkpoints]
    _refuse_twins(resolved)
    base = _find_baseline(baseline, project) if baseline is not None else None
    twin = [i for i, one in enumerate(resolved) if isinstance(base, Checkpoint) and _identity(one) == _identity(base)]
    if isinstance(base, Checkpoint) and not twin:
        base = _evaluate_one(base, plan, project, request, listener)
    done = [_evaluate_one(one, plan, project, request, listener) for one in resolved]
    if isinstance(base, Checkpoint):
        base = done[twin[0]]
    changes = {
        one.report.id: paired_changes(one.report.results, one.items, base.items, seed=request.seed)
        for one in done
        if base is not None and one.report.id != base.report.id
    }
    return Evaluation(evaluated=tuple(done), baseline=base, changes=changes)


def plan_evaluation(
    checkpoints: Sequence[str | Path | Checkpoint],
    *,
    project: "Project | str | Path",
    request: EvaluationRequest,
    baseline: str | Path | Checkpoint | None = None,
) -> list[CheckpointCost]:
    """What `evaluate_many` would compute, per checkpoint and task. Builds all prompts, computes no answer."""
    from benchmarks.cost import estimate_cost

    project = open_project(project)
    plan = _build_plan(project, request)
    named = [*checkpoints] if baseline is None or baseline in checkpoints else [baseline, *checkpoints]
    costs: list[CheckpointCost] = []
    for one in named:
        checkpoint = resolve_checkpoint(one, project)
        with _opened(checkpoint, project, request, Listener()) as lm:
            tasks = estimate_cost(lm, plan, apply_chat_template=request.apply_chat_template)
            seconds = _expected_seconds(project, checkpoint, lm.engine.scorer, tasks)
        costs.append(CheckpointCost(checkpoint=checkpoint, tasks=tuple(tasks), seconds=seconds))
    return costs


def open_project(project: "Project | str | Path") -> "Project":
    """The project itself, or the one in (or above) a folder; a new one is made where there is none."""
    from workbench.store import Project

    return project if isinstance(project, Project) else Project.open_or_init(project)


def include_folders(project: "Project", more: Iterable[str | Path] = ()) -> list[Path]:
    """Where a project's own tasks and suites lie: its folders, those it is configured with, and `more`.

    Each folder once: lm-eval would take a task met twice for two of the same name.
    """
    own = [folder for folder in (project.root / "tasks", project.root / "suites") if folder.is_dir()]
    configured = [project.root / path for path in project.config.include_path]
    return list(dict.fromkeys(Path(path).expanduser().resolve() for path in [*own, *configured, *more]))


def resolve_checkpoint(reference: str | Path | Checkpoint, project: "Project | None" = None) -> Checkpoint:
    """A checkpoint by path, alias of an embedded model, name or fingerprint known to the project, hub id or URL#model.

    Raises CheckpointError: nothing of that name, or no model.
    """
    from workbench.engines.embedded import EMBEDDED, find_embedded
    from workbench.store import checkpoints

    if isinstance(reference, Checkpoint):
        return reference
    text = str(reference)
    if not Path(text).expanduser().exists():
        if text in EMBEDDED:
            fetched = find_embedded(text)
            if fetched is None:
                raise CheckpointError(f"{text}: not on this machine yet; run workbench fetch {text}")
            return checkpoints.resolve(fetched.folder, name=text)
        known = _known_checkpoint(text, project)
        if known is not None:
            return replace(checkpoints.resolve(known.source, name=known.name), stage=known.stage, parent=known.parent)
    return checkpoints.resolve(text)


def _known_checkpoint(reference: str, project: "Project | None") -> Checkpoint | None:
    if project is None:
        return None
    try:
        return project.store.checkpoint(reference)
    except StoreError:
        return None


def _find_baseline(reference: str | Path | Checkpoint, project: "Project") -> Checkpoint | Evaluated:
    """The baseline's checkpoint; where its weights cannot be had any more, its last report."""
    try:
        return resolve_checkpoint(reference, project)
    except CheckpointError as error:
        try:
            report = project.store.report(str(reference))
            items = tuple(project.store.items(report.id))
        except StoreError:
            raise error from None
        try:
            return resolve_checkpoint(report.checkpoint.source, project)
        except CheckpointError:
            return Evaluated(report=report, items=items)


def _evaluate_one(
    checkpoint: Checkpoint, plan: "Plan", project: "Project", request: EvaluationRequest, listener: Listener
) -> Evaluated:
    """Load, run, score, record."""
    from benchmarks.runner import run_plan

    started = time.perf_counter()
    with _opened(checkpoint, project, request, listener) as lm:
        outcome = run_plan(
            lm,
            plan,
            apply_chat_template=request.apply_chat_template,
            system_instruction=request.system_instruction,
        )
    for note in lm.usage.notes:
        listener.on_note(note)
    report = _build_report(checkpoint, lm, outcome.results, request, seconds=time.perf_counter() - started)
    report = _with_id(report, outcome.items)
    project.store.add_report(report, outcome.items)
    return Evaluated(report=report, items=outcome.items, usage=lm.usage, computed=lm.computed, reused=lm.reused)


@contextmanager
def _opened(
    checkpoint: Checkpoint, project: "Project", request: EvaluationRequest, listener: Listener
) -> Iterator["EngineLM"]:
    """The checkpoint as a model that lm-eval can ask, its answers kept in the project's ledger."""
    from benchmarks.lm import EngineLM
    from workbench.engines.loading import load

    started = time.perf_counter()
    engine = load(checkpoint, **_engine_options(checkpoint, project, request))
    listener.on_loaded(checkpoint, engine, time.perf_counter() - started)
    try:
        yield EngineLM(
            engine,
            ledger=project.store.ledger,
            fingerprint=checkpoint.fingerprint,
            tokenizer_digest=checkpoint.tokenizer,
            seed=request.seed,
            on_progress=lambda report: listener.on_progress(checkpoint, report),
        )
    finally:
        engine.close()


def _engine_options(checkpoint: Checkpoint, project: "Project", request: EvaluationRequest) -> dict[str, Any]:
    """Options of the engine; those of arithmetic mean nothing to an endpoint, whose project default is left out."""
    asked = {"dtype": request.dtype, "batch_tokens": request.batch_tokens, "cache_gb": request.cache_gb}
    given = {name: value for name, value in asked.items() if value is not None}
    if request.dtype is not None and request.dtype not in DTYPES:
        raise EngineError(f"--dtype {request.dtype}: unknown; {did_you_mean(request.dtype, DTYPES)}")
    if checkpoint.kind == "endpoint":
        if given:
            option = next(iter(given)).replace("_", "-")
            raise EngineError(f"--{option}: {checkpoint.name} is an endpoint, which computes as it likes; leave it out")
        allowed = {"allowed_endpoints": project.config.allowed_endpoints}
        return {"engine": request.engine, **allowed, **request.engine_options}
    return {
        "engine": request.engine or project.config.engine,
        "dtype": project.config.dtype,
        **given,
        **request.engine_options,
    }


def _build_plan(project: "Project", request: EvaluationRequest) -> "Plan":
    from benchmarks.runner import build_plan
    from workbench.config import data_folder

    return build_plan(
        suites=request.suites,
        tasks=request.tasks,
        num_fewshot=request.num_fewshot,
        limit=request.limit,
        seed=request.seed,
        include_path=include_folders(project, request.include_path),
        data=data_folder(project.config, root=project.root),
    )


def _build_report(
    checkpoint: Checkpoint, lm: "EngineLM", results: Any, request: EvaluationRequest, *, seconds: float
) -> Report:
    usage = lm.usage
    timing = {
        "seconds": seconds,
        "compute_seconds": usage.seconds,
        "prompt_tokens": float(usage.prompt_tokens),
        "new_tokens": float(usage.new_tokens),
        "naive_tokens": float(usage.naive_tokens),
        "requests_computed": float(lm.computed),
        "requests_reused": float(lm.reused),
    }
    if usage.limit_seconds:
        timing["limit_seconds"] = usage.limit_seconds
    return Report(
        id="",
        checkpoint=checkpoint,
        suites=tuple(request.suites),
        results=tuple(results),
        settings={
            "tasks": list(request.tasks),
            "engine": lm.engine.name,
            "scorer": lm.engine.scorer,
            "window": lm.engine.max_length,
            "num_fewshot": request.num_fewshot,
            "limit": request.limit,
            "seed": request.seed,
            "apply_chat_template": request.apply_chat_template,
            "system_instruction": request.system_instruction,
        },
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment() | ({"notes": "; ".join(usage.notes)} if usage.notes else {}),
        timing=timing,
    )


def _with_id(report: Report, items: Sequence[ItemScore]) -> Report:
    from workbench.store import report_id

    return replace(report, id=report_id(report, items))


def describe_environment() -> dict[str, str]:
    """Versions and machine, for a report's reader."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _identity(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.fingerprint, checkpoint.tokenizer


def _refuse_twins(checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str, str], Checkpoint] = {}
    for one in checkpoints:
        if (other := seen.setdefault(_identity(one), one)) is not one:
            raise ConfigError(f"{one.name}: the same weights and tokenizer as {other.name}; name each model once")


def _expected_seconds(
    project: "Project", checkpoint: Checkpoint, scorer: str, tasks: Sequence["TaskCost"]
) -> float | None:
    """From the newest report of the same weights and scorer that computed something."""
    todo = sum(cost.tokens + cost.new_tokens for cost in tasks)
    if not todo:
        return 0.0
    try:
        reports = project.store.reports(checkpoint=checkpoint.fingerprint)
    except UserError:
        return None
    for report in reports:
        computed = report.timing.get("prompt_tokens", 0.0) + report.timing.get("new_tokens", 0.0)
        if report.settings.get("scorer") == scorer and computed > 0:
            return todo * report.timing["compute_seconds"] / computed
    return None
