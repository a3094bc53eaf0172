"""The main path, readable in one sitting: train, evaluate checkpoints, compare their reports, decide what may ship.

`workbench train`, `eval`, `compare` and `gate` call these functions, and so do Python users. Knows every part by its
front door only: one checkpoint's evaluation is in `workbench.evaluation`, what a recipe comes to in `workbench.runs`,
what names mean in `workbench.references`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.comparing import Part, compare, compare_recorded, find_flips, find_reasons, select_best
from workbench.errors import CheckpointError, ConfigError, StoreError
from workbench.evaluation import (
    Evaluated,
    EvaluationRequest,
    Listener,
    build_plan_of,
    evaluate_one,
    expected_seconds,
    opened,
    with_other_tiling,
)
from workbench.frontier import merge, merge_frontier
from workbench.progress import find_run, list_runs, read_curves
from workbench.records import Checkpoint, Comparison, Decision, Report
from workbench.references import (
    find_report_like,
    include_folders,
    open_project,
    resolve_checkpoint,
)
from workbench.runs import prepare_run

if TYPE_CHECKING:
    from benchmarks.compare import Question
    from benchmarks.cost import TaskCost
    from safety.resolved import ResolvedPolicy
    from training.control import Judged
    from training.run import Step, Trained
    from workbench.frontier import Frontier
    from workbench.gate import Check, Gate
    from workbench.overrides import Override
    from workbench.runs import PreparedRun
    from workbench.store import Project

__all__ = [
    "CheckpointCost",
    "Evaluated",
    "Evaluation",
    "EvaluationRequest",
    "Gated",
    "Listener",
    "TrainedRun",
    "compare",
    "evaluate",
    "evaluate_many",
    "find_flips",
    "find_reasons",
    "find_run",
    "gate",
    "include_folders",
    "list_runs",
    "merge",
    "merge_frontier",
    "open_project",
    "plan_evaluation",
    "prepare_run",
    "read_curves",
    "resolve_checkpoint",
    "select_best",
    "train",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Several checkpoints on the same tasks, and how they compare with the baseline."""

    evaluated: tuple[Evaluated, ...]
    baseline: Evaluated | None
    comparisons: Mapping[str, Comparison]
    """By id of the candidate's report."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """A decision, with the comparison that it rests on."""

    decision: Decision
    report: Report
    comparison: Comparison | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run that was carried out, with what was found of its last checkpoint."""

    prepared: "PreparedRun"
    made: "Trained"
    checkpoints: tuple[Checkpoint, ...]
    """All that were kept, by step; the last one is the last."""
    evaluation: Evaluation | None = None
    frontier: "Frontier | None" = None
    """Averages with the start, where the recipe asks for them; the chosen one is what was decided about."""
    gated: Gated | None = None


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
    noise_floor: bool = False,
    listener: Listener | None = None,
) -> Evaluation:
    """Evaluate checkpoints on the same items, the baseline first; record a report of each and compare them.

    `noise_floor`: compute the baseline a second time with other tiling, so that comparisons know what arithmetic
    alone does to it. Raises UserError for what can be mended, RunError where a run failed; nothing computed is lost.
    """
    project, listener = open_project(project), listener or Listener()
    plan = build_plan_of(project, request, listener)
    resolved = [resolve_checkpoint(one, project) for one in checkpoints]
    _refuse_twins(resolved)
    base = _find_baseline(baseline, project) if baseline is not None else None
    twin = [i for i, one in enumerate(resolved) if isinstance(base, Checkpoint) and _identity(one) == _identity(base)]
    if isinstance(base, Checkpoint) and not twin:
        base = evaluate_one(base, plan, project, request, listener)
    done = [evaluate_one(one, plan, project, request, listener) for one in resolved]
    if isinstance(base, Checkpoint):
        base = done[twin[0]]
    if noise_floor:
        again = base or done[0]
        evaluate_one(again.report.checkpoint, plan, project, with_other_tiling(request, again.report), listener)
    comparisons = {
        one.report.id: compare_recorded(project.store, base.report, one.report, seed=request.seed)
        for one in done
        if base is not None and one.report.id != base.report.id
    }
    return Evaluation(evaluated=tuple(done), baseline=base, comparisons=comparisons)


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
    plan = build_plan_of(project, request)
    named = [*checkpoints] if baseline is None or baseline in checkpoints else [baseline, *checkpoints]
    costs: list[CheckpointCost] = []
    for one in named:
        checkpoint = resolve_checkpoint(one, project)
        with opened(checkpoint, project, request, Listener()) as lm:
            tasks = estimate_cost(lm, plan, apply_chat_template=request.apply_chat_template)
            seconds = expected_seconds(project, checkpoint, lm.engine.scorer, tasks)
        costs.append(CheckpointCost(checkpoint=checkpoint, tasks=tuple(tasks), seconds=seconds))
    return costs


