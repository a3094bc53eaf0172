"""Charts as Vega-Lite specifications, made from records: pure functions. Knows no page, no store and no Streamlit.

Every chart brings its own words (`alt`) and its own table (`rows`), so nothing is told by a picture alone. An outcome
is a colour, a shape and a word; the colours are Okabe and Ito's, dark enough for a white page and light enough for a
dark one (3:1 on both). Changes are in units of a task's margin, losses on the left: −1 is a budget used up.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.publish import wording
from workbench.publish.signs import OUTCOMES, VERDICTS, Glyph, Sign, Tone
from workbench.publish.text import reveal_line
from workbench.records import Comparison, RuleResult, TaskComparison
from workbench.store.browse import Summary

TONES: Mapping[Tone, str] = {"good": "#009E73", "warn": "#B37400", "bad": "#D55E00", "dim": "#7A828B"}
LINE, ACCENT = "#7A828B", "#0072B2"
_SHAPES: Mapping[Glyph, str] = {
    "circle": "circle",
    "triangle": "triangle-up",
    "square": "square",
    "star": "diamond",
    "ring": "circle",
    "cross": "cross",
}
SHOWN = 40
"""Rows of an interval plot at most: the worst ones. The table has all."""
NAMED = 12
"""Points of a scatter that bear their names, at most."""
_NAME = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart, in words and in numbers too."""

    spec: Mapping[str, Any]
    alt: str
    rows: tuple[Mapping[str, Any], ...]
    """Its table: column -> cell."""
    reading: str = ""
    """How it is to be read, above it."""


def change_plot(comparison: Comparison, tasks: Sequence[TaskComparison] | None = None) -> Chart:
    """Paired differences with their intervals, the largest loss on top; tasks that were not tested are in the table."""
    told = list(comparison.tasks if tasks is None else tasks)
    ordered = sorted(told, key=lambda task: (_in_margins(task) is None, _in_margins(task) or 0.0))
    drawn = [task for task in ordered if _in_margins(task) is not None][:SHOWN]
    values = [_change_point(task) for task in drawn]
    level = wording.interval_level(comparison)
    left_out = sum(_in_margins(task) is not None for task in ordered) - len(drawn)
    more = f" The {left_out} tasks with the smallest losses are in the table alone." if left_out else ""
    name, base = reveal_line(comparison.candidate_checkpoint.name), reveal_line(comparison.baseline_checkpoint.name)
    alt = (
        f"Change of {len(drawn)} tasks of {name} against {base}, with {level} intervals. "
        + " ".join(f"{point['task']}: {point['told']}." for point in values[:8])
        + more
    )
    spec = _intervals(
        values,
        title=f"change in margins, {level} interval",
        key="task",
        signs=VERDICTS.values(),
        lines=[(0.0, [1, 0]), (-1.0, [4, 3])],
    )
    reading = "Losses are on the left; a margin is what may be lost, so what lies beyond −1 is forgotten."
    return Chart(spec=spec, alt=alt, rows=tuple(change_row(task) for task in ordered), reading=reading)


def change_row(task: TaskComparison) -> dict[str, Any]:
    """One task of a comparison, in its own unit."""
    unit = wording.task_unit(task)
    return {
        "task": task.task,
        "role": task.role,
        "verdict": VERDICTS[task.verdict].label,
        "change": wording.format_change(task),
        "unit": unit,
        "margin": wording.format_margin(task.margin, unit),
        "baseline": wording.format_value(task.baseline, unit),
        "candidate": wording.format_value(task.candidate, unit),
        "n": task.n,
        "lost": task.lost,
        "gained": task.gained,
        "required": "yes" if task.required else "no",
        "reason": task.reason,
    }


def limit_plots(rules: Sequence[RuleResult]) -> list[Chart]:
    """What rules with a limit measured, with intervals, beside their limits; a chart for each unit."""
    units: dict[str, list[RuleResult]] = {}
    for rule in rules:
        if rule.verdict is None and rule.estimate is not None and rule.limit is not None:
            units.setdefault(wording.unit_of(rule.estimate.metric, rule.estimate.value, rule.limit), []).append(rule)
    return [_limit_plot(unit, own) for unit, own in units.items()]


def rule_row(rule: RuleResult, task: TaskComparison | None = None) -> dict[str, Any]:
    """One rule of a decision."""
    return {
        "outcome": OUTCOMES[rule.outcome].label,
        "rule": rule.rule,
        "measured": wording.format_measured(rule, task),
        "limit": wording.format_limit(rule, task),
        "n": rule.estimate.n if rule.estimate else None,
        "why": rule.reason,
        "required": "yes" if rule.required else "advisory",
        "overridden": rule.overridden or "",
    }


