"""What training costs, counted by hand and by PyTorch, and what it is computed in."""

import subprocess
import sys
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import small_config, tiny_table
from nano4m.compute import precision
from nano4m.compute.distributed import DistributedContext
from nano4m.compute.precision import (
    float32_math,
    flushes_denormals,
    has_exact_onednn,
    measured_peak,
    resolve_device,
    resolve_dtype,
)
from nano4m.errors import UserError
from nano4m.model import attention
from nano4m.model.fourm import FourM
from nano4m.training.accounting import Operations, count_tokens, peak_memory
from nano4m.training.batch_sampler import MASKS, WEIGHTS, generator
from nano4m.training.batches import masked_batches
from nano4m.training.loss import MaskedLoss
from nano4m.training.trainer import Trainer, train_model

CPU = torch.device("cpu")
VARIANTS = {
    "default": {},
    "two": {"encoder_depth": 2, "decoder_depth": 3},
    "swiglu": {"mlp": "swiglu"},
    "tied": {"tied": True},
    "shared": {"tables": "shared", "register_token": False, "context": "positioned"},
    "rope2d": {"positions": "rope2d", "qk_norm": True},
}


def _batches():
    table = tiny_table()
    rows = table.rows("train")[:24]
    return masked_batches(table, rows, small_config().masking, 0, MASKS, 1)


def test_tokens_are_what_the_batches_hold():
    batches = _batches()
    given = sum(len(row) for b in batches for row in b.input_ids_BN.tolist())
    asked = sum(len(row) for b in batches for row in b.target_ids_BM.tolist())
    assert count_tokens(batches) == given + asked > 24
    assert count_tokens([]) == 0


