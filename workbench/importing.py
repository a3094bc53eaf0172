"""Record the runs that other tools made, as reports beside our own. Knows logs and the store by their front doors only.

A log names its model; where the weights lie on this machine (a folder, a hub model in the cache) and are not newer
than the run, the report bears their own fingerprint, and pairs with our reports of the same checkpoint. Otherwise a
digest of the log stands for them, and the checkpoint's source begins with `imported:`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import CheckpointError
from workbench.records import Checkpoint, ItemScore, Report

if TYPE_CHECKING:
    from benchmarks.importing.run import ImportedModel, ImportedRun
    from workbench.store import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """One run of another tool, recorded."""

    report: Report
    items: tuple[ItemScore, ...]
    source: str
    """The log's file."""
    importer: str
    """Tool and version."""
    note: str | None = None
    """Why a digest of the log stands for the weights; None where they were found."""


def import_reports(
    paths: Sequence[str | Path], *, project: "Project", name: str | None = None, cluster: str | None = None
) -> list[Imported]:
    """Read lm-eval output folders and Inspect logs, and record a report of each run in them.

    `name` is what the checkpoint shall be called; `cluster` names the column of documents (or the metadata of samples)
    whose equal values make items dependent. The same log again is the same report.

    Raises LogError: anything wrong with any of the files; nothing is then recorded.
    """
    from benchmarks.importing.reading import read_runs

    found = [_build(run, name) for run in read_runs(paths, cluster=cluster)]
    for one in found:
        project.store.add_report(one.report, one.items)
    return found


def _build(run: "ImportedRun", name: str | None) -> Imported:
    from workbench.store import report_id

    checkpoint, note = _find_checkpoint(run, name)
    report = Report(
        id="",
        checkpoint=checkpoint,
        suites=(),
        results=run.results,
        settings=run.settings,
        created_at=run.created_at,
        environment=run.environment,
        timing={} if run.seconds is None else {"seconds": run.seconds},
    )
    report = replace(report, id=report_id(report, run.items))
    return Imported(report=report, items=run.items, source=run.source, importer=run.importer, note=note)


def _find_checkpoint(run: "ImportedRun", name: str | None) -> tuple[Checkpoint, str | None]:
    """The checkpoint behind a run, and why it is a stand-in where it is one."""
    found = _weights(run.model, run.started_at, name)
    if isinstance(found, Checkpoint):
        return found, None
    from workbench.store.checkpoints import IMPORTED

    digest = hashlib.sha256(f"imported\n{run.digest}".encode()).hexdigest()
    label = Path(run.model.path).name if run.model.path else run.model.label
    stand_in = Checkpoint(
        name=name or f"imported/{label}",
        source=f"{IMPORTED}{run.model.label}",
        kind="endpoint",  # like an endpoint's, its weights cannot be seen
        fingerprint=digest,
        tokenizer="",
    )
    return stand_in, f"{found}; a digest of the log stands for the weights"


def _weights(model: "ImportedModel", started_at: float, name: str | None) -> Checkpoint | str:
    """The model's own checkpoint if it is on this machine and can be what ran, else why not."""
    from workbench.store import checkpoints

    if model.altered is not None:
        return f"{model.label} was loaded with {model.altered}, which changes the weights"
    if model.path is None:
        return f"{model.label} names no weights"
    path = Path(model.path).expanduser()
    try:
        if path.exists():
            newest = max((file.stat().st_mtime for file in _weight_files(path)), default=0.0)
            if newest > started_at:
                return f"the weights in {path} are newer than the run"
            return checkpoints.resolve(path, name=name)
        folder = _cached(model)
        if folder is None:
            return f"{model.path} is not on this machine"
        found = checkpoints.resolve(folder, name=name or model.path)
        return replace(found, kind="hub", source=f"{model.path}@{model.revision}" if model.revision else model.path)
    except CheckpointError as error:
        return str(error)


def _weight_files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [*path.glob("*.safetensors")]


def _cached(model: "ImportedModel") -> Path | None:
    """The snapshot of a hub model in the cache; nothing is fetched for an import."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(str(model.path), revision=model.revision, local_files_only=True))
    except (errors.LocalEntryNotFoundError, errors.HFValidationError, OSError):
        return None
