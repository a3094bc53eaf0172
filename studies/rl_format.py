"""Does a rule alone, with no example, teach the embedded model to answer briefly? GRPO on adapters, a regex as reward.

    make study-rl-format          # resumable; writes docs/studies/rl-format.md

A second arm rewards the right word too, and holds the policy near its start.

Questions with one-word answers, each with the demand "Answer in at most five words.". The start rarely obeys. The reward
is a regular expression (one line of one to five words), and a little for shortness; nobody shows a good answer. Before and
after the run both checkpoints answer questions about other things, greedily, and the answers are compared in pairs.
"""

# ruff: noqa: E501 (sentences of the page)

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TAKES = "4 minutes of processor time, 8 for the second arm"
ROOT = Path(__file__).resolve().parents[1]
PAGE, RESULTS = ROOT / "docs" / "studies" / "rl-format.md", ROOT / "studies" / "results" / "rl-format.json"
DEMAND = "Answer in at most five words."
BRIEF = r"\A\s*\S+(?: \S+){0,4}\s*\Z"
"""One line of one to five words."""
START, TASK = "smollm2", "brief_answers"
CAPITALS = (
    "France Paris, Italy Rome, Spain Madrid, Germany Berlin, Japan Tokyo, China Beijing, Egypt Cairo, Greece Athens, Poland Warsaw, "
    "Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Portugal Lisbon, Austria Vienna, Hungary "
    "Budapest, Turkey Ankara, Russia Moscow, India Delhi, Cuba Havana, Peru Lima, Kenya Nairobi, Iraq Baghdad, Iran Tehran, Thailand "
    "Bangkok, Belgium Brussels, Canada Ottawa, Chile Santiago, Ghana Accra, Qatar Doha, Syria Damascus, Lebanon Beirut, Nepal Kathmandu, "
    "Libya Tripoli, Tunisia Tunis, Croatia Zagreb, Bulgaria Sofia, Romania Bucharest, Iceland Reykjavik"
)
COLOURS = (
    "a ripe banana yellow, fresh snow white, coal black, grass green, a ripe tomato red, the clear sky blue, a carrot orange, milk white, "
    "a lime green, a ruby red, a lemon yellow, a crow black, an emerald green, a pumpkin orange, blood red, salt white, soot black, "
    "spinach green, a canary yellow, a sapphire blue"
)
OPPOSITES = (
    "hot cold, big small, up down, left right, day night, young old, wet dry, fast slow, hard soft, open closed, rich poor, early late, "
    "happy sad, full empty, high low, light dark, long short, loud quiet, near far, strong weak, thick thin, true false, wide narrow, "
    "clean dirty, deep shallow, first last, good bad, begin end, love hate, win lose"
)
TASK_FILE = {
    "task": TASK,
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 16},
    "metric_list": [
        {"metric": "brief", "aggregation": "mean", "higher_is_better": True},
        {"metric": "right", "aggregation": "mean", "higher_is_better": True},
    ],
    "metadata": {"version": 1},
}
SCORING = f'''"""How an answer of the study is scored."""

import re


def score(doc, results):
    """brief: one line of one to five words; right: what is asked for is in the answer."""
    text = results[0]
    return {{
        "brief": float(re.search(r"{BRIEF}", text) is not None),
        "right": float(re.search(rf"\\b{{re.escape(doc['answer'])}}\\b", text, re.IGNORECASE) is not None),
    }}
'''


def questions() -> list[dict[str, str]]:
    """All of them, kind by kind."""
    forms = (
        (CAPITALS, "What is the capital of {}?"),
        (COLOURS, "What colour is {}?"),
        (OPPOSITES, "What is the opposite of {}?"),
    )
    found = []
    for listed, form in forms:
        for entry in listed.split(", "):
            thing, _, answer = entry.rpartition(" ")
            found.append({"prompt": f"{form.format(thing)} {DEMAND}", "answer": answer})
    return found


