"""Known ways to lose a codebook, planted and told from the way it is trained here.

A small autoencoder over vectors of 200 clusters; as many vectors in a batch as there are codes.
"""

import pytest
import torch
from torch import nn
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook, VectorQuantize

from nano4m.compute.on_device import seeded
from nano4m.tokenizers import quantize
from nano4m.tokenizers.quantize import LAST_REVIVAL, Autoencoder, Quantizer, train_autoencoder

VOCAB, WIDTH, POSITIONS, BATCH = 256, 16, 8, 32
STEPS = 80
LOST, KEPT = 0.5, 0.7
"""Shares of used codes below which a codebook counts as lost, and above which as kept."""


def vectors(generator: torch.Generator, count: int = BATCH) -> torch.Tensor:
    """Return (count, WIDTH, POSITIONS), noisy members of 200 clusters."""
    centres = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(5))
    own = centres[torch.randint(200, (count * POSITIONS,), generator=generator)]
    noise = 0.1 * torch.randn(own.shape, generator=generator)
    return (own + noise).view(count, POSITIONS, WIDTH).transpose(1, 2)


def books(net: Autoencoder) -> list[Codebook]:
    return [m for m in net.modules() if isinstance(m, Codebook)]


def network(codebooks: int = 1) -> Autoencoder:
    def layers(inside: int, outside: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv1d(inside, 64, 1), nn.SiLU(), nn.Conv1d(64, outside, 1))

    return Autoencoder(
        layers(WIDTH, 8), Quantizer("vq", 8, VOCAB, codebooks), layers(8, WIDTH)
    )  # fmt: skip


def without_revival(net: Autoencoder) -> None:
    net.quantizer._set_revival = lambda _: [
        setattr(book, "has_dead_code_replacement", False) for book in books(net)
    ]


def train(net: Autoencoder, seed: int, plain_share: float = 0.2, steps: int = STEPS) -> None:
    train_autoencoder(
        net, vectors, nn.functional.mse_loss, steps=steps, lr=3e-3, seed=seed, title="fit",
        plain_share=plain_share,
    )  # fmt: skip


@torch.no_grad()
def used_share(net: Autoencoder) -> float:
    """Return the share of codes that held-out vectors use, of the least used codebook."""
    ids = net.ids(vectors(torch.Generator().manual_seed(99), 8 * BATCH))
    return min(len(own.unique()) / VOCAB for own in ids.unbind(-1))


@pytest.mark.parametrize("seed, codebooks", [(0, 1), (1, 2)])
def test_a_codebook_as_large_as_a_batch_is_used(seed, codebooks):
    with seeded(seed):
        net = network(codebooks)
        train(net, seed)
    assert used_share(net) > KEPT


@pytest.mark.parametrize("seed", [0])
def test_the_rotation_trick_without_revival_loses_most_codes(seed):
    """With revival it keeps them: the trick alone is no cure for a bad start."""
    found = {}
    for revives in (False, True):
        with seeded(seed):
            net = network()
            for module in net.modules():
                if isinstance(module, VectorQuantize):
                    module.rotation_trick = True
            for book in books(net):
                book.initted.fill_(True)  # codes as drawn, no k-means
            if not revives:
                without_revival(net)
            train(net, seed, plain_share=0)
        found[revives] = used_share(net)
    assert found[False] < LOST and found[True] > KEPT, found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("is_planted", [False, True])
def test_k_means_and_moving_averages_go_together(seed, is_planted, monkeypatch):
    """Sums that start as means, not sums, take every code to the origin at the second step."""
    start = Codebook.init_embed_

    def means_for_sums(self, *args, **options):
        was = bool(self.initted)
        start(self, *args, **options)
        if not was:
            self.embed_avg.copy_(self.embed)

    if is_planted:
        monkeypatch.setattr(Codebook, "init_embed_", means_for_sums)
    with seeded(seed):
        net = network()
        without_revival(net)
        train(net, seed, steps=20)  # a trained encoder, and a codebook of its outputs
        for book in books(net):
            book.initted.fill_(False)
        net.train()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            many = torch.cat([net.encoder(vectors(generator)) for _ in range(4)])
            before = books(net)[0]
            before.init_embed_(many.transpose(1, 2).flatten(0, 1)[None])
            norm = float(before.embed.norm(dim=-1).mean())
            net(vectors(generator))
            after = float(books(net)[0].embed.norm(dim=-1).mean())
    assert (after < 0.7 * norm) == is_planted, (norm, after)


@pytest.mark.parametrize("vocab", [64, 512])
def test_few_codes_are_replaced_late_whatever_their_number(vocab, monkeypatch):
    """With one vector a code, an absolute count of one replaced a fourth of them at every step."""
    found: dict[str, list[float]] = {}
    for name in ("share", "count"):
        replaced = found[name] = []
        with seeded(0):
            quantizer = Quantizer("vq", 8, vocab).train()
        if name == "count":
            monkeypatch.setattr(quantize, "DEAD_SHARE", 1.0)

        def replace(self, samples, batch_mask, kept=replaced, work=Codebook.replace, **options):
            kept.append(float(batch_mask.float().mean()))
            return work(self, samples, batch_mask, **options)

        monkeypatch.setattr(Codebook, "replace", replace)
        g = torch.Generator().manual_seed(0)
        with torch.no_grad():
            quantizer(torch.randn(2, vocab, 8, generator=g))
            for _ in range(30):
                replaced_before = len(replaced)
                quantizer(torch.randn(1, vocab, 8, generator=g))
                if len(replaced) == replaced_before:
                    replaced.append(0.0)
        monkeypatch.undo()
    late = {name: sum(own[-10:]) / 10 for name, own in found.items()}
    assert late["share"] < 0.05 < 0.15 < late["count"], late


def test_no_code_is_revived_in_the_last_fifth(monkeypatch):
    steps, seen = 20, []
    expire = Codebook.expire_codes_

    def note(self, *args, **options):
        if self.training:
            seen.append(self.has_dead_code_replacement)
        return expire(self, *args, **options)

    monkeypatch.setattr(Codebook, "expire_codes_", note)
    with seeded(0):
        train(network(), 0, plain_share=0, steps=steps)
    first, *rest = seen  # the start of the codebook, then the steps
    assert rest == [step < LAST_REVIVAL * steps for step in range(steps)] and not rest[-1]
