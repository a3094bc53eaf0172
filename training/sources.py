"""Rows of a file or of a hub set -> documents of tokens with a loss mask. Knows tokenisers and columns; knows no model.

What a row is shows in its columns: `messages` (a conversation), a prompt and a completion (under any of the usual
names), or plain text. In supervised fine-tuning only answers carry loss, up to and with the token that ends them: a
model that never sees that token weighed never stops. Everywhere else every token carries loss.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from training.mixing import Document
from training.recipe import Method, Source
from workbench.errors import ConfigError, did_you_mean

PAIRS = (
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
)
"""Column names of a prompt and its completion, in the order they are looked for."""
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text", ".md": "text"}
_SHOWN = 3


@dataclass(kw_only=True)
class RowDocuments:
    """Documents of one source. Tokenised when they are asked for; the last few are remembered."""

    name: str
    rows: Any
    """A datasets.Dataset, or a sequence of mappings."""
    tokenizer: Any
    method: Method
    column: str = "text"
    _last: dict[int, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rows):
            _ = self.shape

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shape(self) -> tuple[str, ...]:
        """The columns that are used: `messages`, a pair, or the text column.

        Raises ConfigError: none of them is there.
        """
        columns = list(self.rows[0].keys())
        if "messages" in columns:
            return ("messages",)
        for pair in PAIRS:
            if set(pair) <= set(columns):
                return pair
        if self.column in columns:
            return (self.column,)
        raise ConfigError(
            f"mix: source {self.name!r}: no column {self.column!r}, no messages, and no prompt with a completion among "
            f"{', '.join(columns)}; {did_you_mean(self.column, columns)}"
        )

    @property
    def is_conversation(self) -> bool:
        """Whether rows are conversations or pairs, not plain text."""
        return self.shape != (self.column,)

    @property
    def splits(self) -> bool:
        """Plain text may go on in the next row; a conversation is shown whole or not at all."""
        return not self.is_conversation or self.method != "sft"

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex over all rows: the same rows, the same digest."""
        found = hashlib.sha256()
        for row in self.rows:
            found.update(json.dumps(row, sort_keys=True, default=str).encode())
            found.update(b"\n")
        return found.hexdigest()

    def document(self, row: int) -> Document:
        """The row's tokens; see the module's text for the loss."""
        if row not in self._last:
            if len(self._last) >= 4:
                self._last.pop(next(iter(self._last)))
            self._last[row] = self._tokenise(row)
        return self._last[row]

    def _tokenise(self, row: int) -> Document:
        record = self.rows[row]
        if not self.is_conversation:
            text = record[self.column]
            if not isinstance(text, str):
                raise self._fault(row, f"column {self.column!r} holds {type(text).__name__}, expected text")
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = [*ids, self.tokenizer.eos_token_id]
            return Document(np.array(ids, np.int64), np.ones(len(ids), bool))
        messages = self._messages(row, record)
        if self.method != "sft":
            ids = self._render(messages)
            return Document(np.array(ids, np.int64), np.ones(len(ids), bool))
        return self._answers(row, messages)

    def _answers(self, row: int, messages: Sequence[Mapping[str, str]]) -> Document:
        """Every assistant turn carries loss, with the token that ends it; the rest is context."""
        ids = np.array(self._render(messages), np.int64)
        loss = np.zeros(len(ids), bool)
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            start = self._render(messages[:place], opens=True)
            end = self._render(messages[: place + 1])
            if ids[: len(start)].tolist() != start or ids[: len(end)].tolist() != end:
                raise self._fault(row, "the chat template rewrites earlier turns, so answers cannot be told apart")
            loss[len(start) : len(end)] = True
        if not loss.any():
            raise self._fault(row, "no assistant turn, so nothing to learn")
        return Document(ids, loss)

    def _messages(self, row: int, record: Mapping[str, Any]) -> list[dict[str, str]]:
        if self.shape == ("messages",):
            found = record["messages"]
            good = (
                isinstance(found, list)
                and found
                and all(
                    isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
                    for m in found
                )
            )
            if not good:
                raise self._fault(row, "messages is no list of {role, content}")
            return [{"role": m["role"], "content": m["content"]} for m in found]
        prompt, answer = (record[name] for name in self.shape)
        if not isinstance(prompt, str) or not isinstance(answer, str):
            raise self._fault(row, f"{self.shape[0]} or {self.shape[1]} is no text")
        system = record.get("system")
        first = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
        more = record.get("input") if self.shape[0] == "instruction" else None
        question = f"{prompt}\n\n{more}" if isinstance(more, str) and more.strip() else prompt
        return [*first, {"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    def _render(self, messages: Sequence[Mapping[str, str]], *, opens: bool = False) -> list[int]:
        if not messages:
            return []
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(
                f"mix: source {self.name!r} holds conversations, and the start checkpoint's tokenizer has no chat "
                "template; put one into its tokenizer_config.json, or give plain text"
            )
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opens)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _fault(self, row: int, what: str) -> ConfigError:
        return ConfigError(f"mix: source {self.name!r}: row {row + 1}: {what}; mend the row, or leave it out")


def open_source(source: Source, *, tokenizer: Any, method: Method, folder: Path) -> RowDocuments:
    """Open a source of a recipe; relative paths are below `folder`.

    Raises ConfigError: no such file, rows that cannot be read, or columns that say nothing.
    """
    rows = _hub_rows(source) if source.data.startswith("hub:") else _file_rows(source, folder)
    return RowDocuments(name=source.name, rows=rows, tokenizer=tokenizer, method=method, column=source.column)


def _file_rows(source: Source, folder: Path) -> Any:
    import datasets

    path = (folder / source.data).expanduser()
    where = f"mix: source {source.name!r}: {path}"
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"{where}: no such file; {did_you_mean(path.name, beside)}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{where}: cannot be read; known: {', '.join(_READERS)}")
    try:
        if reader == "text":
            return datasets.Dataset.from_list([{source.column: path.read_text(encoding="utf-8")}])
        if reader == "json":
            return datasets.Dataset.from_list(_read_jsonl(path, where))
        return datasets.load_dataset(reader, data_files=str(path), split="train")
    except ConfigError:
        raise
    except Exception as error:  # datasets wraps whatever a reader raises in classes of its own
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}") from None


def _read_jsonl(path: Path, where: str) -> list[dict[str, Any]]:
    """All rows; every faulty line is named at once."""
    rows: list[dict[str, Any]] = []
    faults: list[str] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                faults.append(f"line {number}: {error}")
                continue
            if isinstance(row, dict):
                rows.append(row)
            else:
                faults.append(f"line {number}: no JSON object")
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ConfigError(f"{where}: {'; '.join(faults[:_SHOWN])}{more}; mend them")
    return rows


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