def write_project(home: Path, asked_for: dict[str, Any]) -> Path:
    """Questions, task and recipe; every second question is held out. Returns the recipe."""
    asked = questions()
    (home / "tasks").mkdir(parents=True, exist_ok=True)
    for path, rows in ((home / "questions.jsonl", asked[::2]), (home / "held_out.jsonl", asked[1::2])):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (home / "tasks" / "scoring.py").write_text(SCORING, encoding="utf-8")
    task = TASK_FILE | {"dataset_kwargs": {"data_files": {"test": str((home / "held_out.jsonl").resolve())}}}
    text = yaml.safe_dump(task, sort_keys=False) + "process_results: !function scoring.score\n"
    (home / "tasks" / f"{TASK}.yaml").write_text(text, encoding="utf-8")
    recipe = home / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(asked_for, sort_keys=False), encoding="utf-8")
    return recipe


RECIPE: dict[str, Any] = {
    "recipe": "brief",
    "start": START,
    "method": "grpo",
    "lora": {"rank": 16, "alpha": 32.0},
    "rl": {
        "prompts": "questions.jsonl",
        "steps": 14,
        "prompts_per_step": 2,
        "group_size": 8,
        "max_tokens": 16,
        "temperature": 0.9,
        "mask_truncated": False,
        "kl": 0.0,
        "rewards": [
            {"kind": "regex", "name": "brief", "options": {"pattern": BRIEF}},
            {"kind": "length", "weight": 0.3, "options": {"at_most": 6, "worst": 16}},
        ],
    },
    "micro_batch": 8,
    "dtype": "float32",
    "schedule": {"kind": "constant", "learning_rate": 3.0e-4, "warmup": 0.0},
    "log_every": 1,
    "save_every": 7,
    "keep": 1,
}


LAST_WORD = r"(?P<answer>[A-Za-z]+)\W*\Z"
"""What an answer ends with."""
HELD: dict[str, Any] = RECIPE | {
    "recipe": "held",
    "rl": RECIPE["rl"]
    | {
        "steps": 24,
        "kl": 0.05,
        "rewards": [
            {"kind": "regex", "name": "right", "weight": 2.0, "options": {"pattern": LAST_WORD, "column": "answer"}},
            *RECIPE["rl"]["rewards"],
        ],
    },
    "save_every": 6,
}
"""The second arm: besides the form, the right word last, and a price on distance from the start."""
ARMS = {"rule": RECIPE, "held": HELD}


