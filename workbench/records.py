"""The frozen data types that cross a folder's border. Knows no disk, no model, no library of statistics.

All are immutable, keyword-only and made of plain Python values, so that they can be written to JSON and compared.
Digests are lower-case SHA-256 hex strings. Times are UTC, ISO 8601.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["pretrain", "midtrain", "posttrain"]
Role = Literal["domain", "general", "instruction", "safety"]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Weights that can be evaluated, with where they came from."""

    name: str
    """What people call it: hub id, folder name or an alias; not unique."""
    source: str
    """Hub id, absolute folder, absolute GGUF path, or an endpoint's URL with `#model`."""
    kind: Literal["hub", "folder", "gguf", "endpoint"]
    fingerprint: str
    """SHA-256 over the weights' bytes (safetensors shards in name order, or the GGUF file); the ledger's key."""
    tokenizer: str
    """SHA-256 over the tokenizer's files; empty for an endpoint without a local tokenizer."""
    stage: Stage | None = None
    parent: str | None = None
    """Fingerprint of the checkpoint that this one was made from."""
    run: str | None = None
    """Id of the training run that made it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number with its uncertainty. Never made from no data: `None` stands for that, with a reason elsewhere."""

    metric: str
    value: float
    low: float | None
    """Lower end of the interval; None where no interval is known (`method` says why)."""
    high: float | None
    n: int
    """Items behind the value."""
    clusters: int | None = None
    """Independent groups behind the value, where items share a passage or template."""
    method: str
    """How the interval was made, e.g. `wilson`, `cluster-t`, `bootstrap`."""
    level: float = 0.95
    direction: Direction = "higher"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScore:
    """One checkpoint on one question. A row of a report's item file."""

    task: str
    item: str
    """SHA-256 of document, prompt, choices and target: pairs items across reports."""
    doc_id: int
    group: str
    """Cluster: items that share a passage, template or conversation have the same group; else the item itself."""
    metrics: Mapping[str, float]
    """Per-item value of each metric, normally in [0, 1]; ties in the argmax share the credit."""
    logprobs: tuple[float, ...] = ()
    """Summed log-probability (nats) of each continuation, float32 arithmetic."""
    greedy: tuple[bool, ...] = ()
    answer: str = ""
    """What the model chose or wrote."""
    target: str = ""
    prompt: str = ""
    """The context as the model saw it."""
    truncated: int = 0
    """Context tokens that were cut because the prompt was longer than the model's window; 0 nearly always."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """One task of a report."""

    task: str
    role: Role
    margin: float
    """Loss that still counts as kept, in the metric's own unit (0.02 = 2 points of accuracy)."""
    required: bool
    metric: str
    """The headline metric, one of `estimates`."""
    estimates: tuple[Estimate, ...]
    n: int
    num_fewshot: int
    chance: float | None = None
    """Score of a guesser on the headline metric, where it is known."""
    version: str = ""
    notes: tuple[str, ...] = ()
    """What a reader must know: cut prompts, ties, a fallback."""
    subtasks: tuple[str, ...] = ()
    """Where the task is a group (57 subjects): the names that its items bear in `ItemScore.task`; else empty."""
    prompts: int | None = None
    """Where `subtasks` are the same questions in other prompts: how many prompts; each question is a cluster."""
    is_probe: bool = False
    """It looks at the questions and not at the checkpoint (options without their question): never compared or gated."""

    @property
    def headline(self) -> Estimate:
        """The estimate of the headline metric."""
        return next(e for e in self.estimates if e.metric == self.metric)


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One checkpoint on a list of tasks. Its id is a content hash: the same numbers give the same id."""

    id: str
    checkpoint: Checkpoint
    suites: tuple[str, ...]
    results: tuple[TaskResult, ...]
    settings: Mapping[str, Any]
    """Everything that shapes the numbers: engine, scorer version, dtype, shots, limit, seed, chat template."""
    created_at: str
    environment: Mapping[str, str]
    """Versions and machine; not part of the id."""
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds, tokens, share of the physical limit; not part of the id."""


