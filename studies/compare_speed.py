"""How long comparisons take: two reports of 100,000 items, and a trajectory of 100 checkpoints on 50 tasks.

python -m studies.compare_speed [--quick]

Builds projects of made-up answers (prompts of 500 characters, log-probabilities, documents) in a temporary folder and
times the whole command in a process of its own, imports included. Writes studies/results/compare_speed.json and the
marked part of docs/performance.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from workbench.records import Checkpoint, Estimate, ItemScore, Report, TaskResult
from workbench.statistics import mean_interval
from workbench.store import Project, report_id

ROOT = Path(__file__).resolve().parents[1]
PROMPT = (
    "A question of about five hundred characters, as long as real ones with a few worked examples before them. " * 5
)


def add_report(project: Project, name: str, answers: np.ndarray) -> str:
    """Record right and wrong answers [tasks, items]; returns the report's id."""
    items: list[ItemScore] = []
    results: list[TaskResult] = []
    for t, column in enumerate(answers):
        task = f"task_{t:03d}"
        for i, value in enumerate(column.tolist()):
            key = f"{t:04d}{i:08d}".rjust(64, "a")
            logprobs = (-1.5, -2.5, -3.5, -4.5) if value else (-2.5, -1.5, -3.5, -4.5)
            items.append(
                ItemScore(
                    task=task,
                    item=key,
                    doc_id=i,
                    group=key,
                    metrics={"acc": value, "acc_norm": value},
                    logprobs=logprobs,
                    greedy=(False,) * 4,
                    answer="the first choice",
                    target="the first choice",
                    prompt=PROMPT,
                    extra={"doc": key},
                )
            )
        interval = mean_interval(column, binary=True)
        estimate = Estimate(
            metric="acc", value=interval.value, low=interval.low, high=interval.high, n=interval.n, method="wilson"
        )
        results.append(
            TaskResult(
                task=task,
                role="general",
                margin=0.02,
                required=True,
                metric="acc",
                estimates=(estimate,),
                n=len(column),
                num_fewshot=0,
                chance=0.25,
            )
        )
    checkpoint = Checkpoint(
        name=name, source=f"/models/{name}", kind="folder", fingerprint=name.ljust(64, "0"), tokenizer="7" * 64
    )
    report = Report(
        id="",
        checkpoint=checkpoint,
        suites=(),
        results=tuple(results),
        settings={"scorer": "made up"},
        created_at="2026-01-01T00:00:00+00:00",
        environment={},
    )
    report = replace(report, id=report_id(report, items))
    project.store.add_report(report, items)
    return report.id


def build(folder: Path, *, checkpoints: int, tasks: int, items: int) -> list[str]:
    """A project with a baseline and checkpoints that change a twentieth of its answers; ids, the baseline first."""
    rng = np.random.default_rng(0)
    project = Project.init(folder)
    base = (rng.random((tasks, items)) < 0.6).astype(float)
    ids = [add_report(project, "base", base)]
    for c in range(checkpoints):
        flips = rng.random(base.shape) < 0.05
        ids.append(add_report(project, f"c{c:03d}", np.where(flips, 1 - base, base)))
    project.store.close()
    return ids


def time_command(words: Sequence[str], folder: Path) -> float:
    """Wall seconds of a whole command, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "workbench.cli", *words, "--project", str(folder)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        best = min(best, time.perf_counter() - start)
    return best


def run(*, quick: bool) -> dict[str, Any]:
    """Both measurements."""
    small = 10 if quick else 1
    with tempfile.TemporaryDirectory() as home:
        two = build(Path(home) / "two", checkpoints=1, tasks=20, items=5000 // small)
        pair = time_command(["compare", two[0], two[1]], Path(home) / "two")
        flips = time_command(["compare", two[0], two[1], "--flips", "20"], Path(home) / "two")
        many = build(Path(home) / "many", checkpoints=100 // small, tasks=50, items=200)
        trajectory = time_command(["compare", *many], Path(home) / "many")
    return {
        "pair": {"items": 100_000 // small, "seconds": pair, "seconds_with_flips": flips},
        "trajectory": {"checkpoints": 100 // small, "tasks": 50, "items": 200, "seconds": trajectory},
    }


def render(found: dict[str, Any]) -> str:
    """The marked part of docs/performance.md."""
    pair, many = found["pair"], found["trajectory"]
    rows = many["checkpoints"] * many["tasks"] * many["items"]
    return (
        "| command | work | seconds |\n|---|---|---:|\n"
        f"| `workbench compare A B` | {pair['items']:,} items each | {pair['seconds']:.1f} |\n"
        f"| the same with `--flips 20` | | {pair['seconds_with_flips']:.1f} |\n"
        f"| `workbench compare` of a trajectory | {many['checkpoints']} checkpoints, {many['tasks']} tasks, "
        f"{rows:,} rows | {many['seconds']:.1f} |\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the work; writes nothing")
    options = parser.parse_args(arguments)
    found = run(quick=options.quick)
    text = render(found)
    if not options.quick:
        (ROOT / "studies/results/compare_speed.json").write_text(json.dumps(found, indent=1) + "\n")
        path = ROOT / "docs/performance.md"
        begin, end = "<!-- comparisons: begin -->\n", "<!-- comparisons: end -->"
        page = path.read_text()
        path.write_text(page[: page.index(begin) + len(begin)] + text + page[page.index(end) :])
    print(text)


if __name__ == "__main__":
    main()
