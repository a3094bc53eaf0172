"""A comparison or a decision as JUnit XML, for what a CI server shows of a build. Pure: text out.

Failing is a `<failure>`. Holding is an `<error>`, which every CI server counts as not passed: nothing was proven wrong,
but nothing was proven right either, and `<skipped>` would leave the build green. Advisory results never decide, so they
are no test cases, green or red, but properties of the suite and lines of its output. The last case is the decision
itself, so that a suite is never empty and never greener than its gate.

The order of elements is the one that both common schemas (Jenkins' junit-10.xsd and Ant's) take: properties, test
cases, output.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, VERDICTS
from workbench.publish.text import reveal
from workbench.records import Comparison, Decision, Outcome, RuleResult, TaskComparison

# What XML 1.0 allows; all else, NUL and lone surrogates among it, cannot be written in it even as a reference.
_INVALID = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LIMIT = 4_000


@dataclass(frozen=True, slots=True)
class _Case:
    name: str
    outcome: Outcome
    message: str
    output: str = ""
    overridden: str = ""


def decision_junit(decision: Decision, comparison: Comparison | None = None) -> str:
    """A suite with a case for each required rule and one for the decision."""
    tasks = {task.task: task for task in comparison.tasks} if comparison else {}
    cases = [_rule_case(rule, tasks.get(rule.task)) for rule in decision.rules if rule.required]
    advisory = [
        (rule.rule, f"{OUTCOMES[rule.outcome].word}: {rule.reason}") for rule in decision.rules if not rule.required
    ]
    answer = wording.decision_headline(decision, comparison)
    properties = [("checkpoint", decision.checkpoint.name), ("decision", decision.id), *decision.evidence.items()]
    cases.append(_Case("decision", decision.outcome, answer))
    return _document("workbench gate", decision.checkpoint.name, cases, properties, advisory, decision.created_at)


def comparison_junit(comparison: Comparison) -> str:
    """A suite with a case for each required task and one for the comparison."""
    cases = [_task_case(task) for task in comparison.tasks if task.required]
    advisory = [
        (task.task, f"{VERDICTS[task.verdict].word}: {_told(task)}") for task in comparison.tasks if not task.required
    ]
    properties = [
        ("comparison", comparison.id),
        ("baseline report", comparison.baseline),
        ("candidate report", comparison.candidate),
        ("baseline", comparison.baseline_checkpoint.name),
        ("candidate", comparison.candidate_checkpoint.name),
    ]
    name = comparison.candidate_checkpoint.name
    cases.append(_Case("comparison", wording.comparison_outcome(comparison), wording.comparison_headline(comparison)))
    return _document("workbench compare", name, cases, properties, advisory, comparison.created_at)


def _rule_case(rule: RuleResult, task: TaskComparison | None) -> _Case:
    limit = "limit" if rule.verdict is None else "margin"
    output = f"measured {wording.format_measured(rule, task)}, {limit} {wording.format_limit(rule, task)}"
    return _Case(rule.rule, rule.outcome, rule.reason, output, rule.overridden or "")


def _task_case(task: TaskComparison) -> _Case:
    outcome: Outcome = "fail" if task.verdict == "forgot" else "hold"
    outcome = "pass" if task.verdict in wording.CERTIFIED else outcome
    return _Case(task.task, outcome, f"{VERDICTS[task.verdict].word}: {_told(task)}", f"{task.n:,} items")


def _told(task: TaskComparison) -> str:
    told = wording.tell_change(task) if task.difference is not None else ""
    why = wording.lack(task) if task.verdict in ("inconclusive", "uninformative", "incomparable") else ""
    return "; ".join(part for part in (told, why) if part)


def _document(
    name: str,
    checkpoint: str,
    cases: Sequence[_Case],
    properties: Iterable[tuple[str, str]],
    advisory: Sequence[tuple[str, str]],
    created_at: str,
) -> str:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.outcome == "fail" and not case.overridden for case in cases)),
        "errors": str(sum(case.outcome == "hold" and not case.overridden for case in cases)),
    }
    root = ElementTree.Element("testsuites", {"name": name, **counts, "time": "0"})
    skipped = str(sum(case.outcome != "pass" and bool(case.overridden) for case in cases))
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": skipped, "time": "0"})
    if created_at:
        suite.set("timestamp", _clean(created_at)[:19])  # the schemas take no time zone
    listed = ElementTree.SubElement(suite, "properties")
    for key, value in [*properties, *((f"advisory {key}", value) for key, value in advisory)]:
        ElementTree.SubElement(listed, "property", {"name": _line(key), "value": _line(value)})
    for case in cases:
        _add_case(suite, case, f"{name}.{checkpoint}")
    if advisory:
        lines = [f"advisory {key}: {value}" for key, value in advisory]
        ElementTree.SubElement(suite, "system-out").text = _clean("\n".join(lines))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _add_case(suite: ElementTree.Element, case: _Case, class_name: str) -> None:
    added = ElementTree.SubElement(suite, "testcase", {"name": _line(case.name), "classname": _line(class_name)})
    added.set("time", "0")
    message = _line(case.message)
    if case.outcome != "pass" and case.overridden:
        why = f"{OUTCOMES[case.outcome].word}, overridden: {case.overridden}"
        ElementTree.SubElement(added, "skipped", {"message": _line(why)}).text = message
    elif case.outcome != "pass":
        kind = "failure" if case.outcome == "fail" else "error"
        ElementTree.SubElement(added, kind, {"message": message, "type": case.outcome}).text = message
    if case.output:
        ElementTree.SubElement(added, "system-out").text = _clean(case.output)


def _line(text: str) -> str:
    line = " ".join(_clean(text).split())
    return line if len(line) <= _LIMIT else f"{line[: _LIMIT - 1]}…"


def _clean(text: str) -> str:
    return _INVALID.sub("", reveal(text))
