"""Rows of a file or of a hub set, and which of them are faulty. Knows files and columns; knows no tokeniser.

A row keeps the number that it has in its file, whatever is left out before it: row 7 of a JSONL file is its line 7.
What a row is shows in its columns: `messages` (a conversation), `chosen` and `rejected` (a preference), a prompt and a
completion (under any of the usual names), or plain text.
"""

import csv
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from training.recipe import Source
from workbench.errors import ConfigError, did_you_mean

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
"""Column names of a prompt and its completion, in the order they are looked for."""
PREFERENCE = ("chosen", "rejected")
READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".md": "text"}
SHOWN = 3
"""Faults that one message tells in full."""
SHAPED_BY = 100
"""Rows that are looked at for the columns that say what rows are."""
SHORTEST_LINE = 24
"""Characters of a line that is worth a key of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A row that cannot be used."""

    row: int
    """From 1, as it stands in the file."""
    what: str


@dataclass(kw_only=True)
class RowFile:
    """What a file holds: records with their own numbers, and the lines that hold none."""

    records: Sequence[Mapping[str, Any]] | Any
    """A sequence of mappings, or a datasets.Dataset."""
    numbers: np.ndarray
    """Row of the file, from 1, of each record."""
    path: str = ""
    """Absolute, or a hub name."""
    faults: list[Fault] = field(default_factory=list)


class JsonLines(Sequence[Mapping[str, Any]]):
    """Rows of a JSONL file, parsed when they are asked for: in memory there are 8 bytes for each."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")  # stays open: a file that is replaced meanwhile is not seen
        starts, numbers, at = [], [], 0
        self.faults: list[Fault] = []
        for number, line in enumerate(self._file, start=1):
            if line.strip():
                if what := _json_fault(line):
                    self.faults.append(Fault(row=number, what=what))
                else:
                    starts.append(at)
                    numbers.append(number)
            at += len(line)
        self._starts = np.array(starts, np.int64)
        self.numbers = np.array(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if index >= len(self):
            raise IndexError(index)
        self._file.seek(int(self._starts[index]))
        return json.loads(self._file.readline())

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def _json_fault(line: bytes) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:  # UnicodeDecodeError is one too
        return f"no JSON ({str(error).splitlines()[0]})"
    return "" if isinstance(row, dict) else "no JSON object"


def read_rows(source: Source, folder: Path) -> RowFile:
    """Read a source's rows; relative paths are below `folder`.

    Raises ConfigError: no such file, or one that cannot be read as a whole. Faulty rows are in `faults`.
    """
    if source.data.startswith("hub:"):
        rows = _hub_rows(source)
        return RowFile(records=rows, numbers=np.arange(1, len(rows) + 1), path=source.data)
    path = (folder / source.data).expanduser()
    where = f"mix: source {source.name!r}: {path}"
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"{where}: no such file; {did_you_mean(path.name, beside)}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{where}: cannot be read; known: {', '.join(READERS)}")
    try:
        found = _read(reader, path, source.column)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except Exception as error:  # datasets wraps whatever a reader raises in classes of its own
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None
    found.path = str(path.resolve())
    return found


def _read(reader: str, path: Path, column: str) -> RowFile:
    if reader == "text":
        return RowFile(records=[{column: path.read_text(encoding="utf-8")}], numbers=np.array([1]))
    if reader == "json":
        rows = JsonLines(path)
        return RowFile(records=rows, numbers=rows.numbers, faults=rows.faults)
    if reader == "csv":
        return _read_csv(path)
    import datasets

    found = datasets.Dataset.from_parquet(str(path))
    return RowFile(records=found, numbers=np.arange(1, len(found) + 1))


def _read_csv(path: Path) -> RowFile:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        head = next(reader, [])
        records, numbers, faults = [], [], []
        for number, cells in enumerate(reader, start=1):
            if not cells:
                continue
            if len(cells) != len(head):
                faults.append(Fault(row=number, what=f"{len(cells)} cells, where the head has {len(head)}"))
                continue
            records.append(dict(zip(head, cells, strict=True)))
            numbers.append(number)
    return RowFile(records=records, numbers=np.array(numbers, np.int64), faults=faults)


def _hub_rows(source: Source) -> Any:
    import datasets

    name, _, split = source.data.removeprefix("hub:").partition("@")
    owner, *rest = name.split("/")
    path, config = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
    try:
        return datasets.load_dataset(path, config, split=split or "train")
    except (OSError, ValueError, ConnectionError) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(f"mix: source {source.name!r}: {source.data}: {why}") from None


def find_shape(records: Any, column: str, *, where: str) -> tuple[str, ...]:
    """The columns that are used: `messages`, a preference, a pair, or the text column.

    Raises ConfigError: none of the first rows has any of them.
    """
    columns: list[str] = []
    for index in range(min(SHAPED_BY, len(records))):
        columns = list(records[index].keys())
        if found := _shape_of(set(columns), column):
            return found
    raise ConfigError(
        f"{where}: no column {column!r}, no messages, and no prompt with a completion among "
        f"{', '.join(columns)}; {did_you_mean(column, columns)}"
    )


def _shape_of(columns: set[str], column: str) -> tuple[str, ...]:
    if "messages" in columns:
        return ("messages",)
    if set(PREFERENCE) <= columns:
        return ("prompt", *PREFERENCE) if "prompt" in columns else PREFERENCE
    known = [pair for pair in PAIRS if set(pair) <= columns]
    return known[0] if known else (column,) if column in columns else ()


def row_fault(record: Mapping[str, Any], shape: tuple[str, ...], *, answers: bool) -> str:
    """What is wrong with a row, or nothing. `answers`: only an assistant's turns carry loss, so there must be one."""
    if missing := [name for name in shape if name not in record]:
        return f"no column {missing[0]!r}"
    if shape == ("messages",):
        fault = _messages_fault(record["messages"])
        roles = [] if fault else [message["role"] for message in record["messages"]]
        return fault or ("no assistant turn, so nothing to learn" if answers and "assistant" not in roles else "")
    if shape[-2:] == PREFERENCE:
        return _preference_fault(record, shape)
    values = [record[name] for name in shape]
    if len(shape) == 1:
        if not isinstance(values[0], str):
            return f"column {shape[0]!r} holds {type(values[0]).__name__}, expected text"
        return "" if values[0].strip() else f"column {shape[0]!r} is empty"
    if not all(isinstance(value, str) for value in values):
        return f"{shape[0]} or {shape[1]} is no text"
    return "" if all(value.strip() for value in values) else f"{shape[0]} or {shape[1]} is empty"


