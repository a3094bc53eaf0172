"""Charts of a training run, from the lines in its folder: pure functions, as `dashboards.charts`."""

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.charts import ACCENT, LINE, TONES, Chart

KNOWN = {"step", "steps", "loss", "learning_rate", "tokens", "tokens_per_second"}
_PHASES = {"warm-up": "#56B4E9", "stable": "#7A828B", "anneal": "#CC79A7"}


def phases_of(recipe: Mapping[str, Any], steps: int) -> list[dict[str, Any]]:
    """From which step to which the learning rate warms up, is stable and falls, as the recipe's schedule has it."""
    schedule = recipe.get("schedule") or {}
    kind, warmup = schedule.get("kind", "wsd"), float(schedule.get("warmup") or 0)
    anneal = float(schedule.get("anneal") or 0) if kind == "wsd" else 1 - warmup if kind == "cosine" else 0.0
    ends = [("warm-up", 0.0, warmup), ("stable", warmup, 1 - anneal), ("anneal", 1 - anneal, 1.0)]
    return [
        {"phase": name, "from": round(start * steps, 2), "to": round(end * steps, 2)}
        for name, start, end in ends
        if end - start > 1e-9
    ]


def curve(log: Sequence[Mapping[str, Any]], key: str, phases: Sequence[Mapping[str, Any]] = ()) -> Chart:
    """One number of the log over the steps; behind it the phases of the learning rate."""
    values = [{"step": line["step"], "value": float(line[key])} for line in log if line.get(key) is not None]
    title = key.replace("_", " ")
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickMinStep": 1, "format": "d"}}
    y = {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": key == "learning_rate"}}
    if key == "learning_rate":
        y["axis"] = {"format": ".1e"}
    layers: list[dict[str, Any]] = []
    if phases:
        names = [phase["phase"] for phase in phases]
        layers.append(
            {
                "data": {"values": list(phases)},
                "mark": {"type": "rect", "opacity": 0.13},
                "encoding": {
                    "x": {"field": "from", "type": "quantitative"},
                    "x2": {"field": "to"},
                    "color": {
                        "field": "phase",
                        "type": "nominal",
                        "scale": {"domain": names, "range": [_PHASES[name] for name in names]},
                        "legend": {"title": "learning rate", "orient": "bottom"},
                    },
                },
            }
        )
    layers.append({"mark": {"type": "line", "color": ACCENT}, "encoding": {"x": x, "y": y}})
    if len(values) <= 60:
        layers.append({"mark": {"type": "point", "filled": True, "color": ACCENT}, "encoding": {"x": x, "y": y}})
    ends = f"from {values[0]['value']:.4g} to {values[-1]['value']:.4g}" if values else "nothing was written yet"
    told = "; ".join(f"{phase['phase']} from step {phase['from']:g} to {phase['to']:g}" for phase in phases)
    alt = f"{title} over {len(values)} logged steps, {ends}. {told}".strip()
    rows = tuple({"step": value["step"], title: value["value"]} for value in values)
    return Chart(spec={"height": 300, "data": {"values": values}, "layer": layers}, alt=alt, rows=rows)


def source_rows(recipe: Mapping[str, Any], given: Mapping[str, int]) -> list[dict[str, Any]]:
    """What share of the loss-bearing tokens the recipe asks of each source, and what was given so far."""
    mix = recipe.get("mix") or ()
    total = sum(float(source.get("share") or 0) for source in mix) or 1.0
    annealing = sum(_annealed(source) for source in mix) or 1.0
    all_given = sum(given.values())
    names = list(dict.fromkeys([*(str(source["name"]) for source in mix), *given]))
    asked = {str(source["name"]): float(source.get("share") or 0) / total for source in mix}
    late = {str(source["name"]): _annealed(source) / annealing for source in mix}
    return [
        {
            "source": name,
            "asked": asked.get(name),
            "asked while annealing": late.get(name),
            "given": given.get(name, 0) / all_given if all_given else None,
            "tokens given": given.get(name, 0),
        }
        for name in names
    ]


def source_plot(rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Shares asked of each source as a tick, and given as a bar."""
    values = [
        {
            "source": row["source"],
            "asked": 100 * row["asked"] if row["asked"] is not None else None,
            "given": 100 * row["given"] if row["given"] is not None else None,
        }
        for row in rows
    ]
    y = {"field": "source", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 190}}
    x = {
        "field": "given",
        "type": "quantitative",
        "title": "% of the tokens that carry loss",
        "scale": {"domainMin": 0},
    }
    spec = {
        "height": {"step": 34},
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "bar", "color": ACCENT, "height": 14}, "encoding": {"y": y, "x": x}},
            {
                "mark": {"type": "tick", "color": TONES["bad"], "thickness": 3, "size": 26},
                "encoding": {"y": y, "x": {"field": "asked", "type": "quantitative"}},
            },
        ],
    }
    told = ". ".join(f"{row['source']}: asked {_percent(row['asked'])}, given {_percent(row['given'])}" for row in rows)
    shown = tuple(
        {key: _percent(value) if key != "tokens given" else value for key, value in row.items()} for row in rows
    )
    return Chart(
        spec=spec,
        alt=f"Tokens of {len(rows)} sources. {told}.",
        rows=tuple({**one, "source": row["source"]} for one, row in zip(shown, rows, strict=True)),
        reading="The bar is what was given so far, the upright tick what the recipe asks.",
    )


def watched_plot(watched: Mapping[str, Sequence[tuple[int, float, float | None, float | None]]]) -> Chart:
    """What was asked of the live model: change of each retained task since the run began, losses below."""
    values = [
        {"task": task, "step": step, "value": change, "low": low, "high": high}
        for task, points in watched.items()
        for step, change, low, high in points
    ]
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickMinStep": 1, "format": "d"}}
    colour = {"field": "task", "type": "nominal", "legend": {"title": None, "orient": "bottom", "columns": 1}}
    spec = {
        "height": 260,
        "data": {"values": values},
        "layer": [
            {
                "data": {"values": [{"place": 0}]},
                "mark": {"type": "rule", "color": LINE},
                "encoding": {"y": {"field": "place", "type": "quantitative"}},
            },
            {
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "x": x,
                    "y": {"field": "value", "type": "quantitative", "title": "change since the start"},
                    "color": colour,
                },
            },
            {
                "mark": {"type": "rule", "opacity": 0.6},
                "encoding": {
                    "x": x,
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                    "color": colour,
                },
            },
        ],
    }
    told = ". ".join(
        f"{task}: {points[-1][1]:+.3f} at step {points[-1][0]}" for task, points in watched.items() if points
    )
    alt = f"Change of {len(watched)} watched tasks during training, in the metric's own unit. {told}."
    return Chart(spec=spec, alt=alt, rows=tuple(values))


def _annealed(source: Mapping[str, Any]) -> float:
    share = source.get("anneal_share")
    return float(source.get("share") or 0) if share is None else float(share)


def _percent(value: Any) -> Any:
    return f"{100 * value:.1f}%" if isinstance(value, float | int) else value
