"""The model that a training begins with."""

from pathlib import Path

import torch

from nano4m.checkpoints.start import begin_from
from nano4m.config.run import Config
from nano4m.model.fourm import FourM
from nano4m.tokens.table import TokenTable
from nano4m.training.batch_sampler import WEIGHTS, generator


def starting_model(config: Config, table: TokenTable) -> tuple[FourM, str]:
    """Return the model before the first step, on the CPU, and what it took from another run.

    Weights are drawn with the seed, tables from the codebooks of their tokenizers, and those of
    ``train.init`` replace them.

    Args:
        config: ``model``, ``train`` and ``seed`` are used.
        table: Token table.

    Raises:
        UserError: ``train.init`` is no checkpoint, or of another form.
    """
    settings = config.train
    model = FourM(config.model, table.modalities, settings.dropout)
    use_codebooks = settings.init_from_codebook and config.model.tables == "modality"
    codes = {n: torch.from_numpy(c) for n, c in table.codebooks.items()} if use_codebooks else None
    model.init_weights(generator(config.seed, WEIGHTS), codes)
    if settings.init is None:
        return model, ""
    return model, begin_from(model, table.token_spec, Path(settings.init))
