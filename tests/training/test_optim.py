"""Optimizers: AdamW and Muon against formulas, which weight belongs where, rates, the average."""

import math

import numpy as np
import pytest
import torch

from conftest import small_config, tiny_modalities
from nano4m.config.presets import PRESETS
from nano4m.config.training import TrainConfig
from nano4m.model.fourm import FourM
from nano4m.training.batch_sampler import WEIGHTS, generator
from nano4m.training.learning_rate import learning_rate
from nano4m.training.optim import WeightAverage, build_optimizers, gradient_norm

VARIANTS = {
    "default": {},
    "tied": {"tied": True},
    "swiglu": {"mlp": "swiglu"},
    "qk_norm": {"qk_norm": True},
    "shared": {"tables": "shared"},
    "positioned": {"context": "positioned", "register_token": False},
}
ENDS = {"table.weight", "encoder_modality.weight", "decoder_modality.weight"}


def _model(**model) -> FourM:
    made = FourM(small_config(model).model, tiny_modalities())
    made.init_weights(generator(0, WEIGHTS))
    return made


def _groups(model, **train):
    """Return the names of the weights of each group, and its decay: Muon's first."""
    names = {id(p): n for n, p in model.named_parameters()}
    optimizers = build_optimizers(model, TrainConfig(**train))
    return [
        (type(o).__name__, group["weight_decay"], {names[id(p)] for p in group["params"]})
        for o in optimizers
        for group in o.param_groups
    ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_is_in_one_group_and_in_the_right_one(variant):
    model = _model(**VARIANTS[variant])
    everything = [name for name, _ in model.named_parameters()]
    flat = {n for n, p in model.named_parameters() if p.ndim != 2}
    heads = {n for n in everything if n.startswith("heads.")}
    hidden = {*everything} - flat - heads - ENDS
    assert all(n.startswith(("encoder.", "decoder.", "context.")) for n in hidden)
    assert {"register"} & {*everything} <= flat and not {n for n in flat if "norm" in n} & hidden
    for decay_tables in (False, True):
        kept = set() if decay_tables else ENDS
        settings = {"weight_decay": 0.07, "decay_tables": decay_tables}
        (_, decay, decayed), (_, none, free) = _groups(model, optimizer="adamw", **settings)
        assert (decay, none) == (0.07, 0.0)
        assert decayed == {*everything} - flat - kept and free == flat | kept
        muon, *adamw = _groups(model, optimizer="muon", **settings)
        assert muon == ("Muon", 0.07, hidden)
        assert adamw[0] == ("AdamW", 0.07, heads | (ENDS - kept))
        assert adamw[1] == ("AdamW", 0.0, flat | kept)


def test_a_default_model_names_its_hidden_matrices():
    """The rule above could be wrong about a name; here they are written out."""
    (_, _, muon), *_ = _groups(_model())
    attention = {"attention.qkv", "attention.out", "mlp.up", "mlp.down"}
    cross = {"cross.q", "cross.kv", "cross.out"}
    blocks = {f"encoder.0.{n}.weight" for n in attention}
    blocks |= {f"decoder.0.{n}.weight" for n in attention | cross}
    assert muon == blocks | {"context.weight"}


def test_the_reference_decays_its_tables_and_takes_no_muon():
    settings = PRESETS["reference"].train
    model = _model(tables="shared", register_token=False, context="positioned")
    groups = _groups(model, **settings.model_dump(include={"optimizer", "decay_tables"}))
    assert [kind for kind, _, _ in groups] == ["AdamW", "AdamW"]
    assert {*ENDS, "heads.0.weight"} <= groups[0][2]
    assert all("norm" in n or n.endswith("bias") for n in groups[1][2])


# -- updates -----------------------------------------------------------------------------------


def _draw(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_adamw_is_its_formula_for_three_steps():
    model = _model()
    (optimizer,) = build_optimizers(model, TrainConfig(optimizer="adamw", lr=1e-2, beta2=0.9))
    weights = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    first = {n: np.zeros_like(w) for n, w in weights.items()}
    second = {n: np.zeros_like(w) for n, w in weights.items()}
    free = ENDS | {n for n, p in model.named_parameters() if p.ndim != 2}
    for step in range(1, 4):
        for i, (name, parameter) in enumerate(model.named_parameters()):
            parameter.grad = _draw(parameter.shape, 100 * step + i)
            g = parameter.grad.double().numpy()
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.9 * second[name] + 0.1 * g * g
            mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.9**step)
            decay = 0.0 if name in free else 0.05
            weights[name] -= 1e-2 * (decay * weights[name] + mean / (np.sqrt(square) + 1e-8))
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert np.abs(parameter.detach().numpy() - weights[name]).max() < 1e-5, name


@pytest.mark.parametrize("name", ["encoder.0.mlp.up.weight", "decoder.0.cross.kv.weight"])
def test_muon_turns_a_gradient_into_a_nearly_orthogonal_update(name):
    model = _model(dim=32)
    muon, _ = build_optimizers(model, TrainConfig(lr=0.1, weight_decay=0.0))
    weight = dict(model.named_parameters())[name]
    before = weight.detach().clone()
    # Singular values of the gradient from 0.1 to 10, in the directions of a random matrix.
    left, _, right = torch.linalg.svd(_draw(weight.shape, 1), full_matrices=False)
    weight.grad = left * torch.logspace(-1, 1, 32) @ right
    muon.step()
    update = (before - weight.detach()) / 0.1
    # Scaled so that its root mean square is 0.2, AdamW's: arXiv:2502.16982, section 2.2.
    values = torch.linalg.svdvals(update) / (0.2 * math.sqrt(max(weight.shape)))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.4
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)
    # It turns with the gradient: the same singular directions.
    aligned = (left.T @ update @ right.T).diagonal()
    assert bool((aligned > 0.4 * 0.2 * math.sqrt(max(weight.shape))).all())