def trade_off(points: Sequence[Summary], chosen: str = "") -> Chart:
    """What checkpoints gained in their domain, against what their worst retained task lost; `chosen` is ringed."""
    values = [
        {
            "name": _short(point.name),
            "baseline": _short(point.baseline),
            "gain": point.gain,
            "loss": point.loss,
            "outcome": OUTCOMES[point.label].label,  # type: ignore[index]  # a comparison's label is an outcome
            "id": point.id,
            "size": 220 if point.id == chosen else 70,
        }
        for point in points
        if point.gain is not None and point.loss is not None and point.label in OUTCOMES
    ]
    axis = {"grid": True, "tickCount": 6}
    spec = {
        "height": 340,
        "data": {"values": values},
        "layer": [
            _line("x", -1.0, [4, 3]),
            _line("x", 0.0, [1, 0]),
            _line("y", 0.0, [1, 0]),
            {
                "mark": {"type": "point", "filled": True, "opacity": 0.85},
                "encoding": {
                    "x": _axis("loss", "worst retained task, in margins (beyond −1: forgotten)", axis),
                    "y": _axis("gain", "gain in the domain, in margins", axis),
                    "size": {"field": "size", "type": "quantitative", "scale": None},
                    **_signed(OUTCOMES.values(), "outcome"),
                    "tooltip": [{"field": key} for key in ("name", "baseline", "outcome", "gain", "loss")],
                },
            },
            *([_names(values)] if len(values) <= NAMED else []),
        ],
    }
    ranked = sorted(values, key=lambda value: -value["gain"])
    told = "; ".join(
        f"{value['name']} gains {value['gain']:+.2f} and loses {value['loss']:+.2f}, {value['outcome']}"
        for value in ranked[:5]
    )
    alt = f"{len(values)} checkpoints: gain in the domain against the worst retained task, in margins. {told}."
    rows = tuple(
        {
            "checkpoint": value["name"],
            "baseline": value["baseline"],
            "outcome": value["outcome"],
            "domain, in margins": round(value["gain"], 3),
            "worst retained, in margins": round(value["loss"], 3),
            "comparison": value["id"][:12],
        }
        for value in ranked
    )
    return Chart(spec=spec, alt=alt, rows=rows)


