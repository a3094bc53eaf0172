"""Does a rule alone, with no example, teach the embedded model to answer briefly? GRPO on adapters, a regex as reward.

    make study-rl-format          # resumable; writes docs/studies/rl-format.md

Questions with one-word answers, each with the demand "Answer in at most five words.". The start rarely obeys. The reward
is a regular expression (one line of one to five words), and a little for shortness; nobody shows a good answer. Before and
after the run both checkpoints answer questions about other things, greedily, and the answers are compared in pairs.
"""

# ruff: noqa: E501 (sentences of the page)

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

TAKES = "15 minutes of two free cores"
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


def write_project(home: Path) -> Path:
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
    recipe.write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
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


def measure(home: Path) -> dict[str, Any]:
    """Train, ask both checkpoints the held-out questions, compare."""
    from workbench.evaluation import EvaluationRequest
    from workbench.pipeline import evaluate_many, train
    from workbench.store import Project

    project = Project.open_or_init(home)
    recipe = write_project(home)
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
    return {"id": item.item, "metrics": dict(item.metrics), "answer": item.answer}


def main() -> None:
    """Measure and write the page; --render writes it again from the kept numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=ROOT / "build" / "studies" / "rl-format")
    parser.add_argument("--render", action="store_true", help="write the page again from the kept numbers")
    options = parser.parse_args()
    if not options.render:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(measure(options.project), indent=1) + "\n", encoding="utf-8")
    print(RESULTS)


if __name__ == "__main__":
    main()
