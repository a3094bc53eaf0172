"""An anatomy textbook is read: what does a small model learn from it, and what does it forget with how much replay?

python -m studies.medical [--quick] [--render] [--project FOLDER]

Continued pre-training of SmolLM2-135M-Instruct on a part of OpenStax Anatomy and Physiology 2e, with 0 and 25% of
replay, the domain's tokens the same in each; a point on the line back to the start; all asked anatomy questions that
the book does not contain and general questions from sets that the replay does not come from. The rate is chosen by
likelihood of sections that are never trained on; no question of a suite is looked at for it.
Writes studies/results/medical.json, docs/studies/medical.md and docs/studies/medical.svg.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.suite import load_suite
from studies.experiment import (
    ROOT,
    UNFINISHED,
    Point,
    blend,
    evaluate_arms,
    judge_arm,
    kept_apart,
    options,
    passages,
    publish_page,
    read_found,
    read_rows,
    replay_rows,
    scatter,
    table,
    train_arm,
    trained,
    with_interval,
    write_found,
    write_rows,
)
from workbench.pipeline import EvaluationRequest, resolve_checkpoint
from workbench.store import Project

TAKES = "about an hour on one core"
SUITES = ROOT / "studies" / "suites"
RECIPE = ROOT / "studies" / "recipes" / "medical.yaml"
REVIEW = "## Chapter Review"
RATES = (1e-4, 3e-4, 6e-4)
"""Learning rates of the pilot; the one that makes unread sections likeliest is taken."""
PILOT = (
    "mix[0].share=1", "mix[1].share=0", "mix[1].anneal_share=1", "mix[2].share=0", "mix[3].share=0",
    "tokens=10000", "save_every=null", "keep=3",
)  # fmt: skip
"""The pilot's runs: the book alone, its body first and its reviews while the rate falls."""
DOMAIN_TOKENS = 40_000
SHARES = (0.25, 0.0)
WAYS = ((0.25, 0.6),)
"""Points on the line back to the start: share of replay, and how far towards the trained weights."""
POOLED_MARGIN = 0.02
"""Loss over all general items together that still counts as kept."""
START, SUITE = "smollm2", "medical-study"
COLUMNS = {
    "openstax_anatomy_cloze": "questions, words",
    "openstax_anatomy_letter": "questions, letters",
    "openstax_anatomy_terms": "terms",
    "openstax_anatomy_glossary": "glossary, bits per byte saved",
}
UNITS = {task: "bits" if task.endswith("glossary") else "points" for task in COLUMNS}
DEV = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
metadata: {{version: 1}}
"""


def write_data(folder: Path) -> dict[str, int]:
    """The sources of the mix, and the texts that the rate is chosen by; rows of each."""
    sections = read_rows("openstax_text", "anatomy_physiology.jsonl")
    read = [row for row in sections if not kept_apart(row["id"])]
    unread = [row for row in sections if kept_apart(row["id"])]
    body: list[dict[str, Any]] = []
    reviews: list[dict[str, Any]] = []
    for row in read:
        text, _, review = row["text"].partition(REVIEW)
        body += [{"text": part, "section": row["id"]} for part in passages(text)]
        if review.strip():
            reviews.append({"text": f"# {row['title']}\n\n{review.strip()}", "section": row["id"]})
    chapters = read_rows("public_domain_books", "chapters.jsonl")
    dev = [{"text": passages(row["text"])[0]} for row in unread if passages(row["text"])]
    novel = [{"text": passages(row["text"])[0]} for row in chapters if kept_apart(row["id"])]
    made = {"body": body, "reviews": reviews, **replay_rows()}
    for name, rows in made.items():
        write_rows(folder / "data" / f"{name}.jsonl", rows)
    for name, rows in {"unread_sections": dev, "unread_chapters": novel}.items():
        path = (folder / "dev" / f"{name}.jsonl").resolve()
        write_rows(path, rows)
        path.with_suffix(".yaml").write_text(DEV.format(name=name, path=path))
    shutil.copy(RECIPE, folder / "data" / RECIPE.name)
    return {name: len(rows) for name, rows in made.items()} | {"unread": len(dev)}


def with_replay(share: float) -> list[str]:
    """Overrides that give the replay a share of all tokens, the domain's tokens staying what they are."""
    half = share / 2
    return [
        f"mix[0].share={(1 - share) / 2}",
        f"mix[1].share={(1 - share) / 2}",
        f"mix[1].anneal_share={1 - share}",
        f"mix[2].share={half}",
        f"mix[3].share={half}",
        f"tokens={round(DOMAIN_TOKENS / (1 - share))}",
    ]


def choose_rate(recipe: Path, folder: Path, project: Project) -> tuple[float, list[dict[str, Any]]]:
    """A short run at each rate, without replay; bits per byte of what was never read."""
    arms = {
        rate: train_arm(
            recipe,
            f"pilot-{rate:g}",
            project,
            [*PILOT, f"schedule.learning_rate={rate:g}"],
        )
        for rate in RATES
    }
    request = EvaluationRequest(tasks=("unread_sections", "unread_chapters"), include_path=(str(folder / "dev"),))
    done = evaluate_arms([arm.path for arm in arms.values()], project, request, baseline=START)
    assert done.baseline is not None
    rows = [{"rate": None} | _values(done.baseline)]
    rows += [{"rate": rate} | _values(one) for rate, one in zip(RATES, done.evaluated, strict=True)]
    best = min(rows[1:], key=lambda row: row["unread_sections"])
    return best["rate"], rows


