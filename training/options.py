"""Blocks of a recipe that choose a method: adapters, preferences, a hold on the start, a curriculum. Knows keys."""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from workbench.config import StrictModel

if TYPE_CHECKING:
    from training.recipe import Recipe

LORA_TOKENS_PER_WEIGHT = 2.0
"""Loss-bearing tokens for each trained weight, beyond which an adapter holds less than the data say (Thinking Machines
2025, "LoRA Without Regret": about a bit a token to learn, two bits a weight to keep it in)."""


class NewModel(StrictModel):
    """A model with random weights, and a byte-level BPE tokenizer of the run's own rows. Head and embedding are one."""

    new: Literal["llama"]
    """The architecture: RoPE, RMSNorm, SwiGLU (Touvron et al. 2023, arXiv 2302.13971)."""
    layers: int = Field(ge=1, le=200)
    width: int = Field(ge=16)
    heads: int = Field(ge=1)
    kv_heads: int | None = Field(default=None, ge=1)
    """Heads of keys and values; default: as many as `heads`."""
    feed_forward: int | None = Field(default=None, ge=16)
    """Inner width of each block; default: 8/3 of the width, as Llama has it, rounded up to a multiple of 64."""
    vocabulary: int = Field(ge=300, le=1_000_000)
    """Tokens of the tokenizer: 256 bytes, three special ones, and what is often together."""
    context: int = Field(default=2048, ge=16)
    """Longest text, in tokens."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        faults: list[str] = []
        if self.width % (2 * self.heads):
            unit = 2 * self.heads
            near = max(unit, round(self.width / unit) * unit)
            faults.append(f"width: {self.width}: no multiple of {unit} (twice the heads); try {near}")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            faults.append(f"kv_heads: {self.kv_heads}: does not divide the {self.heads} heads; leave it out")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def inner_width(self) -> int:
        """Of the feed-forward blocks."""
        return self.feed_forward or -(-8 * self.width // 3 // 64) * 64


class Lora(StrictModel):
    """Low-rank adapters on frozen weights (Hu et al. 2021), by PEFT.

    Rank 16 on every linear layer with alpha twice the rank: what QLoRA (Dettmers et al. 2023) found to match full
    fine-tuning on instructions. Pre-training wants rank 256 and more (Biderman et al. 2024, arXiv 2405.09673).
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of modules; `all-linear`: all but the head."""
    init: Literal["default", "gaussian", "orthogonal", "olora", "pissa"] = "default"
    """How adapters begin. default: as nothing. pissa, olora: as the main part of the weights."""


class Preference(StrictModel):
    """Direct preference optimisation; defaults of Rafailov et al. 2023."""

    beta: float = Field(default=0.1, gt=0)
    """How dearly distance from the start is paid."""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs that are thought to be labelled the wrong way round (sigmoid only)."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Of the chosen answers' mean −log p, added to the loss; 0.2 to 1 keep chosen answers from losing probability too
    (Pang et al. 2024, arXiv 2404.19733)."""
    replay_weight: float = Field(default=1.0, ge=0)
    """Of the mean −log p of the rows of the mix that are no preferences."""


class KeepNear(StrictModel):
    """Terms that pull towards the start. None is a guarantee: measure what was forgotten."""

    kl: float = Field(default=0.0, ge=0)
    """Weight of KL(start ‖ model), in nats a loss-bearing token."""
    l2: float = Field(default=0.0, ge=0)
    """Decay of the weights towards the start's instead of towards 0 (L2-SP, Xuhong et al. 2018), decoupled from the
    gradient as in AdamW: a step takes off learning rate × l2 of the distance."""


