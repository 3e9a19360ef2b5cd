"""Lanes of a step: one result whatever the threads, the sums of plain passes, and even shares."""

import copy

import pytest
import torch

from conftest import small_config, tiny_table
from nano4m.compute import threads as threads_module
from nano4m.compute.distributed import DistributedContext
from nano4m.compute.threads import Threads
from nano4m.model.fourm import FourM
from nano4m.training.batch_sampler import MASKS, WEIGHTS, generator
from nano4m.training.batches import masked_batches
from nano4m.training.lanes import UNEVEN, Layout
from nano4m.training.mixed_precision import MixedPrecisionModule

CPU = DistributedContext(torch.device("cpu"))


def small_model(dropout: float = 0.0) -> FourM:
    model = FourM(small_config().model, tiny_table().modalities, dropout)
    model.init_weights(generator(0, WEIGHTS))
    with torch.no_grad():
        for head in model.heads:  # heads of zeros would give the trunk no gradient
            head.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return model


def masked_groups(groups: int, seed: int, size: int = 8):
    table = tiny_table(96)
    rows = table.rows("train")[: groups * size]
    masking = small_config().masking.model_copy(update={"group_size": size})
    return masked_batches(table, rows, masking, seed, MASKS, 0)


def gradients(model, batches, dtype, threads, seed=0):
    own = copy.deepcopy(model)
    module = MixedPrecisionModule(own, dtype, CPU, threads=threads)
    torch.manual_seed(seed)
    sums, counts = module.gradients(batches)
    return module, sums, counts, [p.grad for p in own.parameters()]


@pytest.fixture
def lanes(request, monkeypatch):
    """Lay steps out for so many cores, whatever this machine has."""
    monkeypatch.setattr(threads_module.os, "cpu_count", lambda: request.param)
    return request.param


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 16], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_no_bit(lanes, dtype):
    model, batches = small_model(dropout=0.2), masked_groups(4, seed=1)
    results = [gradients(model, batches, dtype, threads) for threads in (1, 2, 3)]
    assert results[0][0].layout.lanes == {1: 1, 2: 2, 3: 2, 4: 4, 16: 8}[lanes]
    for _, sums, _, grads in results[1:]:
        assert torch.equal(sums, results[0][1])
        assert all(torch.equal(a, b) for a, b in zip(grads, results[0][3], strict=True))
    if lanes > 1:
        _, other, _, _ = gradients(model, batches, dtype, 2, seed=1)
        assert not torch.equal(other, results[0][1]), "dropout draws from the seed of the step"


@pytest.mark.parametrize("groups", [1, 3, 4])
@pytest.mark.parametrize("lanes", [2, 8], indirect=True)
def test_lanes_add_up_to_plain_passes(lanes, groups):
    model, batches = small_model(), masked_groups(groups, seed=2)
    module, sums, counts, grads = gradients(model, batches, torch.float32, 2)
    assert module.is_laid_out
    plain = MixedPrecisionModule(model, torch.float32, CPU)
    plain.lanes = plain.lanes[:1]
    wanted, wanted_counts = plain.gradients(batches)
    assert torch.equal(counts, wanted_counts)
    torch.testing.assert_close(sums, wanted)
    for grad, parameter in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=1e-4, atol=1e-6)
    judged, _ = module.evaluate(batches)
    torch.testing.assert_close(judged, plain.evaluate(batches)[0])


@pytest.mark.parametrize("lanes", [2], indirect=True)
def test_lanes_follow_the_weights_of_the_model(lanes):
    model, batches = small_model(), masked_groups(2, seed=3)
    for dtype in (torch.float32, torch.bfloat16):
        module = MixedPrecisionModule(model, dtype, CPU, threads=2)
        before, _ = module.evaluate(batches)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        module.refresh()
        after, _ = module.evaluate(batches)
        fresh, _ = MixedPrecisionModule(model, dtype, CPU, threads=1).evaluate(batches)
        assert torch.equal(after, fresh) and not torch.equal(after, before)


@pytest.mark.parametrize("number", [2, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_shares_are_even_and_lose_no_sample(number, seed):
    layout = Layout(small_model(), number)
    batches = masked_groups(4, seed=seed, size=16)
    shared = layout.share(batches)
    costs = [layout._cost(own) for own in shared]
    # Halves of halves: what is left over is at most one sample of the longest group.
    spare = max(layout._cost([b]) / len(b.input_ids_BN) for b in batches)
    assert max(costs) <= UNEVEN * sum(costs) / number + 4 * spare

    def rows(parts):
        return sorted(tuple(row.tolist()) for b in parts for row in b.input_ids_BN)

    assert rows(b for own in shared for b in own) == rows(batches)
    for mine, other in zip(shared, layout.share(batches), strict=True):
        for a, b in zip(mine, other, strict=True):
            assert torch.equal(a.input_ids_BN, b.input_ids_BN)


def test_one_sample_is_one_lane():
    (batch,) = masked_groups(1, seed=0, size=1)
    assert len(Layout(small_model(), 4).share([batch])) == 1


def test_an_error_of_a_thread_is_raised_after_the_others_have_ended():
    ended = []

    def fails() -> None:
        raise ValueError("of a thread")

    with pytest.raises(ValueError, match="of a thread"):
        Threads(2, 2)([fails, lambda: ended.append(1)])
    assert ended


def test_operations_of_a_task_use_their_share_of_the_cores():
    before = torch.get_num_threads()
    for lanes, available, cores in ((2, 2, 1), (2, 1, 1), (8, 32, 4), (4, 6, 1)):
        found = Threads(lanes, available)([torch.get_num_threads] * lanes)
        assert set(found) == {cores}
    assert Threads(1, 1)([torch.get_num_threads]) == [before]
    assert torch.get_num_threads() == before