def _values(one: Any) -> dict[str, float]:
    return {result.task: result.headline.value for result in one.report.results}


def general_tasks() -> list[str]:
    """The tasks that should be kept."""
    return [task.task for task in load_suite(SUITE, (SUITES,)).tasks if task.role == "general"]


def measure(path: Path, project: Project) -> dict[str, Any]:
    """One checkpoint on the study's suite, against the start."""
    request = EvaluationRequest(suites=(SUITE,), include_path=(str(SUITES),))
    done = evaluate_arms([path], project, request, baseline=START)
    return judge_arm(done, project, general=general_tasks(), margin=POOLED_MARGIN)


def run(folder: Path, shares: Sequence[float], ways: Sequence[tuple[float, float]]) -> None:
    """Everything that computes; what is known is written as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    rows = write_data(folder)
    recipe = folder / "data" / RECIPE.name
    found = read_found(folder) | {"rows": rows}
    if "rate" not in found:
        found["rate"], found["pilot"] = choose_rate(recipe, folder, project)
        write_found(folder, found)
    arms: dict[str, Any] = found["arms"]
    for share in shares:
        name = f"replay-{100 * share:g}"
        if name in arms:
            continue
        overrides = [*with_replay(share), f"schedule.learning_rate={found['rate']:g}"]
        arm = train_arm(recipe, name, project, overrides)
        arms[name] = {"share": share, "way": 1.0, **trained(arm), **measure(arm.path, project)}
        write_found(folder, found)
    for share, way in ways:
        tuned = arms[f"replay-{100 * share:g}"]
        name = f"replay-{100 * share:g}-way-{100 * way:g}"
        if name in arms:
            continue
        start = Path(resolve_checkpoint(START, project).source)
        path = blend(start, project.root / "runs" / f"replay-{100 * share:g}" / tuned["checkpoint"], way, folder / name)
        arms[name] = {"share": share, "way": way, **measure(path, project)}
        write_found(folder, found)


def _find(arm: dict[str, Any], task: str) -> dict[str, Any]:
    return next(row for row in arm["tasks"] if row["task"] == task)


def _label(arm: dict[str, Any]) -> str:
    replay = f"{100 * arm['share']:g}% replay"
    return replay if arm["way"] == 1 else f"{replay}, {100 * arm['way']:g}% of the way"


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    arms = sorted(found["arms"].values(), key=lambda arm: (-arm["way"], arm["share"]))
    parts = ["**The rate**, by bits per byte of what is never trained on (10 sections, 4 chapters of novels):\n\n"]
    parts.append(
        table(
            ["learning rate", "unread sections of the book", "unread chapters of novels"],
            [
                ["start" if row["rate"] is None else f"{row['rate']:g}"]
                + [f"{row[name]:.3f}" for name in ("unread_sections", "unread_chapters")]
                for row in found["pilot"]
            ],
        )
    )
    if not arms:
        return UNFINISHED + "".join(parts)
    parts.append("**What was learned and forgotten**: change against the start [90% interval].\n\n")
    start = arms[0]
    head = ["checkpoint", *(f"{title} ({_find(start, task)['n']})" for task, title in COLUMNS.items())]
    head += [f"general together ({start['general']['n']:,})", "gate"]
    rows = [
        ["start", *(f"{_find(start, task)['before']:.3f}" for task in COLUMNS), f"{start['general']['before']:.3f}", ""]
    ]
    for arm in arms:
        cells = [with_interval(_find(arm, task), unit) for task, unit in UNITS.items()]
        together = f"{with_interval(arm['general'])} {arm['general']['verdict']}"
        rows.append([_label(arm), *cells, together, arm["outcome"]])
    parts.append(table(head, rows))
    parts.append("**General questions, task by task**: change in points [90% interval] and verdict.\n\n")
    names = [row["task"] for row in start["tasks"] if row["role"] == "general"]
    rows = [
        [_label(arm), *(f"{with_interval(_find(arm, name))} {_find(arm, name)['verdict']}" for name in names)]
        for arm in arms
    ]
    parts.append(table(["checkpoint", *(f"{name} ({_find(start, name)['n']})" for name in names)], rows))
    rows = [
        [_label(arm), f"{arm['tokens']:,}", f"{arm['train_seconds'] / 60:.0f}", f"{arm['seconds'] / 60:.0f}"]
        for arm in arms
        if arm["way"] == 1
    ]
    parts.append(table(["run", "tokens", "minutes of training", "minutes of evaluation"], rows))
    return "".join(parts)


def draw(found: dict[str, Any]) -> str:
    """The frontier: what was forgotten against what was learned."""

    def place(row: dict[str, Any]) -> tuple[float, float, float]:
        return 100 * row["change"], 100 * row["low"], 100 * row["high"]

    points_ = [
        Point(label=_label(arm), x=place(arm["general"]), y=place(_find(arm, "openstax_anatomy_terms")))
        for arm in found["arms"].values()
    ]
    return scatter(
        points_,
        title="Change on general questions against change on anatomy terms, with 90% intervals",
        x_title="general questions: change in points (shaded: beyond the margin)",
        y_title="anatomy terms: change in points",
        margin=100 * POOLED_MARGIN,
    )


def main() -> None:
    """Measure, print, write."""
    asked = options("medical", __doc__)
    if not asked.render:
        run(asked.project, SHARES, WAYS)
    publish_page("medical", asked.project, render, draw)


if __name__ == "__main__":
    main()
