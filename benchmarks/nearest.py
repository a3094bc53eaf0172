"""Which rows of the training data lie nearest to the lost items? Knows texts and items; knows no run and no file.

Nearness is the cosine of TF-IDF vectors of question and right answer against passages of the rows (150 words, so that a
book in one row does not drown its pages). Near rows are where to look, not a proof: whether lost items lie nearer to
the training data than kept ones is tested beside it (Mann-Whitney), and without that they are told as mere neighbours.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.questions_asked import asked_text
from benchmarks.side import Side
from benchmarks.why import Reasons, lost_items
from workbench.records import Comparison, ItemScore

PASSAGE = 150
"""Words of a passage."""
EXCERPT = 240
"""Characters shown of one."""
MOST_ITEMS = 500
"""Items of a kind that the test looks at."""
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRow:
    """A row of training data that a checkpoint saw."""

    source: str
    """Its name in the recipe."""
    file: str
    row: int
    """From 1, as it stands in the file."""
    text: str
    step: int | None = None
    """At which it was seen first."""
    times: int | None = None
    """How often; None where it is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NearRow:
    """A training row near a lost item."""

    task: str
    topic: str
    """The item's topic, where it stands out; else empty."""
    item: str
    question: str
    answer: str
    """The right one."""
    source: str
    file: str
    row: int
    step: int | None
    times: int | None
    similarity: float
    """Cosine, 0 to 1."""
    excerpt: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """What the training data has to do with the lost items."""

    rows: tuple[NearRow, ...]
    """By item, nearest first."""
    lost: float | None
    """Median similarity of lost items to their nearest row; None: none was lost."""
    kept: float | None
    """The same of items that were right before and still are."""
    p: float | None
    """Of "lost items lie no nearer" (Mann-Whitney, one-sided)."""
    passages: int
    notes: tuple[str, ...] = ()
    """What of the training data could not be read."""

    @property
    def told(self) -> str:
        """In a sentence."""
        if self.lost is None:
            return "nothing was lost, so there is nothing to look for in the training data"
        if self.kept is None or self.p is None:
            return f"similarity of lost items to their nearest training row: {self.lost:.2f} (median)"
        nearer = "nearer" if self.p <= 0.05 else "no nearer"
        return (
            f"lost items lie {nearer} to the training data than items that stayed right: median similarity "
            f"{self.lost:.2f} against {self.kept:.2f}, p = {self.p:.2g}"
        )


def find_nearest(
    comparison: Comparison,
    reasons: Reasons,
    baseline: Side,
    candidate: Side,
    rows: Sequence[TrainingRow],
    *,
    tasks: Sequence[str] = (),
    items: int = 5,
    each: int = 2,
    notes: Sequence[str] = (),
) -> Nearest:
    """The nearest rows of up to `items` lost items, `each` of them: of the topics that stand out first, else of all."""
    lost, kept = _lost_and_kept(comparison, baseline, candidate, tasks)
    passages = [(row, text) for row in rows for text in _passages(row.text)]
    if not lost or not passages:
        return Nearest(rows=(), lost=None, kept=None, p=None, passages=len(passages), notes=tuple(notes))
    chosen = _choose(lost, reasons, items)
    rng = np.random.default_rng(_SEED)
    some_lost, some_kept = _some(lost, rng), _some(kept, rng)
    ask = [asked_text(item).whole for item in (*chosen, *some_lost, *some_kept)]
    near, nearness = _similarities(ask, [text for _, text in passages], each)
    topics = {item: topic.topic for topic in reasons.topics if topic.stands_out for item in topic.lost_items}
    found = [
        _near_row(item, topics.get(item.item, ""), passages[place], similarity)
        for item, places, values in zip(chosen, near, nearness, strict=False)
        for place, similarity in zip(places, values, strict=True)
        if similarity > 0
    ]
    best = np.array([values[0] for values in nearness])[len(chosen) :]
    mine, theirs = best[: len(some_lost)], best[len(some_lost) :]
    return Nearest(
        rows=tuple(found),
        lost=float(np.median(mine)),
        kept=float(np.median(theirs)) if len(theirs) else None,
        p=_is_nearer_p(mine, theirs),
        passages=len(passages),
        notes=tuple(notes),
    )


