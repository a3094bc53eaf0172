"""Reinforcement learning alone on legal questions: does a reward for the right letter teach a small model any law?

    make study-legal-rl          # resumable; writes docs/studies/legal-rl.md

Questions with lettered choices from LegalBench (privacy policies, contracts; CC BY) and MMLU's law subjects (MIT), the
short ones, split in two. GRPO from the embedded model: answers of a few tokens, 1 for the right letter and 0 for all
else, no example shown. Held-out questions before and after, once as written answers, once as the likelier letter: the
first counts what was learned of answering, the second what was learned of law. General questions beside them.
"""

# ruff: noqa: E501 (sentences of the page)

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from studies.experiment import PAGES, RESULTS, options, read_rows, say, write_rows

TAKES = "25 minutes"
START, LETTERS = "smollm2", "ABCD"
LONGEST, HELD_OUT, GENERAL = 420, 300, 150
"""Characters of a question with its choices; held-out questions; questions of ARC-Easy."""
RESULT, PAGE = RESULTS / "legal-rl.json", PAGES / "legal-rl.md"
KINDS = {
    "privacy_policy_qa": "LegalBench, privacy policies",
    "contract_qa": "LegalBench, contracts",
    "mmlu": "MMLU, law",
}
LAW = ("international_law", "jurisprudence", "professional_law")
RECIPE: dict[str, Any] = {
    "recipe": "legal",
    "start": START,
    "method": "grpo",
    "lora": {"rank": 16, "alpha": 32.0},
    "rl": {
        "prompts": "train.jsonl",
        "steps": 30,
        "prompts_per_step": 4,
        "group_size": 8,
        "max_tokens": 4,
        "temperature": 1.0,
        "mask_truncated": False,
        "kl": 0.02,
        "rewards": [{"kind": "multiple_choice", "name": "right", "options": {"column": "answer"}}],
    },
    "micro_batch": 16,
    "dtype": "float32",
    "schedule": {"kind": "constant", "learning_rate": 1.0e-4, "warmup": 0.1},
    "log_every": 1,
    "save_every": 5,
    "keep": 1,
}
ENVIRONMENT: dict[str, Any] = {
    "task": "legal_written",
    "prompts": "held_out.jsonl",
    "rewards": RECIPE["rl"]["rewards"],
    "max_tokens": 4,
}
LETTER_TASK: dict[str, Any] = {
    "task": "legal_letter",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "prompt",
    "doc_to_choice": "letters",
    "doc_to_target": "index",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 1},
}


def questions() -> list[dict[str, Any]]:
    """The short ones, as prompts with lettered choices, in an order that a hash gives."""
    rows = read_rows("legalbench", "privacy_policy_qa_sample.jsonl") + read_rows("legalbench", "contract_qa.jsonl")
    rows += [row | {"task": "mmlu"} for row in read_rows("mmlu", "test.jsonl") if row["subject"] in LAW]
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        letters = list(LETTERS[: len(row["choices"])])
        choices = "\n".join(f"{letter}. {text}" for letter, text in zip(letters, row["choices"], strict=True))
        parts = [part.strip() for part in (row.get("passage") or "", row["question"]) if part.strip()]
        text = "\n".join([*parts, choices])
        if len(text) <= LONGEST:
            asked = f"{text}\nAnswer with the letter alone."
            found[asked] = {
                "prompt": asked,
                "answer": letters[row["answer"]],
                "index": row["answer"],
                "letters": letters,
                "kind": row["task"],
            }
    return sorted(found.values(), key=lambda row: hashlib.sha256(row["prompt"].encode()).hexdigest())


