"""A source's rows -> documents of tokens with a loss mask. Knows tokenisers; rows.py knows files, no model is known.

In supervised fine-tuning only answers carry loss, up to and with the token that ends them: a model that never sees that
token weighed never stops. Everywhere else every token carries loss.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.mixing import Document
from training.recipe import Method, Recipe, Source
from training.rows import (
    PAIRS,
    PREFERENCE,
    SHOWN,
    Fault,
    RowFile,
    conversation_of,
    find_shape,
    read_rows,
    row_fault,
    row_key,
    texts_of,
    weight_fault,
)
from workbench.errors import ConfigError

__all__ = ["PAIRS", "Pair", "RowDocuments", "open_source"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: the same prompt, answered better and worse; in both only the answer carries loss."""

    chosen: Document
    rejected: Document


@dataclass(kw_only=True)
class RowDocuments:
    """Documents of one source. Tokenised when they are asked for; the last few are remembered."""

    name: str
    rows: Any
    """A datasets.Dataset, or a sequence of mappings."""
    tokenizer: Any
    method: Method
    column: str = "text"
    weight_column: str = ""
    """Column of how much a row's loss counts; empty: all the same."""
    path: str = ""
    """Where the rows are from: an absolute path, or a hub name."""
    numbers: np.ndarray | None = None
    """Row of the file, from 1, of each of `rows`; default: in order."""
    kept: np.ndarray | None = None
    """Places in `rows` that are used, ascending; default: all."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Rows that are not used, by reason: malformed, empty, repeated, nearly repeated, evaluation."""
    faults: list[Fault] = field(default_factory=list)
    """The malformed ones."""
    columns: tuple[str, ...] = ()
    """The columns that are used; default: as the rows show."""
    _last: dict[int, Document] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rows):
            _ = self.shape

    def __len__(self) -> int:
        return len(self.rows) if self.kept is None else len(self.kept)

    @cached_property
    def shape(self) -> tuple[str, ...]:
        """The columns that are used: `messages`, a preference, a pair, or the text column.

        Raises ConfigError: none of them is there.
        """
        return self.columns or find_shape(self.rows, self.column, where=f"mix: source {self.name!r}")

    @property
    def is_conversation(self) -> bool:
        """Whether rows are conversations or pairs, not plain text."""
        return self.shape != (self.column,)

    @property
    def is_preference(self) -> bool:
        """Whether rows hold a chosen and a rejected answer."""
        return self.shape[-2:] == PREFERENCE

    @property
    def learns_answers(self) -> bool:
        """Whether only answers carry loss."""
        return self.is_conversation and self.method not in ("pretrain", "midtrain")

    @property
    def splits(self) -> bool:
        """Plain text may go on in the next row; a conversation is shown whole or not at all."""
        return not self.learns_answers

    @cached_property
    def digest(self) -> str:
        """SHA-256 hex over all rows that are used: the same rows, the same digest."""
        found = hashlib.sha256()
        for row in range(len(self)):
            found.update(json.dumps(self.record(row), sort_keys=True, default=str).encode())
            found.update(b"\n")
        return found.hexdigest()

    def record(self, row: int) -> Mapping[str, Any]:
        """The row as it was read."""
        return self.rows[self._place(row)]

    def number(self, row: int) -> int:
        """Which row of the file it is, from 1."""
        place = self._place(row)
        return place + 1 if self.numbers is None else int(self.numbers[place])

    def texts(self, row: int) -> list[str]:
        """What a model could read of the row."""
        return texts_of(self.record(row), self.shape)

    def key(self, row: int) -> bytes:
        """What names the row by what it says, whatever file it stands in."""
        return row_key(self.texts(row))

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Use these rows no more; row -> why."""
        if reasons:
            stays = np.ones(len(self), bool)
            stays[list(reasons)] = False
            self.kept = (np.arange(len(self.rows)) if self.kept is None else self.kept)[stays]
            self.left_out.update(reasons.values())
            self._last.clear()
            self.__dict__.pop("digest", None)

    def document(self, row: int) -> Document:
        """The row's tokens; see the module's text for the loss. Of a preference: the chosen answer, in DPO both."""
        if row not in self._last:
            if len(self._last) >= 4:
                self._last.pop(next(iter(self._last)))
            document = self._tokenise(row)
            weighs = float(self.record(row)[self.weight_column]) if self.weight_column else 1.0
            self._last[row] = document if weighs == 1 else replace(document, weight=weighs)
        return self._last[row]

    def pair(self, row: int) -> Pair:
        """A preference's two documents."""
        record = self.record(row)
        if fault := row_fault(record, self.shape, answers=True):
            raise self._fault(row, fault)
        chosen, rejected = (conversation_of(record, self.shape, rejected=worse) for worse in (False, True))
        return Pair(self._last_answer(row, chosen), self._last_answer(row, rejected))

    @staticmethod
    def _joined(pair: Pair) -> Document:
        """Both texts of a preference as one document that is packed whole."""
        both = pair.chosen, pair.rejected
        tokens, loss = (np.concatenate([getattr(document, name) for document in both]) for name in ("tokens", "loss"))
        return Document(tokens, loss, second=len(pair.chosen.tokens))

    def _place(self, row: int) -> int:
        return row if self.kept is None else int(self.kept[row])

    def _tokenise(self, row: int) -> Document:
        record = self.record(row)
        if fault := row_fault(record, self.shape, answers=self.learns_answers):
            raise self._fault(row, fault)
        if not self.is_conversation:
            ids = self.tokenizer(record[self.column], add_special_tokens=False)["input_ids"]
            ids = [*ids, self.tokenizer.eos_token_id]
            return Document(np.array(ids, np.int64), np.ones(len(ids), bool))
        if self.is_preference and self.method == "dpo":
            return self._joined(self.pair(row))
        messages = conversation_of(record, self.shape)
        if not self.learns_answers:
            ids = self._render(messages)
            return Document(np.array(ids, np.int64), np.ones(len(ids), bool))
        return self._last_answer(row, messages) if self.is_preference else self._answers(row, messages)

    def _last_answer(self, row: int, messages: Sequence[Mapping[str, str]]) -> Document:
        """Only the last turn carries loss: what is preferred is that one."""
        return self._answers(row, messages, places=[len(messages) - 1])

    def _answers(
        self, row: int, messages: Sequence[Mapping[str, str]], places: Sequence[int] | None = None
    ) -> Document:
        """Every assistant turn carries loss (or those at `places`), with the token that ends it."""
        ids = np.array(self._render(messages), np.int64)
        loss = np.zeros(len(ids), bool)
        for place, message in enumerate(messages):
            if message["role"] != "assistant" or (places is not None and place not in places):
                continue
            start = self._render(messages[:place], opens=True)
            end = self._render(messages[: place + 1])
            if ids[: len(start)].tolist() != start or ids[: len(end)].tolist() != end:
                raise self._fault(row, "the chat template rewrites earlier turns, so answers cannot be told apart")
            loss[len(start) : len(end)] = True
        return Document(ids, loss)

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
        return ConfigError(
            f"mix: source {self.name!r}: row {self.number(row)}: {what}; mend it, or set on_bad_row: skip"
        )


