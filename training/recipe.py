"""A recipe: one strict YAML file that says all of a training run. Knows keys and arithmetic; no model and no data.

Every fault is told at once, and what cannot work is refused before a second of training: a warm-up longer than the run,
an evaluation that never comes, shares that no phase adds up.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from training.control import Control
from training.options import Curriculum, KeepNear, Lora, NewModel, Preference, method_faults
from training.presets import expand_replay
from training.rl.options import Reinforce, reinforce_faults
from workbench.config import StrictModel, apply_overrides, read_yaml, validate
from workbench.errors import ConfigError, did_you_mean
from workbench.records import Stage

Method = Literal["pretrain", "midtrain", "sft", "dpo", "grpo"]
Start = Annotated[
    Annotated[str, Tag("a name")] | Annotated[NewModel, Tag("a new model")],
    Discriminator(lambda value: "a new model" if isinstance(value, dict | NewModel) else "a name"),
]
FOLDER = Path(__file__).parent / "recipes"
_NAME = re.compile(r"\w[\w.-]{0,119}")
ENDS: Mapping[Method, Stage] = {
    "pretrain": "pretrain",
    "midtrain": "midtrain",
    "sft": "posttrain",
    "dpo": "posttrain",
    "grpo": "posttrain",
}
"""The stage of what a method makes."""


class Source(StrictModel):
    """One source of rows in the mix."""

    name: str
    data: str
    """File (JSONL, Parquet, CSV or plain text) relative to the recipe, or `hub:OWNER/NAME[/CONFIG]@SPLIT`."""
    share: float = Field(ge=0, le=1)
    """Share of the loss-bearing tokens; the shares of a phase are scaled to add up to 1."""
    anneal_share: float | None = Field(default=None, ge=0, le=1)
    """Share while the learning rate anneals; default: the same."""
    column: str = "text"
    """Column of plain text; rows with messages, or a prompt and a completion, need none."""
    weight_column: str = ""
    """Column of a number above 0: how much a row's loss counts beside others; default: 1. Not for dpo."""
    max_epochs: float = Field(default=4.0, gt=0)
    """How often a row may be seen. Up to four passes are nearly as good as fresh data (Muennighoff et al. 2023)."""
    order: Literal["shuffled", "given"] = "shuffled"
    """Shuffled anew for each pass, or as the file has them."""
    role: Literal["own", "replay"] = "own"
    """`replay`: old data against forgetting. What is asked of it must not be asked by the suites too."""
    category: str = ""
    """Of replay: what it keeps alive (code, math, reasoning, ...)."""


class Replay(StrictModel):
    """General data in categories, by a preset's shares; it becomes sources of the mix named `replay-CATEGORY`."""

    preset: str
    """Name of a shipped preset: forge-cpt, forge-sft or plain."""
    share: float = Field(gt=0, lt=1)
    """Of all loss-bearing tokens; the shares of the mix are scaled to what is left."""
    sources: dict[str, str] = Field(min_length=1)
    """Category -> file or hub set. Categories of the preset without one give their share to the others."""
    anneal_share: float | None = Field(default=None, ge=0, lt=1)
    max_epochs: float = Field(default=4.0, gt=0)


class Schedule(StrictModel):
    """Learning rate over the run. Defaults: the ones that SmolLM2 was annealed with, scaled to fine-tuning."""

    learning_rate: float = Field(default=2e-4, gt=0)
    """Highest rate."""
    kind: Literal["wsd", "cosine", "constant"] = "wsd"
    """Warm-up, stable, decay (Hu et al. 2024); or cosine; or constant after the warm-up."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps."""
    anneal: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps, at the end, in which the rate falls (wsd only)."""
    end: float = Field(default=0.0, ge=0, lt=1)
    """Lowest rate, as a share of the highest."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kind == "wsd" and self.warmup + self.anneal > 1:
            raise ValueError(f"warmup {self.warmup:g} and anneal {self.anneal:g} take more than the whole run")
        return self


class Evaluation(StrictModel):
    """What the kept checkpoints are asked, and against what they are held."""

    suites: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    environments: tuple[Path, ...] = ()
    """Files of environments, relative to the recipe: their episodes are tasks like any other."""
    limit: int | None = Field(default=None, ge=1)
    baseline: str | None = None
    """Default: the checkpoint that the run started from."""
    gate: Path | None = None
    """Gate file, relative to the recipe; default: every task of the suites kept."""
    every: Literal["end", "kept"] | int = "end"
    """Which checkpoints are asked, after training: the last, all that are kept, or one every so many steps, which
    are then kept."""

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if isinstance(self.every, int) and self.every < 1:
            raise ValueError(f"every: {self.every}: at least 1 step, or end, or kept")
        return self


