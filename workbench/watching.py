"""Hand the retained suites to a run that watches itself: a callable that asks the model in memory. Knows the pipeline.

The questions are built once; each call asks them all of the live weights by the engine that evaluates checkpoints, and
gives a value for every item, in an order that never changes. Nothing goes to the ledger: these weights have no digest.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import TaskError

if TYPE_CHECKING:
    from benchmarks.runner import Entry, Outcome
    from training.control import Control, Measured
    from training.recipe import Recipe
    from workbench.store import Project


def build_measure(
    control: "Control", project: "Project", tokenizer: Any, *, batch_tokens: int | None = None
) -> "Callable[[Any], Mapping[str, Measured]] | None":
    """What `training.sentinel` asks; None where the recipe watches no task. `batch_tokens`: of one forward pass.

    Raises TaskError: unknown names, or a task that no loss can be seen on item by item.
    """
    if not control.suites and not control.tasks:
        return None
    from benchmarks.runner import build_plan, run_plan
    from workbench.config import data_folder
    from workbench.references import include_folders

    folders = include_folders(project)
    plan = build_plan(
        suites=control.suites,
        tasks=control.tasks,
        limit=control.limit,
        include_path=folders,
        data=data_folder(project.config, root=project.root),
    )
    watched = tuple(entry for entry in plan.entries if entry.card.required or entry.name in control.tasks)
    if not watched:
        raise TaskError("control: none of the watched tasks is required; name tasks that are")
    suites = _suites_of(control.suites, folders)
    lms: dict[int, Any] = {}

    def measure(model: Any) -> "Mapping[str, Measured]":
        if id(model) not in lms:
            lms.clear()
            lms[id(model)] = _live(model, tokenizer, batch_tokens)
        return _measured(watched, run_plan(lms[id(model)], plan), suites)

    return measure


def task_rows(recipe: "Recipe", sources: Mapping[str, Any], pad: int, *, rows: int = 2) -> list[Any]:
    """The first rows of what is new to the model: of all sources that are no replay, in the recipe's shares."""
    from training.mixing import Mixer

    replay = recipe.replay_sources
    shares = {name: share for name, share in recipe.shares(annealing=False).items() if name not in replay and share}
    if not shares:
        shares = recipe.shares(annealing=False)
    mixer = Mixer(
        sources={name: sources[name] for name in shares}, length=recipe.sequence_length, seed=recipe.seed + 1, pad=pad
    )
    return [mixer.next_row(shares) for _ in range(rows)]


def _live(model: Any, tokenizer: Any, batch_tokens: int | None) -> Any:
    """The engine and lm-eval's view of weights that change between the calls."""
    from benchmarks.lm import EngineLM
    from workbench.engines.causal_model import CausalModel
    from workbench.engines.transformers_engine import TransformersEngine

    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    taken = CausalModel(model, device=model.device, weights=dtype, arithmetic=dtype)
    engine = TransformersEngine(taken, tokenizer, batch_tokens=batch_tokens, cache_gb=0.5)
    return EngineLM(engine, fingerprint="in training", tokenizer_digest="")


def _measured(
    watched: "Sequence[Entry]", outcome: "Outcome", suites: Mapping[str, Sequence[str]]
) -> "dict[str, Measured]":
    from training.control import Measured

    found: dict[str, Measured] = {}
    results = {result.task: result for result in outcome.results}
    for entry in watched:
        result = results[entry.name]
        items = [item for item in outcome.items if item.task in entry.leaves]
        values = np.array([item.metrics.get(result.metric, np.nan) for item in items])
        if np.isnan(values).any():
            raise TaskError(
                f"control: task {entry.name}: {result.metric} has no value for each item, so no loss can be seen item "
                "by item; watch another task"
            )
        groups = tuple(item.group for item in items)
        found[entry.name] = Measured(
            values=values,
            margin=result.margin,
            binary=_is_binary(values),
            direction=result.headline.direction,
            groups=groups if len(set(groups)) < len(groups) else (),
            keys=(*suites.get(entry.name, ()), result.role),
        )
    return found


def _is_binary(values: np.ndarray) -> bool:
    """Right-or-wrong credits, by the rule that comparisons go by."""
    from benchmarks.compare import WHOLE_CREDITS

    inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and float(np.isin(values, (0.0, 1.0)).mean()) >= WHOLE_CREDITS


def _suites_of(suites: Sequence[str], folders: Sequence[Path]) -> dict[str, list[str]]:
    from benchmarks.suite import load_suite

    found: dict[str, list[str]] = {}
    for name in suites:
        for task in load_suite(name, folders).tasks:
            found.setdefault(task.task, []).append(name)
    return found