Verdict = Literal["improved", "kept", "forgot", "inconclusive", "uninformative", "incomparable"]
"""What a comparison says of one task.

`kept`: a loss beyond the margin is excluded. `improved`: kept, and a gain is certain. `forgot`: the whole interval lies
beyond the margin. `inconclusive`: the interval straddles it, more items would decide. `uninformative`: both models
guess, so nothing can be seen. `incomparable`: the two were not asked the same questions in the same way.
"""
Outcome = Literal["pass", "hold", "fail"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskComparison:
    """One task of two reports, paired by item. Losses are negative whatever the metric's direction.

    Where `verdict` is `incomparable` all numbers are None: nothing was tested.
    """

    task: str
    role: Role
    required: bool
    metric: str
    direction: Direction
    margin: float
    """Loss that still counts as kept, in the metric's own unit."""
    verdict: Verdict
    reason: str
    """One sentence: why this verdict."""
    difference: Estimate | None = None
    """Candidate less baseline in the metric's own unit, turned so that a loss is negative (for direction `lower`:
    baseline less candidate). Its interval is two-sided at level 1 − 2 alpha: `low` is the one-sided bound that the
    margin is tested against."""
    baseline: float | None = None
    """Value over the paired items."""
    candidate: float | None = None
    n: int = 0
    """Items that both have."""
    missing: int = 0
    """Items that only one of the two has."""
    gained: int | None = None
    """Items that became right; None where items are not right or wrong."""
    lost: int | None = None
    """Items that became wrong."""
    items_needed: int | None = None
    """Of an inconclusive task: items in all at which a test would decide, at the differences seen so far and 80% power;
    None where no number of items would."""
    small_loss: bool = False
    """Kept, and a loss within the margin is certain."""
    p_loss: float | None = None
    """One-sided p-value of "nothing was lost"."""
    p_loss_holm: float | None = None
    """The same, corrected over the tasks of this comparison (Holm)."""
    noise: float | None = None
    """A/A noise floor: the loss (95%) that other tiling or arithmetic alone can show with these weights and this many
    items; None where it was not measured."""
    chance: float | None = None
    clusters: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether a loss is certain at 5% over all tasks of the comparison; says nothing about its size."""
        return self.p_loss_holm is not None and self.p_loss_holm <= 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two reports, task by task. Its id is a content hash."""

    id: str
    baseline: str
    """Id of the baseline's report."""
    candidate: str
    baseline_checkpoint: Checkpoint
    candidate_checkpoint: Checkpoint
    tasks: tuple[TaskComparison, ...]
    alpha: float = 0.05
    part: Literal["all", "select", "certify"] = "all"
    """Which items: all, or one of the two fixed halves."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    created_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleResult:
    """What one rule of a gate says of one task (or slice of it)."""

    rule: str
    outcome: Outcome
    required: bool
    """False: advisory; it never changes the decision."""
    reason: str
    task: str
    verdict: Verdict | None = None
    """Of a rule about forgetting."""
    estimate: Estimate | None = None
    """What was held against the limit."""
    limit: float | None = None
    """The limit, or the margin of a rule about forgetting."""
    items_needed: int | None = None
    overridden: str | None = None
    """Who overrode a failed or holding rule and why; the outcome itself stays as it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """May this checkpoint ship? `pass` only if every required rule passes (or is overridden by a named person)."""

    id: str
    outcome: Outcome
    reason: str
    """One sentence."""
    checkpoint: Checkpoint
    baseline: Checkpoint | None
    rules: tuple[RuleResult, ...]
    evidence: Mapping[str, str]
    """What it rests on: ids of reports and comparison, digests of weights and items."""
    created_at: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """One item that the candidate answers otherwise than the baseline: right before and wrong now, or the reverse."""

    task: str
    item: str
    """Hash of the item, as in `ItemScore.item`."""
    kind: Literal["lost", "gained"]
    prompt: str
    target: str
    baseline_answer: str
    candidate_answer: str
    metric: str = ""
    """The metric that changed."""
    choices: tuple[str, ...] = ()
    """Text of each continuation, in the order of the log-probabilities; empty where nothing was chosen from."""
    baseline_logprobs: tuple[float, ...] = ()
    """Summed log-probability (nats) of each continuation."""
    candidate_logprobs: tuple[float, ...] = ()
    baseline_value: float | None = None
    """The metric's value for this item."""
    candidate_value: float | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know, e.g. `cloze lost too: knowledge, not format`."""


Surface = Literal["user_input", "model_output", "content"]
"""Where a text stands: what a user asks, what the model answers, what people post."""
SURFACES: tuple[Surface, ...] = ("user_input", "model_output", "content")
Action = Literal["allow", "log", "review", "rewrite", "hold", "block"]
"""What is done with a text. `review`: served, and a person looks later. `rewrite`: served otherwise than written.
`hold`: not served until a person decides."""
ACTIONS: tuple[Action, ...] = ("allow", "log", "review", "rewrite", "hold", "block")
"""From the most lenient to the strictest."""
Severity = Literal["low", "medium", "high", "critical"]
JudgementValue = Literal["violates", "allowed", "uncertain", "unscorable"]
"""What a judge says of a text and a category. `unscorable` (a time-out, a broken judge, label tokens without
probability) is never "safe" and counts against both sides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """One judge on one text and one category of a policy."""

    category: str
    """Id of the category; a child's is dotted: `cyber_offense.exploit_dev`."""
    value: JudgementValue
    judge: str
    """Id of the judge, as the policy names it."""
    probability: float | None = None
    """That the text violates the category, in [0, 1]; None where the judge has no number, always if unscorable."""
    uncertainty: float | None = None
    """Of the probability, in [0, 1]; what it is (entropy, disagreement) is the judge's to say."""
    evidence: str = ""
    """What was found: a matched rule, a reason. Never parsed."""
    spans: tuple[tuple[int, int], ...] = ()
    """Character ranges of the text that a `rewrite: mask` hides."""
    policy_hash: str = ""
    category_hash: str = ""
    """Digest of the category's definition and examples: a changed one makes labels stale."""
    mass: float | None = None
    """Probability that the judge's answer is one of the words it may answer with; None of a judge without words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryOutcome:
    """What a policy does about one category of a text."""

    category: str
    value: JudgementValue
    action: Action
    reason: str
    probability: float | None = None
    judge: str = ""
    set_by: str = ""
    """File and line that set the action."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardDecision:
    """What a policy does with a text: the strictest action that any category asks for."""

    action: Action
    category: str | None
    """The category that asked for it; None where nothing was found."""
    reason: str
    """One sentence; holds nothing of the text."""
    policy_hash: str
    surface: Surface = "model_output"
    outcomes: tuple[CategoryOutcome, ...] = ()
    """Every category that was judged, the strictest first."""
