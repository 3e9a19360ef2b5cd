"""Tokens a second of ``nano4m train`` on a made-up token table of the reference's shapes.

The steps are those of the command: masks from the table in other processes, passes, clipping,
update, a look at the device every 20 steps. Beside them the reference's engine, whose masks are
made before, in the types that its users could choose. Variants, by name:

    bf16                ours: a table and a head a modality, AdamW
    rope                the same with RoPE 1-D and SwiGLU
    muon                the same as bf16 with Muon
    fp16, fp32          the same in other types
    exact               the reference's model and loss in fp32
    exact-bf16          the same in bf16
    eager               bf16, neither compiled nor captured
    graphs              bf16, captured but not compiled
    groups              bf16, group after group, as a CPU does
    baseline, baseline-tf32, baseline-bf16
                        the reference's engine in float32, TF32 and bf16 autocast

    python benchmarks/train_run.py --device cuda --batch 64 --variants bf16,baseline-bf16
"""

import contextlib
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engines import DEFAULT_MODEL, EXACT_MODEL, BaselineEngine, Clips, quick
from measure import Report, arguments, in_own_codebook, reference_modalities
from reference_baseline import PaddedBatch, Sizes, build_optimizer

from nano4m.compute.distributed import DistributedContext
from nano4m.compute.precision import measured_peak, resolve_device
from nano4m.config.model import ModelConfig
from nano4m.config.presets import REFERENCE
from nano4m.config.run import Config
from nano4m.model.fourm import FourM
from nano4m.tokens.table import TokenSpec, TokenTable, open_table, write_table
from nano4m.training.accounting import Operations, peak_memory
from nano4m.training.trainer import Trainer

EVERY = 20
ROPE = ModelConfig(**(DEFAULT_MODEL.model_dump() | {"positions": "rope1d", "mlp": "swiglu"}))
VARIANTS: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    "bf16": (DEFAULT_MODEL, {}),
    "rope": (ROPE, {}),
    "muon": (DEFAULT_MODEL, {"optimizer": "muon"}),
    "fp16": (DEFAULT_MODEL, {"precision": "fp16"}),
    "fp32": (DEFAULT_MODEL, {"precision": "fp32"}),
    "exact": (EXACT_MODEL, {"precision": "fp32"}),
    "exact-bf16": (EXACT_MODEL, {}),
    "eager": (DEFAULT_MODEL, {"compile": "off", "graphs": "off"}),
    "graphs": (DEFAULT_MODEL, {"compile": "off"}),
    "groups": (DEFAULT_MODEL, {"packed": "off", "compile": "off"}),
}
BASELINES = {"baseline": "fp32", "baseline-tf32": "tf32", "baseline-bf16": "bf16"}


