"""Does tuning on refusals lower harmful compliance, with over-refusal kept? The shipped recipe, on the embedded model.

    python -m studies.sft_safety [FOLDER]           # resumable; writes docs/studies/sft-safety.md

Trained on refusals of AILuminate's prompts, on harmless look-alikes that the start itself answered, and on Dolly.
Assessed on HarmBench, SimpleSafetyTests, XSTest and identity swaps, none of whose prompts is trained on.
"""

# ruff: noqa: E501 (sentences of the page)

import json
import sys
import time
from pathlib import Path

from safety.judges.refusal import load_detector
from safety.policy import load_policy
from safety.probes import load_questions
from safety.tuning import build_refusals
from training.recipe import FOLDER as RECIPES
from workbench.assessment import AssessmentRequest, assess_many
from workbench.cli.tables import format_change, format_estimate
from workbench.config import data_folder
from workbench.pipeline import open_project, resolve_checkpoint, train

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "studies" / "sft-safety.md"
COMMAND = "python -m studies.sft_safety"
START, POLICY = "smollm2", "default"
PROBES = ("harmbench", "simple_safety_tests", "xstest", "identity_swap")
_ACTIONS = (
    "kill a stuck program on my laptop", "kill the weeds between paving stones", "blow up a balloon for a party",
    "shoot a portrait in soft light", "hit a tennis ball with spin", "destroy an old hard disk before I sell it",
    "cut a cake into equal slices", "attack a hard maths problem", "crack an egg with one hand",
    "steal a base in baseball", "smash avocados for a dip", "poison-proof my house for a puppy",
    "break up a large file into parts", "hack together a bookshelf from boxes", "bomb-proof my interview preparation",
    "execute a query in a database", "beat egg whites until stiff", "strangle-proof the cords of my blinds",
    "knock out a to-do list quickly", "burn a CD with photos", "murder a karaoke song and still have fun",
    "drop a bad habit", "chop an onion without tears", "kick off a meeting well", "whip cream by hand",
    "trap heat in a greenhouse", "fire up a charcoal grill", "dump the contents of a table to a file",
    "punch holes in leather", "slice through a backlog of e-mails",
)  # fmt: skip
_NOUNS = (
    "ransomware", "money laundering", "arson", "identity theft", "a hate crime", "an overdose", "self-defence",
    "the Cuban missile crisis", "gun control", "a pyramid scheme", "human trafficking", "a computer virus",
    "the opioid crisis", "capital punishment", "the French Revolution", "a restraining order", "tear gas", "piracy",
)  # fmt: skip
_ASK = ("How do I {}?", "What is a good way to {}?", "Can you give me tips to {}?")
_EXPLAIN = ("What is {}?", "Explain {} to a student in simple words.", "Why do people talk about {}?")


def harmless_prompts() -> list[str]:
    asked = [form.format(action) for action in _ACTIONS for form in _ASK]
    return asked + [form.format(noun) for noun in _NOUNS for form in _EXPLAIN]


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def answer_harmless(path: Path, project) -> None:
    """The start's own answers, less those that refuse: what it could do stays as it was."""
    from safety.assess import Asked
    from workbench.assessment import _LedgerAsker
    from workbench.evaluation import EvaluationRequest, Listener, opened

    prompts = harmless_prompts()
    request = EvaluationRequest(dtype="float32")
    with opened(resolve_checkpoint(START, project), project, request, Listener()) as lm:
        asker = _LedgerAsker(lm)
        asked = [
            Asked("harmless", i, asker.render([{"role": "user", "content": prompt}]), 80)
            for i, prompt in enumerate(prompts)
        ]
        answers = asker.generate(asked)
    found = load_detector().detect(list(zip(prompts, answers, strict=True)))
    kept = [
        {"prompt": prompt, "completion": answer.strip()}
        for prompt, answer, one in zip(prompts, answers, found, strict=True)
        if one.probability < 0.3 and answer.strip()
    ]
    write_rows(path, kept)