def test_gradients_are_scaled_down_to_the_norm_and_never_up():
    model = _model()
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = _draw(parameter.shape, i)
    kept = [p.grad.clone() for p in model.parameters()]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in kept))
    assert gradient_norm(model, 2 * norm) == pytest.approx(norm, rel=1e-5)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), kept, strict=True))
    assert gradient_norm(model, norm / 4) == pytest.approx(norm, rel=1e-5)
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        assert torch.allclose(parameter.grad, gradient / 4, rtol=1e-4)


# -- rates and the average ---------------------------------------------------------------------


def test_the_learning_rate_by_hand():
    config = TrainConfig(steps=14, warmup=4, lr=8.0, min_lr=2.0)
    rates = [learning_rate(step, config) for step in range(14)]
    assert rates[:5] == [2.0, 4.0, 6.0, 8.0, 8.0]
    assert rates[9] == pytest.approx(5.0)  # half-way down the cosine
    assert rates[4 + 2] == pytest.approx(2 + 6 * (1 + math.cos(math.pi / 5)) / 2)
    assert rates[5:] == sorted(rates[5:], reverse=True) and 2.0 < rates[-1] < 2.2
    assert learning_rate(14, config) == pytest.approx(2.0)
    # Without warm-up it starts at the peak; a warm-up longer than the run never reaches it.
    assert learning_rate(0, config.model_copy(update={"warmup": 0})) == 8.0
    assert learning_rate(13, config.model_copy(update={"warmup": 28})) == 4.0


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_its_formula(decay):
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, decay)
    wanted = model.weight.detach().double().clone()
    for t in range(6):
        with torch.no_grad():
            model.weight.copy_(_draw((2, 3), t))
        average.update(model)
        share = min(decay, (1 + t) / (10 + t))
        wanted = share * wanted + (1 - share) * model.weight.detach().double()
        assert (average.weights[0] - wanted).abs().max() < 1e-6
    assert average.updates == 6
    mine, theirs = average.weights[0].clone(), model.weight.detach().clone()
    average.swap(model)
    assert torch.equal(model.weight, mine) and torch.equal(average.weights[0], theirs)
    average.swap(model)
    assert torch.equal(model.weight, theirs) and torch.equal(average.weights[0], mine)


@pytest.mark.parametrize("shapes", [[(6, 10)], [(10, 6)], [(8, 8), (6, 10), (8, 8), (6, 10)]])
def test_muon_of_many_matrices_is_that_of_each(shapes):
    from nano4m.training.muon import BatchedMuon

    draw = torch.Generator().manual_seed(0)
    ours = [torch.randn(s, generator=draw).requires_grad_() for s in shapes]
    theirs = [w.detach().clone().requires_grad_() for w in ours]
    batched = BatchedMuon(ours, lr=torch.tensor(0.02), weight_decay=0.1)
    settings = {"lr": 0.02, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    each = torch.optim.Muon(theirs, **settings)
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        batched.step()
        each.step()
    for a, b in zip(ours, theirs, strict=True):
        # Both iterate in bf16.
        assert torch.allclose(a, b, atol=4e-3)
        assert torch.allclose(
            batched.state[a]["momentum_buffer"], each.state[b]["momentum_buffer"], atol=1e-6
        )
