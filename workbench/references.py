"""What a user names -> what it is: a project, a checkpoint, the reports to compare. Knows names and the store."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import CheckpointError, StoreError
from workbench.records import Checkpoint, Report

if TYPE_CHECKING:
    from workbench.store import Project, Store


def open_project(project: "Project | str | Path") -> "Project":
    """The project itself, or the one in (or above) a folder; a new one is made where there is none."""
    from workbench.store import Project

    return project if isinstance(project, Project) else Project.open_or_init(project)


def include_folders(project: "Project", more: Iterable[str | Path] = ()) -> list[Path]:
    """Where a project's own tasks and suites lie: its folders, those it is configured with, and `more`.

    Each folder once: lm-eval would take a task met twice for two of the same name.
    """
    own = [folder for folder in (project.root / "tasks", project.root / "suites") if folder.is_dir()]
    configured = [project.root / path for path in project.config.include_path]
    return list(dict.fromkeys(Path(path).expanduser().resolve() for path in [*own, *configured, *more]))


def resolve_checkpoint(reference: str | Path | Checkpoint, project: "Project | None" = None) -> Checkpoint:
    """A checkpoint by path, alias of an embedded model, name or fingerprint known to the project, hub id or URL.

    Raises CheckpointError: nothing of that name, or no model.
    """
    from workbench.engines.embedded import EMBEDDED, find_embedded
    from workbench.store import checkpoints

    if isinstance(reference, Checkpoint):
        return reference
    text = str(reference)
    if not Path(text).expanduser().exists():
        if text in EMBEDDED:
            fetched = find_embedded(text)
            if fetched is None:
                raise CheckpointError(f"{text}: not on this machine yet; run workbench fetch {text}")
            return checkpoints.resolve(fetched.folder, name=text)
        known = _known_checkpoint(text, project)
        if known is not None:
            source = _where_it_lies(known, project)
            if source == known.source:
                _refuse_let_go(known, project)
            return replace(checkpoints.resolve(source, name=known.name), stage=known.stage, parent=known.parent)
    return checkpoints.resolve(text)


def _where_it_lies(known: Checkpoint, project: "Project | None") -> str:
    """A checkpoint's source; where another machine made it, its copy in the project's storage."""
    from workbench.store.checkpoints import storage_name
    from workbench.store.storage import CHECKPOINTS

    if known.kind != "folder" or project is None or project.storage is None or Path(known.source).exists():
        return known.source
    copy = project.storage.at(f"{CHECKPOINTS}/{storage_name(known)}")
    return copy.url if copy.url == known.source or "config.json" in copy.files() else known.source


def _known_checkpoint(reference: str, project: "Project | None") -> Checkpoint | None:
    if project is None:
        return None
    try:
        return project.store.checkpoint(reference)
    except StoreError:
        return None


def _refuse_let_go(known: Checkpoint, project: "Project | None") -> None:
    """Raises CheckpointError: its weights were let go, and it is known when and why."""
    from workbench.store.let_go import let_go

    if project is None or known.kind not in ("folder", "gguf") or Path(known.source).exists():
        return
    gone = let_go(project.store.database).get((known.fingerprint, known.source))
    if gone is not None:
        raise CheckpointError(
            f"{known.name}: its weights were let go on {gone.at[:10]} ({gone.why}); its reports stay: workbench show "
            f"{known.fingerprint[:12]}; train it again for the weights"
        )


def find_report_like(store: "Store", reference: str, other: Report) -> Report:
    """The report of this id, or of this checkpoint's the one most like another: most tasks asked in the same way.

    Raises StoreError: no such report.
    """
    found = store.report(reference)
    if reference == "latest" or (len(reference) >= 4 and found.id.startswith(reference.lower())):
        return found
    own = [report for report in store.reports(checkpoint=found.checkpoint.fingerprint) if report.id != other.id]
    # the newest of the best: `max` takes the first, and reports come newest first
    return max(own, key=lambda report: _likeness(report, other)) if own else found


def find_noise_report(store: "Store", baseline: Report) -> Report | None:
    """The newest other report of the same weights and tasks that was computed with other tiling or arithmetic."""
    names = {result.task for result in baseline.results}
    for report in store.reports(checkpoint=baseline.checkpoint.fingerprint):
        same = report.checkpoint.tokenizer == baseline.checkpoint.tokenizer
        other_means = report.settings.get("scorer") != baseline.settings.get("scorer")
        if same and other_means and names <= {result.task for result in report.results}:
            return report
    return None


def _likeness(report: Report, other: Report) -> tuple[int, int, int]:
    ways = {(r.task, r.num_fewshot, r.n) for r in report.results} & {
        (r.task, r.num_fewshot, r.n) for r in other.results
    }
    tasks = {r.task for r in report.results} & {r.task for r in other.results}
    return len(ways), len(tasks), int(report.settings.get("scorer") == other.settings.get("scorer"))
