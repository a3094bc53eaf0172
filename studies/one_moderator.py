"""Can one model moderate by many rules: better than it was, than a model for each rule, than word counts?

python -m studies.one_moderator [--quick] [--arms zero,one,...] [--project FOLDER] [--render]

Nine rules in plain words over seven public sets. SmolLM2-135M-Instruct is tuned on all of them by a curriculum over
tasks (what is clear, categories, nuance), and is asked as `workbench moderate` asks. Beside it: the model as it was; a
model for each of two rules; TF-IDF with a logistic regression for each rule, from the same labels and from all of them;
and, for rules that nobody labelled, models that were shown the other rules alone.
Every arm is a file of its own, so arms may be made in several processes, and a killed one goes on where it was.
Writes studies/results/one-moderator.json, docs/studies/one-moderator.md and its plot.
"""

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.experiment import RESULTS, ROOT, say, train_arm, trained, write_found, write_rows
from studies.moderation_tasks import FOLDS, TASKS, Task, Text, everything_that_trains, split, tasks_named
from workbench.store import Project

TAKES = "two hours on one quiet core"
START = "smollm2"
RECIPE = ROOT / "studies" / "recipes" / "one-moderator.yaml"
PASSES, LABEL_SHARE, ANSWER_TOKENS = 1.2, 0.5, 2
"""Over the labelled rows; share of the loss-bearing tokens that labels are; tokens of an answer."""
OWN = ("spam", "sexism")
"""Rules that get a model of their own."""
LEAST_MASS = 1e-9
"""A model that was never taught to answer in one word is ranked by what it gives to the two words."""
POLICY = """schema: policy/v1
id: {id}
version: 1
title: One or more rules of a study
judges:
  model: {{kind: model, replaceable: true, timeout_ms: 2000}}
defaults:
  severity: low
  risk: {{fixed: {{low: 0.3, high: 0.7}}}}
  actions: {{user_input: review, model_output: block, content: review}}
  uncertain: {{user_input: log, model_output: review, content: review}}
  on_error: {{user_input: log, model_output: block, content: review}}
  judges: [model]
dimensions:
  safety: [{names}]
categories:
"""
ARMS = ("tfidf", "zero", "one", *(f"own-{name}" for name in OWN), *(f"fold-{n}" for n in range(1, 4)), "cost")
Scores = dict[str, dict[str, list[float | None]]]
"""Rule -> `threshold` and `test` -> probability of each text, in the order of the split."""


def write_policies(project: Project) -> None:
    """A policy for each rule, and one of all."""
    folder = project.root / "policies"
    folder.mkdir(exist_ok=True)
    for name, tasks in [*((task.name, [task]) for task in TASKS), ("all", list(TASKS))]:
        text = POLICY.format(id=_policy_id(name), names=", ".join(task.name for task in tasks))
        for task in tasks:
            text += f"  {task.name}:\n    title: {task.title}\n    definition: {json.dumps(task.definition)}\n"
        path = folder / f"{_policy_id(name)}.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # another process may be reading it
            path.write_text(text, encoding="utf-8")


def _policy_id(name: str) -> str:
    return f"study-{name.replace('_', '-')}"


def _policy(project: Project, name: str) -> Any:
    from safety.policy import load_policy

    return load_policy(_policy_id(name), folders=[project.root / "policies"])


def training_rows(project: Project, tasks: Sequence[Task], *, most: int | None) -> list[dict[str, Any]]:
    """What a model learns: the prompt that it is asked in, and the one right word; of each rule `most` labels."""
    from safety.judges.base import Passage
    from safety.prompt import moderation_prompt, verdict_word

    rows = []
    for task in tasks:
        rule = _policy(project, task.name).categories[task.name]
        for one in split(task)["train"][:most]:
            passage = Passage(text=one.text, context={"community": one.community} if one.community else {})
            prompt = moderation_prompt(passage, rule, layout="rules_first")
            rows.append({"prompt": prompt, "completion": verdict_word(one.violates), "stage": task.stage})
    return rows


