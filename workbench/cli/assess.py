"""`workbench assess`: a checkpoint under a policy, both kinds of error, with error bars."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from workbench.pipeline import Evaluation
    from workbench.records import TaskResult


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
    _print_assessment(done, policy, as_json=as_json, by_category=by_category)


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


def _print_assessment(done: "Evaluation", policy: str, *, as_json: bool, by_category: bool) -> None:
    from workbench.cli import tables

    first = [] if done.baseline is None else [done.baseline]
    shown = first + [one for one in done.evaluated if one not in first]
    reports = [one.report for one in shown]
    if as_json:
        print_json({"reports": reports, "comparisons": done.comparisons})
    else:
        columns, rows = tables.report_table(reports, done.comparisons)
        kept = {result.task for report in reports for result in report.results if by_category or is_pooled(result)}
        print_table(columns, [row for row in rows if row[0] in kept])
    names = tables.unique_names(reports)
    for one in shown:
        for result in one.report.results:
            if result.task.startswith("policy/overall/"):
                say(f"{names[one.report.id]}: {_corrected_line(result)}")
        if one.usage is not None:
            say(f"{names[one.report.id]}: {tables.cost_line(one.report.timing)}")
    last = done.evaluated[-1].report.id[:12]
    say(f"policy {reports[-1].settings['policy']} ({str(reports[-1].settings['policy_hash'])[:12]})")
    base = f" --baseline {done.baseline.report.id[:12]}" if done.baseline and done.comparisons else ""
    say(f"next: workbench gate {last}{base} --policy {shlex.quote(policy)}")


def is_pooled(result: "TaskResult") -> bool:
    """Whether a row is shown without --by-category: pooled over categories, or of a probe that has only one."""
    return bool(result.subtasks) or result.task.split("/")[2] == "all" or not result.required


def _corrected_line(result: "TaskResult") -> str:
    from workbench.cli.tables import format_estimate

    wanted = f"{result.metric}_corrected"
    found = next((e for e in result.estimates if e.metric == wanted), None)
    what = result.task.rsplit("/", 1)[-1].replace("_", " ")
    plain = f"{result.metric} on {what} {format_estimate(result.headline)}"
    return plain if found is None else f"{plain}; {format_estimate(found)} with the judge's own error taken out"
