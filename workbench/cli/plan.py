"""`workbench plan`: before a run, what it will be able to certify."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import Column, format_duration, print_json, print_table, say

if TYPE_CHECKING:
    from benchmarks.evidence import TaskPlan
    from workbench.planning import Evidence

_DURATION = re.compile(r"^\s*([0-9]*\.?[0-9]+)\s*(s|sec|m|min|h)\s*$", re.IGNORECASE)
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}
_ORIGINS = {
    "given": "as given",
    "comparisons": "earlier comparisons",
    "baseline": "the baseline's accuracy",
    "unknown": "a guess",
}


def command(
    suite: Annotated[list[str] | None, typer.Option(help="Suite of tasks; may be repeated.")] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Tasks, separated by commas.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Checkpoint to compare with (default: the project's baseline).")
    ] = None,
    margin: Annotated[
        str | None, typer.Option(help="Loss that counts as kept, for all tasks: 1pt or 0.01 (default: the suite's).")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Time that evaluating a candidate may take: 20min, 2h.")] = None,
    change: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of answers that the candidate will change.")
    ] = None,
    power: Annotated[float, typer.Option(min=0.05, max=0.999, help="Wanted chance to pass if nothing is lost.")] = 0.8,
    write: Annotated[Path | None, typer.Option(help="Write the planned numbers of items as a suite file.")] = None,
    include_path: Annotated[list[Path] | None, typer.Option(help="Folder of task and suite files.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Plan the evidence: which tasks can certify, how many items and minutes each needs, and the chance to pass.

    A gate that nothing could pass is found before the run, not after it. Computes no answer.

    Examples:
        workbench plan --suite general --baseline smollm2 --margin 2pt
        workbench plan --suite general --baseline smollm2 --budget 20min --write planned.yaml
        workbench plan --tasks arc_easy,piqa --baseline smollm2 --change 0.05
    """
    from workbench.cli.projects import find_project
    from workbench.errors import ConfigError
    from workbench.margins import parse_margin
    from workbench.pipeline import EvaluationRequest
    from workbench.planning import as_suite, left_out, plan_evidence

    home = find_project(project, create=True)
    named = baseline or home.config.baseline
    if named is None:
        raise ConfigError("plan: no baseline; name the checkpoint that candidates come from with --baseline")
    request = EvaluationRequest(
        suites=suite or [],
        tasks=[name.strip() for part in tasks or [] for name in part.split(",") if name.strip()],
        include_path=[str(path) for path in include_path or []],
    )
    evidence = plan_evidence(
        named,
        project=home,
        request=request,
        margin=parse_margin(margin) if margin else None,
        change=change,
        budget_s=_seconds(budget) if budget else None,
        power=power,
    )
    if as_json:
        print_json({"plan": evidence})
    else:
        _print_plan(evidence)
    if write is not None and not any(plan.planned for plan in evidence.tasks):
        say(f"note: no task gets any items, so {write} is not written")
    elif write is not None:
        if gone := left_out(evidence):
            say(f"note: required and left out of {write}: {', '.join(gone)}; a gate on it asks for less than the suite")
        write.write_text(as_suite(evidence, write.stem), encoding="utf-8")
        say(f"wrote {write}; next: workbench eval CANDIDATE --suite {write.stem} --include-path {write.parent}")


def _seconds(text: str) -> float:
    from workbench.errors import ConfigError

    found = _DURATION.match(text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError(f"--budget: {text!r} is no time; write 20min, 90s or 2h")
    return float(found[1]) * _SECONDS[found[2].lower()]


def _print_plan(evidence: "Evidence") -> None:
    columns = [
        Column("task"),
        Column("can certify", drop=0),
        Column("items", right=True),
        Column("needed", right=True),
        Column("there are", right=True, drop=1),
        Column("chance", right=True),
        Column("margin", right=True, drop=2),
        Column("least margin", right=True, drop=3),
        Column("finds a loss", right=True, drop=4),
        Column("changed", right=True, drop=4),
        Column("from", drop=6),
        Column("time", right=True, drop=5),
    ]
    print_table(columns, [_row(plan) for plan in evidence.tasks])
    chance = "cannot pass" if evidence.chance is None else f"passes with a chance of {evidence.chance:.0%}"
    say(f"if nothing is lost, the whole gate (all required tasks) {chance}")
    if evidence.seconds is not None:
        say(f"time: {format_duration(evidence.seconds)} for a candidate ({evidence.speed})")
    for note in evidence.notes:
        say(f"note: {note}")
    for plan in evidence.tasks:
        if plan.facts.required and not plan.certifies:
            say(f"note: {plan.facts.task}: {_why(plan)}")


def _row(plan: "TaskPlan") -> list[str | None]:
    from workbench.publish.wording import format_margin, unit_of

    facts = plan.facts
    unit = unit_of("bits_per_byte" if facts.pooled else "acc", facts.margin)
    return [
        facts.task + ("" if facts.required else " (advisory)"),
        "yes" if plan.certifies else "no",
        f"{plan.planned:,}",
        None if plan.needed is None else f"{plan.needed:,}",
        f"{facts.items:,}",
        None if plan.chance is None else f"{plan.chance:.0%}",
        format_margin(facts.margin, unit),
        None if plan.least_margin is None else format_margin(plan.least_margin, unit),
        None if plan.finds is None else f"{plan.finds:,}",
        None if plan.chance is None else f"{facts.discordance:.1%}",
        None if plan.chance is None else _ORIGINS[facts.origin],
        None if plan.seconds is None else format_duration(plan.seconds),
    ]


def _why(plan: "TaskPlan") -> str:
    facts = plan.facts
    if facts.guessing:
        return "the baseline guesses, so nothing can be seen, whatever the number of items"
    if facts.pooled:
        return "its metric pools texts, of which this plan does not speak"
    if plan.needed is None:
        return "no number of items would certify this margin"
    least = "" if plan.least_margin is None else f"; with these, {100 * plan.least_margin:.1f} points can be certified"
    return f"needs {plan.needed:,} items, and there are {facts.items:,}{least}"