def tune(
    name: str, tasks: Sequence[Task], project: Project, *, most: int | None = None, start: str = START
) -> dict[str, Any]:
    """Train on some rules' labels; what a page says of the run."""
    from training.recipe import FOLDER as RECIPES

    folder = project.root / "data" / name
    rows = training_rows(project, tasks, most=most)
    write_rows(folder / "labels.jsonl", rows)
    shutil.copy(RECIPES.parent / "samples" / "general_pairs.jsonl", folder / "general.jsonl")
    shutil.copy(RECIPE, folder / "recipe.yaml")
    overrides = [f"tokens={round(PASSES * len(rows) * ANSWER_TOKENS / LABEL_SHARE)}", f"start={start}"]
    if len({row["stage"] for row in rows}) < 2:
        overrides += ["curriculum=null", "save_every=null"]  # a few steps
    arm = train_arm(folder / "recipe.yaml", name, project, overrides)
    return trained(arm) | {"rows": len(rows), "path": str(arm.path)}


def ask(arm: str, checkpoint: str | Path, tasks: Sequence[Task], project: Project, *, quick: bool) -> dict[str, Any]:
    """Each rule's texts by the front door of moderation; a file of answers for each rule, which is gone on with."""
    from safety.moderation import Post
    from workbench.moderation import ModerationRequest, moderate

    scores: Scores = {}
    seconds = tokens = naive = texts = 0.0
    for task in tasks:
        sides = {side: rows[: 4 if quick else None] for side, rows in split(task).items() if side != "train"}
        posts = [Post(id=one.id, text=one.text, community=one.community) for rows in sides.values() for one in rows]
        output = project.root / "answers" / arm / f"{task.name}.jsonl"
        request = ModerationRequest(
            policy=_policy_id(task.name), output=output, layout="rules_first", min_mass=LEAST_MASS
        )
        run = moderate(checkpoint, project=project, request=request, posts=posts)
        with output.open(encoding="utf-8") as file:
            said = {row["id"]: row["rules"][task.name]["probability"] for row in map(json.loads, file)}
        scores[task.name] = {side: [said[one.id] for one in rows] for side, rows in sides.items()}
        seconds, tokens, naive = seconds + run.seconds, tokens + run.tokens, naive + run.naive_tokens
        texts += run.posts - run.kept
        say(f"{arm}: {task.name}: {run.posts} texts, {run.seconds:.0f} s")
    return {"scores": scores, "seconds": seconds, "tokens": tokens, "naive_tokens": naive, "texts_asked": texts}


def count_words(*, quick: bool) -> dict[str, Any]:
    """TF-IDF with a logistic regression: a classifier a rule, of the same labels and of all; one without rules."""
    names = ("same", "all", "others")
    scores: dict[str, Scores] = {name: {} for name in names}
    labels: dict[str, dict[str, int]] = {name: {} for name in names}
    seconds = 0.0
    splits = {task.name: split(task) for task in TASKS}
    for task in TASKS:
        unseen = next(fold for fold in FOLDS if task.name in fold)
        own = splits[task.name]
        others = [one for t in TASKS if t.name not in unseen for one in splits[t.name]["train"]]
        known = {"same": own["train"], "all": everything_that_trains(task), "others": others}
        for name, rows in known.items():
            ask_it = fit_words(rows)
            start = time.perf_counter()
            scores[name][task.name] = {
                side: [float(p) for p in ask_it([one.text for one in part[: 4 if quick else None]])]
                for side, part in own.items()
                if side != "train"
            }
            seconds += time.perf_counter() - start
            labels[name][task.name] = len(rows)
    asked = 3 * sum(len(part) for one in scores["same"].values() for part in one.values())
    return {"scores": scores, "labels": labels, "ms_a_text": 1000 * seconds / asked}


