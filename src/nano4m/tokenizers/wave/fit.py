"""The loop that trains ``wave_vq``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nano4m.compute.on_device import fused, ordered_sums, repeatable
from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.progress import bar
from nano4m.tokenizers.quantize import LAST_REVIVAL, Autoencoder

PLAIN_SHARE = 0.2
"""Share of the steps that train a plain autoencoder, from whose latents k-means starts."""

WARMUP_SHARE, LAST_SHARE = 0.05, 0.01
"""Warm-up of the cosine schedules as a share of the steps, and their last rate over the peak."""


def learning_rate(section: WaveVQ, step: int) -> float:
    """Return the rate of a step over its peak, 0 < rate <= 1.

    With warm restarts (Loshchilov and Hutter 2017, arXiv:1608.03983) the cosine begins anew
    every ``restart_share`` of the steps.
    """
    warm = section.steps * (0.15 if section.schedule == "one_cycle" else WARMUP_SHARE)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(section.steps - warm, 1)
    if section.schedule == "warm_restarts" and 0 < section.restart_share < 1:
        done = (done / section.restart_share) % 1
    return LAST_SHARE + (1 - LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


def clip_gradients(parameters: list[nn.Parameter], most: float | None) -> None:
    """Scale gradients so that their common norm is at most ``most``; none: leave them."""
    if most is not None:
        nn.utils.clip_grad_norm_(parameters, most)


def train_wave(
    net: Autoencoder,
    batch: Callable[[torch.Generator], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    section: WaveVQ,
    seed: int,
) -> None:
    """Train ``net`` in place, where it is, on batches drawn with a CPU generator of ``seed``.

    The codebooks' library draws from the global random streams: call this inside ``seeded``.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(net.parameters()).device
    plain = 0 if section.quantizer == "fsq" else int(section.steps * PLAIN_SHARE)
    weights = list(net.parameters())
    optimizer = torch.optim.AdamW(
        weights, section.lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=fused(device)
    )
    net.train()
    with repeatable(device), bar("fit sound", section.steps, "step") as progress:
        for step in range(section.steps):
            real = batch(generator)
            if step == plain and section.quantizer == "vq":
                start_codebook(net, real, batch, generator)
            net.quantizer.revives = step < LAST_REVIVAL * section.steps
            for group in optimizer.param_groups:
                group["lr"] = section.lr * learning_rate(section, step)
            made, extra = net(real, quantize=step >= plain)
            loss = loss_fn(made, real) + extra
            optimizer.zero_grad()
            loss.backward()
            clip_gradients(weights, section.clip_norm)
            optimizer.step()
            progress.advance(note=f"loss {loss.item():.4f}" if step % 20 == 0 else None)
    net.eval()


@torch.no_grad()
def start_codebook(
    net: Autoencoder,
    first: Tensor,
    batch: Callable[[torch.Generator], Tensor],
    generator: torch.Generator,
) -> None:
    """Let k-means start the codebooks from several vectors a code."""
    vectors = [net.encoder(first).transpose(1, 2).flatten(0, 1)]
    wanted = 8 * net.quantizer.vocab
    while sum(map(len, vectors)) < wanted and len(vectors) < 256:
        vectors.append(net.encoder(batch(generator)).transpose(1, 2).flatten(0, 1))
    together = torch.cat(vectors)[None]
    with ordered_sums(together.device):
        net.quantizer(together)
