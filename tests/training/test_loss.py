"""The head's loss in blocks is cross-entropy: value and both gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from training import loss as module
from training.loss import head_loss


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("block", [1, 1 << 30])
def test_value_and_gradients_are_those_of_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, tolerance: float, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 24, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(101, 24, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(101, (70,), generator=generator)
    (head_loss(hidden, weight, targets) * 0.25).backward()
    found = hidden.grad, weight.grad
    other = [t.detach().float().requires_grad_() for t in (hidden, weight)]
    expected = cross_entropy(other[0] @ other[1].T, targets, reduction="sum")
    (expected * 0.25).backward()
    assert head_loss(hidden, weight, targets).item() == pytest.approx(expected.item(), rel=tolerance)
    for mine, theirs in zip(found, (other[0].grad, other[1].grad), strict=True):
        assert mine is not None and theirs is not None
        assert mine.dtype == dtype
        assert (mine.float() - theirs).abs().max() <= tolerance * theirs.abs().max()
