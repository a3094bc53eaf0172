"""The tasks that ship with the workbench: the manifest and a card for each task. Knows no rows, no model, no suite."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from benchmarks.forms import FORMS, FormName
from workbench.config import StrictModel, load_yaml
from workbench.errors import TaskError, did_you_mean
from workbench.records import Direction, Role

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
    text: str | dict[FormName, str] | None = None
    """Prompt template, or one for each form; default: the form's."""
    description: str | None = None
    """What stands before the shots; default: the form's where the task is split by subject, else nothing."""
    split: str | None = None
    """Column that makes one leaf task of each value (MMLU's subjects); the leaves are pooled as strata."""
    subjects: tuple[str, ...] = ()
    """Values of `split` to take; default: all."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows to take: column -> accepted values."""
    shots: int = Field(default=0, ge=0)
    keep: int = Field(default=SHOTS_KEPT, ge=0)
    """Rows set apart for few-shot prompts where the set has no file for them."""
    target_delimiter: str = " "
    config: dict[str, Any] = Field(default_factory=dict)
    """More of lm-eval's task configuration; a string `scoring.x` names a function."""


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
def shipped_entries() -> Mapping[str, tuple[TaskSpec, FormName]]:
    """Return each task's manifest entry and form, by name."""
    found: dict[str, tuple[TaskSpec, FormName]] = {}
    for name, spec in load_manifest().tasks.items():
        if spec.form:
            found[name] = spec, spec.form
        found |= {f"{name}_{form}": (spec, form) for form in spec.forms}
    return found


def shipped_tasks() -> list[str]:
    """Return the names of the tasks that ship with the workbench, in the manifest's order."""
    return list(shipped_entries())


def expand_forms(name: str) -> list[str]:
    """Return the tasks that a name stands for: `mmlu` is `mmlu_letter` and `mmlu_cloze`; others are themselves."""
    spec = load_manifest().tasks.get(name)
    return [f"{name}_{form}" for form in spec.forms] if spec and spec.forms else [name]


def is_shipped(name: str) -> bool:
    """Is it a shipped task, or a leaf of one (`mmlu_letter_anatomy`)?"""
    return split_name(name) is not None


def split_name(name: str) -> tuple[str, str | None] | None:
    """Return (task, subject or None), or None for a name that is not ours."""
    if name in shipped_entries():
        return name, None
    for task, (spec, _) in sorted(shipped_entries().items(), key=lambda item: -len(item[0])):
        if spec.split and name.startswith(f"{task}_"):
            return task, name.removeprefix(f"{task}_")
    return None


def shipped_card(name: str) -> TaskCard:
    """Return the card of a shipped task or of a leaf of one; raises TaskError for another name."""
    parts = split_name(name)
    if parts is None:
        raise TaskError(f"task {name!r}: not a shipped task; {did_you_mean(name, shipped_tasks())}")
    spec, form_name = shipped_entries()[parts[0]]
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
