"""A tool harness in a process of its own drives a model over several turns, in training and in evaluation alike.

    make study-tools          # resumable; writes docs/studies/tools.md

The harness is examples/tool_orchestrator.py: coins lie in boxes, tools open one and add two numbers, and the sum is asked
for. It claims episodes over HTTP, calls the policy as an OpenAI endpoint, runs the tools and posts rewards. How many does
the embedded model solve, how many a small model that read some written traces, and how many after reinforcement learning
through the harness? `workbench eval --environment` asks all three by the same harness, on boxes that nobody trained on.
"""

# ruff: noqa: E501 (sentences of the page)

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from studies.experiment import PAGES, RESULTS, ROOT, options, say, write_rows

TAKES = "10 minutes"
EXAMPLE = ROOT / "examples" / "tool_orchestrator.py"
RESULT, PAGE = RESULTS / "tools.json", PAGES / "tools.md"
NAMES = ["red", "blue", "green", "gold", "black", "white", "brown", "pink", "grey", "silver"]
TRACES, ROWS, HELD_OUT, EMBEDDED = 700, 200, 100, 24
"""Written traces; rows of the run; rows of the evaluation, and how many of those the embedded model is asked."""
WARM: dict[str, Any] = {
    "recipe": "warm",
    "start": {"new": "llama", "layers": 4, "width": 192, "heads": 6, "vocabulary": 440, "context": 1024},
    "method": "sft",
    "mix": [{"name": "traces", "data": "traces.jsonl", "share": 1.0, "max_epochs": 6}],
    "tokens": 150_000,
    "sequence_length": 1024,
    "batch_tokens": 8192,
    "micro_batch": 4,
    "dtype": "float32",
    "schedule": {"kind": "cosine", "learning_rate": 2.0e-3, "warmup": 0.05},
    "log_every": 5,
    "save_every": 20,
    "keep": 1,
}
RECIPE: dict[str, Any] = {
    "recipe": "tools",
    "start": "run/warm",
    "method": "grpo",
    "rl": {
        "prompts": "boxes.jsonl",
        "column": "question",
        "steps": 30,
        "prompts_per_step": 4,
        "group_size": 8,
        "max_tokens": 40,
        "temperature": 1.0,
        "kl": 0.0,
        "orchestrator": {"port": 0, "deadline_s": 300},
    },
    "micro_batch": 8,
    "dtype": "float32",
    "schedule": {"kind": "constant", "learning_rate": 3.0e-4, "warmup": 0.0},
    "log_every": 1,
    "save_every": 10,
    "keep": 1,
}
ENVIRONMENT: dict[str, Any] = {
    "task": "boxes",
    "prompts": "held_out.jsonl",
    "column": "question",
    "orchestrator": {"port": 0, "deadline_s": 600},
    "success": "right",
    "max_tokens": 40,
}


