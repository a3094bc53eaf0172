"""What the training studies share: a folder that is resumed, runs of a recipe, points between two weights, tables.

Every step keeps what it made (checkpoints, answers, reports), so a study that was killed goes on where it stopped.
"""

import argparse
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from workbench.forgetting import judge
from workbench.pipeline import Evaluation, EvaluationRequest, Listener, evaluate_many, gate
from workbench.records import TaskComparison
from workbench.statistics import stratified_mean
from workbench.store import Project

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGES = ROOT / "studies" / "results", ROOT / "docs" / "studies"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"
ALPHA = 0.05
UNFINISHED = "**The runs are not finished.** Nothing is claimed before they are.\n\n"
"""What a page says before its study has a result."""


def say(text: str) -> None:
    """Talk goes to stderr."""
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def options(name: str, doc: str) -> argparse.Namespace:
    """The command line that all training studies have."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    default = ROOT / "build" / "studies" / name
    parser.add_argument("--project", type=Path, default=default, help="folder that keeps models and answers")
    parser.add_argument("--quick", action="store_true", help="a few steps and items; writes no document")
    parser.add_argument("--render", action="store_true", help="write the page again from the kept numbers")
    return parser.parse_args()


def read_rows(*path: str) -> list[dict[str, Any]]:
    """Rows of a public set."""
    from workbench.config import data_folder

    home = data_folder()
    if home is None:
        raise SystemExit("error: no data folder; name it: WORKBENCH_DATA=/path/to/data")
    with (home.joinpath(*path)).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A JSONL file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}")
    hidden.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    hidden.replace(path)


def passages(text: str, size: int = 2000) -> list[str]:
    """A text cut at blank lines into parts of about `size` characters; a rest of a line or two is left out."""
    from benchmarks.adapters import passage_docs

    return [doc["target"] for doc in passage_docs([{"text": text, "book": "", "id": ""}], size=size)]


def kept_apart(key: str, share: int = 10) -> bool:
    """One of `share` texts, by a hash of its id: never trained on."""
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % share == 0


def replay_rows() -> dict[str, list[dict[str, Any]]]:
    """General data: passages of three novels, and people's instructions with answers. No suite here comes from them."""
    chapters = read_rows("public_domain_books", "chapters.jsonl")
    return {
        "books": [{"text": part} for row in chapters if not kept_apart(row["id"]) for part in passages(row["text"])],
        "instructions": [
            {
                "messages": [
                    {"role": "user", "content": row["prompt"]},
                    {"role": "assistant", "content": row["response"]},
                ]
            }
            for row in read_rows("dolly_small", "train_small.jsonl")
        ],
    }


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One checkpoint of a study."""

    name: str
    path: Path
    tokens: int
    """Loss-bearing tokens it was trained on, its start's not included."""
    seconds: float
    """Of training, by the run's own log; 0 for a point between two others."""
    loss: float
    given: Mapping[str, int]
    """Loss-bearing tokens of each source."""


def train_arm(recipe: Path, name: str, project: Project, overrides: Sequence[str] = ()) -> Arm:
    """Carry a recipe out under another name, or go on with it; nothing is evaluated."""
    from workbench.pipeline import train

    def told(step: Any) -> None:
        say(f"{name}: step {step.step}/{step.steps} loss {step.loss:.3f} {step.tokens_per_second:.0f} tokens/s")

    made = train(recipe, project=project, overrides=[f"recipe={name}", *overrides], on_step=told)
    log = [json.loads(line) for line in (made.made.folder / "log.jsonl").read_text().splitlines()]
    return Arm(
        name=name,
        path=made.made.last,
        tokens=sum(made.made.given.values()),
        seconds=_seconds(log, made.prepared.recipe.batch_tokens),
        loss=log[-1]["loss"],
        given=made.made.given,
    )


def _seconds(log: Sequence[Mapping[str, Any]], batch_tokens: int) -> float:
    """Training time by the run's log, whatever number of processes wrote it."""
    ends = [0, *(line["step"] for line in log)]
    return sum(
        (line["step"] - before) * batch_tokens / line["tokens_per_second"]
        for before, line in zip(ends, log, strict=False)
        if line["tokens_per_second"]
    )


def trained(arm: Arm) -> dict[str, Any]:
    """What a page says of a run."""
    return {
        "checkpoint": arm.path.name,
        "tokens": arm.tokens,
        "given": dict(arm.given),
        "train_seconds": arm.seconds,
        "loss": arm.loss,
    }