def measure(home: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Train, ask both checkpoints the held-out questions, compare."""
    from workbench.evaluation import EvaluationRequest
    from workbench.pipeline import evaluate_many, train
    from workbench.store import Project

    project = Project.open_or_init(home)
    recipe = write_project(home, asked)
    began, cpu = time.perf_counter(), time.process_time()
    made = train(recipe, project=project, on_step=lambda s: print(s.step, s.reward, file=sys.stderr, flush=True))
    wall, busy = time.perf_counter() - began, time.process_time() - cpu
    request = EvaluationRequest(tasks=(TASK,), apply_chat_template=True, dtype="float32")
    found = evaluate_many([made.checkpoints[-1]], project=project, request=request, baseline=START)
    assert found.baseline is not None
    reports = {"before": found.baseline, "after": found.evaluated[0]}
    log = [json.loads(line) for line in (made.made.folder / "log.jsonl").read_text().splitlines()]
    comparison = next(iter(found.comparisons.values()))
    return {
        "wall_s": wall,
        "cpu_s": busy,
        "log": log,
        "reports": {name: one.report.id for name, one in reports.items()},
        "items": {name: [item_of(item) for item in one.items] for name, one in reports.items()},
        "estimates": {
            name: {
                estimate.metric: [estimate.value, estimate.low, estimate.high, estimate.n]
                for result in one.report.results
                for estimate in result.estimates
            }
            for name, one in reports.items()
        },
        "verdict": [
            {
                "task": one.task,
                "metric": one.metric,
                "verdict": one.verdict,
                "change": [one.difference.value, one.difference.low, one.difference.high],
                "gained": one.gained,
                "lost": one.lost,
                "n": one.n,
            }
            for one in comparison.tasks
            if one.difference is not None
        ],
    }


def item_of(item: Any) -> dict[str, Any]:
    """What the page needs of an answer."""
    question = questions()[1::2][item.doc_id]["prompt"]
    return {"id": item.item, "question": question, "metrics": dict(item.metrics), "answer": item.answer}


def render(arms: dict[str, Any]) -> str:
    """The page, of the kept numbers."""
    kept, held = arms["rule"], arms.get("held")
    before, after = kept["estimates"]["before"], kept["estimates"]["after"]
    (verdict,) = kept["verdict"]
    change, low, high = verdict["change"]
    steps = kept["log"]
    first, last = steps[0], steps[-1]
    reached = next((line["step"] for line in steps if line["reward/brief"] == 1.0), None)
    curve = "\n".join(
        f"| {line['step']} | {line['reward']:.2f} | {line['reward/brief']:.2f} | {line['reward/length']:.2f} | {line['length']:.1f} | "
        f"{line['entropy']:.2f} | {line['no_signal']:.0%} |"
        for line in steps
    )
    right = paired_change(kept, "right")
    sides = [{one["id"]: one for one in kept["items"][name]} for name in ("before", "after")]
    samples = "\n".join(
        f"| {one['question'].removesuffix(' ' + DEMAND)} | {shown(one['answer'])} | {shown(sides[1][item]['answer'])} |"
        for item, one in list(sides[0].items())[::5]
    )
    return f"""# A rule teaches a format

*Does a regular expression alone, without one example, teach the embedded model to answer briefly?* **Yes, within {last["step"]} steps; and
it costs the answers their sense.** The share of held-out answers that are one line of one to five words rose from {before["brief"][0]:.0%} to {after["brief"][0]:.0%} of
{before["brief"][3]} (change {change:+.2f}, 90% interval [{low:+.2f}, {high:+.2f}], `workbench compare`: **{verdict["verdict"]}**). The share that hold the right word
went from {before["right"][0]:.0%} to {after["right"][0]:.0%}: nothing asked for it.

SmolLM2-135M-Instruct (the embedded model) is asked for capitals, colours and opposites with the demand "{DEMAND}", which it mostly
ignores. It is trained by `method: grpo` on adapters (rank 16), {last["steps"]} steps of 2 questions × 8 answers of at most 16 tokens, temperature 0.9.
The reward is 1 for an answer that matches `{BRIEF.replace("|", "&#124;")}`, and up to 0.3 more for few tokens. No row has an answer that training sees. Half
of the 90 questions are held out, all about other things than those trained on. Both checkpoints answer them greedily.

| held-out answers, n = {before["brief"][3]} | before | after | change, paired |
|---|---|---|---|
| one line of one to five words | {share(before["brief"])} | {share(after["brief"])} | {change:+.2f} [{low:+.2f}, {high:+.2f}] (90%) |
| hold the right word | {share(before["right"])} | {share(after["right"])} | {right[0]:+.2f} [{right[1]:+.2f}, {right[2]:+.2f}] (95%, bootstrap) |

## What it shows, and what it does not

- The rule is learned{f", by step {reached} in every answer that was sampled" if reached else ""}: the mean reward went from {first["reward"]:.2f} to {last["reward"]:.2f} of 1.3, answers from {first["length"]:.0f} to {last["length"]:.0f} tokens.
- **A reward teaches what it measures, and nothing holds what it does not.** A short wrong answer earns as much as a short right one, and the policy
  took the shortest way: whoever looked at the reward alone would have called this run a success. A reward for the right word (`regex` with a
  `column`, `math`, a judge), `kl` above 0 and a watched suite (`control`) are what is meant against it; {"the first two are tried below" if held else "whether they keep the answers here was not measured"}.
- Once every answer earns the same, groups carry no signal (last column): the later steps had little left to teach.
- `kl: 0` and a high rate (3e-4), so nothing held the model to its start; general suites were not asked. One seed, one model, one rule.
- Answers of a greedy model on {before["brief"][3]} questions of three kinds: the interval is over questions of these kinds, not over kinds.

| step | reward | brief | short | tokens | entropy, nats | groups without signal |
|---|---|---|---|---|---|---|
{curve}

| held-out question | before | after |
|---|---|---|
{samples}

{render_held(held) if held else ""}## How to repeat it

```bash
make study-rl-format
```

Training took {kept["cpu_s"] / 60:.1f} minutes of one core's time, spread over {kept["wall_s"] / 60:.0f} minutes of a machine that was busy with other work. The project is kept in `build/studies/rl-format`, with every sampled answer in its run's `rollouts`.
"""


def render_held(kept: dict[str, Any]) -> str:
    """The second arm."""
    before, after = kept["estimates"]["before"], kept["estimates"]["after"]
    brief, right = paired_change(kept, "brief"), paired_change(kept, "right")
    steps = kept["log"]
    every = "\n".join(
        f"| {line['step']} | {line['reward']:.2f} | {line['reward/brief']:.2f} | {line['reward/right']:.2f} | {line['length']:.1f} | {line['entropy']:.2f} |"
        for line in steps
        if line["step"] == 1 or line["step"] % 3 == 0
    )
    sides = [{one["id"]: one for one in kept["items"][name]} for name in ("before", "after")]
    samples = "\n".join(
        f"| {one['question'].removesuffix(' ' + DEMAND)} | {shown(sides[1][item]['answer'])} |"
        for item, one in list(sides[0].items())[::5]
    )
    return f"""## The right word rewarded, the start held

A second arm from the same start: 2 for an answer that ends with the right word (`regex` with `column`), the rule and the shortness as before, and `kl: {HELD["rl"]["kl"]}`; {len(steps)} steps.

| held-out answers, n = {before["brief"][3]} | before | after | change, paired (95%, bootstrap) |
|---|---|---|---|
| one line of one to five words | {share(before["brief"])} | {share(after["brief"])} | {brief[0]:+.2f} [{brief[1]:+.2f}, {brief[2]:+.2f}] |
| hold the right word | {share(before["right"])} | {share(after["right"])} | {right[0]:+.2f} [{right[1]:+.2f}, {right[2]:+.2f}] |

| step | reward | brief | right | tokens | entropy, nats |
|---|---|---|---|---|---|
{every}

| held-out question | after the second arm |
|---|---|
{samples}

"""


def share(estimate: Sequence[float]) -> str:
    """With its interval."""
    value, low, high, _ = estimate
    return f"{value:.0%} [{low:.0%}, {high:.0%}]"


def shown(text: str) -> str:
    """An answer in a cell of a table."""
    plain = " ".join(text.split())
    return "".join(f"&#{ord(c)};" if c in "|<>[]*_`&" else c for c in plain) or "(nothing)"


def paired_change(kept: dict[str, Any], metric: str) -> tuple[float, float, float]:
    """(mean, 2.5%, 97.5%) of the change over items, by bootstrap."""
    import numpy as np

    sides = [{one["id"]: one["metrics"][metric] for one in kept["items"][name]} for name in ("before", "after")]
    found = np.array([sides[1][item] - sides[0][item] for item in sides[0]])
    means = found[np.random.default_rng(0).integers(0, len(found), (10_000, len(found)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(found.mean()), float(low), float(high)


def main() -> None:
    """Measure and write the page; --render writes it again from the kept numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT / "build" / "studies" / "rl-format")
    parser.add_argument("--render", action="store_true", help="write the page again from the kept numbers")
    parser.add_argument("--arm", choices=[*ARMS], nargs="*", default=[*ARMS])
    options = parser.parse_args()
    if not options.render:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        for arm in options.arm:
            kept[arm] = measure(options.project / arm, ARMS[arm])
            RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
