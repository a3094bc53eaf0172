"""`workbench compare`: what candidates kept, gained and forgot against a baseline, item by item."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.output import print_json, print_line, print_table, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.clean import CleanGain
    from benchmarks.nearest import Nearest
    from benchmarks.why import Reasons
    from workbench.records import Comparison, Flip
    from workbench.store import Project
    from workbench.trained_on import TrainedOn


def command(
    baseline: Annotated[str, typer.Argument(help="Report id (or its beginning) or checkpoint to compare with.")],
    candidates: Annotated[list[str], typer.Argument(help="Reports or checkpoints; several make a trajectory.")],
    tasks: Annotated[str | None, typer.Option(help="Only these tasks or subtasks, separated by commas.")] = None,
    margin: Annotated[
        str | None, typer.Option(help="Loss that counts as kept, for all tasks: 2pt or 0.02 (default: the suite's).")
    ] = None,
    flips: Annotated[int, typer.Option(min=0, help="Changed answers to show side by side.")] = 0,
    why: Annotated[
        bool, typer.Option("--why", help="Which topics hold the lost items, since when, and in which other forms.")
    ] = False,
    clean: Annotated[
        bool, typer.Option("--clean", help="Split the domain's change by overlap with the training data.")
    ] = False,
    training: Annotated[
        list[Path] | None, typer.Option(help="Training file, where no run of the project knows it; may be repeated.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="Select the best candidate on half of the items, judge it on the other.")
    ] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write it for a pull request.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as one page that needs no network.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write it as JUnit XML for a CI job.")] = None,
    project: Annotated[Path | None, typer.Option(help="Project folder (default: the nearest).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare candidates with a baseline, item by item: kept, improved, forgot or inconclusive.

    Kept is a certificate: a loss beyond the margin is excluded with 95% confidence. Where the evidence does not
    suffice, it says how many items would.

    Examples:
        workbench compare smollm2 runs/shop/checkpoint-300
        workbench compare smollm2 checkpoint-100 checkpoint-200 checkpoint-300 --best
        workbench compare 3f9a 77c1 --flips 20 --html compare.html
        workbench compare smollm2 runs/shop/checkpoint-300 --why --clean
    """
    from workbench.cli.documents import write_documents
    from workbench.cli.projects import find_project
    from workbench.margins import parse_margin
    from workbench.pipeline import compare, find_flips, find_reasons, select_best
    from workbench.trained_on import find_clean_gain, find_nearest_rows

    home = find_project(project)
    named = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    wanted = parse_margin(margin) if margin else None
    if best:
        selected, made = select_best(baseline, candidates, project=home, tasks=named, margin=wanted)
        comparisons = [*selected, made]
    else:
        comparisons = compare(baseline, candidates, project=home, tasks=named, margin=wanted)
    last = comparisons[-1]
    need_flips = flips or markdown or html or as_json
    changed = find_flips(last, project=home, tasks=named) if need_flips else []
    reasons = find_reasons(comparisons, project=home, tasks=named) if why else None
    data = _training_data(last, home, training or []) if why or clean else None
    nearest = find_nearest_rows(last, reasons[0], data, project=home, tasks=named) if reasons and data else None
    gains = find_clean_gain(last, data, project=home, tasks=named) if clean and data else None
    if as_json:
        found = {"reasons": reasons[0], "first_lost": reasons[1], "nearest": nearest} if reasons else {}
        found |= {} if gains is None else {"clean": gains}
        print_json({"comparisons": comparisons, "flips": changed[: flips or None], **found})
    elif best:
        _print_selection(comparisons)
    else:
        _print_comparisons(comparisons)
    if flips and not as_json:
        _print_flips(changed, flips)
    if reasons is not None and not as_json:
        _print_reasons(*reasons, [one.candidate_checkpoint.name for one in comparisons])
        _print_nearest(nearest)
    if gains is not None and not as_json:
        _print_clean(gains, last)
    write_documents({"markdown": markdown, "html": html, "junit": junit}, comparison=last, flips=changed)
    say(f"next: workbench gate {last.candidate[:12]} --baseline {last.baseline[:12]}{_option(project, home)}")


def _print_comparisons(comparisons: "list[Comparison]") -> None:
    from workbench.cli import verdicts
    from workbench.publish.wording import comparison_headline

    last = comparisons[-1]
    if len(comparisons) > 1:
        print_table(*verdicts.trajectory_table(comparisons))
        print_line()
        print_line(f"{last.candidate_checkpoint.name} against {last.baseline_checkpoint.name}:")
    print_line(comparison_headline(last))
    print_table(*verdicts.comparison_table(last))
    for note in verdicts.verdict_notes(last):
        say(f"note: {note}")


def _print_selection(comparisons: "list[Comparison]") -> None:
    from workbench.cli import verdicts
    from workbench.publish.wording import comparison_headline

    *selected, made = comparisons
    print_line("Selected on one half of the items:")
    print_table(*verdicts.trajectory_table(selected))
    print_line()
    print_line(f"The best is {made.candidate_checkpoint.name}; judged on the other half:")
    print_line(comparison_headline(made))
    print_table(*verdicts.comparison_table(made))
    for note in verdicts.verdict_notes(made):
        say(f"note: {note}")


def _print_flips(changed: "list[Flip]", count: int) -> None:
    from workbench.cli import verdicts

    print_line()
    print_table(*verdicts.flips_table(changed[:count]))
    if len(changed) > count:
        say(f"{count} of {len(changed):,} changed answers; --flips {len(changed)} shows all")


def _print_reasons(reasons: "Reasons", first: "Mapping[str, Sequence[int]]", names: "Sequence[str]") -> None:
    from workbench.cli import verdicts

    print_line()
    print_table(*verdicts.topics_table(reasons.topics))
    if first:
        print_line()
        print_line("Items lost for the first time at each checkpoint:")
        print_table(*verdicts.first_lost_table(first, names))
    for form in reasons.forms:
        say(f"note: {form.told}")
    say(f"suggested: {reasons.replay}")


def _training_data(comparison: "Comparison", home: "Project", files: "Sequence[Path]") -> "TrainedOn | None":
    """What the candidate was trained on since the baseline: the files named, else what the project's runs know."""
    from workbench.trained_on import rows_of_files, seen_since

    if files:
        return rows_of_files(files)
    found = seen_since(home, comparison.candidate_checkpoint, comparison.baseline_checkpoint)
    for note in found.notes:
        say(f"note: {note}")
    if found.runs:
        return found
    name = comparison.candidate_checkpoint.name
    say(f"note: no run of this project made {name}; name its training data with --training FILE")
    return None


def _print_nearest(nearest: "Nearest | None") -> None:
    from workbench.cli import verdicts

    if nearest is None:
        return
    if nearest.rows:
        print_line()
        print_line("Training rows nearest to lost items:")
        print_table(*verdicts.nearest_table(nearest.rows))
    say(f"note: {nearest.told}")


def _print_clean(gains: "Sequence[CleanGain]", comparison: "Comparison") -> None:
    from workbench.cli import verdicts

    if not gains:
        say("note: no domain task whose items have values of their own; name tasks with --tasks")
        return
    print_line()
    print_line("Change by what the training data holds:")
    print_table(*verdicts.clean_table(gains, comparison))
    for gain in gains:
        say(f"note: {gain.told}")


def _option(named: Path | None, home: "Project") -> str:
    import shlex

    return "" if named is None else f" --project {shlex.quote(str(home.root))}"