def blend(start: Path, tuned: Path, way: float, out: Path) -> Path:
    """Weights on the line between two checkpoints of one shape: (1 − way)·start + way·tuned."""
    import torch
    from safetensors.torch import load_file, save_file

    if out.is_dir():
        return out
    hidden = out.with_name(f".{out.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    for path in tuned.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in ("mixer.json", "trainer_state.json"):
            shutil.copy(path, hidden / path.name)
    one, two = (load_file(folder / "model.safetensors") for folder in (start, tuned))
    mixed = {name: torch.lerp(w.float(), two[name].float(), way) for name, w in one.items() if name in two}
    save_file(mixed, hidden / "model.safetensors", metadata={"format": "pt"})
    hidden.rename(out)
    return out


def evaluate_arms(arms: Sequence[Path], project: Project, request: EvaluationRequest, *, baseline: str) -> Evaluation:
    """All on the same items; what the ledger holds is not computed again."""
    last = [0.0]

    def told(checkpoint: Any, report: Any) -> None:
        if time.perf_counter() - last[0] > 30:
            last[0] = time.perf_counter()
            say(f"{checkpoint.name}: {report.phase} {report.done}/{report.total} items")

    return evaluate_many(arms, project=project, request=request, baseline=baseline, listener=Listener(on_progress=told))


def judge_arm(evaluation: Evaluation, project: Project, *, general: Sequence[str], margin: float) -> dict[str, Any]:
    """What the gate says of the first candidate, task by task, and of the general items together."""
    assert evaluation.baseline is not None
    before, after = evaluation.baseline.report, evaluation.evaluated[0].report
    gated = gate(after.id, project=project, baseline=before.id)
    assert gated.comparison is not None
    return {
        "outcome": gated.decision.outcome,
        "reason": gated.decision.reason,
        "tasks": [_row(task) for task in gated.comparison.tasks],
        "general": _judge_together(evaluation, general, margin=margin),
        "report": after.id,
        "seconds": after.timing["seconds"],
    }


def _row(task: TaskComparison) -> dict[str, Any]:
    change = task.difference
    return {
        "task": task.task,
        "metric": task.metric,
        "role": task.role,
        "required": task.required,
        "n": task.n,
        "before": task.baseline,
        "after": task.candidate,
        "change": None if change is None else change.value,
        "low": None if change is None else change.low,
        "high": None if change is None else change.high,
        "verdict": task.verdict,
        "margin": task.margin,
        "chance": task.chance,
        "p_loss": task.p_loss,
    }


def paired_items(evaluation: Evaluation, tasks: Sequence[str]) -> list[tuple[str, str, float, float]]:
    """(task or subtask, cluster, before, after) of every item of some tasks that both sides answered."""
    assert evaluation.baseline is not None
    metric = {
        name: result.metric
        for result in evaluation.baseline.report.results
        if result.task in tasks
        for name in (result.task, *result.subtasks)
    }
    old = {(i.task, i.item): i for i in evaluation.baseline.items if i.task in metric}
    new = {(i.task, i.item): i for i in evaluation.evaluated[0].items if i.task in metric}
    return [
        (key[0], old[key].group, old[key].metrics[metric[key[0]]], new[key].metrics[metric[key[0]]])
        for key in sorted(old.keys() & new.keys())
    ]


def _judge_together(evaluation: Evaluation, tasks: Sequence[str], *, margin: float) -> dict[str, Any]:
    """Verdict over the items of several tasks as one task; each counts by its items."""
    items = paired_items(evaluation, tasks)
    before, after = [item[2] for item in items], [item[3] for item in items]
    found = judge(before, after, margin=margin, binary=True, rng=np.random.default_rng(0), alpha=ALPHA)
    return {
        "n": len(items),
        "before": float(np.mean(before)),
        "after": float(np.mean(after)),
        "change": found.interval.value,
        "low": found.interval.low,
        "high": found.interval.high,
        "verdict": found.verdict,
        "margin": margin,
    }


def macro_change(evaluation: Evaluation, tasks: Sequence[str]) -> dict[str, Any]:
    """Mean over kinds of question of the change in accuracy, each kind alike, with a 95% interval over clusters."""
    items = paired_items(evaluation, tasks)
    kinds, groups = [i[0] for i in items], [f"{i[0]}/{i[1]}" for i in items]

    def mean(values: list[float]) -> Any:
        return stratified_mean(values, kinds, groups, macro=True)

    change = mean([i[3] - i[2] for i in items])
    each = {
        kind: {
            "n": len(part),
            "before": float(np.mean([i[2] for i in part])),
            "after": float(np.mean([i[3] for i in part])),
        }
        for kind in sorted(set(kinds))
        if (part := [i for i in items if i[0] == kind])
    }
    return {
        "n": len(items),
        "before": mean([i[2] for i in items]).value,
        "after": mean([i[3] for i in items]).value,
        "change": change.value,
        "low": change.low,
        "high": change.high,
        "kinds": each,
    }


def read_found(folder: Path) -> dict[str, Any]:
    """What an earlier process of the study found, if there was one."""
    path = folder / "found.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"arms": {}}


def write_found(folder: Path, found: Mapping[str, Any]) -> None:
    """Keep what is known so far; whole or not at all."""
    hidden = folder / ".found.json"
    hidden.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    hidden.replace(folder / "found.json")


def read_results(name: str) -> dict[str, Any]:
    """The numbers behind a page."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def publish(name: str, folder: Path) -> dict[str, Any]:
    """Make what was found the numbers behind the study's page."""
    shutil.copy(folder / "found.json", RESULTS / f"{name}.json")
    return read_results(name)


def publish_page(
    name: str,
    folder: Path,
    render: Callable[[dict[str, Any]], str],
    draw: Callable[[dict[str, Any]], str] | None = None,
) -> None:
    """From what was found to the committed numbers, the page and its plot."""
    found = publish(name, folder) if (folder / "found.json").is_file() else read_results(name)
    write_page(name, render(found))
    if draw is not None and found["arms"]:
        (PAGES / f"{name}.svg").write_text(draw(found), encoding="utf-8")


def write_page(name: str, text: str) -> None:
    """Put the measured part into docs/studies/NAME.md, between its marks."""
    path = PAGES / f"{name}.md"
    page = path.read_text(encoding="utf-8")
    path.write_text(page[: page.index(BEGIN) + len(BEGIN)] + text + page[page.index(END) :], encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n"


def points(value: float | None) -> str:
    """A share as points with a sign."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def with_interval(row: Mapping[str, Any], unit: str = "points") -> str:
    """A change with its interval."""
    if unit == "points":
        return f"{points(row['change'])} [{points(row['low'])}, {points(row['high'])}]"
    sign = {key: "–" if row[key] is None else f"{row[key]:+.3f}".replace("-", "−") for key in ("change", "low", "high")}
    return f"{sign['change']} [{sign['low']}, {sign['high']}]"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One checkpoint in a plot: place and interval on both axes, in points."""

    label: str
    x: tuple[float, float, float]
    """Value, low, high."""
    y: tuple[float, float, float]


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 440, 70, 30, 24, 60


def scatter(points_: Sequence[Point], *, title: str, x_title: str, y_title: str, margin: float) -> str:
    """An SVG of points with their intervals; the grey band is beyond the margin of loss on the x axis."""
    xs = [value for p in points_ for value in p.x] + [0.0, -margin]
    ys = [value for p in points_ for value in p.y] + [0.0]
    x_low, x_high, y_low, y_high = min(xs) - 0.5, max(xs) + 0.5, min(ys) - 0.5, max(ys) + 0.5

    def x_of(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y_of(value: float) -> float:
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")
    root.set("font-family", "sans-serif")
    ElementTree.SubElement(root, "title").text = title
    _shape(root, "rect", x=0, y=0, width=WIDTH, height=HEIGHT, fill="#ffffff")
    band = x_of(-margin) - LEFT
    _shape(root, "rect", x=LEFT, y=TOP, width=band, height=HEIGHT - TOP - BOTTOM, fill="#f3e3e3")
    for tick in range(math.ceil(x_low), math.floor(x_high) + 1, _every(x_high - x_low)):
        _line(root, x_of(tick), TOP, x_of(tick), HEIGHT - BOTTOM, "#888888" if tick == 0 else "#e4e4e4")
        _text(root, x_of(tick), HEIGHT - BOTTOM + 18, f"{tick:+d}".replace("-", "−") if tick else "0", "middle")
    for tick in range(math.ceil(y_low), math.floor(y_high) + 1, _every(y_high - y_low)):
        _line(root, LEFT, y_of(tick), WIDTH - RIGHT, y_of(tick), "#888888" if tick == 0 else "#e4e4e4")
        _text(root, LEFT - 8, y_of(tick) + 4, f"{tick:+d}".replace("-", "−") if tick else "0", "end")
    for p in points_:
        _line(root, x_of(p.x[1]), y_of(p.y[0]), x_of(p.x[2]), y_of(p.y[0]), "#9db4d0", 2)
        _line(root, x_of(p.x[0]), y_of(p.y[1]), x_of(p.x[0]), y_of(p.y[2]), "#9db4d0", 2)
    for p in points_:
        _shape(root, "circle", cx=x_of(p.x[0]), cy=y_of(p.y[0]), r=5, fill="#1f4e8c")
        aside, anchor = (9, "start") if x_of(p.x[0]) < WIDTH * 0.6 else (-9, "end")
        _text(root, x_of(p.x[0]) + aside, y_of(p.y[0]) - 7, p.label, anchor, bold=True)
    _text(root, LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 16, x_title, "middle")
    turned = _text(root, 0, 0, y_title, "middle")
    turned.set("transform", f"translate(18 {TOP + (HEIGHT - TOP - BOTTOM) / 2:.0f}) rotate(-90)")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _every(span: float) -> int:
    return next(step for step in (1, 2, 5, 10, 20, 50, 100) if span / step <= 10)


def _shape(root: ElementTree.Element, kind: str, **attributes: float | str) -> ElementTree.Element:
    plain = {key.replace("_", "-"): v if isinstance(v, str) else f"{v:.1f}" for key, v in attributes.items()}
    return ElementTree.SubElement(root, kind, plain)


def _line(root: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> None:
    _shape(root, "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour, stroke_width=width)


def _text(
    root: ElementTree.Element, x: float, y: float, text: str, anchor: str, *, bold: bool = False
) -> ElementTree.Element:
    made = _shape(root, "text", x=x, y=y, font_size=13, text_anchor=anchor, fill="#222222")
    if bold:
        made.set("font-weight", "bold")
    made.text = text
    return made
