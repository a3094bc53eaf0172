"""Decide whether a checkpoint may ship. Knows reports, comparisons and rules; knows no model and no disk but its file.

A rule passes only if the bad end of its interval is inside the limit, fails if even the good end is beyond it, and
holds otherwise; no data is never a pass. The checkpoint may ship if every required rule passes. That needs no
correction for many rules: all of them must pass, so a bad checkpoint passes no more often than its worst task does
(intersection-union test, Berger 1982).
"""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from workbench.config import StrictModel, load_yaml
from workbench.errors import ConfigError, did_you_mean
from workbench.publish.wording import decision_reason
from workbench.records import (
    Comparison,
    Decision,
    Estimate,
    Outcome,
    Report,
    Role,
    RuleResult,
    TaskComparison,
    TaskResult,
)

_CONDITIONS = ("margin", "improved", "at_least", "at_most")
_BY_VERDICT: Mapping[str, Outcome] = {"improved": "pass", "kept": "pass", "forgot": "fail"}


class Rule(StrictModel):
    """What must hold of one task or several. Without a condition: it must be kept, at the suite's margin."""

    task: str = "*"
    """Name of a task or of a subtask; `*` and `?` stand for any letters: `mmlu_*`."""
    role: Role | None = None
    """Only tasks of this role."""
    metric: str | None = None
    """Default: the task's headline metric."""
    margin: float | None = Field(default=None, gt=0)
    """Kept: a loss of more than this (in the metric's own unit) must be excluded."""
    improved: bool | None = None
    """A gain over the baseline must be certain."""
    at_least: float | None = None
    """The lower end of the 95% interval must not be below this."""
    at_most: float | None = None
    """The upper end of the 95% interval must not be above this."""
    min_items: int = Field(default=1, ge=1)
    """Fewer items than this hold."""
    required: bool | None = None
    """False: advisory, shown and never decisive. Default: as the suite has it for `kept`, else required."""
    note: str = ""
    """Why this rule is there; shown beside it."""

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        given = [name for name in _CONDITIONS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one condition a rule, got {' and '.join(given)}; make a rule of each")
        if self.improved is False:
            raise ValueError("improved: only true says something; leave it out")
        return self

    @property
    def is_kept(self) -> bool:
        """Whether this is a rule about forgetting."""
        return self.improved is None and not self.is_limit

    @property
    def is_limit(self) -> bool:
        """Whether this is a rule about the report alone."""
        return self.at_least is not None or self.at_most is not None

    @property
    def condition(self) -> str:
        """In words, as a rule is named: `kept`, `improved`, `>= 0.4`."""
        if self.improved:
            return "improved"
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:g}" if self.at_most is not None else "kept"


class Gate(StrictModel):
    """A gate file."""

    gate: str
    """Its name."""
    baseline: str | None = None
    """Checkpoint or report to compare with; the command line wins."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance that a task whose true loss is its margin comes out as kept."""
    rules: list[Rule] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One rule on one task. `task` is the rule's own pattern where it matches nothing."""

    name: str
    rule: Rule
    task: str
    matched: bool = True
    required: bool = True


def load_gate(path: str | Path) -> Gate:
    """Read a gate file. Raises ConfigError with a line for each fault."""
    return load_yaml(path, Gate)


def default_gate(*reports: Report, rules: Sequence[Rule] = ()) -> Gate:
    """What the suites themselves ask: every task of any of the reports kept, required or advisory as they say.

    `rules`: the suites' own, besides that.
    """
    results = {r.task: r for report in reversed(reports) for r in report.results if not r.is_probe}
    return Gate(gate="suite", rules=[*(Rule(task=name) for name in results), *rules])


