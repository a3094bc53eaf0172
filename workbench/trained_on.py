"""What a checkpoint was trained on, as far as the project knows: its runs back to a baseline, and the rows they saw.

A run records which rows of which files its steps saw (`training.ledger`), with a key of what each row said. The texts
are read again from the files: what is gone or says something else now is left out, and it is said. Knows runs and
files; knows no verdict.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import ConfigError, StoreError
from workbench.records import Checkpoint, Comparison

if TYPE_CHECKING:
    from benchmarks.clean import CleanGain
    from benchmarks.nearest import Nearest, TrainingRow
    from benchmarks.why import Reasons
    from workbench.store import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedOn:
    """Rows that a checkpoint saw since a baseline."""

    rows: "Sequence[TrainingRow]"
    runs: tuple[str, ...]
    """Ids of the runs, the latest first; none: the project made no part of it."""
    notes: tuple[str, ...] = ()
    """Sources that could not be read, and why."""


def seen_since(project: "Project", candidate: Checkpoint, baseline: Checkpoint) -> TrainedOn:
    """Rows of all runs from the baseline (or from as far back as is known) to the candidate."""
    rows: list[TrainingRow] = []
    notes: list[str] = []
    runs: list[str] = []
    known = {run.id: run for run in project.store.runs()}
    current = _recorded(project, candidate)
    while current is not None and current.fingerprint != baseline.fingerprint and current.run in known:
        run = known[current.run]
        if run.id in runs:
            break
        runs.append(run.id)
        rows += _rows_of_run(Path(run.folder), _step_of(current), notes)
        current = _recorded(project, run.start) if run.start else None
    return TrainedOn(rows=rows, runs=tuple(runs), notes=tuple(notes))


def rows_of_files(files: Sequence[Path]) -> TrainedOn:
    """Training data that no run of the project knows of. Raises TaskError: a file that cannot be read."""
    from benchmarks.contamination import read_training
    from benchmarks.nearest import TrainingRow

    rows = [
        TrainingRow(source=path.name, file=str(path), row=row, text=text)
        for path in files
        for row, text in read_training(path)
    ]
    return TrainedOn(rows=rows, runs=())


def find_nearest_rows(
    comparison: Comparison,
    reasons: "Reasons",
    trained: TrainedOn,
    *,
    project: "Project",
    tasks: Sequence[str] = (),
) -> "Nearest":
    """The training rows nearest to what a comparison's candidate lost."""
    from benchmarks.nearest import find_nearest
    from workbench.comparing import side_of

    sides = side_of(project.store, comparison.baseline), side_of(project.store, comparison.candidate)
    return find_nearest(comparison, reasons, *sides, trained.rows, tasks=tasks, notes=trained.notes)


def find_clean_gain(
    comparison: Comparison, trained: TrainedOn, *, project: "Project", tasks: Sequence[str] = ()
) -> "list[CleanGain]":
    """The change of each domain task (or the named ones), split by overlap with the training rows."""
    from benchmarks.clean import split_gain
    from workbench.comparing import side_of

    sides = side_of(project.store, comparison.baseline), side_of(project.store, comparison.candidate)
    return split_gain(comparison, *sides, trained.rows, tasks=tasks)


def _recorded(project: "Project", checkpoint: Checkpoint | str) -> Checkpoint | None:
    """As the store knows it, with its run; a report may be older than that."""
    reference = checkpoint if isinstance(checkpoint, str) else checkpoint.fingerprint
    try:
        return project.store.checkpoint(reference)
    except StoreError:
        return None if isinstance(checkpoint, str) else checkpoint


def _step_of(checkpoint: Checkpoint) -> int | None:
    name = Path(checkpoint.source).name
    number = name.removeprefix("checkpoint-")
    return int(number) if name.startswith("checkpoint-") and number.isdigit() else None


def _rows_of_run(folder: Path, last: int | None, notes: list[str]) -> "Iterator[TrainingRow]":
    """Rows that a run saw up to a step, with what they say."""
    from benchmarks.nearest import TrainingRow
    from training.ledger import source_files

    try:
        seen, files = _seen(folder, last), source_files(folder)
    except StoreError as error:
        notes.append(f"run {folder.name}: {error}")
        return
    for source, (path, column) in files.items():
        wanted = seen.get(source, {})
        found = 0
        try:
            for row, text in _texts(Path(path), column, {row: one.key for row, one in wanted.items()}):
                one = wanted[row]
                found += 1
                yield TrainingRow(source=source, file=path, row=row, text=text, step=one.step, times=len(one.epochs))
        except ConfigError as error:
            notes.append(f"run {folder.name}: {error}")
            continue
        if found < len(wanted):
            lacking = len(wanted) - found
            notes.append(f"run {folder.name}: {path}: {lacking:,} of {len(wanted):,} rows have changed since; left out")


@dataclass(kw_only=True, slots=True)
class _Seen:
    """One row in one run."""

    key: bytes
    step: int
    """At which it was seen first."""
    epochs: set[int]


def _seen(folder: Path, last: int | None) -> dict[str, dict[int, _Seen]]:
    """Source -> row of its file -> when it was seen. Raises StoreError: the run kept no record."""
    from training.ledger import seen_rows

    found: dict[str, dict[int, _Seen]] = {}
    for one in seen_rows(folder):
        if last is None or one.step <= last:
            rows = found.setdefault(one.source, {})
            rows.setdefault(one.row, _Seen(key=one.key, step=one.step, epochs=set())).epochs.add(one.epoch)
    return found


def _texts(path: Path, column: str, keys: Mapping[int, bytes]) -> Iterator[tuple[int, str]]:
    """Rows that still say what was seen. Raises ConfigError: no such file, or one that cannot be read any more."""
    from training.recipe import Source
    from training.rows import find_shape, read_rows, row_fault, row_key, texts_of

    found = read_rows(Source(name=path.stem, data=path.name, share=1.0, column=column), path.parent)
    shape = find_shape(found.records, column, where=str(path))
    for place, row in enumerate(found.numbers.tolist()):
        if row in keys and not row_fault(found.records[place], shape, answers=False):
            texts = texts_of(found.records[place], shape)
            if row_key(texts) == keys[row]:
                yield row, "\n".join(texts)
