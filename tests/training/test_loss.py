"""The head's loss in blocks is cross-entropy: value and both gradients."""

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from training import loss as module
from training.loss import Near, head_loss, token_logps


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


@pytest.mark.parametrize("block", [1, 1 << 30])
def test_token_log_probabilities_and_their_gradients_are_those_of_log_softmax(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 24, generator=generator).requires_grad_()
    weight = torch.randn(101, 24, generator=generator).requires_grad_()
    targets = torch.randint(101, (70,), generator=generator)
    factors = torch.randn(70, generator=generator)  # another weight for each token
    found = token_logps(hidden, weight, targets)
    (found * factors).sum().backward()
    mine = hidden.grad, weight.grad
    other = [t.detach().requires_grad_() for t in (hidden, weight)]
    expected = (other[0] @ other[1].T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (expected * factors).sum().backward()
    assert torch.allclose(found, expected, atol=1e-4)
    for ours, theirs in zip(mine, (other[0].grad, other[1].grad), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("block", [1, 1 << 30])
def test_a_near_model_adds_its_divergence(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    hidden, start = (torch.randn(40, 24, generator=generator) for _ in range(2))
    weight, start_weight = (torch.randn(101, 24, generator=generator) for _ in range(2))
    targets = torch.randint(101, (40,), generator=generator)
    hidden.requires_grad_(), weight.requires_grad_()
    found = head_loss(hidden, weight, targets, Near(start, start_weight, 0.3))
    found.backward()
    mine = hidden.grad, weight.grad
    other = [t.detach().requires_grad_() for t in (hidden, weight)]
    logits = other[0] @ other[1].T
    q = (start @ start_weight.T).log_softmax(-1)
    divergence = kl_div(logits.log_softmax(-1), q, reduction="sum", log_target=True)
    expected = cross_entropy(logits, targets, reduction="sum") + 0.3 * divergence
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(mine, (other[0].grad, other[1].grad), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("block", [1, 1 << 30])
def test_weights_count_each_position_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(70, 24, generator=generator).requires_grad_()
    weight = torch.randn(101, 24, generator=generator).requires_grad_()
    targets = torch.randint(101, (70,), generator=generator)
    weights = torch.rand(70, generator=generator) * 3
    found = head_loss(hidden, weight, targets, None, weights)
    found.backward()
    mine = hidden.grad, weight.grad
    other = [t.detach().requires_grad_() for t in (hidden, weight)]
    expected = (cross_entropy(other[0] @ other[1].T, targets, reduction="none") * weights).sum()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for ours, theirs in zip(mine, (other[0].grad, other[1].grad), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
