"""The loss of several codebooks: one vocabulary each, in both engines, whatever is absent."""

import math

import numpy as np
import pytest
import torch
from packed_steps import CPU, groups_of, model_of, step_of

from conftest import tiny_table, with_codebooks
from nano4m.tokens.batch import TokenSequence, pack
from nano4m.training.loss import count_targets, token_cross_entropy
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.packed_batch import packer

SOUND = 3


@pytest.mark.parametrize("books", [1, 2, 8])
def test_an_untrained_model_starts_at_the_log_of_one_codebook(books):
    table = with_codebooks(tiny_table(), 4, books, 6)
    model = model_of({}, table)
    for head in model.heads:
        torch.nn.init.zeros_(head.weight)
    groups, masking = groups_of(table, 0)
    sums = sum(token_cross_entropy(model, model(b), b) for b in groups).detach()
    counts = count_targets(groups, 5)
    assert float(sums[SOUND] / counts[SOUND]) == pytest.approx(math.log(6), abs=1e-5)
    parts = packer(table.modalities, True, 32, masking).parts(groups)
    assert torch.allclose(step_of(model).evaluate(parts), sums, rtol=1e-5)


def only_books(table, wanted):
    """A batch whose targets are the sound's tokens of some codebooks, given the rest of them."""
    tokens = TokenSequence(table.modalities)
    ids, _ = (torch.from_numpy(a) for a in table.gather(np.arange(6), None))
    is_sound_L = tokens.modality_L == SOUND
    is_asked_L = is_sound_L & torch.isin(tokens.coords_L2[:, 1], torch.tensor(wanted))
    given, asked = is_sound_L & ~is_asked_L, is_asked_L
    return pack(ids, given.expand(6, -1), asked.expand(6, -1), tokens)


@pytest.mark.parametrize("choices", [{}, {"tied": True}, {"logit_soft_cap": 4.0}])
@pytest.mark.parametrize("parts", [[[0]], [[2]], [[0, 1]], [[0, 1, 2]], [[1], [0, 2]], [[2], [2]]])
def test_both_engines_agree_where_codebooks_have_no_targets(parts, choices):
    table = with_codebooks(tiny_table(), 4, 3, 6)
    groups = [only_books(table, wanted) for wanted in parts]
    _, masking = groups_of(table, 0)
    host, device = (model_of(choices, table) for _ in range(2))
    module = MixedPrecisionModule(host, torch.float32, CPU)
    sums, _ = module.gradients(groups)
    step = step_of(device)
    # What an earlier step has left must not count.
    for gradient in step.update.gradients:
        gradient.fill_(7.0)
    for number, part in enumerate(packer(table.modalities, True, 6, masking).parts(groups)):
        step._add_gradients(part, number == 0)
    assert torch.allclose(step.update.sums_C, sums, rtol=1e-5)
    names = [name for name, _ in device.named_parameters()]
    for name, found, own in zip(names, step.update.gradients, host.parameters(), strict=True):
        assert torch.allclose(found, own.grad, atol=1e-5), name
    # The head's rows of a codebook have a gradient where it has targets.
    rows = (device.table if choices.get("tied") else device.heads[SOUND]).weight
    gradient = step.update.gradients[[p is rows for p in device.parameters()].index(True)]
    if not choices.get("tied"):
        moved = [bool(part.any()) for part in gradient.chunk(3)]
        assert moved == [any(book in wanted for wanted in parts) for book in range(3)]


def test_a_token_of_another_codebook_is_an_error():
    table = with_codebooks(tiny_table(), 4, 2, 6)
    model, batch = model_of({}, table), only_books(table, [0])
    wrong = batch._replace(target_ids_BM=batch.target_ids_BM + 6)
    with pytest.raises(RuntimeError, match="out of bounds"):
        token_cross_entropy(model, model(wrong), wrong)
