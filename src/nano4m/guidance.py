"""What a model says of slots that are asked for, under one condition or several weighted ones.

Classifier-free guidance (arXiv:2207.12598) on logits, with several conditions after 4M
(arXiv:2312.06647): l_0 + sum_i w_i (l_i - l_0), where l_i sees the tokens of condition i and l_0
those of the negative condition, or of none. All see what is known of the target itself.

Shapes: R rows, L all token slots of a clip, T slots asked for, V vocabulary of one modality.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nano4m.batch import TokenSequence
from nano4m.config_generate import Sampling
from nano4m.errors import UserError, nearest
from nano4m.model.fourm import FourM
from nano4m.schedules import condition_weights


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Modalities that are shown together, and how strongly they draw; below 0 they repel."""

    sources: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ChainStep:
    """One modality to fill, in a chain in which each finished one is given to those that follow.

    Attributes:
        target: Name of the modality.
        conditions: What draws it; None: all that is given, with the weight ``settings.guidance``.
        negative: Modalities that guidance leads away from: they are shown where otherwise nothing
            is, and to no other branch that does not name them.
        settings: How it is drawn; None: those of the configuration.
    """

    target: str
    conditions: tuple[Condition, ...] | None = None
    negative: tuple[str, ...] = ()
    settings: Sampling | None = None


def ask(
    model: FourM,
    tokens: TokenSequence,
    ids_RL: Tensor,
    given_RL: Tensor,
    asked_RT: Tensor,
    batch_size: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield row numbers (n,) and logits, float32 (n, T, V) on the CPU, until all rows had theirs.

    Rows with equally many given tokens make a dense batch of at most ``batch_size``.
    """
    device = model.device
    index = int(tokens.modality_L[asked_RT[0, 0]])
    counts = given_RL.sum(1)
    for count in counts.unique().tolist():
        for rows in (counts == count).nonzero()[:, 0].split(batch_size):
            slots_RN = given_RL[rows].nonzero()[:, 1].view(len(rows), count)
            asked = asked_RT[rows]
            with torch.inference_mode():
                context = model.encode(
                    ids_RL[rows].gather(1, slots_RN).to(device),
                    tokens.modality_L[slots_RN].to(device),
                    tokens.coords_L2[slots_RN].to(device),
                )
                states = model.decode(
                    context, tokens.modality_L[asked].to(device), tokens.coords_L2[asked].to(device)
                )
                logits = model.logits(states, index).float().cpu()
            yield rows, logits


def ask_once(
    model: FourM,
    tokens: TokenSequence,
    ids_RL: Tensor,
    given_RL: Tensor,
    asked_RT: Tensor,
    batch_size: int,
) -> Tensor:
    """Return logits, float32 (R, T, V); rows that ask the same are asked once.

    Many samples of one clip are alike until the first of their tokens are drawn, and so are all
    rows that see nothing.
    """
    length = tokens.length
    shown = torch.cat([ids_RL * given_RL, given_RL.long(), asked_RT], 1)
    rows, which_R = shown.unique(dim=0, return_inverse=True)
    ids, given, asked = rows.split([length, length, asked_RT.shape[1]], dim=1)
    index = int(tokens.modality_L[asked_RT[0, 0]])
    out = torch.empty(*asked.shape, tokens.modalities[index].vocab_size)
    for part, logits in ask(model, tokens, ids, given.bool(), asked, batch_size):
        out[part] = logits
    return out[which_R]


class Branch(NamedTuple):
    """What one forward pass sees, bool (L,), and the weight of what it says."""

    sees_L: Tensor
    weight: float


class Guide:
    """The logits from which one modality is drawn.

    Args:
        model: In evaluation mode.
        tokens: Order of the slots.
        step: Target, conditions and negative condition.
        guidance: Weight of the one condition of a step that names none.
        batch_size: Rows of a forward pass.

    Raises:
        UserError: A modality that the model does not have, or that is the target itself.
    """

    def __init__(
        self,
        model: FourM,
        tokens: TokenSequence,
        step: ChainStep,
        guidance: float,
        batch_size: int,
    ) -> None:
        self.model, self.tokens, self.batch_size = model, tokens, batch_size
        self.target = known(tokens, step.target)
        everything = torch.ones(tokens.length, dtype=torch.bool)
        self.base_L = self._sees(step, step.negative)
        if step.conditions is None:
            shown = everything & ~self.base_L | self._sees(step, ())
            self.branches = [Branch(shown, guidance)]
        else:
            self.branches = [Branch(self._sees(step, c.sources), c.weight) for c in step.conditions]

    def _sees(self, step: ChainStep, sources: Sequence[str]) -> Tensor:
        sees_L = torch.zeros(self.tokens.length, dtype=torch.bool)
        sees_L[self.tokens.slices[self.target]] = True
        for source in sources:
            if source == step.target:
                raise UserError(
                    f"{source!r} cannot be a condition of itself: what is given of it is always "
                    "seen; leave it out of the conditions"
                )
            sees_L[self.tokens.slices[known(self.tokens, source)]] = True
        return sees_L

    def logits(self, ids_RL: Tensor, given_RL: Tensor, asked_RT: Tensor, factor: float) -> Tensor:
        """Return guided logits, float32 (R, T, V); a branch of weight 0 is not computed.

        Args:
            ids_RL, given_RL: int64 ids and bool, what is known; hidden ids are not read.
            asked_RT: int64 slots of the target.
            factor: How far guidance has risen, see ``guidance_factor``.
        """
        weights = condition_weights([b.weight for b in self.branches], factor)
        parts = [Branch(b.sees_L, w) for b, w in zip(self.branches, weights, strict=True)]
        parts = [b for b in [*parts, Branch(self.base_L, 1 - sum(weights))] if abs(b.weight) > 1e-9]
        # One call: branches that show equally many tokens share a batch.
        found = ask_once(
            self.model,
            self.tokens,
            ids_RL.repeat(len(parts), 1),
            torch.cat([given_RL & b.sees_L for b in parts]),
            asked_RT.repeat(len(parts), 1),
            self.batch_size,
        ).chunk(len(parts))
        if len(parts) == 1:
            # A single branch is a plain distribution, whatever rounding made of its weight.
            return found[0]
        total = torch.zeros_like(found[0])
        for branch, logits in zip(parts, found, strict=True):
            total += branch.weight * logits
        return total


def known(tokens: TokenSequence, name: str) -> int:
    """Return the position of a modality in the sequence.

    Raises:
        UserError: The model does not have it.
    """
    names = [m.name for m in tokens.modalities]
    if name not in names:
        raise UserError(f"this model has no modality {name!r}; {nearest(name, names)}")
    return names.index(name)
