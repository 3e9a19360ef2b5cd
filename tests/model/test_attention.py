"""Attention and MLP by each of their ways, and what is held for the backward pass."""

import math

import numpy as np
import pytest
import torch

from nano4m.model import attention as attention_ways
from nano4m.model import layers
from nano4m.model.attention import attention
from nano4m.model.layers import CrossAttention, Mlp, SelfAttention

WAYS = {
    "plain": (False, 1 << 15),
    "scores made anew": (False, 0),
    "fused, scores made anew": (True, 0),
    "fused": (True, 1 << 15),
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Take one way, whatever this machine has."""
    tiles, most = WAYS[request.param]
    monkeypatch.setattr(attention_ways, "has_tiles", lambda: tiles)
    monkeypatch.setattr(attention_ways, "MOST_SCORES", most)
    return request.param


def _naive_attention(q, k, v):
    """Attention of one head by loops, in float64: q (M, K), k and v (N, K)."""
    out = np.zeros((len(q), v.shape[1]))
    for i in range(len(q)):
        scores = np.array([q[i] @ k[j] / math.sqrt(q.shape[1]) for j in range(len(k))])
        weights = np.exp(scores - scores.max())
        out[i] = (weights / weights.sum()) @ v
    return out


def test_attention_equals_a_loop_over_heads(way):
    draw = torch.Generator().manual_seed(0)
    x, c = (torch.randn(2, n, 12, generator=draw, dtype=torch.float64) for n in (3, 5))
    own, cross = SelfAttention(12, 4).double(), CrossAttention(12, 4).double()
    for module, context in ((own, x), (cross, c)):
        got = module(x) if module is own else module(x, c)
        for b in range(2):
            if module is own:
                q, k, v = np.split((x[b] @ own.qkv.weight.T).detach().numpy(), 3, axis=1)
            else:
                q = (x[b] @ cross.q.weight.T).detach().numpy()
                k, v = np.split((context[b] @ cross.kv.weight.T).detach().numpy(), 2, axis=1)
            spans = [slice(h * 4, h * 4 + 4) for h in range(3)]
            heads = [_naive_attention(q[:, s], k[:, s], v[:, s]) for s in spans]
            expected = np.concatenate(heads, axis=1) @ module.out.weight.detach().numpy().T
            np.testing.assert_allclose(got[b].detach().numpy(), expected, atol=1e-12)


def _inputs(dtype, queries=6, keys=9):
    draw = torch.Generator().manual_seed(1)
    shapes = [(2, queries, 3, 8), (2, keys, 3, 8), (2, keys, 3, 8)]
    # Heads lie side by side, as projections leave them: no way may count on contiguous ones.
    drawn = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    return [t.to(dtype).transpose(1, 2).requires_grad_() for t in drawn]


def test_gradients_are_those_of_finite_differences(way):
    assert torch.autograd.gradcheck(attention, _inputs(torch.float64))


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)]
)
def test_gradients_agree_with_float64(way, dtype, tolerance):
    found = []
    for kind in (dtype, torch.float64):
        inputs = [t.detach().to(kind).requires_grad_() for t in _inputs(dtype)]
        out = attention(*inputs)
        out.square().sum().backward()
        assert out.dtype == kind
        found.append([out.detach().double(), *(t.grad.double() for t in inputs)])
    for got, wanted in zip(*found, strict=True):
        assert float((got - wanted).abs().max()) < tolerance * float(wanted.abs().max())


def _held(call, total=False):
    """Return how many numbers the largest tensor has that a graph holds, or all of them."""
    sizes = [0]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        call()
    return sum(sizes) if total else max(sizes)


def test_many_scores_are_not_held_and_few_are(monkeypatch):
    monkeypatch.setattr(attention_ways, "has_tiles", lambda: False)
    inputs = _inputs(torch.float32, queries=64, keys=96)
    scores = 2 * 3 * 64 * 96
    assert _held(lambda: attention(*inputs)) == scores
    monkeypatch.setattr(attention_ways, "MOST_SCORES", 64 * 96 - 1)
    assert _held(lambda: attention(*inputs)) == 2 * 3 * 96 * 8


def test_nothing_is_held_where_nothing_learns(way):
    inputs = [t.detach() for t in _inputs(torch.float32)]
    assert not attention(*inputs).requires_grad
    with torch.no_grad():
        assert _held(lambda: attention(*_inputs(torch.float32))) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_mlp_that_makes_its_gelu_anew_computes_the_same(monkeypatch, dtype):
    draw = torch.Generator().manual_seed(0)
    mlp = Mlp(8, 32).to(dtype)
    x = torch.randn(2, 5, 8, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    found, held = [], []
    for most in (1 << 22, 2 * 5 * 32 - 1):
        monkeypatch.setattr(layers, "MOST_HIDDEN", most)
        graph = []
        held.append(_held(lambda graph=graph: graph.append(mlp(x)), total=True))
        grads = torch.autograd.grad(graph[0].square().sum(), [x, *mlp.parameters()])
        found.append([graph[0], *grads])
    for kept, anew in zip(*found, strict=True):
        assert torch.equal(kept, anew)
    assert held[0] - held[1] == 2 * 5 * 32
