"""What the gate inside training sees and costs: a run that forgets, the same with roll-back, and its merge frontier.

python -m studies.control [--project FOLDER] [--quick] [--overhead] [--render]

SmolLM2-135M is trained on the OpenStax anatomy text, first alone and only watched, then with a little replay that the
gate may raise. Both are asked the same questions afterwards, and the averages of the first with its start are swept. A
second part counts false alarms on answers that flip without a loss. All is resumed where it was killed.
"""

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from training.control import Control, Measured, Memory, decide, watch
from workbench.progress import read_curves
from workbench.store import Project

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "studies" / "results" / "control.json", ROOT / "docs" / "studies" / "control.md"
DOMAIN = ["openstax_anatomy_cloze", "openstax_anatomy_terms"]
GENERAL = ["arc_easy", "piqa", "hellaswag"]
WATCHED = ["sample_general_cloze", "arc_challenge", "commonsense_qa_cloze"]
"""Other sets than the ones that judge in the end."""


BATCH, ITEMS = 1024, 50
"""Tokens of a step, and items of a watched task."""


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def recipe(name: str, *, steps: int, replay: float, on_forgetting: str, every: int) -> dict[str, Any]:
    mix: list[dict[str, Any]] = [{"name": "anatomy", "data": "anatomy.jsonl", "share": 1 - replay}]
    if replay:
        mix.append({"name": "books", "data": "books.jsonl", "share": replay})
    return {
        "recipe": name, "start": "smollm2", "method": "pretrain", "mix": mix, "tokens": steps * BATCH,
        "sequence_length": 512, "batch_tokens": BATCH, "micro_batch": 1, "log_every": 1, "keep": 2,
        "schedule": {"learning_rate": 4e-4, "warmup": 0.05, "anneal": 0.2}, "dtype": "float32",
        "control": {
            "tasks": WATCHED, "limit": ITEMS, "every": every, "on_forgetting": on_forgetting, "self_written": 32,
            "kl_every": 4, **({"replay": ["books"], "max_changes": 4} if replay else {}),
        },
    }  # fmt: skip


