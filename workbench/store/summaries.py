"""One short row for each report, comparison and decision, so that lists need no documents. Knows plain documents only.

A document never changes (its id is a hash of it), so a row is made once. Changes are in units of a task's margin, with
losses negative: -1 is a budget used up.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Kind = Literal["report", "comparison", "decision"]
_ASKED = ("domain",)


def summarise(
    kind: Kind, identity: str, document: Mapping[str, Any], created_at: str, label: str = ""
) -> dict[str, Any]:
    """The row of `summaries` for one document; `label` is the verdict of a decision, the kind of a comparison."""
    row = {"id": identity, "kind": kind, "created_at": created_at, "gain": None, "loss": None}
    match kind:
        case "report":
            return row | _of_report(document)
        case "comparison":
            return row | _of_comparison(document)
        case "decision":
            return row | _of_decision(document, label)


def change_in_margins(task: Mapping[str, Any]) -> float | None:
    """A task's change in units of its margin; None where nothing was tested or no loss is allowed."""
    difference, margin = task.get("difference"), task.get("margin")
    return difference["value"] / margin if difference and margin else None


def domain_gain(tasks: Sequence[Mapping[str, Any]]) -> float | None:
    """Mean change of the domain's tasks: the required ones, or all where none is."""
    own = [task for task in tasks if task.get("role") in _ASKED]
    required = [change for task in own if task.get("required") and (change := change_in_margins(task)) is not None]
    known = required or [change for task in own if (change := change_in_margins(task)) is not None]
    return sum(known) / len(known) if known else None


def worst_retained(tasks: Sequence[Mapping[str, Any]]) -> float | None:
    """Change of the worst task that is not the domain's: of the required ones, or of all where none is."""
    own = [task for task in tasks if task.get("role") not in _ASKED]
    required = [change for task in own if task.get("required") and (change := change_in_margins(task)) is not None]
    known = required or [change for task in own if (change := change_in_margins(task)) is not None]
    return min(known) if known else None


def _of_report(document: Mapping[str, Any]) -> dict[str, Any]:
    settings = document.get("settings") or {}
    is_assessment = "policy_hash" in settings
    words = str(settings.get("policy", "")) if is_assessment else ", ".join(document.get("suites") or ())
    return _checkpoint(document.get("checkpoint")) | {
        "baseline": "",
        "baseline_fingerprint": "",
        "label": "assessment" if is_assessment else "evaluation",
        "words": words or ", ".join(map(str, settings.get("tasks") or ())),
        "tasks": len(document.get("results") or ()),
    }


def _of_comparison(document: Mapping[str, Any]) -> dict[str, Any]:
    tasks = document.get("tasks") or ()
    verdicts = [task.get("verdict") for task in tasks if task.get("required")]
    certified = bool(verdicts) and set(verdicts) <= {"kept", "improved"}
    label = "fail" if "forgot" in verdicts else "pass" if certified else "hold"
    counts = Counter(str(task.get("verdict")) for task in tasks)
    return _checkpoint(document.get("candidate_checkpoint")) | {
        **_baseline(document.get("baseline_checkpoint")),
        "label": label,
        "words": ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())),
        "gain": domain_gain(tasks),
        "loss": worst_retained(tasks),
        "tasks": len(tasks),
    }


def _of_decision(document: Mapping[str, Any], label: str) -> dict[str, Any]:
    return _checkpoint(document.get("checkpoint")) | {
        **_baseline(document.get("baseline")),
        "label": label,
        "words": str(document.get("reason") or ""),
        "tasks": len(document.get("rules") or ()),
    }


def _checkpoint(found: Mapping[str, Any] | None) -> dict[str, Any]:
    found = found or {}
    return {"name": found.get("name", ""), "fingerprint": found.get("fingerprint", ""), "run": found.get("run")}


def _baseline(found: Mapping[str, Any] | None) -> dict[str, Any]:
    found = found or {}
    return {"baseline": found.get("name", ""), "baseline_fingerprint": found.get("fingerprint", "")}
