"""The format of published nano4M checkpoints: one safetensors file with metadata.

The file holds every tensor of the published model in float32, buffers included, and its
configuration as metadata: the ``str()`` of each value. Only metadata that describe the model are
read. The names of batch entries and the mean of the loss belong to the published training code:
they are not read, and are written as published.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from nano4m.config.model import ModelConfig
from nano4m.config.presets import PUBLISHED_MODEL, SIZE_FIELDS
from nano4m.errors import UserError, nearest
from nano4m.modalities import PUBLISHED, Layout, Modality, modality
from nano4m.model.fourm import FourM
from nano4m.tokens.table import TokenSpec

OUTSIDE = {
    "table": "enc_tok_emb",
    "positions.table": "pos_emb",
    "encoder_modality": "enc_mod_emb",
    "decoder_modality": "dec_mod_emb",
    "encoder_norm": "enc_norm",
    "context": "dec_context_proj",
    "decoder_norm": "dec_norm",
    "heads.0": "to_logits",
}
ENCODER_BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.attn_out_proj",
    "norm2": "norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
DECODER_BLOCK = {
    "norm1": "norm1",
    "attention.qkv": "self_attn.qkv",
    "attention.out": "self_attn.attn_out_proj",
    "norm_query": "query_norm",
    "norm_context": "context_norm",
    "cross.q": "cross_attn.q",
    "cross.kv": "cross_attn.kv",
    "cross.out": "cross_attn.attn_out_proj",
    "norm2": "norm2",
    "mlp.up": "mlp.fc1",
    "mlp.down": "mlp.fc2",
}
READ_KEYS = ("tokens", "modalities", "positions", "pad_mask")
CODEBOOKS = 2
"""Codebooks of EnCodec at 1.5 kbit/s, whose tokens a published sound interleaves."""


def published_name(name: str) -> str:
    """Return the published name of a tensor of that architecture."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    module, kind = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    side, number, part = module.split(".", 2)
    block = ENCODER_BLOCK if side == "encoder" else DECODER_BLOCK
    return f"{side}.blocks.{number}.{block[part]}.{kind}"


def published_tensors(model: FourM) -> dict[str, Tensor]:
    """Return all tensors of a model of the published architecture under their published names."""
    tensors = {published_name(name): tensor for name, tensor in model.state_dict().items()}
    for name, tensor in list(tensors.items()):
        module = name.removesuffix(".weight")
        if module.endswith(("norm", "norm1", "norm2")):
            tensors[f"{module}.bias"] = torch.zeros_like(tensor)
    return tensors


