"""One checkpoint on one plan: load an engine, run, score, record. Knows every part by its front door only."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import EngineError, UserError, did_you_mean
from workbench.records import Checkpoint, ItemScore, Report
from workbench.references import include_folders

if TYPE_CHECKING:
    from benchmarks.cost import TaskCost
    from benchmarks.lm import EngineLM
    from benchmarks.progress import ProgressReport
    from benchmarks.runner import Plan
    from workbench.engines.base import Engine, Usage
    from workbench.store import Project

DTYPES = ("auto", "float32", "bfloat16", "float16")
OTHER_TILING = 0.45
"""Batch tokens of an A/A run, as a share of the run's own: no multiple of it, so that few tiles stay alike."""
_PACKAGES = ("model-workbench", "torch", "transformers", "lm-eval", "datasets", "numpy", "tokenizers", "vllm")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What to ask of every checkpoint of a run. All of it shapes the numbers."""

    suites: Sequence[str] = ()
    tasks: Sequence[str] = ()
    environments: Sequence[str | Path] = ()
    """Files of environments: their episodes are tasks like any other."""
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
    variants: int | None = None
    """Prompts to ask each question in, where a task can be varied; None: what the suites say."""
    choices_only: bool = False
    """Ask tasks without their questions as well: what can be guessed?"""
    engine: str | None = None
    """None: the project's, or `openai` for an endpoint."""
    dtype: str | None = None
    batch_tokens: int | None = None
    """Tokens of one forward pass."""
    cache_gb: float | None = None
    """Most memory for shared prefixes, in GB."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """More options of the engine."""
    workers: str | None = None
    """A number of processes, or a Ray cluster, that share the work; the numbers are those of one process."""


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


def evaluate_one(
    checkpoint: Checkpoint, plan: "Plan", project: "Project", request: EvaluationRequest, listener: Listener
) -> Evaluated:
    """Load, run, score, record. What is computed is kept, whatever happens."""
    from benchmarks.runner import Outcome, run_plan
    from workbench.agents import play_environments

    started = time.perf_counter()
    outcome = Outcome(results=(), items=())
    with opened(checkpoint, project, request, listener) as lm:
        if plan.entries:
            outcome = run_plan(
                lm,
                plan,
                apply_chat_template=request.apply_chat_template,
                system_instruction=request.system_instruction,
            )
        played = play_environments(checkpoint, lm.engine, project, request, listener) if request.environments else []
    for note in lm.usage.notes:
        listener.on_note(note)
    results = (*outcome.results, *(one.result for one in played))
    items = (*outcome.items, *(item for one in played for item in one.items))
    report = _build_report(checkpoint, lm, results, request, seconds=time.perf_counter() - started)
    if played:
        driven = {
            "episodes": float(sum(one.episodes for one in played)),
            "episodes_kept": float(sum(one.kept for one in played)),
        }
        report = replace(report, timing={**report.timing, **driven})
    report = _with_id(report, items)
    project.store.add_report(report, items)
    return Evaluated(report=report, items=items, usage=lm.usage, computed=lm.computed, reused=lm.reused)


def with_other_tiling(request: EvaluationRequest, report: Report) -> EvaluationRequest:
    """The same questions, computed in batches of another size: what an A/A comparison needs.

    Raises EngineError for an endpoint, which computes as it likes.
    """
    if report.checkpoint.kind == "endpoint":
        raise EngineError(f"--noise-floor: {report.checkpoint.name} is an endpoint, whose tiling nobody can choose")
    return replace(request, batch_tokens=int((request.batch_tokens or 2048) * OTHER_TILING))


@contextmanager
def opened(
    checkpoint: Checkpoint, project: "Project", request: EvaluationRequest, listener: Listener
) -> Iterator["EngineLM"]:
    """The checkpoint as a model that lm-eval can ask, its answers kept in the project's ledger."""
    from benchmarks.lm import EngineLM
    from workbench.engines.loading import load

    started = time.perf_counter()
    engine = load(checkpoint, **engine_options(checkpoint, project, request))
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


def engine_options(checkpoint: Checkpoint, project: "Project", request: EvaluationRequest) -> dict[str, Any]:
    """Options of the engine; those of arithmetic mean nothing to an endpoint, whose project default is left out."""
    asked = {"dtype": request.dtype, "batch_tokens": request.batch_tokens, "cache_gb": request.cache_gb}
    given = {name: value for name, value in asked.items() if value is not None}
    if request.dtype is not None and request.dtype not in DTYPES:
        raise EngineError(f"--dtype {request.dtype}: unknown; {did_you_mean(request.dtype, DTYPES)}")
    if request.workers is not None:
        given["workers"] = request.workers
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


def build_plan_of(project: "Project", request: EvaluationRequest, listener: Listener | None = None) -> "Plan":
    """What the request asks, with the project's own tasks and data folder; the listener is told what cannot be."""
    from benchmarks.runner import Plan, build_plan
    from workbench.agents import open_environments
    from workbench.config import data_folder

    open_environments(project, request.environments)  # what is wrong with one is told before a model is loaded
    if request.environments and not request.suites and not request.tasks:
        return Plan(entries=(), leaves={}, limits={}, seed=request.seed)
    plan = build_plan(
        suites=request.suites,
        tasks=request.tasks,
        num_fewshot=request.num_fewshot,
        limit=request.limit,
        seed=request.seed,
        variants=request.variants,
        choices_only=request.choices_only,
        include_path=include_folders(project, request.include_path),
        data=data_folder(project.config, root=project.root),
    )
    if listener is not None:
        for note in plan.notes:
            listener.on_note(note)
    return plan


def _build_report(
    checkpoint: Checkpoint, lm: "EngineLM", results: Any, request: EvaluationRequest, *, seconds: float
) -> Report:
    usage = lm.usage
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
            # Only where they were asked: reports without them keep their ids.
            **({"variants": request.variants} if request.variants else {}),
            **({"choices_only": True} if request.choices_only else {}),
            **({"environments": [Path(one).name for one in request.environments]} if request.environments else {}),
        },
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=describe_environment() | ({"notes": "; ".join(usage.notes)} if usage.notes else {}),
        timing=timing_of(lm, seconds),
    )


def timing_of(lm: "EngineLM", seconds: float) -> dict[str, float]:
    """What a run cost, for its report."""
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
    return timing


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


def expected_seconds(
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
