"""A finished run, opened: configuration, model, tokenizers and token table that belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nano4m.checkpoints.folder import load_model
from nano4m.compute.precision import resolve_device
from nano4m.config.compatibility import read_stored, with_new_names
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.masking import draw_masks
from nano4m.masking.conditions import NOTHING, Condition, Kind, classify, levels_of
from nano4m.modalities import Modality
from nano4m.model.fourm import FourM
from nano4m.stage import manifest_of
from nano4m.storage.damage import reading
from nano4m.storage.json_files import read_object
from nano4m.tokenizers import load_tokenizer
from nano4m.tokenizers.base import Tokenizer
from nano4m.tokens.batch import TokenSequence
from nano4m.tokens.table import TokenTable, open_table

NEEDED = ("clips", "tokenizers", "table", "train")
"""Stages of a run that must be finished."""

FROM_NOTHING: tuple[Kind, ...] = ("whole", "in part", "next token")
"""Conditions of masks without inputs of other modalities."""
DRAWS = 1024
"""Masks that are drawn to check whether a model was trained without inputs."""


@dataclass(frozen=True, kw_only=True)
class LoadedRun:
    """A loaded run, as generation needs it.

    Attributes:
        folder: Of the run.
        config: Its configuration.
        model: In evaluation mode, on its device.
        tokenizers: By name of modality, on the same device.
        table: Tokens of its clips.
        fingerprints: Of the token spec, the tokenizers and the stages.
    """

    folder: Path
    config: Config
    model: FourM
    tokenizers: dict[str, Tokenizer]
    table: TokenTable
    fingerprints: dict[str, Any]

    @property
    def tokens(self) -> TokenSequence:
        """Token sequence of the run."""
        return TokenSequence(self.table.modalities)

    @property
    def by_name(self) -> dict[str, Modality]:
        """The modalities of the run."""
        return {m.name: m for m in self.table.modalities}


def _read_config(folder: Path) -> Config:
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder} is no folder of a run (config.json is missing); make one with: "
            f"nano4m run PRESET --out {folder}"
        )
    with reading(path):
        return read_stored(Config, with_new_names(read_object(path)))


def open_run(folder: Path, device: str) -> LoadedRun:
    """Return a run whose training is finished, loaded.

    Args:
        folder: Of the run.
        device: Of model and tokenizers, as ``Config.device``.

    Raises:
        UserError: No run, one that is not finished, or parts that do not belong together.
    """
    config, where = _read_config(folder), resolve_device(device)
    unfinished = [name for name in NEEDED if manifest_of(folder, name) is None]
    if unfinished:
        raise UserError(
            f"{folder} is not finished: {unfinished[0]!r} is missing; run: nano4m run "
            f"{config.preset} --out {folder} with the options it was begun with"
        )
    model, token_spec = load_model(folder / "train" / "checkpoint")
    table = open_table(folder / "table")
    token_spec.require_same(table.token_spec, "the checkpoint", "the token table")
    tokenizers = {
        m.name: load_tokenizer(folder / "tokenizers" / m.name, where) for m in token_spec.modalities
    }
    found = {name: tokenizer.fingerprint for name, tokenizer in tokenizers.items()}
    for name, expected in token_spec.tokenizers.items():
        if found[name] != expected:
            raise UserError(
                f"the {name} tokenizer of {folder} has fingerprint {found[name]}, the checkpoint "
                f"was trained on {expected}; bring the files of that tokenizer back, as ids mean "
                f"something else now"
            )
    digests = {name: (manifest_of(folder, name) or {}).get("digest", "") for name in NEEDED}
    return LoadedRun(
        folder=folder,
        config=config,
        model=model.to(where).eval(),
        tokenizers=tokenizers,
        table=table,
        fingerprints={
            "vocabulary": token_spec.fingerprint,
            "tokenizers": found,
            "stages": digests,
        },
    )


def times_unconditional(run: LoadedRun) -> dict[str, int]:
    """Return how many of DRAWS training masks ask for each modality as generation from nothing.

    These are states of decoding in which nothing but tokens of the modality itself is known. The
    masks are drawn from the masking section of the run, with a fixed seed.
    """
    rows = torch.arange(DRAWS) % len(run.table.clip_ids)
    ids, valid = (torch.from_numpy(a) for a in run.table.gather(rows.numpy(), None))
    # Groups of one sample, so that each sample draws roles of its own.
    masking = run.config.masks.model_copy(update={"group_size": 1})
    levels = levels_of(masking, run.tokens)
    counts = {m.name: 0 for m in run.table.modalities}
    if not masking.drops_all:  # budgets may leave all other modalities out by chance, too rarely
        return counts
    for own, inputs, targets in draw_masks(
        valid, run.tokens, masking, torch.Generator().manual_seed(0)
    ):
        found = classify(inputs, targets, valid[own], run.tokens, levels)
        for name in counts:
            asked = [found.get(Condition(kind, NOTHING, name)) for kind in FROM_NOTHING]
            counts[name] += sum(bool(is_B.any()) for is_B in asked if is_B is not None)
    return counts


def require_unconditional(run: LoadedRun, targets: list[str], why: str) -> None:
    """Refuse a run that was never trained to predict ``targets`` without inputs.

    Args:
        run: Its masking is checked.
        targets: Names of modalities.
        why: What needs this: the beginning of the message.

    Raises:
        UserError: The message says how to train.
    """
    counts = times_unconditional(run)
    missing = [name for name in targets if not counts[name]]
    if missing:
        raise UserError(
            f"{why} needs what the model says of {missing[0]!r} when nothing is given, and the "
            f"training of {run.folder} never asked that: 0 of {DRAWS} masks drawn from its masking "
            "drop all conditions, so the answer is noise. Use --guidance 1 with something given, "
            "or train with masks that drop them, such as those of any_to_any: "
            f"nano4m run {run.config.preset} --out OTHER --masking.any-to-any 0.9"
        )
