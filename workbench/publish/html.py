"""A comparison or a decision as one HTML file that needs no network, no script and no other file. Pure: text out.

All foreign text is escaped by the template's autoescape after its hidden characters were made visible. The page's own
policy forbids whatever could load or run, so that a hole in the escaping would still do nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.publish import wording
from workbench.publish.curve import FrontierPoint, frontier_plot, frontier_rows
from workbench.publish.forest import forest_plots
from workbench.publish.signs import DARK, LIGHT, OUTCOMES, VERDICTS
from workbench.publish.text import cut_start, reveal, reveal_line, split_start
from workbench.records import Comparison, Decision, Flip, Outcome, RuleResult, TaskComparison

_PROMPT, _QUESTION, _ANSWER, _FACT, _OPEN = 6_000, 700, 2_000, 600, 10


def decision_html(
    decision: Decision,
    comparison: Comparison | None = None,
    *,
    flips: Sequence[Flip] = (),
    per_task: int = 25,
    reproduce: Sequence[str] = (),
) -> str:
    """A whole page. Of each task at most `per_task` flips are shown, lost ones first, else in the order given; the page
    says of how many.

    `reproduce` holds commands, one a line; without it the command that compares the two reports.
    """
    reason = decision.reason.strip() or wording.decision_reason(decision.checkpoint.name, decision.rules, comparison)
    baseline = decision.baseline.name if decision.baseline else ""
    evidence = {"decision": decision.id, **decision.evidence}
    return _render(
        _answer(decision.outcome, reason, decision.checkpoint.name, baseline, decision.created_at, "Gate"),
        _comparison_parts(comparison, flips, per_task, reproduce),
        rules=_rule_rows(decision.rules, comparison),
        evidence=_facts(evidence),
    )


def comparison_html(
    comparison: Comparison,
    *,
    flips: Sequence[Flip] = (),
    per_task: int = 25,
    reproduce: Sequence[str] = (),
    frontier: Sequence[FrontierPoint] = (),
) -> str:
    """The same without rules: the outcome is that of the required tasks. `frontier`: the points it was chosen from."""
    evidence = {
        "comparison": comparison.id,
        "baseline report": comparison.baseline,
        "candidate report": comparison.candidate,
        "baseline weights": comparison.baseline_checkpoint.fingerprint,
        "candidate weights": comparison.candidate_checkpoint.fingerprint,
    }
    names = comparison.candidate_checkpoint.name, comparison.baseline_checkpoint.name
    outcome, reason = wording.comparison_outcome(comparison), wording.comparison_reason(comparison)
    return _render(
        _answer(outcome, reason, *names, comparison.created_at, "Comparison"),
        _comparison_parts(comparison, flips, per_task, reproduce),
        rules=[],
        evidence=_facts(evidence),
        frontier=frontier_plot(frontier) if frontier else "",
        frontier_rows=frontier_rows(frontier),
    )


def _render(answer: Mapping[str, Any], parts: Mapping[str, Any], *, frontier: str = "", **more: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("workbench.publish", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.jinja")
    return page.render(**answer, **parts, **more, frontier=frontier, light=LIGHT, dark=DARK, verdicts=VERDICTS)


def _answer(outcome: Outcome, reason: str, name: str, baseline: str, created: str, kind: str) -> dict[str, Any]:
    return {
        "sign": OUTCOMES[outcome],
        "reason": _line(reason, 3_000),
        "name": _line(name),
        "baseline": _line(baseline),
        "created_at": _line(created),
        "kind": kind,
    }


def _comparison_parts(
    comparison: Comparison | None, flips: Sequence[Flip], per_task: int, reproduce: Sequence[str]
) -> dict[str, Any]:
    own = [f"workbench compare {comparison.baseline} {comparison.candidate}"] if comparison else []
    return {
        "plots": forest_plots(comparison.tasks) if comparison else [],
        "level": wording.interval_level(comparison) if comparison else "",
        "part": comparison.part if comparison else "all",
        "tasks": [_task_row(task) for task in comparison.tasks] if comparison else [],
        "gaps": [(_line(task.task), _line(why)) for task, why in wording.gaps(comparison.tasks if comparison else ())],
        "flip_groups": _flip_groups(flips, per_task),
        "lost": sum(flip.kind == "lost" for flip in flips),
        "gained": sum(flip.kind == "gained" for flip in flips),
        "unfolded": len(flips) <= _OPEN,
        "settings": _facts(comparison.settings) if comparison else [],
        "commands": [reveal_line(command) for command in reproduce] or own,
    }


def _task_row(task: TaskComparison) -> dict[str, Any]:
    unit = wording.task_unit(task)
    notes = ["small real loss"] if task.small_loss else []
    notes += ["a loss is certain over all tasks (Holm)"] if task.regressed and task.verdict != "forgot" else []
    notes += [f"noise floor {wording.format_margin(task.noise, unit)}"] if task.noise is not None else []
    notes += [f"{task.missing:,} items have no pair"] if task.missing else []
    return {
        "name": _line(task.task),
        "metric": f"{_line(task.metric)} {wording.ARROWS[task.direction]}",
        "required": task.required,
        "baseline": wording.format_value(task.baseline, unit),
        "candidate": wording.format_value(task.candidate, unit),
        "change": wording.format_change(task),
        "unit": _line(unit),
        "margin": wording.format_margin(task.margin, unit),
        "sign": VERDICTS[task.verdict],
        "n": f"{task.n:,}",
        "flips": "–" if task.lost is None or task.gained is None else f"{task.lost:,} / {task.gained:,}",
        "notes": [_line(note) for note in (*notes, *task.notes)],
    }


def _rule_rows(rules: Sequence[RuleResult], comparison: Comparison | None) -> list[dict[str, Any]]:
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    return [
        {
            "rule": _line(rule.rule),
            "sign": OUTCOMES[rule.outcome],
            "required": rule.required,
            "estimate": wording.format_measured(rule, tasks.get(rule.task)),
            "limit": _line(wording.format_limit(rule, tasks.get(rule.task))),
            "reason": _line(rule.reason),
            "overridden": _line(rule.overridden or ""),
        }
        for rule in rules
    ]


def _flip_groups(flips: Sequence[Flip], per_task: int) -> list[dict[str, Any]]:
    groups: dict[str, list[Flip]] = {}
    for flip in sorted(flips, key=lambda flip: flip.kind != "lost"):
        groups.setdefault(flip.task, []).append(flip)
    return [
        {
            "task": _line(task),
            "lost": sum(flip.kind == "lost" for flip in own),
            "gained": sum(flip.kind == "gained" for flip in own),
            "left_out": max(0, len(own) - per_task),
            "flips": [_flip(flip) for flip in own[:per_task]],
        }
        for task, own in sorted(groups.items(), key=lambda group: -sum(flip.kind == "lost" for flip in group[1]))
    ]


def _flip(flip: Flip) -> dict[str, Any]:
    before, question = split_start(cut_start(reveal(flip.prompt), _PROMPT), _QUESTION)
    choices = max(len(flip.choices), len(flip.baseline_logprobs), len(flip.candidate_logprobs))
    return {
        "kind": flip.kind,
        "sign": VERDICTS["forgot" if flip.kind == "lost" else "improved"],
        "item": _line(flip.item),
        "metric": _line(flip.metric),
        "before_question": before,
        "question": question,
        "target": cut_start(reveal(flip.target), _ANSWER),
        "before": cut_start(reveal(flip.baseline_answer), _ANSWER),
        "after": cut_start(reveal(flip.candidate_answer), _ANSWER),
        "before_value": _number(flip.baseline_value),
        "after_value": _number(flip.candidate_value),
        "choices": [
            {
                "text": _line(flip.choices[place]) if place < len(flip.choices) else f"choice {place + 1}",
                "before": _logprob(flip.baseline_logprobs, place),
                "after": _logprob(flip.candidate_logprobs, place),
            }
            for place in range(choices)
        ],
        "notes": [_line(note) for note in flip.notes],
    }


def _logprob(values: Sequence[float], place: int) -> str:
    return wording.minus(f"{values[place]:.2f}") if place < len(values) else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else wording.minus(f"{value:.3g}")


def _facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_line(str(name)), _line(str(value))) for name, value in facts.items()]


def _line(text: str, limit: int = _FACT) -> str:
    line = reveal_line(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
