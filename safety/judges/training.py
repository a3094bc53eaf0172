"""Train a judge from people's labels, and audit one on them. Knows artefacts and cards; knows no engine, no policy."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safety.judges.agreement import MIN_OF_A_KIND, Agreement, measure_agreement
from safety.judges.base import Judge, Passage, PlainCategory
from safety.judges.card import write_card
from safety.judges.classifier import Labelled, TextClassifier, fit_classifier, save_classifier
from safety.judges.labels import RefusalRows
from safety.judges.linear import sigmoid
from safety.judges.refusal import build_counts, build_targets, fit_detector, out_of_fold_logits, save_detector
from workbench.errors import ConfigError

REFUSAL_CATEGORY = "refusal"
FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedJudge:
    """What `train` made."""

    folder: Path
    weights: str
    """SHA-256."""
    agreement: tuple[Agreement, ...]
    """Out of fold: on rows that the measured model had not seen."""
    notes: tuple[str, ...] = ()


def train_classifier(
    rows: Labelled,
    folder: Path,
    *,
    title: str,
    command: str,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda _: None,
) -> TrainedJudge:
    """Fit on all rows, measure by five folds, write artefact and card. Raises ConfigError for too few rows."""
    _check_counts(rows)
    probabilities = np.full(rows.targets.shape, np.nan)
    for number, (train, test) in enumerate(rows.folds(FOLDS, seed=seed), 1):
        on_step(f"fold {number} of {FOLDS}")
        made = fit_classifier(rows.take(train), seed=seed)
        probabilities[test] = made.probabilities([rows.texts[i] for i in test])
    agreement = tuple(_agreement(rows, probabilities, seed=seed))
    on_step("all rows")
    final: TextClassifier = fit_classifier(rows, seed=seed)
    digest = save_classifier(final, folder, trained_on=[f"{len(rows.texts)} rows"], seed=seed)
    intro = [f"Trained on {len(rows.texts):,} labelled texts. Figures are out of fold. The artefact holds no text."]
    write_card(folder, title=title, intro=intro, measured={f"its own rows, {FOLDS} folds": agreement}, command=command)
    return TrainedJudge(folder=folder, weights=digest, agreement=agreement)


def train_refusal(rows: RefusalRows, folder: Path, *, title: str, command: str, seed: int = 0) -> TrainedJudge:
    """The same for a refusal detector; folds share no question."""
    prompts = [prompt or completion for prompt, completion in rows.answers]
    kinds = build_targets(rows.kinds)
    if len(set(prompts)) < 10:
        raise ConfigError(f"{len(set(prompts))} questions; a refusal detector needs 10 or more, better hundreds")
    signs, lexical = build_counts(rows.answers)
    logits = out_of_fold_logits(signs, lexical, kinds, prompts, seed=seed)[:, 0]
    detector = fit_detector(rows.answers, rows.kinds, groups=prompts, seed=seed)
    slope, shift = detector.calibration[0]
    p = sigmoid(logits * slope + shift)
    truth = kinds[:, 0].astype(int).tolist()
    agreement = measure_agreement(
        REFUSAL_CATEGORY, truth, (p >= 0.5).astype(int).tolist(), p.tolist(), groups=prompts, seed=seed
    )
    digest = save_detector(detector, folder, trained_on=[f"{len(rows.answers)} rows"], seed=seed)
    intro = [f"Trained on {len(rows.answers):,} labelled answers. Figures are out of fold. The artefact holds no text."]
    write_card(folder, title=title, intro=intro, measured={"its own rows, 10 folds": [agreement]}, command=command)
    return TrainedJudge(folder=folder, weights=digest, agreement=(agreement,))


def audit_classifier(judge: Judge, rows: Labelled, *, seed: int = 0, resamples: int = 500) -> list[Agreement]:
    """Any judge against people's labels, by category; categories with too few of a kind are left out."""
    categories = [PlainCategory(id=label, title=label, definition="") for label in rows.labels]
    judged = judge.judge([Passage(text=text) for text in rows.texts], categories)
    found: list[Agreement] = []
    for place, label in enumerate(rows.labels):
        known = np.flatnonzero(~np.isnan(rows.targets[:, place]))
        truth = rows.targets[known, place].astype(int).tolist()
        if min(sum(truth), len(truth) - sum(truth)) < MIN_OF_A_KIND:
            continue
        own = [judged[i][place] for i in known]
        groups = [rows.groups[i] for i in known] if rows.groups else None
        found.append(_audited(label, truth, own, groups, seed=seed, resamples=resamples))
    if not found:
        raise ConfigError(f"no category has {MIN_OF_A_KIND} violating and {MIN_OF_A_KIND} allowed rows")
    return found


def audit_refusal(judge: Judge, rows: RefusalRows, *, seed: int = 0, resamples: int = 500) -> list[Agreement]:
    """A judge of refusals against people's labels: full and partial together against compliance."""
    category = PlainCategory(id=REFUSAL_CATEGORY, title="Refusal", definition="The answer refuses to help.")
    passages = [Passage(text=completion, prompt=prompt) for prompt, completion in rows.answers]
    own = [row[0] for row in judge.judge(passages, [category])]
    truth = [int(kind != "compliance") for kind in rows.kinds]
    prompts = [prompt or completion for prompt, completion in rows.answers]
    return [_audited(REFUSAL_CATEGORY, truth, own, prompts, seed=seed, resamples=resamples)]


def _audited(
    label: str, truth: list[int], own: Sequence[Any], groups: Sequence[str] | None, *, seed: int, resamples: int
) -> Agreement:
    """An `uncertain` judgement counts by its probability; one without a number is unscorable."""
    verdicts: list[int | None] = []
    for one in own:
        if one.value == "unscorable" or (one.value == "uncertain" and one.probability is None):
            verdicts.append(None)
        elif one.value == "uncertain":
            verdicts.append(int(one.probability >= 0.5))
        else:
            verdicts.append(int(one.value == "violates"))
    numbers = [one.probability for one in own]
    return measure_agreement(label, truth, verdicts, numbers, groups=groups, seed=seed, resamples=resamples)


def _agreement(rows: Labelled, probabilities: Any, *, seed: int) -> list[Agreement]:
    found = []
    for place, label in enumerate(rows.labels):
        known = np.flatnonzero(~np.isnan(rows.targets[:, place]))
        p = probabilities[known, place]
        truth = rows.targets[known, place].astype(int).tolist()
        found.append(measure_agreement(label, truth, (p >= 0.5).astype(int).tolist(), p.tolist(), seed=seed))
    return found


def _check_counts(rows: Labelled) -> None:
    faults = []
    for place, label in enumerate(rows.labels):
        known = rows.targets[:, place][~np.isnan(rows.targets[:, place])]
        positive = int(known.sum())
        if min(positive, len(known) - positive) < 2 * FOLDS:
            faults.append(
                f"label {label}: {positive} violating and {len(known) - positive} allowed rows; "
                f"training needs {2 * FOLDS} of each"
            )
    if faults:
        raise ConfigError("\n".join(faults))


def as_document(agreement: Sequence[Agreement]) -> list[dict[str, Any]]:
    """Plain values, for `--json`."""
    return [asdict(one) for one in agreement]
