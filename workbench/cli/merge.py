"""`workbench merge`: averages of a start and what was tuned from it, one or a whole frontier."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import Column, print_json, print_line, print_table, say

if TYPE_CHECKING:
    from workbench.frontier import Frontier, Point


def command(
    base: Annotated[str, typer.Argument(help="Checkpoint that the training started from.")],
    tuned: Annotated[str, typer.Argument(help="What came of it, or run/NAME for the last one of a run.")],
    weight: Annotated[float, typer.Option(help="Way from the base (0) to the tuned one (1).")] = 0.6,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Try several weights: choose on half of the items, certify on the other.")
    ] = False,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the sweep, separated by commas (default: 0.2,0.4,0.6,0.8).")
    ] = None,
    average_last: Annotated[
        int, typer.Option(min=1, help="Use the mean of so many newest checkpoints of the run as well.")
    ] = 1,
    suite: Annotated[list[str] | None, typer.Option(help="Suite to sweep on; repeat for more.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks to sweep on, separated by commas.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items of a task at most.")] = None,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Keep the weights of every point, not only of the chosen one.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of a single average (default: below the project).")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the frontier as one page that needs no network.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Average a start and what was tuned from it, tensor by tensor, or sweep the averages for the best one kept.

    Much of what was learned stays where most of what was forgotten is undone. A sweep costs an evaluation a point; its
    choice is judged on the half of the items that it was not made on.

    Examples:
        workbench merge smollm2 run/my-domain --weight 0.6
        workbench merge smollm2 run/my-domain --sweep --suite medical --suite general
        workbench merge smollm2 run/my-domain --sweep --average-last 3 --suite general --html frontier.html
    """
    from workbench.cli.projects import find_project
    from workbench.pipeline import merge

    home = find_project(project, create=True)
    named = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    _check(sweep, named, suite or [], weights, html, out)
    if not sweep:
        made = merge(base, tuned, project=home, weight=weight, average_last=average_last, out=out)
        if as_json:
            print_json({"checkpoint": made})
        else:
            print_line(made.source)
            say(f"{made.name}: weights {made.fingerprint[:12]}, {weight:.0%} of the way to {tuned}")
            say(f"next: workbench eval {made.source} --suite ... --baseline {base}")
        return
    found = _sweep(base, tuned, home, suite or [], named, limit, _parse_weights(weights), average_last, keep_all)
    if as_json:
        print_json(frontier_json(found))
    else:
        print_frontier(found)
    if html is not None:
        _write_page(found, html)


def frontier_json(found: "Frontier") -> dict[str, Any]:
    """Every point with its comparison on the first half, and what the second says of the chosen one."""
    from workbench.frontier import frontier_document

    comparisons = [point.selected for point in found.points]
    return {**frontier_document(found), "selected": comparisons, "certified_comparison": found.certified}


def print_frontier(found: "Frontier") -> None:
    """The table of points, then the verdict on the chosen one."""
    from workbench.cli import verdicts
    from workbench.publish.wording import comparison_headline

    print_table(
        [
            Column("average"),
            Column("domain", right=True),
            Column("worst retained", right=True),
            Column("retained tasks", tones=verdicts.TONES),
            Column("report", drop=1),
        ],
        [
            [
                point_label(point) + (" ← chosen" if point is found.best else ""),
                f"{point.domain:+.2f}",
                f"{point.retained:+.2f}",
                verdicts.VERDICTS[_verdict(point)].label,
                point.report.id[:12],
            ]
            for point in found.points
        ],
    )
    say("domain and worst retained task: change against the start in units of the margin, on the half chosen on")
    print_line()
    print_line(f"{point_label(found.best)} was chosen; judged on the other half:")
    print_line(comparison_headline(found.certified))
    print_table(*verdicts.comparison_table(found.certified))
    for note in verdicts.verdict_notes(found.certified):
        say(f"note: {note}")
    say(f"weights of the chosen one: {found.best.checkpoint.source}")


def point_label(point: "Point") -> str:
    """`60% tuned`, `mean of the last 3, 60% tuned`."""
    share = f"{100 * point.weight:g}% tuned"
    return share if point.averaged == 1 else f"mean of the last {point.averaged}, {share}"


def _sweep(
    base: str,
    tuned: str,
    home: Any,
    suites: list[str],
    tasks: list[str],
    limit: int | None,
    weights: list[float],
    average_last: int,
    keep_all: bool,
) -> "Frontier":
    from workbench.cli.eval import Talk
    from workbench.pipeline import EvaluationRequest, merge_frontier

    return merge_frontier(
        base,
        tuned,
        project=home,
        request=EvaluationRequest(suites=suites, tasks=tasks, limit=limit),
        weights=weights,
        average_last=average_last,
        keep_all=keep_all,
        listener=Talk().listener(),
    )


def _check(
    sweep: bool, tasks: list[str], suites: list[str], weights: str | None, html: Path | None, out: Path | None
) -> None:
    from workbench.errors import ConfigError

    if sweep and not (tasks or suites):
        raise ConfigError("--sweep: says nothing of what is asked; name --suite or --tasks, the domain's among them")
    if sweep and out is not None:
        raise ConfigError("--out: names the folder of a single average; a sweep makes its own below the project")
    if not sweep and (tasks or suites or weights or html):
        raise ConfigError("--suite, --tasks, --weights and --html belong to a sweep; add --sweep")


def _parse_weights(text: str | None) -> list[float]:
    from workbench.errors import ConfigError

    found: list[float] = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        try:
            value = float(part)
        except ValueError:
            value = 0.0
        if not 0 < value <= 1:
            raise ConfigError(f"--weights: {part.strip()!r}: a number above 0 and at most 1 is expected, such as 0.6")
        found.append(value)
    return found


def _verdict(point: "Point") -> Any:
    from workbench.frontier import retained_tasks

    verdicts = [task.verdict for task in retained_tasks(point.selected)]
    if "forgot" in verdicts:
        return "forgot"
    return "kept" if all(verdict in ("kept", "improved") for verdict in verdicts) else "inconclusive"


def _write_page(found: "Frontier", file: Path) -> None:
    from workbench.publish.curve import FrontierPoint
    from workbench.publish.html import comparison_html

    points = [
        FrontierPoint(
            label=f"{100 * point.weight:g}%" if point.averaged == 1 else f"{point.averaged}×{100 * point.weight:g}%",
            retained=point.retained,
            domain=point.domain,
            verdict=_verdict(point),
            chosen=point is found.best,
            series=str(point.averaged),
        )
        for point in found.points
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(comparison_html(found.certified, frontier=points), encoding="utf-8")
    say(f"wrote {file}")
