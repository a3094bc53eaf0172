"""Item scores as Parquet: one row per question, floats to the last bit. Knows columns; knows no report, no database.

The file's metadata holds `workbench.items.schema_version`. Metrics are a map, so that tasks with different metrics
share a file; `extra` is JSON. Rows stand in the order of (task, doc_id, item), whatever order they came in. The only
float that changes is -0.0, which becomes 0.0.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import StoreError
from workbench.records import ItemScore
from workbench.store.identity import canonical_json, dump_plain, to_plain, without_defaults

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

ITEMS_SCHEMA_VERSION = 1
_VERSION_KEY = b"workbench.items.schema_version"
_ROWS_PER_GROUP = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemColumns:
    """Item scores as columns of equal length, for work over many thousands of them. Read-only."""

    task: "np.ndarray"
    """Names (object)."""
    item: "np.ndarray"
    group: "np.ndarray"
    metrics: "Mapping[str, np.ndarray]"
    """float64 of each metric; NaN where an item does not have it."""

    def of(self, rows: "np.ndarray") -> "ItemColumns":
        """Only these rows (bool or indices)."""
        return ItemColumns(
            task=self.task[rows],
            item=self.item[rows],
            group=self.group[rows],
            metrics={name: values[rows] for name, values in self.metrics.items()},
        )


def columns_of(items: Sequence[ItemScore]) -> ItemColumns:
    """The columns of items in memory."""
    import numpy as np

    names = dict.fromkeys(name for item in items for name in item.metrics)
    nan = float("nan")
    return ItemColumns(
        task=np.array([item.task for item in items], dtype=object),
        item=np.array([item.item for item in items], dtype=object),
        group=np.array([item.group for item in items], dtype=object),
        metrics={name: np.array([item.metrics.get(name, nan) for item in items], dtype=float) for name in names},
    )


def in_row_order(items: Sequence[ItemScore]) -> list[ItemScore]:
    """Sorted as the file is: by task, document and item; equal ones stay in the given order."""
    return sorted(items, key=lambda item: (item.task, item.doc_id, item.item))


def items_digest(items: Sequence[ItemScore]) -> str:
    """SHA-256 hex over all rows in row order: the same answers give the same digest."""
    digest = hashlib.sha256()
    for item in in_row_order(items):
        digest.update(dump_plain(without_defaults(_in_file_types(item))).encode())
        digest.update(b"\n")  # canonical JSON holds no line break
    return digest.hexdigest()


def write_items(path: Path, items: Sequence[ItemScore]) -> None:
    """Write a new Parquet file (zstd)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    rows = [_in_file_types(item) for item in in_row_order(items)]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            part = rows[start : start + _ROWS_PER_GROUP]
            columns = [pa.array(_column(part, field.name), type=field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def read_items(path: Path, *, tasks: Iterable[str] | None = None, rows: "np.ndarray | None" = None) -> list[ItemScore]:
    """All rows of an item file, those of some tasks, or those of some row numbers in their order.

    Raises:
        StoreError: the file is missing, damaged or of a newer schema.
    """
    table = _read_table(path) if rows is None else _read_rows(path, rows)
    if tasks is not None:
        import numpy as np
        import pyarrow as pa

        wanted = np.isin(table.column("task").to_numpy().astype(str), sorted(tasks))
        table = table.filter(pa.array(wanted))
    return [_item(row) for row in table.to_pylist(maps_as_pydicts="strict")]


def find_text(path: Path, text: str) -> "np.ndarray":
    """bool for each row: whether the text stands in its prompt, answer or target, in capitals or not.

    Raises:
        StoreError: the file is missing, damaged or of a newer schema.
    """
    import pyarrow.compute as pc

    columns = ("prompt", "answer", "target")
    table = _read_table(path, columns=list(columns))
    found = [pc.match_substring(table.column(name), text, ignore_case=True) for name in columns]  # type: ignore[attr-defined]
    hits = found[0]
    for more in found[1:]:
        hits = pc.or_(hits, more)  # type: ignore[attr-defined]
    return hits.to_numpy().astype(bool)


def read_item_columns(path: Path) -> ItemColumns:
    """What a comparison needs of all rows, without making a Python object of each.

    Raises:
        StoreError: the file is missing, damaged or of a newer schema, or a value in it is NaN.
    """
    import numpy as np

    table = _read_table(path, columns=["task", "item", "group", "metrics"])
    pairs = table.column("metrics").combine_chunks()
    # a table of several row groups, or none, is chunked
    pairs = pairs.combine_chunks() if hasattr(pairs, "chunks") else pairs
    counts = np.diff(pairs.offsets.to_numpy())
    rows = np.repeat(np.arange(len(pairs)), counts)
    values = pairs.items.to_numpy(zero_copy_only=False)
    names = pairs.keys.dictionary_encode()
    codes = names.indices.to_numpy(zero_copy_only=False)
    if np.isnan(values).any():
        raise StoreError(f"{path}: {np.isnan(values).sum():,} values of its items are NaN; evaluate again")
    metrics: dict[str, np.ndarray] = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        column = np.full(len(pairs), np.nan)
        mine = codes == code
        column[rows[mine]] = values[mine]
        metrics[name] = column
    text = {name: table.column(name).to_numpy() for name in ("task", "item", "group")}
    return ItemColumns(metrics=metrics, **text)


def read_items_frame(path: Path) -> "pd.DataFrame":
    """All rows as a frame: the columns of ItemScore, less `metrics`, plus one float column `metrics.NAME` per metric.

    `logprobs` and `greedy` are arrays, `extra` is a dict; a metric that an item does not have is NaN.

    Raises:
        StoreError: the file is missing, damaged or of a newer schema.
    """
    import pandas as pd

    table = _read_table(path)
    frame = table.drop_columns(["metrics", "extra"]).to_pandas()
    metrics = table.column("metrics").to_pylist(maps_as_pydicts="strict")
    for name in sorted({name for row in metrics for name in row}):
        frame[f"metrics.{name}"] = pd.Series([row.get(name, float("nan")) for row in metrics], dtype="float64")
    frame["extra"] = [json.loads(text) if text else {} for text in table.column("extra").to_pylist()]
    return frame


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {
        "task": pa.string(),
        "item": pa.string(),
        "doc_id": pa.int64(),
        "group": pa.string(),
        "metrics": pa.map_(pa.string(), pa.float64()),
        "logprobs": pa.list_(pa.float64()),
        "greedy": pa.list_(pa.bool_()),
        "answer": pa.string(),
        "target": pa.string(),
        "prompt": pa.string(),
        "truncated": pa.int64(),
        "extra": pa.string(),
    }
    fields = [pa.field(name, kind, nullable=False) for name, kind in types.items()]
    return pa.schema(fields, metadata={_VERSION_KEY: str(ITEMS_SCHEMA_VERSION).encode()})


def _in_file_types(item: ItemScore) -> ItemScore:
    """An item as the file can hold it, so that its digest is the same before writing and after reading."""
    return ItemScore(
        task=_text(item.task),
        item=_text(item.item),
        doc_id=int(item.doc_id),
        group=_text(item.group),
        metrics={_text(name): float(value) + 0.0 for name, value in item.metrics.items()},
        logprobs=tuple(float(value) + 0.0 for value in item.logprobs),
        greedy=tuple(bool(value) for value in item.greedy),
        answer=_text(item.answer),
        target=_text(item.target),
        prompt=_text(item.prompt),
        truncated=int(item.truncated),
        extra=to_plain(item.extra),
    )


def _column(items: Sequence[ItemScore], name: str) -> list[Any]:
    values = [getattr(item, name) for item in items]
    if name == "metrics":
        return [list(value.items()) for value in values]
    if name == "extra":
        return [canonical_json(value) if value else "" for value in values]
    return values


def _text(value: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate (real JSON data has them) becomes U+FFFD."""
    return value if value.isascii() else value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _item(row: dict[str, Any]) -> ItemScore:
    known = {name: row[name] for name in ItemScore.__slots__ if name in row}
    known["logprobs"] = tuple(known["logprobs"])
    known["greedy"] = tuple(known["greedy"])
    known["extra"] = json.loads(known["extra"]) if known["extra"] else {}
    return ItemScore(**known)


def _read_rows(path: Path, rows: "np.ndarray") -> "pa.Table":
    """Some rows in the order given, from the groups of rows that hold them."""
    import numpy as np
    import pyarrow.parquet as pq

    if len(rows) == 0:
        return _read_table(path).slice(0, 0)
    with _explained(path), pq.ParquetFile(path) as file:
        _check_version(path, file.schema_arrow.metadata)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        home = np.searchsorted(starts, rows, side="right") - 1
        groups = sorted(set(home.tolist()))
        table = file.read_row_groups(groups)
    shift = dict(zip(groups, np.cumsum([0, *(sizes[group] for group in groups)]).tolist(), strict=False))
    places = [int(row) - int(starts[group]) + shift[group] for row, group in zip(rows, home.tolist(), strict=True)]
    return table.take(places)


def _read_table(path: Path, columns: list[str] | None = None) -> "pa.Table":
    import pyarrow.parquet as pq

    with _explained(path):
        table = pq.read_table(path, columns=columns)
    _check_version(path, table.schema.metadata)
    return table


@contextmanager
def _explained(path: Path) -> "Iterator[None]":
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{path}: the item file is missing; restore the reports folder, or evaluate again") from None
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path}: damaged item file ({error}); restore it, or evaluate again") from error


def _check_version(path: Path, metadata: "Mapping[bytes, bytes] | None") -> None:
    version = (metadata or {}).get(_VERSION_KEY)
    if version is None or int(version) > ITEMS_SCHEMA_VERSION:
        got = "no schema version" if version is None else f"schema {int(version)}, this workbench knows 1"
        raise StoreError(f"{path}: not an item file of this workbench ({got}); pip install -U model-workbench")
