"""A model family from nothing: before the rate fell, after, mid-trained and fine-tuned; what does each stage give?

python -m studies.family [--quick] [--render] [--project FOLDER]

The shipped recipes family-pretrain, family-midtrain and family-sft on public texts: encyclopedia articles, three
novels, textbooks of economics and finance, people's instructions. One of five articles, chapters and sections is kept
apart, by a hash of its id; so are all of anatomy, which other studies teach. Bits per byte of these are asked of every
checkpoint. Every step is kept: killed and run again, it goes on where it stopped.
Writes studies/results/family.json and docs/studies/family.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.experiment import (
    UNFINISHED,
    evaluate_arms,
    kept_apart,
    options,
    passages,
    publish_page,
    read_rows,
    say,
    table,
    train_arm,
    trained,
    write_found,
    write_rows,
)
from training.checkpoints import complete_checkpoints
from training.recipe import shipped_recipes
from workbench.pipeline import EvaluationRequest
from workbench.store import Project

TAKES = "about 10 minutes on one core"
STAGES = ("family-pretrain", "family-midtrain", "family-sft")
QUICK: Mapping[str, Sequence[str]] = {
    "family-pretrain": ("tokens=40960", "start.width=64", "start.layers=2", "save_every=5"),
    "family-midtrain": ("tokens=8192", "save_every=2"),
    "family-sft": ("tokens=2000", "save_every=2"),
}
"""A tiny model and a few steps, to see that all goes together."""
GENERAL, DOMAIN = "family_general", "family_anatomy"
ASKED = {"articles": 16, "novels": 16, "economics": 8, "finance": 8, "anatomy": 36}
"""Passages of each kind that are asked, from as many documents as there are."""
APART = 5
"""One of so many documents is never trained on."""
LONGEST = 650
"""Characters of an instruction with its answer: what fits into a row of 256 tokens."""
TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
metadata: {{version: 1, workbench: {{cluster: document, margin: 0.02, role: {role}}}}}
"""


def documents() -> dict[str, list[tuple[str, str]]]:
    """(id, text) of the public texts, by kind."""
    kinds = {
        "articles": ("wikitext2", "articles_valid_test.jsonl"),
        "novels": ("public_domain_books", "chapters.jsonl"),
        "economics": ("openstax_text", "economics.jsonl"),
        "finance": ("openstax_text", "finance.jsonl"),
        "anatomy": ("openstax_text", "anatomy_physiology.jsonl"),
    }
    found = {kind: [(row["id"], row["text"]) for row in read_rows(*path)] for kind, path in kinds.items()}
    # the articles' lines stand apart by " \\n ", without an empty line between them
    return found | {"articles": [(name, re.sub(r"\s*\n\s*", "\n\n", text)) for name, text in found["articles"]]}


def conversations() -> list[dict[str, Any]]:
    """Short instructions with their answers, written by people."""
    rows = [(row["prompt"], row["response"]) for row in read_rows("dolly_small", "train_small.jsonl")]
    rows += [
        (f"{row['instruction']}\n{row['input'] or ''}".strip(), row["output"])
        for row in read_rows("self_instruct_human", "seed_and_user_tasks.jsonl")
    ]
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in rows
        if asked and answer and len(asked) + len(answer) <= LONGEST
    ]


def write_data(folder: Path) -> None:
    """Sources of the recipes, and the tasks of what is kept apart."""
    read: dict[str, list[dict[str, Any]]] = {}
    apart: dict[str, list[dict[str, Any]]] = {}
    for kind, rows in documents().items():
        for name, text in rows:
            parts = [{"text": part, "document": name} for part in passages(text)]
            (apart if kept_apart(name, APART) else read).setdefault(kind, []).extend(parts)
    sources = {
        "general": read["articles"] + read["novels"],
        "curated": read["economics"] + read["finance"],
        "conversations": conversations(),
        "anatomy": read["anatomy"],
    }
    for name, rows in sources.items():
        write_rows(folder / "data" / f"{name}.jsonl", rows)
    general = [
        row for kind in ("articles", "novels", "economics", "finance") for row in _some(apart[kind], ASKED[kind])
    ]
    _write_task(folder, GENERAL, general, "general")
    _write_task(folder, DOMAIN, _some(apart["anatomy"], ASKED["anatomy"]), "domain")
    for stage in STAGES:
        (folder / "data" / f"{stage}.yaml").write_text(shipped_recipes()[stage].read_text(encoding="utf-8"))


