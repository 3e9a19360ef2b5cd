"""Pictures, depth or normals to a grid of ids and back: a small convolutional autoencoder.

After VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937) with the space-to-depth stem of patch
models; no normalisation layers and no attention, so that it trains in seconds on a CPU.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano4m.compute.on_device import CPU, hold, repeatable, seeded, take
from nano4m.config.clips import ClipsConfig
from nano4m.config.compatibility import read_section
from nano4m.config.tokenizers import ImageVQ
from nano4m.errors import UserError
from nano4m.media import media_kind
from nano4m.tokenizers.base import Material, Tokenizer
from nano4m.tokenizers.quantize import Autoencoder, Quantizer, check_ids, train_autoencoder


class Residual(nn.Module):
    """x + 1x1(act(3x3(act(x)))), the last one starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=1)
        self.narrow = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H, W) for (B, width, H, W)."""
        return x + self.narrow(F.silu(self.wide(F.silu(x))))


def build(
    channels: int, factor: int, width: int, code_dim: int, quantizer: Quantizer
) -> Autoencoder:
    """Return the network that downsamples by ``factor``, a power of two."""
    patch = min(4, factor)
    halvings = (factor // patch).bit_length() - 1
    # Channels halve where resolution doubles: every stage costs about the same.
    widths = [max(32, width >> (halvings - i)) for i in range(halvings + 1)]
    down: list[nn.Module] = [
        nn.PixelUnshuffle(patch),
        nn.Conv2d(channels * patch**2, widths[0], 3, padding=1),
    ]
    up: list[nn.Module] = [nn.Conv2d(code_dim, widths[-1], 3, padding=1), Residual(widths[-1])]
    for narrow, wide in zip(widths, widths[1:], strict=False):
        down += [Residual(narrow), nn.Conv2d(narrow, wide, 4, stride=2, padding=1)]
    for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=False):
        up += [Residual(wide), nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
    down += [
        Residual(widths[-1]),
        Residual(widths[-1]),
        nn.SiLU(),
        nn.Conv2d(widths[-1], code_dim, 1),
    ]
    up += [
        Residual(widths[0]), nn.SiLU(),
        nn.Conv2d(widths[0], channels * patch**2, 3, padding=1), nn.PixelShuffle(patch),
    ]  # fmt: skip
    return Autoencoder(nn.Sequential(*down), quantizer, nn.Sequential(*up))


class ImageVQTokenizer(Tokenizer):
    """Ids (B, grid, grid) of one picture, depth map or normal map a clip.

    Args:
        media: A kind of planes, a name in ``nano4m.media.MEDIA``.
        picture_size: Pixels a side, grid times a power of two.
        section: Settings of the configuration.

    Raises:
        UserError: The grid does not suit the picture, or FSQ has no levels for the vocabulary.
    """

    key = "image_vq"
    licence = "that of the clips it was fitted on"

    def __init__(self, media: str, picture_size: int, section: ImageVQ) -> None:
        factor = picture_size // section.grid
        if factor < 2 or picture_size % section.grid or factor & (factor - 1):
            allowed = _grids(picture_size)
            raise UserError(
                f"grid {section.grid} does not suit pictures of {picture_size} pixels: their ratio "
                f"must be a power of two from 2 on; allowed grids: {allowed}"
            )
        self.media, self.picture_size, self.section = media, picture_size, section
        self.kind = media_kind(media)
        self.shape = (section.grid, section.grid)
        self.vocab_size = section.vocab
        quantizer = Quantizer(section.quantizer, section.code_dim, section.vocab, cosine=True)
        self.net = build(
            self.kind.channels, factor, section.width, section.code_dim, quantizer
        ).eval()

    @classmethod
    def check(cls, section: ImageVQ, kind: str, clips: ClipsConfig) -> None:
        """See ``Tokenizer.check``."""
        with torch.device("meta"):
            cls(kind, clips.picture_size, section)

    @classmethod
    def prepare(
        cls, section: ImageVQ, material: Material, seed: int, device: torch.device
    ) -> "ImageVQTokenizer":
        """Return a fitted tokenizer, see ``fit``."""
        return cls.fit(section, material.media, material.train, seed, device)

    @classmethod
    def fit(
        cls,
        section: ImageVQ,
        media: str,
        pictures: Tensor,
        seed: int,
        device: torch.device = CPU,
    ) -> "ImageVQTokenizer":
        """Return a tokenizer trained on pictures (n, channels, H, W) of kind ``media``.

        The same seed gives the same tokenizer on the same machine.
        """
        with seeded(seed, device):
            tokenizer = cls(media, pictures.shape[-1], section).to(device)
            tokenizer._check(pictures)
            pictures = hold(pictures, device)

            def batch(generator: torch.Generator) -> Tensor:
                rows = torch.randint(len(pictures), (section.batch_size,), generator=generator)
                return tokenizer._centred(take(pictures, rows, device).float())

            train_autoencoder(
                tokenizer.net, batch, _loss, steps=section.steps, lr=section.lr, seed=seed,
                title=f"fit {media}",
            )  # fmt: skip
        return tokenizer

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return this tokenizer."""
        self.net.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.net.parameters()).device

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return ids, int64 (B, grid, grid), of media (B, channels, H, W)."""
        self._check(media)
        with repeatable(self.device, exact=True):
            ids = self.net.ids(self._centred(media.to(self.device).float()))
        return ids.view(-1, *self.shape)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Return media, float32 (B, channels, H, W), of ids (B, grid, grid)."""
        check_ids(ids, self.shape, self.vocab_size)
        ids = ids.to(self.device).long()
        with repeatable(self.device, exact=True):
            codes = self.net.quantizer.vectors(ids.flatten(1)[..., None])
            y = self.net.decoder(codes.transpose(1, 2).unflatten(2, self.shape))
        if self.kind.is_direction:
            return F.normalize(y, dim=1)
        return ((y + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def codebook(self) -> Tensor:
        """Return the codebook, float32 (vocab, code_dim)."""
        return self.net.quantizer.codebook().cpu()

    def state(self) -> tuple[dict, dict[str, Tensor]]:
        """Return settings and weights."""
        settings = {"media": self.media, "picture_size": self.picture_size}
        weights = {k: v.cpu() for k, v in self.net.state_dict().items()}
        return settings | {"section": self.section.model_dump()}, weights

    @classmethod
    def from_state(cls, settings: dict, tensors: dict[str, Tensor]) -> "ImageVQTokenizer":
        """Return the tokenizer with this state."""
        with seeded(0):
            section = read_section(ImageVQ, settings["section"])
            tokenizer = cls(settings["media"], settings["picture_size"], section)
        tokenizer.net.load_state_dict(tensors)
        return tokenizer

    def _check(self, media: Tensor) -> None:
        size = self.picture_size
        wanted = (self.kind.channels, size, size)
        if media.ndim != 4 or tuple(media.shape[1:]) != wanted:
            raise ValueError(f"{self.media} must be (B, {wanted}), not {tuple(media.shape)}")

    def _centred(self, media: Tensor) -> Tensor:
        return media if self.kind.is_direction else media * 2 - 1


def _grids(picture_size: int) -> list[int]:
    ratios = (2**i for i in range(1, picture_size.bit_length()))
    return sorted(picture_size // r for r in ratios if picture_size % r == 0)


def _loss(y: Tensor, x: Tensor) -> Tensor:
    # Squared error alone blurs thin shapes; the error of differences between pixels keeps them.
    rows = F.mse_loss(y.diff(dim=2), x.diff(dim=2))
    columns = F.mse_loss(y.diff(dim=3), x.diff(dim=3))
    return F.mse_loss(y, x) + rows + columns
