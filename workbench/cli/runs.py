"""`workbench runs`: what training runs there are, how far they came and how they went."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, format_duration, print_facts, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from workbench.progress import RunCurves, RunProgress

CURVES = ("reward", "kl", "entropy", "length", "truncated", "no_signal", "dropped")
"""Of a run on episodes; a reward's parts are named `reward/NAME`."""
_BARS = "▁▂▃▄▅▆▇█"


def command(
    name: Annotated[
        str | None, typer.Argument(help="One run, by its recipe's name or the beginning of its id.")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List training runs with how far they came, or show one with its curves, what was watched and what was decided.

    Examples:
        workbench runs
        workbench runs my-domain
        workbench runs my-domain --json
    """
    from workbench.cli.projects import find_project
    from workbench.progress import find_run, list_runs, read_curves

    home = find_project(project)
    if name is None:
        found = list_runs(home)
        if as_json:
            print_json({"runs": found})
            return
        if not found:
            say("no runs yet; begin with: workbench recipes")
            return
        print_table(*runs_table(found))
        say("next: workbench runs NAME")
        return
    run = find_run(home, name)
    curves = read_curves(run.folder)
    if as_json:
        print_json({"run": run, "log": curves.log, "events": curves.events, "checkpoints": curves.checkpoints})
    else:
        _print_run(run, curves)


def runs_table(runs: "Sequence[RunProgress]") -> tuple[list[Column], list[list[Any]]]:
    """A row for each run."""
    columns = [
        Column("run"),
        Column("state"),
        Column("steps", right=True),
        Column("loss", right=True),
        Column("tokens/s", right=True, drop=3),
        Column("left", right=True, drop=1),
        Column("watched", drop=2),
        Column("decision"),
        Column("from", drop=4),
        Column("begun", drop=5),
        Column("id", drop=6),
    ]
    rows: list[list[Any]] = [
        [
            run.name,
            run.state,
            _steps(run),
            None if run.loss is None else f"{run.loss:.3f}",
            None if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
            None if run.seconds_left is None else format_duration(run.seconds_left),
            run.watched,
            run.outcome,
            run.start,
            run.created_at,
            run.id[:12],
        ]
        for run in runs
    ]
    return columns, rows


def spark(values: Sequence[float], width: int = 48) -> str:
    """A curve in one line, lowest to highest; longer ones are thinned.

    >>> spark([0, 1, 2, 7])
    '▁▂▃█'
    """
    if not values:
        return ""
    step = max(1.0, len(values) / width)
    thin = [values[int(i * step)] for i in range(int(len(values) / step))]
    low, high = min(thin), max(thin)
    return "".join(_BARS[round((v - low) / (high - low) * 7) if high > low else 0] for v in thin)


def _print_run(run: "RunProgress", curves: "RunCurves") -> None:
    facts = [
        ("state", run.state if run.state != "silent" else "silent: its process is gone; the same command goes on"),
        ("steps", _steps(run)),
        ("from", run.start),
        ("folder", str(run.folder)),
        ("begun", run.created_at),
    ]
    if run.seconds_left is not None:
        facts.append(("left", format_duration(run.seconds_left)))
    if run.outcome:
        facts.append(("decision", run.outcome))
    if curves.log:
        losses = [float(line["loss"]) for line in curves.log]
        facts.append(("loss", f"{losses[0]:.3f} {spark(losses)} {losses[-1]:.3f}"))
        for name in [one for one in curves.log[-1] if one.partition("/")[0] in CURVES]:
            values = [float(line[name]) for line in curves.log if name in line]
            facts.append((name, f"{values[0]:.3f} {spark(values)} {values[-1]:.3f}"))
        rates = [float(line["learning_rate"]) for line in curves.log]
        facts.append(("learning rate", f"{spark(rates)} {rates[-1]:.2e}"))
        facts.append(("tokens", f"{run.tokens:,} that carry loss, {run.tokens_per_second or 0:,.0f} tokens/s"))
    for task, points in curves.watched().items():
        changes = [change for _, change, _, _ in points]
        facts.append((f"watched {task}", f"{spark(changes)} {changes[-1]:+.3f} at step {points[-1][0]}"))
    kl = [float(event["nats"]) for event in curves.events if event.get("event") == "kl"]
    if kl:
        facts.append(("KL from the start", f"{spark(kl)} {kl[-1]:.3f} nats"))
    facts += [("checkpoint", Path(path).name) for path in curves.checkpoints]
    print_facts(run.name, facts)
    acts = [event for event in curves.events if _told(event)]
    if acts:
        print_line("What was done:")
        print_table([Column("step", right=True), "what"], [[event["step"], _told(event)] for event in acts])
    if curves.checkpoints:
        say(f"next: workbench eval {curves.checkpoints[-1]} --baseline {run.start}")


def _told(event: Any) -> str:
    """An event in a line; empty for one that changed nothing."""
    match event.get("event"):
        case "evaluated" if event["verdict"] not in ("ok", "watch"):
            return f"{event['verdict']}: {event['why']}"
        case "shares":
            shares = ", ".join(f"{name} {share:.0%}" for name, share in event["shares"].items())
            return f"from step {event['from']} on: {shares}"
        case "rolled back":
            return f"rolled back from step {event['at']}: {event['why']}"
        case "kl" if event["alarm"]:
            return f"KL from the start is {event['nats']:.3g} nats, above the limit: evaluated at once"
        case _:
            return ""


def _steps(run: "RunProgress") -> str:
    return f"{run.step:,}" if run.steps is None else f"{run.step:,}/{run.steps:,}"
