"""Train a few steps with one trainer, in a process of its own. Prints one JSON line.

python -m studies.train_speed_worker ARM WORK MODEL DATA STEPS [cpu]
ARM: workbench | trl | trl-packed. WORK: sft | pretrain. The first step is not timed, unless it is the only one.
cpu: one thread, and seconds of the processor instead of the clock's, for a machine that has other work too.

TRL's arms are its defaults (8 rows a step, 1,024 tokens, gradient checkpointing, no packing unless the arm says so) but
for the type, which is float32 in all arms, and the learning rate. Ours has as many tokens a step as TRL's rows come to.
"""

import contextlib
import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

RATE = 2e-5
SECONDS = time.process_time if "cpu" in sys.argv[6:] else time.perf_counter
LENGTH = 1024
HELD_OUT = 12
FILES = {"sft": "dolly_small/train_small.jsonl", "pretrain": "openstax_text/anatomy_physiology.jsonl"}


def read(data: Path, work: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(rows to train on, rows held out), in the form that both sides read."""
    lines = (data / FILES[work]).read_text().splitlines()
    if work == "pretrain":
        rows = [{"text": json.loads(line)["text"]} for line in lines]
    else:
        found = [json.loads(line) for line in lines]
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
            }
            for row in found
        ]
    return rows[HELD_OUT:], rows[:HELD_OUT]


def ours(rows: list[dict[str, Any]], work: str) -> list[dict[str, Any]]:
    """The same rows as messages."""
    return rows if work == "pretrain" else [{"messages": row["prompt"] + row["completion"]} for row in rows]


def run_workbench(work: str, model: Path, rows: list[dict[str, Any]], steps: int, folder: Path) -> dict[str, Any]:
    from transformers import AutoTokenizer

    from training.hooks import Hook, Running
    from training.ledger import Ledger, seen_rows
    from training.mixing import Mixer
    from training.plan import plan_run
    from training.recipe import Recipe
    from training.run import train
    from training.sources import open_sources

    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ours(rows, work)))
    recipe = Recipe.model_validate(
        {
            "recipe": "speed",
            "start": str(model),
            "method": work,
            "mix": [{"name": "rows", "data": "rows.jsonl", "share": 1.0, "max_epochs": 99}],
            "tokens": 10_000_000,
            "sequence_length": LENGTH,
            "batch_tokens": 3072 if work == "sft" else 8192,
            "schedule": {"kind": "constant", "learning_rate": RATE, "warmup": 0.0},
            "dtype": "float32",
            "log_every": 1,
        },
        strict=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    sources = open_sources(recipe, tokenizer=tokenizer, folder=folder)
    # the plan of so few steps, without walking the rows of a long run
    recipe = recipe.model_copy(update={"tokens": 400 if work == "sft" else 8192 * (steps - 1) + 1})
    plan = plan_run(recipe, sources, pad=tokenizer.eos_token_id)
    while plan.steps < steps:
        recipe = recipe.model_copy(update={"tokens": recipe.tokens * 2})
        plan = plan_run(recipe, sources, pad=tokenizer.eos_token_id)
    clock, losses, ends = Clock(), [], []
    Mixer.next_row = clock.around(Mixer.next_row)  # type: ignore[method-assign]
    Ledger.record = clock.around(Ledger.record)  # type: ignore[method-assign]
    beside: list[float] = []

    class Begins(Hook):
        name = "speed"

        def on_begin(self, run: Running) -> None:
            ends.append(SECONDS())
            beside.append(clock.seconds)

    def on_step(step: Any) -> None:
        ends.append(SECONDS())
        losses.append(step.loss)
        beside.append(clock.seconds)
        if len(losses) == steps:
            raise Enough

    with contextlib.suppress(Enough):
        train(
            recipe,
            sources,
            plan,
            start=model,
            tokenizer=tokenizer,
            folder=folder / "run",
            on_step=on_step,
            hooks=[Begins()],
        )
    tokens: dict[int, int] = {}
    for row in seen_rows(folder / "run"):
        tokens[row.step] = tokens.get(row.step, 0) + row.stop - row.start
    first = 0 if steps == 1 else 1
    return {
        "seconds": ends[-1] - ends[first],
        "steps": steps - first,
        "tokens": sum(tokens.get(step, 0) for step in range(first + 1, steps + 1)),
        "losses": losses,
        "mixing_and_recording": (beside[-1] - beside[first]) / (ends[-1] - ends[first]),
    }


class Enough(Exception):  # not a fault
    """As many steps as were asked for."""


class Clock:
    """Seconds spent in some functions."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = SECONDS()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += SECONDS() - start

        return timed


def run_trl(
    work: str, model: Path, rows: list[dict[str, Any]], steps: int, folder: Path, *, packing: bool
) -> dict[str, Any]:
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    ends: list[float] = []
    tokens: list[int] = []
    padded: list[int] = []

    class Times(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            ends.append(SECONDS())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(SECONDS())

    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        packing=packing,
        bf16=False,
        use_cpu=True,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Times()],
    )
    collate = trainer.data_collator

    def counted(features: list[Any]) -> Any:
        batch = collate(features)
        tokens.append(sum(len(feature["input_ids"]) for feature in features))
        padded.append(batch["input_ids"].numel())
        return batch

    trainer.data_collator = counted
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    first = 0 if steps == 1 else 1
    return {
        "seconds": ends[-1] - ends[first],
        "steps": steps - first,
        "tokens": sum(tokens[first:steps]),
        "padded": sum(padded[first:steps]),
        "losses": losses,
    }


def main() -> None:
    """Train and print."""
    arm, work, model, data, steps = sys.argv[1:6]
    warnings.simplefilter("ignore")
    if SECONDS is time.process_time:
        import torch

        torch.set_num_threads(1)
    rows, _ = read(Path(data), work)
    with tempfile.TemporaryDirectory() as folder:
        if arm == "workbench":
            found = run_workbench(work, Path(model), rows, int(steps), Path(folder))
        else:
            found = run_trl(work, Path(model), rows, int(steps), Path(folder), packing=arm == "trl-packed")
    found["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"arm": arm, "work": work, **found}))


if __name__ == "__main__":
    main()
