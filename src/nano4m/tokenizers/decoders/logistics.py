"""A discretised mixture of logistics over 16-bit samples, as the output of a decoder.

Salimans et al. 2017 (PixelCNN++, arXiv:1701.05517), equation 2, over 65,536 levels as in Parallel
WaveNet (arXiv:1711.10433). The difference of two logistic functions is computed in closed form,
sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which needs no approximation for
narrow components.

Legend: B batch, K components, S samples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

HALF_BIN = 1 / 65535
"""Half the distance of two levels: -1 and 1 are the outermost."""

LEAST_LOG_SCALE = -10.0
"""Least logarithm of a scale, a third of a level: a narrower component is a spike."""


def parts(numbers_BPS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, means and logarithms of scales, each (B, K, S), of numbers (B, 3 K, S)."""
    logits, means, log_scales = numbers_BPS.chunk(3, 1)
    return logits, means, log_scales.clamp_min(LEAST_LOG_SCALE)


def log_probability(numbers_BPS: Tensor, wave_BS: Tensor) -> Tensor:
    """Return the log-probability in nats (B, S) of each sample's 16-bit level.

    Args:
        numbers_BPS: Logits, means and log-scales of the components, (B, 3 K, S).
        wave_BS: Samples in [-1, 1]. The outermost levels hold all that is beyond them.
    """
    logits, means, log_scales = parts(numbers_BPS)
    x = wave_BS[:, None]
    inverse = torch.exp(-log_scales)
    above, below = (x - means + HALF_BIN) * inverse, (x - means - HALF_BIN) * inverse
    width = torch.log(-torch.expm1(-2 * HALF_BIN * inverse))
    inside = F.logsigmoid(above) + F.logsigmoid(-below) + width
    lowest, highest = F.logsigmoid(above), F.logsigmoid(-below)
    each = torch.where(x <= -1 + HALF_BIN, lowest, inside)
    each = torch.where(x >= 1 - HALF_BIN, highest, each)
    return torch.logsumexp(F.log_softmax(logits, 1) + each, 1)


def draw(numbers_BPS: Tensor, uniforms_2BS: Tensor, temperature: float = 1.0) -> Tensor:
    """Return samples (B, S) in [-1, 1]: the component by the first uniform, its value by the other.

    Args:
        numbers_BPS: As ``log_probability`` takes them.
        uniforms_2BS: Uniform in (0, 1), (2, B, S) or (2, 1, S).
        temperature: Factor of the scales; 0 gives the means of the drawn components.
    """
    logits, means, log_scales = parts(numbers_BPS)
    below = F.softmax(logits, 1).cumsum(1) < uniforms_2BS[0][:, None]
    chosen = below.sum(1, keepdim=True).clamp_max(logits.shape[1] - 1)
    mean, log_scale = means.gather(1, chosen)[:, 0], log_scales.gather(1, chosen)[:, 0]
    return (mean + temperature * log_scale.exp() * torch.logit(uniforms_2BS[1])).clamp(-1, 1)
