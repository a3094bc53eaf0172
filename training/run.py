"""Recipe -> checkpoints, by transformers' Trainer; resumable at any moment to the same rows and losses. Knows one run.

A run is a folder: `recipe.json`, `log.jsonl` (a line a logged step), `rows.jsonl` (which documents each step saw) and
`checkpoint-N` folders of safetensors that can be evaluated as they are. A checkpoint counts once its `mixer.json`,
which is written last, is there; whatever a killed process leaves without one is thrown away.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from training.loss import head_loss
from training.mixing import IGNORED, Mixer, PackedRow
from training.plan import TrainingPlan, build_mixer, rows_of
from training.recipe import Recipe
from training.sources import RowDocuments
from workbench.engines.convert import quiet_transformers
from workbench.errors import ConfigError, RunError

MARK = "mixer.json"
"""Written last into a checkpoint: the state of the mix after its step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What is known after a logged step."""

    step: int
    steps: int
    loss: float
    """Nats per loss-bearing token, mean since the last logged step."""
    learning_rate: float
    tokens: int
    """Loss-bearing tokens so far."""
    tokens_per_second: float
    """Of packed rows, in this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a run made."""

    folder: Path
    last: Path
    entry: Path | None
    """The stage-entry checkpoint, before annealing; None where nothing anneals."""
    steps: int
    given: Mapping[str, int]
    """Loss-bearing tokens of each source."""


def train(
    recipe: Recipe,
    sources: Mapping[str, RowDocuments],
    plan: TrainingPlan,
    *,
    start: Path,
    tokenizer: Any,
    folder: Path,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train from the weights in `start`, going on where an earlier process of the same run stopped.

    Raises:
        ConfigError: `folder` holds a run of another recipe.
        RunError: the loss is not a number; the last checkpoint is kept.
    """
    if int(os.environ.get("RANK", "0")) == 0:  # set by torchrun and accelerate launch
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, recipe)
        _remove_incomplete(folder)
    last = _last_checkpoint(folder)
    mixer = build_mixer(recipe, sources, pad=tokenizer.eos_token_id)
    done = 0
    if last is not None:
        mixer.restore(json.loads((last / MARK).read_text()))
        done = int(last.name.removeprefix("checkpoint-"))
    rows = _Rows(recipe, mixer, plan, done=done)
    with quiet_transformers():  # its bars and advice; ours is the listener's
        trainer = _Trainer(
            model=_load_model(start),
            args=_arguments(recipe, plan, folder),
            train_dataset=rows,
            data_collator=_collate,
            processing_class=tokenizer,
            callbacks=[_Keeper(recipe, plan, rows, folder, on_step)],
        )
        trainer.remove_callback(PrinterCallback)
        if done < plan.steps:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
    entry = folder / f"checkpoint-{plan.anneal_step}"
    return Trained(
        folder=folder,
        last=folder / f"checkpoint-{plan.steps}",
        entry=entry if plan.anneal_step < plan.steps else None,
        steps=plan.steps,
        given={name: int(cursor["given"]) for name, cursor in rows.state_after(plan.steps)["cursors"].items()},
    )


class _Rows(IterableDataset[Any]):
    """Packed rows from where the run is, and what is known of the ones that were handed out but not yet trained on."""

    def __init__(self, recipe: Recipe, mixer: Mixer, plan: TrainingPlan, *, done: int) -> None:
        self.recipe, self.mixer, self.plan = recipe, mixer, plan
        self._states: dict[int, dict[str, Any]] = {done: mixer.state()}
        self._spans: dict[int, list[list[Any]]] = {}
        self._row = done * plan.rows_per_step

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = rows_of(self.recipe, self.mixer)
        while self._row < self.plan.steps * self.plan.rows_per_step:
            row = next(stream)
            step = self._row // self.plan.rows_per_step + 1
            self._row += 1
            spans = [[s.source, s.row, s.epoch, s.start, s.end] for s in row.spans]
            self._spans.setdefault(step, []).append(spans)
            if self._row % self.plan.rows_per_step == 0:
                self._states[step] = self.mixer.state()
            yield _tensors(row)

    def state_after(self, step: int) -> dict[str, Any]:
        """The mix after a step; the loader reads ahead, so the mixer itself may be further."""
        for old in [known for known in self._states if known < step]:
            del self._states[old]
        return self._states[step]

    def spans_of(self, step: int) -> list[list[Any]]:
        """Documents of a step's rows, once."""
        return self._spans.pop(step)