def gate(
    candidate: str,
    *,
    project: "Project | str | Path",
    baseline: str | None = None,
    rules: "Gate | str | Path | None" = None,
    overrides: Sequence["Override"] = (),
    policy: "ResolvedPolicy | None" = None,
    part: Part = "all",
    seed: int = 0,
) -> Gated:
    """Decide whether a checkpoint may ship, by its recorded report; the decision is recorded too.

    `policy`: its gates are held against the newest assessment under it, and all must pass besides the evaluation's.
    `rules`: a gate or its file; None asks what the suites ask: every task kept. `overrides` must be signed for this
    report (`workbench.overrides`); what was signed is kept with the decision. `part`: `certify` for a checkpoint that
    was chosen on the other half of the items.
    """
    from workbench.gate import decide, evidence_of
    from workbench.policy_gate import policy_side, record_overrides
    from workbench.runs import training_rule

    project = open_project(project)
    store = project.store
    report = store.report(candidate)
    before = baseline or project.config.baseline
    about_policy = policy_side(store, report, policy, baseline=before) if policy else None
    checks, comparison, base = [], None, None
    if about_policy is None or about_policy.evaluation is not None:
        report = about_policy.evaluation or report if about_policy else report
        checks, comparison, base = _evaluation_side(project, report, baseline, rules, part=part, seed=seed)
    digests = {one.id: store.items_digest(one.id) for one in (report, base) if one is not None}
    evidence = evidence_of(report, comparison, items=digests, baseline=base)
    for one in overrides:
        evidence |= {f"override of {one.rule}": one.statement, f"signature of {one.rule}": one.signature}
    told = {one.rule: one.told for one in overrides}
    more = [rule] if (rule := training_rule(store, report.checkpoint)) is not None else []
    if about_policy is not None:
        more += about_policy.rules
        evidence |= about_policy.evidence
    decision = decide(checks, report=report, comparison=comparison, evidence=evidence, overrides=told, more=more)
    parents = [comparison.id] if comparison else [report.id]
    document = _plain(replace(decision, id="", created_at=""))
    found = store.add_decision(document, verdict=decision.outcome, made_from=parents)
    record_overrides(store, overrides, decision=found, outcome=decision.outcome)
    return Gated(decision=replace(decision, id=found, created_at=_now()), report=report, comparison=comparison)


