"""Does the trained classifier tell violations of OpenAI's moderation taxonomy better than the open baselines?

    python -m studies.moderation_judge               # writes docs/studies/moderation-judge.md and the shipped artefact
    python -m studies.moderation_judge --zero-shot   # with the model judge's rows as well (slow)
    python -m studies.moderation_judge --harmless    # only: what harmless prompts as training rows would change

Out-of-fold: five folds over OpenAI's moderation set, equal texts on one side; a row is scored by a model that has not
seen it. Missing labels are masked.
"""

# ruff: noqa: E501 (sentences of the page)

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np

from safety.judges.agreement import average_precision, expected_calibration_error, measure_agreement
from safety.judges.card import agreement_table, show_interval, write_card
from safety.judges.classifier import (
    ARTEFACTS,
    DEFAULT_HASHER,
    SHIPPED,
    Labelled,
    TextClassifier,
    fit_classifier,
    save_classifier,
)
from safety.probes import load_questions
from workbench.config import data_folder
from workbench.statistics import bootstrap_interval, mean_interval

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "studies" / "moderation-judge.md"
COMMAND = "python -m studies.moderation_judge"
LABELS = ("S", "H", "V", "HR", "SH", "H2", "V2")
MEANING = {
    "S": "sexual content",
    "H": "hate",
    "V": "violence",
    "HR": "harassment",
    "SH": "self-harm",
    "H2": "hate with threats",
    "V2": "graphic violence",
}
CATEGORIES = {
    "hate": ("H", "H2"),
    "sexual_content": ("S",),
    "self_harm": ("SH",),
    "violent_crime": ("V", "H2"),
    "harassment": ("HR",),
    "violence": ("V", "V2"),
    "graphic_violence": ("V2",),
}
BASE_MODEL = "smollm2"
ZERO_SHOT_ROWS = 150
RESAMPLES = 200


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def moderation_set(data: Path) -> Labelled:
    rows = read_rows(data / "openai_moderation" / "samples.jsonl")
    targets = np.array(
        [[np.nan if row["labels"][k] is None else float(row["labels"][k]) for k in LABELS] for row in rows]
    )
    return Labelled(texts=tuple(row["text"] for row in rows), labels=LABELS, targets=targets)


def out_of_fold(rows: Labelled) -> np.ndarray:
    """Calibrated probabilities; calibration of each fold is fitted inside its training part."""
    found = np.full(rows.targets.shape, np.nan)
    for number, (train, test) in enumerate(rows.folds(5, seed=0)):
        made = fit_classifier(rows.take(train))
        found[test] = made.probabilities([rows.texts[i] for i in test])
        print(f"fold {number}", flush=True)
    return found


def plain_tfidf(rows: Labelled) -> np.ndarray:
    """What one would write first: words and pairs of words, one logistic regression a label, scikit-learn's defaults."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found = np.full(rows.targets.shape, np.nan)
    for train, test in rows.folds(5, seed=0):
        for k in range(len(LABELS)):
            known = [i for i in train if not np.isnan(rows.targets[i, k])]
            vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
            model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000, solver="liblinear"))
            model.fit([rows.texts[i] for i in known], rows.targets[known, k].astype(int))
            found[test, k] = model.predict_proba([rows.texts[i] for i in test])[:, 1]
    return found


def profanity(rows: Labelled) -> np.ndarray | None:
    """alt-profanity-check: one number for all labels; None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from profanity_check import predict_prob
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.tile(np.asarray(predict_prob(list(rows.texts)))[:, None], (1, len(LABELS)))


def zero_shot(rows: Labelled, chosen: np.ndarray) -> np.ndarray:
    """The base model's Yes/No probabilities, uncalibrated; unscorable rows stay NaN."""
    from safety.judges.base import Passage, PlainCategory
    from safety.judges.model import ModelJudge
    from workbench.engines.loading import load
    from workbench.pipeline import open_project, resolve_checkpoint

    engine = load(resolve_checkpoint(BASE_MODEL, open_project(ROOT)), dtype="float32")
    judge = ModelJudge(engine=engine, min_mass=0.01, nonce="study")
    kinds = [
        PlainCategory(id=k, title=MEANING[k].capitalize(), definition=f"The text contains {MEANING[k]}.")
        for k in LABELS
    ]
    found = np.full(rows.targets.shape, np.nan)
    for i in chosen:
        judged = judge.judge([Passage(text=rows.texts[i][:2000])], kinds)[0]
        found[i] = [np.nan if one.probability is None else one.probability for one in judged]
    engine.close()
    return found