def fit_words(rows: Sequence[Text]) -> Any:
    """A function from texts to probabilities."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    vectors = make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
    )
    model = make_pipeline(vectors, LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000))
    model.fit([one.text for one in rows], [one.violates for one in rows])
    return lambda texts: model.predict_proba(texts)[:, 1]


def count_cost(project: Project) -> dict[str, Any]:
    """Tokens that must be computed to ask 60 texts about all nine rules: one model, or a model a rule."""
    from safety.communities import Communities
    from safety.judges.model import ModelJudge
    from safety.moderation import Moderator, Post
    from workbench.engines.loading import load
    from workbench.evaluation import EvaluationRequest, engine_options
    from workbench.references import resolve_checkpoint

    checkpoint = resolve_checkpoint(START, project)
    engine = load(checkpoint, **engine_options(checkpoint, project, EvaluationRequest()))
    try:
        judge = ModelJudge(engine=engine, nonce="", swap=False)
        posts = [Post(id=one.id, text=one.text) for task in TASKS for one in split(task)["test"][:7]][:60]

        def cost(name: str) -> Mapping[str, int]:
            return Moderator(Communities(_policy(project, name)), judge).choose_layout(posts)[1]

        apart = [cost(task.name) for task in TASKS]
        rules = _policy(project, "all").categories.values()
        prompts = [judge.build_prompt(post.passage(), rule) for post in posts for rule in rules]
        plain = sum(len(engine.encode([(prompt, " Yes")])[0].context_ids) for prompt in prompts)
        return {
            "texts": len(posts),
            "rules": len(TASKS),
            "one_model": dict(cost("all")),
            "model_a_rule": sum(min(one.values()) for one in apart),
            "plain_prompts": plain,
        }
    finally:
        engine.close()


def make(arm: str, project: Project, *, quick: bool) -> dict[str, Any]:
    """One arm from nothing, or from where it was stopped."""
    if arm == "tfidf":
        return count_words(quick=quick)
    if arm == "cost":
        return count_cost(project)
    if arm == "zero":
        return ask(arm, START, TASKS, project, quick=quick)
    if arm == "one":
        shown, asked = list(TASKS), list(TASKS)
    elif arm.startswith("own-"):
        shown = asked = tasks_named([arm.removeprefix("own-")])
    else:
        fold = FOLDS[int(arm.removeprefix("fold-")) - 1]
        shown, asked = [task for task in TASKS if task.name not in fold], tasks_named(fold)
    made = tune(arm, shown, project, most=8 if quick else None)
    return {"trained": made} | ask(arm, made.pop("path"), asked, project, quick=quick)


def labels() -> dict[str, Any]:
    """What the sets say: of each rule the labels and clusters of both splits that are asked."""
    found = {}
    for task in TASKS:
        sides = {side: rows for side, rows in split(task).items() if side != "train"}
        found[task.name] = {
            side: {"violates": [one.violates for one in rows], "cluster": [one.cluster for one in rows]}
            for side, rows in sides.items()
        }
    return found


def run(folder: Path, arms: Sequence[str], *, quick: bool) -> None:
    """Make arms that are not there yet; what is known is collected after each."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    write_policies(project)
    (folder / "arms").mkdir(exist_ok=True)
    for arm in arms:
        path = folder / "arms" / f"{arm}.json"
        if not path.is_file():
            say(f"{arm}: begins")
            found = make(arm, project, quick=quick)
            hidden = path.with_name(f".{path.name}")
            hidden.write_text(json.dumps(found), encoding="utf-8")
            hidden.replace(path)
        collect(folder)


def collect(folder: Path) -> dict[str, Any]:
    """All arms that are there, in one document without a text in it."""
    arms = {arm: json.loads(path.read_text()) for arm in ARMS if (path := folder / "arms" / f"{arm}.json").is_file()}
    found = {"labels": labels(), "arms": arms}
    write_found(folder, found)
    return found


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "build" / "studies" / "one-moderator"
    parser.add_argument("--project", type=Path, default=default, help="folder that keeps models and answers")
    parser.add_argument("--arms", default=",".join(ARMS), help=f"of {', '.join(ARMS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few rows and texts; writes no document")
    parser.add_argument("--render", action="store_true", help="write the page again from the arms that are there")
    asked = parser.parse_args()
    arms = [arm for arm in asked.arms.split(",") if arm]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise SystemExit(f"error: --arms {unknown[0]}: unknown; known: {', '.join(ARMS)}")
    folder = asked.project.with_name(asked.project.name + "-quick") if asked.quick else asked.project
    if not asked.render:
        run(folder, arms, quick=asked.quick)
    if asked.quick:
        return
    from studies.one_moderator_page import NAME, write_study

    if (folder / "arms").is_dir():
        target = RESULTS / f"{NAME}.json"
        target.write_text(json.dumps(collect(folder)) + "\n", encoding="utf-8")
    write_study()


if __name__ == "__main__":
    main()
