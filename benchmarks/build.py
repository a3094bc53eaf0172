"""Build the shipped tasks: rows of the data folder or a hub, asked in a form, as lm-eval tasks. Knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import adapters, metrics, scoring
from benchmarks.catalog import (
    SetSpec,
    TaskSpec,
    load_manifest,
    shipped_card,
    shipped_entries,
    shipped_tasks,
    split_name,
)
from benchmarks.forms import FORMS, FormName, template
from benchmarks.rows import Row, carve, find_file, question_hash, read_hub, read_jsonl, shuffled
from workbench.config import data_folder
from workbench.errors import TaskError, did_you_mean

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task


def load_split(set_name: str, data: Path | None) -> tuple[list[Row], list[Row]]:
    """Return (test, dev) rows of a set: the local file if the data folder has it, else from the hub."""
    rows = load_manifest().sets[set_name]
    file = find_file(rows.test, data)
    if file is not None:
        test, dev = read_jsonl(file), []
        if rows.dev and (dev_file := find_file(rows.dev, data)):
            dev = read_jsonl(dev_file)
    elif rows.hub is not None:
        adapt = getattr(adapters, rows.hub.rows)
        try:
            test = [adapt(row) for row in read_hub(rows.hub.path, rows.hub.name, rows.hub.test)]
            dev = [adapt(row) for row in read_hub(rows.hub.path, rows.hub.name, rows.hub.dev)] if rows.hub.dev else []
        except TaskError as error:
            raise TaskError(f"set {set_name}: {_missing(rows, data)}, and the {error}") from error
    else:
        raise TaskError(f"set {set_name}: {_missing(rows, data)}; it is on no hub, get it from {rows.home}")
    if rows.prepare:
        prepare = getattr(adapters, rows.prepare)
        test, dev = prepare(test), prepare(dev) if dev else []
    return test, dev


def _missing(rows: SetSpec, data: Path | None) -> str:
    return f"no {rows.test} in {data}" if data else f"no {rows.test}: set WORKBENCH_DATA to a data folder"


def build_shipped(name: str, *, num_fewshot: int | None = None, data: Path | str | None = None) -> "Task | Group":
    """Build a shipped task: an lm-eval Task, or a Group with one leaf per subject. Raises TaskError."""
    parts = split_name(name)
    if parts is None:
        raise TaskError(f"task {name!r}: not a shipped task; {did_you_mean(name, shipped_tasks())}")
    whole, subject = parts
    spec, form_name = shipped_entries()[whole]
    test, dev = load_split(spec.set, Path(data) if data else data_folder())
    for column, accepted in spec.where.items():
        test = [row for row in test if row[column] in accepted]
        dev = [row for row in dev if row.get(column) in accepted]
    shots = spec.shots if num_fewshot is None else num_fewshot
    if spec.split is None:
        return build_leaf(name, spec, form_name, test, dev, shots=shots, subject=None)
    present = sorted({row[spec.split] for row in test})
    wanted = [subject] if subject else [s for s in present if not spec.subjects or s in spec.subjects]
    if subject and subject not in present:
        raise TaskError(f"task {name!r}: {whole} has no subject {subject!r}; {did_you_mean(subject, present)}")
    leaves = [
        build_leaf(
            f"{whole}_{value}",
            spec,
            form_name,
            [row for row in test if row[spec.split] == value],
            [row for row in dev if row.get(spec.split) == value],
            shots=shots,
            subject=value,
        )
        for value in wanted
    ]
    return leaves[0] if subject else _group(name, leaves)


def _group(name: str, leaves: Sequence["Task"]) -> "Group":
    from lm_eval.api.group import Group
    from lm_eval.config.group import AggMetricConfig

    card = replace(shipped_card(name), chance=_pooled_chance(leaves))
    group = Group(
        name=name,
        aggregate_metric_list=[AggMetricConfig(metric=card.metric.split(",")[0], weight_by_size=True)],
        metadata={"version": card.version, "workbench": asdict(card)},
    )
    for leaf in leaves:
        group.add(leaf)
    return group


def _pooled_chance(leaves: Sequence["Task"]) -> float | None:
    chances = [(leaf.config.metadata["workbench"]["chance"], len(leaf.eval_docs)) for leaf in leaves]
    if any(chance is None for chance, _ in chances):
        return None
    return sum(chance * n for chance, n in chances) / sum(n for _, n in chances)


def build_leaf(
    name: str, spec: TaskSpec, form_name: FormName, test: list[Row], dev: list[Row], *, shots: int, subject: str | None
) -> "Task":
    """Build one lm-eval task of documents and few-shot rows; the first rows of `dev` are the examples."""
    from benchmarks.lm_task import WorkbenchTask

    form, rows = FORMS[form_name], load_manifest().sets[spec.set]
    docs = shuffled(test)
    if not docs:
        raise TaskError(f"task {name!r}: no rows; set {spec.set} holds none that fit")
    kept, docs = _apart(dev, docs, rows.cluster)
    if not dev and not form.whole and (apart := max(spec.keep, shots)):
        kept, docs = carve(docs, apart, rows.cluster)
    if shots > len(kept):
        raise TaskError(f"task {name!r}: {shots} shots asked, {len(kept)} few-shot rows there; lower --num-fewshot")
    card = replace(shipped_card(name), num_fewshot=shots, chance=_chance(form_name, docs, spec.chance))
    text = spec.text.get(form_name) if isinstance(spec.text, dict) else spec.text
    description = spec.description if spec.description is not None else (form.description if subject else "")
    config = {
        "task": name,
        "doc_to_text": template(text or form.text),
        "description": description.format(subject=(subject or "").replace("_", " ")),
        "target_delimiter": spec.target_delimiter,
        **form.config,
        **_resolve(spec.config),
        "num_fewshot": shots,
        "metadata": {"version": card.version, "workbench": asdict(card)},
    }
    return WorkbenchTask(docs=docs, shots=kept, config=config)


def _apart(dev: list[Row], docs: list[Row], cluster: str | None) -> tuple[list[Row], list[Row]]:
    """Drop evaluation rows that are also few-shot rows, and few-shot rows that share a cluster with evaluation rows."""
    shown = {question_hash(row) for row in dev}
    docs = [row for row in docs if question_hash(row) not in shown]
    if cluster is None:
        return dev, docs
    groups = {row.get(cluster) for row in docs}
    return [row for row in dev if row.get(cluster) not in groups], docs


def _chance(form_name: FormName, docs: Sequence[Row], stated: float | None) -> float | None:
    """Score of a guesser on these documents, where the form has choices; else what the manifest states."""
    if form_name not in ("letter", "cloze", "label", "partial", "rank"):
        return stated
    if form_name == "rank":
        guesses = [metrics.ndcg_chance(doc["relevance"]) for doc in docs]
    else:
        guesses = [sum(doc.get("labels", (1,))) / len(doc["choices"]) for doc in docs]
    return sum(guesses) / len(guesses)


def _resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `scoring.x` by the function of that name, at any depth."""

    def walk(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("scoring."):
            return getattr(scoring, value.removeprefix("scoring."))
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list) else value

    return walk(dict(config))
