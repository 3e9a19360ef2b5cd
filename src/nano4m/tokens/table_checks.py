"""Checks of a token table's ids and lengths; each error names the first clip that fails.

Shapes: n clips of the table.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nano4m.errors import UserError
from nano4m.modalities import TEXT_END, Modality

_TOKENISE = "tokenise again: nano4m table PRESET --out OUT --overwrite"


def check_ids(
    clip_ids: np.ndarray,
    modalities: Sequence[Modality],
    ids: Mapping[str, np.ndarray],
    highest: Mapping[str, int] | None,
) -> None:
    """Refuse ids of another shape, or beyond their vocabulary.

    Args:
        clip_ids: String array (n,).
        modalities: Of the table.
        ids: By modality, see ``TokenTable``.
        highest: Highest id by modality, if known: then ids are not read.

    Raises:
        UserError: Names the clip, its id, and what to run.
    """
    for modality in modalities:
        own = ids[modality.name]
        if own.ndim != 3 or own.shape[0] != len(clip_ids) or own.shape[2] != modality.length:
            raise UserError(
                f"token table: {modality.name} has shape {own.shape}, expected "
                f"({len(clip_ids)}, views, {modality.length})"
            )
        if highest and highest.get(modality.name, modality.vocab_size) < modality.vocab_size:
            continue
        if own.size and int(own.max()) >= modality.vocab_size:
            own = np.asarray(own)
            clip = int(np.argmax((own >= modality.vocab_size).any(axis=(1, 2))))
            raise UserError(
                f"token table: {modality.name} of clip {str(clip_ids[clip])!r} has id "
                f"{int(own[clip].max())}, its vocabulary ends at {modality.vocab_size - 1}; "
                f"{_TOKENISE}"
            )


def check_lengths(
    clip_ids: np.ndarray,
    modalities: Sequence[Modality],
    ids: Mapping[str, np.ndarray],
    lengths: Mapping[str, np.ndarray],
) -> None:
    """Refuse texts without an end, other modalities in part, and clips without any token.

    Args:
        clip_ids: String array (n,).
        modalities: Of the table.
        ids, lengths: By modality, see ``TokenTable``.

    Raises:
        UserError: Names the clip and its length.
    """
    fewest = np.zeros(len(clip_ids), dtype=np.int64)
    for modality in modalities:
        own, found = ids[modality.name], lengths[modality.name]
        if found.shape != own.shape[:2]:
            raise UserError(
                f"token table: the lengths of {modality.name} have shape {found.shape}, expected "
                f"{own.shape[:2]}"
            )
        fewest += found.min(axis=1, initial=modality.length)
        if modality.is_text:
            bad = (found < 0) | (found > modality.length)
            row, view = np.nonzero((found > 0) & ~bad)
            bad[row, view] = own[row, view, found[row, view] - 1] != TEXT_END
            fault = "does not end there with the end token"
        else:
            bad = (found != 0) & (found != modality.length)
            fault = f"must have {modality.length} tokens, or 0 where the clip lacks it"
        if bad.any():
            clip = int(np.argmax(bad.any(axis=1)))
            raise UserError(
                f"token table: {modality.name} of clip {str(clip_ids[clip])!r} has length "
                f"{found[clip].tolist()} and {fault}"
            )
    if len(clip_ids) and not fewest.all():
        raise UserError(
            f"token table: clip {str(clip_ids[int(np.argmin(fewest))])!r} has no token of any "
            f"modality in some view; leave it out of the clips, and {_TOKENISE}"
        )