def write_project(home: Path, *, quick: bool) -> Path:
    """Rows, recipe, environment, task. Returns the recipe."""
    rows = questions()
    held_out = rows[: 12 if quick else HELD_OUT]
    write_rows(home / "held_out.jsonl", held_out)
    write_rows(home / "train.jsonl", rows[HELD_OUT:])
    (home / "tasks").mkdir(exist_ok=True)
    (home / "environment.yaml").write_text(yaml.safe_dump(ENVIRONMENT, sort_keys=False), encoding="utf-8")
    task = LETTER_TASK | {"dataset_kwargs": {"data_files": {"test": str((home / "held_out.jsonl").resolve())}}}
    (home / "tasks" / "legal_letter.yaml").write_text(yaml.safe_dump(task, sort_keys=False), encoding="utf-8")
    recipe = RECIPE
    if quick:
        recipe |= {"save_every": 2, "rl": RECIPE["rl"] | {"steps": 2, "prompts_per_step": 1, "group_size": 4}}
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return home / "recipe.yaml"


def measure(home: Path, *, quick: bool) -> dict[str, Any]:
    """Train, ask both checkpoints, compare."""
    from workbench.evaluation import EvaluationRequest
    from workbench.pipeline import evaluate_many, train
    from workbench.store import Project

    home.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(home)
    recipe = write_project(home, quick=quick)
    began = time.perf_counter()
    made = train(recipe, project=project, on_step=lambda s: say(f"step {s.step}/{s.steps} reward {s.reward}"))
    seconds = time.perf_counter() - began
    chat = EvaluationRequest(
        environments=[home / "environment.yaml"], tasks=["legal_letter"], apply_chat_template=True, dtype="float32"
    )
    general = EvaluationRequest(tasks=["arc_easy"], limit=10 if quick else GENERAL, dtype="float32")
    found: dict[str, Any] = {"tasks": [], "seconds": seconds, "trained": len(questions()) - HELD_OUT}
    for request in (chat, general):
        many = evaluate_many([made.checkpoints[-1]], project=project, request=request, baseline=START)
        assert many.baseline is not None
        (comparison,) = many.comparisons.values()
        sides = {"before": many.baseline, "after": many.evaluated[0]}
        for task in comparison.tasks:
            found["tasks"].append(
                {"task": task.task, "n": task.n, "verdict": task.verdict, "gained": task.gained, "lost": task.lost}
                | {"change": None if task.difference is None else _span(task.difference)}
                | {name: _estimate(one.report, task.task) for name, one in sides.items()}
            )
        if request is chat:
            found["answers"] = {name: _answers(one.items) for name, one in sides.items()}
    lines = (made.made.folder / "log.jsonl").read_text().splitlines()
    keys = ("step", "reward", "length", "entropy", "no_signal", "kl")
    return found | {"log": [{key: json.loads(line).get(key) for key in keys} for line in lines]}


def _span(one: Any) -> list[float | None]:
    return [one.value, one.low, one.high]


def _estimate(report: Any, task: str) -> list[float | None]:
    return _span(next(result for result in report.results if result.task == task).headline)


def _answers(items: Sequence[Any]) -> list[dict[str, Any]]:
    """What the page needs of each written answer: kind of question, the text, right or not."""
    kinds = {row["prompt"]: row["kind"] for row in questions()[:HELD_OUT]}
    return [
        {"kind": kinds[item.prompt], "answer": item.answer, "right": item.metrics["success"]}
        for item in items
        if item.task == "legal_written"
    ]


