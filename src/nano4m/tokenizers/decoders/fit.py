"""Fitting an autoregressive decoder on latents that do not change any more.

Legend: B batch, C channels of the latents, T tokens, S = T * hop samples.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nano4m.compute.on_device import fused, repeatable
from nano4m.progress import bar
from nano4m.tokenizers.decoders.autoregressive import Autoregressive

Pairs = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Function that draws latents (B, C, T) and their sounds (B, S), on the decoder's device."""


def fit_autoregressive(
    decoder: Autoregressive,
    pairs: Pairs,
    *,
    steps: int,
    lr: float,
    seed: int,
    clip_norm: float | None = 1.0,
) -> list[float]:
    """Train ``decoder`` in place on likelihood, and return the loss of every 20th step in nats.

    AdamW on a one-cycle schedule. Dropout draws from the global random streams: call this inside
    ``seeded``.

    Args:
        decoder: A decoder, on the device where it is trained.
        pairs: Draws a batch with a CPU generator.
        steps: Number of steps.
        lr: Peak of the learning rate.
        seed: Of the batches.
        clip_norm: Largest norm of a step's gradient; none: not clipped.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = list(decoder.parameters())
    device = weights[0].device
    optimizer = torch.optim.AdamW(
        weights, lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=fused(device)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.1, final_div_factor=100
    )
    losses = []
    decoder.train()
    with repeatable(device), bar("fit the decoder of sound", steps, "step") as progress:
        for step in range(steps):
            loss = decoder.loss(*pairs(generator))
            optimizer.zero_grad()
            loss.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(weights, clip_norm)
            optimizer.step()
            schedule.step()
            # One read of the device in twenty steps.
            if step % 20 == 0:
                losses.append(loss.item())
            progress.advance(note=f"{losses[-1]:.3f} nats a sample" if step % 20 == 0 else None)
    decoder.eval()
    return losses
