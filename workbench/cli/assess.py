"""`workbench assess`: a checkpoint under a policy, both kinds of error, with error bars."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from workbench.pipeline import Evaluation
    from workbench.records import Outcome, Report, RuleResult, TaskResult
    from workbench.store import Project


def command(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Folder, GGUF file, hub id, URL#model, or a name the project knows.")
    ],
    policy: Annotated[str, typer.Option(help="Name of a shipped policy, or a policy file.", rich_help_panel="Policy")],
    context: Annotated[
        list[str] | None,
        typer.Option(help="Attribute of the caller that the policy asks for: key=value.", rich_help_panel="Policy"),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge of the policy that may raise as well: NAME, or NAME=CHECKPOINT.", rich_help_panel="Policy"
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Checkpoint to compare with; assessed too.", rich_help_panel="Model")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="transformers, vllm or openai.", rich_help_panel="Model")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel="Model")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one forward pass.", rich_help_panel="Model")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(help="Processes to share the work, or a Ray cluster: ray://HOST:10001.", rich_help_panel="Model"),
    ] = None,
    probes: Annotated[
        str | None, typer.Option(help="Probes, separated by commas (default: all).", rich_help_panel="Questions")
    ] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(help="Own questions, JSONL of prompt, category, expect.", rich_help_panel="Questions"),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Wrappers, separated by commas; `none`, or `all` (default: the policy's).", rich_help_panel="Questions"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Questions of each probe.", rich_help_panel="Questions")
    ] = None,
    per_attack: Annotated[
        int, typer.Option(min=0, help="Harmful questions in each wrapper.", rich_help_panel="Questions")
    ] = 20,
    seed: Annotated[int, typer.Option(help="Draws questions and resamples.", rich_help_panel="Questions")] = 0,
    by_category: Annotated[
        bool, typer.Option("--by-category", help="A row for each category as well.", rich_help_panel="Output")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked; compute nothing.", rich_help_panel="Output")
    ] = False,
    project: Annotated[
        Path | None, typer.Option(help="Project folder (default: the nearest).", rich_help_panel="Output")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel="Output")] = False,
) -> None:
    """Assess checkpoints under a policy: what they answer and should not, what they refuse and should not.

    Every answer is kept: a killed assessment goes on where it stopped, and another policy judges the same answers anew.

    Examples:
        workbench assess smollm2 --policy default --limit 20
        workbench assess runs/shop/checkpoint-300 --policy default --baseline smollm2
        workbench assess smollm2 --policy security-testing --context caller_role=pentester --probes harmbench
        workbench assess smollm2 --policy default --prompts ours.jsonl --attacks none
    """
    from safety.attacks import TRANSFORMS
    from workbench.assessment import AssessmentRequest, assess_many, build_assessment
    from workbench.cli.eval import Talk
    from workbench.cli.projects import find_project

    home = find_project(project, create=True)
    wrappers: list[str] | None = None if attacks is None else _names(attacks)
    if wrappers == ["all"]:
        wrappers = list(TRANSFORMS)
    request = AssessmentRequest(
        policy=policy,
        probes=_names(probes or ""),
        prompts=[str(path) for path in prompts or []],
        attacks=wrappers,
        limit=limit,
        per_attack=per_attack,
        judges=judge or [],
        context=_read_context(context or []),
        seed=seed,
        engine=engine,
        dtype=dtype,
        batch_tokens=batch_tokens,
        workers=workers,
    )
    if dry_run:
        _print_plan(build_assessment(home, request), as_json)
        return
    talk = Talk()
    try:
        with talk:
            done = assess_many(checkpoints, project=home, request=request, baseline=baseline, listener=talk.listener())
    except KeyboardInterrupt:
        import sys

        say(f"interrupted; {talk.kept()}. To go on: {shlex.join(['workbench', *sys.argv[1:]])}")
        raise SystemExit(130) from None
    print_assessment(done, policy, home, as_json=as_json, by_category=by_category)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _read_context(pairs: Sequence[str]) -> dict[str, Any]:
    from workbench.config import apply_overrides

    return apply_overrides({}, pairs)


def _print_plan(plan: Any, as_json: bool) -> None:
    from collections import Counter

    counts = Counter((question.probe, question.asks) for question in plan.questions)
    rows = [{"probe": probe, "asks": asks, "questions": n} for (probe, asks), n in sorted(counts.items())]
    if as_json:
        print_json({"policy": plan.policy.name, "policy_hash": plan.policy.hash, "probes": rows})
        return
    print_table(["probe", "asks", "questions"], [[row["probe"], row["asks"], row["questions"]] for row in rows])
    say(f"policy {plan.policy.name} ({plan.policy.hash[:12]}); {len(plan.questions):,} questions, nothing was computed")


def print_assessment(done: "Evaluation", policy: str, home: "Project", *, as_json: bool, by_category: bool) -> None:
    """The table on stdout; what the policy says of it, and the next step, on stderr."""
    from safety.assess import KINDS
    from safety.policy import load_policy
    from workbench.cli import tables
    from workbench.policy_gate import gate_assessment

    first = [] if done.baseline is None else [done.baseline]
    shown = first + [one for one in done.evaluated if one not in first]
    reports = [one.report for one in shown]
    resolved = load_policy(policy, folders=[home.root / "policies"])
    before = done.baseline.items if done.baseline and done.comparisons else None
    rules = {one.report.id: gate_assessment(resolved, one.report, one.items, baseline=before) for one in shown}
    names = tables.unique_names(reports)
    if as_json:
        gates = {report: {"outcome": conclude(own), "rules": own} for report, own in rules.items()}
        print_json({"reports": reports, "comparisons": done.comparisons, "gates": gates})
    else:
        _print_results(done, reports, by_category=by_category)
    for one in shown:
        name = names[one.report.id]
        for result in one.report.results:
            if result.task in (f"policy/overall/all/{kind}" for kind in KINDS):
                say(f"{name}: {_corrected_line(result)}")
        if one.usage is not None:
            say(f"{name}: {tables.cost_line(one.report.timing)}")
        for line in _gate_lines(rules[one.report.id], resolved.name):
            say(f"{name}: {line}")
    last = done.evaluated[-1].report.id[:12]
    say(f"policy {reports[-1].settings['policy']} ({str(reports[-1].settings['policy_hash'])[:12]})")
    base = f" --baseline {done.baseline.report.id[:12]}" if done.baseline and done.comparisons else ""
    say(f"next: workbench gate {last}{base} --policy {shlex.quote(policy)}")


def _print_results(done: "Evaluation", reports: "Sequence[Report]", *, by_category: bool) -> None:
    """A row for each probe of each dimension, what is said of all first."""
    from workbench.cli import tables
    from workbench.cli.output import Column

    columns, rows = tables.report_table(reports, done.comparisons)
    results = [result for report in reports for result in report.results]
    kept = {result.task for result in results} if by_category else shown_tasks(results)
    cut = [[*_told(str(row[0])), *row[1:]] for row in rows if row[0] in kept]
    print_table([Column("dimension"), Column("asked"), *columns[1:]], cut)


def shown_tasks(results: "Sequence[TaskResult]") -> set[str]:
    """What is shown without --by-category: all but the single categories that a pooled row of their probe holds."""
    from safety.assess import KINDS
    from safety.metrics import read_task_name

    pooled = [result for result in results if result.subtasks and read_task_name(result.task).probe not in KINDS]
    return {result.task for result in results}.difference(*(result.subtasks for result in pooled))


def _told(task: str) -> tuple[str, str]:
    """`("safety", "hate: harmbench")` of a task's name."""
    from safety.metrics import read_task_name

    dimension, category, probe = read_task_name(task)
    return dimension, probe if category == "all" else f"{category}: {probe}"


