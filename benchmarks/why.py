"""Why it forgot: which topics hold more of the lost items, since when, in which other forms. Knows items; no verdict.

A topic is the subtask where a task is a group (MMLU's subjects), else a cluster of question texts (TF-IDF, k-means),
named by its commonest telling words. A topic stands out where it holds more lost items than its share of all items
explains (Fisher's exact test, Benjamini-Hochberg over the topics of all tasks).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.side import Side
from workbench import paired
from workbench.records import Comparison, ItemScore, TaskComparison

FALSE_SHARE = 0.1
"""Share of the topics that stand out which may do so by chance."""
_ITEMS_A_TOPIC = 30
_TOPICS = (2, 12)
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Topic:
    """One topic of one task, with how much of it was lost."""

    task: str
    topic: str
    lost: int
    items: int
    share_elsewhere: float | None
    """Share of lost items in the task's other topics."""
    q: float
    """Benjamini-Hochberg over all topics of the comparison."""
    lost_items: tuple[str, ...] = ()
    """Hashes of the lost ones."""

    @property
    def stands_out(self) -> bool:
        """More lost than chance explains."""
        return self.q <= FALSE_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherForm:
    """What became of a task's lost questions where the same documents were asked in another form."""

    task: str
    other: str
    both: int
    """Lost here, and lost there too."""
    only_here: int
    """Lost here; there right as before."""
    elsewhere: int
    """Lost here; there wrong before already, which tells nothing."""

    @property
    def told(self) -> str:
        """In a sentence."""
        known = self.both + self.only_here
        if known == 0:
            return f"{self.task}: {self.other} was wrong on all lost questions before, and tells nothing"
        return (
            f"{self.task}: of {known} lost questions that {self.other} had right, {self.only_here} are still right "
            f"there (the form was lost, not the knowledge) and {self.both} are lost there too"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reasons:
    """What is known of the losses of one comparison."""

    topics: tuple[Topic, ...]
    """Most striking first."""
    forms: tuple[OtherForm, ...]
    replay: str
    """A suggested replay category, or that none stands out."""


def find_reasons(comparison: Comparison, baseline: Side, candidate: Side, *, tasks: Sequence[str] = ()) -> Reasons:
    """Look into the items that a comparison's candidate lost; all tasks with right and wrong items, or some."""
    chosen = [t for t in comparison.tasks if t.lost and (not tasks or t.task in tasks)]
    counted: list[tuple[str, paired.TopicFlips]] = []
    of_topic: dict[tuple[str, str], list[str]] = {}
    for task in chosen:
        found = candidate.find(task.task)
        if found is None:
            continue
        items = candidate.rows(found[1])
        lost = lost_items(task, baseline, items)
        kept = [item for item in items if item.item in lost]
        names = _topics(kept, is_group=len(found[1]) > 1)
        flags = [bool(lost[item.item]) for item in kept]
        counted += [(task.task, row) for row in paired.enrichment(names, flags)]
        for item, name in zip(kept, names, strict=True):
            if lost[item.item]:
                of_topic.setdefault((task.task, name), []).append(item.item)
    q_values = paired.adjust_benjamini_hochberg([row.p for _, row in counted]) if counted else []
    topics = [
        Topic(
            task=task,
            topic=str(row.topic),
            lost=row.flips,
            items=row.items,
            share_elsewhere=row.share_elsewhere,
            q=q,
            lost_items=tuple(of_topic.get((task, str(row.topic)), ())),
        )
        for (task, row), q in zip(counted, q_values, strict=True)
    ]
    topics.sort(key=lambda topic: (topic.q, -topic.lost, topic.task, topic.topic))
    forms = _other_forms(chosen, comparison.tasks, baseline, candidate)
    return Reasons(topics=tuple(topics), forms=tuple(forms), replay=suggest_replay(topics))


def lost_items(task: TaskComparison, baseline: Side, items: Sequence[ItemScore]) -> dict[str, bool]:
    """For each of the candidate's items that the baseline has too: was it lost?"""
    found: dict[str, bool] = {}
    column = baseline.columns.metrics[task.metric]
    sign = 1.0 if task.direction == "higher" else -1.0
    at = baseline.index.get_indexer([f"{item.task}\0{item.item}" for item in items])
    for item, row in zip(items, at, strict=True):
        if row >= 0 and task.metric in item.metrics:
            found[item.item] = sign * (item.metrics[task.metric] - float(column[row])) < 0
    return found


def suggest_replay(topics: Sequence[Topic]) -> str:
    """Where more general data would help most: the topics that stand out, by what they lost beyond their share."""
    out = [topic for topic in topics if topic.stands_out]
    if not out:
        return (
            "no topic stands out: the losses are spread, so a broad replay of general data fits better than one topic"
        )
    excess = {t.topic: t.lost - t.items * (t.share_elsewhere or 0.0) for t in out}
    total = sum(excess.values())
    named = ", ".join(f"{name} ({value / total:.0%})" for name, value in list(excess.items())[:5])
    return f"replay data like: {named}"


def first_lost(comparisons: Sequence[Comparison], baseline: Side, candidates: Sequence[Side]) -> dict[str, list[int]]:
    """By task: for each candidate in order, the number of items that are lost there for the first time."""
    counts: dict[str, list[int]] = {}
    seen: set[tuple[str, str]] = set()
    for place, (comparison, candidate) in enumerate(zip(comparisons, candidates, strict=True)):
        for task in comparison.tasks:
            found = candidate.find(task.task)
            if found is None or task.lost is None:
                continue
            lost = lost_items(task, baseline, candidate.rows(found[1]))
            fresh = {(task.task, item) for item, is_lost in lost.items() if is_lost} - seen
            seen |= fresh
            counts.setdefault(task.task, [0] * len(comparisons))[place] = len(fresh)
    return counts


def _other_forms(
    tasks: Sequence[TaskComparison], others: Sequence[TaskComparison], baseline: Side, candidate: Side
) -> list[OtherForm]:
    """Tasks that lost items, each with every other task that asks the same documents; that one may have lost none."""
    others = [task for task in others if task.lost is not None]
    values = {task.task: _by_document(task, baseline, candidate) for task in (*tasks, *others)}
    found: list[OtherForm] = []
    for task in tasks:
        mine = values[task.task]
        lost = {doc for doc, (before, after) in mine.items() if after < before}
        for other in others:
            theirs = values[other.task]
            shared = [doc for doc in lost if doc in theirs]
            if other.task == task.task or not shared:
                continue
            right = [doc for doc in shared if theirs[doc][0] >= 1.0]
            both = sum(theirs[doc][1] < theirs[doc][0] for doc in right)
            found.append(
                OtherForm(
                    task=task.task,
                    other=other.task,
                    both=both,
                    only_here=len(right) - both,
                    elsewhere=len(shared) - len(right),
                )
            )
    return found


def _by_document(task: TaskComparison, baseline: Side, candidate: Side) -> dict[str, tuple[float, float]]:
    """Document's hash -> values before and after."""
    found = candidate.find(task.task)
    if found is None:
        return {}
    before = {(item.task, item.item): item for item in baseline.rows(found[1])}
    values: dict[str, tuple[float, float]] = {}
    for item in candidate.rows(found[1]):
        old = before.get((item.task, item.item))
        if old is None or task.metric not in item.metrics or task.metric not in old.metrics:
            continue
        document = str(item.extra.get("doc", item.item))
        values[document] = (old.metrics[task.metric], item.metrics[task.metric])
    return values


def _topics(items: Sequence[ItemScore], *, is_group: bool) -> list[str]:
    if is_group:
        return [item.task for item in items]
    texts = [question_text(item.prompt) for item in items]
    count = max(_TOPICS[0], min(_TOPICS[1], len(texts) // _ITEMS_A_TOPIC))
    return _cluster(texts, count)


def question_text(prompt: str) -> str:
    """The question itself: what stands behind the last worked example, without the words that every prompt has.

    >>> question_text("Question: One? Answer: 1\\n\\nQuestion: Which bone is longest? Answer:")
    'Which bone is longest?'
    """
    last = prompt.strip().split("\n\n")[-1]
    return re.sub(r"\b(Question|Answer|Frage|Antwort):\s*", "", last).strip()


def _cluster(texts: Sequence[str], count: int) -> list[str]:
    """Name of each text's cluster; one cluster where texts are too few or too alike."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(set(texts)) < 2 * count:
        return ["all questions"] * len(texts)
    vectorizer = TfidfVectorizer(stop_words="english", min_df=2, max_df=0.5, sublinear_tf=True)
    try:
        vectors = vectorizer.fit_transform(texts)
    except ValueError:  # no word is left
        return ["all questions"] * len(texts)
    # texts without a telling word of their own look the same; each cluster must be able to hold two kinds at least
    count = min(count, len({tuple(row.indices) for row in vectors}) // 2)
    if count < _TOPICS[0]:
        return ["all questions"] * len(texts)
    model = KMeans(n_clusters=count, random_state=_SEED, n_init="auto")
    labels = model.fit_predict(vectors)
    words = vectorizer.get_feature_names_out()
    names = [", ".join(str(words[i]) for i in centre.argsort()[::-1][:3]) for centre in model.cluster_centers_]
    repeated = Counter(names)
    names = [name if repeated[name] == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]
    return [names[label] for label in labels]