def test_operations_of_a_tiny_model_by_hand():
    table, (batch, *_) = tiny_table(), _batches()
    model = FourM(small_config().model, table.modalities)
    rows, n = batch.input_ids_BN.shape
    m, d, hidden = batch.target_ids_BM.shape[1], 16, 64
    n += 1  # the register
    block = d * 3 * d + d * d + 2 * d * hidden
    encoder = n * block + 2 * d * n * n  # scores and sums
    context = n * d * d
    decoder = m * (block + d * d + d * d) + n * d * 2 * d + 2 * d * m * m + 2 * d * m * n
    heads = sum(d * table.modalities[c].codebook_size for c in batch.target_modality_BM.flatten())
    assert Operations.of(model).count([batch]) == 3 * 2 * (
        rows * (encoder + context + decoder) + heads
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_operations_are_those_that_pytorch_counts(variant, monkeypatch):
    """They are equal: attention is plain products here, and the loss makes its gradients by
    products; embeddings, whose gradients are none, stand before the first block, so that every
    product has both of its gradients."""
    monkeypatch.setattr(attention, "has_tiles", lambda: False)
    batches = _batches()
    config = small_config(VARIANTS[variant])
    model = FourM(config.model, tiny_table().modalities)
    model.init_weights(generator(0, WEIGHTS))
    module = MaskedLoss(model)
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            module(batch).sum().backward()
    assert Operations.of(model).count(batches) == counter.get_total_flops()


def test_a_run_tells_the_tokens_and_operations_of_all_its_steps(tmp_path):
    config, table = small_config(), tiny_table()
    summary = train_model(config, table, tmp_path)
    trainer = Trainer(config, table, tmp_path / "fresh", DistributedContext(CPU))
    tokens = operations = 0
    for number, picked in enumerate(trainer.sampler.steps(0, 12)):
        batches = trainer.maker.masked(table, number, picked)
        tokens += count_tokens(batches)
        operations += trainer.operations.count(batches)
    assert summary["tokens"] == tokens
    rate = summary["mfu"] * summary["peak_gflops"] * 1e9 * summary["train_seconds"]
    assert rate == pytest.approx(operations, rel=0.5)  # three rounded numbers
    assert summary["processes"] == 1 and summary["precision"] == "float32"


def test_peak_memory_grows_by_what_is_allocated_and_stays():
    code = (
        "import torch\nfrom nano4m.training.accounting import peak_memory\n"
        "cpu = torch.device('cpu')\n"
        "before = peak_memory(cpu)\nheld = torch.ones(64 << 18)\nafter = peak_memory(cpu)\n"
        "del held\nassert 60 << 20 < after - before < 80 << 20, (before, after)\n"
        "assert peak_memory(cpu) > after - (4 << 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 50 << 20 < peak_memory(CPU) < 1 << 40


# -- precision ---------------------------------------------------------------------------------


@pytest.fixture
def matmul():
    """Let a test prepare products anew; put everything back afterwards."""
    has_exact_onednn.cache_clear()
    yield
    has_exact_onednn.cache_clear()


def _error(a, b):
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("shape", [(256, 256, 256), (700, 33, 129), (16, 2048, 48)])
def test_products_of_float32_stay_exact_on_this_machine(matmul, shape):
    draw = torch.Generator().manual_seed(1)
    a = torch.randn(shape[0], shape[1], generator=draw)
    b = torch.randn(shape[1], shape[2], generator=draw)
    with float32_math():
        assert (torch.get_float32_matmul_precision() == "medium") == has_exact_onednn()
        assert _error(a, b) < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_where_products_would_be_rounded_the_permission_is_withdrawn(matmul, monkeypatch):
    plain = torch.Tensor.__matmul__

    def rounds(self, other):
        if self.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
            return plain(self.bfloat16(), other.bfloat16()).float()
        return plain(self, other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounds)
    assert not has_exact_onednn()
    draw = torch.Generator().manual_seed(1)
    with float32_math():
        assert torch.get_float32_matmul_precision() == "highest"
        assert _error(*(torch.randn(64, 64, generator=draw) for _ in range(2))) < 1e-5


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("flushes", [True, False])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_float32_math_is_one_way_whatever_the_process_does_and_puts_it_back(
    precision, flushes, fast
):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    torch.set_flush_denormal(flushes)
    try:
        with pytest.raises(KeyError), float32_math(fast):
            assert flushes_denormals()
            wanted = "medium" if fast and has_exact_onednn() else "highest"
            if not torch.cuda.is_available() or not fast:
                assert torch.get_float32_matmul_precision() == wanted
            raise KeyError
        assert torch.get_float32_matmul_precision() == precision
        assert flushes_denormals() == flushes
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)


def _resolved(name, device="cpu"):
    return resolve_dtype(small_config(precision=name).train, torch.device(device))


@pytest.mark.parametrize("avx, amx", [(False, False), (True, False), (False, True)])
def test_auto_computes_in_bf16_where_the_machine_multiplies_it(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert _resolved("auto") == (torch.bfloat16 if avx or amx else torch.float32)
    for native, chosen in ((True, torch.bfloat16), (False, torch.float16)):
        # T4 and V100 emulate bf16: slower than float32.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert _resolved("auto", "cuda") == chosen
    # What is asked for is what is taken.
    assert [_resolved(n) for n in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]


def test_a_device_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == resolve_device("cpu") == CPU
    with pytest.raises(UserError, match="--device cuda: .* CUDA.*; use auto or cpu"):
        train_model(small_config(device="cuda"), tiny_table(), tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match="--device cuda:2: this machine has cuda:0, cuda:1"):
        resolve_device("cuda:2")
    assert resolve_device("cpu") == CPU


def test_why_there_is_no_cuda_device_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def refused():
        with pytest.raises(UserError) as told:
            resolve_device("cuda")
        return str(told.value)

    monkeypatch.setattr(torch.version, "cuda", None)
    assert "is a build without CUDA" in refused()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is '' and leaves no CUDA device" in refused()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")

    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11020).")

    monkeypatch.setattr(torch.cuda, "init", init)
    assert "driver on your system is too old (found version 11020)" in refused()


@pytest.mark.parametrize("dtype", precision.DTYPES.values(), ids=precision.DTYPES)
def test_the_peak_of_a_machine_is_found_in_a_moment_and_draws_nothing(dtype):
    before, started = torch.get_rng_state(), time.process_time()
    peak = measured_peak(dtype, CPU)
    assert time.process_time() - started < 3
    assert 1e7 < peak < 1e14
    assert torch.equal(torch.get_rng_state(), before)
