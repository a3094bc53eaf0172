"""Does `workbench plan` predict? A loss planted in the real model, and the numbers of items at which it is found.

python -m studies.planning [--quick] [--project FOLDER]

The real model is moved a part of the way towards its 3-bit rounding, which changes answers of real sets; on the
held-back half further right answers are made wrong at random until the loss is two points exactly.
From the share of answers that changes on one half of the items, the plan predicts at how many items the loss is found,
and at how many a margin twice as wide is certified in spite of it. Random samples of that many items from the other
half then say how often that happened. Writes studies/results/planning.json and the measured part of docs/planning.md.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("arc_easy", "piqa")
WAYS = (0.45, 0.6, 0.75)
"""How far towards the rounded weights; the one whose loss is nearest to two points is planted."""
LOSS = 0.02
POWER, ALPHA = 0.8, 0.05
DRAWS = 2000


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
    """Right and wrong answers of the model and of each blend, paired: task -> columns."""
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
    base = {(i.task, i.item): i.metrics for i in done.baseline.items}
    found: dict[str, Any] = {}
    for way, one in zip(WAYS, done.evaluated, strict=True):
        for result in one.report.results:
            pairs = [
                (base[i.task, i.item][result.metric], i.metrics[result.metric])
                for i in one.items
                if i.task == result.task
            ]
            found.setdefault(result.task, {})[way] = np.array(pairs)
    return found


def plant(pairs: np.ndarray, loss: float, rng: np.random.Generator) -> np.ndarray:
    """The same answers, of which random right ones are lost (or lost ones restored) until the loss is what is asked."""
    out = pairs.copy()
    missing = round(loss * len(out) - (out[:, 0] - out[:, 1]).sum())
    right, lost = (np.flatnonzero((out[:, 0] == 1) & (out[:, 1] == after)) for after in (1, 0))
    if missing >= 0:
        out[rng.choice(right, size=missing, replace=False), 1] = 0.0
    else:
        out[rng.choice(lost, size=-missing, replace=False), 1] = 1.0
    return out


def judge_plan(pairs: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Predict on one half of the items, count on random samples of the other."""
    from benchmarks.evidence import items_to_find
    from workbench import forgetting, paired

    order = rng.permutation(len(pairs))
    pilot, rest = pairs[order[: len(pairs) // 2]], pairs[order[len(pairs) // 2 :]]
    rest = plant(rest, LOSS, rng)
    change = pilot[:, 1] - pilot[:, 0]
    discordance = float((change != 0).mean())
    truth = float((rest[:, 1] - rest[:, 0]).mean())
    margin = 2 * LOSS
    predicted = {
        "found": items_to_find(max(-truth, 1e-3), discordance=discordance, alpha=ALPHA, power=POWER),
        "kept": paired.items_needed(discordance=discordance, margin=margin, difference=truth, alpha=ALPHA, power=POWER),
    }
    out: dict[str, Any] = {
        "items": len(rest),
        "loss": -truth,
        "discordance_pilot": discordance,
        "discordance": float((rest[:, 1] != rest[:, 0]).mean()),
        "margin": margin,
        "rows": [],
    }
    for what, n in predicted.items():
        if n is None:
            continue
        hits = 0
        for _ in range(DRAWS):
            # with replacement: the set stands for the questions that could have been asked
            sample = rest[rng.integers(len(rest), size=n)]
            judged = forgetting.judge(sample[:, 0], sample[:, 1], margin=margin, binary=True, rng=rng, alpha=ALPHA)
            hit = judged.p_loss is not None and judged.p_loss <= ALPHA
            hits += hit if what == "found" else judged.verdict in ("kept", "improved")
        share = hits / DRAWS
        error = 1.96 * (share * (1 - share) / DRAWS) ** 0.5
        out["rows"].append({"what": what, "items": n, "predicted": POWER, "seen": share, "error": error})
    return out


def run(folder: Path, *, limit: int | None) -> dict[str, Any]:
    """The whole study."""
    rng = np.random.default_rng(0)
    columns = measure(folder, limit=limit)
    pooled = {way: np.concatenate([columns[task][way] for task in TASKS]) for way in WAYS}
    losses = {way: float((p[:, 0] - p[:, 1]).mean()) for way, p in pooled.items()}
    changes = {way: float((p[:, 0] != p[:, 1]).mean()) for way, p in pooled.items()}
    accuracy = {way: float(p[:, 0].mean()) for way, p in pooled.items()}
    way = min(WAYS, key=lambda w: abs(losses[w] - LOSS))
    found = judge_plan(pooled[way], rng)
    return {
        "tasks": list(TASKS),
        "losses": {str(w): value for w, value in losses.items()},
        "related": {str(w): changes[w] / (2 * accuracy[w] * (1 - accuracy[w])) for w in WAYS},
        "way": way,
        "draws": DRAWS,
        **found,
    }


def render(found: dict[str, Any]) -> str:
    """The measured part of docs/planning.md."""
    lines = [
        f"{' and '.join(found['tasks'])}, {found['items']:,} held-back items; the model moved {found['way']:.0%} of "
        f"the way towards its 3-bit rounding, and {100 * found['loss']:.1f} points of loss planted. "
        f"{found['discordance']:.1%} of the answers changed ({found['discordance_pilot']:.1%} on the half that the "
        "plan saw).",
        "",
        "| what | items that the plan asks for | chance it predicts | seen in samples of that many |",
        "|---|---:|---:|---:|",
    ]
    names = {
        "found": f"a loss of {100 * found['loss']:.1f} points raises the alarm",
        "kept": f"the same loss is certified to be below {100 * found['margin']:.0f} points",
    }
    for row in found["rows"]:
        seen = f"{row['seen']:.1%} ± {100 * row['error']:.1f}"
        lines.append(f"| {names[row['what']]} | {row['items']:,} | {row['predicted']:.0%} | {seen} |")
    related = ", ".join(f"{value:.2f} ({float(way):.0%})" for way, value in found["related"].items())
    lines += [
        "",
        "Share of changed answers over 2a(1 − a), by how far the weights were moved: " + related + ".",
        f"{found['draws']:,} samples a row; ± is 1.96 standard errors.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 items a task; writes no document")
    parser.add_argument("--project", type=Path, help="folder that keeps models and answers (default: a new one)")
    options = parser.parse_args(arguments)
    folder = options.project or Path(tempfile.mkdtemp(prefix="workbench-planning-"))
    folder.mkdir(parents=True, exist_ok=True)
    found = run(folder, limit=200 if options.quick else None)
    text = render(found)
    if not options.quick:
        (ROOT / "studies/results").mkdir(exist_ok=True)
        (ROOT / "studies/results/planning.json").write_text(json.dumps(found, indent=1) + "\n")
        path = ROOT / "docs/planning.md"
        begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->"
        page = path.read_text()
        path.write_text(page[: page.index(begin) + len(begin)] + text + page[page.index(end) :])
    print(text)


if __name__ == "__main__":
    main()