def _lost_and_kept(
    comparison: Comparison, baseline: Side, candidate: Side, tasks: Sequence[str]
) -> tuple[list[ItemScore], list[ItemScore]]:
    lost: list[ItemScore] = []
    kept: list[ItemScore] = []
    for task in comparison.tasks:
        found = candidate.find(task.task)
        if found is None or not task.lost or (tasks and task.task not in tasks):
            continue
        own = candidate.rows(found[1])
        flags = lost_items(task, baseline, own)
        for item in own:
            if flags.get(item.item):
                lost.append(item)
            elif item.item in flags and item.metrics[task.metric] >= 1.0:
                kept.append(item)
    return lost, kept


def _choose(lost: Sequence[ItemScore], reasons: Reasons, count: int) -> list[ItemScore]:
    """One of each topic that stands out in turn, then whatever was lost."""
    by_item = {item.item: item for item in lost}
    topics = [[i for i in topic.lost_items if i in by_item] for topic in reasons.topics if topic.stands_out]
    longest = max(map(len, topics), default=0)
    ordered = [own[place] for place in range(longest) for own in topics if place < len(own)]
    return [by_item[item] for item in dict.fromkeys([*ordered, *sorted(by_item)])][:count]


def _some(items: Sequence[ItemScore], rng: np.random.Generator) -> list[ItemScore]:
    if len(items) <= MOST_ITEMS:
        return list(items)
    return [items[place] for place in sorted(rng.choice(len(items), MOST_ITEMS, replace=False))]


def _passages(text: str) -> Iterator[str]:
    words = text.split()
    for start in range(0, len(words), PASSAGE):
        yield " ".join(words[start : start + PASSAGE])


def _similarities(asked: Sequence[str], passages: Sequence[str], each: int) -> tuple[list[Any], list[Any]]:
    """Places of the nearest passages of each text, and their cosines, nearest first."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    try:
        rows = vectorizer.fit_transform(passages)
    except ValueError:  # not one word that tells
        return [np.array([], dtype=int)] * len(asked), [np.zeros(1)] * len(asked)
    places, values = [], []
    for start in range(0, len(asked), 64):
        cosines = (vectorizer.transform(asked[start : start + 64]) @ rows.T).toarray()
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :each]
        places += list(nearest)
        values += list(np.take_along_axis(cosines, nearest, axis=1))
    return places, values


def _near_row(item: ItemScore, topic: str, found: tuple[TrainingRow, str], similarity: float) -> NearRow:
    asked, (row, passage) = asked_text(item), found
    return NearRow(
        task=item.task,
        topic=topic,
        item=item.item,
        question=asked.question,
        answer=asked.answer,
        source=row.source,
        file=row.file,
        row=row.row,
        step=row.step,
        times=row.times,
        similarity=float(similarity),
        excerpt=_excerpt(passage, asked.whole),
    )


def _excerpt(passage: str, asked: str) -> str:
    """The stretch of a passage that holds most words of what was asked."""
    words = passage.split()
    known = {word for word in re.findall(r"\w+", asked.lower()) if len(word) > 3}
    hits = [bool(known & set(re.findall(r"\w+", word.lower()))) for word in words]
    length = 40
    sums = np.convolve(hits, np.ones(min(length, len(words))), "valid")
    start = int(np.argmax(sums))
    text = " ".join(words[start : start + length])[:EXCERPT]
    return ("… " if start else "") + text + (" …" if start + length < len(words) else "")


def _is_nearer_p(lost: np.ndarray, kept: np.ndarray) -> float | None:
    if not len(lost) or not len(kept):
        return None
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(lost, kept, alternative="greater").pvalue)
