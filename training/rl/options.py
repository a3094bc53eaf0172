"""Blocks of a recipe for reinforcement learning: prompts, rewards, sampling, the loss. Knows keys and arithmetic."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from workbench.config import StrictModel

if TYPE_CHECKING:
    from training.recipe import Recipe

PROMPTS = "prompts"
"""Name under which a run's prompts stand among its sources."""


class RewardPart(StrictModel):
    """One reward of a recipe; several are added up by their weights, and each is logged on its own."""

    kind: str
    """A registered reward: `workbench reward ls`."""
    name: str = ""
    """What it is called in logs; default: its kind."""
    weight: float = 1.0
    """Below 0: what it scores is unwanted."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the kind needs, such as a pattern or a URL."""

    @property
    def label(self) -> str:
        """Its name in logs."""
        return self.name or self.kind


class Orchestrated(StrictModel):
    """Episodes are driven by another process, which claims them over HTTP: see docs/reinforcement.md."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535)
    """0: any free one, which is told when the run begins."""
    key_env: str = "WORKBENCH_ROLLOUT_KEY"
    """Environment variable with the key that lets a process claim episodes; without it one is made and told."""
    deadline_s: float = Field(default=300.0, gt=0)
    """An episode that is not finished so long after it was claimed is lost."""
    attempts: int = Field(default=2, ge=1)
    """Times that an episode is given out, until it counts as dropped."""
    patience_s: float = Field(default=600.0, gt=0)
    """How long a step waits while nobody claims anything; then the run stops, to be gone on with later."""
    max_open: int = Field(default=64, ge=1)
    """Episodes that are given out at the same time."""
    max_turns: int = Field(default=64, ge=1)
    """Answers of one episode."""


class Reinforce(StrictModel):
    """Group-relative policy optimisation (GRPO; Shao et al. 2024, arXiv 2402.03300)."""

    prompts: str
    """File of rows with a prompt, relative to the recipe, or `hub:OWNER/NAME@SPLIT`; rewards see all columns."""
    column: str = "prompt"
    """Column with the prompt: text, or a list of messages that ends with a user's."""
    system: str = ""
    """System prompt that is put before each."""
    steps: int = Field(ge=2)
    prompts_per_step: int = Field(default=8, ge=1)
    group_size: int = Field(default=8, ge=2)
    """Episodes of each prompt, which are judged against one another."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps that each set of episodes serves; above 1 the clipping matters."""
    max_tokens: int = Field(default=256, ge=1)
    """Of one answer."""
    max_episode_tokens: int | None = Field(default=None, ge=2)
    """Of a whole episode, with what it was told; default: the model's window."""
    temperature: float = Field(default=1.0, gt=0)
    rewards: tuple[RewardPart, ...] = ()
    on_failure: Literal["drop", "stop"] = "drop"
    """What becomes of an episode whose reward failed; it never counts as 0."""
    max_dropped: float = Field(default=0.5, ge=0, le=1)
    """Share of a step's episodes above which the run stops, to be gone on with when the cause is mended."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """Mean over tokens of each answer, then answers (grpo); over all tokens of the step (dapo; Yu et al. 2025,
    arXiv 2503.14476); over answers times `max_tokens`, without a bias by length (dr_grpo; Liu et al. 2025, arXiv
    2503.20783)."""
    normalise: Literal["group", "batch", "none"] = "group"
    """What a reward's distance from its group's mean is divided by: the group's spread, the batch's, or nothing, as in
    Dr. GRPO."""
    kl: float = Field(default=0.04, ge=0)
    """Weight of the divergence from the start (k3 estimate); 0.04 as in the paper, 0 as many do since."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.2, gt=0)
    mask_truncated: bool = True
    """Answers that were cut off at `max_tokens` are scored but not learned from."""
    replay_rows: int = Field(default=0, ge=0)
    """Packed rows of the recipe's mix in each step, as supervised fine-tuning against forgetting."""
    replay_weight: float = Field(default=1.0, gt=0)
    """Of their mean −log p."""
    environment: str = ""
    """A registered environment that answers the policy, for several turns; default: one answer a prompt."""
    environment_options: dict[str, Any] = Field(default_factory=dict)
    include: tuple[str, ...] = ()
    """Python files, relative to the recipe, that register rewards or environments of your own."""
    orchestrator: Orchestrated | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults: list[str] = []
        labels = [part.label for part in self.rewards]
        if twice := {label for label in labels if labels.count(label) > 1}:
            faults.append(f"rewards: two are called {sorted(twice)[0]!r}; give one a name of its own")
        if self.environment and self.orchestrator is not None:
            faults.append("environment: an orchestrator drives the episodes; drop one of the two")
        if not self.rewards and not self.environment and self.orchestrator is None:
            faults.append("rewards: nothing says what is good; name one (workbench reward ls)")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def episodes(self) -> int:
        """Of one generation."""
        return self.prompts_per_step * self.group_size

    def passes(self, micro_batch: int) -> int:
        """Forward passes over the episodes of a step."""
        return -(-self.episodes // micro_batch)

    def generation_of(self, step: int) -> int:
        """Which set of episodes, from 0, a step (from 1) learns from."""
        return (step - 1) // self.updates


def reinforce_faults(recipe: "Recipe") -> list[str]:
    """What does not fit together, with what to change."""
    rl = recipe.rl
    if recipe.method != "grpo":
        return [] if rl is None else [f"rl: has no effect with method {recipe.method}; set method: grpo, or drop it"]
    if rl is None:
        return ["rl: method grpo needs it: prompts, rewards and steps; workbench recipes rl-grpo prints one"]
    control = recipe.control
    replay = "names no replay" if not recipe.mix else "has no effect with rl.replay_rows: 0"
    rules = {
        f"mix: {replay}; give both, or neither": bool(rl.replay_rows) != bool(recipe.mix),
        f"mix: a source cannot be named {PROMPTS!r} with method grpo; rename it": any(
            source.name == PROMPTS for source in recipe.mix
        ),
        "control.on_forgetting: method grpo can warn or stop, it has no shares to change; set stop": control is not None
        and control.on_forgetting in ("remix", "roll_back"),
        "control.kl_every: method grpo logs its divergence from the start itself; drop it": control is not None
        and control.kl_every is not None,
        "keep_near.kl: method grpo has its own hold on the start; raise rl.kl instead": bool(recipe.keep_near.kl),
        "curriculum: is not there with method grpo; order the prompts by hand": recipe.curriculum is not None,
        "shard: is not there with method grpo yet; set shard: false": recipe.shard,
        "replay: by category is not there with method grpo yet; name its sources in mix": recipe.replay is not None,
    }
    return [fault for fault, holds in rules.items() if holds]
