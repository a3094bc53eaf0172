"""The project's trainer, whose batches are sampled when their step begins. Knows one process of one run."""

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from training.rl.episodes import Episode
from training.rl.loss import batch_of, split
from training.rl.stream import Places
from training.trainer import RecipeTrainer


class Episodes(Protocol):
    """Where a step's episodes come from."""

    def of(self, step: int) -> list[Episode]:
        """Scored, and recorded: asked again, the same."""
        ...


class PolicyTrainer(RecipeTrainer):
    """The trainer of a recipe with episodes for batches."""

    def __init__(self, *, places: Places, episodes: Episodes, **options: Any) -> None:
        super().__init__(**options)
        self.places, self.episodes = places, episodes

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro batches of the step that comes, its episodes among them."""
        taken = list(itertools.islice(epoch_iterator, num_batches))
        if taken:
            self._fill(taken, device)
        return taken, self._get_num_items_in_batch(taken, device)

    def _fill(self, taken: list[Any], device: torch.device) -> None:
        options, run = self.places.options, self.places.run
        step = self.state.global_step + 1
        episodes = self.episodes.of(step)
        strands = [(episode, strand) for episode in episodes for strand in episode.sequences]
        pad = run.tokenizer.eos_token_id
        batches = [
            batch_of(part, mask_truncated=options.mask_truncated, pad=pad)
            for part in split(strands, options.passes(run.recipe.micro_batch))
        ]
        places = [at for at, batch in enumerate(taken) if "place" in batch]
        for at, batch in zip(places, batches, strict=True):
            taken[at] = {name: part.to(device) for name, part in batch.items()}
        learned = sum(int((batch["labels"] >= 0).sum()) for batch in batches)
        self.places.note(step, learned, sum(batch["input_ids"].numel() for batch in batches))
