"""Suites: named lists of tasks with a role and a margin. Knows tasks by their cards; knows no model.

The table of contents of what is measured: `benchmarks.library`'s functions can be imported from here as well.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from benchmarks.catalog import TaskCard
from benchmarks.library import build_tasks, card_of, expand_name, group_of, list_tasks, task_card, task_folders
from benchmarks.variants import MOST
from workbench.config import StrictModel, load_yaml, read_yaml
from workbench.errors import TaskError, did_you_mean
from workbench.gate import Rule
from workbench.records import Role

__all__ = [
    "Suite",
    "SuiteTask",
    "TaskCard",
    "build_tasks",
    "card_of",
    "group_of",
    "list_suites",
    "list_tasks",
    "load_suite",
    "suite_of",
    "task_card",
]

FOLDER = Path(__file__).parent / "suites"


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteTask:
    """One entry of a suite: one result of the report, pooled over its leaves where the task is a group."""

    task: str
    role: Role
    margin: float
    """Loss that still counts as kept, in the metric's own unit."""
    required: bool
    metric: str | None = None
    """Headline metric; None: the task's own."""
    num_fewshot: int | None = None
    """None: the task's own."""
    limit: int | None = None
    """Items at most, per leaf task; the first ones of a fixed random order. None: all."""
    variants: int | None = None
    """Prompts to ask each question in, for one more result over all of them; None: only the task's own."""
    choices_only: bool = False
    """Ask it without its questions as well: what can be guessed?"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """A named list of tasks."""

    name: str
    title: str
    tasks: tuple[SuiteTask, ...]
    rules: tuple[Rule, ...] = ()
    """What a gate asks besides that its tasks are kept: limits, gains."""


class _Entry(StrictModel):
    task: str
    role: Role | None = None
    margin: float | None = Field(default=None, gt=0)
    required: bool | None = None
    metric: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, gt=0)
    variants: int | None = Field(default=None, ge=2, le=MOST)
    choices_only: bool = False


class _File(StrictModel):
    suite: str
    title: str
    tasks: list[_Entry | str] = Field(min_length=1)
    rules: list[Rule] = Field(default_factory=list)


def list_suites(include_path: Iterable[str | Path] = ()) -> list[str]:
    """Return the names of all suites: shipped ones and those in the folders of `include_path`."""
    return sorted(_suite_files(include_path))


def _suite_files(include_path: Iterable[str | Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for folder in [FOLDER, *task_folders(include_path)]:
        for path in sorted(folder.glob("**/*.yaml")):
            # lm-eval's task files lie in the same folders and hold tags that are no plain YAML.
            if not any(line.startswith("suite:") for line in path.read_text(encoding="utf-8").splitlines()):
                continue
            name = str(read_yaml(path).get("suite"))
            if name in files:
                raise TaskError(f"{path}: suite {name!r} is also in {files[name]}; rename one")
            files[name] = path
    return files


def load_suite(name: str, include_path: Iterable[str | Path] = ()) -> Suite:
    """Load a suite by name; role, margin and required come from the task's card where the file is silent."""
    files = _suite_files(include_path)
    if name not in files:
        raise TaskError(f"suite {name!r}: no such suite; {did_you_mean(name, files)}")
    file = load_yaml(files[name], _File)
    entries = [_Entry(task=entry) if isinstance(entry, str) else entry for entry in file.tasks]
    return Suite(name=name, title=file.title, tasks=_resolve(entries, include_path), rules=tuple(file.rules))


def rules_of(names: Iterable[str], include_path: Iterable[str | Path] = ()) -> list[Rule]:
    """The rules of some suites; one that is not here any more has none."""
    files = _suite_files(include_path)
    return [rule for name in names if name in files for rule in load_yaml(files[name], _File).rules]


def suite_of(
    names: Sequence[str],
    *,
    include_path: Iterable[str | Path] = (),
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> Suite:
    """Make a suite of single tasks (`--tasks a,b`); a name that stands for several entries brings them all."""
    entries = [_Entry(task=name, num_fewshot=num_fewshot, limit=limit) for name in names]
    return Suite(name=",".join(names), title=", ".join(names), tasks=_resolve(entries, include_path))


def _resolve(entries: Iterable[_Entry], include_path: Iterable[str | Path]) -> tuple[SuiteTask, ...]:
    found: dict[str, SuiteTask] = {}
    for entry in entries:
        for name in expand_name(entry.task, include_path):
            card = task_card(name, include_path=include_path)
            if name in found:
                raise TaskError(f"task {name!r}: listed twice; name it once")
            found[name] = SuiteTask(
                task=name,
                role=entry.role or card.role,
                margin=entry.margin or card.margin,
                required=card.required if entry.required is None else entry.required,
                metric=entry.metric,
                num_fewshot=entry.num_fewshot,
                limit=entry.limit,
                variants=entry.variants,
                choices_only=entry.choices_only,
            )
    return tuple(found.values())
