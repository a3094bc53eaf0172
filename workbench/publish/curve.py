"""The merge frontier as SVG: what each average gained in the domain, against what its worst retained task lost.

Colours are classes of the page's style sheet; the chart tells its numbers again in its label. Pure: text out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from workbench.publish.forest import PATHS, line_at, ticks_between, write_at
from workbench.publish.signs import VERDICTS
from workbench.publish.wording import minus
from workbench.records import Verdict

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 340, 52, 46, 14
"""Units of the drawing, and of its margins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierPoint:
    """One average; both coordinates in units of the tasks' margins."""

    label: str
    retained: float
    """Change of the worst retained task; -1 uses its budget up."""
    domain: float
    """Mean change of the domain's tasks."""
    verdict: Verdict
    """What half of the items says of the retained tasks: kept, forgot, inconclusive."""
    chosen: bool = False
    series: str = ""
    """Points of one series are joined, in the order given."""


def frontier_plot(points: Sequence[FrontierPoint]) -> str:
    """SVG of the points; those of a series are joined by a line from the start at 0, 0."""
    xs, ys = [0.0, -1.0, *(p.retained for p in points)], [0.0, *(p.domain for p in points)]
    x_range, y_range = _widened(min(xs), max(xs)), _widened(min(ys), max(ys))
    svg = ElementTree.Element(
        "svg", {"class": "forest frontier", "viewBox": f"0 0 {WIDTH} {HEIGHT}", "width": "100%", "role": "img"}
    )
    title = "Gain in the domain against the loss of the worst retained task"
    svg.set("aria-label", f"{title}. " + " ".join(_sentence(point) for point in points))
    ElementTree.SubElement(svg, "title").text = title
    _axes(svg, x_range, y_range)
    places = [(_x(p.retained, x_range), _y(p.domain, y_range)) for p in points]
    start = _x(0, x_range), _y(0, y_range)
    for series in dict.fromkeys(point.series for point in points):
        own = [place for point, place in zip(points, places, strict=True) if point.series == series]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [start, *own])
        ElementTree.SubElement(svg, "polyline", {"class": "zero", "points": path, "fill": "none"})
    write_at(svg, f"{start[0]:.1f}", start[1] - 9, "start", "tick", anchor="middle")
    for point, (x, y) in zip(points, places, strict=True):
        sign = VERDICTS[point.verdict]
        group = ElementTree.SubElement(svg, "g", {"class": f"tone-{sign.tone}"})
        place = f"translate({x:.1f},{y:.1f}) scale({1.6 if point.chosen else 1})"
        ElementTree.SubElement(group, "path", {"class": "point", "d": PATHS[sign.glyph], "transform": place})
        text = f"{point.label}{' (chosen)' if point.chosen else ''}"
        write_at(group, f"{x:.1f}", y - 12, text, "task" if point.chosen else "tick", anchor="middle")
    return ElementTree.tostring(svg, encoding="unicode")


def frontier_rows(points: Sequence[FrontierPoint]) -> list[tuple[str, str, str, str, str]]:
    """The chart's table: label, domain, worst retained, tone and mark of the verdict."""
    return [
        (
            f"{point.label}{' (chosen)' if point.chosen else ''}",
            minus(f"{point.domain:+.2f}"),
            minus(f"{point.retained:+.2f}"),
            VERDICTS[point.verdict].tone,
            VERDICTS[point.verdict].label,
        )
        for point in points
    ]


def _axes(svg: ElementTree.Element, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
    floor = HEIGHT - BOTTOM
    budget = _x(-1, x_range)
    ElementTree.SubElement(
        svg,
        "rect",
        {"class": "beyond", "x": str(LEFT), "y": str(TOP), "width": f"{budget - LEFT:.1f}", "height": str(floor - TOP)},
    )
    for tick in ticks_between(*x_range):
        x = f"{_x(tick, x_range):.1f}"
        line_at(svg, "zero" if tick == 0 else "grid", x, TOP, x, floor + 4)
        write_at(svg, x, floor + 18, _number(tick), "tick", anchor="middle")
    for tick in ticks_between(*y_range):
        y = _y(tick, y_range)
        line_at(svg, "zero" if tick == 0 else "grid", str(LEFT), y, str(WIDTH - 8), y)
        write_at(svg, str(LEFT - 6), y + 4, _number(tick), "tick", anchor="end")
    line_at(svg, "margin", f"{budget:.1f}", TOP, f"{budget:.1f}", floor)
    write_at(svg, str(LEFT), HEIGHT - 6, "← more forgotten (worst retained task, in margins)", "axis", anchor="start")
    write_at(svg, str(LEFT + 6), TOP + 10, "↑ gain in the domain (mean, in margins)", "axis", anchor="start")


def _x(value: float, span: tuple[float, float]) -> float:
    return LEFT + (WIDTH - 8 - LEFT) * (value - span[0]) / (span[1] - span[0])


def _y(value: float, span: tuple[float, float]) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP - 24) * (value - span[0]) / (span[1] - span[0])


def _widened(low: float, high: float) -> tuple[float, float]:
    edge = 0.08 * ((high - low) or 1.0)
    return low - edge, high + edge


def _number(value: float) -> str:
    text = f"{value:+.6g}"
    return "0" if float(text) == 0 else minus(text)


def _sentence(point: FrontierPoint) -> str:
    return (
        f"{point.label}: domain {_number(round(point.domain, 2))}, worst retained {_number(round(point.retained, 2))} "
        f"margins, {point.verdict}{', chosen' if point.chosen else ''}."
    )
