"""Positions: the formulas, and what rotations promise."""

import numpy as np
import pytest
import torch

from conftest import tiny_modalities
from naive_model import sincos, turn
from nano4m.config.model import ModelConfig
from nano4m.model.layers import CrossAttention, SelfAttention
from nano4m.model.positions import Positions, rope1d, rope2d, rotate, sincos1d

SEEDS = pytest.mark.parametrize("seed", range(5))


def heads(seed: int, count: int, head_dim: int = 8) -> torch.Tensor:
    """Random queries or keys (1, 2, count, head_dim)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, count, head_dim, generator=draw, dtype=torch.float64)


def places(seed: int, count: int) -> torch.Tensor:
    """Random coordinates (1, count, 2)."""
    draw = torch.Generator().manual_seed(100 + seed)
    return torch.randint(0, 30, (1, count, 2), generator=draw)


def scores(q: torch.Tensor, k: torch.Tensor, target: torch.Tensor, source: torch.Tensor, kind):
    """Scores of turned queries on turned keys."""
    head_dim = q.shape[-1]
    if kind is rope1d:
        target, source = target[..., 0], source[..., 0]
    return rotate(q, kind(target, head_dim)) @ rotate(k, kind(source, head_dim)).mT


def test_sincos1d_equals_the_formula():
    got = sincos1d(torch.arange(512), 64).double().numpy()
    expected = np.stack([sincos(p, 64) for p in range(512)])
    # Angles of hundreds in float32.
    np.testing.assert_allclose(got, expected, atol=4e-5, rtol=0)
    np.testing.assert_allclose(got[:8], expected[:8], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="even width, not 7"):
        sincos1d(torch.arange(3), 7)


@SEEDS
@pytest.mark.parametrize("kind", [rope1d, rope2d])
def test_rotations_equal_complex_numbers_and_keep_lengths(kind, seed):
    q, at = heads(seed, 4), places(seed, 4)
    place = at[..., 0] if kind is rope1d else at
    turned = rotate(q, kind(place, 8))
    for n in range(4):
        where = tuple(at[0, n].tolist())[: 1 if kind is rope1d else 2]
        for h in range(2):
            expected = turn(q[0, h, n].numpy(), where)
            np.testing.assert_allclose(turned[0, h, n].numpy(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.norm(dim=-1), q.norm(dim=-1), atol=1e-6, rtol=0)


@SEEDS
@pytest.mark.parametrize("kind", [rope1d, rope2d])
def test_scores_depend_on_differences_of_coordinates_only(kind, seed):
    q, k, target, source = heads(seed, 3), heads(seed + 9, 5), places(seed, 3), places(seed + 9, 5)
    here = scores(q, k, target, source, kind)
    shift = torch.tensor([17, 5])
    moved = scores(q, k, target + shift, source + shift, kind)
    torch.testing.assert_close(moved, here, atol=5e-5, rtol=0)
    assert (scores(q, k, target, source + shift, kind) - here).abs().max() > 0.1


@SEEDS
def test_two_dimensions_on_one_row_are_one_dimension_of_half_a_head(seed):
    """Half of the pairs stay, the other half turns as a head of half the width does."""
    q, column = heads(seed, 6, head_dim=16), torch.randint(0, 30, (1, 6))
    on_a_row = torch.stack([torch.zeros_like(column), column], dim=-1)
    turned = rotate(q, rope2d(on_a_row, 16))
    still, moves = torch.arange(4), torch.arange(4, 8)
    still, moves = torch.cat([still, still + 8]), torch.cat([moves, moves + 8])
    assert torch.equal(turned[..., still], q[..., still])
    torch.testing.assert_close(turned[..., moves], rotate(q[..., moves], rope1d(column, 8)))


def test_a_row_and_a_column_turn_differently():
    q = heads(0, 1)
    a, b = (rotate(q, rope2d(torch.tensor([[c]]), 8)) for c in ([3, 0], [0, 3]))
    assert (a - b).abs().max() > 0.1


@pytest.mark.parametrize(
    "kind, width, message",
    [(rope1d, 7, "even head_dim, not 7"), (rope2d, 6, "multiple of 4, not 6")],
)
def test_a_head_that_cannot_turn_is_refused(kind, width, message):
    with pytest.raises(ValueError, match=message):
        kind(torch.zeros(1, 1, 2), width)


def test_the_running_index_counts_along_rows_codebooks_and_words():
    modalities = tiny_modalities()
    positions = Positions(ModelConfig(positions="sincos1d", dim=16, head_dim=8), modalities)
    assert positions.table.shape == (8, 16)
    for c, entry in enumerate(modalities):
        coords = torch.tensor([entry.coordinates()])
        got = positions.added(torch.full(coords.shape[:2], c), coords, torch.float32)
        assert torch.equal(got[0], sincos1d(torch.arange(entry.length), 16)), entry.name


@pytest.mark.parametrize("order", ["coarse_first", "delay"])
def test_an_order_of_codebooks_moves_sounds_only_and_needs_one_dimension(order):
    modalities = tiny_modalities()
    size = {"dim": 16, "head_dim": 8}
    plain, ordered = (
        Positions(ModelConfig(positions="sincos1d", codebook_order=o, **size), modalities)
        for o in ("interleave", order)
    )
    for c, entry in enumerate(modalities):
        coords = torch.tensor([entry.coordinates()])
        args = (torch.full(coords.shape[:2], c), coords, torch.float32)
        before, after = plain.added(*args)[0], ordered.added(*args)[0]
        assert torch.equal(ordered.looked_up(*args)[0], after)
        if entry.layout != "codebooks":
            assert torch.equal(before, after)
            continue
        assert not torch.equal(before, after)
        assert torch.equal(before.unique(dim=0), after.unique(dim=0)), "two tokens at one position"
    with pytest.raises(ValueError, match="order of 1-D positions"):
        ModelConfig(positions="rope2d", codebook_order=order)


@pytest.mark.parametrize("kind", [rope1d, rope2d])
def test_self_attention_does_not_see_where_the_whole_stands(kind):
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    attention, at = SelfAttention(16, 8), places(0, 6)
    outputs = []
    for shift in (0, 11):
        place = at + shift
        outputs.append(attention(x, kind(place[..., 0] if kind is rope1d else place, 8)))
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [rope1d, rope2d])
def test_cross_attention_sees_where_the_context_stands(kind):
    """The mistake of turning keys by the places of the queries would not."""
    draw = torch.Generator().manual_seed(0)
    x, context = (torch.randn(1, 4, 16, generator=draw) for _ in range(2))
    attention, target, source = CrossAttention(16, 8), places(0, 4), places(1, 4)

    def seen(target, source):
        pair = (t[..., 0] if kind is rope1d else t for t in (target, source))
        return attention(x, context, *(kind(t, 8) for t in pair))

    here = seen(target, source)
    torch.testing.assert_close(seen(target + 7, source + 7), here, atol=1e-5, rtol=0)
    assert (seen(target, source + 7) - here).abs().max() > 1e-3
    turn_of_tokens = torch.tensor([2, 0, 3, 1])
    context, source = context[:, turn_of_tokens], source[:, turn_of_tokens]
    torch.testing.assert_close(seen(target, source), here, atol=1e-6, rtol=0)
