"""From what people decided to what a model learns and is tested by. Knows labels and a policy; trains nothing.

    found = build_feedback(settled, policy, seed=0)
    found.train          # SFT rows: prompt, answer, weight; a soft label is two rows, a violation has a twin
    found.preferences    # what people said against what the model had said
    found.held_out       # rows of the exploration stream that are never trained on: half calibrate, half test

Half of the clusters of the exploration stream (drawn uniformly, so a fair sample of everything) are set aside by a
hash, for ever: no later label, of whatever stratum, brings one of them into training. Labels that were taken back,
labels of a rule that reads otherwise now, gold, and copies of a near-duplicate's label stay out, and are counted by
reason.

The twin of a violation: the same text under a rule that allows what the first one forbids, with the opposite answer.
Without it a model learns which texts are bad; with it, to read the rule.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from safety.judges.base import Passage
from safety.prompt import PROMPT_VERSION, Layout, moderation_prompt, verdict_word
from safety.resolved import Category, ResolvedPolicy
from workbench.store.identity import canonical_json

FEEDBACK_VERSION = "feedback/1"
MAX_WEIGHT = 10.0
"""Of 1/pi: an item that was drawn with probability 0.01 counts as ten, not as a hundred."""
HELD_SHARE = 0.5
OTHER_RULES = 2
"""Rules that an item was not found to violate, and that it is a `No` for, where all rules were open."""
Split = Literal["train", "calibration", "test"]
_ALLOWING = (
    "This place permits it, so a text that only falls under it does not violate the rule. It means: {definition}",
    "{definition} Here that is welcome: a text of this kind does not violate the rule.",
    "Allowed in this community, whatever other places say of it. ({definition}) No text violates the rule by that.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """An item that people have decided."""

    id: str
    text: str
    category: str
    """The rule that was in question; empty: all of the policy's."""
    decision: str
    """`violates` or `allowed`."""
    categories: tuple[str, ...] = ()
    """The rules that it violates."""
    soft: float = 1.0
    """Share of people who found a violation, in 0..1."""
    decided_by: str = "agreement"
    rule_digests: Mapping[str, str] = field(default_factory=dict)
    """Category -> digest of the rule text that people read; see `rule_digest`."""
    prompt: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    stratum: str = "priority"
    pi: float | None = None
    probability: float | None = None
    """What the model said of `category`."""
    model: str = ""
    policy_hash: str = ""

    @property
    def passage(self) -> Passage:
        """As a judge is shown it."""
        return Passage(text=self.text, prompt=self.prompt, context=dict(self.context))

    @property
    def group(self) -> str:
        """What must stand on one side of a split: its near-duplicates, else the same words."""
        return self.cluster or hashlib.sha256(" ".join(self.text.lower().split()).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """An answer that a model is calibrated or tested by."""

    item: Settled
    category: str
    violates: bool
    split: Split

    def document(self) -> dict[str, Any]:
        """As a line of a file; the text is in it, under the same conditions as in the queue."""
        own = self.item
        row = {"id": own.id, "text": own.text, "category": self.category, "violates": self.violates}
        row |= {"split": self.split, "pi": own.pi, "group": own.group, "probability": own.probability}
        return row | {"model": own.model, "policy_hash": own.policy_hash}


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """What labels are good for."""

    train: tuple[dict[str, Any], ...]
    preferences: tuple[dict[str, Any], ...]
    held_out: tuple[HeldOut, ...]
    left_out: Mapping[str, int]
    """Reason -> items."""
    items: int
    """Items that train."""

    @property
    def rewards(self) -> list[dict[str, Any]]:
        """Prompts with the one right word, for a reward that compares: rows whose label is hard and no twin."""
        return [
            {"prompt": row["prompt"], "answer": row["completion"]}
            for row in self.train
            if not row["twin"] and not row["soft"]
        ]

    def manifest(self, policy: ResolvedPolicy, *, as_of: str) -> dict[str, Any]:
        """What went into the files, with a digest of each row, so that an export can be repeated and compared."""
        splits = Counter(row.split for row in self.held_out)
        return {
            "schema_version": 1,
            "feedback": FEEDBACK_VERSION,
            "prompt_version": PROMPT_VERSION,
            "policy": policy.name,
            "policy_hash": policy.hash,
            "as_of": as_of,
            "items": self.items,
            "rows": {"train": len(self.train), "preferences": len(self.preferences), **splits},
            "left_out": dict(self.left_out),
            "sha256": {
                "train": [_digest(row) for row in self.train],
                "held_out": [_digest(row.document()) for row in self.held_out],
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterRule:
    """A rule that allows what another forbids."""

    title: str
    definition: str


def build_feedback(
    settled: Iterable[Settled],
    policy: ResolvedPolicy,
    *,
    seed: int = 0,
    layout: Layout = "rules_first",
    twins: bool = True,
) -> Feedback:
    """Rows of every kind from decided items; the same items in any order give the same rows.

    Args:
        seed: of the split that is for ever; another one would let held-out items into training.
        twins: each clear violation also under a counter-rule.
    """
    items = sorted(settled, key=lambda one: one.id)
    held: dict[str, Split] = {one.group: side for one in items if (side := held_side(one, seed=seed)) is not None}
    left_out: Counter[str] = Counter()
    train: list[dict[str, Any]] = []
    preferences: list[dict[str, Any]] = []
    kept: list[HeldOut] = []
    used = 0
    for item in items:
        answers, why = _answers(item, policy, seed=seed)
        side = held.get(item.group)
        if not why and side is not None and item.stratum != "exploration":
            why = "its cluster is held out"
        if why:
            left_out[why] += 1
            continue
        if side is not None:
            kept += [HeldOut(item=item, category=name, violates=bad, split=side) for name, bad in answers]
            continue
        used += 1
        for name, bad in answers:
            rule = policy.categories[name]
            train += _rows(item, rule, bad, layout=layout, twins=twins, seed=seed)
            preferences += _preference(item, rule, bad, layout=layout)
    return Feedback(
        train=tuple(train),
        preferences=tuple(preferences),
        held_out=tuple(kept),
        left_out=dict(sorted(left_out.items())),
        items=used,
    )


def held_side(item: Settled, *, seed: int) -> Split | None:
    """Whether an item of the exploration stream is set aside for ever, and for what; None: it may train."""
    if item.stratum != "exploration":
        return None
    draw = _draw(seed, "held", item.group)
    if draw >= HELD_SHARE:
        return None
    return "calibration" if draw < HELD_SHARE / 2 else "test"


def rule_digest(*, definition: str, not_this: Sequence[str], violates: Sequence[str], allowed: Sequence[str]) -> str:
    """Of what people read of a rule: a label under other words is not a label of this rule."""
    shown = [definition, list(not_this), list(violates), list(allowed)]
    return hashlib.sha256(canonical_json(shown).encode()).hexdigest()[:16]


def counter_rule(rule: Category, *, key: str) -> CounterRule:
    """A rule that allows what this one forbids, in one of a few wordings; the same wording for the same key."""
    words = _ALLOWING[int(_draw(0, "twin", key) * len(_ALLOWING))]
    return CounterRule(title=rule.title, definition=words.format(title=rule.title, definition=rule.definition))


def _answers(item: Settled, policy: ResolvedPolicy, *, seed: int) -> tuple[list[tuple[str, bool]], str]:
    """(rule, violates) pairs that a decision says, or why it says none."""
    if item.stratum == "gold":
        return [], "gold"
    if item.decided_by == "cluster":
        return [], "copy of a near-duplicate's label"
    if not item.text.strip():
        return [], "its text was not kept"
    if item.decision not in ("violates", "allowed"):
        return [], f"decided {item.decision}"
    if item.category:
        said = [(item.category, item.decision == "violates" and item.category in (item.categories or (item.category,)))]
        said += [(name, True) for name in item.categories if name != item.category]
    else:
        said = [(name, True) for name in item.categories]
        others = sorted(set(policy.categories) - set(item.categories), key=lambda name: _draw(seed, item.id, name))
        said += [(name, False) for name in others[:OTHER_RULES]]
    known = [(name, bad) for name, bad in said if name in policy.categories]
    if not known:
        return [], "no rule of this policy"
    current = [(name, bad) for name, bad in known if _reads_the_same(item, policy.categories[name])]
    return (current, "") if current else ([], "the rule reads otherwise now")


def _reads_the_same(item: Settled, rule: Category) -> bool:
    read = item.rule_digests.get(rule.id)
    now = rule_digest(definition=rule.definition, not_this=rule.not_this, violates=rule.violates, allowed=rule.allowed)
    return read is None or read == now


def _rows(
    item: Settled, rule: Category, bad: bool, *, layout: Layout, twins: bool, seed: int
) -> Iterator[dict[str, Any]]:
    """A hard label is one row, a soft one two, with weights that add up to that of the item."""
    weight = min(1.0 / item.pi, MAX_WEIGHT) if item.pi else 1.0
    prompt = moderation_prompt(item.passage, rule, layout=layout)
    share = item.soft if rule.id == item.category or (bad and not item.category) else float(bad)
    for answer, part in ((True, share), (False, 1 - share)):
        if part > 0:
            yield _row(item, rule.id, prompt, answer, weight * part, twin=False, soft=share not in (0.0, 1.0))
    # Of a rule that people were of two minds about, the opposite says nothing clear; and what violates nothing would
    # be answered No under both, which teaches no reading.
    if twins and bad and share == 1.0:
        other = moderation_prompt(item.passage, counter_rule(rule, key=f"{seed}{item.id}{rule.id}"), layout=layout)
        yield _row(item, rule.id, other, False, weight, twin=True, soft=False)


def _row(
    item: Settled, category: str, prompt: str, violates: bool, weight: float, *, twin: bool, soft: bool
) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "completion": verdict_word(violates),
        "weight": round(weight, 6),
        "item": item.id,
        "category": category,
        "twin": twin,
        "soft": soft,
        "difficulty": 3 if twin else 2 if soft else 1 if item.decided_by == "adjudicator" else 0,
    }


def _preference(item: Settled, rule: Category, bad: bool, *, layout: Layout) -> Iterator[dict[str, Any]]:
    """Where the model had said the opposite: the person's word against the model's."""
    if item.probability is None or rule.id != item.category or (item.probability >= 0.5) == bad:
        return
    yield {
        "prompt": moderation_prompt(item.passage, rule, layout=layout),
        "chosen": verdict_word(bad),
        "rejected": verdict_word(not bad),
        "item": item.id,
        "category": rule.id,
    }


def _draw(seed: int, *parts: object) -> float:
    digest = hashlib.sha256("\0".join(str(part) for part in (seed, *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _digest(row: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
