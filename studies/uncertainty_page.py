"""The page of the study on uncertainty, and its plots. Knows the numbers of `uncertainty_pays`; measures nothing."""

# ruff: noqa: E501, PERF401 (sentences of the page)

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "studies"
PAGE = FOLDER / "uncertainty.md"
COLOURS = ("#1f6fb2", "#c2571a", "#2e7d4f", "#7b4fa3", "#555555")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "1 4")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 700, 360, 64, 220, 40, 48
NAMES = {
    "random": "random",
    "margin": "margin",
    "entropy": "entropy",
    "margin_diverse": "margin, unlike each other",
    "mutual_information": "disagreement (MI)",
    "ensemble": "doubt of an ensemble",
    "error_model": "error model",
    "expected_loss": "expected loss",
    "ideal": "ideal",
    "before": "before",
    "after": "after",
}
SETS = {"davidson": "Davidson", "edos": "EDOS", "sms_spam": "SMS spam"}
Lines = Mapping[str, Sequence[Sequence[float]]]


def chart(
    title: str, x: str, y: str, lines: Lines, *, x_max: float, y_max: float, x_min: float = 0.0, y_min: float = 0.0
) -> str:
    """An SVG of lines, each told apart by colour, dash and name; percent axes where they end at 1 or below."""

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - x_min) / (x_max - x_min) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - (py - y_min) / (y_max - y_min) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" fill="#222222">{escape(title)}</text>',
    ]
    for i in range(6):
        tx, ty = x_min + (x_max - x_min) * i / 5, y_min + (y_max - y_min) * i / 5
        (px, _), (_, py) = at(tx, y_min), at(x_min, ty)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end" fill="#444444">{_tick(ty, y_max)}</text>'
        )
        parts.append(
            f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#444444">{_tick(tx, x_max)}</text>'
        )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle" fill="#222222">{escape(x)}</text>')
    centre = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(16 {centre}) rotate(-90)" text-anchor="middle" fill="#222222">{escape(y)}</text>'
    )
    for place, (name, points) in enumerate(lines.items()):
        shown = [at(px, min(max(py, y_min), y_max)) for px, py, *_ in points if x_min <= px <= x_max]
        colour, dash = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in shown)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        ly = TOP + 14 + 20 * place
        lx = WIDTH - RIGHT + 10
        parts.append(
            f'<line x1="{lx}" x2="{lx + 26}" y1="{ly}" y2="{ly}" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        parts.append(f'<text x="{lx + 32}" y="{ly + 4}" fill="#222222">{escape(NAMES.get(name, name))}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _tick(value: float, end: float) -> str:
    return f"{value:.0%}" if end <= 1.0 else f"{value:,.0f}"


def plots(found: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG."""
    made: dict[str, str] = {}
    for name in _done(found):
        if f"calibration/{name}" not in found:
            continue
        own = found[f"errors/{name}"]
        order = ("error_model", "ensemble", "margin", "mutual_information", "random")
        curves = {m: own["curve"][m] for m in order}
        made[f"uncertainty-errors-{name}.svg"] = chart(
            f"{SETS[name]}: errors found by share of texts reviewed",
            "texts reviewed",
            "errors found",
            curves,
            x_max=0.5,
            y_max=1.0,
        )
        risk = {m: own["risk_coverage"][m]["curve"] for m in order}
        top = max(point[1] for curve in risk.values() for point in curve)
        made[f"uncertainty-risk-{name}.svg"] = chart(
            f"{SETS[name]}: errors among what is decided alone",
            "texts decided alone",
            "of them wrong",
            risk,
            x_max=1.0,
            y_max=math.ceil(10 * top) / 10,
        )
        both = found[f"calibration/{name}"]
        lines = {k: both[f"reliability_{k}"] for k in ("before", "after")}
        end = 0.5 if max(v for line in lines.values() for point in line for v in point[:2]) <= 0.5 else 1.0
        made[f"uncertainty-reliability-{name}.svg"] = chart(
            f"{SETS[name]}: share that violates by probability",
            "probability said",
            "share seen",
            lines | {"ideal": [[0, 0], [end, end]]},
            x_max=end,
            y_max=end,
        )
    for name in SETS:
        if f"labels/{name}" not in found:
            continue
        own = found[f"labels/{name}"]
        lines = {
            m: [[s, sum(c[i] for c in curves) / len(curves)] for i, s in enumerate(own["steps"])]
            for m, curves in own["curves"].items()
        }
        values = [point[1] for line in lines.values() for point in line]
        low = int(min(values) * 10) / 10
        low, high = (0.5, 1.0) if low > 0.5 or max(values) > low + 0.5 else (low, low + 0.5)
        made[f"uncertainty-labels-{name}.svg"] = chart(
            f"{SETS[name]}: macro-F1 by number of labels, mean of {len(own['full'])} seeds", "labels", "macro-F1, held out", lines,
            x_min=0, x_max=own["steps"][-1], y_min=low, y_max=high,
        )  # fmt: skip
    return made


def _done(found: Mapping[str, Any]) -> list[str]:
    return [name for name in ("davidson", "edos") if f"calibration/{name}" in found]


def _pct(value: float) -> str:
    return f"{100 * value:.1f}%"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _errors(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Errors in the first tenth of the queue", ""]
    lines += [
        "The classifier is TF-IDF (words, pairs, runs of letters) with logistic regression; five folds, each verdict out of fold. *Ensemble*: two resampled copies, a",
        "balanced one and naive Bayes; its doubt is one less the mean probability of the verdict. *Error model*: boosted trees that were shown, inside the training part,",
        "on which texts the classifier errs. Intervals: 300 resamples of texts, which keep the fits as they are; the gap is paired.",
        "",
    ]
    for name in _done(found):
        own = found[f"errors/{name}"]
        lines.append(f"**{SETS[name]}**, n = {own['n']:,}, {own['errors']:,} errors (accuracy {own['accuracy']:.3f}):")
        lines.append("")
        rows = []
        for m in ("random", "margin", "mutual_information", "ensemble", "error_model"):
            one = own["found"][m]
            tenth = one["0.1"]
            gap = (
                ""
                if m == "margin"
                else f"{100 * tenth['gap']:+.1f} [{100 * tenth['gap_low']:+.1f}, {100 * tenth['gap_high']:+.1f}]"
            )
            risk = own["risk_coverage"][m]
            rows.append(
                [
                    NAMES[m],
                    _pct(one["0.05"]["value"]),
                    f"**{_pct(tenth['value'])}** [{_pct(tenth['low'])}, {_pct(tenth['high'])}]",
                    gap,
                    _pct(one["0.2"]["value"]),
                    _pct(one["0.3"]["value"]),
                    f"{risk['aurc']:.4f}",
                    f"{risk['excess']:.4f}",
                ]
            )
        lines += _table(
            ["ranker", "in 5%", "in 10%", "points over margin", "in 20%", "in 30%", "AURC", "excess AURC"], rows
        )
        rare = own["rare"]
        cells = [
            f"{NAMES[m]} {_pct(rare['found'][m]['0.1'])}"
            for m in ("margin", "ensemble", "error_model", "expected_loss")
        ]
        what = {"davidson": "texts of hate speech", "edos": "sexist posts"}[name]
        lines += [
            f"Of the {rare['n']:,} {what} that the classifier missed, the first tenth holds: {', '.join(cells)}.",
            "",
            f"![Errors found by share of texts reviewed, {SETS[name]}](uncertainty-errors-{name}.svg)",
            f"![Errors among texts decided alone, {SETS[name]}](uncertainty-risk-{name}.svg)",
            "",
        ]
    return lines


def _labels(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Labels to the full-label score, less one point", ""]
    lines += [
        "Macro-F1 on a held-out 30%; 100 random labels to begin with, then the ranker chooses; balanced weights; the vectors are fitted to all texts of the pool, which",
        "need no labels. The number is where the mean curve over the seeds first reaches the mean full-label score less 0.01, on a straight line between steps.",
        "",
    ]
    rows = []
    for name in SETS:
        if f"labels/{name}" not in found:
            continue
        own = found[f"labels/{name}"]
        base = own["needed_mean"]["random"]
        cells = []
        for m in ("random", "margin", "margin_diverse"):
            value = own["needed_mean"][m]
            ratio = f" ({base / value:.1f}x)" if value and base and m != "random" else ""
            cells.append(f"{value:,.0f}{ratio}" if value else f"not within {own['steps'][-1]:,}")
        mean = sum(own["full"]) / len(own["full"])
        rows.append([SETS[name], f"{own['n']:,}", f"{mean:.3f}", *cells])
    lines += _table(["set", "n", "full-label F1", "random", "margin", "margin, unlike each other"], rows)
    lines += [
        f"![Macro-F1 by number of labels, {SETS[n]}](uncertainty-labels-{n}.svg)"
        for n in SETS
        if f"labels/{n}" in found
    ]
    return [*lines, ""]


def _guarantee(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Promises", ""]
    lines += [
        "A threshold clears what lies below it and promises, with 95% confidence, to miss at most so many of the violations. Violations are drawn with replacement from",
        "the set's own, 200 times a row, so the truth is known. *Plain quantile*: the same quantile of the labels without the binomial bound. *Ranked labels*: the bound,",
        "on labels that a queue ranked by probability would have found.",
        "",
    ]
    rows = []
    for name in _done(found):
        for study in found[f"guarantee/{name}"]:
            for row in study["rows"]:
                rows.append(
                    [
                        SETS[name], f"{study['miss']:.0%}", f"{row['n']}", f"**{_pct(row['broken'] / 200)}**",
                        _pct(row["plain_quantile"] / 200), _pct(row["ranked_labels"] / 200), _pct(row["cleared"]),
                    ]
                )  # fmt: skip
    return lines + _table(
        [
            "set",
            "may miss",
            "violations labelled",
            "promise broken",
            "plain quantile",
            "ranked labels",
            "cleared alone",
        ],
        rows,
    )


def _calibration(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Do probabilities hold?", "", "Fitted on a random half, measured on the other, 300 resamples.", ""]
    rows = []
    for name in _done(found):
        own = found[f"calibration/{name}"]
        for when in ("before", "after"):
            cells = [
                f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b, _ in (own[when][k] for k in ("ece", "brier", "log_loss"))
            ]
            band = own[when].get("ece_band")
            cells.append(f"{band[0]:.3f} [{band[1]:.3f}, {band[2]:.3f}], n = {band[3]}" if band else "too few")
            rows.append(
                [
                    f"{SETS[name]}, {when}" + (f" ({own['how']}, {own['labels']:,} labels)" if when == "after" else ""),
                    *cells,
                ]
            )
    lines += _table(["set", "ECE", "Brier", "log-loss", "ECE in 0.2 to 0.8"], rows)
    return (
        lines
        + [f"![Reliability before and after, {SETS[n]}](uncertainty-reliability-{n}.svg)" for n in _done(found)]
        + [""]
    )


def _coverage(found: Mapping[str, Any]) -> list[str]:
    lines = ["## Honest numbers from a ranked queue", ""]
    lines += [
        "1,000 streams of 20,000 texts; of each about 950 are drawn by expected loss with 10% exploration, and the whole stream's numbers are estimated. *Synthetic*: 4%",
        "violate, 15% of those look like any other. *Davidson*: drawn with replacement from the set's own probabilities, Platt-calibrated. Coverage is of 95% intervals;",
        "with 1,000 streams it is itself known to about 1.4 points.",
        "",
    ]
    rows = []
    for name, title in (("synthetic", "synthetic"), ("davidson", "Davidson")):
        if f"coverage/{name}" not in found:
            continue
        own = found[f"coverage/{name}"]
        for method in ("model_assisted", "hajek"):
            for what in ("precision", "recall", "missed", "violations"):
                bias, error, spread = own["bias"][method][what]
                form = (
                    (lambda v: f"{100 * v:+.2f} points")
                    if what in ("precision", "recall")
                    else (lambda v: f"{v:+.1f} texts")
                )
                rows.append(
                    [
                        title,
                        method.replace("_", "-"),
                        what,
                        f"**{own['held'][method][what] / own['queues']:.1%}**",
                        f"{form(bias)} (SE {form(error)[1:]})",
                        form(spread)[1:],
                    ]
                )
    lines += _table(["stream", "method", "of the whole stream", "coverage", "bias", "SD of the estimate"], rows)
    own = found["coverage/synthetic"]["naive"]
    lines += [
        f"Taken plainly, the same queue's share of violations among its flagged texts is off by {100 * own['precision'][0]:+.1f} points on average, and the share of flagged among the violations in "
        f"a pure top 1,000 by {100 * own['recall'][0]:+.1f} points, whatever the number of labels.",
        "",
    ]
    return lines


def write_page(found: Mapping[str, Any]) -> None:
    """The page and its plots."""
    for name, svg in plots(found).items():
        (FOLDER / name).write_text(svg, encoding="utf-8")
    head = (
        (FOLDER / "uncertainty-head.md").read_text(encoding="utf-8")
        if (FOLDER / "uncertainty-head.md").exists()
        else ""
    )
    lines = [*_errors(found), *_labels(found), *_guarantee(found), *_calibration(found), *_coverage(found)]
    seconds = sum(found["cpu_seconds"].values())
    lines += [
        f"Command: `make study-uncertainty-pays`; {seconds:,.0f} s of CPU on one shared core. Seeds stand in the code; the sets are public and not part of the repository.",
        "",
    ]
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else head
    top = old.split("<!-- measured -->")[0]
    PAGE.write_text(f"{top}<!-- measured -->\n\n" + "\n".join(lines), encoding="utf-8")
