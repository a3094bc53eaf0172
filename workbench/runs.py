"""A recipe and a project -> a run: what it starts from, its data, its folder, its record. Trains by `training`.

Knows the store and the folders of a project. What comes after training (evaluation, gate) is the pipeline's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError, ConfigError
from workbench.records import Checkpoint, RuleResult
from workbench.references import resolve_checkpoint

if TYPE_CHECKING:
    from training.control import Judged
    from training.hooks import Hook
    from training.plan import TrainingPlan
    from training.preflight import Finding
    from training.recipe import Recipe
    from training.rewards.base import Services
    from training.run import Step, Trained
    from training.sources import RowDocuments
    from workbench.store import Project, Store

RUNS = "runs"
MODELS = "models"
"""Where new models lie, before anything was learned."""
ANNEALED = 0.1
"""Share of a run's highest rate, below which a checkpoint of it counts as annealed."""


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
    hooks: "tuple[Hook, ...]" = ()
    """That the recipe's method needs."""
    advice: tuple[str, ...] = ()
    """What could be done better, and is not refused."""
    findings: "tuple[Finding, ...]" = ()
    """What was checked without the model; nothing of it is refused."""
    services: "Services | None" = None
    """What the rewards of method `grpo` need from outside `training`."""


def prepare_run(path: Path, project: "Project", overrides: Iterable[str] = ()) -> PreparedRun:
    """Read a recipe, open its data, hold it against the suites, walk its rows.

    Raises UserError for every fault of recipe, checkpoint or data.
    """
    from training.checkpoints import last_checkpoint
    from training.plan import plan_run
    from training.preflight import check_recipe, refuse
    from training.recipe import load_recipe
    from training.trackers import check_trackers
    from workbench.agents import check_environments
    from workbench.preflight import check_evaluation

    recipe = load_recipe(path, overrides)
    check_trackers(recipe.report_to)
    start, folder, tokenizer, sources = _open(recipe, project, path.parent)
    home, hooks, planned = project.root / RUNS / recipe.recipe, (), None
    services = _services(recipe, project, path.parent)
    findings = check_evaluation(recipe, sources, project, goes_on=last_checkpoint(home) is not None)
    findings += check_environments(recipe, sources, project, path.parent)
    refuse(findings)
    if recipe.curriculum is not None:
        from training.curriculum import grade
        from training.start import load_weights

        graded = grade(recipe, sources, folder=home, load_start=lambda: load_weights(folder))
        recipe, sources = graded.recipe, graded.sources
        hooks, planned = (graded.hook,), graded.hook.planned
    plan = plan_run(recipe, sources, pad=tokenizer.eos_token_id, **({"planned": planned} if planned else {}))
    findings += check_recipe(recipe, plan, sources, folder=home)
    refuse(findings)
    return PreparedRun(
        recipe=recipe,
        start=start,
        start_folder=folder,
        folder=home,
        plan=plan,
        tokenizer=tokenizer,
        sources=sources,
        hooks=hooks,
        advice=_advice(recipe, plan, folder),
        findings=tuple(findings),
        services=services,
    )


