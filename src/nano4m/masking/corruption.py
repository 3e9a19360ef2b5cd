"""Token corruption: some of the tokens that are given are replaced by random ones.

A model that is trained so relies on no single token; the noise is drawn anew in every step, so it
also keeps few clips from being learnt by heart. Targets are never changed.

Shapes: B samples, N inputs, C modalities.
"""

import torch

from nano4m.modalities import TEXT_END, Modality
from nano4m.tokens.batch import MaskedBatch


def corrupt(
    batch: MaskedBatch,
    modalities: tuple[Modality, ...],
    share: float,
    generator: torch.Generator,
) -> MaskedBatch:
    """Return the batch with about ``share`` of its inputs replaced, each on its own.

    A token becomes any id of the same codebook, with equal probability. The end of a text is
    neither replaced nor drawn, because it gives the text's length.

    Args:
        batch: On the CPU.
        modalities: Of the run, C of them.
        share: In [0, 1).
        generator: Of which tokens and which ids.
    """
    ids_BN, modality_BN = batch.input_ids_BN, batch.input_modality_BN
    sizes_C = torch.tensor([m.codebook_size for m in modalities])
    books_C = torch.tensor([m.num_codebooks for m in modalities])
    text_C = torch.tensor([m.is_text for m in modalities])
    chosen_BN = torch.rand(ids_BN.shape, generator=generator) < share
    uniform_BN = torch.rand(ids_BN.shape, generator=generator, dtype=torch.float64)
    size_BN, text_BN = sizes_C[modality_BN], text_C[modality_BN]
    # TEXT_END is the first id, so the others of a text are the size - 1 after it.
    first_BN = torch.where(text_BN, TEXT_END + 1, 0)
    drawn_BN = first_BN + (uniform_BN * (size_BN - first_BN)).long()
    codebook_BN = batch.input_coords_BN2[..., 1] % books_C[modality_BN]
    drawn_BN = drawn_BN + codebook_BN * size_BN
    chosen_BN &= ~(text_BN & (ids_BN == TEXT_END))
    return batch._replace(input_ids_BN=torch.where(chosen_BN, drawn_BN, ids_BN))