def macro_auprc(pairs: list) -> float:
    """Of rows of (targets, scores), labels missing in either left out."""
    targets, scores = np.array([t for t, _ in pairs]), np.array([s for _, s in pairs])
    values = []
    for k in range(len(LABELS)):
        known = ~np.isnan(targets[:, k]) & ~np.isnan(scores[:, k])
        values.append(average_precision(targets[known, k], scores[known, k]))
    return float(np.mean(values))


def interval_of(rows: Labelled, scores: np.ndarray, chosen: np.ndarray | None = None):
    kept = np.arange(len(scores)) if chosen is None else chosen
    pairs = [(rows.targets[i], scores[i]) for i in kept]
    return bootstrap_interval(pairs, macro_auprc, rng=np.random.default_rng(0), resamples=RESAMPLES, bca=False)


def gain_over(rows: Labelled, ours: np.ndarray, theirs: np.ndarray):
    """Paired: the same rows are drawn for both."""
    triples = [(rows.targets[i], ours[i], theirs[i]) for i in range(len(ours))]

    def gain(drawn: list) -> float:
        return macro_auprc([(t, a) for t, a, _ in drawn]) - macro_auprc([(t, b) for t, _, b in drawn])

    return bootstrap_interval(triples, gain, rng=np.random.default_rng(0), resamples=RESAMPLES, bca=False)


def ece_of(rows: Labelled, scores: np.ndarray) -> list[float]:
    found = []
    for k in range(len(LABELS)):
        known = ~np.isnan(rows.targets[:, k]) & ~np.isnan(scores[:, k])
        found.append(expected_calibration_error(rows.targets[known, k], scores[known, k]))
    return found


def false_alarms(classifier: TextClassifier, data: Path) -> list[str]:
    """How often harmless prompts, none of which was trained on, get a probability of 0.3 or 0.7 for any label."""
    tasks = read_rows(data / "self_instruct_human" / "seed_and_user_tasks.jsonl")
    asked = {
        "people's instructions": [f"{row['instruction']}\n{row['input']}".strip()[:2000] for row in tasks],
        "XSTest's safe prompts": [
            question.prompt
            for question in load_questions(["xstest"], data, limit=None, seed=0)
            if question.asks == "benign"
        ],
    }
    found = []
    for name, prompts in asked.items():
        highest = classifier.probabilities(prompts).max(axis=1)
        shares = [mean_interval([float(p >= level) for p in highest], binary=True) for level in (0.3, 0.7)]
        told = " and ".join(f"{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]" for one in shares)
        found.append(f"{name} (n = {len(prompts)}): {told}")
    return found