def weight_fault(record: Mapping[str, Any], column: str) -> str:
    """What is wrong with a row's weight, or nothing."""
    value = record.get(column)
    if isinstance(value, str):  # of a CSV
        try:
            value = float(value)
        except ValueError:
            return f"weight {column!r} is {value!r}, expected a number above 0"
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        return f"weight {column!r} is {value!r}, expected a number above 0"
    return ""


def _messages_fault(found: Any) -> str:
    good = (
        isinstance(found, list)
        and found
        and all(
            isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in found
        )
    )
    return "" if good else "messages is no list of {role, content}"


def _preference_fault(record: Mapping[str, Any], shape: tuple[str, ...]) -> str:
    for name in PREFERENCE:
        value = record[name]
        if isinstance(value, str):
            if "prompt" not in shape:
                return f"{name} is text, and there is no prompt that it answers"
            if not value.strip():
                return f"{name} is empty"
        elif _messages_fault(value):
            return f"{name} is neither text nor a list of {{role, content}}"
        elif value[-1]["role"] != "assistant":
            return f"{name} does not end with an assistant's turn"
    if record["chosen"] == record["rejected"]:
        return "chosen and rejected are the same, so nothing is preferred"
    if "prompt" in shape and not isinstance(record["prompt"], str) and _messages_fault(record["prompt"]):
        return "prompt is neither text nor a list of {role, content}"
    return ""


def conversation_of(
    record: Mapping[str, Any], shape: tuple[str, ...], *, rejected: bool = False
) -> list[dict[str, str]]:
    """A row that is no plain text as turns; of a preference the chosen answer, or the rejected one."""
    if shape == ("messages",):
        return [{"role": m["role"], "content": m["content"]} for m in record["messages"]]
    system = record.get("system")
    first = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    if shape[-2:] == PREFERENCE:
        return [*first, *_preference_turns(record, shape, record["rejected" if rejected else "chosen"])]
    prompt, answer = (record[name] for name in shape)
    more = record.get("input") if shape[0] == "instruction" else None
    question = f"{prompt}\n\n{more}" if isinstance(more, str) and more.strip() else prompt
    return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _preference_turns(record: Mapping[str, Any], shape: tuple[str, ...], answer: Any) -> list[dict[str, str]]:
    prompt = record["prompt"] if "prompt" in shape else []
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    after = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    # UltraFeedback and its kin repeat the prompt's turns in chosen and rejected
    return after if after[: len(before)] == before and before else [*before, *after]


def texts_of(record: Mapping[str, Any], shape: tuple[str, ...]) -> list[str]:
    """All texts of a row that a model could see, in order."""
    if len(shape) == 1 and shape != ("messages",):
        value = record[shape[0]]
        # a prompt may be a conversation under any name
        return [str(value)] if isinstance(value, str) else [str(turn["content"]) for turn in value]
    texts = [turn["content"] for turn in conversation_of(record, shape)]
    if shape[-2:] == PREFERENCE:
        texts.append(conversation_of(record, shape, rejected=True)[-1]["content"])
    return texts


def normalise(text: str) -> str:
    """Text as it is compared: width and case unified, runs of white space one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def row_key(texts: Sequence[str]) -> bytes:
    """16 bytes that name a row by what it says, whatever file it stands in."""
    return text_key("\x1f".join(normalise(text) for text in texts))


def text_key(normalised: str) -> bytes:
    """16 bytes of SHA-256 of a text that is normalised already."""
    return hashlib.sha256(normalised.encode()).digest()[:16]


def text_keys(texts: Sequence[str]) -> Iterator[bytes]:
    """Keys of each text of a row, and of each of its longer lines: a post inside a text is found by itself."""
    for text in texts:
        whole = normalise(text)
        yield text_key(whole)
        lines = text.splitlines()
        if len(lines) > 1:
            yield from (text_key(line) for line in map(normalise, lines) if SHORTEST_LINE <= len(line) < len(whole))
