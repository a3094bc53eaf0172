"""A forest plot of a comparison as inline SVG: a row for each task, its interval, its margin and the line of no change.

Places along the axis are percentages and everything else is pixels, so that the plot is as wide as the page while text
and shapes keep their size. Loss is always on the left. Built as a tree of elements: text cannot become markup.
"""

import math
from collections.abc import Sequence
from xml.etree import ElementTree

from workbench.publish import wording
from workbench.publish.signs import VERDICTS, Glyph
from workbench.publish.text import reveal_line
from workbench.records import TaskComparison

ROW, TOP, AXIS = 58, 10, 44
"""Pixels: height of a task's row, space above the first, height of the axis."""
_NAME, _SHORT_NAME = 34, 20
"""Characters of a name that are shown, and up to which numbers fit beside it on a telephone."""
_STAR = " ".join(
    f"{'M' if n == 0 else 'L'}{(7.5 if n % 2 == 0 else 3.2) * math.sin(math.pi * n / 5):.2f},"
    f"{-(7.5 if n % 2 == 0 else 3.2) * math.cos(math.pi * n / 5):.2f}"
    for n in range(10)
)
PATHS: dict[Glyph, str] = {
    "circle": "M-5.5,0 a5.5,5.5 0 1,0 11,0 a5.5,5.5 0 1,0 -11,0 Z",
    "ring": "M-5,0 a5,5 0 1,0 10,0 a5,5 0 1,0 -10,0 Z",
    "triangle": "M0,-6.5 L6.5,5 L-6.5,5 Z",
    "square": "M-5,-5 H5 V5 H-5 Z",
    "star": f"{_STAR} Z",
    "cross": "M-5,-5 L5,5 M-5,5 L5,-5",
}
"""Outline of each glyph around 0, 0."""


def forest_plots(tasks: Sequence[TaskComparison]) -> list[tuple[str, str]]:
    """Unit and SVG of one plot for each unit; tasks that were not tested have no place on an axis and are left out."""
    units: dict[str, list[TaskComparison]] = {}
    for task in tasks:
        if task.difference is not None:
            units.setdefault(wording.task_unit(task), []).append(task)
    return [(unit, forest_plot(unit, rows)) for unit, rows in units.items()]


def forest_plot(unit: str, tasks: Sequence[TaskComparison]) -> str:
    """SVG of tasks that share a unit; each must have a difference."""
    low, high = _range(tasks)
    height = TOP + ROW * len(tasks) + AXIS
    title = f"Change of {len(tasks)} tasks in {unit}, with intervals and margins"
    svg = ElementTree.Element("svg", {"class": "forest", "width": "100%", "height": str(height), "role": "img"})
    svg.set("aria-label", f"{title}. " + " ".join(_sentence(task) for task in tasks))
    ElementTree.SubElement(svg, "title").text = title
    bottom = TOP + ROW * len(tasks)
    for tick in ticks_between(low, high):
        place = _place(tick, low, high)
        line_at(svg, "zero" if tick == 0 else "grid", place, TOP, place, bottom + 4)
        write_at(svg, place, bottom + 20, _tick_text(tick, unit, tasks[0].direction), "tick", anchor="middle")
    write_at(svg, "0%", bottom + 38, "← worse", "axis", anchor="start")
    write_at(svg, "50%", bottom + 38, f"change in {unit}", "axis", anchor="middle")
    write_at(svg, "100%", bottom + 38, "better →", "axis", anchor="end")
    for number, task in enumerate(tasks):
        _row(svg, task, TOP + ROW * number, low, high)
    return ElementTree.tostring(svg, encoding="unicode")


def _row(svg: ElementTree.Element, task: TaskComparison, top: int, low: float, high: float) -> None:
    estimate = task.difference
    assert estimate is not None  # rows without one were left out
    sign = VERDICTS[task.verdict]
    name = reveal_line(task.task)
    length = " long" if len(name) > _SHORT_NAME else ""
    row = ElementTree.SubElement(svg, "g", {"class": f"tone-{sign.tone}{length}"})
    name = name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"
    write_at(row, "0%", top + 16, name, "task", anchor="start")
    told = write_at(row, "100%", top + 16, sign.label, "verdict", anchor="end")
    ElementTree.SubElement(told, "tspan", {"class": "numbers", "dx": "0.6em"}).text = wording.format_change(task)
    middle = top + 36
    margin = _place(-task.margin, low, high)
    ElementTree.SubElement(
        row, "rect", {"class": "beyond", "x": "0%", "y": str(middle - 9), "width": margin, "height": "18"}
    )
    line_at(row, "margin", margin, middle - 11, margin, middle + 11)
    if estimate.low is not None and estimate.high is not None:
        ends = [_place(end, low, high) for end in (estimate.low, estimate.high)]
        line_at(row, "interval", ends[0], middle, ends[1], middle)
        for end in ends:
            line_at(row, "interval", end, middle - 5, end, middle + 5)
    point = ElementTree.SubElement(
        row, "svg", {"x": _place(estimate.value, low, high), "y": str(middle), "overflow": "visible"}
    )
    ElementTree.SubElement(point, "path", {"class": f"point {sign.glyph}", "d": PATHS[sign.glyph]})


def _sentence(task: TaskComparison) -> str:
    return f"{reveal_line(task.task)}: {VERDICTS[task.verdict].word}, {wording.tell_change(task)}."


def _range(tasks: Sequence[TaskComparison]) -> tuple[float, float]:
    values = [0.0]  # losses are negative in the records, so all tasks point the same way
    for task in tasks:
        found = (task.difference.value, task.difference.low, task.difference.high) if task.difference else ()
        values += [value for value in found if value is not None]
        values += [-1.4 * task.margin, 0.5 * task.margin]
    low, high = min(values), max(values)
    edge = 0.04 * ((high - low) or 1.0)
    return low - edge, high + edge


def ticks_between(low: float, high: float) -> list[float]:
    """Three to seven round places from `low` to `high`, zero among them."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_text(tick: float, unit: str, direction: str) -> str:
    value = tick * (100 if unit == "points" else 1) * (1 if direction == "higher" else -1)
    text = f"{value:+.6g}"
    return "0" if float(text) == 0 else wording.minus(text)


def _place(value: float, low: float, high: float) -> str:
    return f"{100 * (value - low) / (high - low):.2f}%"


def line_at(parent: ElementTree.Element, kind: str, x1: str, y1: float, x2: str, y2: float) -> None:
    """A line of a class of the style sheet."""
    ElementTree.SubElement(parent, "line", {"class": kind, "x1": x1, "y1": str(y1), "x2": x2, "y2": str(y2)})


def write_at(
    parent: ElementTree.Element, x: str, y: float, text: str, kind: str, *, anchor: str
) -> ElementTree.Element:
    """A text of a class of the style sheet, anchored at its start, middle or end."""
    place = {"class": kind, "x": x, "y": str(y), "text-anchor": anchor}
    label = ElementTree.SubElement(parent, "text", place)
    label.text = text
    return label
