"""Losses at a language model's head without the logits of the whole batch. Knows tensors only.

A batch of 8,192 tokens and 50,000 words has 1.6 GB of float32 logits, and as much again for their gradient. Here the
head works in blocks of rows: each block's logits live only until their gradient is taken. Where the loss is a sum over
tokens that is done in the forward pass, so nothing is computed twice; where it is not (`token_logps`), the backward
pass computes them again. Results are those of `torch.nn.functional.cross_entropy` and `kl_div` up to rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = 64 << 20
"""Float32 logits that are held at once."""


@dataclass(frozen=True, slots=True)
class Near:
    """A second model that the first shall stay near to, at the same positions."""

    hidden_TD: Tensor
    weight_VD: Tensor
    weight: float
    """Of KL(second ‖ first), summed over the positions."""


class _HeadLoss(torch.autograd.Function):
    """Sum of −log p(target), with the gradients of hidden states and weight computed on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, near: Near | None, weights_T: Tensor | None
    ) -> Tensor:
        total = hidden_TD.new_zeros((), dtype=torch.float32)
        needs_weight = ctx.needs_input_grad[1]
        grad_hidden = torch.empty_like(hidden_TD)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None
        for rows in _blocks(hidden_TD, weight_VD):
            part, wanted = hidden_TD[rows], targets_T[rows, None]
            logits = _logits(part, weight_VD)
            logps = logits - logits.logsumexp(-1, keepdim=True)
            found = logps.gather(1, wanted)
            # d loss / d logits = softmax − one-hot
            p = logps.exp()
            grad = p.scatter_add(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype))
            if weights_T is not None:
                found, grad = found * weights_T[rows, None], grad * weights_T[rows, None]
            total -= found.sum()
            if near is not None:  # d KL(q ‖ p) / d logits = p − q
                other = torch.log_softmax(_logits(near.hidden_TD[rows], near.weight_VD), -1)
                q = other.exp()
                total += near.weight * (q * (other - logps)).sum()
                grad += near.weight * (p - q)
            grad = grad.to(part.dtype)
            grad_hidden[rows] = grad @ weight_VD.to(part.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ part).float()
        ctx.save_for_backward(grad_hidden, *([grad_weight] if grad_weight is not None else []))
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        grad_hidden, *rest = ctx.saved_tensors
        weight = (rest[0] * grads[0]).to(ctx.weight_dtype) if rest else None
        return grad_hidden * grads[0].to(grad_hidden.dtype), weight, None, None, None


class _TokenLogps(torch.autograd.Function):
    """log p(target) of each position; the backward pass computes the logits a second time."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
        found, norms = (torch.empty(len(hidden_TD), dtype=torch.float32, device=hidden_TD.device) for _ in range(2))
        for rows in _blocks(hidden_TD, weight_VD):
            logits = _logits(hidden_TD[rows], weight_VD)
            norms[rows] = logits.logsumexp(-1)
            found[rows] = logits.gather(1, targets_T[rows, None])[:, 0] - norms[rows]
        ctx.save_for_backward(hidden_TD, weight_VD, targets_T, norms)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        hidden_TD, weight_VD, targets_T, norms = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_TD)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for rows in _blocks(hidden_TD, weight_VD):
            part, wanted = hidden_TD[rows], targets_T[rows, None]
            p = (_logits(part, weight_VD) - norms[rows, None]).exp_()
            grad = p.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=p.dtype)) * -grads[0][rows, None]
            grad = grad.to(part.dtype)
            grad_hidden[rows] = grad @ weight_VD.to(part.dtype)
            if grad_weight is not None:
                grad_weight += (grad.T @ part).float()
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight_VD.dtype), None


def head_loss(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    near: Near | None = None,
    weights_T: Tensor | None = None,
) -> Tensor:
    """Sum of −log p(target) over positions, in nats, float32 scalar; with `near`, its weighted divergence is added.

    Args:
        hidden_TD: hidden states of the positions that carry loss.
        weight_VD: the head's matrix.
        targets_T: int64 tokens that should come next.
        near: another model's hidden states of the same positions, and its head. Takes no gradient.
        weights_T: float32, what each −log p counts; default: 1. The divergence is not weighted by it.
    """
    found = _HeadLoss.apply(hidden_TD, weight_VD, targets_T, near, weights_T)
    assert isinstance(found, Tensor)
    return found


def token_logps(hidden_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """log p(target) of each position, in nats, float32 (T,); arguments as of `head_loss`."""
    found = _TokenLogps.apply(hidden_TD, weight_VD, targets_T)
    assert isinstance(found, Tensor)
    return found


def _blocks(hidden_TD: Tensor, weight_VD: Tensor) -> Iterator[slice]:
    rows = max(16, BLOCK_BYTES // (4 * weight_VD.shape[0]))
    for start in range(0, len(hidden_TD), rows):
        yield slice(start, start + rows)


def _logits(hidden_TD: Tensor, weight_VD: Tensor) -> Tensor:
    return (hidden_TD @ weight_VD.to(hidden_TD.dtype).T).float()
