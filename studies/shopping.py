"""A shopping MMLU: does a small model gain ten points on it by training on a shop's data, and what does it forget?

python -m studies.shopping [--quick] [--render] [--project FOLDER]

Eight kinds of question from public sets: the class of a search, three questions about a category tree, whether an
opinion is good, whether a sentence judges at all, which feature is judged, which search fits a wish. Queries, shelves,
products and wishes are split in two by a hash: one half trains, the other tests. Continued pre-training on the training
half's texts, then supervised fine-tuning on its questions, both blended with general data.
Writes studies/results/shopping.json, docs/studies/shopping.md and docs/studies/shopping.svg.
"""

import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.build import load_split
from benchmarks.catalog import shipped_entries
from benchmarks.forms import FORMS, template
from benchmarks.shopping import part_of, shelves_of
from benchmarks.suite import load_suite
from studies.experiment import (
    ROOT,
    UNFINISHED,
    Point,
    evaluate_arms,
    judge_arm,
    macro_change,
    options,
    publish_page,
    read_found,
    read_rows,
    replay_rows,
    say,
    scatter,
    table,
    train_arm,
    trained,
    with_interval,
    write_found,
    write_rows,
)
from workbench.config import data_folder
from workbench.pipeline import EvaluationRequest
from workbench.store import Project

TAKES = "an hour on one slow core"
SUITES, RECIPES = ROOT / "studies" / "suites", ROOT / "studies" / "recipes"
START, SUITE = "smollm2", "shopping-study"
STAGES = ("shopping-cpt", "shopping-sft", "shopping-more")
PER_KIND = {"questions": 200, "more_questions": 800}
"""Training questions of each kind, at most: for the first two stages, and for the third."""
IN_A_ROW = 5
"""Questions of one kind that stand together in a text or conversation."""
POOLED_MARGIN = 0.02
CHANCE = {"shopping_reviews": 0.5, "shopping_opinions": 0.5, "shopping_goals": 0.125}
"""Of a guesser, where it is not a quarter."""


def tasks(role: str) -> list[str]:
    """Tasks of the study's suite that have a role."""
    return [task.task for task in load_suite(SUITE, (SUITES,)).tasks if task.role == role]


def training_questions(most: int) -> dict[str, list[tuple[str, str]]]:
    """(prompt, answer) of the training half, `most` of each kind of question, worded as the suite asks them."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in tasks("domain"):
        spec, form = shipped_entries()[name]
        text = spec.text[form] if isinstance(spec.text, dict) else spec.text or FORMS[form].text
        ask = template(text)
        for doc in load_split(spec.set, data_folder())[0]:
            if doc["part"] == "train":
                kind = f"{name}_{doc[spec.split]}" if spec.split else name
                found[kind].append((ask(doc), doc["choices"][doc["answer"]]))
    rng = random.Random(0)
    return {kind: rng.sample(pairs, min(most, len(pairs))) for kind, pairs in found.items()}


def in_rows(pairs: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """A few questions together; the rest of a row less than full is a row too."""
    return [pairs[at : at + IN_A_ROW] for at in range(0, len(pairs), IN_A_ROW)]


def as_messages(row: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Questions and answers as a conversation."""
    return [
        message
        for prompt, answer in row
        for message in ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    ]


def catalogue() -> list[str]:
    """What a shop has of its training half as text: shelves, reviews, wishes with searches."""
    texts = [
        f"{path[-1]}\n" + "".join(f"- {name}\n" for name in names)
        for path, names in sorted(shelves_of(read_rows("shopping_bestbuy_categories", "categories.jsonl")).items())
        if part_of(path[-1]) == "train"  # where the shelf itself stands may be what a test asks
    ]
    reviews: dict[tuple[str, int], list[str]] = defaultdict(list)
    for row in read_rows("shopping_product_reviews", "sentences.jsonl"):
        if part_of(row["product"]) == "train":
            reviews[row["product"], row["review"]].append(row["text"])
    texts += [f"Review of {product.replace('_', ' ')}\n{' '.join(lines)}" for (product, _), lines in reviews.items()]
    wishes = [
        f"Wish: {row['instruction']}\n" + "".join(f"Search: {query}\n" for query in row["queries"])
        for row in read_rows("shopping_webshop_goals", "goal_query.jsonl")
        if part_of(row["id"]) == "train"
    ]
    return texts + wishes


