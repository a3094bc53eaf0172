"""Environments among what a checkpoint is asked: its episodes, in the same report as its other tasks.

Episodes are kept in the project's folder `episodes`, and are driven once for the same weights and the same file. Knows
an engine, `training.rl.evaluate`, and what rewards need of siblings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from benchmarks.progress import ProgressReport
    from training.preflight import Finding
    from training.recipe import Recipe
    from training.rl.evaluate import EnvironmentTask, OpenTask, Played
    from training.sources import RowDocuments
    from workbench.engines.base import Engine
    from workbench.evaluation import EvaluationRequest, Listener
    from workbench.records import Checkpoint
    from workbench.store import Project

FOLDER = "episodes"


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodePlan:
    """What an environment would ask of a checkpoint."""

    task: str
    rows: int
    samples: int
    orchestrated: bool


def open_environments(project: "Project", paths: "Sequence[str | Path]") -> "list[tuple[OpenTask, Any]]":
    """Each environment by its file, with the services of its rewards.

    Raises ConfigError: a file that cannot work, or two of one name.
    """
    from training.rl.evaluate import open_task
    from workbench.reinforcing import build_services

    found = []
    for path in map(Path, paths):
        services = build_services(project, path.parent)
        found.append((open_task(path, services), services))
    names = [task.asked.task for task, _ in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--environment: two are called {twice[0]!r}; give one another name (task:)")
    return found


def check_environments(
    recipe: "Recipe", sources: "Mapping[str, RowDocuments]", project: "Project", folder: Path
) -> "list[Finding]":
    """Can a recipe's environments be asked, and are their rows others than those it trains on?

    Raises ConfigError: a file that cannot work.
    """
    from training.preflight import Finding
    from training.rl.options import PROMPTS
    from training.rl.prompts import messages_of

    found: list[Finding] = []
    opened = open_environments(project, [folder / one for one in recipe.evaluation.environments])
    if not opened or recipe.rl is None:
        return found
    prompts = sources[PROMPTS]
    trained = {_said(messages_of(prompts.record(row), recipe.rl)) for row in range(len(prompts))}
    for task, _ in opened:
        rows = [messages_of(task.rows.record(row), task.options) for row in range(len(task.rows))]
        if same := sum(_said(one) in trained for one in rows):
            text = (
                f"environment {task.asked.task}: {same:,} of its {len(rows):,} rows are asked in training too, so its "
                "success would say little; give it rows of its own, or on_overlap: allow"
            )
            level = "warning" if recipe.on_overlap == "allow" else "refused"
            found.append(Finding(check="overlap", level=level, text=text))
    return found


def _said(messages: Sequence[Mapping[str, Any]]) -> str:
    return str(messages[-1]["content"]).strip()


def plan_episodes(project: "Project", request: "EvaluationRequest") -> list[EpisodePlan]:
    """How many episodes each environment asks for; what one costs, only the environment knows."""
    return [
        EpisodePlan(
            task=task.asked.task,
            rows=task.count(request.limit),
            samples=task.asked.samples,
            orchestrated=task.asked.orchestrator is not None,
        )
        for task, _ in open_environments(project, request.environments)
    ]


def play_environments(
    checkpoint: "Checkpoint", engine: "Engine", project: "Project", request: "EvaluationRequest", listener: "Listener"
) -> "Sequence[Played]":
    """The episodes of every environment of a request, one environment after the other.

    Raises RunError: episodes were lost; what came to its end is kept.
    """
    from training.rl.evaluate import evaluate_task
    from training.rl.sampling import Policy
    from training.rl.setup import MOST_ROWS

    found = []
    for task, services in open_environments(project, request.environments):
        folder = project.root / FOLDER / task.asked.task

        def policy(asked: "EnvironmentTask" = task.asked, folder: Path = folder) -> Policy:
            if asked.orchestrator is not None:
                listener.on_note(f"{asked.task}: episodes wait for your orchestrator; the way to them is in {folder}")
            return Policy.of_engine(engine, temperature=asked.temperature, max_rows=MOST_ROWS)

        played = evaluate_task(
            task,
            policy,
            services=services,
            folder=folder,
            key=":".join([checkpoint.fingerprint, checkpoint.tokenizer, engine.scorer]),
            limit=request.limit,
            seed=request.seed,
            on_progress=lambda done, total: listener.on_progress(checkpoint, _progress(done, total)),
        )
        found.append(played)
    return found


def _progress(done: int, total: int) -> "ProgressReport":
    from benchmarks.progress import ProgressReport

    return ProgressReport(phase="episodes", done=done, total=total, reused=0, rate=None, seconds_left=None)
