"""Generation: given tokens stay, every slot is filled once, schedules and seeds keep their word."""

import math

import numpy as np
import pytest
import torch

from conftest import tiny_modalities, tiny_table
from nano4m import generate as module
from nano4m.batch import TokenSequence
from nano4m.config import GenerateConfig, ModelConfig
from nano4m.errors import UserError
from nano4m.generate import generate, log_probs
from nano4m.model.fourm import FourM

TOKENS = TokenSequence(tiny_modalities())
SOUND = TOKENS.slices[TOKENS.index("sound")]
CAPTION = TOKENS.slices[TOKENS.index("caption")]


@pytest.fixture(scope="module")
def model() -> FourM:
    built = FourM(
        ModelConfig(encoder_depth=1, decoder_depth=1, dim=16, head_dim=8), TOKENS.modalities
    )
    draw = torch.Generator().manual_seed(0)
    built.init_weights(draw)
    for head in built.heads:
        torch.nn.init.normal_(head.weight, 0, 0.5, generator=draw)
    return built.eval()


def _given(name="rgb", rows=6):
    ids, valid = (torch.from_numpy(a) for a in tiny_table().gather(np.arange(rows), None))
    given = torch.zeros_like(valid)
    span = TOKENS.slices[TOKENS.index(name)]
    given[:, span] = valid[:, span]
    return ids, given


@pytest.mark.parametrize("source", [m.name for m in TOKENS.modalities])
def test_given_tokens_never_change_and_targets_are_filled(model, source):
    ids, given = _given(source)
    given[:, SOUND.start + 1] = True
    given[2, SOUND.start + 4] = True  # rows may know different parts
    targets = [m.name for m in TOKENS.modalities if m.name != source]
    got, filled = generate(model, TOKENS, ids, given, targets, GenerateConfig(steps=3), range(6))
    assert torch.equal(got[given], ids[given])
    assert (filled & given).sum() == given.sum()
    for m, span in zip(TOKENS.modalities, TOKENS.slices, strict=True):
        assert (got[:, span][filled[:, span]] < m.vocab_size).all()
        if not m.is_text:
            assert filled[:, span].all()


def test_texts_end_with_their_end_token(model):
    ids, given = _given("rgb")
    got, filled = generate(model, TOKENS, ids, given, ["caption"], GenerateConfig(), range(6))
    for row in range(6):
        length = int(filled[row, CAPTION].sum())
        text = got[row, CAPTION][:length].tolist()
        assert filled[row, CAPTION][:length].all()
        assert text[-1] == 0 and 0 not in text[:-1]


def test_a_kept_prefix_of_a_text_is_continued(model):
    ids, given = _given("rgb", rows=3)
    ids[:, CAPTION.start : CAPTION.start + 2] = torch.tensor([5, 6])
    given[:, CAPTION.start : CAPTION.start + 2] = True
    got, filled = generate(model, TOKENS, ids, given, ["caption"], GenerateConfig(), range(3))
    assert (got[:, CAPTION.start : CAPTION.start + 2] == torch.tensor([5, 6])).all()
    assert (filled[:, CAPTION].sum(1) > 2).all()


def test_a_sample_does_not_depend_on_its_company(model):
    ids, given = _given("rgb")
    config = GenerateConfig(steps=4)
    together, _ = generate(model, TOKENS, ids, given, ["sound", "caption"], config, range(10, 16))
    for i in range(6):
        alone, _ = generate(
            model, TOKENS, ids[i : i + 1], given[i : i + 1], ["sound", "caption"], config, [10 + i]
        )
        assert torch.equal(alone[0], together[i])
    other, _ = generate(model, TOKENS, ids, given, ["sound"], config, range(6))
    assert not torch.equal(other[:, SOUND], together[:, SOUND])


def test_one_step_without_temperature_is_the_argmax_of_one_forward(model):
    ids, given = _given("rgb")
    config = GenerateConfig(steps=1, temperature=0, noise=0)
    got, _ = generate(model, TOKENS, ids, given, ["sound"], config, range(6))
    asked = torch.arange(SOUND.start, SOUND.stop).expand(6, -1)
    expected = log_probs(model, TOKENS, ids, given, asked).argmax(-1)
    assert torch.equal(got[:, SOUND], expected)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 50])
def test_cosine_schedule_fills_each_slot_once(model, steps, monkeypatch):
    unknown = []

    def spy(model, tokens, ids, given, asked, batch_size):
        unknown.append(asked.shape[1])
        return log_probs(model, tokens, ids, given, asked, batch_size)

    monkeypatch.setattr(module, "log_probs", spy)
    ids, given = _given("rgb")
    generate(model, TOKENS, ids, given, ["sound"], GenerateConfig(steps=steps), range(6))
    count = min(steps, 8)
    expected, left = [8], 8
    for i in range(1, count):
        left = min(left - 1, int(8 * math.cos(math.pi / 2 * i / count)))
        expected.append(left)
    assert unknown == [n for n in expected if n > 0]


def test_log_probs_do_not_depend_on_batching_or_on_hidden_ids(model):
    ids, given = _given("rgb")
    given[1, SOUND.start] = True
    asked = torch.arange(CAPTION.start, CAPTION.start + 2).expand(6, -1)
    whole = log_probs(model, TOKENS, ids, given, asked)
    torch.testing.assert_close(log_probs(model, TOKENS, ids, given, asked, batch_size=2), whole)
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones(6, 2))
    hidden = torch.where(given, ids, 0)
    assert torch.equal(log_probs(model, TOKENS, hidden, given, asked), whole)


def test_top_p_keeps_the_smallest_set_that_holds_p():
    log_p = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for top_p, allowed in ((0.4, {0}), (0.7, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        config = GenerateConfig(top_p=top_p, temperature=1.0)
        draws = {
            int(module._draw(log_p[None], config, [torch.Generator().manual_seed(s)]))
            for s in range(400)
        }
        assert draws == allowed


def test_draws_follow_the_distribution():
    log_p = torch.tensor([0.6, 0.3, 0.1]).log().expand(6000, 3)
    draw = module._draw(
        log_p[None], GenerateConfig(top_p=1.0, temperature=1.0), [torch.Generator().manual_seed(0)]
    )[0]
    share = torch.bincount(draw, minlength=3) / 6000
    assert torch.allclose(share, torch.tensor([0.6, 0.3, 0.1]), atol=0.02)
    cold = GenerateConfig(top_p=1.0, temperature=0.5)
    draw = module._draw(log_p[None], cold, [torch.Generator().manual_seed(0)])[0]
    sharpened = torch.tensor([0.36, 0.09, 0.01]) / 0.46
    assert torch.allclose(torch.bincount(draw, minlength=3) / 6000, sharpened, atol=0.02)


def test_unknown_targets_and_missing_seeds_are_refused(model):
    ids, given = _given("rgb")
    with pytest.raises(UserError, match="no modality 'sond'; did you mean 'sound'"):
        generate(model, TOKENS, ids, given, ["sond"], GenerateConfig(), range(6))
    with pytest.raises(ValueError, match="5 seeds for 6 rows"):
        generate(model, TOKENS, ids, given, ["sound"], GenerateConfig(), range(5))