def conclude(rules: "Sequence[RuleResult]") -> "Outcome":
    """The strictest outcome of the required rules."""
    found = {rule.outcome for rule in rules if rule.required}
    return "fail" if "fail" in found else "hold" if "hold" in found else "pass"


def _gate_lines(rules: "Sequence[RuleResult]", policy: str) -> list[str]:
    """What the policy's gates say in a line, and the sentence of each broken one."""
    from workbench.publish.signs import OUTCOMES

    counts = {outcome: sum(rule.outcome == outcome for rule in rules) for outcome in OUTCOMES}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    broken = [f"  {OUTCOMES['fail'].shape} {rule.rule}: {rule.reason}" for rule in rules if rule.outcome == "fail"]
    return [f"{OUTCOMES[conclude(rules)].label} by the {len(rules)} gates of {policy}: {told}", *broken]


def _corrected_line(result: "TaskResult") -> str:
    from workbench.cli.tables import format_estimate

    wanted = f"{result.metric}_corrected"
    found = next((e for e in result.estimates if e.metric == wanted), None)
    what = result.task.rsplit("/", 1)[-1].replace("_", " ")
    plain = f"{result.metric} on {what} {format_estimate(result.headline)}"
    return plain if found is None else f"{plain}; {format_estimate(found)} with the judge's own error taken out"