def boxes(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows: what lies in four boxes, and a question about two of them; none twice for one seed."""
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, Any]] = {}
    while len(found) < count:
        names = [NAMES[i] for i in rng.permutation(len(NAMES))[:4]]
        coins = rng.integers(1, 10, 4).tolist()
        one, other = names[:2]
        row = {
            "question": f"How many coins are in {one} and {other}?",
            "boxes": dict(zip(names, coins, strict=True)),
            "answer": str(coins[0] + coins[1]),
        }
        found[json.dumps(row)] = row
    return list(found.values())


def written_trace(row: dict[str, Any], tools: list[dict[str, Any]], run_tool: Any) -> dict[str, Any]:
    """A good episode, as it would be told to a model whose chat template knows no tools."""
    from training.rl.conversation import with_tools

    one, other = row["question"].removeprefix("How many coins are in ").removesuffix("?").split(" and ")
    calls = [("open_box", {"name": one}), ("open_box", {"name": other})]
    calls.append(("add", {"a": row["boxes"][one], "b": row["boxes"][other]}))
    messages = with_tools([{"role": "user", "content": row["question"]}], tools)
    for name, arguments in calls:
        call = json.dumps({"name": name, "arguments": arguments})
        told = run_tool(name, arguments, row["boxes"])
        messages.append({"role": "assistant", "content": f"<tool_call>{call}</tool_call>"})
        messages.append({"role": "user", "content": f"<tool_response>{told}</tool_response>"})
    return {"messages": [*messages, {"role": "assistant", "content": row["answer"]}]}


def write_project(home: Path, *, quick: bool) -> None:
    """Rows, recipes, environment. No row stands in two of the files."""
    sys.path.insert(0, str(EXAMPLE.parent))
    import tool_orchestrator as example  # pyright: ignore[reportMissingImports]

    rows = boxes(TRACES + ROWS + HELD_OUT, seed=7)
    traces = [written_trace(row, example.TOOLS, example.run_tool) for row in rows[:TRACES]]
    write_rows(home / "traces.jsonl", traces)
    write_rows(home / "boxes.jsonl", rows[TRACES : TRACES + ROWS])
    write_rows(home / "held_out.jsonl", rows[TRACES + ROWS :])
    less = {"tokens": 4000, "save_every": 1} if quick else {}
    fewer = {"steps": 2, "prompts_per_step": 1, "group_size": 4} if quick else {}
    (home / "warm.yaml").write_text(yaml.safe_dump(WARM | less, sort_keys=False), encoding="utf-8")
    recipe = RECIPE | {"rl": RECIPE["rl"] | fewer} | ({"save_every": 2} if quick else {})
    (home / "tools.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    (home / "boxes.yaml").write_text(yaml.safe_dump(ENVIRONMENT, sort_keys=False), encoding="utf-8")


@contextmanager
def harness(folder: Path) -> Iterator[None]:
    """The example orchestrator in a process of its own, on a folder."""
    process = subprocess.Popen([sys.executable, str(EXAMPLE), str(folder)])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def measure(home: Path, *, quick: bool) -> dict[str, Any]:
    """All runs and evaluations; each goes on where it was stopped."""
    from workbench.evaluation import EvaluationRequest
    from workbench.pipeline import evaluate_many, train
    from workbench.store import Project

    home.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(home)
    write_project(home, quick=quick)

    def told(step: Any) -> None:
        say(f"step {step.step}/{step.steps} loss {step.loss:.3f} reward {step.reward}")

    clock = {"warm": time.perf_counter()}
    warm = train(home / "warm.yaml", project=project, on_step=told)
    clock["warm"] = time.perf_counter() - clock["warm"]
    began = time.perf_counter()
    with harness(home / "runs" / "tools"):
        made = train(home / "tools.yaml", project=project, on_step=told)
    clock["tools"] = time.perf_counter() - began
    all_rows = EvaluationRequest(environments=[home / "boxes.yaml"], limit=6 if quick else None, dtype="float32")
    few = EvaluationRequest(environments=[home / "boxes.yaml"], limit=2 if quick else EMBEDDED, dtype="float32")
    with harness(home / "episodes" / "boxes"):
        many = evaluate_many([made.checkpoints[-1]], project=project, request=all_rows, baseline=warm.checkpoints[-1])
        embedded = evaluate_many(["smollm2"], project=project, request=few).evaluated[0]
    assert many.baseline is not None
    comparison = next(iter(many.comparisons.values()), None)
    if comparison is None:
        raise SystemExit("error: the run changed no weight: no episode was rewarded; train the start for longer")
    (task,) = comparison.tasks
    assert task.difference is not None
    lines = (made.made.folder / "log.jsonl").read_text().splitlines()
    keys = ("step", "reward", "reward/right", "reward/opened", "turns", "length", "no_signal")
    return {
        "arms": {
            name: _told(one)
            for name, one in (("embedded", embedded), ("warm", many.baseline), ("tools", many.evaluated[0]))
        },
        "verdict": {
            "verdict": task.verdict,
            "change": [task.difference.value, task.difference.low, task.difference.high],
            "gained": task.gained,
            "lost": task.lost,
            "n": task.n,
        },
        "log": [{key: json.loads(line).get(key) for key in keys} for line in lines],
        "seconds": clock,
    }


def _told(one: Any) -> dict[str, Any]:
    (result,) = one.report.results
    turns = [episode["turns"] for item in one.items for episode in item.extra["episodes"]]
    return {
        "estimates": {e.metric: [e.value, e.low, e.high, e.n] for e in result.estimates},
        "turns": sum(turns) / len(turns),
        "answers": [[item.prompt, item.target, item.answer] for item in one.items[:6]],
    }


def render(kept: dict[str, Any]) -> str:
    """The page, of the kept numbers."""
    arms, verdict = kept["arms"], kept["verdict"]
    change, low, high = verdict["change"]
    names = {
        "embedded": "SmolLM2-135M-Instruct, as it is",
        "warm": f"a small model after {TRACES} written traces",
        "tools": "the same after reinforcement learning",
    }
    rows = "\n".join(
        f"| {names[name]} | {arm['estimates']['success'][3]} | {_share(arm['estimates']['success'])} | "
        f"{_number(arm['estimates'].get('opened'))} | {arm['turns']:.1f} |"
        for name, arm in arms.items()
    )
    curve = "\n".join(
        f"| {one['step']} | {one['reward']:.2f} | {one['reward/right'] or 0:.2f} | {one['turns']:.1f} | {one['no_signal']:.0%} |"
        for one in kept["log"]
        if one["step"] == 1 or one["step"] % 5 == 0
    )
    answers = "\n".join(
        f"| {asked} | {right} | {_shown(before)} | {_shown(after)} |"
        for (asked, right, before), (_, _, after) in zip(arms["warm"]["answers"], arms["tools"]["answers"], strict=True)
    )
    before, after = arms["warm"]["estimates"]["success"], arms["tools"]["estimates"]["success"]
    embedded = arms["embedded"]["estimates"]["success"]
    gained = low > 0
    return f"""# Tools over several turns, through a harness of one's own

*A company that builds coding agents has a tool harness and its own orchestrator. Does a model get better at its tasks when that orchestrator drives
the training?* **{"Yes" if gained else "Not with certainty"}: success on {verdict["n"]} held-out tasks went from {before[0]:.0%} to {after[0]:.0%} ({change:+.2f}, 90% interval [{low:+.2f}, {high:+.2f}], `workbench compare`: {verdict["verdict"]};
{verdict["gained"]} gained, {verdict["lost"]} lost).** The embedded model as it is solves {embedded[0]:.0%} of {embedded[3]}, which leaves {"nothing" if embedded[0] == 0 else "little"} to reward; so a
small model read written traces first.

| model | tasks | success, 95% | reward for boxes opened, 95% | turns |
|---|---|---|---|---|
{rows}

The harness is `examples/tool_orchestrator.py`, a process of its own that knows nothing of the workbench but one file: it claims episodes over HTTP, calls the policy as an
OpenAI endpoint with two tools (open a box, add two numbers), runs them, rewards each box that was asked for (0.1) and the right sum (1). A task
takes four answers: two boxes, a sum, the result. The same process serves the training (`rl.orchestrator`) and the evaluation (`workbench eval --environment`).

| step | reward | right | turns | groups without signal |
|---|---|---|---|---|
{curve}

| held-out task | right | before | after |
|---|---|---|---|
{answers}

## How it was done

A Llama of {WARM["start"]["layers"]} layers and width {WARM["start"]["width"]} with random weights and a tokenizer of its own (`start: {{new: llama}}`) was fine-tuned on {TRACES} traces that a program wrote, for {WARM["tokens"]:,}
tokens of answers; then {RECIPE["rl"]["steps"]} steps of GRPO, {RECIPE["rl"]["prompts_per_step"]} tasks × {RECIPE["rl"]["group_size"]} episodes each, on {ROWS} other tasks. Evaluation is greedy, on {HELD_OUT} tasks of neither.

## What it does not show

- The tasks are a toy of one kind, and the held-out ones are of that kind. A repository with its tests takes a model that can write code, and hours.
- The model was made for this study; what a run of this kind does to general skills is not asked here, for it has none.
- One seed.

## How to repeat it

```bash
make study-tools
```

It took {sum(kept["seconds"].values()) / 60:.0f} minutes of one core.
"""


def _share(one: list[float]) -> str:
    return f"{one[0]:.0%} [{one[1]:.0%}, {one[2]:.0%}]"


def _number(one: list[float] | None) -> str:
    if one is None:
        return "0"
    return f"{one[0]:.2f}" if one[1] is None else f"{one[0]:.2f} [{one[1]:.2f}, {one[2]:.2f}]"


def _shown(text: str) -> str:
    plain = " ".join(text.split())[:60]
    return "".join(f"&#{ord(c)};" if c in "|<>[]*_`&" else c for c in plain) or "(nothing)"


def main() -> None:
    """Measure and write the page; --render writes it again from the kept numbers."""
    asked = options("tools", __doc__ or "")
    if not asked.render:
        kept = measure(asked.project, quick=asked.quick)
        if asked.quick:
            print(render(kept))
            return
        RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
