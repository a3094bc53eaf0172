"""A run's prompts: rows of a file, and which of them each generation is about. Knows files and columns; no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from training.recipe import Source
from training.rl.options import PROMPTS, Reinforce
from training.rows import SHOWN, Fault, read_rows
from training.sources import RowDocuments
from workbench.errors import ConfigError, did_you_mean


def open_prompts(
    options: Reinforce, *, tokenizer: Any, folder: Path, on_bad_row: Literal["refuse", "skip"] = "refuse"
) -> RowDocuments:
    """Open the prompts and look at every row; relative paths are below `folder`.

    Raises ConfigError: no such file or column, malformed rows (unless they are skipped), or none that can be used.
    """
    source = Source(name=PROMPTS, data=options.prompts, share=1.0, column=options.column)
    found = read_rows(source, folder)
    where = f"rl.prompts: {options.prompts}"
    columns = sorted({name for at in range(min(SHOWN, len(found.records))) for name in found.records[at]})
    if columns and options.column not in columns:
        raise ConfigError(
            f"{where}: no column {options.column!r}; {did_you_mean(options.column, columns)}; rl.column names it"
        )
    documents = RowDocuments(
        name=PROMPTS,
        rows=found.records,
        tokenizer=tokenizer,
        method="grpo",
        column=options.column,
        path=found.path,
        numbers=found.numbers,
        columns=(options.column,),
    )
    faults = {at: why for at, row in enumerate(found.records) if (why := prompt_fault(row, options.column))}
    malformed = sorted(
        [*found.faults, *(Fault(row=documents.number(at), what=why) for at, why in faults.items())],
        key=lambda fault: fault.row,
    )
    if malformed and on_bad_row == "refuse":
        shown = "; ".join(f"row {fault.row}: {fault.what}" for fault in malformed[:SHOWN])
        raise ConfigError(f"{where}: {shown}; mend them, or leave them out with on_bad_row: skip")
    documents.left_out.update({"malformed": len(found.faults)} if found.faults else {})
    documents.leave_out(dict.fromkeys(faults, "malformed"))
    documents.faults = malformed
    if not len(documents):
        raise ConfigError(f"{where}: holds no rows that can be used; give it rows with a {options.column!r}")
    return documents


def prompt_fault(row: Mapping[str, Any], column: str) -> str:
    """What is wrong with a row, or nothing."""
    value: Any = row.get(column)
    if isinstance(value, str):
        return "" if value.strip() else f"column {column!r} is empty"
    good = (
        isinstance(value, Sequence)
        and bool(value)
        and all(
            isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
            for m in value
        )
    )
    if not good:
        return f"column {column!r} is neither text nor a list of {{role, content}}"
    return "" if value[-1]["role"] == "user" else f"column {column!r} does not end with a user's message"


def messages_of(row: Mapping[str, Any], options: Reinforce) -> list[dict[str, Any]]:
    """A row's prompt as a conversation that waits for an answer."""
    value = row[options.column]
    turns = (
        [{"role": "user", "content": value}]
        if isinstance(value, str)
        else [{"role": one["role"], "content": one["content"]} for one in value]
    )
    has_system = turns[0]["role"] == "system"
    return [{"role": "system", "content": options.system}, *turns] if options.system and not has_system else turns


@dataclass(frozen=True, kw_only=True)
class Order:
    """Which prompts each generation is about: a pass over all of them, shuffled, then another."""

    size: int
    per_step: int
    seed: int

    def of(self, generation: int) -> list[tuple[int, int]]:
        """(row, pass) of each prompt of a generation, from 0."""
        found: list[tuple[int, int]] = []
        for place in range(generation * self.per_step, (generation + 1) * self.per_step):
            epoch, at = divmod(place, self.size)
            found.append((int(self._permutation(epoch)[at]), epoch))
        return found

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, *PROMPTS.encode()]).permutation(self.size)