class _Trainer(Trainer):
    """The Trainer, with a loss that never holds the logits of a whole batch."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        # the token after the last one of a row is not known, and carries no loss
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        with _LossInsteadOfLogits(head, targets):
            # position_ids that begin again keep documents of a row apart; a cache or a mask would undo that
            total = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False).logits
        if not math.isfinite(total.item()):
            raise RunError(
                f"step {self.state.global_step + 1}: the loss is not a number; the last checkpoint is kept: go on from "
                "it with a lower learning_rate, or look at the rows of this step in rows.jsonl"
            )
        count = num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum()
        return total / count * (self.accelerator.num_processes if num_items_in_batch is not None else 1)


class _LossInsteadOfLogits:
    """Within, the head gives the summed loss of its hidden states, so no logits of the batch ever exist.

    The module stays where it is, so wrappers that gather sharded weights before it is called still do.
    """

    def __init__(self, head: Any, targets: torch.Tensor) -> None:
        self.head, self.targets = head, targets

    def __enter__(self) -> None:
        carries = self.targets != IGNORED

        def forward(hidden: torch.Tensor) -> torch.Tensor:
            return head_loss(hidden[carries], self.head.weight, self.targets[carries])

        self.head.forward = forward

    def __exit__(self, *_: object) -> None:
        del self.head.forward


class _Keeper(TrainerCallback):
    """Logs, notes which rows each step saw, and completes checkpoints."""

    def __init__(
        self, recipe: Recipe, plan: TrainingPlan, rows: _Rows, folder: Path, on_step: Callable[[Step], None]
    ) -> None:
        self.recipe, self.plan, self.rows, self.folder, self.on_step = recipe, plan, rows, folder, on_step
        self._since, self._at = time.perf_counter(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget what was noted of steps after the checkpoint: they come again."""
        self._since, self._at = time.perf_counter(), state.global_step
        if not state.is_world_process_zero:
            return
        for name in ("log.jsonl", "rows.jsonl"):
            path = self.folder / name
            if path.is_file():
                kept = [line for line in path.read_text().splitlines() if _is_before(line, state.global_step)]
                _write(path, "".join(f"{line}\n" for line in kept))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the step's documents; ask for a checkpoint where the recipe wants one."""
        step, spans = state.global_step, self.rows.spans_of(state.global_step)
        if state.is_world_process_zero:
            _append(self.folder / "rows.jsonl", {"step": step, "rows": spans})
        every = self.recipe.save_every
        if step in (self.plan.anneal_step, self.plan.steps) or (every and step % every == 0):
            control.should_save = True
        if step % self.recipe.log_every == 0 or step == self.plan.steps:
            control.should_log = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Write a line of log and tell the listener."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now, step = time.perf_counter(), state.global_step
        packed = (step - self._at) * self.plan.rows_per_step * self.recipe.sequence_length
        cursors = self.rows.state_after(step)["cursors"].values()
        seen = Step(
            step=step,
            steps=self.plan.steps,
            loss=float(logs["loss"]),
            learning_rate=float(logs["learning_rate"]),
            tokens=sum(cursor["given"] for cursor in cursors),
            tokens_per_second=packed / (now - self._since) if now > self._since else 0.0,
        )
        self._since, self._at = now, step
        _append(self.folder / "log.jsonl", asdict(seen))
        self.on_step(seen)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Complete the checkpoint, then let go of the oldest."""
        target = self.folder / f"checkpoint-{state.global_step}"
        if not state.is_world_process_zero:
            return
        _write(target / MARK, json.dumps(self.rows.state_after(state.global_step)))
        complete = _complete_checkpoints(self.folder)
        stays = {self.plan.anneal_step, self.plan.steps, *complete[-self.recipe.keep :]}
        for step in complete:
            if step not in stays:
                shutil.rmtree(self.folder / f"checkpoint-{step}")


def _load_model(start: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(start), dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    config = model.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None):
            raise ConfigError(
                f"start: {start.name}: its head scales logits ({name}), which training here does not know"
            )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(f"start: {start.name}: its head has a bias, which training here does not know")
    return model


def _arguments(recipe: Recipe, plan: TrainingPlan, folder: Path) -> TrainingArguments:
    on_gpu = torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun and accelerate launch
    per_step = plan.rows_per_step // (recipe.micro_batch * processes)
    if per_step * recipe.micro_batch * processes != plan.rows_per_step:
        raise ConfigError(
            f"batch_tokens: {plan.rows_per_step} rows a step cannot be shared by {processes} processes with "
            f"micro_batch {recipe.micro_batch}; change one of them"
        )
    kind, kwargs = _scheduler(recipe, plan)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=recipe.micro_batch,
        gradient_accumulation_steps=per_step,
        learning_rate=recipe.schedule.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        adam_beta2=0.95,
        lr_scheduler_type=kind,
        lr_scheduler_kwargs=kwargs,
        warmup_steps=_warmup(recipe, plan),
        gradient_checkpointing=recipe.gradient_checkpointing,
        bf16=_uses_bfloat16(recipe),
        use_cpu=not on_gpu,
        seed=recipe.seed,
        data_seed=recipe.seed,
        full_determinism=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
        ignore_data_skip=True,  # our rows begin where the checkpoint ended
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
        accelerator_config={"dispatch_batches": False, "split_batches": False},
    )


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


def _warmup(recipe: Recipe, plan: TrainingPlan) -> int:
    return math.ceil(recipe.schedule.warmup * plan.steps)


def _uses_bfloat16(recipe: Recipe) -> bool:
    """bfloat16 where it was asked for, or where this machine multiplies it faster than float32."""
    if recipe.dtype != "auto":
        return recipe.dtype == "bfloat16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    from workbench.engines.device import matmul_rate

    return matmul_rate("bfloat16") > matmul_rate("float32")


def _collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _tensors(row: PackedRow) -> dict[str, Any]:
    return {
        "input_ids": torch.from_numpy(row.tokens),
        "labels": torch.from_numpy(row.labels),
        "position_ids": torch.from_numpy(row.positions),
    }


def _claim(folder: Path, recipe: Recipe) -> None:
    """The folder belongs to this recipe, as it was when the run began."""
    path, text = folder / "recipe.json", recipe.model_dump_json(indent=2) + "\n"
    if path.is_file() and path.read_text() != text:
        raise ConfigError(f"{folder}: holds a run of another recipe; change the recipe's name, or restore the recipe")
    _write(path, text)


def _complete_checkpoints(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, ascending."""
    found = [path for path in folder.glob("checkpoint-*") if (path / MARK).is_file()]
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in found)


def _remove_incomplete(folder: Path) -> None:
    """What a killed process left of a checkpoint."""
    for path in folder.glob("checkpoint-*"):
        if not (path / MARK).is_file():
            shutil.rmtree(path)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = _complete_checkpoints(folder)
    return folder / f"checkpoint-{complete[-1]}" if complete else None


def _is_before(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) <= step
    except (ValueError, KeyError):
        return False  # the line that a killed process did not finish


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    hidden = path.with_name(f".{path.name}.new")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