def _names(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The names of few points, beside them: on the left of the rightmost ones, where there is room."""
    middle = (min(value["loss"] for value in values) + max(value["loss"] for value in values)) / 2 if values else 0.0
    is_right = f"datum.loss > {middle}"
    return {
        "mark": {
            "type": "text",
            "color": LINE,
            "fontSize": 11,
            "dy": -10,
            "dx": {"expr": f"{is_right} ? -6 : 6"},
            "align": {"expr": f"{is_right} ? 'right' : 'left'"},
        },
        "encoding": {
            "x": {"field": "loss", "type": "quantitative"},
            "y": {"field": "gain", "type": "quantitative"},
            "text": {"field": "name"},
        },
    }


def trajectory(comparisons: Sequence[tuple[int, Comparison]], tasks: Sequence[str] = ()) -> Chart:
    """How tasks changed over the steps of a run, against the same baseline; `comparisons` are (step, comparison)."""
    values = [
        {
            "step": step,
            "task": _short(task.task),
            "verdict": VERDICTS[task.verdict].label,
            **_ends(task),
        }
        for step, comparison in sorted(comparisons, key=lambda pair: pair[0])
        for task in comparison.tasks
        if _in_margins(task) is not None and (not tasks or task.task in tasks)
    ]
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickMinStep": 1, "format": "d"}}
    colour = {"field": "task", "type": "nominal", "title": "task", "legend": {"orient": "bottom", "columns": 1}}
    spec = {
        "height": 320,
        "data": {"values": values},
        "layer": [
            _line("y", 0.0, [1, 0]),
            _line("y", -1.0, [4, 3]),
            {"mark": {"type": "line"}, "encoding": {"x": x, "y": _axis("value", _MARGINS), "color": colour}},
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "x": x,
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {
                    "x": x,
                    "y": {"field": "value", "type": "quantitative"},
                    "color": colour,
                    "shape": _signed(VERDICTS.values(), "verdict")["shape"],
                    "tooltip": [{"field": key} for key in ("task", "step", "verdict", "value", "low", "high")],
                },
            },
        ],
    }
    names = list(dict.fromkeys(value["task"] for value in values))
    ends = [f"{name} ends at {[v for v in values if v['task'] == name][-1]['value']:+.2f}" for name in names[:6]]
    alt = f"Change of {len(names)} tasks over {len(comparisons)} checkpoints of a run, in margins. {'; '.join(ends)}."
    rows = tuple(
        {key: _rounded(value[key]) for key in ("task", "step", "verdict", "value", "low", "high")} for value in values
    )
    return Chart(spec=spec, alt=alt, rows=rows)


_MARGINS = "change in margins"


def _limit_plot(unit: str, rules: Sequence[RuleResult]) -> Chart:
    order = {"fail": 0, "hold": 1, "pass": 2}
    ordered = sorted(rules, key=lambda rule: (order[rule.outcome], rule.rule))
    scale = 100 if unit == "points" else 1
    values = []
    for rule in ordered[:SHOWN]:
        assert rule.estimate is not None and rule.limit is not None  # by the caller's choice
        values.append(
            {
                "rule": _short(rule.rule.split(":")[0]),
                "value": scale * rule.estimate.value,
                "low": _scaled(rule.estimate.low, scale),
                "high": _scaled(rule.estimate.high, scale),
                "limit": scale * rule.limit,
                "sign": OUTCOMES[rule.outcome].label,
                "told": f"{OUTCOMES[rule.outcome].word}, {wording.format_measured(rule)}, "
                f"limit {wording.format_limit(rule)}",
            }
        )
    name = "%" if unit == "points" else unit
    spec = _intervals(values, title=f"{name}, with interval", key="rule", signs=OUTCOMES.values())
    y = {"field": "rule", "type": "nominal", "sort": None}
    spec["layer"].append(
        {
            "mark": {"type": "tick", "thickness": 3, "size": 18, "color": LINE},
            "encoding": {"y": y, "x": {"field": "limit", "type": "quantitative"}},
        }
    )
    alt = f"{len(values)} rules against their limits. " + " ".join(f"{v['rule']}: {v['told']}." for v in values[:8])
    rows = tuple(rule_row(rule) for rule in ordered)
    return Chart(spec=spec, alt=alt, rows=rows, reading="The upright tick in each row is its limit.")


def _intervals(
    values: Sequence[Mapping[str, Any]],
    *,
    title: str,
    key: str,
    signs: Iterable[Sign],
    lines: Sequence[tuple[float, list[int]]] = (),
) -> dict[str, Any]:
    """A row for each value: its interval as a line, its point by its sign."""
    y = {
        "field": key,
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 190, "grid": False, "ticks": False, "domain": False, "labelFlush": False},
    }
    x = {"field": "value", "type": "quantitative", "title": title, "axis": {"grid": True, "titleLimit": 700}}
    present = {value["sign"] for value in values}
    signed = _signed([sign for sign in signs if sign.label in present], "sign")
    return {
        "height": {"step": 26},
        "data": {"values": list(values)},
        "layer": [
            *(_line("x", place, dash) for place, dash in lines),
            {
                "mark": {"type": "rule", "size": 2},
                "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": signed["color"]},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {"y": y, "x": x, **signed, "tooltip": [{"field": key}, {"field": "told"}]},
            },
        ],
    }


def _change_point(task: TaskComparison) -> dict[str, Any]:
    told = f"{VERDICTS[task.verdict].word}, {wording.tell_change(task)}"
    return {"task": _short(task.task), "sign": VERDICTS[task.verdict].label, "told": told, **_ends(task)}


def _ends(task: TaskComparison) -> dict[str, float | None]:
    assert task.difference is not None  # only tested tasks are drawn
    low, high = task.difference.low, task.difference.high
    return {
        "value": task.difference.value / task.margin,
        "low": None if low is None else low / task.margin,
        "high": None if high is None else high / task.margin,
    }


def _in_margins(task: TaskComparison) -> float | None:
    return task.difference.value / task.margin if task.difference is not None and task.margin else None


def _signed(signs: Iterable[Sign], field: str) -> dict[str, Any]:
    """Colour and shape by a sign's label; the legend names the word."""
    known = list(signs)
    labels = [sign.label for sign in known]
    legend = {"title": None, "orient": "bottom", "columns": 2, "labelExpr": "slice(datum.label, 2)"}
    return {
        "color": {
            "field": field,
            "type": "nominal",
            "scale": {"domain": labels, "range": [TONES[sign.tone] for sign in known]},
            "legend": legend,
        },
        "shape": {
            "field": field,
            "type": "nominal",
            "scale": {"domain": labels, "range": [_SHAPES[sign.glyph] for sign in known]},
            "legend": legend,
        },
    }


def _line(axis: str, place: float, dash: list[int]) -> dict[str, Any]:
    return {
        "data": {"values": [{"place": place}]},
        "mark": {"type": "rule", "color": LINE, "strokeDash": dash, "opacity": 0.8},
        "encoding": {axis: {"field": "place", "type": "quantitative"}},
    }


def _axis(field: str, title: str, axis: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "axis": {"titleLimit": 700, **(axis or {})},
        "scale": {"padding": 14},
    }


def _short(name: str) -> str:
    line = reveal_line(name)
    return line if len(line) <= _NAME else f"{line[: _NAME - 1]}…"


def _scaled(value: float | None, scale: int) -> float | None:
    return None if value is None else scale * value


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value