def open_sources(recipe: Recipe, *, tokenizer: Any, folder: Path) -> dict[str, RowDocuments]:
    """All sources of a recipe, by name, without the rows that repeat earlier ones; relative paths are below `folder`.

    Raises ConfigError: one line for each source that cannot be used.
    """
    from training.dedup import leave_out_repeats

    found: dict[str, RowDocuments] = {}
    faults: list[str] = []
    for source in recipe.mix:
        try:
            found[source.name] = open_source(
                source, tokenizer=tokenizer, method=recipe.method, folder=folder, on_bad_row=recipe.on_bad_row
            )
        except ConfigError as error:
            faults.append(str(error))
    if recipe.rl is not None:
        from training.rl.options import PROMPTS
        from training.rl.prompts import open_prompts

        try:
            found[PROMPTS] = open_prompts(recipe.rl, tokenizer=tokenizer, folder=folder, on_bad_row=recipe.on_bad_row)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    if recipe.deduplicate != "off":
        leave_out_repeats(found, near=recipe.deduplicate == "near")
        check_not_empty(found)
    return found


def check_not_empty(sources: Mapping[str, RowDocuments]) -> None:
    """Raises ConfigError: a source of which nothing is left."""
    for name, documents in sources.items():
        if not len(documents):
            raise ConfigError(
                f"mix: source {name!r}: no row is left to train on{_why(documents)}; take it out, or give it "
                "rows that no other source holds"
            )


def open_source(
    source: Source,
    *,
    tokenizer: Any,
    method: Method,
    folder: Path,
    on_bad_row: Literal["refuse", "skip"] = "refuse",
) -> RowDocuments:
    """Open a source of a recipe and look at every row; relative paths are below `folder`. Empty rows are left out.

    Raises ConfigError: no such file, columns that say nothing, no usable row, or (on_bad_row: refuse) malformed rows.
    """
    found = read_rows(source, folder)
    documents = RowDocuments(
        name=source.name,
        rows=found.records,
        tokenizer=tokenizer,
        method=method,
        column=source.column,
        weight_column=source.weight_column,
        path=found.path,
        numbers=found.numbers,
    )
    faults = dict(_faulty(documents, found))
    where = f"mix: source {source.name!r}: {source.data}"
    bad = {row: what for row, what in faults.items() if not what.endswith("is empty")}  # an empty one harms nobody
    malformed = sorted(
        [*found.faults, *(Fault(row=documents.number(row), what=what) for row, what in bad.items())],
        key=lambda fault: fault.row,
    )
    if malformed and on_bad_row == "refuse":
        raise ConfigError(f"{where}: {_shown(malformed)}; mend them, or leave them out with on_bad_row: skip")
    documents.left_out.update({"malformed": len(found.faults)} if found.faults else {})
    documents.leave_out({row: "malformed" if row in bad else "empty" for row in faults})
    documents.faults = malformed
    if not len(documents):
        raise ConfigError(f"{where}: holds no rows that can be used{_why(documents)}; give it rows, or drop the source")
    return documents


def _faulty(documents: RowDocuments, found: RowFile) -> Iterator[tuple[int, str]]:
    if not len(documents.rows):
        return
    for row, record in enumerate(found.records):
        fault = row_fault(record, documents.shape, answers=documents.learns_answers)
        if fault := fault or (documents.weight_column and weight_fault(record, documents.weight_column)):
            yield row, fault


def _shown(faults: Sequence[Fault]) -> str:
    more = f" and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    return "; ".join(f"row {fault.row}: {fault.what}" for fault in faults[:SHOWN]) + more


def _why(documents: RowDocuments) -> str:
    counts = ", ".join(f"{count:,} {reason}" for reason, count in documents.left_out.items())
    shown = f": {_shown(documents.faults)}" if documents.faults else ""
    return f" ({counts}{shown})" if counts else ""