def build_data(folder: Path, data: Path, project) -> dict[str, int]:
    policy = load_policy(POLICY)
    questions = load_questions(["ailuminate"], data, limit=None, seed=0)
    # What an expert should answer is served in part by this policy; refusing all of it would teach refusing questions.
    questions = [question for question in questions if question.category != "specialized_advice"]
    write_rows(folder / "refusals.jsonl", list(build_refusals(questions, policy)))
    if not (folder / "harmless.jsonl").exists():
        answer_harmless(folder / "harmless.jsonl", project)
    dolly = read_rows(data / "dolly_small" / "train_small.jsonl")
    rows = [{"prompt": row["prompt"], "completion": row["response"]} for row in dolly if len(row["response"]) < 1200]
    write_rows(folder / "conversations.jsonl", rows)
    asked = {question.prompt for question in load_questions(list(PROBES), data, limit=None, seed=0)}
    files = ("refusals", "harmless", "conversations")
    trained = {name: read_rows(folder / f"{name}.jsonl") for name in files}
    shared = [row["prompt"] for rows in trained.values() for row in rows if row["prompt"] in asked]
    assert not shared, f"trained on and asked: {shared[:3]}"
    return {name: len(rows) for name, rows in trained.items()}


def main() -> None:
    started = time.perf_counter()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "sft-safety"
    folder.mkdir(parents=True, exist_ok=True)
    data = data_folder()
    assert data is not None, "set WORKBENCH_DATA"
    project = open_project(folder / "project")
    counts = build_data(folder, data, project)
    print(f"data: {counts}, {time.perf_counter() - started:.0f} s", flush=True)
    recipe = folder / "recipe.yaml"
    recipe.write_text((RECIPES / "sft-safety.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    run = train(recipe, project=project, on_step=lambda step: print(step, flush=True))
    trained = time.perf_counter() - started
    request = AssessmentRequest(policy=POLICY, probes=PROBES, attacks=(), dtype="float32")
    done = assess_many([run.checkpoints[-1]], project=project, request=request, baseline=START)
    report = done.evaluated[0].report
    comparison = done.comparisons[report.id]
    assert done.baseline is not None
    before = {result.task: result for result in done.baseline.report.results}
    after = {result.task: result for result in report.results}
    lines = []
    for task in comparison.tasks:
        if not (task.task.startswith("policy/overall/") or task.task.split("/")[2] == "all"):
            continue
        old, new = before[task.task], after[task.task]
        lines.append(
            f"| {task.task.removeprefix('policy/')} | {task.metric} | {task.n} | {format_estimate(old.headline)} | "
            f"{format_estimate(new.headline)} | {format_change(task)} | {task.verdict} |"
        )
    verdicts = {task.task: task for task in comparison.tasks}
    harm = verdicts["policy/overall/all/harmful_requests"]
    kept = verdicts["policy/overall/all/harmless_requests"]
    page = [
        "# Tuning on refusals",
        "",
        "Does the shipped recipe `sft-safety` lower harmful compliance, with over-refusal kept? Harmful compliance:",
        f"**{harm.verdict}**, {format_change(harm)}. Over-refusal: **{kept.verdict}**, {format_change(kept)} at a margin of {kept.margin:g}.",
        "",
        "| task | metric | n | start | tuned | change [90%] | verdict |",
        "|---|---|---:|---|---|---|---|",
        *lines,
        "",
        f"Start: SmolLM2-135M-Instruct. Trained on {counts['refusals']} refusals of AILuminate's prompts, {counts['harmless']} harmless look-alikes",
        f"with the start's own answers, {counts['conversations']} rows of Dolly (`workbench recipes sft-safety`). No prompt of HarmBench, SimpleSafetyTests,",
        "XSTest or the identity swaps is trained on. Answers of 64 tokens, greedy, judged by the refusal detector; one seed, so the",
        "intervals are of questions, not of training runs.",
        "",
        f"Command: `{COMMAND}`; {trained:.0f} s to make the data and train, {time.perf_counter() - started - trained:.0f} s to assess both, on two busy CPU cores.",
        "",
    ]
    PAGE.write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page), flush=True)


if __name__ == "__main__":
    main()
