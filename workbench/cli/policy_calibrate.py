"""`workbench policy calibrate`: a judge's probabilities on people's labels, and the thresholds that follow."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_table, say
from workbench.cli.policies import AsJson, Day, Folders, Reference, open_library
from workbench.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from safety.policy import ResolvedPolicy


def command(
    policy: Reference,
    judge: Annotated[
        str, typer.Option(help="Judge of the policy: NAME, NAME=classifier[:FOLDER] or NAME=model:CHECKPOINT.")
    ],
    labels: Annotated[
        Path, typer.Option(help="JSON lines {text, labels: {category: 1 or 0}}, drawn at random from real traffic.")
    ],
    out: Annotated[Path, typer.Option(help="Calibration file to write, for the judge's `calibration:`.")],
    folder: Folders = None,
    on: Day = None,
    project: Annotated[Path | None, typer.Option(help="Project that a checkpoint's name is looked up in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score people's labels with a judge, and say which thresholds keep the policy's risk targets.

    Examples:
        workbench policy calibrate communities --judge mod --labels labels.jsonl --out policies/mod.jsonl
        workbench policy calibrate default --judge harm=model:judge-1b --labels labels.jsonl --out harm.jsonl
    """
    from safety.judges.labels import read_labels
    from safety.risk import Calibration, thresholds_of

    found = open_library(folder, on).load(policy)
    name, made = _judge(found, judge, project)
    rows, unscorable = _score(found, name, made, read_labels(labels))
    try:
        out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    calibration = Calibration.load(str(out))
    table: list[dict[str, Any]] = []
    for category in sorted({row["category"] for row in rows}):
        own = found.categories[category]
        threshold = thresholds_of(own, {name: calibration}).get(name)
        table.append(
            {
                "category": category,
                "violations": len(calibration.scores(own, "violates")),
                "allowed": len(calibration.scores(own, "allowed")),
                "low": threshold.low if threshold else None,
                "high": min(threshold.high, 1.0) if threshold else None,
                "promise": threshold.guarantee if threshold else "thresholds set by hand: no guarantee",
            }
        )
    if as_json:
        print_json({"policy": found.name, "judge": name, "unscorable": unscorable, "categories": table})
    else:
        heads = ["category", *(Column(h, right=True) for h in ("violations", "allowed", "low", "high")), "promise"]
        print_table(heads, [[_cell(value) for value in row.values()] for row in table])
    if unscorable:
        say(
            f"note: {unscorable:,} texts could not be scored and are left out; at run time they bring on_error's action"
        )
    say(f"wrote {out}; next: judges: {{{name}: {{..., calibration: {out.name}}}}} in the policy")


def _judge(policy: "ResolvedPolicy", text: str, project: Path | None) -> tuple[str, Any]:
    from safety.judges.base import build_judge
    from workbench.cli.policy_test import named_judge

    if "=" in text:
        return named_judge(text, policy, project)
    if text not in policy.judges:
        hint = did_you_mean(text, policy.judges)
        raise ConfigError(f"--judge {text}: policy {policy.name} has no judge of that name; {hint}")
    entry = policy.judges[text]
    return text, build_judge(text, entry["kind"], entry.get("options"))


def _score(policy: "ResolvedPolicy", name: str, judge: Any, labelled: Any) -> tuple[list[dict[str, Any]], int]:
    """Calibration rows, and how many texts could not be scored."""
    from safety.judges.base import Passage

    own = {c.id: c for c in policy.categories.values() if name in c.judges}
    known = [label for label in labelled.labels if label in own]
    if not known:
        hint = did_you_mean(labelled.labels[0], own)
        raise ConfigError(f"--labels: none of {', '.join(labelled.labels)} is a category that {name} judges; {hint}")
    judged = judge.judge([Passage(text=text) for text in labelled.texts], [own[label] for label in known])
    rows: list[dict[str, Any]] = []
    unscorable = 0
    for place, judgements in enumerate(judged):
        for judgement in judgements:
            target = labelled.targets[place][labelled.labels.index(judgement.category)]
            if target != target:  # nobody labelled this text for this category
                continue
            if judgement.value == "unscorable" or judgement.probability is None:
                unscorable += 1
                continue
            rows.append(
                {
                    "category": judgement.category,
                    "probability": judgement.probability,
                    "label": "violates" if target >= 0.5 else "allowed",
                    "category_hash": own[judgement.category].hash,
                }
            )
    return rows, unscorable


def _cell(value: Any) -> Any:
    return f"{value:.3f}" if isinstance(value, float) else value