def write_data(folder: Path) -> None:
    from workbench.config import data_folder

    home = data_folder()
    if home is None:
        raise SystemExit("error: no data folder; name it: WORKBENCH_DATA=/path/to/data")
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (
        ("anatomy", "openstax_text/anatomy_physiology.jsonl"),
        ("books", "public_domain_books/chapters.jsonl"),
    ):
        rows = [json.loads(line)["text"] for line in (home / source).read_text(encoding="utf-8").splitlines()]
        text = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def carry_out(project: Project, folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Train, or go on; what it saw and what it cost."""
    import training.ledger
    import training.mixing
    import training.sentinel
    import training.trainer
    from workbench.pipeline import train

    spent = {"mixing": 0.0, "recording": 0.0, "watching": 0.0}

    def timed(kind: str, owner: Any, name: str) -> Any:
        inner = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **options)
            finally:
                spent[kind] += time.perf_counter() - began

        setattr(owner, name, call)
        return lambda: setattr(owner, name, inner)

    undo = [
        timed("mixing", training.mixing.Mixer, "next_row"),
        timed("recording", training.trainer, "append_line"),
        timed("recording", training.ledger.Ledger, "record"),
        timed("watching", training.sentinel.Sentinel, "on_step"),
        timed("watching", training.sentinel.Sentinel, "on_begin"),
    ]
    file = folder / f"{plan['recipe']}.yaml"
    file.write_text(json.dumps(plan))
    times: list[float] = []

    def heard(step: Any) -> None:
        if not times:  # planning the run walks its rows too, and the first step warms up
            spent.update(dict.fromkeys(spent, 0.0))
        times.append(time.perf_counter())
        rate = f"{step.tokens_per_second:.0f} tokens/s"
        say(f"{plan['recipe']}: step {step.step}/{step.steps} loss {step.loss:.3f} {rate}")

    def judged(found: Any) -> None:
        changes = ", ".join(f"{task.task} {task.change:+.3f}" for task in found.tasks)
        say(f"{plan['recipe']}: {found.verdict} at step {found.step}: {changes}")

    try:
        made = train(file, project=project, on_step=heard, on_judged=judged)
    finally:
        for one in undo:
            one()
    cost = made.made.folder / "cost.json"
    if not cost.is_file() and len(times) > 2:
        # of the steps between the first and the last that this process logged
        cost.write_text(json.dumps({"seconds": times[-1] - times[0], "steps": len(times) - 1, **spent}))
    curves = read_curves(made.made.folder)
    pace = json.loads((made.made.folder / "sentinel.json").read_text())
    return {
        "checkpoint": str(made.made.last), "steps": made.made.steps, "stopped": made.made.stopped,
        "given": dict(made.made.given), "events": list(curves.events), "pace": pace,
        "cost": json.loads(cost.read_text()) if cost.is_file() else None,
        "loss": [curves.log[0]["loss"], curves.log[-1]["loss"]],
    }  # fmt: skip


def false_alarms(*, runs: int, looks: int = 8, margin: float = 0.05) -> list[dict[str, Any]]:
    """Runs in which nothing is lost: at each look some items flip, as many right as wrong; and with a planted loss."""
    rows: list[dict[str, Any]] = []
    for tasks, items, churn, loss in (
        (1, 100, 0.1, 0.0), (3, 100, 0.1, 0.0), (3, 100, 0.2, 0.0), (3, 300, 0.1, 0.0), (10, 100, 0.1, 0.0),
        (3, 100, 0.1, 0.05), (3, 100, 0.1, 0.1), (3, 300, 0.1, 0.05), (3, 300, 0.1, 0.1),
    ):  # fmt: skip
        rng, control = np.random.default_rng([tasks, items, int(100 * churn), int(100 * loss)]), Control(tasks=("x",))
        hit = acted = 0
        for _ in range(runs):
            starts = {f"t{i}": (rng.random(items) < 0.6).astype(float) for i in range(tasks)}
            before, memory = {name: _credits(values, margin) for name, values in starts.items()}, Memory()
            # half of what flips at a look had flipped at the one before: a model in training drifts
            state = {name: _flip(rng, values, churn, 0.0) for name, values in starts.items()}
            seen = done = False
            for step in range(looks):
                for name, values in starts.items():
                    lost = loss if name == "t0" else 0.0
                    fresh = _flip(rng, values, churn, lost)
                    state[name] = np.where(rng.random(items) < 0.5, fresh, state[name])
                now = {name: _credits(values, margin) for name, values in state.items()}
                judged, memory = decide(step, watch(before, now, control, seed=0), memory, control)
                seen, done = seen or judged.verdict != "ok", done or judged.verdict == "warn"
            hit, acted = hit + seen, acted + done
        rows.append(
            {"tasks": tasks, "items": items, "churn": churn, "loss": loss, "runs": runs, "hit": hit, "acted": acted}
        )
        say(f"{rows[-1]}")
    return rows


def _credits(values: np.ndarray, margin: float) -> Measured:
    return Measured(values=values, margin=margin, binary=True)


def _flip(rng: np.random.Generator, values: np.ndarray, churn: float, loss: float) -> np.ndarray:
    """Of right items a share falls, of wrong ones a share rises; the mean changes by −loss on average."""
    right = values.mean()
    fall = (churn / 2 + loss) / right
    rise = churn / 2 / (1 - right)
    flips = rng.random(len(values)) < np.where(values == 1, fall, rise)
    return np.where(flips, 1 - values, values)


def kept_alarms(file: Path, *, runs: int) -> list[dict[str, Any]]:
    """Counted once."""
    if not file.is_file():
        file.write_text(json.dumps(false_alarms(runs=runs), indent=1))
    return json.loads(file.read_text())


def same_model(project: Project, reruns: int) -> list[dict[str, Any]]:
    """The start asked again and again, in batches of other sizes, held against itself as a run would be."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.sentinel import undisturbed
    from workbench.engines.loading import model_folder
    from workbench.references import resolve_checkpoint
    from workbench.watching import build_measure

    control = Control(tasks=tuple(WATCHED), limit=ITEMS)
    home = model_folder(resolve_checkpoint("smollm2", project))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(home), AutoTokenizer.from_pretrained(home)
    rows: list[dict[str, Any]] = []
    before: dict[str, Any] = {}
    memory = Memory()
    for rerun in range(reruns + 1):
        measure = build_measure(control, project, tokenizer, batch_tokens=2048 - 97 * rerun)
        assert measure is not None
        with undisturbed(model, 0) as plain:
            now = dict(measure(plain))
        if not before:
            before = now
            continue
        judged, memory = decide(rerun, watch(before, now, control, seed=0), memory, control)
        changed = sum(int((now[name].values != before[name].values).sum()) for name in now)
        rows.append(
            {"verdict": judged.verdict, "items": sum(len(one.values) for one in now.values()), "changed": changed}
        )
    return rows


def evaluate(project: Project, runs: dict[str, Any], *, limit: int) -> dict[str, Any]:
    """Every arm and the averages of the first, on the same questions against the start."""
    from workbench.frontier import frontier_document
    from workbench.pipeline import EvaluationRequest, evaluate_many, merge_frontier

    request = EvaluationRequest(tasks=[*DOMAIN, *GENERAL], limit=limit)
    paths = [run["checkpoint"] for run in runs.values()]
    found = evaluate_many(paths, project=project, request=request, baseline="smollm2")
    rows = {
        name: {
            task.task: _row(task) for task in found.comparisons[one.report.id].tasks
        }
        for name, one in zip(runs, found.evaluated, strict=True)
    }  # fmt: skip
    frontier = merge_frontier("smollm2", paths[0], project=project, request=request, weights=[0.3, 0.6])
    points = [
        {**point, "tasks": {task.task: _row(task) for task in one.selected.tasks}}
        for point, one in zip(frontier_document(frontier)["points"], frontier.points, strict=True)
    ]
    certified = {task.task: _row(task) for task in frontier.certified.tasks}
    return {"arms": rows, "points": points, "best": frontier.best.weight, "certified": certified}


def _row(task: Any) -> dict[str, Any]:
    d = task.difference
    return {
        "verdict": task.verdict, "change": d and d.value, "low": d and d.low, "high": d and d.high, "n": task.n,
        "baseline": task.baseline, "margin": task.margin,
    }  # fmt: skip


def overhead(project: Project, folder: Path) -> dict[str, Any]:
    """One short run that finds its own pace: what mixing, recording and watching take of its time."""
    plan = recipe("overhead", steps=12 * 512 // BATCH, replay=0.1, on_forgetting="warn", every=1)
    watched = {"tasks": WATCHED[:1], "limit": 20, "self_written": 0, "every": None}
    made = carry_out(project, folder, plan | {"batch_tokens": 512, "control": plan["control"] | watched})
    cost, pace = made["cost"], made["pace"]
    rest = cost["seconds"] - cost["watching"]
    return {
        "step_s": rest / cost["steps"],
        "mixing": cost["mixing"] / rest,
        "recording": cost["recording"] / rest,
        "kl and looks, as run": cost["watching"] / cost["seconds"],
        "look_s": pace["evaluation_s"],
        "steps between looks": pace.get("every"),
        "looks at this pace": pace["evaluation_s"] / (pace["every"] * pace["step_s"]) if pace.get("every") else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT / "build" / "studies" / "control")
    parser.add_argument("--quick", action="store_true", help="a few steps and items; writes no document")
    parser.add_argument("--render", action="store_true", help="write the page again from the kept numbers")
    parser.add_argument("--overhead", action="store_true", help="only what mixing, recording and watching take")
    asked = parser.parse_args()
    if asked.render:
        from studies.control_page import render

        PAGE.write_text(render(json.loads(RESULTS.read_text())), encoding="utf-8")
        return
    began = time.time()
    project = Project.open_or_init(asked.project)
    folder = asked.project / "recipes"
    write_data(folder)
    if asked.overhead:
        print(json.dumps(overhead(project, folder), indent=1))
        return
    steps, every, limit = (6, 2, 20) if asked.quick else (20, 4, 80)
    plans = {
        "domain only": recipe("alone", steps=steps, replay=0.0, on_forgetting="warn", every=every),
        "with the gate": recipe("gated", steps=steps, replay=0.1, on_forgetting="roll_back", every=every),
    }
    runs = {name: carry_out(project, folder, plan) for name, plan in plans.items()}
    found = {
        "machine": f"{platform.processor() or platform.machine()}, 2 cores",
        "steps": steps, "runs": runs, "evaluated": evaluate(project, runs, limit=limit),
        "same model": same_model(project, 2 if asked.quick else 4),
        "false alarms": kept_alarms(asked.project / "false-alarms.json", runs=20 if asked.quick else 400),
    }  # fmt: skip
    found["seconds"] = time.time() - began
    if not asked.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "runs"}, indent=1))


if __name__ == "__main__":
    main()
