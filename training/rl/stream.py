"""What the loader gives in reinforcement learning: places for episodes that are yet to be sampled, and replay.

The loader reads ahead of training, and an episode must be sampled from the weights of its own step; so it hands out
places, and `training.rl.trainer` puts the episodes there when their step begins.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset

from training.hooks import Running
from training.mixing import Mixer, Span
from training.plan import rows_of
from training.rl.options import PROMPTS
from training.rl.prompts import Order
from training.sources import RowDocuments
from training.stream import tensors


class Places(IterableDataset[Any]):
    """Micro batches of each step, from where the run is."""

    def __init__(self, sources: Mapping[str, RowDocuments], mixer: Mixer | None, run: Running) -> None:
        self.sources, self.mixer, self.run = sources, mixer, run
        rl = run.recipe.rl
        assert rl is not None
        self.options = rl
        self.order = Order(size=len(sources[PROMPTS]), per_step=rl.prompts_per_step, seed=run.recipe.seed)
        self.drawn = 0
        """Tokens that the policy wrote and learned from so far."""
        self._states: dict[int, dict[str, Any]] = {run.step: self._state()}
        self._spans: dict[int, list[tuple[Span, ...]]] = {}
        self._trained: dict[int, int] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        stream = rows_of(self.run.recipe, self.mixer) if self.mixer is not None else None
        for step in range(self.run.step + 1, self.run.plan.steps + 1):
            found: list[dict[str, Any]] = [{"place": torch.tensor([step, at])} for at in range(self._passes)]
            spans: list[tuple[Span, ...]] = []
            for _ in range(self.options.replay_rows if stream is not None else 0):
                row = next(stream)  # type: ignore[arg-type]
                spans.append(row.spans)
                found.append({name: part[None] for name, part in tensors(row, list(self.sources)).items()})
            self._spans[step], self._states[step] = spans, self._state()
            yield from found

    @property
    def _passes(self) -> int:
        return self.options.passes(self.run.recipe.micro_batch)

    def _state(self) -> dict[str, Any]:
        return self.mixer.state() if self.mixer is not None else {"cursors": {}}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_after` gave; before the first row is read."""
        self.drawn = int(state["drawn"])
        if self.mixer is not None:
            cursors = {name: one for name, one in state["cursors"].items() if name != PROMPTS}
            self.mixer.restore({**state, "cursors": cursors})
        self._states = {self.run.step: self._state()}

    def note(self, step: int, tokens: int, trained: int) -> None:
        """A step learned from so many tokens of the policy, and read so many in all."""
        self.drawn += tokens
        self._trained[step] = trained

    def state_after(self, step: int) -> dict[str, Any]:
        """The mix after a step, and what was learned up to it."""
        for old in [known for known in self._states if known < step]:
            del self._states[old]
        found = self._states[step]
        given = {PROMPTS: {"given": self.drawn, **self._place(step)}}
        return {**found, "cursors": {**found["cursors"], **given}, "drawn": self.drawn}

    def _place(self, step: int) -> dict[str, int]:
        seen = (self.options.generation_of(step) + 1 if step else 0) * self.options.prompts_per_step
        epoch, place = divmod(seen, self.order.size)
        return {"epoch": epoch, "place": place, "offset": 0}

    def spans_of(self, step: int) -> list[tuple[Span, ...]]:
        """Documents of a step's rows, once: its prompts, then what was replayed."""
        prompts = tuple(
            Span(PROMPTS, row, epoch, 0, 0) for row, epoch in self.order.of(self.options.generation_of(step))
        )
        return [prompts, *self._spans.pop(step)]

    def packed_tokens(self, first: int, last: int) -> int:
        """Tokens that the steps after `first`, up to `last`, read: of episodes and of replay."""
        packed = (last - first) * self.options.replay_rows * self.run.recipe.sequence_length
        return packed + sum(self._trained.get(step, 0) for step in range(first + 1, last + 1))
