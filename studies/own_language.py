"""A language that no model has seen: what do pairs teach, what a simulator, and what both, against best of N?

python -m studies.own_language [--quick] [--render] [--project FOLDER]

Programs of small lattices (studies/lattice), whose stiffness a solver computes; it is served over HTTP in a process of
its own and is the only reward of method grpo. A new model reads the language's manual; from there SFT alone, RL alone,
and SFT + RL learn to reconstruct, to design, to predict. Held-out prompts are answered greedily; the start answers each
N times as well, and the simulator picks the best, at as many calls as a run of RL makes.
Writes studies/results/own-language.json and docs/studies/own-language.md.
"""

import json
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from studies.experiment import (
    ROOT,
    UNFINISHED,
    options,
    publish_page,
    read_found,
    say,
    table,
    train_arm,
    trained,
    write_found,
    write_rows,
)
from studies.lattice.tasks import TASKS, manual, task_rows, worth
from workbench.statistics import Interval, mean_interval, paired_difference
from workbench.store import Project

TAKES = "about 10 minutes on one core"
ARMS = ("start", "sft", "rl", "sft-rl")
PORT = 8437
ROWS = {"manual": 1500, "pairs": 3000, "prompts": 900, "held_out": 48}
QUICK = {"manual": 120, "pairs": 150, "prompts": 60, "held_out": 9}
FEW = {
    "start": ["tokens=10240", "start.width=32", "start.layers=1", "mix[0].max_epochs=50"],
    "sft": ["tokens=1500", "mix[0].max_epochs=50"],
    "rl": ["rl.steps=2", "save_every=2"],
    "sft-rl": ["rl.steps=2", "save_every=2"],
}
LONGEST = 64
SEED = 0


def write_data(folder: Path, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Manual, pairs, prompts of the training lattices; recipes beside them. Returns the held-out rows."""
    pairs = task_rows(counts["pairs"], seed=1, held_out=False)
    held_out = task_rows(counts["held_out"], seed=3, held_out=True)
    write_rows(folder / "data" / "manual.jsonl", manual(counts["manual"], seed=0))
    write_rows(folder / "data" / "pairs.jsonl", [{k: row[k] for k in ("prompt", "completion")} for row in pairs])
    prompts = task_rows(counts["prompts"], seed=2, held_out=False)
    # what the policy may see is the prompt; what the simulator needs stands beside it
    write_rows(folder / "data" / "prompts.jsonl", [{k: v for k, v in r.items() if k != "completion"} for r in prompts])
    for arm in ARMS:
        shutil.copy(ROOT / "studies" / "recipes" / f"own-language-{arm}.yaml", folder / "data")
    return held_out


@contextmanager
def simulator() -> Iterator[None]:
    """The solver in its own process, for as long as it is needed."""
    command = [sys.executable, "-m", "studies.lattice.simulator", "--port", str(PORT)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"error: the simulator did not start; is port {PORT} free?")
        yield
    finally:
        process.kill()
        process.wait()


def calls() -> int:
    """Answers that the simulator scored since it began."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/calls", timeout=30) as answer:
        return int(json.load(answer)["calls"])


