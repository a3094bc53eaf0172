"""The page of the study on one moderator, and its plot. Knows the study's scores; asks no model.

Of each rule the same texts are drawn anew for all arms, so differences are paired; texts of one community are drawn
together.
"""

# ruff: noqa: E501 (sentences of the page)

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

from safety.judges.agreement import average_precision
from studies.experiment import PAGES, UNFINISHED, points, read_results, table, write_page
from studies.moderation_tasks import FOLDS, TASKS

NAME = "one-moderator"
RESAMPLES = 1000
TITLES = {
    "one": "one model, tuned",
    "zero": "the model as it was",
    "tfidf same": "TF-IDF a rule, same labels",
    "tfidf all": "TF-IDF a rule, all labels",
    "tfidf others": "TF-IDF, other rules' labels",
    "own": "a model for this rule",
    "fold": "tuned on other rules",
}
METRICS = ("ap", "precision", "recall")
COLOURS = {"one": "#1f6fb2", "zero": "#888888", "tfidf same": "#c2571a", "tfidf all": "#2e7d4f"}
Floats = npt.NDArray[np.float64]
Draws = Mapping[str, Sequence[npt.NDArray[np.intp]]]


class Arm:
    """Scores of some rules' texts, and the threshold that its own texts gave it."""

    def __init__(self, scores: Mapping[str, Any], labels: Mapping[str, Any]) -> None:
        self.truth = {name: np.array(labels[name]["test"]["violates"], float) for name in scores}
        self.scores = {name: _filled(one["test"], self.truth[name]) for name, one in scores.items()}
        truth = {name: np.array(labels[name]["threshold"]["violates"], float) for name in scores}
        own = {name: _filled(one["threshold"], truth[name]) for name, one in scores.items()}
        self.threshold = _best_threshold(own, truth)

    def measure(self, rules: Sequence[str], draws: Draws, at: int, threshold: float) -> dict[str, float]:
        """Means over rules; `at` is the number of a resample, -1 the texts as they are."""
        found: dict[str, list[float]] = {name: [] for name in METRICS}
        for rule in rules:
            rows = slice(None) if at < 0 else draws[rule][at]
            truth, scores = self.truth[rule][rows], self.scores[rule][rows]
            if truth.sum():
                found["ap"].append(average_precision(truth, scores))
                found["recall"].append(float((scores >= threshold)[truth == 1].mean()))
            flagged = scores >= threshold
            found["precision"].append(float(truth[flagged].mean()) if flagged.any() else 0.0)
        return {name: float(np.mean(values)) for name, values in found.items()}


def _filled(scores: Sequence[float | None], truth: Floats) -> Floats:
    """What could not be scored is wrong with certainty."""
    return np.array([1.0 - t if p is None else p for p, t in zip(scores, truth, strict=True)])


def _best_threshold(scores: Mapping[str, Floats], truth: Mapping[str, Floats]) -> float:
    """One for all rules: that of the highest mean balanced accuracy; between two scores, the middle.

    Not F1: where 40% violate, flagging everything has a good F1.
    """
    values = np.unique(np.concatenate(list(scores.values())))
    cuts = [*((values[1:] + values[:-1]) / 2).tolist(), float(values[0])]

    def balanced(cut: float) -> float:
        parts = [own >= cut for own in scores.values()]
        gains = [f[t == 1].mean() - f[t == 0].mean() for f, t in zip(parts, truth.values(), strict=True)]
        return float(np.mean(gains))

    return max(sorted(cuts), key=balanced)


