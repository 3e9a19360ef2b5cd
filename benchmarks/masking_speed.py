"""How fast masking is on one core: samples a second by layout and strategy, as JSON.

A sample is drawn, placed and packed; reading it from the table is not counted. The groups hold
captions of one length, as the groups of training do.

    OMP_NUM_THREADS=1 python benchmarks/masking_speed.py --batch 64 --repeats 5
"""

import argparse
import json
import platform
import statistics
import time

import torch
from farm_speed import cpu_name

from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import preset
from nano4m.masking import STRATEGIES, mask
from nano4m.modalities import modality
from nano4m.pipeline.info import layouts
from nano4m.tokens.batch import TokenSequence

REFERENCE = {
    "rgb": ((14, 14), 16384),
    "depth": ((14, 14), 8192),
    "normals": ((14, 14), 8192),
    "sound": ((256, 2), 2048),
    "caption": ((64,), 50304),
}
REFERENCE_TOTALS = {"min_inputs": 16, "max_inputs": 256, "min_targets": 16, "max_targets": 256}


def draw_batch(
    sequence: TokenSequence, rows: int, group: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return made-up ids and valid slots; the texts of a group have one length."""
    ids = torch.randint(1, 7, (rows, sequence.length), generator=generator)
    valid = torch.ones(rows, sequence.length, dtype=torch.bool)
    for m, span in zip(sequence.modalities, sequence.slices, strict=True):
        if m.is_text:
            lengths = torch.randint(1, min(m.length, 8) + 1, (rows // group,), generator=generator)
            lengths = lengths.repeat_interleave(group)
            valid[:, span] = torch.arange(m.length) < lengths[:, None]
    return ids, valid


def rate(
    sequence: TokenSequence, config: MaskingConfig, rows: int, batches: int, repeats: int
) -> dict[str, float]:
    """Samples a second over ``repeats`` passes: min, median and max."""
    generator = torch.Generator().manual_seed(0)
    ids, valid = draw_batch(sequence, rows, config.group_size, generator)
    mask(ids, valid, sequence, config, generator)
    seen = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(batches):
            mask(ids, valid, sequence, config, generator)
        seen.append(rows * batches / (time.perf_counter() - start))
    figures = {"min": min(seen), "median": statistics.median(seen), "max": max(seen)}
    return {name: round(value) for name, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=64, help="a multiple of 16")
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    sequences = {
        "farm": TokenSequence(layouts(preset("farm"))),
        "reference": TokenSequence(
            tuple(modality(name).with_tokens(*size) for name, size in REFERENCE.items())
        ),
    }
    rates = {}
    for layout, sequence in sequences.items():
        totals = REFERENCE_TOTALS if layout == "reference" else {}
        runs = {"default mixture": MaskingConfig()} | {
            name: MaskingConfig(**{n: float(n == name) for n in STRATEGIES}, **totals)
            for name in STRATEGIES
        }
        rates[layout] = {
            name: rate(sequence, config, options.batch, options.batches, options.repeats)
            for name, config in runs.items()
        }
    report = {
        "samples_per_second": rates,
        "batch": options.batch,
        "group_size": MaskingConfig().group_size,
        "batches": options.batches,
        "repeats": options.repeats,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