def _shape(layout: Layout, length: int) -> tuple[int, ...] | None:
    """Return the shape for a published length; None if there is none."""
    if layout == "text":
        return (length,)
    if layout == "codebooks":
        return None if length % CODEBOOKS else (length // CODEBOOKS, CODEBOOKS)
    side = math.isqrt(length)
    return (side, side) if side * side == length else None


def _title(name: str, layout: Layout, length: int) -> str:
    """Return a modality's name in the metadata: texts, whose length varies, are without length."""
    return name if layout == "text" else f"{name}@{length}"


_Number = Annotated[int, Field(gt=0, le=2**20)]


class PublishedMetadata(BaseModel):
    """Metadata of a published file that describe the model; other keys are not read."""

    model_config = ConfigDict(strict=True, frozen=True)

    modalities: list[str] = Field(min_length=1)
    vocab_sizes: list[_Number]
    max_seq_lens: list[_Number]
    dim: _Number
    enc_depth: _Number
    dec_depth: _Number
    head_dim: _Number
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] = PUBLISHED_MODEL.mlp_ratio

    @classmethod
    def read(cls, metadata: Mapping[str, str], where: str) -> "PublishedMetadata":
        """Return the metadata parsed as literals; nothing is evaluated, and other values stay text.

        Raises:
            UserError: A key is missing, or a value is invalid.
        """
        values: dict[str, Any] = {}
        for key in cls.model_fields.keys() & metadata.keys():
            try:
                values[key] = ast.literal_eval(metadata[key])
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                values[key] = metadata[key]
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:4]
            )
            raise UserError(f"{where}: its metadata describe no nano4M model: {wrong}") from error

    def config(self) -> ModelConfig:
        """Return the published architecture in this size."""
        size = {
            "encoder_depth": self.enc_depth,
            "decoder_depth": self.dec_depth,
            "dim": self.dim,
            "head_dim": self.head_dim,
            "mlp_ratio": self.mlp_ratio,
        }
        return ModelConfig(**(PUBLISHED_MODEL.model_dump() | size))

    def token_spec(self, where: str) -> TokenSpec:
        """Return the token spec with our modality names.

        The tokenizers are not in the file; their fingerprints only say that they are the published
        ones.

        Raises:
            UserError: An unknown modality, or inconsistent sizes.
        """
        columns = self.modalities, self.vocab_sizes, self.max_seq_lens
        if len({len(column) for column in columns}) > 1:
            raise UserError(
                f"{where}: metadata modalities, vocab_sizes and max_seq_lens have "
                f"{', '.join(str(len(column)) for column in columns)} entries, not equally many"
            )
        entries, tokenizers = [], {}
        for published, vocab_size, length in zip(*columns, strict=True):
            name = published.split("@")[0]
            if name not in PUBLISHED:
                raise UserError(
                    f"{where}: unknown modality {published!r}; {nearest(name, PUBLISHED)}"
                )
            entry = modality(PUBLISHED[name])
            shape = _shape(entry.layout, length)
            if shape is None or published != _title(name, entry.layout, length):
                raise UserError(
                    f"{where}: modality {published!r} has max_seq_lens {length}; a grid is square, "
                    f"a sound has {CODEBOOKS} codebooks, and the number in the name is the length"
                )
            if entry.name in tokenizers:
                raise UserError(f"{where}: a modality stands twice in {self.modalities}")
            entries.append(entry.with_tokens(shape, vocab_size))
            tokenizers[entry.name] = f"published {published}"
        return TokenSpec(tuple(entries), tokenizers)


def published_metadata(config: ModelConfig, modalities: Sequence[Modality]) -> dict[str, str]:
    """Return the metadata of a published file.

    Raises:
        UserError: The architecture or a modality has no published form; every difference is named.
    """
    mine, theirs = (
        c.model_dump(exclude={*SIZE_FIELDS, "init", "checkpointing"})
        for c in (config, PUBLISHED_MODEL)
    )
    differ = [f"{k} {mine[k]!r} (published: {theirs[k]!r})" for k in mine if mine[k] != theirs[k]]
    names = {ours: name for name, ours in PUBLISHED.items()}
    for entry in modalities:
        if entry.name not in names:
            differ.append(f"modality {entry.name!r} (published: {', '.join(names)})")
        elif _shape(entry.layout, entry.length) != entry.shape:
            differ.append(
                f"{entry.name} {entry.shape} (published: square grids, {CODEBOOKS} codebooks)"
            )
    if differ:
        raise UserError(f"this checkpoint has no published form: {'; '.join(differ)}")
    lengths = [m.length for m in modalities]
    titles = [_title(names[m.name], m.layout, m.length) for m in modalities]
    values: dict[str, Any] = {
        "_target_": "nanofm.models.fourm.FourM",
        **{f"{s}_{key}_read_key": f"{s}_{key}" for key in READ_KEYS for s in ("enc", "dec")},
        "modalities": titles,
        "vocab_sizes": [m.vocab_size for m in modalities],
        "max_seq_lens": lengths,
        "dim": config.dim,
        "enc_depth": config.encoder_depth,
        "dec_depth": config.decoder_depth,
        "head_dim": config.head_dim,
        "per_modality_loss_avg": True,
    }
    if config.mlp_ratio != PUBLISHED_MODEL.mlp_ratio:
        values["mlp_ratio"] = config.mlp_ratio
    return {key: str(value) for key, value in values.items()}
