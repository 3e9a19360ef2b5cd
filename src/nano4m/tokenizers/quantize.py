"""The discrete bottleneck of the learnt tokenizers, and the loop that trains them.

Codebooks come from vector-quantize-pytorch: VQ with moving averages (van den Oord et al. 2017,
arXiv:1711.00937, appendix A.1), its residual form (Zeghidour et al. 2021, arXiv:2107.03312), and
FSQ (Mentzer et al. 2023, arXiv:2309.15505). In addition, the first steps train a plain autoencoder,
so that k-means initialises the codebook from trained encoder outputs.

Legend: B batch, L positions, Q codebooks, C width of a code.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ, ResidualFSQ, ResidualVQ, VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import Codebook

from nano4m.compute.on_device import fused, ordered_sums, repeatable
from nano4m.config.tokenizers.form import FSQ_LEVELS
from nano4m.errors import UserError
from nano4m.progress import bar

DEAD_SHARE = 1 / 3
"""A code that gets less than this share of the vectors that a code has on average is revived: it
becomes one of the vectors of the batch."""

LAST_REVIVAL = 0.8
"""Share of the steps after which no code is revived, so that the decoder sees each code settle."""


class Quantizer(nn.Module):
    """Vectors to ids and back, with ``codebooks`` residual stages.

    Args:
        kind: ``vq`` or ``fsq``.
        dim: Width of the vectors to quantize; FSQ projects them to its own few coordinates.
        vocab: Ids of one codebook.
        codebooks: Residual codebooks.
        cosine: Whether codes are on the unit sphere (Yu et al. 2021, arXiv:2110.04627).
        decay: Of the moving averages of the codes. A batch that has few vectors a code needs a
            longer memory.

    Attributes:
        revives: Whether codes that are hardly used are revived in training. The training loop ends
            it after LAST_REVIVAL of its steps.

    Raises:
        UserError: FSQ with a vocabulary that no levels give.
    """

    def __init__(
        self,
        kind: str,
        dim: int,
        vocab: int,
        codebooks: int = 1,
        cosine: bool = False,
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        self.kind, self.vocab, self.codebooks = kind, vocab, codebooks
        self.revives = True
        self.body: nn.Module
        if kind == "fsq":
            if vocab not in FSQ_LEVELS:
                raise UserError(
                    f"FSQ has no levels for vocab {vocab}; allowed: {sorted(FSQ_LEVELS)}"
                )
            levels = list(FSQ_LEVELS[vocab])
            if codebooks == 1:
                self.body = FSQ(levels=levels, dim=dim)
            else:
                self.body = ResidualFSQ(levels=levels, dim=dim, num_quantizers=codebooks)
            return
        options = {
            "dim": dim, "codebook_size": vocab, "decay": decay, "kmeans_init": True,
            "threshold_ema_dead_code": 1.0, "commitment_weight": 0.25, "use_cosine_sim": cosine,
            "rotation_trick": False,
        }  # fmt: skip
        if codebooks == 1:
            self.body = VectorQuantize(**options)
        else:
            self.body = ResidualVQ(num_quantizers=codebooks, **options)

    def forward(self, z_BLC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return quantized vectors (B, L, C), ids (B, L, Q) in 0..vocab-1 and a scalar loss."""
        if self.kind == "fsq":
            quantized, ids = self.body(z_BLC)
            ids = ids.long().view(*z_BLC.shape[:2], self.codebooks)
            return quantized, ids, z_BLC.new_zeros(())
        self._set_revival(z_BLC.shape[0] * z_BLC.shape[1])
        quantized, ids, loss = self.body(z_BLC)
        return quantized, ids.view(*z_BLC.shape[:2], self.codebooks), loss.sum()

    def _set_revival(self, vectors: int) -> None:
        # An absolute count would be a share that grows with the codebook: with as many codes as
        # vectors, one vector a code is the mean, and a fourth of the codes would always be below.
        threshold = DEAD_SHARE * vectors / self.vocab
        for module in self.body.modules():
            if isinstance(module, Codebook):
                module.has_dead_code_replacement = self.revives
                module.threshold_ema_dead_code = threshold
                module.reset_cluster_size = threshold

    def codebook(self) -> Tensor:
        """Return the vector of each id, (codebooks * vocab, C), codebook after codebook."""
        if isinstance(self.body, ResidualVQ):
            return self.body.codebooks.flatten(0, 1)
        if isinstance(self.body, ResidualFSQ):
            first, *others = (self.body.codebooks * self.body.scales[:, None]).unbind(0)
            project = self.body.project_out
            if isinstance(project, nn.Linear):
                # Codes of all codebooks add up to a vector, so the bias counts once.
                first, others = project(first), [c @ project.weight.T for c in others]
            return torch.cat([first, *others])
        ids = torch.arange(self.vocab, device=next(self.buffers()).device)
        return self.vectors(ids[None, :, None])[0]

    def vectors(self, ids_BLQ: Tensor) -> Tensor:
        """Return the vectors (B, L, C) of ids (B, L, Q)."""
        if isinstance(self.body, FSQ):
            return self.body.indices_to_codes(ids_BLQ[..., 0])
        ids = ids_BLQ if self.codebooks > 1 else ids_BLQ[..., 0]
        return self.body.get_output_from_indices(ids)  # type: ignore[operator]


