"""One policy file on top of its parent while it is merged: places, faults, notes. Knows no rule of merging."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from safety.resolved import ResolvedPolicy
from safety.schema import PolicyFile, Waiver
from workbench.config_faults import show_path
from workbench.errors import ConfigError

KeyPath = tuple[str | int, ...]


@dataclass
class Layer:
    """The state of merging one file; faults are collected so that all are told at once."""

    file: PolicyFile
    path: Path
    lines: Mapping[KeyPath, int]
    parent: ResolvedPolicy | None
    today: date
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`id@version` of this file."""
        return f"{self.file.id}@{self.file.version}"

    def where(self, *key: str | int) -> str:
        """`file:line` of the nearest key above that stands in the file."""
        path = key
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.path.name}:{self.lines.get(path, 1)}"

    def fault(self, key: KeyPath, text: str) -> None:
        """File one fault at a key."""
        line = self.where(*key).rsplit(":", 1)[1]
        self.faults.append(f"{self.path}:{line}: {show_path(key)}: {text}")

    def note(self, key: KeyPath, text: str) -> None:
        """Something that a reader of the resolved policy must know."""
        self.notes.append(f"{self.where(*key)}: {show_path(key)}: {text}")

    def is_live(self, waiver: Waiver) -> bool:
        """Whether a waiver still holds today; its last day counts."""
        return self.today <= date.fromisoformat(waiver.expires)

    def raise_faults(self) -> None:
        """Raise ConfigError if there are any."""
        if self.faults:
            raise ConfigError("\n".join(self.faults))

    def plain(self, model: Any) -> dict[str, Any]:
        """What a part of the file says, without what it is silent about."""
        return {} if model is None else model.model_dump(mode="json", exclude_none=True, by_alias=True)

    def lines_below(self, key: KeyPath) -> list[KeyPath]:
        """The paths of all keys below one, at most three deep."""
        depth = len(key)
        return [path for path in self.lines if depth < len(path) <= depth + 3 and path[:depth] == key]