def _some(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first passage of each document, then the second of each, until there are enough."""
    turns: dict[int, list[dict[str, Any]]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        turn = seen[row["document"]] = seen.get(row["document"], 0) + 1
        turns.setdefault(turn, []).append(row)
    return [row for turn in sorted(turns) for row in turns[turn]][:count]


def _write_task(folder: Path, name: str, rows: Sequence[Mapping[str, Any]], role: str) -> None:
    """A task of bits per byte over whole passages."""
    path = (folder / "tasks" / f"{name}.jsonl").resolve()
    write_rows(path, rows)
    path.with_suffix(".yaml").write_text(TASK.format(name=name, path=path, role=role), encoding="utf-8")


def request(folder: Path) -> EvaluationRequest:
    """What every checkpoint of the family is asked."""
    return EvaluationRequest(tasks=(GENERAL, DOMAIN), include_path=(str(folder / "tasks"),), dtype="float32")


def make_family(folder: Path, *, quick: bool = False) -> tuple[Project, dict[str, Path], dict[str, Any]]:
    """The project, its checkpoints by stage, and what the runs took; what is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    project = Project.open_or_init(folder)
    write_data(folder)
    took: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    for stage in STAGES:
        overrides = ["evaluation.suites=[]", *(QUICK[stage] if quick else ())]  # asked by the family's own tasks below
        arm = train_arm(folder / "data" / f"{stage}.yaml", stage, project, overrides)
        took[stage] = trained(arm)
        if stage == "family-pretrain":
            paths["before the rate fell"] = arm.path.with_name(f"checkpoint-{complete_checkpoints(arm.path.parent)[0]}")
        paths[stage.removeprefix("family-")] = arm.path
        say(f"{stage}: {arm.tokens:,} tokens, {arm.seconds / 60:.1f} minutes, {arm.path}")
    return project, paths, took


def bits(one: Any) -> dict[str, list[float]]:
    """Task -> bits per byte, low, high, n."""
    found = ((result.task, result.headline) for result in one.report.results)
    return {task: [h.value, h.low, h.high, h.n] for task, h in found}


def run(folder: Path, *, quick: bool) -> None:
    """Make the family and ask every checkpoint."""
    project, paths, took = make_family(folder, quick=quick)
    names = list(paths)
    done = evaluate_arms([paths[name] for name in names], project, request(folder), baseline=str(_start(project)))
    assert done.baseline is not None
    start = bits(done.baseline)
    arms = {name: bits(one) for name, one in zip(names, done.evaluated, strict=True)}
    write_found(folder, {"arms": arms, "start": start, "took": took, "weights": _weights(paths["sft"])})


def _start(project: Project) -> Path:
    """The new model, before it learned anything."""
    return next(iter(sorted((project.root / "models").glob("new-llama-*"))))


def _weights(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", framework="np") as file:
        return sum(int(_product(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118


def _product(shape: Sequence[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


def render(found: dict[str, Any]) -> str:
    """The measured part of the page."""
    if not found.get("arms"):
        return UNFINISHED
    titles = {GENERAL: "general", DOMAIN: "anatomy (never read)"}
    head = ["checkpoint", *(f"{title} ({found['start'][task][3]})" for task, title in titles.items())]
    rows = [
        [name, *(f"{of[task][0]:.3f} [{of[task][1]:.3f}, {of[task][2]:.3f}]" for task in titles)]
        for name, of in {"random weights": found["start"], **found["arms"]}.items()
    ]
    took = [
        [stage, f"{one['tokens']:,}", f"{one['loss']:.2f}", f"{one['train_seconds'] / 60:.1f}"]
        for stage, one in found["took"].items()
    ]
    return (
        f"{found['weights']:,} weights. Bits per byte of passages that were never read, lower is better [interval over "
        "documents] (passages):\n\n"
        + table(head, rows)
        + table(["run", "tokens that carry loss", "last loss, nats", "minutes of training, by the clock"], took)
    )


def main() -> None:
    """Make the family; --render writes the page again from the kept numbers."""
    chosen = options("family", __doc__ or "")
    if not chosen.render:
        run(chosen.project, quick=chosen.quick)
    if not chosen.quick:
        publish_page("family", chosen.project, render)


if __name__ == "__main__":
    main()
