"""Do unlabelled posts help: is a model that read posts first a better moderator from half of the labels?

python -m studies.posts_first [--quick] [--project FOLDER] [--render]

Continued pre-training on posts of the training side without their labels, blended with general text; then the same
fine-tuning as in `one_moderator` on half of the labels. Beside it: the same fine-tuning without the posts. What counts
are missed threats: violations that are not flagged where both models are as precise.
Writes studies/results/posts-first.json and docs/studies/posts-first.md.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studies.experiment import (
    ROOT,
    options,
    publish_page,
    read_found,
    replay_rows,
    say,
    table,
    train_arm,
    trained,
    write_found,
    write_rows,
)
from studies.moderation_tasks import SIZES, TASKS, everything_that_trains
from studies.one_moderator import ask, labels, tune, write_policies
from studies.one_moderator_page import Arm, draws_of
from workbench.store import Project

TAKES = "70 minutes on one quiet core"
RECIPE = ROOT / "studies" / "recipes" / "posts-first.yaml"
HALF = SIZES["train"] // 2
PRECISION = 0.7
"""At which missed threats are counted."""
WANTED = 0.25
"""Fewer missed threats, as a share of those without posts."""
RESAMPLES = 1000
Floats = npt.NDArray[np.float64]


def write_posts(folder: Path) -> int:
    """Posts without labels, of the training side alone, each once, and general text."""
    posts = list(dict.fromkeys(one.text for task in TASKS for one in everything_that_trains(task)))
    write_rows(folder / "posts.jsonl", [{"text": text} for text in posts])
    write_rows(folder / "books.jsonl", replay_rows()["books"])
    shutil.copy(RECIPE, folder / "recipe.yaml")
    return len(posts)


def run(folder: Path, *, quick: bool) -> None:
    """Both arms; what is known is written as it comes."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    write_policies(project)
    found = read_found(folder) | {"labels": labels()}
    arms: dict[str, Any] = found["arms"]
    most = 4 if quick else HALF
    if "sft" not in arms:
        made = tune("posts-first-sft", TASKS, project, most=most)
        arms["sft"] = {"trained": made} | ask("sft", made.pop("path"), TASKS, project, quick=quick)
        write_found(folder, found)
    if "cpt-sft" not in arms:
        found["posts"] = write_posts(folder / "data" / "posts")
        more = ["tokens=4096", "save_every=null"] if quick else []
        read = train_arm(folder / "data" / "posts" / "recipe.yaml", "posts-first-cpt", project, more)
        made = tune("posts-first-cpt-sft", TASKS, project, most=most, start="run/posts-first-cpt")
        arms["cpt-sft"] = {"trained": made, "read": trained(read)}
        arms["cpt-sft"] |= ask("cpt-sft", made.pop("path"), TASKS, project, quick=quick)
        write_found(folder, found)
    if quick:
        say(json.dumps({name: one["trained"] for name, one in arms.items()}))


def missed(truth: Floats, scores: Floats) -> float:
    """Share of violations below the lowest threshold from which on at least PRECISION of the flagged violate."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    good = np.flatnonzero(hits / np.arange(1, len(hits) + 1) >= PRECISION)
    return 1.0 - float(hits[good[-1]] / truth.sum()) if len(good) else 1.0


def compare(found: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Missed threats of both arms, and how many fewer, over all rules' texts; drawn anew rule by rule."""
    arms = {name: Arm(found["arms"][name]["scores"], found["labels"]) for name in ("sft", "cpt-sft")}
    draws = draws_of(found["labels"])
    rules: Sequence[str] = [task.name for task in TASKS]

    def at(number: int) -> dict[str, float]:
        values = {}
        for name, arm in arms.items():
            rows = {rule: slice(None) if number < 0 else draws[rule][number] for rule in rules}
            truth = np.concatenate([arm.truth[rule][rows[rule]] for rule in rules])
            values[name] = missed(truth, np.concatenate([arm.scores[rule][rows[rule]] for rule in rules]))
        return values | {"fewer": 1.0 - values["cpt-sft"] / max(values["sft"], 1e-9)}

    value, drawn = at(-1), [at(number) for number in range(RESAMPLES)]
    found_: dict[str, tuple[float, float, float]] = {}
    for name in value:
        low, high = np.quantile([one[name] for one in drawn], [0.025, 0.975])
        found_[name] = (value[name], float(low), float(high))
    return found_


def render(found: Mapping[str, Any]) -> str:
    """The measured part of the page."""
    if not {"sft", "cpt-sft"} <= set(found["arms"]):
        return "**Not run yet.** Nothing is claimed before it is.\n\n"
    cells = compare(found)
    rows = [
        [title, *(f"{one:.1%}" for one in cells[name])]
        for name, title in (("sft", "labels alone"), ("cpt-sft", "posts first"), ("fewer", "fewer missed"))
    ]
    n = sum(len(one["test"]["violates"]) for one in found["labels"].values())
    verdict = "reached" if cells["fewer"][1] >= WANTED else "not shown"
    return (
        f"Missed threats where {PRECISION:.0%} of the flagged violate, n = {n} texts of {len(TASKS)} rules. Wanted: "
        f"{WANTED:.0%} fewer; **{verdict}**.\n\n" + table(["arm", "value", "low", "high"], rows)
    )


def main() -> None:
    """Measure, print, write."""
    asked = options("posts-first", __doc__ or "")
    folder = asked.project.with_name(asked.project.name + "-quick") if asked.quick else asked.project
    if not asked.render:
        run(folder, quick=asked.quick)
    if not asked.quick:
        publish_page("posts-first", folder, render)


if __name__ == "__main__":
    main()
