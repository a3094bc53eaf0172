"""`plan_evidence`: before a run, what the suite's tasks can certify, with how many items, in which time.

Reads the tasks, the baseline's own report if there is one, and earlier comparisons; computes no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import StoreError
from workbench.evaluation import EvaluationRequest, Listener, build_plan_of, opened
from workbench.records import Checkpoint, Report, TaskResult
from workbench.references import open_project, resolve_checkpoint

if TYPE_CHECKING:
    from benchmarks.cost import TaskCost
    from benchmarks.evidence import TaskFacts, TaskPlan
    from benchmarks.runner import Entry, Plan
    from workbench.store import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """A plan of evidence."""

    tasks: tuple["TaskPlan", ...]
    chance: float | None
    """That every required task is kept if nothing is lost; None: one of them cannot be certified at all."""
    seconds: float | None
    power: float
    alpha: float
    speed: str
    """Where the time is from."""


def plan_evidence(
    baseline: str | Path | Checkpoint,
    *,
    project: "Project | str | Path",
    request: EvaluationRequest,
    margin: float | None = None,
    change: float | None = None,
    budget_s: float | None = None,
    power: float = 0.8,
    alpha: float = 0.05,
) -> Evidence:
    """Plan a comparison of a candidate like the baseline with it.

    Args:
        margin: for all tasks, instead of the suite's.
        change: share of answers that a candidate will change; None: from earlier comparisons, else from the baseline.
        budget_s: seconds that a candidate's evaluation may take; None: all items of every task.
        power: wanted chance of a task to be kept if nothing is lost.
    """
    from benchmarks.cost import estimate_cost
    from benchmarks.evidence import fit_budget, gate_chance, plan_task

    project = open_project(project)
    checkpoint = resolve_checkpoint(baseline, project)
    plan = build_plan_of(project, request)
    with opened(checkpoint, project, request, Listener()) as lm:
        known = _reports_of(project, checkpoint)
        lm.ledger = None  # a candidate's answers are not known yet, whatever the baseline's are
        costs = {cost.task: cost for cost in estimate_cost(lm, plan, apply_chat_template=request.apply_chat_template)}
        speed, where = _speed(project, checkpoint, lm.engine)
    seen = _seen_changes(project)
    facts = [
        _facts(entry, plan, costs[entry.name], project, known.get(entry.name), seen, margin, change)
        for entry in plan.entries
    ]
    tasks = [plan_task(fact, power=power, alpha=alpha, tokens_per_second=speed) for fact in facts]
    if budget_s is not None and speed is not None:
        tasks = fit_budget(tasks, budget_s, alpha=alpha, tokens_per_second=speed)
    seconds = None if speed is None else sum(task.seconds or 0.0 for task in tasks)
    return Evidence(
        tasks=tuple(tasks), chance=gate_chance(tasks), seconds=seconds, power=power, alpha=alpha, speed=where
    )


def _facts(
    entry: "Entry",
    plan: "Plan",
    cost: "TaskCost",
    project: "Project",
    report: Report | None,
    seen: Mapping[str, Sequence[float]],
    margin: float | None,
    change: float | None,
) -> "TaskFacts":
    from benchmarks.evidence import TaskFacts, expected_discordance
    from benchmarks.pooled import pooled_statistic

    result = next((r for r in report.results if r.task == entry.name), None) if report else None
    accuracy = result.headline.value if result is not None and 0 <= result.headline.value <= 1 else None
    discordance, origin = expected_discordance(accuracy, given=change, seen=seen.get(entry.name, ()))
    effect = _design_effect(project, report, result) if report and result else 1.0
    return TaskFacts(
        task=entry.name,
        role=entry.card.role,
        required=entry.card.required,
        margin=margin or entry.card.margin,
        items=cost.items,
        discordance=discordance,
        origin=origin,
        design_effect=effect,
        tokens_per_item=(cost.tokens + cost.new_tokens) / max(1, cost.items),
        guessing=result is not None and _is_guessing(result),
        pooled=pooled_statistic(entry.card.metric) is not None,
    )


def _design_effect(project: "Project", report: Report, result: TaskResult) -> float:
    """From the baseline's own items: how alike the answers within a passage are stands for how alike changes are."""
    from benchmarks.evidence import CLUSTERED
    from workbench import paired

    columns = project.store.item_columns(report.id)
    rows = np.isin(columns.task.astype(str), result.subtasks or (result.task,))
    values = columns.metrics.get(result.metric)
    groups = columns.group[rows]
    _, sizes = np.unique(groups.astype(str), return_counts=True)
    if values is None or sizes.max() == 1:
        return 1.0
    kept = ~np.isnan(values[rows])
    alike = paired.intraclass_correlation(values[rows][kept], groups[kept].tolist())
    return paired.design_effect(sizes, CLUSTERED if alike is None else max(alike, 0.0))


