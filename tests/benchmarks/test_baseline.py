"""The benchmarks' baseline against the reference's own outputs, and its masks against its rules."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import reference_baseline as reference  # noqa: E402
import reference_data as data  # noqa: E402
from measure import reference_modalities  # noqa: E402

BATCHES = ("tiny", "tiny_all")


def load(golden: Path, dtype: torch.dtype) -> reference.Baseline:
    """Build the baseline of the golden file; every name and shape must be the file's."""
    path = golden / "tiny.safetensors"
    with safe_open(path, "pt") as file:
        found = file.metadata()
    sizes = reference.Sizes(
        vocab=max(json.loads(found["vocab_sizes"])),
        modalities=len(json.loads(found["vocab_sizes"])),
        longest=max(json.loads(found["max_seq_lens"])),
        dim=int(found["dim"]),
        head=int(found["head_dim"]),
        depth=(int(found["enc_depth"]), int(found["dec_depth"])),
    )
    model = reference.Baseline(sizes)
    model.load_state_dict(load_file(path), strict=True)
    return model.to(dtype)


def read(golden: Path, name: str) -> reference.PaddedBatch:
    """Read a golden batch; its arrays have the order of our fields."""
    arrays = np.load(golden / f"{name}_batch.npz")
    keys = [f"{s}_{k}" for s in ("enc", "dec") for k in ("tokens", "modalities", "positions")]
    keys.insert(3, "enc_pad_mask")
    return reference.PaddedBatch(*(torch.from_numpy(arrays[k]) for k in [*keys, "dec_pad_mask"]))


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize(
    "dtype, suffix, states, scores, losses",
    [
        (torch.float64, "f64", 1e-10, 1e-10, 1e-10),
        (torch.float32, "f32", 1e-5, 2e-5, 5e-6),
    ],
)
def test_every_output_of_the_reference(golden, name, dtype, suffix, states, scores, losses):
    model, batch = load(golden, dtype), read(golden, name)
    expected = np.load(golden / f"{name}_out.npz")
    with torch.no_grad():
        encoded, decoded = model.states(batch)
        logits = model(batch)
        tokens = reference.token_losses(logits, batch)
        means, loss = model.losses(batch)
    shape = batch.target_ids_BM.shape
    for key, value, where, limit in (
        ("encoder_out", encoded, batch.enc_real_BN, states),
        ("decoder_out", decoded, batch.dec_real_BM, states),
        ("logits", logits, batch.dec_real_BM, scores),
        ("token_ce", tokens.view(shape), torch.ones(shape, dtype=torch.bool), scores),
        ("per_modality_loss", means, torch.ones(len(means), dtype=torch.bool), losses),
    ):
        wanted = torch.from_numpy(expected[f"{key}_{suffix}"])
        assert float((value[where] - wanted[where]).abs().max()) < limit, key
    assert float(loss) == pytest.approx(float(expected[f"loss_{suffix}"]), abs=losses)


@pytest.mark.parametrize("name", BATCHES)
def test_every_gradient_of_the_reference(golden, name):
    model = load(golden, torch.float64)
    model.losses(read(golden, name))[1].backward()
    norms = json.loads((golden / "tiny_grad_norms.json").read_text())[name]
    got = dict(model.named_parameters())
    assert got.keys() == norms.keys()
    for key, norm in norms.items():
        assert float(got[key].grad.norm()) == pytest.approx(norm, abs=1e-10), key


def test_the_full_size_has_the_published_tensors(golden):
    published = json.loads((golden / "keys_full.json").read_text())
    with torch.device("meta"):
        model = reference.Baseline(reference.Sizes())
    assert {k: list(t.shape) for k, t in model.state_dict().items()} == {
        t["key"]: t["shape"] for t in published["tensors"]
    }
    assert sum(p.numel() for p in model.parameters()) == published["num_parameters"]


def samples(count: int = 300) -> list[reference.PaddedBatch]:
    """Masked samples of the reference's modalities, captions of four to seven tokens."""
    modalities, draw = reference_modalities(), torch.Generator().manual_seed(0)
    found = []
    for index in range(count):
        ids = [torch.arange(m.length) for m in modalities]
        ids[4][4 + index % 4 :] = reference.PAD
        found.append(data.mask_sample(ids, modalities, draw))
    return found


def test_masks_are_disjoint_and_a_sound_is_asked_for_right_after_it_is_given():
    for batch in samples():
        sides = []
        for fields in (batch[:4], batch[4:]):
            _, kind, position, real = fields
            assert real.sum() > 0 and not bool((real.int().diff() > 0).any())
            sides.append((kind[real], position[real]))
        pairs = [set(zip(k.tolist(), p.tolist(), strict=True)) for k, p in sides]
        assert not pairs[0] & pairs[1]
        runs = [p[k == 1] for k, p in sides]
        assert len(runs[0]) % 2 == 0 and len(runs[1]) % 2 == 0
        # A sound that is asked for without a part of it before is one frame.
        assert len(runs[0]) or len(runs[1]) == 2
        run = torch.cat(runs)
        assert torch.equal(run, torch.arange(int(run[0]), int(run[0]) + len(run)))
        assert int(run[0]) % 2 == 0


def test_real_tokens_a_sample_are_those_of_the_reference():
    # Measured on the reference's own masks: 132.7 given and 125.4 asked for, [PAD] among them.
    batch = data.collate(samples(2000))
    assert float(batch.enc_real_BN.sum(1).float().mean()) == pytest.approx(132.7, abs=6)
    assert float(batch.dec_real_BM.sum(1).float().mean()) == pytest.approx(125.4, abs=6)
    given, asked = batch.content
    assert float(given.sum() / batch.enc_real_BN.sum()) == pytest.approx(1 - 0.163, abs=0.03)
    assert float(asked.sum() / batch.dec_real_BM.sum()) == pytest.approx(1 - 0.126, abs=0.03)


def test_files_give_the_masked_batch(tmp_path):
    modalities = reference_modalities()
    data.write_clips(tmp_path, 3, modalities, np.random.default_rng(0))
    files = data.ClipFiles(tmp_path, 3, modalities, seed=0)
    batch = files.batch([0, 1, 2])
    assert batch.input_ids_BN.shape == (3, reference.SLOTS)
    stored = np.load(tmp_path / "rgb" / "000001.npy")
    own = batch.enc_real_BN[1] & (batch.input_modality_BN[1] == 0)
    picked = stored[:, batch.enc_position_BN[1][own]]
    assert (picked == batch.input_ids_BN[1][own].numpy()).all(1).sum() == 1


def test_the_sampler_fills_every_slot_from_its_own_ids():
    sizes = reference.Sizes(vocab=64, modalities=2, longest=20, dim=16, head=8, depth=(1, 1))
    model = reference.Baseline(sizes)
    model.init_weights(torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    made = reference.maskgit(model, [(0, torch.arange(5))], 1, 20, 7, 4, draw)
    assert made.shape == (20,) and int(made.min()) >= 0 and int(made.max()) < 7
