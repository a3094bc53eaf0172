"""`workbench judge`: the judges there are, training one from labels, measuring one against people."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.output import Column, print_json, print_table, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safety.judges.agreement import Agreement
    from safety.judges.base import Judge

_HEADS = ("category", "n", "violating", "kappa", "sensitivity", "specificity", "macro-F1", "AUPRC", "ECE", "unscorable")


def ls(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List judges that are shipped, with how far each agrees with people, and the kinds that a policy may name.

    Examples:
        workbench judge ls
        workbench judge ls --json
    """
    import json

    from safety.judges.base import judges
    from safety.judges.classifier import ARTEFACTS

    rows = []
    for folder in sorted(path.parent for path in ARTEFACTS.glob("*/card.json")):
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        for on, measured in card["measured"].items():
            rows += [{"judge": folder.name, "measured_on": on} | one for one in measured]
    if as_json:
        print_json({"kinds": judges.names(), "shipped": rows})
        return
    columns = ["judge", "category", Column("n", right=True), "kappa", "sensitivity", "specificity", "measured on"]
    shown = ("kappa", "sensitivity", "specificity")
    cells = [
        [row["judge"], row["category"], f"{row['n']:,}", *(_show(row[one]) for one in shown), row["measured_on"]]
        for row in rows
    ]
    print_table(columns, cells)
    say(f"kinds: {', '.join(judges.names())}; next: workbench judge audit refusal --data labels.jsonl")


def audit(
    judge: Annotated[str, typer.Argument(help="Shipped judge (refusal, moderation) or the folder of a trained one.")],
    data: Annotated[Path, typer.Option(help="JSONL of texts or answers with people's labels.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint that judges, with the judge `model`.", rich_help_panel="Model judge")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    seed: Annotated[int, typer.Option(help="Draws the resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a judge against people's labels: kappa, error rates by class, calibration, each with its interval.

    Examples:
        workbench judge audit refusal --data labelled_answers.jsonl
        workbench judge audit judges/ours --data labels.jsonl --json
        workbench judge audit model --model smollm2 --data labels.jsonl
    """
    from safety.judges.labels import read_labels, read_refusals
    from safety.judges.training import as_document, audit_classifier, audit_refusal
    from workbench.assessment import close_engine

    kind, made = _load(judge, model, project)
    try:
        if kind == "refusal":
            found = audit_refusal(made, read_refusals(data), seed=seed)
        else:
            found = audit_classifier(made, read_labels(data), seed=seed)
    finally:
        close_engine(made)
    if as_json:
        print_json({"judge": judge, "agreement": as_document(found)})
        return
    _print(found)
    say("unscorable rows count as errors of both kinds; intervals at 95%")


def train(
    kind: Annotated[Literal["classifier", "refusal"], typer.Argument(help="What to train: classifier or refusal.")],
    data: Annotated[Path, typer.Option(help="JSONL of texts or answers with people's labels.")],
    out: Annotated[Path, typer.Option(help="Folder for the artefact and its card.")],
    title: Annotated[str, typer.Option(help="Title of the card.")] = "",
    seed: Annotated[int, typer.Option(help="Draws folds and resamples.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a judge from people's labels, measured on rows that it has not seen; safetensors and JSON, no pickle.

    Examples:
        workbench judge train classifier --data labels.jsonl --out judges/ours
        workbench judge train refusal --data labelled_answers.jsonl --out judges/refusal
    """
    from safety.judges.labels import read_labels, read_refusals
    from safety.judges.training import as_document, train_classifier, train_refusal
    from workbench.errors import ConfigError

    if out.exists() and any(out.iterdir()) and not (out / "model.json").is_file():
        raise ConfigError(f"--out {out}: not empty, and no judge's folder; name another")
    command = shlex.join(["workbench", *sys.argv[1:]])
    if kind == "refusal":
        made = train_refusal(read_refusals(data), out, title=title or "Refusal detector", command=command, seed=seed)
    else:
        rows = read_labels(data)
        made = train_classifier(rows, out, title=title or "Classifier", command=command, seed=seed, on_step=say)
    if as_json:
        print_json({"folder": str(out), "weights": made.weights, "agreement": as_document(made.agreement)})
        return
    _print(made.agreement)
    say(
        f"{out}: weights {made.weights[:12]}; in a policy: judges: {{ours: {{kind: {kind}, options: {{path: {out}}}}}}}"
    )


def _load(judge: str, model: str | None, project: Path | None) -> "tuple[str, Judge]":
    """(kind, judge) of a shipped name, a folder or `model`."""
    from safety.judges.classifier import ARTEFACTS, ClassifierJudge
    from safety.judges.linear import load_linear
    from safety.judges.model import ModelJudge
    from safety.judges.refusal import RefusalJudge
    from workbench.errors import ConfigError, did_you_mean

    if judge == "model":
        if model is None:
            raise ConfigError("judge model: needs a checkpoint: --model smollm2")
        from workbench.cli.projects import find_project
        from workbench.engines.loading import load
        from workbench.references import resolve_checkpoint

        engine = load(resolve_checkpoint(model, find_project(project, create=True)))
        return "model", ModelJudge(name=f"model:{model}", engine=engine)
    folder = ARTEFACTS / judge if (ARTEFACTS / judge).is_dir() else Path(judge)
    if not folder.is_dir():
        known = [path.name for path in ARTEFACTS.iterdir() if path.is_dir()]
        raise ConfigError(f"judge {judge!r}: no shipped judge and no folder; {did_you_mean(judge, [*known, 'model'])}")
    _, document = load_linear(folder)
    if document.get("kind") == "refusal":
        return "refusal", RefusalJudge(name=judge, path=folder)
    return "classifier", ClassifierJudge(name=judge, path=folder)


def _print(found: "Sequence[Agreement]") -> None:
    from safety.judges.card import show_interval

    rows: list[list[Any]] = []
    for one in found:
        measured = [show_interval(value) for value in (one.kappa, one.sensitivity, one.specificity, one.macro_f1)]
        auprc = show_interval(one.auprc) if one.auprc else None
        ece = None if one.ece is None else f"{one.ece:.3f}"
        rows.append([one.category, f"{one.n:,}", f"{one.positives:,}", *measured, auprc, ece, f"{one.unscorable:,}"])
    print_table([Column(head, drop=place) for place, head in enumerate(_HEADS)], rows)


def _show(interval: dict[str, Any]) -> str:
    if interval["low"] is None:
        return f"{interval['value']:.3f}"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
