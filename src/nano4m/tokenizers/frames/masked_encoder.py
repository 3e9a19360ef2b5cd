"""An encoder trained on the clips themselves: iterated clustering and masked prediction (HuBERT).

After Hsu et al. 2021 (arXiv:2106.07447): clusters of cepstra (MFCC-like) are the targets of a small
transformer that sees the spectrogram with spans masked; clusters of a hidden layer are the targets
of the next round. As in WavLM (arXiv:2110.13900) its input is varied and other clips are mixed in,
while the targets are those of the clip as it is. No label is used.

Legend: B batch, M mel bands, F frames, T token frames, W width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.compute.on_device import fused, repeatable, send, take
from nano4m.config.tokenizers.semantic import Semantic
from nano4m.progress import bar
from nano4m.tokenizers.frames.augment import span_mask, vary_logmel
from nano4m.tokenizers.frames.clusters import Clusters

HEAD_WIDTH = 32
TARGETS = 200
"""Most clusters that are predicted."""
CEPSTRA = 20
CONTEXT = 2
"""Tokens before and after that belong to a vector of cepstra, so that changes are heard too."""
LIFTER = 0.5
"""Power of the deviation that each cepstrum is divided by: at 1 all of them weigh the same."""
RANGE_DB = 60.0
"""Levels further below the loudest of a clip are noise of the recording."""
MASKED_SHARE, SPAN_SECONDS = 0.4, 0.17
SEEN_WEIGHT = 0.5
"""Weight of tokens that are not masked in the loss."""
LR = 2e-3


class Block(nn.Module):
    """Pre-norm transformer block: attention over all frames of a clip, then an MLP."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, width // HEAD_WIDTH), 0, -1) if width % n == 0)
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return (B, T, W) for (B, T, W)."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm_attention(x_BTW)).chunk(3, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x_BTW = x_BTW + self.dropout(self.out(mixed))
        return x_BTW + self.dropout(self.down(F.gelu(self.up(self.norm_mlp(x_BTW)))))