def expand_rules(
    gate: Gate, results: Sequence[TaskResult], *, known_tasks: Iterable[str] = (), where: str = "gate"
) -> list[Check]:
    """Each rule on each task that it speaks of, in order.

    `results` are those of both reports; `known_tasks` are names that may be asked for although nobody ran them.

    Raises:
        ConfigError: a rule names a task that nobody knows (a typing error would otherwise be a rule never tested).
    """
    roles = {name: r for r in results if not r.is_probe for name in (r.task, *r.subtasks)}
    tasks = {result.task for result in results}
    known = {*roles, *known_tasks}
    checks: list[Check] = []
    for place, rule in enumerate(gate.rules):
        is_pattern = any(sign in rule.task for sign in "*?[")
        names = [n for n in roles if fnmatch.fnmatchcase(n, rule.task) and rule.role in (None, roles[n].role)]
        # `mmlu_*` means the whole groups, not their 57 subjects as well
        names = [n for n in names if n in tasks] or names if rule.task != "*" else [n for n in names if n in tasks]
        if not names and not is_pattern and rule.task not in known:
            raise ConfigError(
                f"{where}: rules[{place}].task: {rule.task!r}: no such task; {did_you_mean(rule.task, known)}"
            )
        for name in names or [rule.task]:
            result = roles.get(name)
            suite_says = result.required if result is not None and rule.is_kept else True
            required = suite_says if rule.required is None else rule.required
            label = f"{name}: {rule.condition}"
            checks.append(Check(name=label, rule=rule, task=name, matched=bool(names), required=required))
    return checks


def decide(
    checks: Sequence[Check],
    *,
    report: Report,
    comparison: Comparison | None,
    evidence: Mapping[str, str],
    overrides: Mapping[str, str] | None = None,
    more: Sequence[RuleResult] = (),
) -> Decision:
    """Hold every check against the evidence.

    `more`: rules that were judged elsewhere (the gate inside training). `overrides`: name of a rule -> who overrode it
    and why: it no longer stops the checkpoint, and says so. The decision has no id yet: whoever records it gives it
    one.

    Raises:
        ConfigError: an override of a rule that there is not, or that passes.
    """
    results = [*(_apply(check, report, comparison) for check in checks), *more]
    results = _with_overrides(results, overrides or {})
    return Decision(
        id="",
        outcome=_conclude(results),
        reason=decision_reason(report.checkpoint.name, results, comparison),
        checkpoint=report.checkpoint,
        baseline=comparison.baseline_checkpoint if comparison else None,
        rules=tuple(results),
        evidence=dict(evidence),
    )


def _apply(check: Check, report: Report, comparison: Comparison | None) -> RuleResult:
    empty = RuleResult(rule=check.name, outcome="hold", required=check.required, reason="", task=check.task)
    if not check.matched:
        return replace(empty, reason="nobody was asked it: no data is never a pass")
    if check.rule.is_kept or check.rule.improved:
        return _apply_to_comparison(check, empty, comparison)
    return _apply_limit(check, empty, report)


def _apply_to_comparison(check: Check, empty: RuleResult, comparison: Comparison | None) -> RuleResult:
    if comparison is None:
        return replace(empty, reason="there is no baseline to compare with; name one with --baseline")
    found = _find(comparison, check)
    if found is None:
        return replace(empty, reason="it was not compared")
    made = replace(
        empty, verdict=found.verdict, estimate=found.difference, limit=found.margin, items_needed=found.items_needed
    )
    if found.n < check.rule.min_items:
        return replace(made, reason=f"{found.n:,} items, and the rule asks for {check.rule.min_items:,}")
    if check.rule.improved:
        return _apply_improved(made, found)
    outcome = _BY_VERDICT.get(found.verdict, "hold")
    return replace(made, outcome=outcome, reason=f"{found.verdict}: {found.reason}")


def _apply_improved(made: RuleResult, found: TaskComparison) -> RuleResult:
    if found.verdict == "improved":
        return replace(made, outcome="pass", reason="a gain is certain")
    difference = found.difference
    if difference is None or difference.high is None:
        return replace(made, reason=found.reason)
    if difference.high < 0:
        return replace(made, outcome="fail", reason="it became worse")
    return replace(made, reason="a gain is not certain")


def _apply_limit(check: Check, empty: RuleResult, report: Report) -> RuleResult:
    rule = check.rule
    result = next((r for r in report.results if r.task == check.task), None)
    if result is None:
        return replace(empty, reason="limits hold for whole tasks of the report, and it has none of this name")
    metric = rule.metric or result.metric
    estimate = next((e for e in result.estimates if e.metric == metric), None)
    if estimate is None:
        known = [e.metric for e in result.estimates]
        raise ConfigError(f"gate: {check.task}: no metric {metric!r}; {did_you_mean(metric, known)}")
    limit = rule.at_least if rule.at_least is not None else rule.at_most
    made = replace(empty, estimate=estimate, limit=limit)
    if estimate.n < rule.min_items:
        return replace(made, reason=f"{estimate.n:,} items, and the rule asks for {rule.min_items:,}")
    if estimate.low is None or estimate.high is None:
        return replace(made, reason=f"no interval is known ({estimate.method})")
    return _hold_against(made, estimate, rule)


