"""Masked samples a second from disk, one process: our token table against one file a sample.

Both have random ids in the reference's shapes, ten keyframes a clip, in files that the system has
read before. The baseline reads, tokenises and masks sample by sample; ours gathers a batch from the
memory-mapped table and masks it at once, with the reference's masks and with the default mixture.
``opening`` is what a long table takes to write and to open, of one view a clip and the shapes of
the preset farm-large.

    python benchmarks/data_loading.py --clips 512 --batch 64 --repeats 5
    python benchmarks/data_loading.py --opened 100000
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import Report, arguments, figures, interleave, now, ratio, reference_modalities, shown
from reference_data import CAPTIONS, COPIES, ClipFiles, write_clips

from nano4m.config.masking import MaskingConfig
from nano4m.config.presets import FARM_LARGE, REFERENCE
from nano4m.modalities import TEXT_END, Modality
from nano4m.pipeline.info import layouts
from nano4m.tokens.table import TokenSpec, TokenTable, open_table, write_table
from nano4m.tokens.table_shards import INDEX
from nano4m.training.batch_sampler import MASKS, BatchSampler
from nano4m.training.batches import masked_batches


def make_table(
    count: int, modalities: tuple[Modality, ...], rng: np.random.Generator, copies: int = COPIES
) -> TokenTable:
    """Return a table of random ids with ten views; captions are four to seven tokens."""
    ids, lengths = {}, {}
    for m in modalities:
        views = 1 if m.is_text else copies
        shape = (count, views, m.length)
        ids[m.name] = rng.integers(TEXT_END + 1, m.vocab_size, shape, dtype=np.uint16)
        if m.is_text:
            lengths[m.name] = rng.integers(4, 8, (count, 1))
            behind = np.arange(m.length)[None, None] >= lengths[m.name][..., None] - 1
            ids[m.name][behind] = TEXT_END
    names = np.array([f"clip{i:06d}" for i in range(count)])
    labels = np.array([CAPTIONS[i % len(CAPTIONS)] for i in range(count)])
    token_spec = TokenSpec(modalities, {m.name: f"random {m.name}" for m in modalities})
    return TokenTable(token_spec, names, labels, np.full(count, "train"), ids, lengths)


def from_files(files: ClipFiles, batch: int, batches: int) -> Callable[[], float]:
    """Return a call that makes batches from files and returns samples a second."""
    order = np.random.default_rng(0)

    def call() -> float:
        picked = [order.choice(files.count, batch, replace=False).tolist() for _ in range(batches)]
        start = now()
        for clips in picked:
            files.batch(clips)
        return batch * batches / (now() - start)

    return call


def from_table(
    table: TokenTable, config: MaskingConfig, batch: int, batches: int
) -> Callable[[], float]:
    """Return a call that makes batches as training does and returns samples a second."""
    rows = table.rows("train")
    groups = batch // config.group_size
    samples = table.variants(rows)
    order = BatchSampler(samples, table.counts(*samples), config.group_size, groups, seed=0)

    def call() -> float:
        start = now()
        for step, picked in enumerate(order.steps(0, batches)):
            masked_batches(table, picked.rows, config, 0, MASKS, step, 0.5, picked.views)
        return batch * batches / (now() - start)

    return call


def opening(clips: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Return clips, tokens a clip, and the seconds to write and to open a table of several shards,
    as one is and as one without an index, whose ids are all looked at.
    """
    rng = np.random.default_rng(0)
    modalities = layouts(FARM_LARGE)
    table = make_table(clips, modalities, rng, copies=1)
    written, opened, searched = [], [], []
    for _ in range(repeats):
        start = now()
        write_table(table, folder, shard_rows=-(-clips // 4))
        written.append(now() - start)
        start = now()
        rows = open_table(folder).rows("train")
        opened.append(now() - start)
        assert len(rows) == clips
    write_table(table, folder)
    (folder / INDEX).unlink()
    for _ in range(repeats):
        start = now()
        open_table(folder)
        searched.append(now() - start)
    return {
        "clips": clips,
        "tokens_a_clip": sum(m.length for m in modalities),
        "write_seconds": figures(written),
        "open_seconds": figures(opened),
        "open_seconds_without_index": figures(searched),
    }


def main() -> None:
    parser = arguments(__doc__, threads=1, repeats=5)
    parser.add_argument("--clips", type=int, default=512, help="on disk (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples (%(default)s)")
    parser.add_argument("--batches", type=int, default=40, help="of ours a round (%(default)s)")
    parser.add_argument("--baseline-batches", type=int, default=2, help="of it (%(default)s)")
    parser.add_argument("--opened", type=int, default=10_000, help="clips opened (%(default)s)")
    options = parser.parse_args()
    report = Report("data_loading", options)
    modalities = reference_modalities(4 if options.quick else 1)
    rng = np.random.default_rng(options.seed)
    limits = REFERENCE.masking.model_dump()
    if options.quick:
        limits |= {"min_inputs": 4, "max_inputs": 12, "min_targets": 4, "max_targets": 12}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_clips(folder / "files", options.clips, modalities, rng)
        write_table(make_table(options.clips, modalities, rng), folder / "table")
        clips = min(options.opened, 200) if options.quick else options.opened
        opened = opening(clips, folder / "long", options.repeats)
        table = open_table(folder / "table")
        files = ClipFiles(folder / "files", options.clips, modalities, options.seed)
        speed = interleave(
            {
                "one file a sample": from_files(files, options.batch, options.baseline_batches),
                "table, reference's masks": from_table(
                    table, MaskingConfig(**limits), options.batch, options.batches
                ),
                "table, default mixture": from_table(
                    table, MaskingConfig(), options.batch, options.batches
                ),
            },
            options.repeats,
        )
    below = speed["one file a sample"]
    rows = [("samples a second", "median (min-max)", "of one file a sample")]
    loaders = {}
    for name, seen in speed.items():
        loaders[name] = {
            "samples_per_second": figures(seen),
            "times_baseline": ratio(seen, below),
        }
        rows.append((name, shown(figures(seen), ".4g"), shown(ratio(seen, below))))
    rows.append((f"s to open {clips:,} clips", shown(opened["open_seconds"], ".4g"), ""))
    report.finish(
        rows,
        opening=opened,
        loaders=loaders,
        captions_of_the_baseline="byte-level BPE of the tokenizers library, fitted on 11 captions",
    )


if __name__ == "__main__":
    main()