def try_harmless(rows: Labelled, data: Path) -> None:
    """Print what Dolly's prompts as rows that violate nothing do to both: to violations found and to false alarms."""
    dolly = tuple(row["prompt"] for row in read_rows(data / "dolly_small" / "train_small.jsonl"))

    def plus(part: Labelled) -> Labelled:
        targets = np.vstack([part.targets, np.zeros((len(dolly), len(LABELS)))])
        return Labelled(texts=part.texts + dolly, labels=LABELS, targets=targets)

    found = np.full(rows.targets.shape, np.nan)
    for train, test in rows.folds(5, seed=0):
        found[test] = fit_classifier(plus(rows.take(train))).probabilities([rows.texts[i] for i in test])
    ece = ece_of(rows, found)
    print(f"macro-AUPRC {show_interval(interval_of(rows, found))}, ECE {np.mean(ece):.3f}, worst {max(ece):.3f}")
    print("\n".join(false_alarms(fit_classifier(plus(rows)), data)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zero-shot", action="store_true")
    parser.add_argument("--harmless", action="store_true")
    options = parser.parse_args()
    started = time.perf_counter()
    data = data_folder()
    assert data is not None, "set WORKBENCH_DATA"
    rows = moderation_set(data)
    if options.harmless:
        try_harmless(rows, data)
        return
    ours = out_of_fold(rows)
    scores = {
        "the classifier": ours,
        "plain TF-IDF": plain_tfidf(rows),
    }
    if (found := profanity(rows)) is not None:
        scores["alt-profanity-check"] = found
    lines_zero: list[str] = []
    if options.zero_shot:
        chosen = np.random.default_rng(0).permutation(len(rows.texts))[:ZERO_SHOT_ROWS]
        zero = zero_shot(rows, chosen)
        lines_zero = [
            f"The base model's zero-shot (SmolLM2-135M-Instruct, Yes and No, both orders) on a random {ZERO_SHOT_ROWS} rows: "
            f"macro-AUPRC {show_interval(interval_of(rows, zero, chosen))}; the classifier on the same rows "
            f"{show_interval(interval_of(rows, ours, chosen))}.",
            "",
        ]
    for name, one in scores.items():
        print(name, show_interval(interval_of(rows, one)), flush=True)

    final = fit_classifier(rows)
    final = TextClassifier(hasher=DEFAULT_HASHER, model=final.model, categories=CATEGORIES)
    folder = ARTEFACTS / SHIPPED
    digest = save_classifier(final, folder, trained_on=["openai_moderation"])
    measured = []
    for k, label in enumerate(LABELS):
        known = np.flatnonzero(~np.isnan(rows.targets[:, k]))
        truth, p = rows.targets[known, k].astype(int).tolist(), ours[known, k]
        measured.append(
            measure_agreement(label, truth, (p >= 0.5).astype(int).tolist(), p.tolist(), resamples=RESAMPLES)
        )
    ece = ece_of(rows, ours)
    intro = [
        "Seven labels of OpenAI's moderation taxonomy (S sexual, H hate, V violence, HR harassment, SH self-harm, H2 hate",
        "with threats, V2 graphic violence). Trained on its released set (1,043 rows, MIT). The artefact holds weights of",
        "hashed n-grams, no text. It reads English; it reads no context; sexual content about minors is not a label of it.",
        "Agreement is out-of-fold: rows that the measured model has not seen.",
    ]
    write_card(
        folder,
        title="Moderation classifier",
        intro=intro,
        measured={"OpenAI moderation set, 5-fold": measured},
        command=COMMAND,
    )
    best = max(
        (name for name in scores if name not in list(scores)[:1]), key=lambda n: interval_of(rows, scores[n]).value
    )
    lines = [
        "# Moderation classifier",
        "",
        "Does the trained classifier do better than the open baselines on OpenAI's moderation set? Macro-AUPRC over seven",
        f"labels **{show_interval(interval_of(rows, ours))}**; less {best}'s: {show_interval(gain_over(rows, ours, scores[best]))}, paired.",
        f"Calibration error (15 bins of equal mass, mean over labels) **{np.mean(ece):.3f}**, worst label {max(ece):.3f}.",
        "",
        "| method | macro-AUPRC | mean ECE | " + " | ".join(LABELS) + " |",
        "|---|---|---:|" + "---:|" * len(LABELS),
    ]
    for name, one in scores.items():
        each = []
        for k in range(len(LABELS)):
            known = ~np.isnan(rows.targets[:, k])
            each.append(f"{average_precision(rows.targets[known, k], one[known, k]):.3f}")
        lines.append(
            f"| {name} | {show_interval(interval_of(rows, one))} | {np.mean(ece_of(rows, one)):.3f} | {' | '.join(each)} |"
        )
    counts = [
        f"{label} {int(np.nansum(rows.targets[:, k]))} of {int((~np.isnan(rows.targets[:, k])).sum())}"
        for k, label in enumerate(LABELS)
    ]
    lines += [
        "",
        f"Rows 1,043; positive of labelled: {', '.join(counts)}. Missing labels are masked. Five folds, equal texts on one side;",
        "every row is scored by a model that has not seen it, calibration included. Intervals at 95%, rows drawn again.",
        "",
        *lines_zero,
        "At the judge's own threshold of 0.5:",
        "",
        *agreement_table(measured),
        "",
        "**What did not work.** With nine more sets (Wikipedia comments, tweets, Reddit, Gab, HateCheck, ConvAbuse) learned first and",
        "given as further features it was worse: 0.429, self-harm 0.495. They mean other things by their labels. Without them words",
        "and characters are level with plain TF-IDF, not above it, and better calibrated. A larger hash table or other lengths of",
        "n-grams, tried on these folds, change little (0.457 to 0.471 before calibration). Violence,",
        "harassment and the two rare labels have too few rows: do not act on them without a second judge.",
        "",
        "**Harmless prompts.** Share with a probability of at least 0.3, and of at least 0.7, for any label:",
        *(f"{line}." for line in false_alarms(final, data)),
        "Nearly all of it is hate, of which the set holds 23%, and hardly a short question that is none. With Dolly's 996 prompts as rows",
        "that violate nothing, 0.3 is reached by 0.2% [0.0%, 1.3%] and 5.3% [2.8%, 9.7%], but violations are told apart less well:",
        "macro-AUPRC 0.432 [0.396, 0.482], worst calibration error 0.068 (`--harmless`). It is not shipped for that, and is",
        "the better choice before a chat model: train one on labels of your own traffic (`workbench judge train`).",
        "",
        "A threshold of 0.5 misses many violations of the rarer labels; a policy sets its own, by risk.",
        "",
        f"Command: `{COMMAND}`; {time.perf_counter() - started:.0f} s on two busy CPU cores; weights {digest[:12]}.",
        "",
    ]
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
