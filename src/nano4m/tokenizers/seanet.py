"""The network of SpeechTokenizer (Zhang et al. 2024, arXiv:2308.16692): SEANet and residual codes.

SEANet as in EnCodec (arXiv:2210.13438, section 3.1), not causal: convolutions with reflected edges,
a block of two convolutions before each step down or after each step up, LSTMs at token rate. In
SpeechTokenizer the encoder's LSTM reads both ways, and the last convolution takes both readings.

Weights have the names of the published checkpoint, except that a convolution is one module here;
weight normalisation is multiplied out (``published_names``).

Legend: B batch, C channels, L samples, T frames, Q codebooks, V ids of a codebook.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SameConv(nn.Conv1d):
    """Convolution to ceil(L / stride) frames: reflected edges, more at the end where needed."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, ceil(L / stride)) of (B, C_in, L)."""
        size, stride = self.dilation[0] * (self.kernel_size[0] - 1) + 1, self.stride[0]
        total = size - stride
        right = total // 2
        left = total - right
        right += -x.shape[2] % stride
        # Reflection needs more samples than it makes; a short sound gets zeros first.
        short = max(0, max(left, right) + 1 - x.shape[2])
        padded = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
        return super().forward(padded[:, :, : padded.shape[2] - short])


class SameConvTranspose(nn.ConvTranspose1d):
    """Transposed convolution to exactly L * stride samples, cut at both ends."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (B, C_out, L * stride) of (B, C_in, L)."""
        total = self.kernel_size[0] - self.stride[0]
        left = total - total // 2
        return super().forward(x)[:, :, left : left + x.shape[2] * self.stride[0]]


class Block(nn.Module):
    """Shortcut plus two convolutions, each after an ELU."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ELU(),
            SameConv(width, width // 2, kernel, dilation=dilation),
            nn.ELU(),
            SameConv(width // 2, width, 1),
        )
        self.shortcut = SameConv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, L) of (B, C, L)."""
        return self.shortcut(x) + self.block(x)


class SkipLSTM(nn.Module):
    """LSTM over time plus its input, which is doubled where the LSTM reads both ways."""

    def __init__(self, width: int, layers: int, both_ways: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, layers, bidirectional=both_ways)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C or 2 C, T) of (B, C, T)."""
        x_TBC = x.permute(2, 0, 1)
        y_TBC, _ = self.lstm(x_TBC)
        skip = x_TBC.repeat(1, 1, 2) if self.lstm.bidirectional else x_TBC
        return (y_TBC + skip).permute(1, 2, 0)


class Codebook(nn.Module):
    """One codebook: the id of the nearest vector, and the vector of an id."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Buffer(torch.zeros(vocab, width))

    def nearest(self, x_BCT: Tensor) -> Tensor:
        """Return ids, int64 (B, T)."""
        x_BTC, norms = x_BCT.transpose(1, 2), self.embed.square().sum(1)
        return (2 * x_BTC @ self.embed.T - norms).argmax(2)

    def vectors(self, ids_BT: Tensor) -> Tensor:
        """Return vectors (B, C, T)."""
        return F.embedding(ids_BT, self.embed).transpose(1, 2)


class SpeechTokenizerNet(nn.Module):
    """Encoder, residual codebooks and decoder, built from the published ``config.json``."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        filters, ratios = int(config["n_filters"]), [int(r) for r in config["strides"]]
        width, layers = int(config["dimension"]), int(config["lstm_layers"])
        both_ways, blocks = bool(config["bidirectional"]), int(config["n_residual_layers"])
        kernel, growth = int(config["residual_kernel_size"]), int(config["dilation_base"])

        def stage(size: int) -> list[nn.Module]:
            return [Block(size, kernel, growth**i) for i in range(blocks)]

        down: list[nn.Module] = [SameConv(1, filters, 7)]
        size = filters
        for ratio in reversed(ratios):
            down += [*stage(size), nn.ELU(), SameConv(size, 2 * size, 2 * ratio, ratio)]
            size *= 2
        up: list[nn.Module] = [SameConv(width, size, 7)]
        if layers:
            down.append(SkipLSTM(size, layers, both_ways))
            up.append(SkipLSTM(size, layers, False))
        # The published network doubles the width with or without an LSTM.
        down += [nn.ELU(), SameConv(2 * size if both_ways else size, width, 7)]
        for ratio in ratios:
            up += [nn.ELU(), SameConvTranspose(size, size // 2, 2 * ratio, ratio)]
            size //= 2
            up += stage(size)
        up += [nn.ELU(), SameConv(size, 1, 7)]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        vocab, books = int(config["codebook_size"]), int(config["n_q"])
        self.codebooks: Any = nn.ModuleList([Codebook(vocab, width) for _ in range(books)])
        self.hop = math.prod(ratios)

    def encode(self, sound_BCL: Tensor, codebooks: int) -> Tensor:
        """Return ids, int64 (B, Q, ceil(L / hop)), of the first codebooks of sounds (B, 1, L)."""
        rest_BCT, found = self.encoder(sound_BCL), []
        for book in self.codebooks[:codebooks]:
            ids_BT = book.nearest(rest_BCT)
            rest_BCT = rest_BCT - book.vectors(ids_BT)
            found.append(ids_BT)
        return torch.stack(found, 1)

    def decode(self, ids_BQT: Tensor) -> Tensor:
        """Return sounds (B, 1, T * hop) of ids of the first codebooks."""
        books = self.codebooks[: ids_BQT.shape[1]]
        vectors = [book.vectors(ids) for book, ids in zip(books, ids_BQT.unbind(1), strict=True)]
        return self.decoder(torch.stack(vectors).sum(0))


def published_names(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a published checkpoint by the names of ``SpeechTokenizerNet``.

    What only training needs is left out: moving averages, and the projection to the teacher.
    """
    found = {}
    for name, value in published.items():
        if re.fullmatch(r"quantizer\.vq\.layers\.\d+\._codebook\.embed", name):
            found[f"codebooks.{name.split('.')[3]}.embed"] = value
        if not name.startswith(("encoder.model.", "decoder.model.")):
            continue
        short = re.sub(r"\.(conv|convtr)\.\1\.", ".", name.replace(".model.", ".", 1))
        if short.endswith(".weight_v"):
            gain = published[name[:-1] + "g"]
            value = torch._weight_norm(value, gain, 0)
        if not short.endswith(".weight_g"):
            found[short.replace(".weight_v", ".weight")] = value
    return found