def write_data(folder: Path) -> dict[str, int]:
    """The sources of all stages; rows of each, and training questions by kind."""
    questions = {name: training_questions(most) for name, most in PER_KIND.items()}
    rows = {name: [row for pairs in kinds.values() for row in in_rows(pairs)] for name, kinds in questions.items()}
    made: dict[str, list[dict[str, Any]]] = {
        "catalogue": [{"text": text} for text in catalogue()],
        "exercises": [
            {"text": "\n\n".join(f"{prompt} {answer}" for prompt, answer in row)} for row in rows["questions"]
        ],
        **{name: [{"messages": as_messages(row)} for row in group] for name, group in rows.items()},
        **replay_rows(),
    }
    for name, content in made.items():
        write_rows(folder / "data" / f"{name}.jsonl", content)
    for stage in STAGES:
        shutil.copy(RECIPES / f"{stage}.yaml", folder / "data")
    asked = {kind: len(pairs) for kind, pairs in questions["more_questions"].items()}
    return {name: len(content) for name, content in made.items()} | asked


def measure(path: Path, project: Project) -> dict[str, Any]:
    """One checkpoint on the study's suite, against the start."""
    request = EvaluationRequest(suites=(SUITE,), include_path=(str(SUITES),))
    done = evaluate_arms([path], project, request, baseline=START)
    judged = judge_arm(done, project, general=tasks("general"), margin=POOLED_MARGIN)
    return judged | {"shopping": macro_change(done, tasks("domain"))}


def run(folder: Path) -> None:
    """Everything that computes; what is known is written as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    found = read_found(folder) | {"rows": write_data(folder)}
    arms: dict[str, Any] = found["arms"]
    made = {stage: train_arm(folder / "data" / f"{stage}.yaml", stage, project) for stage in STAGES}
    for stage in STAGES[1:]:  # the one that the study is about
        if stage not in arms:
            say(f"{stage}: evaluation")
            arms[stage] = trained(made[stage]) | measure(made[stage].path, project)
            write_found(folder, found)


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    arms = [found["arms"][stage] for stage in STAGES if stage in found["arms"]]
    if not arms:
        return UNFINISHED
    first = arms[0]["shopping"]
    rows = []
    for kind, one in first["kinds"].items():
        cells = [f"{arm['shopping']['kinds'][kind]['after']:.3f}" for arm in arms]
        chance = CHANCE.get(kind, 0.25)
        rows.append([kind.removeprefix("shopping_"), str(one["n"]), f"{chance:.3f}", f"{one['before']:.3f}", *cells])
    rows.append(["**mean of the kinds**", str(first["n"]), "", f"{first['before']:.3f}"])
    rows[-1] += [f"{arm['shopping']['after']:.3f}" for arm in arms]
    names = [stage for stage in STAGES if stage in found["arms"]]
    parts = [table(["kind of question", "n", "chance", "start", *names], rows)]
    parts.append("**Against the start**, in points: the mean of the kinds [95% interval], general questions [90%].\n\n")
    rows = [
        [
            name,
            with_interval(arm["shopping"]),
            f"{with_interval(arm['general'])} {arm['general']['verdict']}",
            *(f"{with_interval(row)} {row['verdict']}" for row in arm["tasks"] if row["role"] == "general"),
            f"{arm['tokens']:,}",
            f"{arm['train_seconds'] / 60:.0f}",
        ]
        for name, arm in zip(names, arms, strict=True)
    ]
    general = [row["task"] for row in arms[0]["tasks"] if row["role"] == "general"]
    together = f"general together ({arms[0]['general']['n']:,})"
    parts.append(table(["checkpoint", f"shopping ({first['n']:,})", together, *general, "tokens", "minutes"], rows))
    return "".join(parts)


def draw(found: dict[str, Any]) -> str:
    """What was forgotten against what was learned."""

    def place(row: dict[str, Any]) -> tuple[float, float, float]:
        return 100 * row["change"], 100 * row["low"], 100 * row["high"]

    return scatter(
        [Point(label=name, x=place(arm["general"]), y=place(arm["shopping"])) for name, arm in found["arms"].items()],
        title="Change on general questions against change on shopping questions, with intervals",
        x_title="general questions: change in points (shaded: beyond the margin)",
        y_title="shopping questions: change in points",
        margin=100 * POOLED_MARGIN,
    )


def main() -> None:
    """Measure, print, write."""
    asked = options("shopping", __doc__)
    if not asked.render:
        run(asked.project)
    publish_page("shopping", asked.project, render, draw)


if __name__ == "__main__":
    main()
