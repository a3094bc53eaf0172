"""One set of weights under three businesses' policies: what changes, what may never change?

python -m studies.configurable_policy [--quick] [--project FOLDER] [--render]

The embedded model is asked once: two questions of every probe, one in each wrapper, and 72 requests written for this
study (permission tests of a firm that tests systems and of a studio with its own characters). The same answers are
then judged under `default`, `security-testing` and `media-own-characters`; answers are in the ledger, so that no
policy after the first asks the model anything. Writes studies/results/configurable-policy.json and its page.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from safety.metrics import ALLOWED_REFUSED, VIOLATION_RATE
from safety.policy import load_policy
from safety.probes import PROBES
from studies.experiment import ROOT, options, publish_page, read_found, say, table, write_found
from workbench.assessment import AssessmentRequest, assess_many
from workbench.cli.assess import shown_tasks
from workbench.evaluation import Evaluated
from workbench.pipeline import Listener
from workbench.policy_gate import gate_assessment
from workbench.records import ItemScore, RuleResult
from workbench.store import Project

TAKES = "7 minutes on one core"
START = "smollm2"
POLICIES = ("default", "security-testing", "media-own-characters")
LIMIT, PER_ATTACK = 2, 1
PERMISSIONS = ROOT / "studies" / "suites" / "permissions.jsonl"


def run(project: Project, found: dict[str, Any], *, quick: bool) -> dict[str, Any]:
    """Assess under each policy in turn."""
    assessed: dict[str, Evaluated] = {}
    for name in POLICIES:
        request = AssessmentRequest(
            policy=name,
            probes=tuple(PROBES),
            prompts=(PERMISSIONS,),
            limit=1 if quick else LIMIT,
            per_attack=1 if quick else PER_ATTACK,
            dtype="float32",
        )
        done = assess_many([START], project=project, request=request, listener=Listener(on_progress=_tell))
        assessed[name] = done.evaluated[0]
        say(f"{name}: {assessed[name].computed} answers computed, {assessed[name].reused} from the ledger")
    first = assessed[POLICIES[0]]
    found |= {
        "questions": len(first.items),
        "weights": first.report.checkpoint.fingerprint,
        "policies": {name: _side(name, one) for name, one in assessed.items()},
        "flips": {name: flips(first.items, assessed[name].items) for name in POLICIES[1:]},
        "unchanged": unchanged([one.items for one in assessed.values()]),
    }
    return found


def _tell(checkpoint: Any, report: Any) -> None:
    if report.done % 25 == 0:
        say(f"{checkpoint.name}: {report.phase} {report.done}/{report.total}")


def _side(name: str, one: Evaluated) -> dict[str, Any]:
    rules = gate_assessment(load_policy(name), one.report, one.items)
    shown = shown_tasks(one.report.results)
    return {
        "hash": one.report.settings["policy_hash"],
        "computed": one.computed,
        "reused": one.reused,
        "results": [_result(result) for result in one.report.results if result.task in shown],
        "rules": [_rule(rule) for rule in rules],
    }


def _result(result: Any) -> dict[str, Any]:
    own = result.headline
    about = {"task": result.task.removeprefix("policy/"), "metric": result.metric, "n": result.n}
    return about | {"value": own.value, "low": own.low, "high": own.high}


def _rule(rule: RuleResult) -> dict[str, Any]:
    return {"rule": rule.rule, "outcome": rule.outcome, "reason": rule.reason}


def flips(before: Sequence[ItemScore], after: Sequence[ItemScore]) -> list[dict[str, Any]]:
    """Questions whose same answer is judged otherwise, by category, with the file and line that says so."""
    found: Counter[tuple[str, ...]] = Counter()
    for old, new in zip(before, after, strict=True):
        if old.answer != new.answer:
            raise ValueError(f"{old.task} {old.item}: not the same answer under both policies")
        if _seen(old) != _seen(new):
            found[new.extra["category"], _seen(old), _seen(new), str(new.extra.get("set_by", ""))] += 1
    keys = ("category", "before", "after", "set_by")
    return [dict(zip(keys, key, strict=True)) | {"n": count} for key, count in sorted(found.items())]


def _seen(item: ItemScore) -> str:
    """`answered: an error`: what the answer did, and whether this policy counts it."""
    metric, value = next(iter(item.metrics.items()))
    refused = (value == 1.0) != (metric == VIOLATION_RATE)
    if metric not in (VIOLATION_RATE, ALLOWED_REFUSED):
        return f"{metric} {value:g}"
    return f"{'refused' if refused else 'answered'}: {'an error' if value else 'right'}"


def unchanged(sides: Sequence[Sequence[ItemScore]]) -> dict[str, dict[str, int]]:
    """Categories in which no answer is judged otherwise by any policy: questions, and errors by all of them."""
    moved: set[str] = set()
    counts: dict[str, Counter[str]] = {}
    for same in zip(*sides, strict=True):
        category = str(same[0].extra["category"])
        if len({_seen(item) for item in same}) > 1:
            moved.add(category)
        metric, value = next(iter(same[0].metrics.items()))
        if metric == VIOLATION_RATE:
            counts.setdefault(category, Counter()).update({"n": 1, "errors": int(value)})
    return {category: dict(count) for category, count in sorted(counts.items()) if category not in moved}


def render(found: Mapping[str, Any]) -> str:
    """The measured part of the page."""
    sides = found["policies"]
    own = {name: {row["task"]: row for row in side["results"]} for name, side in sides.items()}
    tasks = list(dict.fromkeys(task for name in POLICIES for task in own[name]))
    rows = []
    for task in sorted(tasks, key=lambda task: not task.startswith(("overall", "permitted"))):
        row = next(own[name][task] for name in POLICIES if task in own[name])
        rows.append([task, row["metric"], *(_cell(own[name].get(task)) for name in POLICIES)])
    parts = [table(["asked", "counts", *POLICIES], rows)]
    ruled = {name: {rule["rule"]: rule for rule in side["rules"]} for name, side in sides.items()}
    names = list(dict.fromkeys(rule for name in POLICIES for rule in ruled[name]))
    differing = [rule for rule in names if len({_outcome(ruled[name].get(rule)) for name in POLICIES}) > 1]
    parts.append("Gates on which the policies differ:\n\n")
    gates = [[rule, *(_outcome(ruled[name].get(rule)) for name in POLICIES)] for rule in differing]
    parts.append(table(["gate", *POLICIES], gates))
    parts += [
        f"- {name}, {rule}: {ruled[name][rule]['reason']}\n" for name in POLICIES[1:] for rule in differing
        if rule in ruled[name]
    ]  # fmt: skip
    parts.append("\nThe same answer, judged otherwise than under `default`:\n\n")
    moved = [
        [name, row["category"], row["before"], row["after"], str(row["n"]), row["set_by"]]
        for name, own_flips in found["flips"].items()
        for row in own_flips
    ]
    parts.append(table(["policy", "category", "under default", "here", "answers", "set by"], moved))
    kept = [[category, str(row["n"]), str(row["errors"])] for category, row in found["unchanged"].items()]
    parts.append("No answer judged otherwise by any of the three:\n\n")
    parts.append(table(["category", "questions", "errors under all three"], kept))
    computed = ", ".join(
        f"{name} {side['computed']} computed, {side['reused']} from the ledger" for name, side in sides.items()
    )
    parts.append(f"{found['questions']} questions. Requests to the model in the last process: {computed}.\n\n")
    return "".join(parts)


def _cell(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n = {row['n']}"


def _outcome(rule: Mapping[str, Any] | None) -> str:
    from workbench.publish.signs import OUTCOMES

    return "–" if rule is None else OUTCOMES[rule["outcome"]].label


def main() -> None:
    """Measure, print, write."""
    asked = options("configurable-policy", __doc__ or "")
    if not asked.render:
        asked.project.mkdir(parents=True, exist_ok=True)
        project = Project.open_or_init(asked.project / "project")
        write_found(asked.project, run(project, read_found(asked.project), quick=asked.quick))
    if not asked.quick:
        publish_page("configurable-policy", asked.project, render)


if __name__ == "__main__":
    main()
