"""What every importer gives, and the small readers that they share. Knows JSON; knows no tool's format."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.catalog import TaskCard, is_shipped, shipped_card
from workbench.errors import LogError
from workbench.records import ItemScore, TaskResult


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedModel:
    """What a log says of the model behind it."""

    label: str
    """As the log calls it."""
    path: str | None
    """Folder, file or hub id of its weights where the log names one; they need not be there (any more)."""
    revision: str | None = None
    altered: str | None = None
    """Argument that changes the weights on loading (an adapter, a quantisation): the files alone are not the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedRun:
    """One run of another tool: what a Report is made of, but for the checkpoint."""

    source: str
    """The file that it was read from."""
    importer: str
    """Tool and version, e.g. `lm-eval 0.4.13`."""
    model: ImportedModel
    digest: str
    """SHA-256 over all that was read; stands for the weights where these cannot be found."""
    results: tuple[TaskResult, ...]
    items: tuple[ItemScore, ...]
    settings: Mapping[str, Any]
    started_at: float
    """Seconds since 1970."""
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def created_at(self) -> str:
        """When the run began; UTC, ISO 8601."""
        return datetime.fromtimestamp(self.started_at, tz=UTC).isoformat(timespec="seconds")


def read_json(path: Path) -> Any:
    """The JSON in a file; raises LogError where it is damaged or cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise LogError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        where = (
            f"line {error.lineno}: {error.msg}" if isinstance(error, json.JSONDecodeError) else "it is no UTF-8 text"
        )
        raise LogError(f"{path}: damaged, {where}; copy the log again, or run the evaluation again") from None


def digest_of(parts: Iterable[bytes]) -> str:
    """SHA-256 over several blocks, each with its length, so that no two lists of blocks give the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}\0".encode())
        digest.update(part)
    return digest.hexdigest()


def as_seconds(value: Any) -> float | None:
    """A number that may be written as text; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def known_card(name: str, card: TaskCard) -> TaskCard:
    """The card with the role, margin and requirement of the shipped task of that name, if there is one.

    A log's task of the name of a shipped one asks the same questions, perhaps in other words: what a loss of it means
    is the same, but its metric and its chance level are the log's own.
    """
    bare = re.split(r"[/:]", name)[-1]
    if not is_shipped(bare):
        return card
    known = shipped_card(bare)
    return replace(card, role=known.role, margin=known.margin, required=known.required)
