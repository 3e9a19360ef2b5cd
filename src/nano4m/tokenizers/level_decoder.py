"""Semantic ids and residual acoustic codes to a log-mel: what ``semantic`` decodes with.

The first level is given: ids of clusters. An encoder and a residual quantizer learn, together with
the decoder, what the log-mel has beyond it. Without acoustic levels the decoder alone learns the
mean log-mel of each id in its context.

Legend: B batch, M mel bands, F frames, T token frames, Q levels, C width of a code.
"""

import torch
from torch import Tensor, nn

from nano4m.config.tokenizers.semantic import Semantic
from nano4m.tokenizers.mel_vq import build
from nano4m.tokenizers.quantize import Autoencoder, Quantizer


class _DropIds(nn.Module):
    def forward(self, packed: Tensor) -> Tensor:
        """Return the log-mel (B, M, F) of what ``LevelAutoencoder.pack`` gave."""
        return packed[:, :-1]


class _NoCodes(Quantizer):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.kind, self.vocab, self.codebooks = "none", 0, 0

    def codebook(self) -> Tensor:
        """Return no vectors."""
        return torch.zeros(0)


class LevelAutoencoder(Autoencoder):
    """An ``Autoencoder`` whose first level is given with its input, see ``pack``.

    Attributes:
        book: Vectors of the semantic ids, learnt with the decoder.
        has_codes: Whether there are acoustic levels, Q - 1 of them.
    """

    def __init__(self, section: Semantic) -> None:
        codes = section.codebooks - 1
        quantizer = Quantizer("vq", section.code_dim, section.vocab, codes) if codes else _NoCodes()
        net = build(section.mels, section.downsample, section.width, section.code_dim, quantizer)
        super().__init__(nn.Sequential(_DropIds(), net.encoder), quantizer, net.decoder)
        self.has_codes = codes > 0
        self.downsample = section.downsample
        self.book = nn.Embedding(section.vocab, section.code_dim)
        if not self.has_codes:
            self.encoder = nn.Sequential()

    def pack(self, normal_BMF: Tensor, ids_BT: Tensor) -> Tensor:
        """Return log-mels and semantic ids as one tensor (B, M + 1, F), as training takes it."""
        row = ids_BT.to(normal_BMF.dtype).repeat_interleave(self.downsample, 1)
        return torch.cat([normal_BMF, row[:, None]], 1)

    def forward(self, packed: Tensor, quantize: bool = True) -> tuple[Tensor, Tensor]:
        """Return the reconstruction (B, M, F) of the log-mels, and the quantizer's loss."""
        ids_BT = packed[:, -1, :: self.downsample].round().long()
        if not self.has_codes:
            return self.decoder(self.book(ids_BT).transpose(1, 2)), packed.new_zeros(())
        z_BTC = self.encoder(packed).transpose(1, 2)
        loss = packed.new_zeros(())
        if quantize:
            z_BTC, _, loss = self.quantizer(z_BTC)
        return self.decoder((self.book(ids_BT) + z_BTC).transpose(1, 2)), loss

    def codes(self, normal_BMF: Tensor, ids_BT: Tensor) -> Tensor:
        """Return the acoustic ids (B, T, Q - 1) in 0..vocab-1 of log-mels and semantic ids."""
        z_BTC = self.encoder(self.pack(normal_BMF, ids_BT)).transpose(1, 2)
        return self.quantizer(z_BTC)[1]

    def decode(self, ids_BTQ: Tensor) -> Tensor:
        """Return normalised log-mels (B, M, F) of ids in 0..vocab-1, semantic ones first."""
        z_BTC = self.book(ids_BTQ[:, :, 0])
        if self.has_codes:
            z_BTC = z_BTC + self.quantizer.vectors(ids_BTQ[:, :, 1:])
        return self.decoder(z_BTC.transpose(1, 2))
