"""Which weights may be let go, by policy, and letting them go. Knows folders of the project and the record.

Kept is what the gate ever passed, what something was made from, what the project names as its baseline, the last of
each run, and everything of a run that is not over. Only weights go, never a row: lineage, reports and decisions stay
and say that the weights are gone.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.records import Checkpoint
from workbench.store.let_go import record_let_go

if TYPE_CHECKING:
    from workbench.store import Project

Reason = Literal["passed", "has children", "baseline", "last of its run", "run is not over", "not of a run", "too old"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighed:
    """A checkpoint whose weights are here, and what becomes of it."""

    checkpoint: Checkpoint
    bytes: int
    kept: bool
    reason: Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What was looked at, and whether anything was done."""

    weighed: tuple[Weighed, ...]
    applied: bool

    @property
    def freed(self) -> int:
        """Bytes that are freed, or would be."""
        return sum(one.bytes for one in self.weighed if not one.kept)


def weigh(project: "Project", *, keep_last: int = 1) -> Collected:
    """Say of each checkpoint below the project's folder whether it is kept, and why. Changes nothing."""
    here = [one for one in _once(project.store.checkpoints()) if _is_here(project.root, one)]
    passed, bases = _decided(project)
    children = {one.parent for one in project.store.checkpoints() if one.parent}
    children |= {run.start for run in project.store.runs() if run.start}
    bases |= _named(project)
    folders = {run.id: Path(run.folder) for run in project.store.runs()}
    own = [one for one in here if one.run is not None and Path(one.source).parent == folders.get(one.run)]
    open_runs, last = _runs(project, own, keep_last)
    made = {one.source for one in own}
    weighed = []
    for one in here:
        reason = _reason(one, passed=passed, children=children, bases=bases, open_runs=open_runs, last=last, made=made)
        weighed.append(Weighed(checkpoint=one, bytes=_size(Path(one.source)), kept=reason != "too old", reason=reason))
    return Collected(weighed=tuple(weighed), applied=False)


def collect(project: "Project", *, keep_last: int = 1, actor: str) -> Collected:
    """Let go of what `weigh` would. Written down first: killed in between, the same command goes on."""
    from workbench.store.anchors import FILE_NAME, Anchors

    found = weigh(project, keep_last=keep_last)
    going = [one.checkpoint for one in found.weighed if not one.kept]
    head = record_let_go(project.store.database, going, actor=actor, why=f"gc, the last {keep_last} of a run are kept")
    if head is not None:
        Anchors(project.root / FILE_NAME).add(head)
    for checkpoint in going:
        folder = Path(checkpoint.source)
        (folder / "mixer.json").unlink(missing_ok=True)  # first: half a folder must not count as a checkpoint
        shutil.rmtree(folder)
    return Collected(weighed=found.weighed, applied=True)


def _reason(
    one: Checkpoint,
    *,
    passed: set[str],
    children: set[str],
    bases: set[str],
    open_runs: set[str],
    last: set[str],
    made: set[str],
) -> Reason:
    if one.fingerprint in passed:
        return "passed"
    if one.fingerprint in children:
        return "has children"
    if one.fingerprint in bases:
        return "baseline"
    if one.source not in made:
        return "not of a run"  # a model that somebody put here, or an average
    if one.run in open_runs:
        return "run is not over"
    return "last of its run" if one.source in last else "too old"


def _once(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The newest record of each place."""
    found: dict[str, Checkpoint] = {}
    for one in checkpoints:
        found.setdefault(one.source, one)
    return list(found.values())


def _is_here(root: Path, one: Checkpoint) -> bool:
    path = Path(one.source)
    inside = one.kind == "folder" and path.is_absolute() and path.is_relative_to(root.resolve()) and path != root
    # a link is somebody else's folder
    return inside and path.is_dir() and path.resolve() == path


def _decided(project: "Project") -> tuple[set[str], set[str]]:
    """Fingerprints that a gate passed, and those that such a decision compared with."""
    passed: set[str] = set()
    bases: set[str] = set()
    for decision in project.store.decisions():
        if decision.label == "pass":
            passed.add((decision.document.get("checkpoint") or {}).get("fingerprint", ""))
            bases.add((decision.document.get("baseline") or {}).get("fingerprint", ""))
    return passed, bases


def _named(project: "Project") -> set[str]:
    """What `workbench.yaml` calls its baseline, by name, place or fingerprint."""
    named = project.config.baseline
    if named is None:
        return set()
    place = str((project.root / named).resolve())
    folded = named.lower()
    return {
        one.fingerprint
        for one in project.store.checkpoints()
        if named == one.name or place == one.source or (len(folded) >= 4 and one.fingerprint.startswith(folded))
    }


def _runs(project: "Project", here: list[Checkpoint], keep_last: int) -> tuple[set[str], set[str]]:
    """Ids of runs that are not over, and the places of the last checkpoints of each run."""
    open_runs = {run.id for run in project.store.runs() if run.status == "running"}
    by_run: dict[str, list[Checkpoint]] = {}
    for one in here:
        if one.run is not None:
            by_run.setdefault(one.run, []).append(one)
    last: set[str] = set()
    for own in by_run.values():
        own.sort(key=lambda one: _step(one.source))
        last |= {one.source for one in own[-keep_last:]} if keep_last else set()
    return open_runs, last


def _step(source: str) -> int:
    digits = Path(source).name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def _size(folder: Path) -> int:
    """Bytes that go with it: what is linked from elsewhere (a backup) stays."""
    stats = [file.lstat() for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)