class Merge(StrictModel):
    """Averages of the start and the result, tried after the run; the best that is kept takes the result's place."""

    weights: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    """Ways from the start (0) to the result (1), which is always tried as well."""
    average_last: int = Field(default=1, ge=1)
    """The mean of so many newest checkpoints is swept too."""

    @model_validator(mode="after")
    def _between(self) -> Self:
        if odd := [weight for weight in self.weights if not 0 < weight <= 1]:
            raise ValueError(f"weights: {odd[0]:g}: must be above 0 and at most 1")
        return self


class Recipe(StrictModel):
    """All of a training run."""

    recipe: str
    """Its name; the run's folder bears it."""
    start: Start
    """Checkpoint to start from: as `workbench eval` takes it, or `run/NAME` for the last one of a run. Or a new model:
    `{new: llama, layers: 6, width: 256, heads: 4, vocabulary: 4096}`."""
    method: Method
    """`pretrain` and `midtrain`: every token of packed documents carries loss; `sft`: answers alone; `dpo`: answers
    that are preferred to others; `grpo`: answers of its own that rewards score."""
    lora: Lora | None = None
    """Train adapters instead of all weights."""
    dpo: Preference = Field(default_factory=lambda: Preference())
    """Of method `dpo`."""
    rl: Reinforce | None = None
    """Of method `grpo`."""
    keep_near: KeepNear = Field(default_factory=lambda: KeepNear())
    """Hold the model to where it started."""
    curriculum: Curriculum | None = None
    """Show one source from easy to hard."""
    mix: tuple[Source, ...] = ()
    """Where rows come from; of method `grpo`: what is replayed beside its episodes, if anything."""
    replay: Replay | None = None
    """General data by category, added to the mix."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """What becomes of malformed rows: the run is refused, or they are left out and counted."""
    deduplicate: Literal["exact", "near", "off"] = "exact"
    """Leave out rows that repeat an earlier one, of any source; the first is kept. near: also ones alike by 80%."""
    on_overlap: Literal["refuse", "drop", "allow"] = "refuse"
    """What becomes of rows that hold questions of the evaluation suites."""
    tokens: int = Field(default=0, ge=0)
    """Loss-bearing tokens of the whole run; method `grpo` has `rl.steps` instead."""
    sequence_length: int = Field(default=1024, ge=16)
    """Tokens of a packed row."""
    packing: bool = True
    """Several documents in a row, which cannot see each other; false: one a row, for models that cannot be told."""
    batch_tokens: int = Field(default=8192, ge=16)
    """Tokens of one optimiser step."""
    micro_batch: int = Field(default=1, ge=1)
    """Rows of one forward pass."""
    schedule: Schedule = Field(default_factory=lambda: Schedule())
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    gradient_checkpointing: bool = False
    compile: bool = False
    """Fuse the model's operations (torch.compile): a minute or two at the start, less time a step."""
    shard: bool = False
    """Share weights and optimiser state among the processes (FSDP2) instead of keeping a copy in each."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the arithmetic; weights and optimiser state are float32. auto: bfloat16 where it is the faster one."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; default: before annealing, and at the end."""
    keep: int = Field(default=3, ge=1)
    """Newest resumable checkpoints that stay on disk; the stage-entry one and the last always do."""
    log_every: int = Field(default=5, ge=1)
    seed: int = 0
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())
    control: Control | None = None
    """The gate inside training; default: nothing is watched before the end."""
    merge: Merge | None = None
    """Merge frontier after the run; default: none."""
    report_to: tuple[str, ...] = ()
    """Trackers that hear the log besides: mlflow, wandb, trackio, tensorboard and others that transformers knows."""

    @field_validator("recipe")
    @classmethod
    def _one_folder(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"got {name!r:.80}, expected the name of one folder: letters, digits and . _ - in it")
        return name

    @model_validator(mode="after")
    def _arithmetic(self) -> Self:
        faults: list[str] = []
        names = [source.name for source in self.mix]
        if self.method != "grpo":
            faults += [] if self.mix else ["mix: holds no source; name one"]
            faults += [] if self.tokens else ["tokens: missing, or 0; say how many a run shall learn from"]
            if faults:
                raise ValueError("; ".join(faults))
        if twice := {name for name in names if names.count(name) > 1}:
            faults.append(f"mix: two sources are named {sorted(twice)[0]!r}; rename one")
        phases = ("share", "anneal_share")
        empty = [phase for phase in phases if self.mix and not any(_share(source, phase) for source in self.mix)]
        faults += [f"mix: every {phase} is 0; give a source a share" for phase in empty]
        if self.method != "grpo" and self.batch_tokens % (self.sequence_length * self.micro_batch):
            unit = self.sequence_length * self.micro_batch
            near = max(unit, round(self.batch_tokens / unit) * unit)
            faults.append(f"batch_tokens: {self.batch_tokens} is no multiple of {unit} (a micro batch); try {near}")
        # where only answers carry loss a run has more steps than its tokens say; the plan counts them
        all_carry = self.method in ("pretrain", "midtrain", "grpo")
        if all_carry and self.save_every and self.save_every > self.planned_steps:
            faults.append(
                f"save_every: {self.save_every} never comes in a run of about {self.planned_steps} steps; lower it"
            )
        if all_carry and self.planned_steps < 2:
            faults.append(
                f"tokens: {self.tokens} are one step of {self.batch_tokens}; lower batch_tokens or raise tokens"
            )
        if self.replay and not any(source.role == "replay" for source in self.mix):
            faults.append(
                "replay: its sources are not in the mix; read the recipe with load_recipe, which puts them in"
            )
        faults += self._control_faults(names)
        faults += [*method_faults(self), *reinforce_faults(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _control_faults(self, names: list[str]) -> list[str]:
        """What is watched too rarely, or with a replay that is not in the mix."""
        faults: list[str] = []
        every = {"evaluation.every": self.evaluation.every}
        if self.control is not None:
            acts = self.control.on_forgetting
            if acts in ("remix", "roll_back") and not self.replay_sources:
                faults.append(f"control.replay: {acts} raises replay; name the sources of the mix that are it")
            every |= {"control.every": self.control.every, "control.kl_every": self.control.kl_every}
            faults += [
                f"control.replay: {name!r}: no source of the mix; {did_you_mean(name, names)}"
                for name in self.control.replay_sources
                if name not in names
            ]
        faults += [
            f"{key}: {steps} never comes in a run of about {self.planned_steps} steps; lower it"
            for key, steps in every.items()
            if isinstance(steps, int) and steps > self.planned_steps
        ]
        if self.merge is not None and not (self.evaluation.suites or self.evaluation.tasks):
            faults.append("merge: averages are chosen by what they answer; name evaluation.suites")
        return faults

    @property
    def replay_sources(self) -> tuple[str, ...]:
        """Names of the sources that are replay: as `control` names them, else by their role."""
        named = self.control.replay_sources if self.control is not None else ()
        return named or tuple(source.name for source in self.mix if source.role == "replay")

    def is_evaluated(self, step: int) -> bool:
        """Whether a checkpoint of this step must be kept for its evaluation."""
        every = self.evaluation.every
        return isinstance(every, int) and step % every == 0

    @property
    def planned_steps(self) -> int:
        """Optimiser steps if every token of a row carried loss; sft needs more."""
        if self.rl is not None:
            return self.rl.steps
        return -(-self.tokens // self.batch_tokens)

    @property
    def rows_per_step(self) -> int:
        """Packed rows of one optimiser step."""
        if self.rl is not None:
            return self.rl.replay_rows
        return self.batch_tokens // self.sequence_length

    @property
    def stage(self) -> Stage:
        """Of the checkpoints that it makes."""
        return ENDS[self.method]

    def shares(self, *, annealing: bool) -> dict[str, float]:
        """Share of each source in a phase, adding up to 1."""
        raw = {source.name: _share(source, "anneal_share" if annealing else "share") for source in self.mix}
        total = sum(raw.values())
        return {name: share / total for name, share in raw.items()}


def shipped_recipes() -> dict[str, Path]:
    """Recipes to start from, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe; `overrides` are `a.b=c`, values as YAML.

    Raises:
        ConfigError: one line per fault.
    """
    data = apply_overrides(read_yaml(path), overrides)
    try:
        data = expand_replay(data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return validate(data, Recipe, where=str(path))


def _share(source: Source, phase: str) -> float:
    own = source.anneal_share if phase == "anneal_share" else source.share
    return source.share if own is None else own
