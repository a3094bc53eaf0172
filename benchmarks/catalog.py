"""The tasks that ship with the workbench: the manifest, a card for each task, and lm-eval tasks built from them.

Knows where rows come from and how they are asked; knows no model, no suite and no result.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from benchmarks import adapters
from benchmarks.forms import FORMS, FormName, template
from benchmarks.rows import Row, carve, find_file, read_hub, read_jsonl, shuffled
from workbench.config import StrictModel, data_folder, load_yaml
from workbench.errors import TaskError, did_you_mean
from workbench.records import Direction, Role

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task

MANIFEST = Path(__file__).parent / "tasks" / "manifest.yaml"
SHOTS_KEPT = 8
"""Rows set apart for few-shot prompts where a set has no file for them: the usual five, and three to spare."""


class HubSpec(StrictModel):
    """Where a set lies on the Hugging Face hub."""

    path: str
    name: str | None = None
    test: str
    """Split that is evaluated."""
    dev: str | None = None
    """Split that few-shot rows come from; slices such as `train[:32]` work."""
    rows: str
    """Function in `adapters` that turns a hub row into ours."""


class SetSpec(StrictModel):
    """A set of questions."""

    title: str
    licence: str
    home: str = ""
    """Where people get it."""
    test: str
    """File below the data folder (or `samples/...` inside the package)."""
    dev: str | None = None
    """File of few-shot rows."""
    hub: HubSpec | None = None
    prepare: str | None = None
    """Function in `adapters` that turns all rows of a file into documents."""
    cluster: str | None = None
    """Column whose equal values make items dependent: passage, article, product."""
    language: str = "en"


class TaskSpec(StrictModel):
    """A set asked in one form or several."""

    set: str
    form: FormName | None = None
    forms: tuple[FormName, ...] = ()
    """Several forms make several tasks, named `<task>_<form>`."""
    role: Role
    margin: float = Field(default=0.02, gt=0)
    """Loss that still counts as kept, in the unit of the headline metric."""
    required: bool | None = None
    """Must it be kept for a checkpoint to ship? Default: the form's."""
    metric: str | None = None
    """Headline metric; default: the form's."""
    direction: Direction | None = None
    chance: float | None = None
    text: str | None = None
    """Prompt template; default: the form's."""
    description: str | None = None
    """What stands before the shots; default: the form's where the task is split by subject, else nothing."""
    split: str | None = None
    """Column that makes one leaf task of each value (MMLU's subjects); the leaves are pooled as strata."""
    subjects: tuple[str, ...] = ()
    """Values of `split` to take; default: all."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows to take: column -> accepted values."""
    shots: int = Field(default=0, ge=0)
    target_delimiter: str = " "
    config: dict[str, Any] = Field(default_factory=dict)
    """More of lm-eval's task configuration; a string `adapters.x` or `metrics.x` names a function."""


class Manifest(StrictModel):
    """The file `tasks/manifest.yaml`."""

    sets: dict[str, SetSpec]
    tasks: dict[str, TaskSpec]


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskCard:
    """What a reader of a report must know about a task, and the defaults that a suite may override."""

    name: str
    title: str
    role: Role
    margin: float
    required: bool
    metric: str
    """Headline metric as lm-eval names it; a filter follows after a comma (`exact_match,strict-match`)."""
    direction: Direction
    chance: float | None
    """Score of a guesser on the headline metric; computed from the rows once the task is built."""
    form: str
    num_fewshot: int
    cluster: str | None
    """Column of a document that names its group."""
    dataset: str
    """Hub name, or the set's own name where it is on no hub."""
    licence: str
    language: str
    source: Literal["workbench", "include", "lm_eval"]
    version: str = "1"


@functools.cache
def load_manifest() -> Manifest:
    """Read the manifest."""
    return load_yaml(MANIFEST, Manifest)


@functools.cache
def _entries() -> Mapping[str, tuple[TaskSpec, FormName]]:
    found: dict[str, tuple[TaskSpec, FormName]] = {}
    for name, spec in load_manifest().tasks.items():
        if spec.form:
            found[name] = spec, spec.form
        found |= {f"{name}_{form}": (spec, form) for form in spec.forms}
    return found


def shipped_tasks() -> list[str]:
    """Return the names of the tasks that ship with the workbench, in the manifest's order."""
    return list(_entries())


