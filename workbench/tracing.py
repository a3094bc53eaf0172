"""Which models saw a row, over all runs of a project; which rows a step saw. Knows the store and the runs' records.

A row is followed by what it says, so a file that has changed since, or is gone, makes no difference. A checkpoint saw a
row if its run had seen it by then; and so did all that was made from such a checkpoint, however many runs later.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.errors import ConfigError, StoreError, did_you_mean
from workbench.runs import RUNS

if TYPE_CHECKING:
    from training.ledger import SeenRow, Sighting
    from workbench.records import Checkpoint
    from workbench.store import Project

EXCERPT = 160
"""Characters of a row that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSighting:
    """A row in one run."""

    run: str
    source: str
    row: int
    steps: tuple[int, ...]
    epochs: int
    checkpoints: tuple[int, ...]
    """Steps of the run's checkpoints on disk that saw it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenBy:
    """A recorded checkpoint that saw the row."""

    name: str
    fingerprint: str
    source: str
    how: Literal["trained", "inherited"]
    """In its own run, or in one that it goes back to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """Where a row was seen."""

    sightings: tuple[RunSighting, ...]
    checkpoints: tuple[SeenBy, ...]
    runs: int
    """Runs that were looked through."""
    unrecorded: tuple[str, ...]
    """Runs of which nothing is known: they kept no record of rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """A stretch of a row that a step saw, with what it says if its file still holds it."""

    seen: "SeenRow"
    text: str | None
    """Its beginning; None: the file is gone or says something else there now."""


def trace_step(project: "Project", run: str, step: int) -> list[StepRow]:
    """Rows that a step of a run saw, in order.

    Raises StoreError: no such run, no record, or a step that it did not reach.
    """
    from training.ledger import last_step, rows_of_step

    folder = _run_folder(project, run)
    found = rows_of_step(folder, step)
    if not found:
        raise StoreError(f"run {run}: no step {step}; it recorded steps 1 to {last_step(folder)}")
    texts = _Texts(folder)
    return [StepRow(seen=seen, text=texts.find(seen)) for seen in found]


def trace_text(project: "Project", text: str, *, contains: bool = False) -> Trace:
    """Who saw this text, as a row, as one of a row's texts or as a line of one.

    `contains`: also rows that hold it somewhere, which is looked for in the sources as they are on disk now.
    """
    from training.ledger import find_keys, find_text
    from training.rows import normalise

    if not normalise(text):
        raise ConfigError("--text: is empty; give the text of the row")
    keys = _keys_with(project, normalise(text)) if contains else set()
    return _trace(project, lambda folder: [*find_text(folder, text), *find_keys(folder, keys)])


def trace_row(project: "Project", reference: str) -> Trace:
    """Who saw row N of `SOURCE:N`: of a file as it is now, or of a source by its name in the recipes, as it was then.

    Raises ConfigError: no such file and no such source, or no such row in it.
    """
    from training.ledger import find_keys, find_row, source_files

    name, _, number = reference.rpartition(":")
    if not name or not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--row {reference}: SOURCE:N is expected, N from 1, such as domain:7 or posts.jsonl:7")
    folders = _recorded(project)
    files = [file for folder in folders for file in source_files(folder).values()]
    if Path(name).is_file():
        columns = [column for path, column in files if Path(path) == Path(name).resolve()]
        keys = {_key_of(Path(name), int(number), (columns or ["text"])[0])}
        return _trace(project, lambda folder: find_keys(folder, keys))
    names = {source for folder in folders for source in source_files(folder)}
    if name not in names:
        raise ConfigError(f"--row {reference}: no such file, and no source of that name; {did_you_mean(name, names)}")
    keys = {one.key for folder in folders for one in find_row(folder, name, int(number))}
    return _trace(project, lambda folder: find_keys(folder, keys))


def _trace(project: "Project", find: Callable[[Path], "list[Sighting]"]) -> Trace:
    from training.checkpoints import complete_checkpoints

    folders = _recorded(project)
    sightings: list[RunSighting] = []
    first: dict[Path, int] = {}
    for folder in folders:
        unique = {(one.source, one.row): one for one in find(folder)}
        for one in unique.values():
            first[folder] = min(first.get(folder, one.steps[0]), one.steps[0])
            saw = tuple(step for step in complete_checkpoints(folder) if step >= one.steps[0])
            sightings.append(
                RunSighting(
                    run=folder.name, source=one.source, row=one.row, steps=one.steps, epochs=one.epochs, checkpoints=saw
                )
            )
    known = {Path(entry.folder).resolve() for entry in project.store.runs()}
    return Trace(
        sightings=tuple(sightings),
        checkpoints=tuple(_seen_by(project, first)),
        runs=len(folders),
        unrecorded=tuple(sorted(folder.name for folder in known - set(folders))),
    )


def _seen_by(project: "Project", first: Mapping[Path, int]) -> list[SeenBy]:
    """Recorded checkpoints of those runs from the step on, and everything that was made from one of them."""
    checkpoints, runs = project.store.checkpoints(), project.store.runs()
    trained = {one.fingerprint for one in checkpoints if _saw(one, first)}
    tainted = set(trained)
    before = -1
    while len(tainted) > before:
        before = len(tainted)
        begun = {run.id for run in runs if run.start in tainted}
        tainted |= {one.fingerprint for one in checkpoints if one.parent in tainted or one.run in begun}
    return [
        SeenBy(
            name=one.name,
            fingerprint=one.fingerprint,
            source=one.source,
            how="trained" if one.fingerprint in trained else "inherited",
        )
        for one in checkpoints
        if one.fingerprint in tainted
    ]


def _saw(checkpoint: "Checkpoint", first: Mapping[Path, int]) -> bool:
    path = Path(checkpoint.source)
    head, _, step = path.name.rpartition("-")
    return head == "checkpoint" and step.isdecimal() and path.parent in first and int(step) >= first[path.parent]


def _recorded(project: "Project") -> list[Path]:
    """Folders of the runs that kept a record, by name."""
    from training.ledger import has_ledger

    known = {Path(entry.folder).resolve() for entry in project.store.runs()}
    beside = {path.resolve() for path in (project.root / RUNS).glob("*") if path.is_dir()}
    return sorted((folder for folder in known | beside if has_ledger(folder)), key=lambda folder: folder.name)


def _run_folder(project: "Project", run: str) -> Path:
    name = run.removeprefix("run/")
    folder = (project.root / RUNS / name).resolve()
    if not folder.is_dir():
        known = [path.name for path in (project.root / RUNS).glob("*")]
        raise StoreError(f"run {name!r}: not in this project; {did_you_mean(name, known)}")
    return folder


def _keys_with(project: "Project", wanted: str) -> set[bytes]:
    """Keys of the rows, in the sources as they are now, that hold the text."""
    from training.ledger import source_files
    from training.rows import normalise, row_key

    files = {file for folder in _recorded(project) for file in source_files(folder).values()}
    found: set[bytes] = set()
    for path, column in sorted(file for file in files if Path(file[0]).is_file()):
        for texts in _all_texts(Path(path), column):
            if wanted in normalise("\n".join(texts)):
                found.add(row_key(texts))
    return found


def _all_texts(path: Path, column: str) -> Iterable[list[str]]:
    from training.recipe import Source
    from training.rows import find_shape, read_rows, row_fault, texts_of

    rows = read_rows(Source(name=path.stem, data=path.name, share=1.0, column=column), path.parent)
    shape = find_shape(rows.records, column, where=str(path))
    for record in rows.records:
        if not row_fault(record, shape, answers=False):
            yield texts_of(record, shape)


def _key_of(path: Path, number: int, column: str) -> bytes:
    from training.recipe import Source
    from training.rows import find_shape, read_rows, row_fault, row_key, texts_of

    rows = read_rows(Source(name=path.stem, data=path.name, share=1.0, column=column), path.parent)
    places = {int(row): place for place, row in enumerate(rows.numbers)}
    if number not in places:
        raise ConfigError(f"--row {path}:{number}: no such row; the file has {len(places):,} that can be read")
    record = rows.records[places[number]]
    shape = find_shape(rows.records, column, where=str(path))
    if fault := row_fault(record, shape, answers=False):
        raise ConfigError(f"--row {path}:{number}: {fault}")
    return row_key(texts_of(record, shape))


class _Texts:
    """What the rows of a run's sources say now; a file is read once."""

    def __init__(self, folder: Path) -> None:
        from training.ledger import source_files

        self._files = source_files(folder)
        self._known: dict[str, dict[bytes, str]] = {}

    def find(self, seen: "SeenRow") -> str | None:
        """The row's beginning, if its file still holds what was seen."""
        if seen.source not in self._known:
            self._known[seen.source] = self._read(*self._files.get(seen.source, ("", "")))
        return self._known[seen.source].get(seen.key)

    def _read(self, path: str, column: str) -> dict[bytes, str]:
        from training.rows import row_key

        if not Path(path).is_file():
            return {}
        try:
            return {
                row_key(texts): " ".join(" | ".join(texts).split())[:EXCERPT]
                for texts in _all_texts(Path(path), column)
            }
        except ConfigError:
            return {}  # the file is no longer what it was
