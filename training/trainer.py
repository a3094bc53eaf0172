"""transformers' Trainer with our rows, our loss and our checkpoints. Knows one process of one run."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from training.adapters import has_adapters, load_adapters, save_merged
from training.checkpoints import (
    EVENTS,
    LOG,
    MARK,
    append_line,
    complete_checkpoints,
    forget_lines_after,
    remove_old,
    write_whole,
)
from training.hooks import Hook, state_of
from training.ledger import Ledger
from training.objective import Objective
from training.plan import TrainingPlan
from training.recipe import Recipe
from training.stream import Rows
from workbench.errors import ConfigError, RunError
from workbench.store.checkpoints import tokenizer_files

if TYPE_CHECKING:
    from training.rl.stream import Places


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is known after a logged step."""

    step: int
    steps: int
    loss: float
    """Mean since the last logged step; nats per loss-bearing token where tokens are predicted."""
    learning_rate: float
    tokens: int
    """Loss-bearing tokens so far."""
    tokens_per_second: float
    """Of packed rows, in this process."""
    reward: float | None = None
    """Mean of the step's episodes, where rewards are learned from."""


class RecipeTrainer(Trainer):
    """The Trainer, with an objective of ours. `start`: the folder whose tokenizer comes along, byte for byte."""

    def __init__(self, *, objective: Objective, start: Path | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.start = start
        self.objective = objective
        self.loss_is_scaled_for_ga = True  # by the counts of the whole step

    def create_accelerator_and_postprocess(self) -> None:
        """As the Trainer does; and shard on CPUs too, which torch can and accelerate leaves out."""
        super().create_accelerator_and_postprocess()
        if self.args.fsdp and not self.is_fsdp_enabled:
            from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

            state: Any = self.accelerator.state
            options: Any = self.args.fsdp_plugin_args or {}
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**options)
            state.distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        if not batch_samples:
            return None
        counts = self.objective.counts(batch_samples).to(device)
        if self.args.world_size > 1:
            gathered: Any = self.accelerator.gather(counts[None])
            counts = gathered.sum(0)
        return counts

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro batch's part of the step's loss."""
        counts = self.objective.counts([inputs]) if num_items_in_batch is None else num_items_in_batch
        plain: Any = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        head = plain.get_output_embeddings()
        # gradients are averaged over the processes, and the counts are of them all
        return self.objective.loss(model, head, inputs, counts) * self.accelerator.num_processes

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(float(norm)):  # before the optimiser takes it up
            raise RunError(
                f"step {self.state.global_step + 1}: the loss or its gradient is not a number; the last checkpoint is "
                "kept: go on from it with a lower learning_rate, or look at the rows of this step: "
                f"workbench data inspect RECIPE --step {self.state.global_step + 1}"
            )
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a model that can be loaded as it is; sharded weights are gathered."""
        if self.is_fsdp_enabled:
            state = gather_weights(self.model, keep=self.args.should_save)  # in every process: a collective
            if self.args.should_save:
                self._save(output_dir, state)
        else:
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if has_adapters(model):
            save_merged(model, folder, state_dict)
        else:
            model.save_pretrained(folder, state_dict=state_dict)
        if self.start is not None:
            copy_tokenizer(self.start, folder)  # saved anew it would be other bytes, and no answers would compare

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:  # each library has a class of its own for a full disk
            if not _is_full(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"{folder}: the disk is full; earlier checkpoints are kept: free some space (a lower "
                "keep needs less), and the same command goes on from the last one"
            ) from error

    def go_on(self, last: Path | None) -> None:
        """Train from a checkpoint of the run, with the random numbers that it would have drawn; or from the start."""
        if last is not None:
            self.add_callback(_RandomState(lambda: self._load_rng_state(str(last))))
        self.train(resume_from_checkpoint=None if last is None else str(last))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        plain: Any = self.accelerator.unwrap_model(model or self.model, keep_torch_compile=False)
        if has_adapters(plain) and not self.is_fsdp_enabled:
            load_adapters(plain, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)


