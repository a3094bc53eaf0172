"""Files of people's labels, for training and auditing judges. Knows JSONL; knows no model.

A row is {text, labels: {category: 1 | 0 | null}} or {text, label: 0 | 1} or, of refusals, {prompt, completion, label:
full_refusal | partial_refusal | compliance}. `group` keeps rows of one thread or template on one side of a split.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safety.judges.classifier import Labelled
from safety.judges.refusal import RefusalKind, read_kind
from workbench.errors import ConfigError, WorkbenchError

SINGLE = "label"
"""Name of the category of rows that have one label only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusalRows:
    """Answers with what people say of them."""

    answers: tuple[tuple[str, str], ...]
    kinds: tuple[RefusalKind, ...]


def read_labels(path: Path, *, name: str = SINGLE) -> Labelled:
    """Labelled texts; all faults at once. `name`: the category of rows with a single `label`."""
    texts: list[str] = []
    groups: list[str] = []
    found: list[dict[str, float]] = []
    faults: list[str] = []
    for where, row in _rows(path, faults):
        text = row.get("text")
        given = row.get("labels", {name: row["label"]} if "label" in row else None)
        if not isinstance(text, str) or not text.strip():
            faults.append(f"{where}: text: expected a text")
        elif not isinstance(given, dict):
            faults.append(f"{where}: labels: expected {{category: 1, 0 or null}}, or a single label")
        elif bad := [key for key, value in given.items() if value not in (0, 1, None)]:
            faults.append(f"{where}: labels.{bad[0]}: {given[bad[0]]!r}; 1, 0 or null")
        else:
            texts.append(text)
            groups.append(str(row.get("group", " ".join(text.lower().split()))))
            found.append({key: float(value) for key, value in given.items() if value is not None})
    _raise(path, faults, texts)
    labels = tuple(dict.fromkeys(key for row in found for key in row))
    targets = np.array([[row.get(label, np.nan) for label in labels] for row in found])
    return Labelled(texts=tuple(texts), labels=labels, targets=targets, groups=tuple(groups))


def read_refusals(path: Path) -> RefusalRows:
    """Answers labelled by kind of refusal; all faults at once."""
    answers: list[tuple[str, str]] = []
    kinds: list[RefusalKind] = []
    faults: list[str] = []
    for where, row in _rows(path, faults):
        completion, label = row.get("completion"), row.get("label", row.get("final_label"))
        if not isinstance(completion, str):
            faults.append(f"{where}: completion: expected a text")
            continue
        try:
            kinds.append(read_kind(str(label)))
        except WorkbenchError as error:
            faults.append(f"{where}: {error}")
            continue
        answers.append((str(row.get("prompt", "")), completion))
    _raise(path, faults, answers)
    return RefusalRows(answers=tuple(answers), kinds=tuple(kinds))


def _rows(path: Path, faults: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give JSONL of labelled rows")
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            faults.append(f"{path}:{number}: no JSON: {error}")
            continue
        if isinstance(row, dict):
            yield f"{path}:{number}", row
        else:
            faults.append(f"{path}:{number}: expected an object")


def _raise(path: Path, faults: Sequence[str], rows: Sequence[Any]) -> None:
    if faults:
        more = [f"... and {len(faults) - 20:,} more"] if len(faults) > 20 else []
        raise ConfigError("\n".join([*faults[:20], *more]))
    if not rows:
        raise ConfigError(f"{path}: no rows")
