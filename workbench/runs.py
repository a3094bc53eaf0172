"""A recipe and a project -> a run: what it starts from, its data, its folder, its record. Trains by `training`.

Knows the store and the folders of a project. What comes after training (evaluation, gate) is the pipeline's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError
from workbench.records import Checkpoint
from workbench.references import resolve_checkpoint

if TYPE_CHECKING:
    from training.hooks import Hook
    from training.plan import TrainingPlan
    from training.recipe import Recipe
    from training.run import Step, Trained
    from training.sources import RowDocuments
    from workbench.pipeline import Evaluation, Gated
    from workbench.store import Project

RUNS = "runs"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRun:
    """A run that could begin: everything is checked, nothing is trained."""

    recipe: "Recipe"
    start: Checkpoint
    start_folder: Path
    folder: Path
    plan: "TrainingPlan"
    tokenizer: Any
    sources: "Mapping[str, RowDocuments]"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """A run that was carried out, with what was found of its last checkpoint."""

    prepared: PreparedRun
    made: "Trained"
    checkpoints: tuple[Checkpoint, ...]
    """The stage-entry one, if the recipe anneals, and the last one."""
    evaluation: "Evaluation | None" = None
    gated: "Gated | None" = None


def prepare_run(path: Path, project: "Project", overrides: Iterable[str] = ()) -> PreparedRun:
    """Read a recipe, open its data, walk its rows.

    Raises UserError for every fault of recipe, checkpoint or data.
    """
    from transformers import AutoTokenizer

    from training.plan import plan_run
    from training.recipe import load_recipe
    from training.sources import open_sources
    from workbench.engines.loading import model_folder

    recipe = load_recipe(path, overrides)
    start = find_start(recipe.start, project)
    if start.kind == "endpoint":
        raise CheckpointError(f"start: {start.name} is an endpoint, whose weights cannot be trained; name a model")
    folder = Path(model_folder(start))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    sources = open_sources(recipe, tokenizer=tokenizer, folder=path.parent)
    return PreparedRun(
        recipe=recipe,
        start=start,
        start_folder=folder,
        folder=project.root / RUNS / recipe.recipe,
        plan=plan_run(recipe, sources, pad=tokenizer.eos_token_id),
        tokenizer=tokenizer,
        sources=sources,
    )


def find_start(reference: str, project: "Project") -> Checkpoint:
    """`run/NAME` is the last checkpoint of a run; anything else a checkpoint as everywhere."""
    if not reference.startswith("run/"):
        return resolve_checkpoint(reference, project)
    folder = project.root / RUNS / reference.removeprefix("run/")
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if not found:
        raise CheckpointError(f"start: {reference}: no run of that name with a checkpoint in {folder.parent}")
    return resolve_checkpoint(found[-1], project)


def carry_out(
    prepared: PreparedRun,
    project: "Project",
    on_step: "Callable[[Step], None]" = lambda _: None,
    hooks: "Sequence[Hook]" = (),
) -> "tuple[Trained, list[Checkpoint]]":
    """Train, or go on with what an earlier process began; its checkpoints are recorded with their lineage."""
    from training.run import train

    recipe, store = prepared.recipe, project.store
    manifest = {
        name: {"rows": len(documents), "digest": documents.digest} for name, documents in prepared.sources.items()
    }
    document = {"recipe": recipe.model_dump(mode="json"), "data": manifest}
    run = store.add_run(document, folder=str(prepared.folder), start=prepared.start.fingerprint)
    store.add_checkpoint(prepared.start)
    try:
        made = train(
            recipe,
            prepared.sources,
            prepared.plan,
            start=prepared.start_folder,
            tokenizer=prepared.tokenizer,
            folder=prepared.folder,
            on_step=on_step,
            hooks=hooks,
        )
    except BaseException as error:
        store.set_run_status(run, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    checkpoints = [_register(path, prepared, run, project) for path in (made.entry, made.last) if path is not None]
    store.set_run_status(run, "done")
    return made, checkpoints


def _register(path: Path, prepared: PreparedRun, run: str, project: "Project") -> Checkpoint:
    found = replace(
        resolve_checkpoint(path, project), stage=prepared.recipe.stage, parent=prepared.start.fingerprint, run=run
    )
    project.store.add_checkpoint(found)
    return found
