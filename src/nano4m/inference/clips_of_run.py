"""Inputs of generation from clips of the run, as tokens of its table."""

from collections.abc import Sequence

import numpy as np
import torch

from nano4m.errors import UserError, nearest
from nano4m.inference.inputs import GenerationInput
from nano4m.inference.loaded_run import LoadedRun


def choose_rows(
    run: LoadedRun, clips: list[str], split: str | None, rows: str | None
) -> np.ndarray:
    """Return rows of the token table, int64 (n,): those of these clips, or a part of a split.

    Raises:
        UserError: A clip or rows that do not exist.
    """
    if clips:
        number = {clip: i for i, clip in enumerate(run.table.clip_ids.tolist())}
        for clip in clips:
            if clips.count(clip) > 1:
                raise UserError(f"--clips: {clip} stands there twice; make more samples with --n")
            if clip not in number:
                close = nearest(clip, number).split("choose from")[0].strip()
                raise UserError(
                    f"--clips {clip}: no clip of {run.folder} has this id; {close} "
                    f"see {run.folder / 'clips' / 'manifest.csv'}"
                )
        return np.array([number[clip] for clip in clips], dtype=np.int64)
    found = run.table.rows(split or "test")
    first, last = parse_range(f"--rows {rows}", rows, len(found)) if rows else (0, len(found))
    if not len(found[first:last]):
        raise UserError(f"the {split or 'test'} split of {run.folder} has no clips")
    return found[first:last]


def parse_range(what: str, text: str, length: int) -> tuple[int, int]:
    """Return first and last of ``FIRST:LAST`` inside ``length``; either may be left out.

    Raises:
        UserError: Not of this form, empty, or beyond the end.
    """
    first, sign, last = text.partition(":")
    is_whole = all(not part or part.isdecimal() for part in (first, last))
    low = int(first) if first.isdecimal() else 0
    high = int(last) if last.isdecimal() else length
    if not sign or not is_whole or not 0 <= low < high <= length:
        raise UserError(f"{what}: FIRST:LAST with 0 <= FIRST < LAST <= {length}, such as 0:1")
    return low, high


def read_rows(run: LoadedRun, rows: np.ndarray, names: Sequence[str]) -> list[GenerationInput]:
    """Return one input a clip, with the table's tokens of those of ``names`` that it has.

    Raises:
        UserError: A clip that has none of them.
    """
    ids_BL, valid_BL = (torch.from_numpy(a) for a in run.table.gather(rows, None))
    shown_L = torch.zeros(run.tokens.length, dtype=torch.bool)
    for name in names:
        shown_L[run.tokens.slices[run.tokens.index(name)]] = True
    inputs = []
    for row, ids, valid in zip(rows.tolist(), ids_BL, valid_BL, strict=True):
        clip = str(run.table.clip_ids[row])
        there = [name for name in run.by_name if run.table.lengths[name][row, 0]]
        given = [name for name in names if name in there]
        if names and not given:
            raise UserError(
                f"clip {clip} has no {' and no '.join(names)}, only {', '.join(there)}; leave it "
                "out of --clips or --rows, or name one of these with --input-modalities"
            )
        inputs.append(
            GenerationInput(
                name=clip,
                ids_L=ids * (valid & shown_L),
                inputs_L=valid & shown_L,
                media={},
                about={"clip_id": clip, "label": str(run.table.labels[row]), "given": given},
            )
        )
    return inputs