def _open(
    recipe: "Recipe", project: "Project", beside: Path
) -> "tuple[Checkpoint, Path, Any, Mapping[str, RowDocuments]]":
    """What the run starts from, its folder and tokenizer, and the data; a new model is made of the data.

    Raises UserError for every fault of checkpoint or data.
    """
    from transformers import AutoTokenizer

    from training.new_model import build_new_model
    from training.options import NewModel
    from training.sources import open_sources
    from workbench.engines.loading import model_folder

    if not isinstance(recipe.start, NewModel):
        start = find_start(recipe.start, project)
        if start.kind == "endpoint":
            raise CheckpointError(f"start: {start.name} is an endpoint, whose weights cannot be trained; name a model")
        folder = Path(model_folder(start))
        _check_warmup(recipe, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return start, folder, tokenizer, open_sources(recipe, tokenizer=tokenizer, folder=beside)
    sources = open_sources(recipe, tokenizer=None, folder=beside)
    folder = build_new_model(recipe.start, sources, seed=recipe.seed, below=project.root / MODELS)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for documents in sources.values():
        documents.tokenizer = tokenizer
    return resolve_checkpoint(folder, project), folder, tokenizer, sources


def _services(recipe: "Recipe", project: "Project", folder: Path) -> "Services | None":
    """Of method `grpo`: its rewards and environment are built once, to see that they can be."""
    if recipe.rl is None:
        return None
    from training.rl.setup import check_parts
    from workbench.reinforcing import build_services

    services = build_services(project, folder)
    check_parts(recipe.rl, services)
    return services


def _check_warmup(recipe: "Recipe", start: Path) -> None:
    """A rate that fell to nothing has to rise again, or the first steps at the full one undo what was learned.

    Raises ConfigError: no warm-up from a checkpoint of a run whose rate had fallen there.
    """
    from training.checkpoints import rates_at

    rates = rates_at(start)
    if rates is None or recipe.schedule.warmup > 0:
        return
    then, highest = rates
    if then < ANNEALED * highest:
        raise ConfigError(
            f"schedule.warmup: 0, and the rate of the run that made {start.name} had fallen to {then:.2g} there; set "
            "schedule.warmup to 0.05, or start from its stage-entry checkpoint, before the rate fell"
        )


def _advice(recipe: "Recipe", plan: "TrainingPlan", start: Path) -> tuple[str, ...]:
    from transformers import AutoConfig

    from training.adapters import capacity_advice

    if recipe.lora is None or recipe.rl is not None:  # a reward is a few bits an episode, which little holds
        return ()
    config = AutoConfig.from_pretrained(start, local_files_only=True).get_text_config()
    advice = capacity_advice(recipe.lora, config, plan.tokens)
    return () if advice is None else (advice,)


def find_start(reference: str, project: "Project") -> Checkpoint:
    """`run/NAME` is the last checkpoint of a run, `run/NAME/checkpoint-N` any; anything else as everywhere.

    Raises CheckpointError: no such run, or no such checkpoint that is whole.
    """
    from training.checkpoints import complete_checkpoints

    if not reference.startswith("run/"):
        return resolve_checkpoint(reference, project)
    name, _, which = reference.removeprefix("run/").partition("/")
    folder = project.root / RUNS / name
    steps = complete_checkpoints(folder)
    if not steps:
        raise CheckpointError(f"start: {reference}: no run of that name with a checkpoint in {folder.parent}")
    wanted = which or f"checkpoint-{steps[-1]}"
    if wanted not in {f"checkpoint-{step}" for step in steps}:
        there = ", ".join(f"checkpoint-{step}" for step in steps)
        raise CheckpointError(f"start: {reference}: that checkpoint is not there; run {name} has {there}")
    return resolve_checkpoint(folder / wanted, project)


def carry_out(
    prepared: PreparedRun,
    project: "Project",
    on_step: "Callable[[Step], None]" = lambda _: None,
    hooks: "Sequence[Hook]" = (),
) -> "tuple[Trained, list[Checkpoint]]":
    """Train, or go on with what an earlier process began; its checkpoints are recorded with their lineage."""
    from training.checkpoints import complete_checkpoints, last_checkpoint
    from training.preflight import refuse
    from training.run import is_first_process

    if not is_first_process():  # of several; the first one keeps the books
        return _train(prepared, on_step, hooks), []
    from workbench.preflight import check_model

    if last_checkpoint(prepared.folder) is None:  # what goes on was checked when it began
        refuse(check_model(prepared, steps=False).findings)
    recipe, store = prepared.recipe, project.store
    manifest = {
        name: {"rows": len(documents), "digest": documents.digest} for name, documents in prepared.sources.items()
    }
    document = {"recipe": recipe.model_dump(mode="json"), "data": manifest}
    run = store.add_run(document, folder=str(prepared.folder), start=prepared.start.fingerprint)
    store.add_checkpoint(prepared.start)
    try:
        made = _train(prepared, on_step, hooks)
    except BaseException as error:
        store.set_run_status(run, "stopped" if isinstance(error, KeyboardInterrupt) else "failed")
        raise
    kept = [prepared.folder / f"checkpoint-{step}" for step in complete_checkpoints(prepared.folder)]
    checkpoints = [_register(path, prepared, run, project) for path in kept]
    for one in checkpoints:
        project.share(one)
    store.set_run_status(run, "stopped" if made.stopped else "done")
    return made, checkpoints


def _train(prepared: PreparedRun, on_step: "Callable[[Step], None]", hooks: "Sequence[Hook]") -> "Trained":
    from training.run import train

    return train(
        prepared.recipe,
        prepared.sources,
        prepared.plan,
        start=prepared.start_folder,
        tokenizer=prepared.tokenizer,
        folder=prepared.folder,
        on_step=on_step,
        hooks=[*prepared.hooks, *hooks],
        services=prepared.services,
    )


def build_hooks(
    prepared: PreparedRun, project: "Project", on_judged: "Callable[[Judged], None]" = lambda _: None
) -> "list[Hook]":
    """What watches the run from inside, as the recipe says; nothing is asked yet.

    Raises TaskError: unknown suites or tasks.
    """
    control = prepared.recipe.control
    if control is None:
        return []
    from training.sentinel import Sentinel
    from workbench.watching import build_measure, task_rows

    rows = task_rows(prepared.recipe, prepared.sources, prepared.tokenizer.eos_token_id) if control.kl_every else []
    measure = build_measure(control, project, prepared.tokenizer)
    if not control.replay:
        control = control.model_copy(update={"replay": prepared.recipe.replay_sources})
    return [Sentinel(control, measure, task_rows=rows, on_judged=on_judged)]


def to_evaluate(recipe: "Recipe", checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Of a run's kept checkpoints those that the recipe wants asked; the last one always."""
    from training.checkpoints import step_of

    every, last = recipe.evaluation.every, checkpoints[-1:]
    if every == "end":
        return list(last)
    earlier = checkpoints[:-1]
    if every != "kept":
        earlier = [one for one in earlier if recipe.is_evaluated(step_of(Path(one.source)))]
    return [*earlier, *last]


def training_rule(store: "Store", checkpoint: Checkpoint) -> RuleResult | None:
    """What the gate inside the training of a checkpoint said; None where its recipe had none.

    An average of several checkpoints is no run's own, and is judged by its own evaluation alone.
    """
    from training.checkpoints import read_mark

    run = next((entry for entry in store.runs() if entry.id == checkpoint.run), None)
    control = (run.document.get("recipe") or {}).get("control") if run is not None else None
    if run is None or control is None or Path(checkpoint.source).parent != Path(run.folder):
        return None
    required = control["on_forgetting"] != "warn"
    empty = RuleResult(rule="gate inside training", outcome="hold", required=required, reason="", task="training")
    try:
        mark = read_mark(Path(checkpoint.source))
    except (OSError, ValueError):
        return replace(empty, reason="its run's folder is gone, so nothing says that it passed")
    memory = mark.get("hooks", {}).get("sentinel", {})
    if mark.get("stopped"):
        return replace(empty, outcome="fail", reason=f"the run was stopped: {mark['stopped']}")
    if not memory.get("looks"):
        return replace(empty, reason="no evaluation came before this step; set control.every lower")
    match memory["verdict"]:
        case "ok":
            return replace(empty, outcome="pass", reason="nothing had slipped at the last look")
        case "watch":
            return replace(empty, outcome="pass", reason="one hit at the last look, not confirmed")
        case "warn" | "stop":
            return replace(empty, outcome="fail", reason="a retained task was being forgotten at the last look")
        case _:
            return replace(empty, reason="the mix was changed at the last look, and nobody has looked since")


def _register(path: Path, prepared: PreparedRun, run: str, project: "Project") -> Checkpoint:
    found = replace(
        resolve_checkpoint(path, project), stage=prepared.recipe.stage, parent=prepared.start.fingerprint, run=run
    )
    project.store.add_checkpoint(found)
    return found
