"""The page of the study on an emerging threat, and its plots. Knows what happened in each resample; runs nothing."""

# ruff: noqa: E501 (sentences of the page)

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.emerging_threat import DAYS, LANE, ONSET, RECOVERED, SCENARIOS, SEEN_BY_PEOPLE, WAYS, WEEKS
from studies.experiment import PAGES, UNFINISHED, points, read_results, table, write_page
from studies.uncertainty_page import chart
from workbench.statistics import wilson_interval

NAME = "emerging-threat"
RESAMPLES = 1000
TITLES = {
    "spam": "Spam among posts",
    "hate": "Hate speech among posts",
    "threats": "Threats among sexist posts",
}
WAYS_TOLD = {
    "ranked": "top by expected loss",
    "ranked+alarm": "top by expected loss, alarm",
    "drawn": "drawn, with exploration",
    "drawn+alarm": "drawn, with exploration, alarm",
}
SHORT = {"ranked": "top by loss", "ranked+alarm": "top by loss, alarm", "drawn": "drawn", "drawn+alarm": "drawn, alarm"}
Runs = Sequence[Mapping[str, Any]]


def noticed(story: Mapping[str, Any]) -> float:
    """Days from the first text until people have seen five, or an alarm went off; inf: not by the end."""
    seen = [day for day, count in enumerate(story["new_labels"]) if count >= SEEN_BY_PEOPLE]
    rung = [day for day in story["alarms"] if day >= ONSET]
    days = [*seen[:1], *rung[:1]]
    return float(min(days) - ONSET + 1) if days else float("inf")


def recovered(story: Mapping[str, Any], full: float) -> float:
    """Days until recall stays at four fifths of what all labels would give, to the end; inf: it does not."""
    goal = RECOVERED * full
    day = DAYS
    while day > ONSET and story["recall"][day - 1] >= goal:
        day -= 1
    return float(day + 1 - ONSET) if day < DAYS else float("inf")


def labels_at(story: Mapping[str, Any], days: float) -> float:
    """Labels since the first text of the new kind; inf where the time never came."""
    if np.isinf(days):
        return float("inf")
    return float(story["labels"][ONSET + int(days) - 1] - story["labels"][ONSET - 1])


def _median(values: Sequence[float], *, end: str) -> str:
    """Median over resamples with a 95% interval by resampling them; what never came counts as later than the end."""
    own = np.array(values, float)
    rng = np.random.default_rng(3)
    drawn = np.sort([_middle(own[rng.integers(len(own), size=len(own))]) for _ in range(RESAMPLES)])
    cells = [_middle(own), drawn[round(0.025 * RESAMPLES)], drawn[round(0.975 * RESAMPLES) - 1]]
    value, low, high = (end if np.isinf(one) else f"{one:.0f}" for one in cells)
    return f"{value} [{low}, {high}]"


