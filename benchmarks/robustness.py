"""What several prompts say of one checkpoint: how far its score hangs on them, and which questions are fragile.

A question is fragile if it is right in some variants and wrong in others. Knows item scores; knows no model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.items import LeafItems
from benchmarks.variants import CHOICES_ONLY, split_variant
from workbench.prompts import Spread, prompt_spread
from workbench.records import Estimate, ItemScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Fragile:
    """A question whose answer hangs on the prompt."""

    task: str
    """The leaf task that the question is of."""
    doc_id: int
    values: Mapping[int, float]
    """Variant -> the headline metric's value."""
    answers: Mapping[int, str]
    """Variant -> what the model chose."""
    target: str
    prompt: str
    """As variant 0 asks it."""

    @property
    def right(self) -> int:
        """In how many variants it is right."""
        return sum(value >= 1.0 for value in self.values.values())


def share_groups(items: Mapping[str, LeafItems]) -> dict[str, LeafItems]:
    """Give each item of a variant the group of the same question in variant 0, so that a question is one cluster."""
    found = dict(items)
    for leaf, own in items.items():
        base, number = split_variant(leaf)
        if number and base in items:
            group = {score.doc_id: score.group for score in items[base].scores}
            scores = [replace(score, group=group.get(score.doc_id, score.group)) for score in own.scores]
            found[leaf] = replace(own, scores=scores)
    return found


def by_question(items: Sequence[ItemScore], metric: str) -> dict[tuple[str, int], dict[int, ItemScore]]:
    """Items that have the metric: (leaf task, document) -> variant -> item."""
    found: dict[tuple[str, int], dict[int, ItemScore]] = {}
    for item in items:
        base, number = split_variant(item.task)
        if metric in item.metrics:
            found.setdefault((base, item.doc_id), {})[number] = item
    return found


def find_fragile(items: Sequence[ItemScore], metric: str) -> list[Fragile]:
    """Questions that are right in some variants and wrong in others, the most divided first."""
    found: list[Fragile] = []
    for (task, doc_id), asked in by_question(items, metric).items():
        values = {number: asked[number].metrics[metric] for number in sorted(asked)}
        # A tie shares the credit and is neither.
        if 1.0 not in values.values() or 0.0 not in values.values():
            continue
        first = asked[min(asked)]
        answers = {number: asked[number].answer for number in values}
        found.append(
            Fragile(task=task, doc_id=doc_id, values=values, answers=answers, target=first.target, prompt=first.prompt)
        )
    return sorted(found, key=lambda one: (abs(2 * one.right - len(one.values)), one.task, one.doc_id))


def told_over_prompts(before: Mapping[int, float], after: Mapping[int, float]) -> str | None:
    """What becomes of one question over its prompts, in words; values by prompt, None with fewer than two.

    >>> told_over_prompts({0: 1.0, 1: 1.0, 2: 0.0}, {0: 0.0, 1: 1.0, 2: 0.0})
    'fragile: right in 2 of 3 prompts before, in 1 of 3 now'
    """
    if min(len(before), len(after)) < 2:
        return None
    rights = [sum(value >= 1.0 for value in side.values()) for side in (before, after)]
    mixed = any(0 < right < len(side) for right, side in zip(rights, (before, after), strict=True))
    how = "fragile" if mixed else "alike in all prompts"
    return f"{how}: right in {rights[0]} of {len(before)} prompts before, in {rights[1]} of {len(after)} now"


def spread_of(items: Sequence[ItemScore], metric: str) -> Spread | None:
    """How the means of the variants differ; None where fewer than two have the metric."""
    known = [item for item in items if metric in item.metrics]
    numbers = [split_variant(item.task)[1] for item in known]
    if len(set(numbers)) < 2:
        return None
    ordered = sorted(range(len(known)), key=lambda place: numbers[place])
    values = [known[place].metrics[metric] for place in ordered]
    return prompt_spread(values, [numbers[place] for place in ordered], [known[place].group for place in ordered])


def prompt_notes(leaves: Mapping[str, LeafItems], metric: str) -> list[str]:
    """What a reader must know of a result over prompts: the score in each, how far they differ, fragile questions."""
    items = [score for leaf in leaves.values() for score in leaf.scores]
    spread = spread_of(items, metric)
    if spread is None:
        return []
    by_prompt = " ".join(f"{mean:.1%}" for mean in spread.means)
    fragile, questions = count_fragile(items, metric)
    return [
        f"{metric} by prompt {by_prompt}; standard deviation between prompts {100 * spread.sd:.1f} points",
        f"{fragile:,} of {questions:,} questions ({fragile / questions:.1%}) are fragile: right in some prompts and "
        "wrong in others",
    ]


def count_fragile(items: Sequence[ItemScore], metric: str) -> tuple[int, int]:
    """Fragile questions, and all."""
    return len(find_fragile(items, metric)), len(by_question(items, metric))


def guess_note(task: str, estimate: Estimate, chance: float | None) -> str:
    """What the score without the questions says of the set."""
    name = task.removesuffix(CHOICES_ONLY)
    if chance is None or estimate.low is None:
        return f"{name} without its questions: {estimate.value:.1%}"
    if estimate.low > chance:
        return (
            f"{name} can be guessed in part: {estimate.value:.1%} right from the options alone, "
            f"where chance gives {chance:.1%}"
        )
    return f"{name} cannot be told from guessing without its questions ({estimate.value:.1%}, chance {chance:.1%})"
