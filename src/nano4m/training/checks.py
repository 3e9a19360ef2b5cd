"""Errors for steps that cannot be taken, and what to do about them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.training.accounting import memory_needed


def check_shares(config: Config, clips: int, val_clips: int, processes: int) -> None:
    """Refuse to train without clips, or with a step that the processes cannot share.

    Raises:
        UserError: Names the values and what is allowed.
    """
    if not clips or not val_clips:
        raise UserError(
            f"training needs clips in the train and val splits; the table has {clips} and "
            f"{val_clips}: add data, or change the shares under --dataset"
        )
    group, size = config.masking.group_size, config.train.batch_size
    if size // group % processes:
        raise UserError(
            f"--train.batch-size {size} is {size // group} groups of --masking.group-size {group}, "
            f"which {processes} processes cannot share evenly; give a batch size that is a "
            f"multiple of {group * processes}"
        )


def not_finite(
    number: int, losses: Mapping[str, float], norm: float, clips: Sequence[str], where: Path
) -> str:
    """Return the error message for step ``number`` (from 0), whose loss or gradient is not finite.

    Args:
        number: Number of the step.
        losses: Summed cross-entropy of each modality.
        norm: Gradient norm.
        clips: Clips of the step.
        where: Folder of its saved weights and batches.
    """
    return (
        f"the loss is not finite at step {number + 1} ({dict(losses)}, gradient norm {norm}); "
        f"clips: {', '.join(clips[:8])}, ...; weights and batches of the step are in {where}; "
        f"lower --train.lr or --train.clip-norm, or train with --train.precision fp32, and "
        f"start again with --overwrite"
    )


@contextmanager
def fitting(
    config: Config, model: FourM, dtype: torch.dtype, is_packed: bool = True
) -> Iterator[None]:
    """Turn an out-of-memory error of a step into a UserError with settings that fit."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(too_large(config, model, dtype, error, is_packed)) from error


def too_large(
    config: Config,
    model: FourM,
    dtype: torch.dtype,
    error: BaseException,
    is_packed: bool = True,
) -> str:
    """Return the error message for a step that exceeds a card's memory, with settings that fit."""
    train, masking, device = config.train, config.masking, model.device
    groups = train.batch_size // masking.group_size
    total = torch.cuda.get_device_properties(device).total_memory
    # Unpacked, a pass has one group; only packed steps are split into passes.
    way = "give a smaller --masking.group-size" + (", and then --train.accumulate" * is_packed)
    for passes in range(train.accumulate + 1, (groups if is_packed else 0) + 1):
        needed = memory_needed(model, train, masking, dtype, passes)
        if groups % passes == 0 and needed < 0.9 * total:
            way = f"--train.accumulate {passes} needs about {needed / 1e9:.1f} GB"
            break
    return (
        f"a step of {train.batch_size} samples does not fit {device}, which has "
        f"{total / 1e9:.0f} GB ({str(error).splitlines()[0]}); {way}"
    )
