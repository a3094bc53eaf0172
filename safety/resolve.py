"""From policy files to one resolved policy: pinned parents, monotone merging, floors, waivers, the hash.

The root comes first, then each file that extends it. A file may tighten anything. It may loosen a category only where
the parent says `relax`, and with a waiver that is still valid; a floor cannot be loosened at any depth. What a file may
not do is a fault of the file; what a condition could loosen at run time is refused by `safety.resolved.follow`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from safety.layer import Layer
from safety.merge_categories import merge_categories
from safety.merge_settings import merge_settings
from safety.policy_hash import with_hash
from safety.resolved import ResolvedPolicy
from safety.schema import PINNED, PolicyFile
from workbench.config import read_document, validate
from workbench.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent / "policies"
MAX_DEPTH = 16
KEPT = 20_000
"""Resolved policies that a library keeps in memory, parents always: about 25 KiB each."""


def shipped_policies() -> dict[str, Path]:
    """Id -> file of the policies that come with the workbench."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def load_policy(
    reference: str | Path, *, folders: Iterable[str | Path] = (), today: date | None = None
) -> ResolvedPolicy:
    """A policy by path, or by the id of one in `folders` or shipped.

    Args:
        folders: where policies and their parents are looked for, besides the file's own folder and the shipped ones.
        today: waivers that ended before it are void (default: the day in UTC).

    Raises:
        ConfigError: one line per fault, each with its file, and its line where it has one.
    """
    return PolicyLibrary(folders, today=today).load(reference)


class PolicyLibrary:
    """Policies by path or id; parents are read and resolved once, so many communities of one platform are cheap."""

    def __init__(self, folders: Iterable[str | Path] = (), *, today: date | None = None, keep: int = KEPT) -> None:
        self.folders = [Path(folder) for folder in folders]
        self.keep = keep
        self.today = today or datetime.now(UTC).date()
        self._resolved: dict[Path, ResolvedPolicy] = {}
        self._parents: set[Path] = set()

    def load(self, reference: str | Path) -> ResolvedPolicy:
        """See `load_policy`."""
        return self._resolve(self.find(reference), ())

    def known(self) -> dict[str, Path]:
        """Id -> file of all policies that can be loaded by name."""
        found = shipped_policies()
        for folder in reversed(self.folders):
            found |= {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        return found

    def find(self, reference: str | Path) -> Path:
        """The file of a policy. Raises ConfigError: there is none."""
        text = str(reference)
        if isinstance(reference, Path) or "/" in text or text.endswith((".yaml", ".yml")):
            return Path(reference)
        known = self.known()
        if text not in known:
            raise ConfigError(f"policy {text!r}: no such policy or file; {did_you_mean(text, known)}")
        return known[text]

    def _resolve(self, path: Path, below: tuple[Path, ...]) -> ResolvedPolicy:
        key = path.resolve()
        if key in below:
            names = " -> ".join(p.name for p in (*below[below.index(key) :], key))
            raise ConfigError(f"{path}: extends itself: {names}; take one of these away")
        if len(below) >= MAX_DEPTH:
            raise ConfigError(f"{path}: more than {MAX_DEPTH} files extend one another")
        if key not in self._resolved:
            file, lines = read_policy_file(path)
            parent = self._parent(path, file, lines, (*below, key))
            found = extend(parent, file, path=path, lines=lines, today=self.today)
            if len(self._resolved) >= self.keep:  # the oldest that is no parent of anything read since
                self._resolved.pop(next((old for old in self._resolved if old not in self._parents), key), None)
            self._resolved[key] = found
        if below:
            self._parents.add(key)
        return self._resolved[key]

    def _parent(
        self, path: Path, file: PolicyFile, lines: Mapping[Any, int], below: tuple[Path, ...]
    ) -> ResolvedPolicy | None:
        pinned = PINNED.match(file.extends or "")
        if pinned is None:
            return None
        where = f"{path}:{lines.get(('extends',), 1)}: extends"
        name, version = pinned[1], int(pinned[2])
        folders = [path.parent, *self.folders, FOLDER]
        files = [folder / f"{name}{end}.yaml" for folder in folders for end in (f"@{version}", "")]
        others: list[str] = []
        for candidate in files:
            if not candidate.is_file():
                continue
            found = self._resolve(candidate, below)
            if (found.id, found.version) == (name, version):
                return found
            others.append(f"{candidate} is {found.name}")
        if others:
            step = f"pin that after reading `workbench policy diff`, or keep {name}@{version}.yaml beside it"
            raise ConfigError(f"{where}: {file.extends}: not found; {'; '.join(others)}: {step}")
        raise ConfigError(f"{where}: {file.extends}: no such policy; {did_you_mean(name, self.known())}")


def read_policy_file(path: Path) -> tuple[PolicyFile, Mapping[Any, int]]:
    """One file and the line of each of its keys. Raises ConfigError with a line for each fault."""
    document = read_document(path)
    return validate(document.data, PolicyFile, where=str(path)), document.lines


def extend(
    parent: ResolvedPolicy | None, file: PolicyFile, *, path: Path, lines: Mapping[Any, int], today: date
) -> ResolvedPolicy:
    """A parent with one more file on top of it; pure but for the files that this file names.

    Raises:
        ConfigError: what the file may not do, a line each.
    """
    layer = Layer(file=file, path=path, lines=lines, parent=parent, today=today)
    settings = merge_settings(layer)
    categories = merge_categories(layer, settings)
    layer.raise_faults()
    return with_hash(replace(settings, categories=categories, notes=tuple(layer.notes)))
