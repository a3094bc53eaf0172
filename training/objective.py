"""What a step minimises: sums over a micro batch, divided by what the whole step holds. Knows models and tensors.

A step is many forward passes, on one process or several. A mean taken in each would weigh a short answer more in one
pass than in another; so an objective counts the whole step first, and each pass gives its part of the sum.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from training.loss import head_loss
from training.mixing import IGNORED


class Objective(Protocol):
    """A loss over packed rows."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """What this process's micro batches of a step hold, float64 (kinds,); summed over the processes."""
        ...

    def loss(self, model: Any, head: Any, batch: Mapping[str, Any], counts: Tensor) -> Tensor:
        """This micro batch's part of the step's loss, scalar; parts add up to it.

        Args:
            model: as the trainer wrapped it; call it as a module, so that wrappers work.
            head: its output embedding.
            batch: a collated micro batch.
            counts: of the whole step.
        """
        ...


class NextToken:
    """Mean −log p of every token that carries loss."""

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """(tokens that carry loss,)."""
        return torch.stack([(targets_of(batch) != IGNORED).sum() for batch in batches]).sum(0, keepdim=True).double()

    def loss(self, model: Any, head: Any, batch: Mapping[str, Any], counts: Tensor) -> Tensor:
        """Its part of the mean over the step's tokens, in nats."""
        targets = targets_of(batch)
        carries = targets != IGNORED

        def sum_loss(hidden: Tensor) -> Tensor:
            return head_loss(hidden[carries], head.weight, targets[carries])

        with HeadReplaced(head, sum_loss):
            return forward(model, batch) / counts[0].float()


def targets_of(batch: Mapping[str, Any]) -> Tensor:
    """The token that each position should predict, or IGNORED."""
    # the token after the last one of a row is not known, and carries no loss
    return torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    """What the model's head gives for the batch."""
    # position_ids that begin again keep documents of a row apart; a cache or a mask would undo that
    return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits


class HeadReplaced:
    """Within, the head gives `instead(hidden)`, so no logits of the batch ever exist.

    The module stays where it is, so wrappers that gather sharded weights before it is called still do.
    """

    def __init__(self, head: Any, instead: Any) -> None:
        self.head, self.instead = head, instead

    def __enter__(self) -> None:
        self.head.forward = self.instead

    def __exit__(self, *_: object) -> None:
        del self.head.forward
