"""Optimizers (Muon or AdamW), learning rate schedule, and weight average."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from nano4m.compute.threads import Threads
from nano4m.config.training import TrainConfig
from nano4m.training.muon import BatchedMuon


def build_optimizers(
    model: nn.Module,
    config: TrainConfig,
    on_device: bool = False,
    threads: Threads | None = None,
) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model: AdamW, or Muon and AdamW.

    With ``on_device`` their learning rate is a tensor on the weights' device, and a step never
    waits for the device. With ``threads`` matrices are updated side by side on a CPU.

    Muon (github.com/KellerJordan/Muon; scaled as in arXiv:2502.16982, so that both share one
    learning rate) updates the matrices of hidden layers. Tables, heads, norms and the register use
    AdamW, which decays only matrices, and tables if ``decay_tables`` is set.
    """
    ends = {
        id(w) for part in (*_tables(model), model.get_submodule("heads")) for w in part.parameters()
    }
    tables = {id(table.weight) for table in _tables(model)}
    weights = list(model.parameters())
    hidden = [w for w in weights if w.ndim == 2 and id(w) not in ends]
    muon = config.optimizer == "muon"
    rest = [w for w in weights if not (muon and w.ndim == 2 and id(w) not in ends)]
    kept = set() if config.decay_tables else tables
    decayed = [w for w in rest if w.ndim == 2 and id(w) not in kept]
    free = [w for w in rest if w.ndim != 2 or id(w) in kept]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    device = weights[0].device
    rate = torch.tensor(config.lr, device=device) if on_device else config.lr
    adamw = torch.optim.AdamW(
        groups,
        lr=rate,
        betas=(0.9, config.beta2),
        fused=True,
        capturable=on_device and device.type == "cuda",
    )
    if not muon:
        return [adamw]
    decay = config.weight_decay
    if on_device:
        return [BatchedMuon(hidden, lr=rate.clone(), weight_decay=decay), adamw]  # type: ignore
    if threads:
        return [BatchedMuon(hidden, lr=config.lr, weight_decay=decay, threads=threads), adamw]
    adjust = "match_rms_adamw"
    return [torch.optim.Muon(hidden, lr=config.lr, weight_decay=decay, adjust_lr_fn=adjust), adamw]


def _tables(model: nn.Module) -> list[nn.Embedding]:
    return [m for m in model.modules() if isinstance(m, nn.Embedding)]


def gradient_norm(model: nn.Module, most: float) -> float:
    """Clip all gradients to a norm of at most ``most``; return the norm before."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), most)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


class WeightAverage:
    """Exponential moving average of a model's parameters, with a bias-free start.

    The decay of update t is min(decay, (1 + t) / (10 + t)), so early weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        # Without a decay the average equals the weights and needs no memory.
        self._weights = [p.detach().clone() for p in model.parameters()] if decay else None
        self._model = model

    @property
    def is_kept(self) -> bool:
        """Whether the average differs from the weights."""
        return self._weights is not None

    @property
    def weights(self) -> list[torch.Tensor]:
        """The averaged weights, in the order of the model's parameters."""
        if self._weights is None:
            return [p.detach() for p in self._model.parameters()]
        return self._weights

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self._weights is not None:
            weights = [p.detach() for p in model.parameters()]
            torch._foreach_lerp_(self._weights, weights, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights and the average."""
        if self._weights is None:
            return
        for mine, weight in zip(self._weights, model.parameters(), strict=True):
            kept = mine.clone()
            mine.copy_(weight)
            weight.copy_(kept)
