"""A trained text classifier: hashed words and characters, one calibrated logistic regression a label. Knows no policy.

One weight vector a label, nothing else. Other label sets, learned first and given as further features, made it worse
where they did not mean the same (docs/studies/moderation-judge.md), so there is no such step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from safety.judges.base import CategoryLike, Passage, judgement_of, unscorable
from safety.judges.linear import (
    Array,
    LinearModel,
    TextHasher,
    build_hasher,
    calibrated,
    fit_calibration,
    fit_linear,
    hasher_settings,
    load_linear,
    save_linear,
)
from workbench.errors import ConfigError, did_you_mean
from workbench.records import Judgement

ARTEFACTS = Path(__file__).parent / "artefacts"
SHIPPED = "moderation"
DEFAULT_HASHER = TextHasher(bits=15, char_bits=14, words=(1, 2), chars=(2, 4))


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """Texts with labels, some of which may be missing."""

    texts: tuple[str, ...]
    labels: tuple[str, ...]
    targets: Array
    """[texts, labels]: 0, 1 or NaN where nobody said."""
    groups: tuple[str, ...] = ()
    """Rows of one group (a template, a thread) stay on one side of a split; empty: each row its own."""

    def take(self, rows: Any) -> "Labelled":
        """Some of the rows."""
        kept = np.asarray(rows)
        kept = np.flatnonzero(kept) if kept.dtype == bool else kept
        return replace(
            self,
            texts=tuple(self.texts[i] for i in kept),
            targets=self.targets[kept],
            groups=tuple(self.groups[i] for i in kept) if self.groups else (),
        )

    def folds(self, count: int, *, seed: int) -> list[tuple[Any, Any]]:
        """(train, test) row numbers; equal texts and groups never stand on both sides."""
        from sklearn.model_selection import GroupKFold

        groups = self.groups or tuple(" ".join(text.lower().split()) for text in self.texts)
        return list(GroupKFold(count, shuffle=True, random_state=seed).split(self.texts, groups=groups))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextClassifier:
    """A trained classifier."""

    hasher: TextHasher
    model: LinearModel
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Category of a policy -> the labels that speak of it; the highest of them counts."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it was trained to tell."""
        return self.model.labels

    def probabilities(self, texts: Sequence[str]) -> Array:
        """[texts, labels], calibrated."""
        return self.model.probabilities(self.hasher.counts(texts))


class ClassifierJudge:
    """A classifier as a judge. A category that none of its labels speaks of is unscorable, never allowed."""

    def __init__(
        self,
        *,
        name: str = "classifier",
        path: str | Path | None = None,
        artefact: str = SHIPPED,
        categories: Mapping[str, Sequence[str] | str] | None = None,
    ) -> None:
        self.name = name
        self.classifier = load_classifier(Path(path) if path else ARTEFACTS / artefact)
        known = {label: (label,) for label in self.classifier.labels} | dict(self.classifier.categories)
        for category, labels in (categories or {}).items():
            known[category] = (labels,) if isinstance(labels, str) else tuple(labels)
            for label in known[category]:
                if label not in self.classifier.labels:
                    near = did_you_mean(label, self.classifier.labels)
                    raise ConfigError(f"judge {name}: categories.{category}: no label {label!r}; {near}")
        self._columns = {
            category: [self.classifier.labels.index(label) for label in labels] for category, labels in known.items()
        }

    def judge(self, passages: Sequence[Passage], categories: Sequence[CategoryLike]) -> list[list[Judgement]]:
        """One pass over all texts; the question before a text is not read."""
        if not passages:
            return []
        found = self.classifier.probabilities([passage.text for passage in passages])
        return [
            [self._one(passage.text, category.id, row) for category in categories]
            for passage, row in zip(passages, found, strict=True)
        ]

    def _one(self, text: str, category: str, row: Array) -> Judgement:
        columns = self._columns.get(category)
        if columns is None:
            return unscorable(category, self.name, "trained on no label of this category")
        if not text.strip():
            return unscorable(category, self.name, "the text is empty")
        best = max(columns, key=lambda place: row[place])
        return judgement_of(category, self.name, float(row[best]), evidence=f"label {self.classifier.labels[best]}")


def fit_classifier(
    rows: Labelled,
    *,
    hasher: TextHasher = DEFAULT_HASHER,
    C: float = 10.0,
    seed: int = 0,
    calibrate: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
) -> TextClassifier:
    """Train one; calibration is fitted on folds that share no text with their training. Raises ConfigError."""
    counts = hasher.counts(rows.texts)
    on_step(f"{len(rows.texts):,} texts")
    model = fit_linear(counts, rows.targets, rows.labels, C=C, solver="liblinear")
    if calibrate:
        logits = np.full(rows.targets.shape, np.nan)
        for train, test in rows.folds(5, seed=seed):
            on_step("calibrating")
            part = fit_linear(counts[train], rows.targets[train], rows.labels, C=C, solver="liblinear")
            logits[test] = part.logits(counts[test])
        model = calibrated(model, [fit_calibration(logits[:, k], rows.targets[:, k]) for k in range(len(rows.labels))])
    return TextClassifier(hasher=hasher, model=replace(model, settings=hasher_settings(hasher)))


def save_classifier(classifier: TextClassifier, folder: Path, **facts: Any) -> str:
    """Write the artefact; return the weights' digest."""
    categories = {category: list(labels) for category, labels in classifier.categories.items()}
    return save_linear({"text": classifier.model}, folder, kind="classifier", categories=categories, **facts)


@cache
def load_classifier(folder: Path) -> TextClassifier:
    """An artefact of `workbench judge train`. Raises ConfigError."""
    models, document = load_linear(folder)
    if set(models) != {"text"}:
        raise ConfigError(
            f"judge {folder}: holds {', '.join(models)}, no text classifier; train one of kind classifier"
        )
    model = models["text"]
    categories = {name: tuple(labels) for name, labels in document.get("categories", {}).items()}
    return TextClassifier(hasher=build_hasher(model.settings), model=model, categories=categories)