class Autoencoder(nn.Module):
    """Encoder, quantizer and decoder over (B, channels, *positions) arrays."""

    def __init__(self, encoder: nn.Module, quantizer: Quantizer, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder

    def forward(self, x: Tensor, quantize: bool = True) -> tuple[Tensor, Tensor]:
        """Return the reconstruction of ``x`` and the quantizer's loss."""
        z = self.encoder(x)
        if not quantize:
            return self.decoder(z), z.new_zeros(())
        q, _, loss = self.quantizer(z.flatten(2).transpose(1, 2))
        return self.decoder(q.transpose(1, 2).reshape(z.shape)), loss

    def ids(self, x: Tensor) -> Tensor:
        """Return ids (B, L, Q) of ``x``."""
        return self.quantizer(self.encoder(x).flatten(2).transpose(1, 2))[1]


def train_autoencoder(
    net: Autoencoder,
    batch: Callable[[torch.Generator], Tensor],
    loss_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    seed: int,
    title: str,
    plain_share: float = 0.2,
) -> None:
    """Train ``net`` in place, where it is, on batches drawn with a CPU generator of ``seed``.

    ``batch`` returns them on the device of ``net``. This loop waits for the device only to log its
    progress; the library also does, to find unused codes.

    AdamW on a one-cycle schedule. The first ``plain_share`` of the steps skip the quantizer (not
    with FSQ, which has no codebook to start). The library's k-means and code replacement draw from
    the global random streams: call this inside ``seeded``.
    """
    generator = torch.Generator().manual_seed(seed)
    plain = 0 if net.quantizer.kind == "fsq" else int(steps * plain_share)
    device = next(net.parameters()).device
    optimizer = torch.optim.AdamW(
        net.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-4, fused=fused(device)
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=steps, pct_start=0.15, final_div_factor=100
    )
    net.train()
    with repeatable(device), bar(title, steps, "step") as progress:
        for step in range(steps):
            x = batch(generator)
            if step == plain and net.quantizer.kind == "vq":
                _start_codebook(net, x, batch, generator)
            net.quantizer.revives = step < LAST_REVIVAL * steps
            y, extra = net(x, quantize=step >= plain)
            loss = loss_fn(y, x) + extra
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(note=f"loss {loss.item():.4f}" if step % 20 == 0 else None)
    net.eval()


@torch.no_grad()
def _start_codebook(
    net: Autoencoder,
    x: Tensor,
    batch: Callable[[torch.Generator], Tensor],
    generator: torch.Generator,
) -> None:
    # k-means needs several vectors a code; one batch may hold fewer than there are codes.
    vectors = [net.encoder(x).flatten(2).transpose(1, 2)]
    wanted = 8 * net.quantizer.vocab
    while sum(v.shape[0] * v.shape[1] for v in vectors) < wanted and len(vectors) < 64:
        vectors.append(net.encoder(batch(generator)).flatten(2).transpose(1, 2))
    together = torch.cat(vectors)
    with ordered_sums(together.device):
        net.quantizer(together)


def check_ids(ids: Tensor, shape: tuple[int, ...], vocab_size: int) -> None:
    """Refuse ids that are not int (B, *shape) in 0..vocab_size-1.

    Raises:
        ValueError: The message gives what was passed and what is allowed.
    """
    if tuple(ids.shape[1:]) != tuple(shape):
        raise ValueError(f"ids must be (B, {shape}), not {tuple(ids.shape)}")
    if ids.is_floating_point():
        raise ValueError(f"ids must be integers, not {ids.dtype}")
    # One transfer reads both, wherever the ids are.
    low, high = torch.stack(ids.aminmax()).tolist() if ids.numel() else (0, 0)
    if low < 0 or high >= vocab_size:
        raise ValueError(f"ids from {low} to {high}, allowed are 0 to {vocab_size - 1}")
