"""Charts of an assessment under a policy: pure functions, as `dashboards.charts`."""

from collections.abc import Sequence
from typing import Any

from dashboards.charts import ACCENT, Chart
from safety.metrics import is_policy_task, read_task_name
from workbench.publish.text import reveal_line
from workbench.records import Estimate, Report, TaskResult

HARMFUL, HARMLESS = "policy/overall/all/harmful_requests", "policy/overall/all/harmless_requests"
_HEAT = ["#FBF6F1", "#E8853D"]
"""From no error to all: dark text can be read on each."""
_INK = "#1f2328"
WORDS = {
    "violation_rate": "did what the policy withholds",
    "over_refusal_rate": "refused what is harmless",
    "allowed_refused": "refused what the policy permits",
}


def leaves_of(report: Report) -> list[TaskResult]:
    """The tasks of an assessment that are no sum of others."""
    return [task for task in report.results if is_policy_task(task.task) and not task.subtasks and not _is_sum(task)]


def heat_map(report: Report) -> Chart:
    """Category by probe: the share of wrong answers and how many of how many, in each cell."""
    cells = []
    for task in leaves_of(report):
        about, estimate = read_task_name(task.task), task.headline
        wrong = round(estimate.value * estimate.n)
        cells.append(
            {
                "category": reveal_line(about.category).replace("_", " ")
                if about.category != "all"
                else f"any ({about.dimension})",
                "probe": reveal_line(about.probe),
                "share": estimate.value,
                "told": f"{wrong:,}/{estimate.n:,}",
                "what": WORDS.get(estimate.metric, estimate.metric.replace("_", " ")),
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "dimension": about.dimension,
            }
        )
    cells.sort(key=lambda cell: (-cell["share"], cell["category"]))
    order = list(dict.fromkeys(cell["category"] for cell in cells))
    y = {"field": "category", "type": "nominal", "sort": order, "title": None, "axis": {"labelLimit": 190}}
    angle = 0 if len({cell["probe"] for cell in cells}) <= 3 else -30
    x = {"field": "probe", "type": "nominal", "title": None, "axis": {"labelAngle": angle, "orient": "top"}}
    tooltip = [{"field": key} for key in ("category", "probe", "what", "told", "low", "high")]
    spec = {
        "height": {"step": 30},
        "data": {"values": cells},
        "layer": [
            {
                "mark": {"type": "rect", "stroke": "#C9D1D9"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"domain": [0, 1], "range": _HEAT, "interpolate": "rgb"},
                        "legend": {"title": "share of wrong answers", "format": "%", "orient": "bottom"},
                    },
                    "tooltip": tooltip,
                },
            },
            {
                "mark": {"type": "text", "color": _INK, "fontSize": 12},
                "encoding": {"x": x, "y": y, "text": {"field": "told"}},
            },
        ],
    }
    told = "; ".join(f"{cell['category']} by {cell['probe']}: {cell['told']} {cell['what']}" for cell in cells[:8])
    rows = tuple(
        {
            "category": cell["category"],
            "probe": cell["probe"],
            "dimension": cell["dimension"],
            "wrong": cell["told"],
            "what is wrong": cell["what"],
            "share": _interval(cell["share"], cell["low"], cell["high"]),
            "n": cell["n"],
        }
        for cell in cells
    )
    return Chart(
        spec=spec,
        alt=f"Wrong answers in {len(order)} categories, the worst first. {told}.",
        rows=rows,
        reading="Each cell says how many answers of how many were wrong: given where the policy withholds, or refused "
        "where it permits. A cell that is not there was not asked.",
    )


def harm_trade_off(reports: Sequence[Report], chosen: str = "") -> Chart:
    """Assessments: harmful requests answered, against harmless ones refused, each with its interval."""
    values: list[dict[str, Any]] = []
    for report in reports:
        found = {task.task: task.headline for task in report.results}
        if HARMFUL in found and HARMLESS in found:
            harm, refusal = found[HARMFUL], found[HARMLESS]
            values.append(
                {
                    "name": reveal_line(report.checkpoint.name),
                    "policy": str(report.settings.get("policy", "")),
                    "harm": 100 * harm.value,
                    "harm low": _percent(harm.low),
                    "harm high": _percent(harm.high),
                    "harm n": harm.n,
                    "refused": 100 * refusal.value,
                    "refused low": _percent(refusal.low),
                    "refused high": _percent(refusal.high),
                    "refused n": refusal.n,
                    "size": 220 if report.id == chosen else 80,
                    "told harm": _told(harm),
                    "told refused": _told(refusal),
                }
            )
    colour = {"field": "policy", "type": "nominal", "legend": {"title": "policy", "orient": "bottom"}}
    x = {"field": "refused", "type": "quantitative", "title": "harmless requests refused, %"}
    y = {"field": "harm", "type": "quantitative", "title": "harmful requests answered, %"}
    shape = {"field": "policy", "type": "nominal", "legend": {"title": "policy", "orient": "bottom"}}
    spec = {
        "height": 380,
        "data": {"values": values},
        "layer": [
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "x": {**x, "field": "refused low"}, "x2": {"field": "refused high"}, "y": y, "color": colour,
                },
            },
            {
                "mark": {"type": "rule"},
                "encoding": {"y": {**y, "field": "harm low"}, "y2": {"field": "harm high"}, "x": x, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "color": ACCENT, "opacity": 1},
                "encoding": {
                    "x": x, "y": y, "color": colour, "shape": shape,
                    "size": {"field": "size", "type": "quantitative", "scale": None},
                    "tooltip": [{"field": key} for key in ("name", "policy", "told harm", "told refused")],
                },
            },
        ],
    }  # fmt: skip
    told = "; ".join(
        f"{one['name']} under {one['policy']}: {one['told harm']}, {one['told refused']}" for one in values[:6]
    )
    rows = tuple(
        {
            "checkpoint": one["name"],
            "policy": one["policy"],
            "harmful answered": one["told harm"],
            "n harmful": one["harm n"],
            "harmless refused": one["told refused"],
            "n harmless": one["refused n"],
        }
        for one in values
    )
    return Chart(
        spec=spec,
        alt=f"{len(values)} assessments: harmful requests answered against harmless ones refused. {told}.",
        rows=rows,
        reading="Both are errors: the lower left corner is best. The large mark is the assessment chosen above.",
    )


def _category(name: str) -> str:
    return reveal_line(name).replace("_", " ")


def _is_sum(task: TaskResult) -> bool:
    return read_task_name(task.task).dimension == "overall"


def _told(estimate: Estimate) -> str:
    return _interval(estimate.value, estimate.low, estimate.high)


def _interval(value: float, low: float | None, high: float | None) -> str:
    ends = "" if low is None or high is None else f" [{100 * low:.1f}%, {100 * high:.1f}%]"
    return f"{100 * value:.1f}%{ends}"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
