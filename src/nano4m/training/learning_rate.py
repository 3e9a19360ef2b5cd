"""The learning-rate schedule."""

import math

from nano4m.config.training import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the rate of ``step`` (from 0): linear warm-up, then a cosine down to ``min_lr``."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