def gather_weights(model: Any, *, keep: bool) -> dict[str, Any]:
    """The whole of sharded weights on the CPU, a tensor at a time; every process takes part, those that `keep` get it.

    accelerate's `get_state_dict` sends what is gathered on from the first process, and on CPUs hands out tensors that
    are still on their way, which have no storage that could be written.
    """
    from torch.distributed.tensor import DTensor

    whole: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            whole[name] = full.detach().to("cpu", copy=True)
    return whole


def _is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: as OSError, safetensors or torch say it."""
    said = f"{error} {error.__context__ or ''}"
    return "No space left" in said or "PytorchStreamWriter failed" in said or "os error 28" in said


class _RandomState(TrainerCallback):
    """Sets the random state once, before the first step: the Trainer does it too early, before the loader draws."""

    def __init__(self, restore: Callable[[], None]) -> None:
        self._restore: Callable[[], None] | None = restore

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The first one only."""
        if self._restore is not None:
            self._restore()
        self._restore = None


class PullBack(TrainerCallback):
    """Decay towards the weights of the start: a step takes off learning rate × `strength` of the distance."""

    def __init__(self, model: Any, strength: float) -> None:
        self.strength = strength
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._start = [p.detach().clone() for p in self._trained]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Before the optimiser's own step, as AdamW's weight decay is."""
        rate = optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            for now, start in zip(self._trained, self._start, strict=True):
                now.lerp_(start.to(now.device), rate * self.strength)


class Keeper(TrainerCallback):
    """Logs, notes which rows each step saw, asks the hooks, and completes checkpoints."""

    def __init__(
        self,
        rows: "Rows | Places",
        hooks: tuple[Hook, ...],
        on_step: Callable[[Step], None],
        more: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.run, self.rows, self.hooks, self.tell, self.more = rows.run, rows, hooks, on_step, more
        self._since, self._at = time.perf_counter(), 0
        self._ledger: Ledger | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Forget what was noted of steps after the checkpoint: they come again."""
        self._since, self._at = time.perf_counter(), state.global_step
        run = self.run
        # the model itself, its adapters within: what wraps it has another base_model than engines expect
        run.model, run.step = model.get_base_model() if has_adapters(model) else model, state.global_step
        if state.is_world_process_zero:
            forget_lines_after(run.folder, run.step)
            self._ledger = Ledger(run.folder, self.rows.sources)
            self._ledger.forget_after(run.step)
            run.note = lambda event: append_line(run.folder / EVENTS, {"step": run.step, **event})
        for hook in self.hooks:
            hook.on_begin(run)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the record of rows."""
        if self._ledger is not None:
            self._ledger.close()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step's documents; ask for a checkpoint where the recipe or a hook wants one."""
        run, plan = self.run, self.run.plan
        step = run.step = state.global_step
        spans = self.rows.spans_of(step)
        if self._ledger is not None:
            self._ledger.record(step, spans)
        for hook in self.hooks:
            hook.on_step(run)
        every = run.recipe.save_every
        wanted = run.wants_save or run.recipe.is_evaluated(step)
        if wanted or step in (plan.anneal_step, plan.steps) or (every and step % every == 0):
            control.should_save = True
        if run.stopped is not None or run.rewound is not None:
            control.should_training_stop = True
        if step % run.recipe.log_every == 0 or step == plan.steps or run.stopped is not None:
            control.should_log = True
        run.wants_save = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write a line of log and tell the listener."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now, step, plan = time.perf_counter(), state.global_step, self.run.plan
        packed = self.rows.packed_tokens(self._at, step)
        more = dict(self.more())
        cursors = self.rows.state_after(step)["cursors"].values()
        seen = Step(
            step=step,
            steps=plan.steps,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens=sum(cursor["given"] for cursor in cursors),
            tokens_per_second=packed / (now - self._since) if now > self._since else 0.0,
            reward=more.get("reward"),
        )
        self._since, self._at = now, step
        known = {name: value for name, value in asdict(seen).items() if value is not None}
        append_line(self.run.folder / LOG, {**known, **more})
        self.tell(seen)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint, then let go of the oldest."""
        run, plan = self.run, self.run.plan
        target = run.folder / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            mark = self.rows.state_after(state.global_step) | state_of(run, self.hooks)
            write_whole(target / MARK, json.dumps(mark))
            asked = {step for step in complete_checkpoints(run.folder) if run.recipe.is_evaluated(step)}
            remove_old(run.folder, keep=run.recipe.keep, always={plan.anneal_step, plan.steps, *asked, *run.kept})
        for hook in self.hooks:
            hook.on_save(run, target)


def copy_tokenizer(start: Path, folder: Path) -> None:
    """The files that a tokenizer's digest is of."""
    for file in tokenizer_files(start):
        target = folder / file.relative_to(start)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def training_arguments(recipe: Recipe, plan: TrainingPlan, folder: Path) -> TrainingArguments:
    """The recipe in the Trainer's words. Raises ConfigError: the batch cannot be shared by so many processes."""
    on_gpu = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun and accelerate launch
    per_step, size = plan.rows_per_step // (recipe.micro_batch * processes), recipe.micro_batch
    if recipe.rl is not None:
        if processes > 1:
            raise ConfigError("method grpo trains in one process yet; start it without torchrun or accelerate launch")
        per_step, size = recipe.rl.passes(recipe.micro_batch) + plan.rows_per_step, 1
    elif per_step * recipe.micro_batch * processes != plan.rows_per_step:
        raise ConfigError(
            f"batch_tokens: {plan.rows_per_step} rows a step cannot be shared by {processes} processes with "
            f"micro_batch {recipe.micro_batch}; change one of them"
        )
    kind, kwargs = _scheduler(recipe, plan)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=per_step,
        learning_rate=recipe.schedule.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        adam_beta2=0.95,
        lr_scheduler_type=kind,
        lr_scheduler_kwargs=kwargs,
        warmup_steps=math.ceil(recipe.schedule.warmup * plan.steps),
        gradient_checkpointing=recipe.gradient_checkpointing,
        bf16=uses_bfloat16(recipe),
        use_cpu=not on_gpu,
        seed=recipe.seed,
        data_seed=recipe.seed,
        full_determinism=False,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # such a step ends the run
        save_strategy="no",
        eval_strategy="no",
        report_to=list(recipe.report_to),
        run_name=recipe.recipe,
        disable_tqdm=True,
        ignore_data_skip=True,  # our rows begin where the checkpoint ended
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
        accelerator_config={"dispatch_batches": False, "split_batches": False},
        **(_SHARDED if recipe.shard and processes > 1 else {}),
    )


_SHARDED: dict[str, Any] = {
    "fsdp": True,
    # shards for going on, next to the whole model that save_model writes
    "fsdp_config": {"version": 2, "reshard_after_forward": True, "state_dict_type": "SHARDED_STATE_DICT"},
}


def _scheduler(
    recipe: Recipe, plan: TrainingPlan
) -> tuple[Literal["warmup_stable_decay", "cosine_with_min_lr", "constant_with_warmup"], dict[str, Any]]:
    end = recipe.schedule.end
    match recipe.schedule.kind:
        case "wsd":
            decay = plan.steps - plan.anneal_step
            return "warmup_stable_decay", {"num_decay_steps": decay, "min_lr_ratio": end, "decay_type": "1-sqrt"}
        case "cosine":
            return "cosine_with_min_lr", {"min_lr_rate": end}
        case "constant":
            return "constant_with_warmup", {}


def uses_bfloat16(recipe: Recipe) -> bool:
    """bfloat16 where it was asked for, or where this machine multiplies it faster than float32."""
    if recipe.dtype != "auto":
        return recipe.dtype == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    from workbench.engines.device import matmul_rate

    return matmul_rate("bfloat16") > matmul_rate("float32")