def _hold_against(made: RuleResult, estimate: Estimate, rule: Rule) -> RuleResult:
    low, high = estimate.low or 0.0, estimate.high or 0.0
    span = f"{estimate.metric} {estimate.value:.4g} [{low:.4g}, {high:.4g}]"
    if rule.at_least is not None:
        bad, good, limit, word = low >= rule.at_least, high < rule.at_least, rule.at_least, "below"
    else:
        limit = rule.at_most if rule.at_most is not None else 0.0
        bad, good, word = high <= limit, low > limit, "above"
    if bad:
        return replace(made, outcome="pass", reason=f"{span} lies inside the limit of {limit:g}")
    if good:
        return replace(made, outcome="fail", reason=f"{span} lies wholly {word} the limit of {limit:g}")
    return replace(made, reason=f"{span} straddles the limit of {limit:g}")


def _find(comparison: Comparison, check: Check) -> TaskComparison | None:
    """The comparison of this task at the rule's metric and margin."""
    for task in comparison.tasks:
        same = task.task == check.task
        same = same and check.rule.metric in (None, task.metric) and check.rule.margin in (None, task.margin)
        if same:
            return task
    return None


def _with_overrides(results: Sequence[RuleResult], overrides: Mapping[str, str]) -> list[RuleResult]:
    stopped = {result.rule for result in results if result.outcome != "pass"}
    for name in overrides:
        if name not in stopped:
            what = "it passes" if name in {r.rule for r in results} else did_you_mean(name, stopped)
            raise ConfigError(f"override of {name!r}: no rule that stops this checkpoint; {what}")
    return [replace(result, overridden=overrides.get(result.rule)) for result in results]


def _conclude(results: Sequence[RuleResult]) -> Outcome:
    """Fails by one broken rule, holds by one that lacks evidence; with no required rule nothing was certified."""
    required = [result for result in results if result.required]
    stopping = [result.outcome for result in required if result.overridden is None]
    if "fail" in stopping:
        return "fail"
    return "pass" if required and "hold" not in stopping else "hold"


def draft_gate(report: Report, *, name: str = "release", comparison: Comparison | None = None) -> str:
    """A gate file drafted from a reference run: every task kept at its margin; those at chance advisory. YAML text."""
    verdicts = {task.task: task for task in comparison.tasks} if comparison else {}
    lines = [
        f"# Drafted from report {report.id[:12]} of {report.checkpoint.name}. Read every line before you rely on it.",
        f"gate: {name}",
        f"baseline: {_yaml_text(report.checkpoint.name)}",
        "rules:",
    ]
    for result in (result for result in report.results if not result.is_probe):
        guessing = _is_at_chance(result)
        required = result.required and not guessing
        why = "  # at chance: nothing can be seen here" if guessing else ""
        seen = verdicts.get(result.task)
        if seen is not None and seen.items_needed:
            why = f"  # {seen.items_needed:,} items would certify this margin; {seen.n:,} are there"
        text = f"  - {{task: {_yaml_text(result.task)}, margin: {result.margin:g}, min_items: {result.headline.n}"
        lines.append(f"{text}, required: {str(required).lower()}}}{why}")
    return "\n".join(lines) + "\n"


def _is_at_chance(result: TaskResult) -> bool:
    low, high = result.headline.low, result.headline.high
    return result.chance is not None and low is not None and high is not None and low <= result.chance <= high


def _yaml_text(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


def evidence_of(
    report: Report, comparison: Comparison | None, *, items: Mapping[str, str], baseline: Report | None
) -> dict[str, str]:
    """What a decision rests on, by name; `items`: digests of the item files by report id."""
    found = {
        "report": report.id,
        "weights": report.checkpoint.fingerprint,
        "tokenizer": report.checkpoint.tokenizer,
        "items": items.get(report.id, ""),
    }
    if baseline is not None:
        found |= {
            "baseline report": baseline.id,
            "baseline weights": baseline.checkpoint.fingerprint,
            "baseline items": items.get(baseline.id, ""),
        }
    if comparison is not None:
        found["comparison"] = comparison.id
    return {name: value for name, value in found.items() if value}