def _middle(values: Any) -> float:
    return float(np.sort(values)[(len(values) - 1) // 2])


def _mean(values: Sequence[float]) -> str:
    own = np.array(values, float)
    half = 1.96 * own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else float("nan")
    return f"{own.mean():.3f} [{own.mean() - half:.3f}, {own.mean() + half:.3f}]"


def _scenario(name: str, runs: Runs) -> str:
    full = float(np.mean([one["full"] for one in runs]))
    arrived = float(np.mean([sum(one["arrived"]) for one in runs]))
    text = (
        f"### {TITLES[name]}\n\n{len(runs)} resamples; {arrived:.0f} texts of the new kind in {DAYS - ONSET} days. Recall with labels of the "
        f"whole stream: {full:.2f}.\n\n"
    )
    rows = []
    for way in WAYS:
        stories = [one[way] for one in runs]
        seen = [noticed(story) for story in stories]
        back = [recovered(story, one["full"]) for story, one in zip(stories, runs, strict=True)]
        rows.append(
            [
                WAYS_TOLD[way],
                _median(seen, end="never"),
                _median([labels_at(s, d) for s, d in zip(stories, seen, strict=True)], end="–"),
                _median(back, end="never"),
                _share([np.isfinite(day) for day in back]),
                _mean([story["recall"][-1] for story in stories]),
                f"{np.mean([story['labels'][-1] for story in stories]):.0f}",
                f"{np.mean([story['new_labels'][-1] for story in stories]):.1f}",
                f"{np.mean([story['known'][-1] for story in stories]):.3f}",
            ]
        )
    head = ["who looks at what", "days until noticed", "labels until then", "days until recovered", "recovered at all"]
    head += ["recall on the last day", "labels in all", "of them new", "recall of known kinds"]
    return (
        text + table(head, rows) + _alarms(runs) + f"![Recall of the new kind by day](emerging-threat-{name}.svg)\n\n"
    )


def _share(flags: Sequence[Any]) -> str:
    found = wilson_interval(sum(map(bool, flags)), len(flags))
    return f"{np.mean([bool(flag) for flag in flags]):.0%} [{found.low:.0%}, {found.high:.0%}]"


def _alarms(runs: Runs) -> str:
    """Until it goes off first, the alarm hears the same whoever looks at what: a stream counts once."""
    first = [run["ranked+alarm"]["alarms"] for run in runs]
    false = [any(day < ONSET for day in days) for days in first]
    rang = [any(day >= ONSET for day in days) for days in first]
    stories = [run[way] for run in runs for way in WAYS if way.endswith("alarm")]
    lanes = [n for s in stories for day, n in zip(s["alarms"], s["lane_new"], strict=True) if day >= ONSET]
    told = "no lane was opened after it"
    if lanes:
        told = f"an alarm's lane of {LANE} held {np.mean(lanes):.1f} texts of the new kind on average"
    return (
        f"The alarm went off after the new kind came in {_share(rang)} of streams, before it in {_share(false)} "
        f"({ONSET} days of 100 texts); {told}.\n\n"
    )


def _gaps(found: Mapping[str, Any]) -> str:
    """Paired differences of the last day's recall and of the days that the threat goes unnoticed."""
    rows = []
    for name in SCENARIOS:
        runs = found["scenarios"].get(name, [])
        for title, one, other in (
            ("exploration", "drawn", "ranked"),
            ("alarm, without exploration", "ranked+alarm", "ranked"),
            ("alarm, with exploration", "drawn+alarm", "drawn"),
        ):
            if len(runs) > 1:
                mean = [np.mean(run[one]["recall"][ONSET:]) - np.mean(run[other]["recall"][ONSET:]) for run in runs]
                late = DAYS - ONSET + 1
                days = [min(noticed(run[one]), late) - min(noticed(run[other]), late) for run in runs]
                rows.append([TITLES[name], title, _gap(mean, 100, "points"), _gap(days, 1, "days")])
    head = ["threat", "what is added", "recall of the new kind, mean of all days", "days until noticed"]
    text = "## What exploration and alarm add\n\nDifferences on the same streams, mean and 95% interval; a threat that was never noticed counts as noticed on the day after the last.\n\n"
    return text + table(head, rows) if rows else ""


def _gap(values: Sequence[float], scale: float, unit: str) -> str:
    own = scale * np.array(values, float)
    half = 1.96 * own.std(ddof=1) / np.sqrt(len(own))
    cells = [points(v / 100) for v in (own.mean(), own.mean() - half, own.mean() + half)]
    return f"{cells[0]} [{cells[1]}, {cells[2]}] {unit}"


def _weeks(found: Mapping[str, Any]) -> str:
    """Do the queue's own numbers show it: recall of a week, estimated from what was drawn."""
    rows = []
    for name in SCENARIOS:
        runs = found["scenarios"].get(name, [])
        for place, day in enumerate(WEEKS):
            weeks = [run["drawn"]["weeks"][place] for run in runs if len(run["drawn"]["weeks"]) > place]
            if weeks:
                held = [low <= truth <= high for _, low, high, truth in weeks]
                value = float(np.nanmean([one[0] for one in weeks]))
                truth = float(np.mean([one[3] for one in weeks]))
                wide = float(np.mean([one[2] - one[1] for one in weeks]))
                rows.append(
                    [TITLES[name], f"{day - 6} to {day}", f"{truth:.3f}", f"{value:.3f}", f"{wide:.3f}", _share(held)]
                )
    head = [
        "threat",
        "days",
        "true recall of all violations",
        "estimated",
        "width of the interval",
        "intervals that hold",
    ]
    text = "## What the queue's own estimate shows\n\nRecall of all violations of a week, estimated from about 105 labels that were drawn with known probabilities.\n\n"
    return text + table(head, rows) if rows else ""


def _hidden(found: Mapping[str, Any]) -> str:
    own = found.get("hidden")
    text = "## What novelty is measured on\n\n"
    if not own:
        return text + "Vectors of word counts only; SmolLM2's last hidden state is **not measured yet**.\n\n"
    rows = [
        [
            TITLES[one["scenario"]],
            one["vectors"],
            f"{one['share']:.0%}",
            f"{one['auc']:.3f}",
            _median([float("inf") if n is None else n for n in one["delays"]], end="never"),
            _share(one["fired"]),
            _share(one["false"]),
        ]
        for one in own["rows"]
    ]
    head = [
        "threat",
        "vectors",
        "share of the stream",
        "AUC of novelty",
        "texts until the alarm",
        "alarm within the stream",
        "false alarm in as many usual texts",
    ]
    text += (
        f"{own['reference']:,} usual texts as reference, streams of {own['length']:,} texts, {own['resamples']} resamples; texts cut to "
        f"{own['cut']} tokens for the model.\n\n"
    )
    return text + table(head, rows)


def render(found: Mapping[str, Any]) -> str:
    """The measured part of the page."""
    if not found["scenarios"]:
        return UNFINISHED
    parts = [_scenario(name, runs) for name in SCENARIOS if (runs := found["scenarios"].get(name))]
    return "".join([*parts, _gaps(found), _weeks(found), _hidden(found)])


def plots(found: Mapping[str, Any]) -> dict[str, str]:
    """File name -> SVG: mean recall of the new kind at the end of each day."""
    made = {}
    for name, runs in found["scenarios"].items():
        lines = {
            SHORT[way]: [[day + 1, float(np.mean([run[way]["recall"][day] for run in runs]))] for day in range(DAYS)]
            for way in WAYS
        }
        lines["labels of everything"] = [
            [1, (full := float(np.mean([run["full"] for run in runs])))],
            [DAYS, full],
        ]
        made[f"{NAME}-{name}.svg"] = chart(
            f"{TITLES[name]}: recall of the new kind, which comes on day {ONSET + 1}",
            "day", "recall at 5% of allowed texts flagged", lines, x_min=0, x_max=DAYS, y_max=0.8,
        )  # fmt: skip
    return made


def write_study() -> None:
    """Page and plots from the committed numbers."""
    found = read_results(NAME)
    write_page(NAME, render(found))
    for name, svg in plots(found).items():
        (PAGES / name).write_text(svg, encoding="utf-8")
