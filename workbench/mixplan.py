"""Plan a mix: short runs of a recipe at several shares of replay, and the share to take. Knows the pipeline.

Each arm is a run of its own below `runs/`, so a plan that was killed goes on with the arm it was at; an arm that was
evaluated is not trained again, and of its checkpoints only the last one's weights stay.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import ConfigError, did_you_mean
from workbench.records import Report, TaskResult
from workbench.references import open_project

if TYPE_CHECKING:
    from training.mixfit import ArmTask, MixPlan
    from training.recipe import Recipe
    from training.run import Step
    from workbench.evaluation import Listener
    from workbench.store import Project

SHARES = (0.0, 0.02, 0.05, 0.15, 0.3)
"""Of replay; the curve bends early (Ibrahim et al. 2024, Bethune et al. 2025), so the small ones stand close."""
PLANS = "mixes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One short run."""

    share: float
    run: str
    """Name of its recipe, and folder below `runs/`."""
    report: str
    tokens: int
    """Loss-bearing tokens it was given."""
    changes: Mapping[str, float]
    """Task -> change against the start; losses negative, in the task's own unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One task of the run at the chosen share: predicted against got."""

    task: str
    predicted: float
    low: float
    high: float
    """Of the 90% interval for another run."""
    got: float

    @property
    def is_inside(self) -> bool:
        """Whether the interval holds what came."""
        return self.low <= self.got <= self.high


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedMix:
    """What the arms say."""

    recipe: str
    replay: tuple[str, ...]
    arms: tuple[Arm, ...]
    plan: "MixPlan"
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of each source at the chosen share of replay; empty where none was chosen."""
    checks: tuple[Check, ...] = ()


def plan_mix(
    recipe: str | Path,
    *,
    project: "Project | str | Path",
    shares: Sequence[float] = SHARES,
    replay: Sequence[str] = (),
    tokens: int | None = None,
    budget: float | None = None,
    verify: bool = False,
    overrides: Sequence[str] = (),
    on_arm: Callable[[float, int, int], None] = lambda *_: None,
    on_step: "Callable[[Step], None]" = lambda _: None,
    listener: "Listener | None" = None,
) -> PlannedMix:
    """Run short arms of a recipe and choose the share of replay.

    Args:
        shares: of all replay sources together, at least four.
        replay: names of the sources that are replay; default: those that the recipe says are.
        tokens: loss-bearing tokens of an arm; default: a tenth of the recipe's.
        budget: loss that a retained task may have, in its own unit; default: each task's margin.
        verify: train one more run at the chosen share, and hold it against what was predicted.
        on_arm: hears share, number of the arm (from 1) and how many there are.

    Raises ConfigError: too few shares, no replay, or nothing evaluated of the domain or of what must be retained.
    """
    from training.mixfit import fit_mix
    from training.recipe import load_recipe

    project, path = open_project(project), Path(recipe)
    asked = load_recipe(path, overrides)
    sources = find_replay(asked, replay)
    _check_shares(shares)
    length = tokens or max(asked.tokens // 10, 2 * asked.batch_tokens)
    runner = _Runner(path, asked, sources, length, project, tuple(overrides), on_step, listener)
    arms: list[Arm] = []
    count = len(shares) + verify
    for number, share in enumerate(sorted(set(shares)), 1):
        on_arm(share, number, count)
        arms.append(runner.run(share))
    tasks = runner.tasks([arm.report for arm in arms], budget)
    plan = fit_mix([arm.share for arm in arms], tasks, seed=asked.seed)
    checks: tuple[Check, ...] = ()
    if verify:
        share = plan.safest if plan.share is None else plan.share
        on_arm(share, count, count)
        checks = _checks(plan, share, runner.run(share, seed=asked.seed + 1))
    chosen = runner.shares(plan.share) if plan.share is not None else {}
    made = PlannedMix(recipe=asked.recipe, replay=sources, arms=tuple(arms), plan=plan, shares=chosen, checks=checks)
    _write(made, project)
    return made


def find_replay(recipe: "Recipe", named: Sequence[str] = ()) -> tuple[str, ...]:
    """The sources of a mix that are replay. Raises ConfigError: unknown, none, or all of them."""
    names = [source.name for source in recipe.mix]
    found = tuple(named) or recipe.replay_sources
    for name in found:
        if name not in names:
            raise ConfigError(f"--replay {name}: no source of the mix; {did_you_mean(name, names)}")
    if not found:
        raise ConfigError(f"--replay: which sources are replay? name some of {', '.join(names)}")
    if set(found) == set(names):
        raise ConfigError("--replay: every source is replay, so there is nothing new to learn; leave one out")
    return found


def plan_document(made: PlannedMix) -> dict[str, Any]:
    """Plain values: arms, curves, choice, and predicted against got."""
    return {
        "recipe": made.recipe,
        "replay": list(made.replay),
        "share": made.plan.share,
        "safest": made.plan.safest,
        "why": made.plan.why,
        "shares": dict(made.shares),
        "arms": [
            {"share": arm.share, "run": arm.run, "report": arm.report, "tokens": arm.tokens, "changes": arm.changes}
            for arm in made.arms
        ],
        "curves": [
            {
                "task": curve.task,
                "domain": curve.is_domain,
                "margin": curve.margin,
                "shape": curve.shape,
                "points": [
                    {"share": float(s), "change": float(v), "low": float(low), "high": float(high)}
                    for s, v, low, high in zip(curve.shares, curve.value, curve.low, curve.high, strict=True)
                ],
            }
            for curve in made.plan.curves
        ],
        "checks": [
            {
                "task": check.task,
                "predicted": check.predicted,
                "low": check.low,
                "high": check.high,
                "got": check.got,
                "inside": check.is_inside,
            }
            for check in made.checks
        ],
    }


@dataclass
class _Runner:
    """Carries arms out, and pairs what they answered with what the start did."""

    path: Path
    recipe: "Recipe"
    replay: tuple[str, ...]
    tokens: int
    project: "Project"
    overrides: tuple[str, ...]
    on_step: "Callable[[Step], None]"
    listener: "Listener | None"
    base: Report | None = None

    def shares(self, share: float) -> dict[str, float]:
        from training.mixfit import scaled_shares

        return scaled_shares({source.name: source.share for source in self.recipe.mix}, self.replay, share)

    def run(self, share: float, *, seed: int | None = None) -> Arm:
        """Train and evaluate one arm, or read what an earlier plan of the same recipe found of it."""
        from workbench.pipeline import train

        name = f"{self.recipe.recipe}-replay-{100 * share:g}" + ("" if seed is None else "-check")
        changes = [f"recipe={name}", f"tokens={self.tokens}", "merge=null", "control=null", "evaluation.every=end"]
        changes += ["save_every=null", *([f"seed={seed}"] if seed is not None else [])]
        for place, value in enumerate(self.shares(share).values()):
            changes += [f"mix[{place}].share={value}", f"mix[{place}].anneal_share=null"]
        made = train(
            self.path,
            project=self.project,
            overrides=[*self.overrides, *changes],
            on_step=self.on_step,
            listener=self.listener,
        )
        if made.evaluation is None or made.evaluation.baseline is None:
            raise ConfigError("evaluation: arms are compared by what they answer; name evaluation.suites in the recipe")
        self.base = made.evaluation.baseline.report
        report = made.evaluation.evaluated[-1].report
        _slim(made.made.folder, made.made.last, self.project)
        found = {task.task: float(task.changes.mean()) for task in self.tasks([report.id], None)}
        return Arm(share=share, run=name, report=report.id, tokens=sum(made.made.given.values()), changes=found)

    def tasks(self, reports: Sequence[str], budget: float | None) -> "list[ArmTask]":
        """Every required task: the change of each item in each report against the start."""
        assert self.base is not None
        found = [_arm_task(result, self.project, self.base, reports, budget) for result in self.base.results]
        kept = [task for task in found if task is not None]
        for is_domain, what in ((True, "of the domain"), (False, "that must be retained")):
            if not any(task.is_domain is is_domain for task in kept):
                raise ConfigError(f"evaluation: no required task {what} was asked; name a suite that holds some")
        return kept


def _arm_task(
    result: TaskResult, project: "Project", base: Report, reports: Sequence[str], budget: float | None
) -> "ArmTask | None":
    from training.mixfit import ArmTask

    if not result.required:
        return None
    leaves = set(result.subtasks or (result.task,))
    old = project.store.item_columns(base.id)
    rows = np.array([task in leaves for task in old.task])
    old = old.of(rows)
    place = {key: i for i, key in enumerate(zip(old.task, old.item, strict=True))}
    before = old.metrics.get(result.metric)
    if before is None:
        return None
    after = np.full((len(before), len(reports)), np.nan)
    for column, report in enumerate(reports):
        new = project.store.item_columns(report)
        values = new.metrics.get(result.metric)
        if values is None:
            return None
        for key, value in zip(zip(new.task, new.item, strict=True), values, strict=True):
            if key in place:
                after[place[key], column] = value
    turn = 1.0 if result.headline.direction == "higher" else -1.0
    changes = turn * (after - before[:, None])
    known = ~np.isnan(changes).any(axis=1)
    if not known.any():
        return None
    is_domain = result.role == "domain"
    return ArmTask(
        task=result.task,
        is_domain=is_domain,
        margin=budget if budget is not None and not is_domain else result.margin,
        changes=changes[known],
        groups=tuple(str(group) for group in old.group[known]),
    )


def _checks(plan: "MixPlan", share: float, arm: Arm) -> tuple[Check, ...]:
    found: list[Check] = []
    for curve in plan.curves:
        value, low, high = curve.at(share)
        found.append(Check(task=curve.task, predicted=value, low=low, high=high, got=arm.changes[curve.task]))
    return tuple(found)


def _check_shares(shares: Sequence[float]) -> None:
    from training.mixfit import MIN_ARMS

    if odd := [share for share in shares if not 0 <= share < 1]:
        raise ConfigError(f"--shares: {100 * odd[0]:g}: a percentage from 0 to below 100 is expected")
    if len(set(shares)) < MIN_ARMS:
        raise ConfigError(f"--shares: {len(set(shares))} are too few for a curve; name at least {MIN_ARMS}")


def _slim(folder: Path, last: Path, project: "Project") -> None:
    """Of an arm that was evaluated: what only going on would need."""
    import shutil

    from workbench.store.let_go import record_let_go

    going = [path for path in folder.glob("checkpoint-*") if path != last]
    named = [one for one in project.store.checkpoints() if Path(one.source) in going]
    record_let_go(
        project.store.database, named, actor="mix plan", why="an arm that was evaluated keeps its last weights"
    )
    for checkpoint in going:
        shutil.rmtree(checkpoint)
    for name in ("optimizer.pt", "scheduler.pt"):
        (last / name).unlink(missing_ok=True)


def _write(made: PlannedMix, project: "Project") -> None:
    folder = project.root / PLANS
    folder.mkdir(exist_ok=True)
    file, hidden = folder / f"{made.recipe}.json", folder / f".{made.recipe}.new"
    hidden.write_text(json.dumps(plan_document(made), indent=2) + "\n", encoding="utf-8")
    hidden.replace(file)
