"""`workbench review calibrate`, `triage` and `estimate`: what people's labels say of the model."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say
from workbench.cli.policies import AsJson
from workbench.cli.review import ProjectFolder, QueueName, open_queue
from workbench.errors import ConfigError

if TYPE_CHECKING:
    from workbench.ground_truth import Calibrated
    from workbench.records import Estimate

Policy = Annotated[str, typer.Option(help="Policy that the texts were judged under: a name or a file.")]
Asked = Annotated[str | None, typer.Option(help="Checkpoint that judged them, where labels of several are there.")]
Miss = Annotated[float, typer.Option(min=0.001, max=0.5, help="Share of violations that may be cleared, at most.")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.999, help="How surely.")]


def calibrate(
    policy: Policy,
    out: Annotated[Path, typer.Option(help="File to write, for workbench moderate --calibration.")],
    queue: QueueName = "default",
    checkpoint: Asked = None,
    miss: Miss = 0.05,
    confidence: Confidence = 0.95,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Fit a model's probabilities to people's labels, and write down what it may clear alone.

    Only labels of the draw's random sample count. As much is fitted as they bear: with --checkpoint, what the model
    says of texts without content is taken off under 200 labels of a rule; then two parameters; isotonic from 1,000.

    Examples:
        workbench review calibrate --queue mods --policy communities --out calibration.json
        workbench moderate smollm2 --policy communities --input new.jsonl --calibration calibration.json
    """
    found = _fitted(policy, queue, checkpoint, miss, confidence, project, priors=True)
    try:
        found.calibrator.save(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror or error}") from None
    if as_json:
        print_json(_document(found) | {"out": str(out)})
        return
    columns = [
        Column("rule"),
        Column("labels", right=True),
        Column("violations", right=True),
        Column("curve"),
        Column("calibration error before", right=True, drop=1),
        Column("after", right=True, drop=2),
    ]
    rows = [[f.category, f"{f.n:,}", f"{f.positives:,}", f.how, _told(f.before), _told(f.after)] for f in found.fits]
    print_table(columns, rows)
    _say_promises(found)
    _say_left_out(found.left_out)
    say(f"wrote {out}; next: workbench moderate ... --calibration {shlex.quote(str(out))}")


def triage(
    policy: Policy,
    queue: QueueName = "default",
    checkpoint: Asked = None,
    miss: Miss = 0.05,
    confidence: Confidence = 0.95,
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say of each rule what a model may clear alone and with what promise, or how many labels are missing for one.

    The exit code is 3 where nothing may be cleared: everything goes to people.

    Examples:
        workbench review triage --queue mods --policy communities
        workbench review triage --policy communities --miss 0.02 --confidence 0.99 --json
    """
    found = _fitted(policy, queue, checkpoint, miss, confidence, project, priors=False)
    if as_json:
        print_json(_document(found))
    else:
        for one in found.promises:
            print_line(one.sentence)
        _say_left_out(found.left_out)
    if not found.calibrator.clear:
        raise typer.Exit(3)


def estimate(
    lines: Annotated[Path, typer.Argument(help="What workbench moderate --output wrote, and the batch came from.")],
    queue: QueueName = "default",
    project: ProjectFolder = None,
    as_json: AsJson = False,
) -> None:
    """Say precision, recall and missed violations of all texts, from the batch that people labelled.

    Each label counts for the texts that it stands for, by the probability with which it was drawn; a plain share over
    what people saw would be wrong, since they see the worst.

    Examples:
        workbench review estimate judged.jsonl --queue mods
        workbench review estimate judged.jsonl --queue acme/history --json
    """
    from workbench.cli.projects import find_project
    from workbench.ground_truth import estimate_stream

    with find_project(project) as home:
        work, operator = open_queue(home)
        found = estimate_stream(work, operator, queue=queue, lines=lines)
    if as_json:
        print_json(found)
        return
    own = found.quality
    named = [
        ("precision", own.precision, "of what was withheld, this share violates"),
        ("recall", own.recall, "of all violations, this share was withheld"),
        ("missed", own.missed, "violations that were served"),
        ("violations", own.violations, "in all texts"),
    ]
    rows: list[list[Any]] = [
        [name, "not known" if e is None else _told(e, share=e.metric in ("precision", "recall")), e.n if e else 0, what]
        for name, e, what in named
    ]
    print_table([Column("of the whole stream"), Column("estimate [95%]"), Column("labels", right=True), "is"], rows)
    say(f"{found.texts:,} texts, {found.flagged:,} withheld; {found.decided:,} of {found.drawn:,} drawn are decided")
    _say_left_out(found.left_out)


def _fitted(
    policy: str,
    queue: str,
    checkpoint: str | None,
    miss: float,
    confidence: float,
    project: Path | None,
    *,
    priors: bool,
) -> "Calibrated":
    from safety.policy import load_policy
    from workbench.cli.projects import find_project
    from workbench.ground_truth import CalibrationRequest, calibrate_queue
    from workbench.references import resolve_checkpoint

    with find_project(project) as home:
        rules = load_policy(policy, folders=[home.root / "policies"])
        asked = None if checkpoint is None else resolve_checkpoint(checkpoint, home)
        work, operator = open_queue(home)
        request = CalibrationRequest(
            queue=queue, model=asked.fingerprint if asked else "", miss=miss, confidence=confidence
        )
        own = asked if priors else None
        return calibrate_queue(work, operator, rules, request, project=home, checkpoint=own)


def _document(found: "Calibrated") -> dict[str, Any]:
    return {
        "binding": found.calibrator.binding,
        "labels": found.labels,
        "left_out": found.left_out,
        "rules": found.fits,
        "promises": [
            {
                "category": one.category,
                "feasible": one.feasible,
                "clears": one.cleared,
                "below": one.threshold.low if one.feasible else None,
                "violations": one.violations,
                "pooled": one.pooled,
                "missing": one.missing,
                "days": one.days,
                "sentence": one.sentence,
            }
            for one in found.promises
        ],
    }


def _say_promises(found: "Calibrated") -> None:
    for one in found.promises:
        say(one.sentence)


def _say_left_out(left_out: Any) -> None:
    if left_out:
        say(f"left out: {', '.join(f'{count:,} {why}' for why, count in left_out.items())}")


def _told(found: "Estimate | None", *, share: bool = True) -> str:
    if found is None or found.low is None or found.high is None:
        return "" if found is None else f"{found.value:.3f}"
    if share:
        return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return f"{found.value:,.0f} [{found.low:,.0f}, {found.high:,.0f}]"
