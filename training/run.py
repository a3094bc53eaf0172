"""Recipe -> checkpoints, by transformers' Trainer; resumable at any moment to the same rows and losses. Knows one run.

A run is a folder: `recipe.json`, `log.jsonl` (a line a logged step), `rows.sqlite` (which rows each step saw),
`events.jsonl` (what hooks did) and `checkpoint-N` folders of safetensors that can be evaluated as they are. One counts
once its `mixer.json`, which is written last, is there; what a killed process leaves without one is thrown away.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from training.checkpoints import (
    claim,
    complete_checkpoints,
    go_back,
    last_checkpoint,
    read_mark,
    read_restart,
    remove_incomplete,
    step_of,
)
from training.hooks import Hook, Running, restore, state_of
from training.plan import TrainingPlan, build_mixer
from training.recipe import Recipe
from training.rewards.base import Services
from training.rl.loss import PolicyLoss
from training.rl.setup import build_collector
from training.rl.stream import Places
from training.rl.trainer import PolicyTrainer
from training.sources import RowDocuments
from training.start import build_objective, compile_blocks, load_model
from training.stream import Rows, collate
from training.trainer import Keeper, PullBack, RecipeTrainer, Step, training_arguments
from workbench.engines.convert import quiet_transformers

__all__ = ["Hook", "Running", "Step", "Trained", "train"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a run made."""

    folder: Path
    last: Path
    entry: Path | None
    """The stage-entry checkpoint, before annealing; None where nothing anneals."""
    steps: int
    """Optimiser steps that were done; fewer than planned where a hook stopped the run."""
    given: Mapping[str, int]
    """Loss-bearing tokens of each source."""
    stopped: str | None = None
    """Why a hook stopped the run."""
    kept: tuple[Path, ...] = ()
    """Checkpoints that hooks wanted kept, by step: the ends of a curriculum's phases."""


def train(
    recipe: Recipe,
    sources: Mapping[str, RowDocuments],
    plan: TrainingPlan,
    *,
    start: Path,
    tokenizer: Any,
    folder: Path,
    on_step: Callable[[Step], None] = lambda _: None,
    hooks: Sequence[Hook] = (),
    services: Services | None = None,
) -> Trained:
    """Train from the weights in `start`, going on where an earlier process of the same run stopped.

    `hooks` watch the run and may stop it or steer its mix: see `training.hooks`. A run that was stopped by one is over.
    `services`: what rewards of method `grpo` need from outside.

    Raises:
        ConfigError: `folder` holds a run of another recipe.
        RunError: the loss is not a number; the last checkpoint is kept.
    """
    while True:
        if is_first_process():
            claim(folder, recipe.model_dump_json(indent=2))
            remove_incomplete(folder)
        last = last_checkpoint(folder)
        run = Running(recipe=recipe, plan=plan, folder=folder, tokenizer=tokenizer)
        if last is not None:
            kept = read_mark(last)
            restore(run, tuple(hooks), kept)
            run.step = step_of(last)
        elif (restart := read_restart(folder)) is not None:
            restore(run, tuple(hooks), restart)
        mixer = build_mixer(recipe, sources, pad=tokenizer.eos_token_id)
        if recipe.rl is not None:
            rows = Places(sources, mixer if mixer.sources else None, run)
        elif last is not None:
            mixer.restore(read_mark(last))
            rows = Rows(mixer, run)
        else:
            rows = Rows(mixer, run)
        if last is not None and isinstance(rows, Places):
            rows.take_up(read_mark(last))
        _go_on(rows, sources, start, last, tuple(hooks), on_step, services or Services(folder=Path()))
        if run.rewound is None:
            return _trained(rows)
        if is_first_process():
            go_back(folder, run.step, run.rewound, state_of(run, tuple(hooks)))
        wait_for_all()


def _go_on(
    rows: Rows | Places,
    sources: Mapping[str, RowDocuments],
    start: Path,
    last: Path | None,
    hooks: tuple[Hook, ...],
    on_step: Callable[[Step], None],
    services: Services,
) -> None:
    """Train until the run ends, is stopped, or is asked to go back."""
    run, plan = rows.run, rows.run.plan
    if run.step < plan.steps and run.stopped is None:
        with quiet_transformers(), ExitStack() as stack:  # its bars and advice; ours is the listener's
            trainer = _build_trainer(rows, sources, start, hooks, on_step, services, stack)
            trainer.go_on(last)


def _build_trainer(
    rows: Rows | Places,
    sources: Mapping[str, RowDocuments],
    start: Path,
    hooks: tuple[Hook, ...],
    on_step: Callable[[Step], None],
    services: Services,
    stack: ExitStack,
) -> RecipeTrainer:
    run, recipe = rows.run, rows.run.recipe
    arguments = training_arguments(recipe, run.plan, run.folder)
    model = load_model(recipe, start)
    objective = build_objective(run, model, sources, start, steered=bool(hooks))
    if recipe.compile:
        compile_blocks(model)
    callbacks: list[TrainerCallback] = [Keeper(rows, hooks, on_step, getattr(objective, "pop_rewards", dict))]
    if recipe.keep_near.l2:
        callbacks.append(PullBack(model, recipe.keep_near.l2))
    common: dict[str, Any] = {
        "objective": objective,
        "model": model,
        "args": arguments,
        "train_dataset": rows,
        "start": start,
        "callbacks": callbacks,
    }
    if isinstance(rows, Places):
        assert isinstance(objective, PolicyLoss)
        collector = build_collector(rows, services, tell=objective.told.update)
        stack.callback(collector.close)
        trainer = PolicyTrainer(places=rows, episodes=collector, data_collator=lambda found: found[0], **common)
    else:
        trainer = RecipeTrainer(data_collator=collate, **common)
    trainer.remove_callback(PrinterCallback)
    return trainer


def is_first_process() -> bool:
    """Of one, or of several under torchrun or accelerate launch, which set RANK."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_all() -> None:
    """Until every process of the run is here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _trained(rows: Rows | Places) -> Trained:
    run, plan = rows.run, rows.run.plan
    entry = plan.anneal_step < plan.steps and plan.anneal_step in complete_checkpoints(run.folder)
    return Trained(
        folder=run.folder,
        last=run.folder / f"checkpoint-{run.step}",
        entry=run.folder / f"checkpoint-{plan.anneal_step}" if entry else None,
        steps=run.step,
        given={name: int(cursor["given"]) for name, cursor in rows.state_after(run.step)["cursors"].items()},
        stopped=run.stopped,
        kept=tuple(run.folder / f"checkpoint-{step}" for step in sorted(run.kept)),
    )