def answers(path: Path, rows: Sequence[Mapping[str, Any]], *, times: int, temperature: float) -> list[list[str]]:
    """Of each row so many answers by a checkpoint, as its chat template asks."""
    from workbench.engines.base import GenerateRequest
    from workbench.engines.transformers_engine import TransformersEngine

    engine = TransformersEngine.load(str(path), dtype="float32")
    try:
        asked = [
            GenerateRequest(
                prompt=engine.tokenizer.apply_chat_template(
                    [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
                ),
                max_new_tokens=LONGEST,
                temperature=temperature,
                seed=SEED + turn,
            )
            for row in rows
            for turn in range(times)
        ]
        found = {place: one.text for tile in engine.generate(asked) for place, one in tile}
    finally:
        engine.close()
    return [[found[at * times + turn] for turn in range(times)] for at in range(len(rows))]


def run(folder: Path, *, quick: bool) -> None:
    """Train the arms, ask them; what is known is written as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    held_out = write_data(folder, QUICK if quick else ROWS)
    found = read_found(folder)
    arms: dict[str, Any] = found["arms"]
    with simulator():
        for name in ARMS:
            if name in arms:
                continue
            before = calls()
            overrides = FEW[name] if quick else []
            arm = train_arm(folder / "data" / f"own-language-{name}.yaml", f"own-language-{name}", project, overrides)
            made = (
                trained(arm) if name in ("start", "sft") else {"checkpoint": arm.path.name, **_rewards(arm.path.parent)}
            )
            judged = [_judged(row, one) for row, (one,) in zip(held_out, _greedy(arm.path, held_out), strict=True)]
            arms[name] = {"run": made, "calls": calls() - before, "items": judged}
            write_found(folder, found)
            say(f"{name}: score {summary(judged)['all']['score'].value:.2f}")
    if "best" not in arms:
        times = max(1, arms["rl"]["calls"] // len(held_out))
        drawn = answers(_last(project, "start"), held_out, times=times, temperature=1.0)
        judged = [
            max((_judged(row, one) for one in some), key=_score) for row, some in zip(held_out, drawn, strict=True)
        ]
        arms["best"] = {"run": {"times": times}, "calls": times * len(held_out), "items": judged}
        write_found(folder, found)


def _last(project: Project, arm: str) -> Path:
    from training.checkpoints import last_checkpoint

    path = last_checkpoint(project.root / "runs" / f"own-language-{arm}")
    assert path is not None
    return path


def _greedy(path: Path, rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return answers(path, rows, times=1, temperature=0.0)


def _judged(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    return {"task": row["task"], "prompt": row["prompt"], "answer": answer[:200], **asdict(worth(row, answer))}


def _score(item: Mapping[str, Any]) -> float:
    return float(item["score"])


def _rewards(folder: Path) -> dict[str, Any]:
    """First and last mean reward of a run's log."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"steps": log[-1]["step"], "reward": [log[0]["reward"], log[-1]["reward"]]}


def summary(items: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By task and over all: validity, exactness, score with 95% intervals over prompts; median error of valid ones."""
    found: dict[str, dict[str, Any]] = {}
    for task in (*TASKS, "all"):
        some = [item for item in items if task in (item["task"], "all")]
        errors = [item["error"] for item in some if item["error"] is not None]
        found[task] = {
            "n": len(some),
            **{
                name: mean_interval([float(item[name]) for item in some], binary=name != "score")
                for name in ("valid", "exact", "score")
            },
            "error": float(np.median(errors)) if errors else None,
        }
    return found


def change(one: Mapping[str, Any], other: Mapping[str, Any]) -> Interval:
    """Mean change of the score from one arm to another on the same prompts, with its 95%."""
    before = {(i["task"], i["prompt"]): i["score"] for i in one["items"]}
    scores = [before[i["task"], i["prompt"]] for i in other["items"]]
    return paired_difference(scores, [i["score"] for i in other["items"]])


TITLES = {"start": "start", "best": "best of N of the start", "sft": "SFT", "rl": "RL", "sft-rl": "SFT + RL"}


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    arms = found["arms"]
    if not set(TITLES) <= set(arms):
        return UNFINISHED
    parts: list[str] = []
    for task in (*TASKS, "all"):
        rows: list[list[str]] = []
        count = len([item for item in arms["start"]["items"] if task in (item["task"], "all")])
        for name, title in TITLES.items():
            one = summary(arms[name]["items"])[task]
            error = "–" if one["error"] is None else f"{one['error']:.2f}"
            rows.append([title, *(_share(one[key]) for key in ("valid", "exact", "score")), error])
        kind = "All tasks" if task == "all" else task.capitalize()
        head = ["arm", "valid", "exact", "score", "median error of valid ones"]
        parts.append(f"**{kind}**, {count} held-out prompts [95%]:\n\n" + table(head, rows))
    pairs = [("start", "rl"), ("best", "rl"), ("start", "sft"), ("sft", "sft-rl"), ("best", "sft-rl")]
    rows = [[f"{TITLES[a]} → {TITLES[b]}", _share(change(arms[a], arms[b]), "+")] for a, b in pairs]
    parts.append("**Paired changes of the score**, over all tasks [95%]:\n\n" + table(["from → to", "change"], rows))
    costs = [[TITLES[name], f"{arms[name]['calls']:,}"] for name in TITLES]
    parts.append(table(["arm", "calls of the simulator"], costs))
    return "".join(parts)


def _share(found: Interval, sign: str = "") -> str:
    """With its interval; where all prompts gave the same there is none to tell."""
    text = f"{found.value:{sign}.2f}"
    if found.low is None or found.high is None:
        return f"{text} (no spread)".replace("-", "−")
    return f"{text} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]".replace("-", "−")


def main() -> None:
    """Measure, then write the page; --render writes it again from the kept numbers."""
    chosen = options("own-language", __doc__ or "")
    if not chosen.render:
        run(chosen.project, quick=chosen.quick)
    if not chosen.quick:
        publish_page("own-language", chosen.project, render)


if __name__ == "__main__":
    main()
