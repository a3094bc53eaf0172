"""What a step minimises: sums over a micro batch, divided by what the whole step holds. Knows models and tensors.

A step is many forward passes, on one process or several. A mean taken in each would weigh a short answer more in one
pass than in another; so an objective counts the whole step first, and each pass gives its part of the sum.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from training.loss import Near, head_loss
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


@dataclass(frozen=True)
class StartModel:
    """The model that a run started from, to look at while another is trained.

    With adapters it is the trained model itself, its adapters switched off; else a second copy of the weights.
    """

    model: Any

    def hidden(self, batch: Mapping[str, Any], carries: Tensor) -> tuple[Tensor, Tensor]:
        """(hidden states of the positions in `carries`, matrix of the head), without gradient."""
        head = self.model.get_output_embeddings()
        with torch.no_grad(), _adapters_off(self.model), HeadReplaced(head, lambda hidden: hidden[carries]):
            return forward(self.model, batch), head.weight.detach()


@contextmanager
def _adapters_off(model: Any) -> Iterator[None]:
    """Without adapters, and without dropout: what the start says is one thing."""
    training = model.training
    model.eval()
    try:
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                yield
        else:
            yield
    finally:
        model.train(training)


@dataclass
class NextToken:
    """Weighted mean of −log p of every token that carries loss; with `near`, plus `kl` times KL(start ‖ model).

    A token weighs what its row weighs, 1 where a batch says nothing; so a row given twice, once with each answer and
    with weights that add up to 1, is one row with a soft target.
    """

    kl: float = 0.0
    near: StartModel | None = None

    def counts(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """(weight of all tokens that carry loss,): their number, where all weigh the same."""
        sums = [_weights(batch)[targets_of(batch) != IGNORED].double().sum() for batch in batches]
        return torch.stack(sums).sum(0, keepdim=True)

    def loss(self, model: Any, head: Any, batch: Mapping[str, Any], counts: Tensor) -> Tensor:
        """Its part of the weighted mean over the step's tokens, in nats."""
        targets = targets_of(batch)
        carries = targets != IGNORED
        near = Near(*self.near.hidden(batch, carries), self.kl) if self.near is not None else None

        weights = _weights(batch)[carries]
        weighs = None if bool((weights == 1).all()) else weights

        def sum_loss(hidden: Tensor) -> Tensor:
            return head_loss(hidden[carries], head.weight, targets[carries], near, weighs)

        with HeadReplaced(head, sum_loss):
            return forward(model, batch) / counts[0].float()


def targets_of(batch: Mapping[str, Any]) -> Tensor:
    """The token that each position should predict, or IGNORED."""
    # the token after the last one of a row is not known, and carries no loss
    return torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)


def _weights(batch: Mapping[str, Any]) -> Tensor:
    """What the loss of each target weighs: that of the token that is predicted, as `targets_of` shifts."""
    labels = batch["labels"]
    given = batch.get("weights")
    if given is None:
        return torch.ones(labels.shape, device=labels.device)
    return torch.nn.functional.pad(given[:, 1:], (0, 1), value=1.0)


def forward(model: Any, batch: Mapping[str, Any]) -> Any:
    """What the model's head gives for the batch."""
    # position_ids that begin again keep documents of a row apart; a cache or a mask would undo that
    return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits


class HeadReplaced:
    """Within, the head gives `instead(hidden)`, so no logits of the batch ever exist.

    The module stays where it is, so wrappers that gather sharded weights before it is called still do.
    """

    def __init__(self, head: Any, instead: Callable[[Tensor], Tensor]) -> None:
        self.head, self.instead = head, instead

    def __enter__(self) -> None:
        self.head.forward = self.instead

    def __exit__(self, *_: object) -> None:
        del self.head.forward