def _is_guessing(result: TaskResult) -> bool:
    low, high = result.headline.low, result.headline.high
    return result.chance is not None and low is not None and high is not None and low <= result.chance <= high


def _reports_of(project: "Project", checkpoint: Checkpoint) -> dict[str, Report]:
    """For each task the baseline's report with the most items of it: a newer look at ten must not replace that."""
    try:
        reports = project.store.reports(checkpoint=checkpoint.fingerprint)
    except StoreError:
        return {}
    found: dict[str, tuple[int, Report]] = {}
    for report in reports:  # newest first, so the newest of equals stays
        for result in report.results:
            if result.task not in found or result.n > found[result.task][0]:
                found[result.task] = result.n, report
    return {task: report for task, (_, report) in found.items()}


def _seen_changes(project: "Project") -> dict[str, list[float]]:
    """Share of changed answers by task, over the comparisons that the project holds; unchanged copies are left out."""
    found: dict[str, list[float]] = {}
    for entry in project.store.comparisons():
        for task in entry.document.get("tasks", ()):
            changed: Any = (task.get("gained") or 0) + (task.get("lost") or 0)
            if task.get("n") and task.get("gained") is not None and changed:
                found.setdefault(task["task"], []).append(changed / task["n"])
    return found


def _speed(project: "Project", checkpoint: Checkpoint, engine: Any) -> tuple[float | None, str]:
    """Tokens per second: of the newest report that computed something with this scorer, else of the machine's limit."""
    try:
        reports = project.store.reports(checkpoint=checkpoint.fingerprint)
    except StoreError:
        reports = []
    for report in reports:
        tokens = report.timing.get("prompt_tokens", 0.0) + report.timing.get("new_tokens", 0.0)
        if report.settings.get("scorer") == engine.scorer and tokens > 0 and report.timing["compute_seconds"] > 0:
            return tokens / report.timing["compute_seconds"], f"measured in report {report.id[:12]}"
    model = getattr(engine, "model", None)
    if model is None or not hasattr(model, "limit_seconds"):
        return None, "no report of this checkpoint tells its speed"
    tokens = 100_000
    limit = model.limit_seconds(tokens=tokens, rows=tokens // 20, depth_sum=tokens * 250, batch_tokens=2048)
    return tokens / (2 * limit), "twice the time of this machine's matrix products"


def as_suite(evidence: Evidence, name: str) -> str:
    """A suite file that asks exactly what was planned, with its margins. YAML text."""
    lines = [f"suite: {name}", f"title: Planned for a chance of {_share(evidence.chance)} to pass", "tasks:"]
    for plan in evidence.tasks:
        facts = plan.facts
        if plan.planned:
            keys = f"task: {facts.task}, limit: {plan.planned}, margin: {facts.margin:g}"
            lines.append(f"  - {{{keys}, required: {str(facts.required).lower()}}}")
    if gone := left_out(evidence):
        lines.insert(0, f"# Weaker than the suites it was planned from: required and left out: {', '.join(gone)}.")
    return "\n".join(lines) + "\n"


def left_out(evidence: Evidence) -> list[str]:
    """Required tasks that get no items, so that a gate on the planned suite would not ask for them."""
    return [plan.facts.task for plan in evidence.tasks if plan.facts.required and not plan.planned]


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"
