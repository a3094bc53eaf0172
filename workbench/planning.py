"""`plan_evidence`: before a run, what the suite's tasks can certify, with how many items, in which time.

Reads the tasks, the baseline's own report if there is one, and earlier comparisons; computes no answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import ConfigError, StoreError
from workbench.evaluation import EvaluationRequest, Listener, build_plan_of, opened
from workbench.records import Checkpoint, Report, TaskResult
from workbench.references import open_project, resolve_checkpoint

if TYPE_CHECKING:
    from benchmarks.cost import TaskCost
    from benchmarks.evidence import TaskFacts, TaskPlan
    from benchmarks.runner import Entry, Plan
    from workbench.store import Project


NO_CHANCE = 0.05
"""A budget at which the gate is less likely to pass than this buys nothing."""
_PROMPTS_UNKNOWN = "asked in {} prompts; how far the change hangs on the prompt is not known before, and comes on top"


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
    notes: tuple[str, ...] = ()
    """What a reader must know: a budget that buys no certificate, prompts whose spread nobody knows yet."""


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

    Raises ConfigError: a budget where nothing tells how fast the checkpoint is computed.
    """
    from benchmarks.cost import estimate_cost
    from benchmarks.evidence import gate_chance, plan_task

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
        _facts(asked, plan, costs[asked.cost], project, known.get(asked.entry.name), seen, margin, change)
        for asked in _questions(plan)
    ]
    tasks = [plan_task(fact, power=power, alpha=alpha, tokens_per_second=speed) for fact in facts]
    notes = [f"{fact.task}: {_PROMPTS_UNKNOWN.format(fact.prompts)}" for fact in facts if fact.prompts]
    if budget_s is not None:
        tasks, note = _within(tasks, budget_s, alpha, speed, where)
        notes += [note] if note else []
    seconds = None if speed is None else sum(task.seconds or 0.0 for task in tasks)
    return Evidence(
        tasks=tuple(tasks),
        chance=gate_chance(tasks),
        seconds=seconds,
        power=power,
        alpha=alpha,
        speed=where,
        notes=tuple(notes),
    )


def _within(
    tasks: "Sequence[TaskPlan]", budget_s: float, alpha: float, speed: float | None, where: str
) -> "tuple[list[TaskPlan], str]":
    """The tasks with the numbers of items that the budget buys; nothing, and a note, where that buys no certificate."""
    from benchmarks.evidence import budget_for, fit_budget, gate_chance, spend_nothing

    if speed is None:
        raise ConfigError(f"--budget: {where}, so items cannot be timed; run workbench eval on some items of it first")
    fitted = fit_budget(tasks, budget_s, alpha=alpha, tokens_per_second=speed)
    chance = gate_chance(fitted)
    if chance is None or chance >= NO_CHANCE:
        return fitted, ""
    least = budget_for(tasks, 0.5, alpha=alpha, tokens_per_second=speed)
    cure = (
        "all items there are do not give the gate an even chance; take wider margins, or fewer required tasks"
        if least is None
        else f"from about {_time(least)} on the gate passes with a chance of 50%"
    )
    return spend_nothing(tasks, alpha=alpha, tokens_per_second=speed), f"this budget buys no certificate: {cure}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A task to plan: the one that is compared, asked in one prompt or in several."""

    entry: "Entry"
    required: bool
    prompts: int | None
    cost: str
    """Name of the entry whose tokens are computed."""


def _questions(plan: "Plan") -> "list[_Asked]":
    """Tasks without their variations: a task that is asked in several prompts is planned once, at their cost."""
    from benchmarks.variants import PROMPTS

    over = {entry.name.removesuffix(PROMPTS): entry for entry in plan.entries if entry.prompts is not None}
    found: list[_Asked] = []
    for entry in plan.entries:
        if entry.prompts is not None or entry.is_probe:
            continue
        more = over.get(entry.name)
        required = entry.card.required or (more is not None and more.card.required)
        cost, prompts = (entry.name, None) if more is None else (more.name, more.prompts)
        found.append(_Asked(entry=entry, required=required, prompts=prompts, cost=cost))
    return found


def _facts(
    asked: _Asked,
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

    entry = asked.entry
    result = next((r for r in report.results if r.task == entry.name), None) if report else None
    accuracy = result.headline.value if result is not None and 0 <= result.headline.value <= 1 else None
    discordance, origin = expected_discordance(accuracy, given=change, seen=seen.get(entry.name, ()))
    effect = _design_effect(project, report, result) if report and result else _assumed_effect(entry, plan)
    items = cost.items // (asked.prompts or 1)
    return TaskFacts(
        task=entry.name,
        role=entry.card.role,
        required=asked.required,
        margin=margin or entry.card.margin,
        items=items,
        discordance=discordance,
        origin=origin,
        design_effect=effect,
        tokens_per_item=(cost.tokens + cost.new_tokens) / max(1, items),
        guessing=result is not None and _is_guessing(result),
        pooled=pooled_statistic(entry.card.metric) is not None,
        prompts=asked.prompts,
    )


def _assumed_effect(entry: "Entry", plan: "Plan") -> float:
    """Without answers of the baseline: the passages of the task's own documents, alike as nothing is known of them."""
    from benchmarks.evidence import CLUSTERED
    from benchmarks.library import group_of
    from workbench import paired

    groups: list[str] = []
    for leaf in entry.leaves:
        task = plan.leaves[leaf]
        rows = task.eval_docs
        for place in range(min(len(rows), plan.limits.get(leaf, len(rows)))):
            own = group_of(task, rows[place])
            groups.append(f"{leaf} {place}" if own is None else own)
    _, sizes = np.unique(np.array(groups, dtype=str), return_counts=True)
    return 1.0 if sizes.max(initial=1) == 1 else paired.design_effect(sizes, CLUSTERED)


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
            keys += f", variants: {facts.prompts}" if facts.prompts else ""
            lines.append(f"  - {{{keys}, required: {str(facts.required).lower()}}}")
    if gone := left_out(evidence):
        lines.insert(0, f"# Weaker than the suites it was planned from: required and left out: {', '.join(gone)}.")
    return "\n".join(lines) + "\n"


def left_out(evidence: Evidence) -> list[str]:
    """Required tasks that get no items, so that a gate on the planned suite would not ask for them."""
    return [plan.facts.task for plan in evidence.tasks if plan.facts.required and not plan.planned]


def _time(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"
