"""Attention and gate as one step: values and gradients of the plain operations."""

import pytest
import torch
import torch.nn.functional as F

from nano4m.model import cpu_blocks
from nano4m.model.cpu_blocks import RotationTables, cross_attention, gated, self_attention
from nano4m.model.positions import rope1d, rope2d, rotate

HEADS, WIDTH = 3, 8


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


def angles(kind, batch, length, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind is None:
        return None
    if kind == "rope1d":
        return rope1d(torch.randint(50, (batch, length), generator=generator), WIDTH)
    return rope2d(torch.randint(9, (batch, length, 2), generator=generator), WIDTH)


def written_out(q, k, v, query, key):
    """Attention as in its definition, one head at a time."""
    out = []
    for head in range(HEADS):
        own = slice(head * WIDTH, (head + 1) * WIDTH)
        a, b, c = (t[:, None, :, own] for t in (q, k, v))
        if query is not None:
            a, b = rotate(a, query), rotate(b, key)
        out.append((a @ b.mT / WIDTH**0.5).softmax(-1) @ c)
    return torch.cat(out, -1)[:, 0]


@pytest.fixture(params=[0, 1 << 15], ids=["computed again", "kept"])
def scores(request, monkeypatch):
    monkeypatch.setattr(cpu_blocks, "MOST_SCORES", request.param)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("kind", [None, "rope1d", "rope2d"])
def test_self_attention_is_that_of_the_definition(kind, tiles, scores, monkeypatch):
    monkeypatch.setattr(cpu_blocks, "has_tiles", lambda: tiles)
    x, d = draw(2, 7, 3 * HEADS * WIDTH), draw(2, 7, HEADS * WIDTH, seed=1).detach()
    turn = angles(kind, 2, 7, seed=2)
    found = self_attention(x, WIDTH, turn)
    (grad,) = torch.autograd.grad(found, x, d)
    wanted = written_out(*x.chunk(3, -1), turn, turn)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(grad, torch.autograd.grad(wanted, x, d)[0])
    with torch.no_grad():
        torch.testing.assert_close(self_attention(x, WIDTH, turn), wanted)


@pytest.mark.parametrize("kind", [None, "rope1d", "rope2d"])
def test_cross_attention_is_that_of_the_definition(kind, scores):
    q, kv = draw(2, 5, HEADS * WIDTH), draw(2, 9, 2 * HEADS * WIDTH, seed=1)
    d = draw(2, 5, HEADS * WIDTH, seed=2).detach()
    query, key = angles(kind, 2, 5, 3), angles(kind, 2, 9, 4)
    found = cross_attention(q, kv, WIDTH, query, key)
    wanted = written_out(q, *kv.chunk(2, -1), query, key)
    torch.testing.assert_close(found, wanted)
    for mine, other in zip(
        torch.autograd.grad(found, (q, kv), d), torch.autograd.grad(wanted, (q, kv), d), strict=True
    ):
        torch.testing.assert_close(mine, other)


def test_tables_are_made_once_and_serve_any_block():
    turn = angles("rope1d", 2, 7, 0)
    tables = RotationTables(turn, HEADS)
    x = draw(2, 7, 3 * HEADS * WIDTH)
    assert torch.equal(self_attention(x, WIDTH, tables), self_attention(x, WIDTH, turn))
    first = tables.scaled(torch.float64, 1.0)
    assert tables.scaled(torch.float64, 1.0) is first
    assert tables.scaled(torch.bfloat16, 1.0)[0].dtype == torch.bfloat16


def test_gradients_are_those_of_differences():
    x = draw(1, 3, 3 * 4)
    turn = rope1d(torch.tensor([[0, 3, 5]]), 4)
    turn = type(turn)(*(t.double() for t in turn))
    assert torch.autograd.gradcheck(lambda x: self_attention(x, 4, turn), x, fast_mode=True)
    assert torch.autograd.gradcheck(gated, draw(2, 3, 8), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gate_is_its_definition(dtype):
    up, d = draw(2, 5, 12, dtype=dtype), draw(2, 5, 6, seed=1, dtype=dtype).detach()
    gate, value = up.chunk(2, -1)
    wanted = F.silu(gate) * value
    torch.testing.assert_close(gated(up), wanted, rtol=0, atol=0)
    mine, other = (torch.autograd.grad(y, up, d)[0] for y in (gated(up), wanted))
    torch.testing.assert_close(mine, other)
