"""A run's packed rows as a data set of tensors, and what is known of those that training has not reached yet."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from training.hooks import Running
from training.mixing import Mixer, PackedRow, Span
from training.plan import TrainingPlan, rows_of


class Rows(IterableDataset[Any]):
    """Packed rows from where the run is, by the shares that hold at their step."""

    def __init__(self, mixer: Mixer, run: Running) -> None:
        self.mixer, self.run, self.plan = mixer, run, run.plan
        self._states: dict[int, dict[str, Any]] = {run.step: mixer.state()}
        self._spans: dict[int, list[tuple[Span, ...]]] = {}
        self._row = run.step * self.plan.rows_per_step
        self._names = list(mixer.sources)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = rows_of(self.run.recipe, self.mixer, steered=lambda: self.run.shares_at(self._step))
        while self._row < total_rows(self.plan):
            row, step = next(stream), self._step
            self._row += 1
            self._spans.setdefault(step, []).append(row.spans)
            if self._row % self.plan.rows_per_step == 0:
                self._states[step] = self.mixer.state()
            yield tensors(row, self._names)

    @property
    def sources(self) -> Any:
        """Where the rows are from, by name."""
        return self.mixer.sources

    def packed_tokens(self, first: int, last: int) -> int:
        """Tokens of the rows of the steps after `first`, up to `last`."""
        return (last - first) * self.plan.rows_per_step * self.run.recipe.sequence_length

    @property
    def _step(self) -> int:
        """Of the row that comes next."""
        return self._row // self.plan.rows_per_step + 1

    def state_after(self, step: int) -> dict[str, Any]:
        """The mix after a step; the loader reads ahead, so the mixer itself may be further."""
        for old in [known for known in self._states if known < step]:
            del self._states[old]
        return self._states[step]

    def spans_of(self, step: int) -> list[tuple[Span, ...]]:
        """Documents of a step's rows, once."""
        return self._spans.pop(step)


def total_rows(plan: TrainingPlan) -> int:
    """Packed rows of the whole run."""
    return plan.steps * plan.rows_per_step


def tensors(row: PackedRow, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """A row as a model takes it, `weights` of its losses, and `pairs` (P, 5): start, middle, end, source, its row."""
    pairs = [[pair.start, pair.middle, pair.end, names.index(pair.source), pair.row] for pair in row.pairs]
    return {
        "input_ids": torch.from_numpy(row.tokens),
        "labels": torch.from_numpy(row.labels),
        "position_ids": torch.from_numpy(row.positions),
        "weights": torch.ones(len(row.tokens)) if row.weights is None else torch.from_numpy(row.weights),
        "pairs": torch.tensor(pairs, dtype=torch.int64).view(-1, 5),
    }


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of one forward pass; `pairs` (P, 6) say first which row they lie in."""
    pairs = [torch.nn.functional.pad(row["pairs"], (1, 0), value=at) for at, row in enumerate(rows)]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0] if name != "pairs"}
    return stacked | {"pairs": torch.cat(pairs)}
