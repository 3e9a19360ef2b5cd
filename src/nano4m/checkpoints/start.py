"""Weights of another run as the beginning of a training.

The blocks are taken as they are. A modality's table and head belong to the ids of its tokenizer, so
they are taken only if that is the same; the vectors that name a modality are taken by its name.
"""

from pathlib import Path

import torch

from nano4m.checkpoints.folder import different_tensors, load_model
from nano4m.errors import UserError
from nano4m.model.fourm import FourM
from nano4m.tokens.table import TokenSpec

TRUNK = ("encoder.", "encoder_norm.", "context.", "decoder.", "decoder_norm.", "register")
"""Beginnings of the names of weights that belong to no modality."""


def checkpoint_in(folder: Path) -> Path:
    """Return the checkpoint of a run, or the folder itself."""
    inside = folder / "train" / "checkpoint"
    return inside if inside.is_dir() else folder


@torch.no_grad()
def begin_from(model: FourM, token_spec: TokenSpec, folder: Path) -> str:
    """Copy what fits from the checkpoint of ``folder`` into ``model``; return what was taken.

    Args:
        model: With its weights drawn; what does not fit keeps them.
        token_spec: Modalities and tokenizers of the model.
        folder: A run, or a checkpoint.

    Returns:
        A sentence for the log.

    Raises:
        UserError: No checkpoint there, or its blocks have other shapes.
    """
    try:
        other, spec = load_model(checkpoint_in(folder))
    except UserError as error:
        raise UserError(f"--train.init {folder}: {error}") from error
    own = {k: v for k, v in model.state_dict().items() if k.startswith(TRUNK)}
    theirs = {k: v for k, v in other.state_dict().items() if k.startswith(TRUNK)}
    differ = different_tensors(own, theirs)
    if differ:
        raise UserError(
            f"--train.init {folder}: its blocks are not of this model's form: {differ}; give the "
            f"same --size and --model settings as that run, or leave --train.init out"
        )
    for name, weight in own.items():
        weight.copy_(theirs[name])
    there = {m.name: i for i, m in enumerate(spec.modalities)}
    has_tables = model.config.tables == other.config.tables == "modality"
    same = []
    for index, modality in enumerate(model.modalities):
        if modality.name not in there:
            continue
        before = there[modality.name]
        for mine, found in (
            (model.encoder_modality, other.encoder_modality),
            (model.decoder_modality, other.decoder_modality),
        ):
            mine.weight[index] = found.weight[before]
        fingerprints = (s.tokenizers.get(modality.name) for s in (token_spec, spec))
        mine_print, found_print = fingerprints
        if has_tables and mine_print == found_print:
            model.table_rows(index).copy_(other.table_rows(before))
            if not (model.config.tied or other.config.tied):
                model.head(index)[0].copy_(other.head(before)[0])
            same.append(modality.name)
    tables = f"tables and heads of {', '.join(same)}" if same else "no table: other tokenizers"
    return f"blocks of {folder}, and {tables}"