class Curriculum(StrictModel):
    """One source in grades, from easy to hard; a grade follows when the one before is learned."""

    source: str
    """Its name in the mix."""
    by: Literal["length", "loss", "field"] = "loss"
    """What is hard: long rows, rows that the start gives little probability, or what a column says."""
    field: str = ""
    """Column of numbers, or of names that sort from easy to hard (by: field)."""
    grades: int = Field(default=3, ge=2, le=20)
    """Equal parts of the rows; with names in a column: the names."""
    review: float = Field(default=0.2, ge=0, lt=1)
    """Share of the source's tokens that earlier grades keep."""
    held_out: int = Field(default=32, ge=4)
    """Rows of each grade that are not trained on but asked."""
    every: int = Field(default=10, ge=1)
    """Steps between looks at the held-out rows."""
    promote_below: float | None = Field(default=None, gt=0)
    """Go on to the next grade once the held-out loss of this one is at most this, in nats a token."""
    promote_gain: float = Field(default=0.01, ge=0, lt=1)
    """Go on once the loss fell by less than this share of itself since the last look (without promote_below)."""
    otherwise: Literal["go-on", "stop"] = "go-on"
    """A grade that used up its part of the tokens without being learned: go on to the next, or stop the run."""


def method_faults(recipe: "Recipe") -> list[str]:
    """What does not fit together, with what to change."""
    faults: list[str] = []
    if recipe.method != "dpo" and "dpo" in recipe.model_fields_set:
        faults.append(f"dpo: has no effect with method {recipe.method}; set method: dpo, or drop it")
    if recipe.dpo.loss == "ipo" and recipe.dpo.label_smoothing:
        faults.append("dpo.label_smoothing: has no meaning with loss ipo; set it to 0, or loss: sigmoid")
    if recipe.keep_near.kl and recipe.method == "dpo":
        faults.append("keep_near.kl: method dpo has its own hold on the start; raise dpo.beta instead")
    if recipe.keep_near.l2 and recipe.lora:
        faults.append("keep_near.l2: adapters begin at the start itself; use weight_decay, which pulls them back to it")
    if recipe.keep_near.l2 and recipe.shard:
        faults.append("keep_near.l2: is not there with shard: true yet; use keep_near.kl, or shard: false")
    if recipe.lora and recipe.shard and recipe.lora.init in ("olora", "pissa"):
        faults.append(
            f"lora.init: {recipe.lora.init} changes the frozen weights, which shard: true forbids; use default"
        )
    faults += [*_new_model_faults(recipe), *_curriculum_faults(recipe)]
    weighed = [source.name for source in recipe.mix if source.weight_column and recipe.method == "dpo"]
    return faults + [f"mix: source {name!r}: weight_column: has no effect on preferences; drop it" for name in weighed]


def _new_model_faults(recipe: "Recipe") -> list[str]:
    """What random weights are no start for."""
    if not isinstance(recipe.start, NewModel):
        return []
    faults: list[str] = []
    if recipe.method in ("dpo", "grpo"):
        faults.append(f"start: method {recipe.method} needs a model that answers; train a new one by pretrain and sft")
    if recipe.lora:
        faults.append("lora: adapters on random weights learn next to nothing; drop it")
    if recipe.keep_near.kl or recipe.keep_near.l2:
        faults.append("keep_near: a new model knows nothing to stay near to; drop it")
    if recipe.merge:
        faults.append("merge: an average with random weights is no model; drop it")
    if recipe.curriculum and recipe.curriculum.by == "loss":
        faults.append("curriculum.by: to a new model every row is as hard; use length or field")
    if recipe.start.context < recipe.sequence_length:
        faults.append(
            f"start.context: {recipe.start.context} is shorter than a row of {recipe.sequence_length}; raise it"
        )
    return faults


def _curriculum_faults(recipe: "Recipe") -> list[str]:
    faults: list[str] = []
    if (graded := recipe.curriculum) is not None:
        names = [source.name for source in recipe.mix]
        if graded.source not in names:
            faults.append(f"curriculum.source: {graded.source!r} is no source of the mix: {', '.join(names)}")
        if (graded.by == "field") != bool(graded.field):
            faults.append("curriculum.field: names the column with by: field, and is left out otherwise")
    return faults
