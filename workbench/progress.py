"""How far runs came, and how they went: their records, the lines in their folders. Knows the store; trains none."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import StoreError, did_you_mean

if TYPE_CHECKING:
    from workbench.store import Project
    from workbench.store.runs import RunEntry

State = Literal["running", "done", "stopped", "failed", "silent"]
"""As the store has it; `silent`: called running, and nothing was written for so long that its process must be gone."""
_SILENT_S, _SILENT_STEPS = 120.0, 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProgress:
    """One run as it stands."""

    name: str
    id: str
    state: State
    folder: Path
    start: str
    """Name of the checkpoint that it began from, or the beginning of its fingerprint."""
    step: int
    steps: int | None
    """None before the first logged step."""
    loss: float | None
    tokens: int
    tokens_per_second: float | None
    seconds_left: float | None
    """By the rate of the last logged steps; None where the run is not on."""
    watched: str
    """What the sentinel said last; empty where nothing is watched."""
    outcome: str
    """Of the last decision about one of its checkpoints; empty before."""
    created_at: str
    changed_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCurves:
    """What a run wrote while it went on, for charts; every line as it was written."""

    log: tuple[Mapping[str, Any], ...]
    """step, loss, learning_rate, tokens, tokens_per_second."""
    events: tuple[Mapping[str, Any], ...]
    """What the sentinel measured and did, with `step` and `event`."""
    checkpoints: tuple[str, ...]
    """Folders of the complete ones, by step."""

    def watched(self) -> dict[str, list[tuple[int, float, float | None, float | None]]]:
        """Task -> (step, change, low, high) at each evaluation; losses are negative."""
        found: dict[str, list[tuple[int, float, float | None, float | None]]] = {}
        for event in self.events:
            for task in event.get("tasks", ()):
                point = (int(event["step"]), task["change"], task["low"], task["high"])
                found.setdefault(task["task"], []).append(point)
        return found


def list_runs(project: "Project") -> list[RunProgress]:
    """All runs of a project, the newest first."""
    names = {one.fingerprint: one.name for one in reversed(project.store.checkpoints())}
    outcomes = _outcomes(project)
    return [_progress(entry, names, outcomes) for entry in project.store.runs()]


def browse_runs(
    project: "Project", *, search: str = "", limit: int = 50, offset: int = 0
) -> "tuple[list[RunProgress], int]":
    """A page of runs, the newest first, and how many there are; `search`: part of the name, or beginning of the id."""
    from workbench.store.browse import browse_run_entries, names_of

    database = project.store.database
    found = browse_run_entries(database, search=search, limit=limit, offset=offset)
    names = names_of(database, [entry.start for entry, _ in found.rows if entry.start])
    outcomes = {entry.id: outcome for entry, outcome in found.rows}
    return [_progress(entry, names, outcomes) for entry, _ in found.rows], found.total


def find_run(project: "Project", reference: str) -> RunProgress:
    """By the recipe's name (the newest of that name) or the beginning of an id. Raises StoreError: there is none."""
    runs = list_runs(project)
    for run in runs:
        if reference.removeprefix("run/") == run.name or (len(reference) >= 4 and run.id.startswith(reference.lower())):
            return run
    known = [name for run in runs for name in (run.name, run.id[:12])]
    raise StoreError(f"run {reference!r}: not in this project; {did_you_mean(reference, known)}")


def read_curves(folder: Path) -> RunCurves:
    """The lines of a run's folder; one that a killed process did not finish is left out."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "mixer.json").is_file()]
    return RunCurves(
        log=tuple(read_lines(folder / "log.jsonl")),
        events=tuple(read_lines(folder / "events.jsonl")),
        checkpoints=tuple(str(path) for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))),
    )


def read_lines(file: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; none where there is no file."""
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").split("\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # what a killed process left
    return found


def _progress(entry: "RunEntry", names: Mapping[str, str], outcomes: Mapping[str, str]) -> RunProgress:
    folder = Path(entry.folder)
    log = read_lines(folder / "log.jsonl")
    last = log[-1] if log else {}
    recipe = entry.document.get("recipe", {})
    rate = last.get("tokens_per_second") or None
    step_s = recipe.get("batch_tokens", 0) / rate if rate else None
    state: State = entry.status
    if state == "running" and _is_silent(folder, step_s):
        state = "silent"
    left = (last["steps"] - last["step"]) * step_s if last and step_s and state == "running" else None
    return RunProgress(
        name=str(recipe.get("recipe", folder.name)),
        id=entry.id,
        state=state,
        folder=folder,
        start=names.get(entry.start or "", (entry.start or "")[:12]),
        step=int(last.get("step", 0)),
        steps=last.get("steps"),
        loss=last.get("loss"),
        tokens=int(last.get("tokens", 0)),
        tokens_per_second=rate,
        seconds_left=left,
        watched=_last_verdict(read_lines(folder / "events.jsonl")),
        outcome=outcomes.get(entry.id, ""),
        created_at=entry.created_at,
        changed_at=entry.changed_at,
    )


def _is_silent(folder: Path, step_s: float | None) -> bool:
    """Whether nothing was written for as long as many steps take."""
    times = [path.stat().st_mtime for path in (*folder.glob("*.jsonl"), *folder.glob("*.json"))]
    quiet = time.time() - max(times) if times else float("inf")
    return quiet > max(_SILENT_S, _SILENT_STEPS * (step_s or 0.0))


def _last_verdict(events: Sequence[Mapping[str, Any]]) -> str:
    judged = [event["verdict"] for event in events if "verdict" in event]
    return str(judged[-1]) if judged else ""


def _outcomes(project: "Project") -> dict[str, str]:
    """Run id -> outcome of the newest decision about one of its checkpoints."""
    found: dict[str, str] = {}
    for decision in project.store.decisions():
        run = (decision.document.get("checkpoint") or {}).get("run")
        if run:
            found.setdefault(run, decision.label)
    return found
