"""Two recorded reports or more -> recorded comparisons: paired changes, flips, reasons, the best of many.

The front door to `benchmarks.compare` for a project; `workbench compare` and the gate go through it. Knows the store,
no engine: nothing is asked of a model here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.records import Comparison, Flip, Report
from workbench.references import find_noise_report, find_report_like, open_project

if TYPE_CHECKING:
    from benchmarks.compare import Question
    from benchmarks.side import Side
    from benchmarks.why import Reasons
    from workbench.store import Project, Store

Part = Literal["all", "select", "certify"]
"""Which items of a comparison count: all, the half that chooses, or the half that certifies what was chosen."""


def compare(
    baseline: str,
    candidates: Sequence[str],
    *,
    project: "Project | str | Path",
    tasks: Sequence[str] = (),
    margin: float | None = None,
    alpha: float = 0.05,
    part: Part = "all",
    seed: int = 0,
) -> list[Comparison]:
    """Compare reports with a baseline's and record the comparisons, in the order of the candidates.

    A report is named by its id (or the beginning of it), or by its checkpoint; of a checkpoint that has several, the
    one that was asked like the other side is taken. `tasks`: only these tasks or subtasks; `margin`: instead of the
    suite's. Raises TaskError where two have no task in common, or not the tasks named.
    """
    from benchmarks.compare import questions_of

    store = open_project(project).store
    base = find_report_like(store, baseline, store.report(candidates[0]))
    made: list[Comparison] = []
    sides: dict[str, Side] = {}
    for reference in candidates:
        candidate = find_report_like(store, reference, base)
        asked = questions_of(base, candidate, tasks=tasks, margin=margin)
        made.append(compare_recorded(store, base, candidate, asked, alpha=alpha, part=part, seed=seed, sides=sides))
    return made


def select_best(
    baseline: str,
    candidates: Sequence[str],
    *,
    project: "Project | str | Path",
    tasks: Sequence[str] = (),
    margin: float | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> tuple[list[Comparison], Comparison]:
    """Select the best candidate on one half of the items, judge it on the other: (all on the first, it on the second).

    Chosen and judged on the same items, the best of many looks better than it is. The best has the largest mean change,
    in units of each task's margin, over the domain's tasks (all tasks, where none is the domain's), among those that
    forgot no required task on the first half, if there are such.
    """
    options: dict[str, Any] = {"project": project, "tasks": tasks, "margin": margin, "alpha": alpha, "seed": seed}
    selected = compare(baseline, candidates, part="select", **options)
    best = max(selected, key=_merit)
    (judged,) = compare(best.baseline, [best.candidate], part="certify", **options)
    return selected, judged


def _merit(comparison: Comparison) -> tuple[bool, float]:
    domain = [task for task in comparison.tasks if task.role == "domain"] or comparison.tasks
    changes = [task.difference.value / task.margin for task in domain if task.difference is not None]
    forgot = any(task.verdict == "forgot" and task.required for task in comparison.tasks)
    return not forgot, sum(changes) / len(changes) if changes else float("-inf")


def find_flips(comparison: Comparison, *, project: "Project | str | Path", tasks: Sequence[str] = ()) -> list[Flip]:
    """The items that the two reports of a comparison answer differently, lost ones first; of all tasks or some."""
    from benchmarks.flips import list_flips

    store = open_project(project).store
    named = [task for task in comparison.tasks if not tasks or task.task in tasks]
    return list_flips(named, side_of(store, comparison.baseline), side_of(store, comparison.candidate))


def find_reasons(
    comparisons: Sequence[Comparison], *, project: "Project | str | Path", tasks: Sequence[str] = ()
) -> "tuple[Reasons, Mapping[str, Sequence[int]]]":
    """Why the last of some comparisons with one baseline lost what it lost, and at which of them items were first lost.

    The second is empty for a single comparison: task -> number of items first lost at each candidate.
    """
    from benchmarks.why import find_reasons as reasons_of
    from benchmarks.why import first_lost

    store = open_project(project).store
    baseline = side_of(store, comparisons[-1].baseline)
    sides = [side_of(store, comparison.candidate) for comparison in comparisons]
    reasons = reasons_of(comparisons[-1], baseline, sides[-1], tasks=tasks)
    return reasons, first_lost(comparisons, baseline, sides) if len(comparisons) > 1 else {}


def compare_recorded(
    store: "Store",
    baseline: Report,
    candidate: Report,
    questions: "Sequence[Question] | None" = None,
    *,
    alpha: float = 0.05,
    part: Part = "all",
    seed: int = 0,
    sides: "dict[str, Side] | None" = None,
) -> Comparison:
    """Compare two reports of the store; `sides` keeps what was read of the baseline from one candidate to the next."""
    from benchmarks.compare import compare_reports
    from workbench.store import to_plain

    kept = {} if sides is None else sides
    again = find_noise_report(store, baseline)
    for report in [baseline] if again is None else [baseline, again]:
        kept.setdefault(report.id, side_of(store, report.id))
    made = compare_reports(
        kept[baseline.id],
        kept.get(candidate.id) or side_of(store, candidate.id),
        questions,
        noise=kept[again.id] if again else None,
        alpha=alpha,
        part=part,
        seed=seed,
    )
    found = store.add_comparison(to_plain(made), kind="paired", reports=[baseline.id, candidate.id])
    return replace(made, id=found, created_at=datetime.now(UTC).isoformat(timespec="seconds"))


def side_of(store: "Store", report_id: str) -> "Side":
    """A report as one side of a comparison: its columns now, its rows when they are asked for."""
    from benchmarks.side import Side

    return Side(
        report=store.report(report_id),
        columns=store.item_columns(report_id),
        rows=lambda tasks: store.items(report_id, tasks=tasks),
        take=lambda rows: store.items_at(report_id, rows),
    )
