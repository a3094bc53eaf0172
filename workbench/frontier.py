"""The merge frontier: averages between a start and what was tuned from it, chosen on half of the items, judged on half.

Knows the store, evaluation and comparison by their front doors; the averaging itself is `training.merge`. Each point is
made, asked and (unless it is chosen) thrown away again: the same parts always give the same bytes, so its report stays
true and its answers stay in the ledger.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError, ConfigError
from workbench.records import Checkpoint, Comparison, Report, TaskComparison
from workbench.references import open_project, resolve_checkpoint

if TYPE_CHECKING:
    from training.merge import Part
    from workbench.evaluation import EvaluationRequest, Listener
    from workbench.store import Project

MERGES = "merges"
WEIGHTS = (0.2, 0.4, 0.6, 0.8)
"""Ways from the start to the tuned model that a sweep tries, besides the tuned model itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One average on the frontier, with what half of the items say of it."""

    weight: float
    """Way from the start (0) to what was tuned (1)."""
    averaged: int
    """Newest checkpoints of the run whose mean stands for the tuned model; 1: the last alone."""
    checkpoint: Checkpoint
    report: Report
    selected: Comparison
    """Against the start, on the half of the items that the choice is made on."""

    @property
    def domain(self) -> float:
        """Mean change of the domain's tasks, each in units of its margin."""
        return _mean_in_margins([task for task in self.selected.tasks if task.role == "domain"])

    @property
    def retained(self) -> float:
        """Change of the worst required task that is not the domain's, in units of its margin: -1 is its budget."""
        return min((_in_margins(task) for task in retained_tasks(self.selected)), default=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frontier:
    """All points, the chosen one, and what the other half of the items says of it."""

    base: Checkpoint
    base_report: Report
    points: tuple[Point, ...]
    best: Point
    certified: Comparison


def retained_tasks(comparison: Comparison) -> list[TaskComparison]:
    """The required tasks that must not be forgotten: all but the domain's."""
    return [task for task in comparison.tasks if task.role != "domain" and task.required]


def merge(
    base: str | Path | Checkpoint,
    tuned: str | Path | Checkpoint,
    *,
    project: "Project | str | Path",
    weight: float = 0.6,
    average_last: int = 1,
    out: Path | None = None,
) -> Checkpoint:
    """The average of a start and what was tuned from it: `weight` of the way, all tensors alike; recorded with lineage.

    `average_last`: the mean of so many checkpoints of the tuned one's run stands for it.
    """
    project = open_project(project)
    return merge_point(find_checkpoint(base, project), averaged(tuned, average_last, project), weight, project, out=out)


def merge_frontier(
    base: str | Path | Checkpoint,
    tuned: str | Path | Checkpoint,
    *,
    project: "Project | str | Path",
    request: "EvaluationRequest",
    weights: Sequence[float] = (),
    average_last: int = 1,
    keep_all: bool = False,
    listener: "Listener | None" = None,
) -> Frontier:
    """Averages of a start and what was tuned from it: the best is chosen on half of the items, certified on the other.

    Raises ConfigError where no task is the domain's: then no point is better than another.
    """
    from workbench.comparing import compare

    project = open_project(project)
    return sweep(
        find_checkpoint(base, project),
        averaged(tuned, average_last, project),
        project=project,
        request=request,
        compare=compare,
        weights=weights or WEIGHTS,
        keep_all=keep_all,
        listener=listener,
    )


def merge_point(
    base: Checkpoint, tuned: Sequence[Checkpoint], weight: float, project: "Project", *, out: Path | None = None
) -> Checkpoint:
    """Make one average, or find it made, and record it; what was tuned is its parent. `tuned`: oldest first.

    `merge.json` in its folder names all parts with their digests.

    Raises CheckpointError: other architectures, an endpoint, or an `out` that holds something else.
    """
    from training.merge import line, merge_weights

    if not 0 < weight <= 1:
        raise ConfigError(f"--weight: {weight:g}: must be above 0 (the start itself) and at most 1")
    folder = out or default_folder(base, tuned, weight, project)
    merge_weights(line(_part(base), [_part(one) for one in tuned], weight), folder)
    last = tuned[-1]
    made = replace(resolve_checkpoint(folder, project), stage=last.stage, parent=last.fingerprint, run=last.run)
    project.store.add_checkpoint(made)
    project.share(made)
    return made


def default_folder(base: Checkpoint, tuned: Sequence[Checkpoint], weight: float, project: "Project") -> Path:
    """Below the project: named by what was tuned, by both weights' digests, and by the share."""
    last = tuned[-1]
    several = f"-mean{len(tuned)}" if len(tuned) > 1 else ""
    name = f"{last.name.replace('/', '-')}-{base.fingerprint[:6]}-{last.fingerprint[:6]}{several}-{100 * weight:g}"
    return project.root / MERGES / name


def sweep(
    base: Checkpoint,
    tuned: Sequence[Checkpoint],
    *,
    project: "Project",
    request: "EvaluationRequest",
    compare: Callable[..., list[Comparison]],
    weights: Sequence[float] = WEIGHTS,
    keep_all: bool = False,
    listener: "Listener | None" = None,
) -> Frontier:
    """Evaluate the averages and what was tuned, choose on one half of the items, certify on the other.

    `tuned`: checkpoints of one run, oldest first; with several, their mean is swept besides the last alone. `compare`
    is the pipeline's. The choice: the largest gain in the domain among points of which every required retained task is
    kept on the first half; where there is none, among those that forgot none and are seen within every budget; else
    among those that forgot none; else among all.
    """
    from workbench.evaluation import Listener, build_plan_of, evaluate_one

    listener = listener or Listener()
    plan = build_plan_of(project, request)
    base_report = evaluate_one(base, plan, project, request, listener).report
    points: list[Point] = []
    for group in [tuned[-1:], *([tuned] if len(tuned) > 1 else [])]:
        for weight in sorted({*weights, 1.0}):
            point = tuned[-1] if weight == 1 and len(group) == 1 else merge_point(base, group, weight, project)
            report = evaluate_one(point, plan, project, request, listener).report
            (selected,) = compare(base_report.id, [report.id], project=project, part="select", seed=request.seed)
            found = Point(weight=weight, averaged=len(group), checkpoint=point, report=report, selected=selected)
            points.append(found)
            if not keep_all and choose(points) is not found:
                _forget_weights(found, tuned, project)
    best = choose(points)
    for point in points if not keep_all else ():
        if point is not best:
            _forget_weights(point, tuned, project)
    (certified,) = compare(base_report.id, [best.report.id], project=project, part="certify", seed=request.seed)
    return Frontier(base=base, base_report=base_report, points=tuple(points), best=best, certified=certified)


def choose(points: Sequence[Point]) -> Point:
    """The best of some points by the half of the items that choices are made on; of equals the nearest to the start.

    Raises ConfigError: no point was asked anything of the domain, so that none is better than another.
    """
    if not any(task.role == "domain" for point in points for task in point.selected.tasks):
        raise ConfigError(
            "merge: none of the tasks is the domain's, so no point is better than another; name a suite with tasks of "
            "the role domain"
        )
    return max(points, key=lambda point: (*_retention(point), point.domain, -point.weight))


def frontier_document(frontier: Frontier) -> dict[str, Any]:
    """Plain values for dashboards: every point with its report and its two coordinates, and the choice."""
    return {
        "base": frontier.base.fingerprint,
        "base_report": frontier.base_report.id,
        "points": [
            {
                "weight": point.weight,
                "averaged": point.averaged,
                "checkpoint": point.checkpoint.fingerprint,
                "report": point.report.id,
                "comparison": point.selected.id,
                "domain_in_margins": point.domain,
                "worst_retained_in_margins": point.retained,
            }
            for point in frontier.points
        ],
        "best": frontier.best.report.id,
        "certified": frontier.certified.id,
    }


def write_frontier(frontier: Frontier, file: Path) -> None:
    """Keep all points beside the run, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    hidden = file.with_name(f".{file.name}.new")
    hidden.write_text(json.dumps(frontier_document(frontier), indent=2) + "\n", encoding="utf-8")
    hidden.replace(file)


def find_checkpoint(reference: str | Path | Checkpoint, project: "Project") -> Checkpoint:
    """As everywhere, and `run/NAME` for the last one of a run."""
    from workbench.runs import find_start

    return reference if isinstance(reference, Checkpoint) else find_start(str(reference), project)


def averaged(tuned: str | Path | Checkpoint, count: int, project: "Project") -> list[Checkpoint]:
    """The `count` newest checkpoints of its run up to this one, oldest first."""
    last = find_checkpoint(tuned, project)
    if count == 1:
        return [last]
    found = [resolve_checkpoint(path, project) for path in newest_of_run(last, count)]
    return [*(replace(one, stage=last.stage, run=last.run) for one in found[:-1]), last]


def newest_of_run(checkpoint: Checkpoint, count: int) -> list[Path]:
    """The `count` newest complete checkpoints of the run that made this one, up to it, oldest first.

    Raises CheckpointError: it is no checkpoint of a run, or the run kept fewer.
    """
    folder = Path(checkpoint.source)
    step = folder.name.removeprefix("checkpoint-")
    if not step.isdigit():
        raise CheckpointError(f"--average-last: {checkpoint.name} is no checkpoint-N of a run's folder")
    beside = [path for path in folder.parent.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    found = sorted((int(path.name.removeprefix("checkpoint-")), path) for path in beside)
    earlier = [path for at, path in found if at <= int(step)]
    if len(earlier) < count:
        raise CheckpointError(
            f"--average-last {count}: {folder.parent.name} kept {len(earlier)} checkpoints up to {folder.name}; "
            "raise keep and save_every in its recipe"
        )
    return earlier[-count:]


def _retention(point: Point) -> tuple[bool, bool, bool]:
    """Certified on this half; not refuted; at least seen within every budget."""
    verdicts = [task.verdict for task in retained_tasks(point.selected)]
    kept = all(verdict in ("kept", "improved") for verdict in verdicts)
    return kept, "forgot" not in verdicts, point.retained >= -1


def _forget_weights(point: Point, tuned: Sequence[Checkpoint], project: "Project") -> None:
    """Of a point that was not chosen: it can be made again to the same bytes."""
    from workbench.store.let_go import record_let_go

    folder = Path(point.checkpoint.source)
    if folder.parent == project.root / MERGES and all(folder != Path(one.source) for one in tuned) and folder.is_dir():
        why = "an average that was not chosen; merge makes it again to the same bytes"
        record_let_go(project.store.database, [point.checkpoint], actor="merge", why=why)
        shutil.rmtree(folder, ignore_errors=True)


def _part(checkpoint: Checkpoint) -> "Part":
    from training.merge import Part
    from workbench.engines.loading import model_folder

    folder = Path(model_folder(checkpoint))
    return Part(folder=folder, weight=1.0, name=checkpoint.name, fingerprint=checkpoint.fingerprint)


def _in_margins(task: TaskComparison) -> float:
    return task.difference.value / task.margin if task.difference is not None else 0.0


def _mean_in_margins(tasks: Sequence[TaskComparison]) -> float:
    told = [task for task in tasks if task.difference is not None and task.verdict != "uninformative"]
    known = [_in_margins(task) for task in told if task.required] or [_in_margins(task) for task in told]
    return sum(known) / len(known) if known else 0.0