def made_up(folder: Path, scale: int, clips: int, seed: int = 0) -> TokenTable:
    """Write a table of random tokens in the reference's shapes; captions of 4 to 7 tokens."""
    rng = np.random.default_rng(seed)
    modalities = reference_modalities(scale)
    ids, lengths = {}, {}
    for m in modalities:
        views = {"frame": 10}.get(m.frame_group, 1)
        drawn = torch.from_numpy(rng.integers(1, m.vocab_size, (clips, views, m.length)))
        ids[m.name] = in_own_codebook(drawn, m).numpy().astype(np.uint16)
        if m.is_text:
            # Few different lengths: groups of one length are whole.
            length = 4 + np.arange(clips) % 4
            ids[m.name][np.arange(m.length)[None, None] >= length[:, None, None] - 1] = 0
            lengths[m.name] = length[:, None].astype(np.int64)
    names = np.array([f"clip{i:06d}" for i in range(clips)])
    splits = np.array(["val" if i % 50 == 49 else "train" for i in range(clips)])
    labels = np.array([f"class{i % 11}" for i in range(clips)])
    token_spec = TokenSpec(modalities, {m.name: "made up" for m in modalities})
    write_table(TokenTable(token_spec, names, labels, splits, ids, lengths), folder)
    return open_table(folder)


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def start_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ours(name: str, table: TokenTable, folder: Path, options: Any, device: torch.device) -> dict:
    """Return the figures of one variant: of the steps after the warm-up."""
    start_memory(device)
    model, settings = VARIANTS[name]
    warm = options.warm_steps
    steps = warm + options.steps
    recipe = {"batch_size": options.batch, "steps": steps, "precision": "bf16", "val_samples": 16}
    # A timed run is too short for compiling to pay, so it is asked for.
    compiled = "on" if device.type == "cuda" and settings.get("precision") != "fp32" else "off"
    recipe |= {"init_from_codebook": False, "compile": compiled} | settings
    masking = REFERENCE.masking.model_dump()
    if options.quick:
        masking |= {"min_inputs": 4, "max_inputs": 12, "min_targets": 4, "max_targets": 12}
        masking |= {"group_size": options.batch // 2}
    config = Config(**REFERENCE.model_dump() | {
        "device": str(device), "masking": masking,
        "model": (quick(model) if options.quick else model).model_dump(),
        "train": REFERENCE.train.model_dump() | recipe,
    })  # fmt: skip
    trainer = Trainer(config, table, folder / "none", DistributedContext(device), folder / "table")
    began = time.perf_counter()
    progress_state, loss = trainer.progress_state, {}
    for number, picked, packed in trainer._steps():
        if number == warm:
            trainer.settle(number)
            sync(device)
            warmed = time.perf_counter()
            tokens, operations = progress_state["tokens"], progress_state["operations"]
        trainer.step(number, picked, packed)
        if (number + 1) % EVERY == 0:
            trainer.settle(number + 1)
            loss = trainer.losses()
        if number + 1 == steps:
            # Before the loop ends the masking processes, which takes a second.
            sync(device)
            seconds = time.perf_counter() - warmed
    step = trainer.on_device
    return {
        "tokens_per_second": round((progress_state["tokens"] - tokens) / seconds),
        "ms_a_step": round(1e3 * seconds / options.steps, 2),
        "tokens_a_step": round((progress_state["tokens"] - tokens) / options.steps),
        "mfu": round((progress_state["operations"] - operations) / seconds / trainer.peak, 4),
        "peak_tflops": round(trainer.peak / 1e12, 1),
        "memory_gb": round(peak_memory(device) / 1e9, 2),
        "warm_seconds": round(warmed - began, 1),
        "engine": str(trainer.fast),
        "shapes": len(step.passes) if step else 0,
        "loss": {k: round(v, 3) for k, v in (loss or trainer.losses()).items()},
        "good": progress_state["good"],
    }


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        parts = [_moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch


def baseline(name: str, table: TokenTable, options: Any, device: torch.device) -> dict:
    """Return the figures of the reference's engine."""
    start_memory(device)
    tiny, kind = options.quick, BASELINES[name]
    clips = Clips(
        modalities=table.modalities, rows=options.batch, seed=options.seed,
        totals=(4, 12) if tiny else (16, 256),
    )  # fmt: skip
    longest = max(m.length for m in table.modalities)
    sizes = Sizes(longest=longest, dim=32, head=8, depth=(1, 1)) if tiny else Sizes()
    with torch.device("meta"):
        meta = FourM(quick(EXACT_MODEL) if tiny else EXACT_MODEL, table.modalities)
    engine = BaselineEngine(clips, sizes, Operations.of(meta), 2)
    engine.model.to(device)
    engine.optimizer = build_optimizer(engine.model)
    engine.batches = [
        PaddedBatch(**{f: _moved(v, device) for f, v in vars(b).items()})
        if not hasattr(b, "_fields") else _moved(b, device)
        for b in engine.batches
    ]  # fmt: skip
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    half = torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16")
    with half if kind == "bf16" else contextlib.nullcontext():
        peak = measured_peak(dtype, device)
        engine.steps()
        sync(device)
        began, tokens, operations, rounds = time.perf_counter(), 0, 0, 1 if tiny else 3
        for _ in range(rounds):
            times = engine.steps()
            tokens, operations = tokens + times.tokens, operations + times.operations
        sync(device)
    seconds = time.perf_counter() - began
    torch.set_float32_matmul_precision("highest")
    return {
        "tokens_per_second": round(tokens / seconds),
        "ms_a_step": round(1e3 * seconds / rounds / 2, 2),
        "mfu": round(operations / seconds / peak, 4),
        "memory_gb": round(peak_memory(device) / 1e9, 2),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples a step (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="timed (%(default)s)")
    parser.add_argument("--warm-steps", type=int, default=40, help="before (%(default)s)")
    parser.add_argument("--clips", type=int, default=2000, help="of the table (%(default)s)")
    parser.add_argument("--variants", default="bf16,baseline-bf16", help="(%(default)s)")
    options = parser.parse_args()
    report = Report("train_run", options)
    device = resolve_device(options.device)
    if options.quick:
        options.steps, options.warm_steps, options.clips, options.batch = 20, 20, 200, 8
    names = options.variants.split(",")
    unknown = set(names) - {*VARIANTS, *BASELINES}
    if unknown:
        parser.error(f"no variant {sorted(unknown)}; choose from {[*VARIANTS, *BASELINES]}")
    found: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = made_up(folder / "table", 4 if options.quick else 1, options.clips)
        for _ in range(options.repeats):
            for name in names:
                if name in BASELINES:
                    row = baseline(name, table, options, device)
                else:
                    row = ours(name, table, folder, options, device)
                print(json.dumps({"variant": name} | row), file=sys.stderr, flush=True)
                found[name].append(row)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    rows = [("variant", "tokens/s", "MFU", "GB")]
    for name, runs in found.items():
        best = sorted(runs, key=lambda r: r["tokens_per_second"])[len(runs) // 2]
        cells = (best["tokens_per_second"], best["mfu"], best["memory_gb"])
        rows.append((name, *map(str, cells)))
    report.finish(rows, device=str(device), card=card, variants=found)


if __name__ == "__main__":
    main()
