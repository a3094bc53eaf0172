"""What training data must not share with an evaluation: the questions themselves, and where they come from.

Knows tasks; of the training data it sees texts and addresses alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.catalog import TaskCard, load_manifest, shipped_entries, split_name
from benchmarks.check import item_of, questions_of
from benchmarks.contamination import Hit, TestItem, overlapping_rows
from benchmarks.library import build_tasks, expand_name, task_card
from benchmarks.rows import find_file
from benchmarks.suite import SuiteTask, load_suite
from workbench.records import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A task of an evaluation, as training data is held against it."""

    task: str
    role: Role
    required: bool
    margin: float
    items: tuple[TestItem, ...]
    files: tuple[Path, ...]
    """Files that its questions were read from, as far as they are known."""
    sets: tuple[str, ...]
    """Names of its data set: on the hub, or of a folder of the data folder."""
    written_by: str = ""
    """Fingerprint of the checkpoint that wrote its texts."""


def load_asked(
    suites: Sequence[str],
    tasks: Sequence[str] = (),
    *,
    include_path: Iterable[str | Path] = (),
    data: Path | None = None,
) -> list[Asked]:
    """All tasks of some suites and single ones, each once; of those that must be kept, with all of their questions.

    Raises TaskError: unknown names, or rows that cannot be had.
    """
    include_path = list(include_path)
    named: dict[str, SuiteTask | TaskCard] = {
        task.task: task for name in suites for task in load_suite(name, include_path).tasks
    }
    for name in (name for asked in tasks for name in expand_name(asked, include_path)):
        named.setdefault(name, task_card(name, include_path))
    built = build_tasks(list(named), include_path=include_path, data=data)
    return [_asked(name, about, built[name], data) for name, about in named.items()]


def find_overlap(asked: Sequence[Asked], rows: Iterable[tuple[str, int, str]], *, n: int = 13) -> list[Hit]:
    """Hits of rows, (source, number, text), that hold a question; a hit's `item` is `TASK: ID`."""
    items = [
        TestItem(id=f"{task.task}: {item.id}", question=item.question, answer=item.answer)
        for task in asked
        for item in task.items
    ]
    return list(overlapping_rows(items, rows, n=n))


def shares_source(task: Asked, *, address: str, data: Path | None, written_by: str = "") -> str:
    """Why a task and training data come from one source, or nothing.

    `address` is an absolute path, or `hub:OWNER/NAME...`. In the data folder every folder is one set; elsewhere only
    the same file is the same source.
    """
    if written_by and task.written_by == written_by:
        return "the same checkpoint wrote both"
    if address.startswith("hub:"):
        name = "/".join(address.removeprefix("hub:").partition("@")[0].split("/")[:2])
        return f"both are of {name}" if name in task.sets else ""
    path = Path(address)
    if path in task.files:
        return f"both are read from {path.name}"
    folder = path.parent.name if data is not None and path.is_relative_to(data.resolve()) else ""
    return f"both are of {folder}" if folder and folder in task.sets else ""


def _asked(name: str, about: SuiteTask | TaskCard, built: Any, data: Path | None) -> Asked:
    files, sets = _where(name, built, data)
    leaves = built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]
    docs = next((list(leaf.eval_docs)[:1] for leaf in leaves), [])
    return Asked(
        task=name,
        role=about.role,
        required=about.required,
        margin=about.margin,
        items=tuple(item_of(question) for question in questions_of(built) if question.split == "test")
        if about.required
        else (),
        files=tuple(files),
        sets=tuple(sets),
        written_by=str(docs[0].get("written_by") or "") if docs and isinstance(docs[0], Mapping) else "",
    )


def _where(name: str, built: Any, data: Path | None) -> tuple[list[Path], list[str]]:
    own = split_name(name)
    if own is not None:
        rows = load_manifest().sets[shipped_entries()[own[0]][0].set]
        named = [file for file in (rows.test, rows.dev) if file]
        found = [path.resolve() for path in (find_file(file, data) for file in named) if path]
        folders = [Path(file).parent.name for file in named if not file.startswith("samples/")]
        return found, [*folders, *([rows.hub.path] if rows.hub else [])]
    leaves = built.get_all_tasks() if hasattr(built, "get_all_tasks") else [built]
    configs = [leaf.config for leaf in leaves]
    sets = {str(config.dataset_path) for config in configs if config.dataset_path}
    files = {Path(file).resolve() for config in configs for file in _files(config.dataset_kwargs)}
    return sorted(files), sorted(sets)


def _files(kwargs: Any) -> list[str]:
    given = (kwargs or {}).get("data_files") or {}
    values = given.values() if isinstance(given, Mapping) else [given]
    return [
        file for value in values for file in (value if isinstance(value, list) else [value]) if isinstance(file, str)
    ]