def render(kept: dict[str, Any]) -> str:
    """The page, of the kept numbers."""
    from workbench.statistics import wilson_interval

    tasks = {one["task"]: one for one in kept["tasks"]}
    written, letter, general = tasks["legal_written"], tasks["legal_letter"], tasks["arc_easy"]
    names = {
        "legal_written": "legal, written answers",
        "legal_letter": "legal, the likelier letter",
        "arc_easy": "ARC-Easy (general)",
    }
    rows = "\n".join(
        f"| {names[name]} | {one['n']} | {_cell(one['before'])} | {_cell(one['after'])} | {_change(one['change'])} | {one['verdict']} |"
        for name, one in tasks.items()
    )
    kinds = []
    for kind, label in KINDS.items():
        cells = []
        for side in ("before", "after"):
            own = [one for one in kept["answers"][side] if one["kind"] == kind]
            if own:
                interval = wilson_interval(sum(one["right"] for one in own), len(own))
                cells.append(f"{_cell([interval.value, interval.low, interval.high])}")
        if cells:
            count = sum(one["kind"] == kind for one in kept["answers"]["after"])
            kinds.append(f"| {label} | {count} | {' | '.join(cells)} |")
    shares = {
        side: {text: sum(one["answer"].strip().startswith(text) for one in kept["answers"][side]) for text in LETTERS}
        for side in ("before", "after")
    }
    begins = "\n".join(
        f"| {side} | "
        + " | ".join(str(shares[side][text]) for text in LETTERS)
        + f" | {len(kept['answers'][side]) - sum(shares[side].values())} |"
        for side in ("before", "after")
    )
    steps = kept["log"]
    every = max(1, len(steps) // 10)
    curve = "\n".join(
        f"| {one['step']} | {one['reward']:.2f} | {one['length']:.1f} | {one['entropy']:.2f} | {one['no_signal']:.0%} |"
        for one in steps[::every]
    )
    low, learned = written["change"][1], letter["change"]
    knows = learned[1] > 0
    gained = "**Yes, in what it writes" if low > 0 else "**Nothing certain was gained"
    law = (
        "the likelier letter shows that some of it is law"
        if knows
        else "the likelier letter shows no certain gain in law"
    )
    return f"""# Reinforcement learning alone, on legal questions

*A research assistant for lawyers, by reinforcement learning alone: does a reward for the right letter, and no example, make the embedded model
better at legal questions?* {gained}: right written answers went from {written["before"][0]:.0%} to {written["after"][0]:.0%} of {written["n"]} held-out questions
({_change(written["change"])}, 90% interval); {law} ({_change(learned)}). General questions: {general["verdict"]} ({_change(general["change"])}, n = {general["n"]}).**

| task | n | before, 95% | after, 95% | change, paired, 90% | `workbench compare` |
|---|---|---|---|---|---|
{rows}

| written answers right, 95% | n | before | after |
|---|---|---|---|
{chr(10).join(kinds)}

| written answers that begin with | A | B | C | D | something else |
|---|---|---|---|---|---|
{begins}

## What it shows, and what it does not

- A written answer is right where it settles on the right letter and no other (reward `multiple_choice`). A model that answers in sentences gets none, whatever it
  knows; the likelier letter is not touched by that. Where the first moves and the second does not, the run taught how to answer.
- SmolLM2-135M is near guessing at such questions: of two choices half are guessed. Reinforcement strengthens what a model does right by itself now and then,
  and what it never does cannot be rewarded: a system of this kind begins at a model that knows the field.
- {len(steps)} steps of {RECIPE["rl"]["prompts_per_step"]} questions × {RECIPE["rl"]["group_size"]} answers of at most {RECIPE["rl"]["max_tokens"]} tokens, out of {kept["trained"]:,}; adapters of rank 16, `kl` 0.02. One seed. Only questions of at most {LONGEST} characters.

| step | reward | tokens | entropy, nats | groups without signal |
|---|---|---|---|---|
{curve}

## How to repeat it

```bash
make study-legal-rl
```

Training took {kept["seconds"] / 60:.0f} minutes of one core.
"""


def _cell(one: Sequence[float | None]) -> str:
    value, low, high = one
    span = "" if low is None or high is None else f" [{low:.0%}, {high:.0%}]"
    return f"{value:.0%}{span}"


def _change(one: Sequence[float] | None) -> str:
    return (
        "–"
        if one is None
        else f"{one[0]:+.1%} [{one[1]:+.1%}, {one[2]:+.1%}]".replace("%", " points")
        .replace(" points,", ",")
        .replace(" points [", " [")
    )


def main() -> None:
    """Measure and write the page; --render writes it again from the kept numbers."""
    asked = options("legal-rl", __doc__ or "")
    if not asked.render:
        kept = measure(asked.project, quick=asked.quick)
        if asked.quick:
            print(json.dumps(kept["tasks"], indent=1), render(kept))
            return
        RESULT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULT.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