def is_shipped(name: str) -> bool:
    """Is it a shipped task, or a leaf of one (`mmlu_letter_anatomy`)?"""
    return _split_name(name) is not None


def _split_name(name: str) -> tuple[str, str | None] | None:
    """Return (task, subject or None), or None for a name that is not ours."""
    if name in _entries():
        return name, None
    for task, (spec, _) in sorted(_entries().items(), key=lambda item: -len(item[0])):
        if spec.split and name.startswith(f"{task}_"):
            return task, name.removeprefix(f"{task}_")
    return None


def shipped_card(name: str) -> TaskCard:
    """Return the card of a shipped task or of a leaf of one; raises TaskError for another name."""
    parts = _split_name(name)
    if parts is None:
        raise TaskError(f"task {name!r}: not a shipped task; {did_you_mean(name, shipped_tasks())}")
    spec, form_name = _entries()[parts[0]]
    form, rows = FORMS[form_name], load_manifest().sets[spec.set]
    return TaskCard(
        name=name,
        title=rows.title + (f": {parts[1].replace('_', ' ')}" if parts[1] else ""),
        role=spec.role,
        margin=spec.margin,
        required=form.required if spec.required is None else spec.required,
        metric=spec.metric or form.metric,
        direction=spec.direction or form.direction,
        chance=spec.chance,
        form=form_name,
        num_fewshot=spec.shots,
        cluster=rows.cluster,
        dataset=rows.hub.path if rows.hub else spec.set,
        licence=rows.licence,
        language=rows.language,
        source="workbench",
    )


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
    parts = _split_name(name)
    if parts is None:
        raise TaskError(f"task {name!r}: not a shipped task; {did_you_mean(name, shipped_tasks())}")
    whole, subject = parts
    spec, form_name = _entries()[whole]
    test, dev = load_split(spec.set, Path(data) if data else data_folder())
    for column, accepted in spec.where.items():
        test = [row for row in test if row[column] in accepted]
        dev = [row for row in dev if row.get(column) in accepted]
    shots = spec.shots if num_fewshot is None else num_fewshot
    if spec.split is None:
        return _build_leaf(name, spec, form_name, test, dev, shots=shots, subject=None)
    present = sorted({row[spec.split] for row in test})
    wanted = [subject] if subject else [s for s in present if not spec.subjects or s in spec.subjects]
    if subject and subject not in present:
        raise TaskError(f"task {name!r}: {whole} has no subject {subject!r}; {did_you_mean(subject, present)}")
    leaves = [
        _build_leaf(
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


def _build_leaf(
    name: str, spec: TaskSpec, form_name: FormName, test: list[Row], dev: list[Row], *, shots: int, subject: str | None
) -> "Task":
    from benchmarks.lm_task import WorkbenchTask

    form, rows = FORMS[form_name], load_manifest().sets[spec.set]
    docs = shuffled(test)
    if not docs:
        raise TaskError(f"task {name!r}: no rows; set {spec.set} holds none that fit")
    if form_name in ("text", "word", "partial") and not dev:
        kept: list[Row] = []
    elif dev:
        kept = dev
    else:
        kept, docs = carve(docs, max(SHOTS_KEPT, shots), rows.cluster)
    if shots > len(kept):
        raise TaskError(f"task {name!r}: {shots} shots asked, {len(kept)} few-shot rows there; lower --num-fewshot")
    card = replace(shipped_card(name), num_fewshot=shots, chance=spec.chance or _chance(form_name, docs))
    text = spec.text or form.text
    description = spec.description if spec.description is not None else (form.description if subject else "")
    config = {
        "task": name,
        **({"doc_to_text": template(text)} if text else {}),
        "description": description.format(subject=(subject or "").replace("_", " ")),
        "target_delimiter": spec.target_delimiter,
        **form.config,
        **_resolve(spec.config),
        "num_fewshot": shots,
        "metadata": {"version": card.version, "workbench": asdict(card)},
    }
    return WorkbenchTask(docs=docs, shots=kept, config=config)


def _chance(form_name: FormName, docs: Sequence[Row]) -> float | None:
    if form_name not in ("letter", "cloze", "label", "partial"):
        return None
    return sum(1 / len(doc["choices"]) for doc in docs) / len(docs)


def _resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `adapters.x` by the function of that name, at any depth."""

    def walk(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("adapters."):
            return getattr(adapters, value.removeprefix("adapters."))
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        return [walk(part) for part in value] if isinstance(value, list) else value

    return walk(dict(config))