class MaskedEncoder(nn.Module):
    """Normalised log-mel (B, M, F) to vectors of each layer at token rate.

    Args:
        mels: Bands, M.
        downsample: Frames a token, a divisor of F.
        width, layers: Of the transformer.
        targets: Clusters that the head predicts.
    """

    def __init__(self, mels: int, downsample: int, width: int, layers: int, targets: int) -> None:
        super().__init__()
        self.smooth = nn.Conv1d(mels, width, 5, padding=2)
        self.stride = nn.Conv1d(width, width, downsample, stride=downsample)
        groups = next(n for n in (8, 4, 2, 1) if width % n == 0)
        self.positions = nn.Conv1d(width, width, 15, padding=7, groups=groups)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, targets)
        self.masked = nn.Parameter(0.1 * torch.randn(width))

    def layers(self, x_BMF: Tensor, mask_BT: Tensor | None = None) -> list[Tensor]:
        """Return the input and the output of each block, (B, T, W) each."""
        z = self.stride(F.gelu(self.smooth(x_BMF))).transpose(1, 2)
        if mask_BT is not None:
            z = torch.where(mask_BT[:, :, None], self.masked, z)
        found = [z + F.gelu(self.positions(z.transpose(1, 2))).transpose(1, 2)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found

    def forward(self, x_BMF: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the scores of the targets, (B, T, targets), with masked tokens of the input."""
        return self.head(self.norm(self.layers(x_BMF, mask_BT)[-1]))


class TrainedFrames:
    """Frames of an encoder that was trained on the clips; with ``rounds`` 0, cepstra alone.

    Args:
        section: Settings.
        mean: Mean of each band, float32 (M, 1).
        std: Deviation over all bands, float32 (1, 1).

    Attributes:
        scale: What each cepstrum is divided by, float32 (CEPSTRA, 1).
    """

    def __init__(self, section: Semantic, mean: Tensor, std: Tensor) -> None:
        self.section, self.mean, self.std = section, mean, std
        self.scale = torch.ones(min(CEPSTRA, section.mels), 1)
        targets = min(TARGETS, section.vocab)
        self.net = MaskedEncoder(
            section.mels, section.downsample, section.encoder_width, section.encoder_layers, targets
        ).eval()  # fmt: skip

    def to(self, device: torch.device | str) -> "TrainedFrames":
        """Move weights and statistics to a device."""
        self.net.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.scale = self.scale.to(device)
        return self

    @torch.no_grad()
    def vectors(self, sound_BS: Tensor, logmel_BMF: Tensor) -> Tensor:
        """Return the vectors of the chosen layer, float32 (B, T, W), of log-mels in dB."""
        del sound_BS
        return self.of_logmel(logmel_BMF)

    @torch.no_grad()
    def of_logmel(self, logmel_BMF: Tensor) -> Tensor:
        """Return the vectors of log-mels alone, see ``vectors``."""
        x = self.normal(logmel_BMF)
        if not self.section.rounds:
            return self.cepstra(x)
        return self.net.layers(x)[self.section.layer]

    def cepstra(self, x_BMF: Tensor) -> Tensor:
        """Return scaled cepstra of each token and its neighbours, (B, T, C), of what is seen."""
        found = cepstra(x_BMF, self.section.downsample) / self.scale
        padded = F.pad(found, (CONTEXT, CONTEXT), mode="replicate")
        return padded.unfold(2, 2 * CONTEXT + 1, 1).permute(0, 2, 1, 3).flatten(2)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that ``load`` takes."""
        statistics = {"mean": self.mean, "std": self.std, "scale": self.scale}
        if not self.section.rounds:
            return statistics
        return statistics | self.net.state_dict(prefix="net.")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take weights and statistics, on the CPU."""
        self.mean, self.std, self.scale = (tensors[name] for name in ("mean", "std", "scale"))
        if not self.section.rounds:
            return
        weights = {n.removeprefix("net."): t for n, t in tensors.items() if n.startswith("net.")}
        self.net.load_state_dict(weights)

    def normal(self, logmel_BMF: Tensor) -> Tensor:
        """Return what the network sees of log-mels in dB; the level of a clip is not in it."""
        return (below_peak(logmel_BMF) - self.mean) / self.std


def below_peak(logmel_BMF: Tensor) -> Tensor:
    """Return levels from -RANGE_DB to 0 dB below the loudest of each clip."""
    return (logmel_BMF - logmel_BMF.amax((1, 2), keepdim=True)).clamp_min(-RANGE_DB)


def cepstra(x_BMF: Tensor, downsample: int) -> Tensor:
    """Return the first CEPSTRA mean cepstra of each token, (B, CEPSTRA, T); DCT-II, orthonormal."""
    bands = x_BMF.shape[1]
    place = torch.arange(bands, device=x_BMF.device) + 0.5
    order = torch.arange(min(CEPSTRA, bands), device=x_BMF.device)
    basis = torch.cos(torch.pi / bands * order[:, None] * place) * (2 / bands) ** 0.5
    basis[0] /= 2**0.5
    return F.avg_pool1d(basis @ x_BMF, downsample)


def fit_frames(
    section: Semantic, logmel: Tensor, seconds_a_token: float, seed: int, device: torch.device
) -> TrainedFrames:
    """Return an encoder trained on log-mels (n, M, F) in dB, F a multiple of ``downsample``.

    Call this inside ``seeded``: layers and dropout draw from the global stream.
    """
    heard = below_peak(logmel)
    mean, std = heard.mean((0, 2))[:, None], heard.std((0, 2)).mean().clamp_min(1.0).view(1, 1)
    frames = TrainedFrames(section, mean, std).to(device)
    generator = torch.Generator().manual_seed(seed)
    count = frames.net.head.out_features

    def clustered(vectors_of: Callable[[Tensor], Tensor]) -> Tensor:
        vectors = torch.cat([vectors_of(send(part, device)).cpu() for part in logmel.split(256)])
        clusters = Clusters.fit(vectors.flatten(0, 1), count, seed)
        return clusters.ids(vectors)

    own = torch.cat(
        [cepstra(frames.normal(send(p, device)), section.downsample) for p in logmel.split(256)]
    )
    frames.scale = own.std((0, 2), correction=0)[:, None].clamp_min(1e-3) ** LIFTER
    if section.rounds:
        targets = clustered(lambda x: frames.cepstra(frames.normal(x)))
    for number in range(section.rounds):
        frames.net = MaskedEncoder(
            section.mels, section.downsample, section.encoder_width, section.encoder_layers, count
        ).to(device)  # fmt: skip
        _train(frames, logmel, targets, seconds_a_token, generator, f"fit encoder {number + 1}")
        if number + 1 < section.rounds:
            targets = clustered(frames.of_logmel)
    return frames


def _train(
    frames: TrainedFrames,
    logmel: Tensor,
    targets: Tensor,
    seconds_a_token: float,
    generator: torch.Generator,
    title: str,
) -> None:
    section, net, device = frames.section, frames.net, frames.mean.device
    optimizer = torch.optim.AdamW(
        net.parameters(), LR, betas=(0.9, 0.98), weight_decay=0.01, fused=fused(device)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=section.encoder_steps, pct_start=0.15
    )
    span = max(1, round(SPAN_SECONDS / seconds_a_token))
    net.train()
    with repeatable(device), bar(title, section.encoder_steps, "step") as progress:
        for step in range(section.encoder_steps):
            rows = torch.randint(len(logmel), (section.batch_size,), generator=generator)
            x = frames.normal(vary_logmel(take(logmel, rows, device), generator))
            target = take(targets, rows, device)
            mask = span_mask(len(target), target.shape[1], MASKED_SHARE, span, generator).to(device)
            scores = net(x, mask)
            error = F.cross_entropy(scores.transpose(1, 2), target, reduction="none")
            weight = torch.where(mask, 1.0, SEEN_WEIGHT)
            loss = (error * weight).sum() / weight.sum()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(note=f"loss {loss.item():.4f}" if step % 20 == 0 else None)
    net.eval()