def arms_of(found: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms that are there, by the names of TITLES; `own` and `fold` hold the rules that were made."""
    made, labels = found["arms"], found["labels"]
    arms = {name: Arm(made[name]["scores"], labels) for name in ("zero", "one") if name in made}
    if "tfidf" in made:
        arms |= {f"tfidf {kind}": Arm(scores, labels) for kind, scores in made["tfidf"]["scores"].items()}
    for kind in ("own", "fold"):
        parts = [one["scores"] for name, one in made.items() if name.startswith(f"{kind}-")]
        if parts:
            arms[kind] = Arm({rule: scores for part in parts for rule, scores in part.items()}, labels)
    return arms


def draws_of(labels: Mapping[str, Any]) -> Draws:
    """Clusters drawn with replacement, a thousand times."""
    found = {}
    for place, (rule, sides) in enumerate(labels.items()):
        clusters = np.array(sides["test"]["cluster"])
        names = np.unique(clusters)
        members = [np.flatnonzero(clusters == name) for name in names]
        rng = np.random.default_rng([place, 5])
        found[rule] = [
            np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))]) for _ in range(RESAMPLES)
        ]
    return found


def interval(arm: Arm, rules: Sequence[str], draws: Draws, threshold: float) -> dict[str, tuple[float, float, float]]:
    """Metric -> value, low, high."""
    value = arm.measure(rules, draws, -1, threshold)
    drawn = [arm.measure(rules, draws, b, threshold) for b in range(RESAMPLES)]
    return {m: (value[m], *_ends([one[m] for one in drawn])) for m in METRICS}


def difference(
    one: Arm, other: Arm, rules: Sequence[str], draws: Draws, thresholds: tuple[float, float]
) -> dict[str, tuple[float, float, float]]:
    """The first less the second, paired by text."""

    def gap(at: int) -> dict[str, float]:
        a, b = one.measure(rules, draws, at, thresholds[0]), other.measure(rules, draws, at, thresholds[1])
        return {m: a[m] - b[m] for m in METRICS}

    value, drawn = gap(-1), [gap(b) for b in range(RESAMPLES)]
    return {m: (value[m], *_ends([row[m] for row in drawn])) for m in METRICS}


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _share(cell: tuple[float, float, float]) -> str:
    return f"{cell[0]:.3f} [{cell[1]:.3f}, {cell[2]:.3f}]"


def _points(cell: tuple[float, float, float]) -> str:
    return f"{points(cell[0])} [{points(cell[1])}, {points(cell[2])}]"


def _overall(arms: Mapping[str, Arm], draws: Draws, n: int) -> str:
    rules = [task.name for task in TASKS]
    rows = []
    for name in ("one", "zero", "tfidf same", "tfidf all"):
        if name in arms:
            at_half, at_own = (interval(arms[name], rules, draws, cut) for cut in (0.5, arms[name].threshold))
            cells = [_share(at_half[m]) for m in METRICS] + [_share(at_own[m]) for m in ("precision", "recall")]
            rows.append([TITLES[name], *cells, f"{arms[name].threshold:.2f}"])
    head = ["arm", "average precision", "precision at 0.5", "recall at 0.5"]
    head += ["precision at its own threshold", "recall at it", "the threshold"]
    text = (
        f"## All nine rules\n\nMeans over the rules, n = {n:,} texts, 40% violations in each rule [95% intervals].\n\n"
    )
    return text + table(head, rows)


def _differences(arms: Mapping[str, Arm], draws: Draws) -> str:
    rules = [task.name for task in TASKS]
    rows = []
    for name in ("zero", "tfidf same", "tfidf all"):
        if "one" in arms and name in arms:
            half = difference(arms["one"], arms[name], rules, draws, (0.5, 0.5))
            own = difference(arms["one"], arms[name], rules, draws, (arms["one"].threshold, arms[name].threshold))
            cells = [_points(half[m]) for m in METRICS] + [_points(own[m]) for m in ("precision", "recall")]
            rows.append([TITLES[name], *cells])
    head = ["one tuned model less", "average precision", "precision at 0.5", "recall at 0.5"]
    head += ["precision, own thresholds", "recall, own thresholds"]
    return "Differences in points, paired by text [95% intervals]:\n\n" + table(head, rows) if rows else ""


def _wanted(arms: Mapping[str, Arm], draws: Draws) -> str:
    """What was asked, beside what was found."""
    rules, one = [task.name for task in TASKS], arms["one"]
    rows = []
    over = difference(one, arms["zero"], rules, draws, (0.5, 0.5))
    for metric, least in (("precision", 0.26), ("recall", 0.16)):
        title = f"{metric} at 0.5 over the model as it was"
        rows.append([title, f"at least {points(least)}", _points(over[metric]), _verdict(over[metric], least)])
    for name in ("tfidf same", "tfidf all", "own"):
        if name in arms:
            own = [rule for rule in rules if rule in arms[name].scores]
            gap = difference(one, arms[name], own, draws, (0.5, 0.5))["ap"]
            title = f"average precision against {TITLES[name]}, rules: {len(own)}"
            rows.append([title, "no worse", _points(gap), _verdict(gap, 0.0)])
    if "fold" in arms:
        own = [rule for rule in rules if rule in arms["fold"].scores]
        gap = difference(arms["fold"], arms["zero"], own, draws, (0.5, 0.5))["ap"]
        title = f"average precision on rules that were not shown, over the model as it was, rules: {len(own)}"
        rows.append([title, "better", _points(gap), _verdict(gap, 0.0)])
    return table(["asked", "wanted", "found, in points", "verdict"], rows)


def _verdict(cell: tuple[float, float, float], least: float) -> str:
    """By the whole interval."""
    if cell[1] >= least:
        return "**reached**"
    return "**missed**" if cell[2] < least else "not told"


def _by_rule(arms: Mapping[str, Arm], draws: Draws) -> str:
    names = [name for name in ("one", "zero", "tfidf same", "tfidf all", "own", "fold") if name in arms]
    rows = []
    for task in TASKS:
        cells = [
            f"{arms[name].measure([task.name], draws, -1, 0.5)['ap']:.3f}" if task.name in arms[name].scores else ""
            for name in names
        ]
        rows.append([f"{task.title} ({task.stage.partition('-')[2]})", *cells])
    text = "## Rule by rule\n\nAverage precision, 40 texts a rule; 0.40 is what a coin gives.\n\n"
    return text + table(["rule", *(TITLES[name] for name in names)], rows) + "![Average precision by rule](one-moderator.svg)\n\n"  # fmt: skip


def _unseen(found: Mapping[str, Any], arms: Mapping[str, Arm], draws: Draws) -> str:
    text = "## Rules that nobody labelled\n\n"
    if "fold" not in arms:
        return text + "**Not measured yet**: models that were shown the other rules alone are still to be trained.\n\n"
    rules = [task.name for task in TASKS if task.name in arms["fold"].scores]
    done = sum(f"fold-{n}" in found["arms"] for n in range(1, len(FOLDS) + 1))
    left_out = "; ".join(", ".join(fold) for n, fold in enumerate(FOLDS, 1) if f"fold-{n}" in found["arms"])
    text += (
        f"{done} of {len(FOLDS)} folds; a fold's model is tuned on the rules outside of it (left out: {left_out}). "
        f"{40 * len(rules)} texts.\n\n"
    )
    rows = []
    for name in ("fold", "zero", "tfidf others", "one"):
        if name in arms:
            own = interval(arms[name], rules, draws, 0.5)
            gap = difference(arms["fold"], arms[name], rules, draws, (0.5, 0.5)) if name != "fold" else None
            rows.append([TITLES[name] + (" (has seen them)" if name == "one" else ""), *(_share(own[m]) for m in METRICS), "" if gap is None else _points(gap["ap"])])  # fmt: skip
    head = [
        "arm",
        "average precision",
        "precision at 0.5",
        "recall at 0.5",
        "tuned on other rules, less this (AP, points)",
    ]
    return text + table(head, rows)


def _own(arms: Mapping[str, Arm], draws: Draws) -> str:
    text = "## Against a model for each rule\n\n"
    if "own" not in arms or "one" not in arms:
        return text + "**Not measured yet.**\n\n"
    rows = []
    for rule in arms["own"].scores:
        a, b = (interval(arms[name], [rule], draws, 0.5)["ap"] for name in ("one", "own"))
        gap = difference(arms["one"], arms["own"], [rule], draws, (0.5, 0.5))
        rows.append([rule, "40", _share(a), _share(b), *(_points(gap[m]) for m in METRICS)])
    head = ["rule", "n", "one model", "a model for this rule", "difference in AP, points", "precision at 0.5", "recall at 0.5"]  # fmt: skip
    text += "Two rules only, to save time: each has a model tuned on its own labels, with a ninth of the tokens.\n\n"
    return text + table(head, rows)


def _cost(found: Mapping[str, Any]) -> str:
    cost, made = found["arms"].get("cost"), found["arms"]
    text = "## What asking costs\n\n"
    if cost:
        one = min(cost["one_model"].values())
        text += (
            f"Tokens to ask {cost['texts']} texts about all {cost['rules']} rules: **{one:,}** by one model (texts first, so "
            f"that rules share a text), {cost['model_a_rule']:,} by a model a rule ({cost['model_a_rule'] / one:.1f} times, and "
            f"{cost['rules']} sets of weights in memory), {cost['plain_prompts']:,} without a prefix tree.\n\n"
        )
    for name in ("one", "zero"):
        if name in made and made[name]["texts_asked"] and made[name]["seconds"]:
            arm = made[name]
            text += (
                f"{TITLES[name].capitalize()}: {arm['seconds'] / arm['texts_asked']:.2f} s for a text and a rule on one core "
                f"({arm['tokens'] / arm['texts_asked']:.0f} tokens computed of {arm['naive_tokens'] / arm['texts_asked']:.0f}). "
            )
            break
    if "tfidf" in made:
        text += f"TF-IDF with logistic regression: {made['tfidf']['ms_a_text']:.2f} ms.\n\n"
    runs = [(name, one["trained"]) for name, one in made.items() if "trained" in one]
    rows = [[n, str(t["rows"]), f"{t['tokens']:,}", f"{t['train_seconds'] / 60:.0f}", f"{t['loss']:.3f}"] for n, t in runs]  # fmt: skip
    return text + (table(["run", "labelled rows", "tokens of answers", "minutes", "last loss"], rows) if rows else "")


def render(found: Mapping[str, Any]) -> str:
    """The measured part of the page."""
    arms = arms_of(found)
    if "one" not in arms or "zero" not in arms:
        there = _overall(arms, draws_of(found["labels"]), 40 * len(TASKS)) + _cost(found) if arms else ""
        return UNFINISHED + there
    draws = draws_of(found["labels"])
    parts = [
        _wanted(arms, draws),
        _overall(arms, draws, 40 * len(TASKS)),
        _differences(arms, draws),
        _unseen(found, arms, draws),
    ]
    return "".join([*parts, _by_rule(arms, draws), _own(arms, draws), _cost(found)])


def draw(found: Mapping[str, Any]) -> str:
    """Average precision of each rule and arm, with intervals: a row a rule."""
    arms, draws = arms_of(found), draws_of(found["labels"])
    names = [name for name in COLOURS if name in arms]
    left, width, row, top = 190, 760, 44, 56
    height = top + row * len(TASKS) + 40

    def x(value: float) -> float:
        return left + value * (width - left - 30)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="12">',
        "<title>Average precision by rule and arm, with 95% intervals</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for place, name in enumerate(names):
        parts.append(f'<circle cx="{20 + 185 * place}" cy="20" r="5" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{30 + 185 * place}" y="24" fill="#222222">{escape(TITLES[name])}</text>')
    for tick in range(0, 11, 2):
        at = x(tick / 10)
        parts.append(f'<line x1="{at:.0f}" x2="{at:.0f}" y1="{top - 12}" y2="{height - 34}" stroke="#dddddd"/>')
        parts.append(f'<text x="{at:.0f}" y="{height - 16}" text-anchor="middle" fill="#444444">{tick / 10:.1f}</text>')
    for number, task in enumerate(TASKS):
        middle = top + row * number + row / 2 - 8
        parts.append(f'<text x="{left - 10}" y="{middle + 4:.0f}" text-anchor="end" fill="#222222">{escape(task.title)}</text>')  # fmt: skip
        for place, name in enumerate(names):
            value, low, high = interval(arms[name], [task.name], draws, 0.5)["ap"]
            y = middle + 8 * (place - (len(names) - 1) / 2)
            parts.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{COLOURS[name]}" stroke-opacity="0.5" stroke-width="2"/>')  # fmt: skip
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[name]}"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def write_study() -> None:
    """Page and plot from the committed numbers."""
    found = read_results(NAME)
    write_page(NAME, render(found))
    if "one" in found["arms"] and "zero" in found["arms"]:
        (PAGES / f"{NAME}.svg").write_text(draw(found), encoding="utf-8")