def _evaluation_side(
    project: "Project",
    report: Report,
    baseline: str | None,
    rules: "Gate | str | Path | None",
    *,
    part: Part,
    seed: int,
) -> "tuple[list[Check], Comparison | None, Report | None]":
    """The rules on an evaluation, the comparison with the baseline that they ask for, and the baseline's report."""
    from benchmarks.suite import list_tasks, rules_of
    from workbench.gate import default_gate, expand_rules, load_gate

    store = project.store
    where = "gate" if rules is None or not isinstance(rules, str | Path) else str(rules)
    asked = load_gate(rules) if isinstance(rules, str | Path) else rules
    named = baseline or (asked.baseline if asked else None) or project.config.baseline
    base = find_report_like(store, named, report) if named else None
    own = rules_of(report.suites, include_folders(project))
    asked = asked or default_gate(report, *([base] if base else []), rules=own)
    results = {result.task: result for one in (base, report) if one for result in one.results}
    known = list_tasks(include_folders(project))
    checks = expand_rules(asked, list(results.values()), known_tasks=known, where=where)
    comparison = None
    if base is not None:
        questions = [_question(check) for check in checks if check.matched and not check.rule.is_limit]
        unique = list(dict.fromkeys(questions))
        comparison = compare_recorded(store, base, report, unique, alpha=asked.alpha, part=part, seed=seed)
    return checks, comparison, base


def train(
    recipe: str | Path,
    *,
    project: "Project | str | Path",
    overrides: Sequence[str] = (),
    on_prepared: "Callable[[PreparedRun], None]" = lambda _: None,
    on_step: "Callable[[Step], None]" = lambda _: None,
    on_judged: "Callable[[Judged], None]" = lambda _: None,
    listener: Listener | None = None,
) -> TrainedRun:
    """Carry a recipe out, evaluate what came of it against where it started, and decide.

    The same call after an interruption goes on from the last checkpoint, to the same weights. Where the recipe watches
    the run from inside, `on_judged` hears each look. Where it names nothing to evaluate, nothing is decided. Raises
    UserError before a second of training for what recipe or data cannot bear, RunError where the loss is no number.
    """
    from workbench.frontier import write_frontier
    from workbench.runs import build_hooks, carry_out, prepare_run, to_evaluate

    project = open_project(project)
    prepared = prepare_run(Path(recipe), project, overrides)
    on_prepared(prepared)
    made, checkpoints = carry_out(prepared, project, on_step, build_hooks(prepared, project, on_judged))
    asked, averages = prepared.recipe.evaluation, prepared.recipe.merge
    own = [Path(recipe).parent / one for one in asked.environments]
    if not checkpoints or not (asked.suites or asked.tasks or own):  # none: another process of this run has them
        return TrainedRun(prepared=prepared, made=made, checkpoints=tuple(checkpoints))
    request = EvaluationRequest(suites=asked.suites, tasks=asked.tasks, environments=own, limit=asked.limit)
    baseline = asked.baseline or prepared.start
    wanted = to_evaluate(prepared.recipe, checkpoints)
    evaluation = evaluate_many(wanted, project=project, request=request, baseline=baseline, listener=listener)
    assert evaluation.baseline is not None
    result, frontier = evaluation.evaluated[-1].report, None
    if averages is not None and not made.stopped:
        frontier = merge_frontier(
            prepared.start,
            checkpoints[-1],
            project=project,
            request=request,
            weights=averages.weights,
            average_last=averages.average_last,
            listener=listener,
        )
        write_frontier(frontier, prepared.folder / "frontier.json")
        result = frontier.best.report
    gated = gate(
        result.id,
        project=project,
        baseline=evaluation.baseline.report.id,
        rules=Path(recipe).parent / asked.gate if asked.gate else None,
        part="certify" if frontier else "all",
    )
    return TrainedRun(
        prepared=prepared,
        made=made,
        checkpoints=tuple(checkpoints),
        evaluation=evaluation,
        frontier=frontier,
        gated=gated,
    )


def _question(check: Any) -> "Question":
    from benchmarks.compare import Question

    rule = check.rule
    return Question(task=check.task, metric=rule.metric, margin=rule.margin, required=check.required)


def _plain(record: Any) -> Any:
    from workbench.store import to_plain

    return to_plain(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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


def _identity(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.fingerprint, checkpoint.tokenizer


def _refuse_twins(checkpoints: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str, str], Checkpoint] = {}
    for one in checkpoints:
        if (other := seen.setdefault(_identity(one), one)) is not one:
            raise ConfigError(f"{one.name}: the same weights and tokenizer as {other.name}; name each model once")
