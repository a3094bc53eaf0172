"""Does `workbench plan` predict? Losses planted in the real model, and the numbers of items at which they are found.

python -m studies.planning [--limit N] [--quick] [--project FOLDER] [--again]

A loss is planted in the weights and nowhere else: they are moved a part of the way towards their 3-bit rounding. What
that changes on real questions is the population. Then, 1,000 times: a pilot of questions is drawn from it, as an
earlier comparison would have left it; the plan sees the pilot's share of changed answers and names the number of items
at which the planted loss is found, and at which a margin two points wider is certified in spite of it; a run of that
many items is drawn, and the product's own tests judge it. Beside it the plan that has no pilot and guesses from the
baseline's accuracy. Pilot and run are independent draws, so what is checked is the plan and not one lucky split.
Writes studies/results/planning.json and the measured part of docs/planning.md.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from benchmarks.evidence import expected_discordance, items_to_find
from workbench import forgetting, paired

TAKES = "half an hour on one core"
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "studies/results/planning.json"
TASKS = ("arc_easy", "piqa")
WAYS = (0.45, 0.6, 0.75)
"""How far towards the rounded weights."""
WIDER = 0.02
"""How much the margin is wider than the planted loss."""
PILOT = 500
POWER, ALPHA = 0.8, 0.05
RUNS = 1000
SEED = 20261125


def say(text: str) -> None:
    """Talk goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def blend(start: Path, other: Path, way: float, out: Path) -> Path:
    """Weights between two checkpoints of the same shape: (1 − way)·start + way·other."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(start, out)
    one, two = (load_file(folder / "model.safetensors") for folder in (start, other))
    mixed = {name: torch.lerp(w.float(), two[name].float(), way).to(w.dtype) for name, w in one.items()}
    save_file(mixed, out / "model.safetensors", metadata={"format": "pt"})
    return out


def measure(folder: Path, *, limit: int | None) -> dict[str, Any]:
    """What each damage does to the answers: label -> accuracy before, loss, share of changed answers, questions."""
    from workbench.engines.convert import round_weights
    from workbench.engines.embedded import fetch_embedded
    from workbench.pipeline import EvaluationRequest, evaluate_many

    start = Path(fetch_embedded("smollm2", say=say).folder)
    rounded = folder / "rounded"
    if not rounded.is_dir():
        round_weights(start, rounded, bits=3)
    blends = []
    for way in WAYS:
        path = folder / f"blend-{way:g}"
        blends.append(path if path.is_dir() else blend(start, rounded, way, path))
    request = EvaluationRequest(tasks=TASKS, limit=limit)
    done = evaluate_many(blends, baseline="smollm2", project=folder / "project", request=request)
    assert done.baseline is not None
    metric = {result.task: result.metric for result in done.baseline.report.results}
    before = {(i.task, i.item): i.metrics[metric[i.task]] for i in done.baseline.items}
    found: dict[str, Any] = {}
    for way, one in zip(WAYS, done.evaluated, strict=True):
        change = np.array([i.metrics[metric[i.task]] - before[i.task, i.item] for i in one.items])
        found[f"{way:.0%} of the way to 3 bits"] = {
            "accuracy": float(np.mean(list(before.values()))),
            "loss": float(-change.mean()),
            "changed": float((change != 0).mean()),
            "questions": len(change),
        }
    return found


def plan_and_run(population: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """How often a planted loss is found, and certified against a wider margin, with the items that plans ask for.

    Each time a pilot is drawn, a plan is made of it, and a run of the planned size is drawn and judged.
    """
    loss, changed = population["loss"], population["changed"]
    chances = [(changed - loss) / 2, (changed + loss) / 2, 1 - changed]
    guess = expected_discordance(population["accuracy"])[0]
    rows: list[dict[str, Any]] = []
    for what in ("found", "kept"):
        for origin in ("pilot", "guess"):
            hits, sizes = 0, []
            for _ in range(RUNS):
                gained, lost, _ = rng.multinomial(PILOT, chances)
                known = max((gained + lost) / PILOT, 0.002) if origin == "pilot" else guess
                items = planned_items(what, loss, known)
                sizes.append(items)
                hits += passes(what, loss, *rng.multinomial(items, chances))
            share = hits / RUNS
            ends = proportion_confint(hits, RUNS, method="wilson")
            rows.append(
                {"what": what, "from": origin, "items": [int(np.quantile(sizes, q)) for q in (0.5, 0.05, 0.95)]}
                | {"predicted": POWER, "seen": share, "low": float(ends[0]), "high": float(ends[1])}
            )
    return rows


@cache
def planned_items(what: str, loss: float, changed: float) -> int:
    """What `workbench plan` says."""
    if what == "found":
        return items_to_find(loss, discordance=changed, alpha=ALPHA, power=POWER)
    found = paired.items_needed(
        discordance=max(changed, loss), margin=loss + WIDER, difference=-loss, alpha=ALPHA, power=POWER
    )
    assert found is not None
    return found


@cache
def passes(what: str, loss: float, gained: int, lost: int, same: int) -> bool:
    """What `workbench compare` says of a run with so many changed answers."""
    if what == "found":
        return paired.mcnemar_loss_p(gained, lost) <= ALPHA
    before = np.repeat([0.0, 1.0, 1.0], [gained, lost, same])
    after = np.repeat([1.0, 0.0, 1.0], [gained, lost, same])
    rng = np.random.default_rng(0)
    return forgetting.judge(before, after, margin=loss + WIDER, binary=True, rng=rng).verdict in ("kept", "improved")


def run(populations: dict[str, Any]) -> dict[str, Any]:
    """The whole study, from what was measured."""
    rng = np.random.default_rng(SEED)
    return {
        "tasks": list(TASKS),
        "pilot": PILOT,
        "runs": RUNS,
        "seed": SEED,
        "populations": {label: one | {"rows": plan_and_run(one, rng)} for label, one in populations.items()},
    }


def render(found: dict[str, Any]) -> str:
    """The measured part of docs/planning.md."""
    lines = [
        f"{' and '.join(found['tasks'])}; {found['runs']:,} plans and runs a row, pilots of {found['pilot']:,} "
        "questions; items are the median plan and its 5th and 95th percentile, brackets a 95% interval.",
        "",
        "| damage to the weights | what | changed answers from | items the plan asks for | predicts | seen |",
        "|---|---|---|---:|---:|---:|",
    ]
    origins = {"pilot": "a pilot", "guess": "the baseline's accuracy"}
    for label, one in found["populations"].items():
        loss = 100 * one["loss"]
        names = {
            "found": f"its loss of {loss:.1f} points is found",
            "kept": f"the loss is certified below {loss + 100 * WIDER:.1f} points",
        }
        for row in one["rows"]:
            middle, low, high = row["items"]
            items = f"{middle:,}" if row["from"] == "guess" else f"{middle:,} ({low:,} to {high:,})"
            seen = f"{row['seen']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"
            cells = [label, names[row["what"]], origins[row["from"]], items, f"{row['predicted']:.0%}", seen]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [""]
    for label, one in found["populations"].items():
        ratio = one["changed"] / (2 * one["accuracy"] * (1 - one["accuracy"]))
        lines.append(
            f"- {label}: {one['questions']:,} questions, loss {100 * one['loss']:.2f} points, {one['changed']:.1%} of "
            f"the answers changed, {ratio:.2f} of 2a(1 − a)."
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="questions a task (default: all)")
    parser.add_argument("--quick", action="store_true", help="200 items a task; writes no document")
    parser.add_argument("--project", type=Path, help="folder that keeps models and answers (default: a new one)")
    parser.add_argument("--again", action="store_true", help="from the answers of the last study; asks no model")
    options = parser.parse_args(arguments)
    if options.again:
        populations = json.loads(RESULTS.read_text())["populations"]
        populations = {label: {k: v for k, v in one.items() if k != "rows"} for label, one in populations.items()}
    else:
        folder = options.project or Path(tempfile.mkdtemp(prefix="workbench-planning-"))
        folder.mkdir(parents=True, exist_ok=True)
        populations = measure(folder, limit=200 if options.quick else options.limit)
    found = run(populations)
    text = render(found)
    if not options.quick:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
        path = ROOT / "docs/planning.md"
        begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->"
        page = path.read_text()
        path.write_text(page[: page.index(begin) + len(begin)] + text + page[page.index(end) :])
    print(text)


if __name__ == "__main__":
    main()
