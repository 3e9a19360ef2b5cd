"""The chunked cross-entropy against PyTorch's own in float64: values, gradients, chunks, types."""

import pytest
import torch
import torch.nn.functional as F

from nano4m.training import loss
from nano4m.training.loss import linear_cross_entropy

ROWS, DIM, VOCAB = 13, 8, 37


def both(dtype: torch.dtype, cap: float, factor: float) -> tuple[list, list]:
    """Return value, gradient of states and of weight: ours, and those of plain steps in float64."""
    draw = torch.Generator().manual_seed(0)
    states = 3 * torch.randn(ROWS, DIM, generator=draw, dtype=torch.float64)
    weight = torch.randn(VOCAB, DIM, generator=draw, dtype=torch.float64)
    ids = torch.randint(VOCAB, (ROWS,), generator=draw)
    found = []
    for kind in (dtype, torch.float64):
        # Both start from the numbers that the narrower type can hold.
        own = [t.to(dtype).to(kind).requires_grad_() for t in (states, weight)]
        if kind == dtype and not found:
            total = linear_cross_entropy(*own, ids, cap)
        else:
            score = own[0] @ own[1].T
            score = cap * torch.tanh(score / cap) if cap else score
            total = F.cross_entropy(score, ids, reduction="sum")
        (factor * total).backward()
        found.append([total.detach(), own[0].grad, own[1].grad])
    return found[0], found[1]


@pytest.mark.parametrize("rows", [1, 4, 12, 13, 100])
@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize(
    "dtype, limit", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
def test_value_and_gradients_do_not_depend_on_chunks(monkeypatch, rows, cap, dtype, limit):
    monkeypatch.setattr(loss, "MOST_LOGITS", rows * VOCAB)
    ours, plain = both(dtype, cap, factor=0.7)
    assert ours[0].dtype == torch.promote_types(dtype, torch.float32)
    for mine, theirs in zip(ours, plain, strict=True):
        scale = float(theirs.abs().max())
        assert float((mine.double() - theirs).abs().max()) < limit * scale


def test_a_target_of_no_probability_has_its_finite_loss():
    states = torch.tensor([[200.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert float(linear_cross_entropy(states, weight, torch.tensor([1]))) == pytest.approx(400.0)


def test_no_target_gives_zero_and_zero_gradients():
    states = torch.zeros(0, DIM, requires_grad=True)
    weight = torch.ones(VOCAB, DIM, requires_grad=True)
    total = linear_cross_entropy(states, weight, torch.zeros(0, dtype=torch.int64))
    total.backward()
    assert float(total.detach()) == 0.0 and weight.grad is not None
    assert not bool(weight.grad.any()) and states.grad is not None


def test_the_weights_gradient_is_summed_in_float32(monkeypatch):
    """Many chunks in bf16: a sum in bf16 would stop growing at 256 times its part."""
    monkeypatch.setattr(loss, "MOST_LOGITS", 2)
    states = torch.ones(2000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    linear_cross_entropy(states, weight, torch.zeros(2000, dtype=torch.int64)).backward()
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [-1000.0, 1000.0]
