"""The loop that trains ``wave_vq``: encoder, codebooks, decoder, and discriminators."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from nano4m.compute.on_device import fused, ordered_sums, repeatable
from nano4m.config.tokenizers.wave_vq import WaveVQ
from nano4m.progress import bar
from nano4m.tokenizers.decoders.istft import IstftDecoder
from nano4m.tokenizers.quantize import LAST_REVIVAL, Autoencoder
from nano4m.tokenizers.wave.discriminators import (
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)

Batch = Callable[[torch.Generator], Tensor]
"""Returns a step's sounds, (B, samples), from a CPU generator."""

Watch = Callable[[int, float, Autoencoder], None]

PLAIN_SHARE = 0.2
"""Share of the steps that train a plain autoencoder, from whose latents k-means starts."""

WARMUP_SHARE, LAST_SHARE = 0.05, 0.01
"""Warm-up as a share of the steps, and the last rate over the peak."""

DISCRIMINATOR_LR = 5e-4

EVERY_CROP = 4
"""Discriminators see every fourth crop of a step: they cost more than all else together."""


def learning_rate(section: WaveVQ, step: int) -> float:
    """Return the rate of a step over its peak, 0 < rate <= 1: a warm-up, then a cosine.

    With warm restarts (Loshchilov and Hutter 2017, arXiv:1608.03983) the cosine begins anew
    every ``restart_share`` of the steps.
    """
    warm = section.steps * WARMUP_SHARE
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(section.steps - warm, 1)
    if section.schedule == "warm_restarts" and 0 < section.restart_share < 1:
        done = (done / section.restart_share) % 1
    return LAST_SHARE + (1 - LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * done))


class Average:
    """Exponential moving average of weights, which starts as their plain mean."""

    def __init__(self, weights: Iterable[nn.Parameter], decay: float) -> None:
        self.weights, self.decay, self.steps = list(weights), decay, 0
        self.means = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of a step."""
        self.steps += 1
        own = min(self.decay, 1 - 1 / self.steps)
        for mean, weight in zip(self.means, self.weights, strict=True):
            mean.lerp_(weight, 1 - own)

    @torch.no_grad()
    def keep(self) -> None:
        """Put the average in the place of the weights."""
        for mean, weight in zip(self.means, self.weights, strict=True):
            weight.copy_(mean)


class Adversary:
    """Discriminators with their optimizer: one step of theirs, and the loss that they give."""

    def __init__(self, section: WaveVQ, device: torch.device) -> None:
        self.section, self.nets = section, Discriminators(section).to(device)
        self.optimizer = torch.optim.AdamW(
            self.nets.parameters(), DISCRIMINATOR_LR, betas=(0.5, 0.9), fused=fused(device)
        )

    def step(self, made: Tensor, real: Tensor) -> None:
        """Train the discriminators on made and real sounds."""
        loss = discriminator_loss(
            self.nets(real), self.nets(made.detach()), self.section.adversarial_loss
        )
        self.optimizer.zero_grad()
        loss.backward()
        take_step(self.optimizer, list(self.nets.parameters()), self.section.clip_norm)

    def loss(self, made: Tensor, real: Tensor) -> Tensor:
        """Return the adversarial and the feature loss of made sounds, weighted."""
        self.nets.requires_grad_(False)
        on_made = self.nets(made)
        with torch.no_grad():
            on_real = self.nets(real)
        self.nets.requires_grad_(True)
        section = self.section
        return section.adversarial_weight * adversarial_loss(
            on_made, section.adversarial_loss
        ) + section.feature_weight * feature_loss(on_real, on_made)


def take_step(
    optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], most: float | None
) -> None:
    """Step with the gradients that are there, their common norm not above ``most``.

    Clipping comes before the step: after it, it acts on nothing.
    """
    if most is not None:
        nn.utils.clip_grad_norm_(weights, most)
    optimizer.step()


def train_wave(
    net: Autoencoder,
    batch: Batch,
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    section: WaveVQ,
    seed: int,
    on_step: Watch | None = None,
) -> None:
    """Train ``net`` in place, where it is, on batches drawn with a generator of ``seed``.

    The codebooks' library draws from the global random streams: call this inside ``seeded``.

    Args:
        net: From sounds (B, samples) to sounds of the same shape.
        batch: Returns real sounds on the device of ``net``.
        loss_fn: Distance of made from real sounds.
        section: Settings.
        seed: Of the batches.
        on_step: Called after each step with its number, its loss and the net.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(net.parameters()).device
    plain = int(section.steps * PLAIN_SHARE) if section.quantizer == "vq" else 0
    begin = int(section.steps * section.adversarial_start)
    adversary = Adversary(section, device) if section.discriminators != "none" else None
    weights = list(net.parameters())
    average = Average(weights, section.ema) if section.ema else None
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
            latents, commitment = quantized(net, real, step >= plain)
            made, level = decoded(net.decoder, latents, real)
            distance = loss_fn(made, real)
            loss = distance + commitment + section.level_weight * level
            if adversary is not None and step >= begin:
                some = made[::EVERY_CROP], real[::EVERY_CROP]
                adversary.step(*some)
                loss = loss + adversary.loss(*some)
            optimizer.zero_grad()
            loss.backward()
            take_step(optimizer, weights, section.clip_norm)
            if average is not None:
                average.update()
            if on_step is not None:
                on_step(step, distance.item(), net)
            progress.advance(note=f"loss {distance.item():.4f}" if step % 20 == 0 else None)
    if average is not None:
        average.keep()
    net.eval()


def quantized(net: Autoencoder, real: Tensor, quantize: bool) -> tuple[Tensor, Tensor]:
    """Return the latents (B, C, T) of sounds, quantized or as they are, and the commitment loss."""
    latents = net.encoder(real)
    if not quantize:
        return latents, latents.new_zeros(())
    codes, _, loss = net.quantizer(latents.transpose(1, 2))
    return codes.transpose(1, 2), loss


def decoded(decoder: nn.Module, latents: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Return sounds, and the loss that a decoder has of its own, or zero."""
    if isinstance(decoder, IstftDecoder):
        return decoder.learn(latents, real)
    return decoder(latents), latents.new_zeros(())


@torch.no_grad()
def start_codebook(
    net: Autoencoder, first: Tensor, batch: Batch, generator: torch.Generator
) -> None:
    """Let k-means start the codebooks from several vectors a code."""
    vectors = [net.encoder(first).transpose(1, 2).flatten(0, 1)]
    wanted = 8 * net.quantizer.vocab
    while sum(map(len, vectors)) < wanted and len(vectors) < 256:
        vectors.append(net.encoder(batch(generator)).transpose(1, 2).flatten(0, 1))
    together = torch.cat(vectors)[None]
    with ordered_sums(together.device):
        net.quantizer(together)
