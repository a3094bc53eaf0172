"""Where the rows of a task come from: the data folder, the package or a hub. Knows no prompt and no metric."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from workbench.errors import TaskError

Row = dict[str, Any]

PACKAGE = Path(__file__).parent


def find_file(name: str, data: Path | None) -> Path | None:
    """Return the file of a manifest entry: `samples/...` lies in the package, all else in the data folder."""
    root = PACKAGE if name.startswith("samples/") else data
    return root / name if root is not None and (root / name).is_file() else None


def read_jsonl(path: Path) -> list[Row]:
    """Read a JSON Lines file; raises TaskError with file and line."""
    stat = path.stat()
    return [dict(row) for row in _read_jsonl(path, stat.st_mtime_ns, stat.st_size)]


@functools.lru_cache(maxsize=32)
def _read_jsonl(path: Path, _mtime: int, _size: int) -> tuple[Row, ...]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise TaskError(f"{path}:{number}: not JSON ({error.msg}); one JSON object a line is needed") from None
            if not isinstance(row, dict):
                raise TaskError(f"{path}:{number}: a JSON object is needed, got {type(row).__name__}")
            rows.append(row)
    return tuple(rows)


def read_hub(path: str, name: str | None, split: str) -> list[Row]:
    """Load a split from the Hugging Face hub; raises TaskError when it cannot be reached."""
    import datasets

    try:
        return [dict(row) for row in datasets.load_dataset(path, name, split=split)]
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TaskError(f"hub dataset {path} ({split}): {reason}") from error


def content_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 of a row's content, independent of the order of its columns."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def question_hash(row: Mapping[str, Any]) -> str:
    """Hash what a row asks: its content without the id."""
    return content_hash({key: value for key, value in row.items() if key != "id"})


def shuffled(rows: Iterable[Row]) -> list[Row]:
    """Order rows by content hash: the first n are a fixed random sample, and a larger n contains a smaller one.

    Rows that differ in nothing but their id are one question: the first is kept.
    """
    unique = {question_hash(row): row for row in reversed(list(rows))}
    return [unique[digest] for digest in sorted(unique)]


def carve(rows: list[Row], count: int, cluster: str | None) -> tuple[list[Row], list[Row]]:
    """Split off `count` rows for few-shot prompts: (shots, rest). Rows of a shot's cluster leave the rest too."""
    if count >= len(rows):
        raise TaskError(f"{len(rows)} rows are too few to keep {count} apart for few-shot prompts; lower --num-fewshot")
    shots, seen = [], set()
    for row in rows:
        group = row.get(cluster) if cluster else len(shots)
        if len(shots) < count and group not in seen:
            seen.add(group)
            shots.append(row)
    taken = {question_hash(row) for row in shots}
    rest = [row for row in rows if question_hash(row) not in taken and (not cluster or row.get(cluster) not in seen)]
    return shots, rest
