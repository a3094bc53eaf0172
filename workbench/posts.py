"""Posts from JSONL, CSV, TSV, Parquet or standard input, one at a time. Knows files and column names; judges nothing.

Columns go by the names under which exports have them: `text`, `body` or `content` is the text, `subreddit` a community.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from workbench.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from safety.moderation import Post

STDIN = "-"
KINDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "text": ("text", "body", "content", "selftext", "comment", "message", "tweet"),
    "id": ("id", "post_id", "comment_id", "item_id"),
    "title": ("title", "subject"),
    "parent": ("parent", "parent_text", "parent_comment"),
    "community": ("community", "subreddit", "forum"),
    "views": ("views", "predicted_views"),
}
"""What a post has -> columns it may stand in, the first that is there counts."""
AUTHOR = ("author", "author_signals")
_PLAIN = (str, int, float, bool)


def read_posts(source: str | Path, *, text_column: str | None = None, stdin: IO[str] | None = None) -> "Iterator[Post]":
    """The posts of a file, or of standard input (`-`, JSONL), as they come; nothing is held in memory.

    Args:
        text_column: the column of the text, where it has another name.

    Raises:
        ConfigError: no such file or kind of file, a row that is none, or one without a text, with its line.
    """
    for where, row in _rows(source, stdin or sys.stdin):
        yield _post(row, where, text_column)


def _rows(source: str | Path, stdin: IO[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if str(source) == STDIN:
        yield from _json_lines(stdin, "standard input")
        return
    path = Path(source)
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise ConfigError(f"{path}: {kind or 'no ending'}: JSONL, CSV, TSV or Parquet is read; {', '.join(KINDS)}")
    if not path.is_file():
        near = [other.name for other in path.parent.glob(f"*{kind}")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file; {did_you_mean(path.name, near)}")
    if kind == ".parquet":
        yield from _parquet(path)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if kind in (".csv", ".tsv"):
                yield from _table(file, str(path), "\t" if kind == ".tsv" else ",")
            else:
                yield from _json_lines(file, str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: no UTF-8 at byte {error.start:,}; convert it, e.g. with iconv") from None


def _json_lines(file: IO[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{name}:{number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ConfigError(f"{name}:{number}: expected an object with a text, got {type(row).__name__}")
        yield f"{name}:{number}", row


def _table(file: IO[str], name: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            where = f"{name}:{reader.line_num}"
            if None in row or None in row.values():
                raise ConfigError(
                    f"{where}: {len(reader.fieldnames or ())} columns are expected; quote what holds them"
                )
            yield where, row
    except csv.Error as error:
        raise ConfigError(f"{name}:{reader.line_num}: {error}") from None


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path}: no Parquet that can be read: {str(error).splitlines()[0]}") from None


def _post(row: Mapping[str, Any], where: str, text_column: str | None) -> "Post":
    from safety.moderation import Post

    text = row.get(text_column) if text_column else _first(row, "text")
    if not isinstance(text, str):
        names = text_column or ", ".join(COLUMNS["text"])
        raise ConfigError(f"{where}: no text; expected one in column {names}, got columns {', '.join(map(str, row))}")
    views = _first(row, "views")
    try:
        readers = float(views) if views not in (None, "") else 0.0
    except (TypeError, ValueError):
        raise ConfigError(f"{where}: views: expected a number, got {views!r}") from None
    if not 0.0 <= readers < float("inf"):
        raise ConfigError(f"{where}: views: expected a number from 0, got {views!r}")
    attributes = row.get("attributes")
    if attributes is not None and not isinstance(attributes, Mapping):
        raise ConfigError(f"{where}: attributes: expected an object, got {type(attributes).__name__}")
    given = _first(row, "id")
    return Post(
        id=str(given) if given not in (None, "") else _digest(row),
        text=text,
        community=str(_first(row, "community") or ""),
        title=str(_first(row, "title") or ""),
        parent=str(_first(row, "parent") or ""),
        author=_author(row),
        rules=_rules(row.get("rules"), where),
        attributes=dict(attributes or {}),
        views=readers,
        source=dict(row),
    )


def _first(row: Mapping[str, Any], what: str) -> Any:
    return next((row[name] for name in COLUMNS[what] if row.get(name) is not None), None)


def _author(row: Mapping[str, Any]) -> str:
    """Signals of the author as one line: a text, an object, or columns `author_*`."""
    given = next((row[name] for name in AUTHOR if row.get(name) is not None), None)
    if isinstance(given, Mapping):
        signals = dict(given)
    else:
        signals = {k.removeprefix("author_"): v for k, v in row.items() if k.startswith("author_") and k not in AUTHOR}
    parts = [f"{name.replace('_', ' ')} {value}" for name, value in signals.items() if isinstance(value, _PLAIN)]
    return "; ".join(parts)


def _rules(given: Any, where: str) -> tuple[str, ...]:
    if given in (None, ""):
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list) or not all(isinstance(rule, str) and rule.strip() for rule in given):
        raise ConfigError(f"{where}: rules: expected a list of sentences")
    return tuple(given)


def _digest(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
