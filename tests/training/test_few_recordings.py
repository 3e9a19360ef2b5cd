"""What helps on few recordings: the best weights, weighing down, balance, corruption, a start."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import small_config, tiny_modalities, tiny_table
from nano4m.checkpoints.folder import load_model
from nano4m.checkpoints.start import begin_from
from nano4m.errors import UserError
from nano4m.masking.corruption import corrupt
from nano4m.model.fourm import FourM
from nano4m.tokens.batch import TokenSequence, pack
from nano4m.tokens.table import TokenSpec
from nano4m.training.batch_sampler import balanced_rows, generator
from nano4m.training.kept_weights import (
    BEST,
    FACTORS,
    LEAST_FACTOR,
    over_uniform,
    weigh_down,
)
from nano4m.training.loss import count_targets, token_cross_entropy
from nano4m.training.trainer import train_model
from nano4m.training.validation import validation_batches, validation_rows

FEW = {"steps": 40, "val_every": 4, "save_every": 8, "lr": 3e-2, "dropout": 0.0, "ema": 0.5}
"""Twelve clips that are learnt by heart within these steps."""


def _log(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["val"] for line in lines if "val" in line}


@pytest.mark.parametrize("packed", ["on", "off"])
def test_the_checkpoint_has_the_weights_of_the_best_validation(tmp_path, packed):
    table, config = tiny_table(12), small_config(keep="best", packed=packed, **FEW)
    summary = train_model(config, table, tmp_path)
    found = {step: over_uniform(val, table.modalities) for step, val in _log(tmp_path).items()}
    best = min(found, key=found.__getitem__)
    assert best < max(found), "nothing was learnt by heart: the test shows nothing"
    assert summary["kept_step"] == best
    assert summary["kept_over_uniform"] == pytest.approx(found[best], abs=1e-3)
    model, _ = load_model(tmp_path / "checkpoint")
    rows = table.rows("val")
    rows = validation_rows(rows, table.labels[rows], config.train.val_samples)
    batches = validation_batches(table, rows, config)
    with torch.no_grad():
        sums = sum(token_cross_entropy(model, model(batch), batch) for batch in batches)
    means = sums / count_targets(batches, len(table.modalities))
    by_name = dict(zip((m.name for m in table.modalities), means.tolist(), strict=True))
    for name, logged in _log(tmp_path)[best].items():
        assert by_name[name] == pytest.approx(logged, rel=1e-3)


@pytest.mark.parametrize("packed", ["on", "off"])
def test_it_resumes_to_the_bit(tmp_path, packed):
    table = tiny_table(12)
    config = small_config(
        keep="best", by_heart="weigh_down", balance=0.5, corruption=0.1, packed=packed, **FEW
    )
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()
    with pytest.raises(KeyboardInterrupt):
        train_model(config, table, tmp_path / "stopped", stop=lambda done: done == 22)
    told = [train_model(config, table, tmp_path / name) for name in ("straight", "stopped")]
    a, b = (
        load_file(tmp_path / name / "checkpoint" / "model.safetensors")
        for name in ("straight", "stopped")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert told[0]["kept_step"] == told[1]["kept_step"] and told[0]["val"] == told[1]["val"]


def test_a_modality_that_is_learnt_by_heart_counts_less_and_is_named(tmp_path, capsys):
    config = small_config(by_heart="weigh_down", **FEW)
    train_model(config, tiny_table(12), tmp_path)
    state = max(tmp_path.glob("step-*")) / "state.json"
    factors = json.loads(state.read_text())[FACTORS]
    assert min(factors) < 1
    assert "is learnt by heart" in capsys.readouterr().err


def test_factors_halve_only_above_the_best():
    state = {FACTORS: [1.0, 1.0], BEST: [0.0, 0.0]}
    assert weigh_down(state, {"a": 2.0, "b": 3.0}, ["a", "b"]) == []
    assert weigh_down(state, {"a": 2.5, "b": 2.9}, ["a", "b"]) == ["a"]
    assert weigh_down(state, {"a": 2.001, "b": 2.9}, ["a", "b"]) == []
    assert state == {FACTORS: [0.5, 1.0], BEST: [2.0, 2.9]}
    for _ in range(20):
        weigh_down(state, {"a": 9.0}, ["a", "b"])
    assert state[FACTORS] == [LEAST_FACTOR, 1.0]


def test_a_factor_scales_the_gradient_of_its_modality_only(tmp_path):
    from nano4m.compute.distributed import DistributedContext
    from nano4m.training.batches import masked_batches
    from nano4m.training.mixed_precision import MixedPrecisionModule

    table, config = tiny_table(), small_config()
    model = FourM(config.model, table.modalities)
    model.init_weights(generator(0, 0))
    for head in model.heads:
        torch.nn.init.normal_(head.weight)
    module = MixedPrecisionModule(
        model, torch.float32, DistributedContext(torch.device("cpu")), threads=1
    )
    batches = masked_batches(table, np.arange(16), config.masks, 0, 0, 0)
    module.gradients(batches)
    before = [head.weight.grad.clone() for head in model.heads]
    model.zero_grad()
    module.set_factors([1.0, 0.25, 1.0, 1.0, 1.0])
    module.gradients(batches)
    for c, head in enumerate(model.heads):
        expected = before[c] * (0.25 if c == 1 else 1.0)
        torch.testing.assert_close(head.weight.grad, expected)


def test_over_uniform_is_one_for_a_guess_and_leaves_out_what_has_no_targets():
    modalities = tiny_modalities()
    guess = {m.name: math.log(m.codebook_size) for m in modalities}
    assert over_uniform(guess, modalities) == pytest.approx(1)
    del guess["sound"]
    assert over_uniform({k: v / 2 for k, v in guess.items()}, modalities) == pytest.approx(0.5)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balanced_rows_take_classes_as_often_as_asked(balance):
    labels = np.repeat(["dog", "cat", "pig", "coyote"], [132, 60, 13, 1])
    rows = np.arange(len(labels)) * 3
    found = balanced_rows(rows, labels, balance, seed=0)
    assert set(found) == set(rows)
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        own = np.isin(found, rows[labels == label]).sum()
        assert own == pytest.approx(count * (132 / count) ** balance, abs=1)
        times = np.unique(found[np.isin(found, rows[labels == label])], return_counts=True)[1]
        assert np.ptp(times) <= 1
    assert np.array_equal(found, balanced_rows(rows, labels, balance, seed=0))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_corruption_replaces_its_share_by_ids_of_the_same_codebook(share):
    table = tiny_table(48)
    sequence = TokenSequence(table.modalities)
    ids, valid = (torch.from_numpy(a) for a in table.gather(np.arange(48)))
    texts = torch.tensor([m.is_text for m in table.modalities])[sequence.modality_L]
    # Texts have several lengths, so only the ends of the shortest are inputs of all.
    inputs = valid & (~texts | (sequence.index_L < 2))
    targets = torch.zeros_like(inputs)
    targets[:, 0], inputs[:, 0] = True, False
    batch = pack(ids, inputs, targets, sequence)
    found = corrupt(batch, table.modalities, share, generator(0, 6, 0))
    changed = found.input_ids_BN != batch.input_ids_BN
    rate = changed.float().mean().item()
    assert rate == pytest.approx(share * 0.9, abs=0.06)  # some are drawn as they were
    for name in batch._fields:
        if name != "input_ids_BN":
            assert torch.equal(getattr(found, name), getattr(batch, name))
    for c, m in enumerate(table.modalities):
        own = batch.input_modality_BN == c
        new, old = found.input_ids_BN[own], batch.input_ids_BN[own]
        assert torch.equal(new // m.codebook_size, old // m.codebook_size)
        if m.is_text:
            assert torch.equal(new == 0, old == 0), "the end of a text moved"


def test_a_start_takes_blocks_and_the_tables_of_the_same_tokenizers(tmp_path):
    table, config = tiny_table(), small_config(steps=4)
    train_model(config, table, tmp_path)
    before, _ = load_model(tmp_path / "checkpoint")
    prints = dict(table.token_spec.tokenizers) | {"sound": "another"}
    spec = TokenSpec(table.modalities[1:], {n: p for n, p in prints.items() if n != "rgb"})
    model = FourM(config.model, spec.modalities)
    model.init_weights(generator(1, 0))
    drawn = {k: v.clone() for k, v in model.state_dict().items()}
    said = begin_from(model, spec, tmp_path / "checkpoint")
    assert "depth, normals, caption" in said and "sound" not in said
    now = model.state_dict()
    for name, weight in before.state_dict().items():
        if name.startswith(("encoder.", "decoder.", "context")):
            assert torch.equal(now[name], weight)
    for index, m in enumerate(spec.modalities):
        rows = slice(model.starts[index], model.starts[index] + m.vocab_size)
        expected = (
            drawn["table.weight"][rows] if m.name == "sound" else before.table_rows(index + 1)
        )
        assert torch.equal(model.table_rows(index), expected)
        assert torch.equal(
            now["encoder_modality.weight"][index], before.encoder_modality.weight[index + 1]
        )
    assert not torch.equal(now["heads.0.weight"], drawn["heads.0.weight"])


def test_a_start_of_another_width_or_from_nowhere_is_refused(tmp_path):
    table = tiny_table()
    with pytest.raises(UserError, match=r"--train.init .*nowhere.*no checkpoint"):
        train_model(small_config(init=str(tmp_path / "nowhere")), table, tmp_path)
    train_model(small_config(steps=2), table, tmp_path)
    wide = small_config(model={"dim": 32}, init=str(tmp_path / "checkpoint"))
    (tmp_path / "wide").mkdir()
    with pytest.raises(UserError, match="same --size"):
        train_model(wide, table, tmp_path / "wide")


def test_a_training_that_begins_from_another_is_ahead_at_once(tmp_path):
    table = tiny_table()
    for name in ("first", "cold", "warm"):
        (tmp_path / name).mkdir()
    train_model(small_config(steps=60, lr=1e-2, ema=0.9), table, tmp_path / "first")
    short = {"steps": 2, "lr": 1e-4, "min_lr": 1e-5, "ema": 0.0}
    cold = train_model(small_config(**short), table, tmp_path / "cold")["val"]
    init = str(tmp_path / "first" / "checkpoint")
    warm = train_model(small_config(init=init, **short), table, tmp_path / "warm")["val"]
    assert sum(warm.values()) < 0.9 * sum(cold.values())


@pytest.mark.parametrize("packed", ["on", "off"])
@pytest.mark.parametrize(
    "option", [{"by_heart": "weigh_down"}, {"corruption": 0.5}, {"balance": 1.0}]
)
def test_each_option_reaches_the_steps_of_a_training(tmp_path, packed, option):
    # Classes of 6, 3 and 1 train clips.
    table = tiny_table(12)
    table.labels[:] = np.repeat(["many", "some", "few"], [7, 4, 1])[np.arange(12)]
    found = []
    for name, changes in (("with", option), ("without", {})):
        (tmp_path / name).mkdir()
        train_model(small_config(packed=packed, **FEW | changes), table, tmp_path / name)
        found.append(load_file(tmp_path / name / "checkpoint" / "model.safetensors"))
    assert any(not torch.equal(found[0][k], found[1][k]) for k in found[0])
