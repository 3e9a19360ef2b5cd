"""``nano4m generate``: media in, media out, and a record of how they were made."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.compute.precision import float32_math
from nano4m.errors import UserError
from nano4m.evaluate.diversity import diversity
from nano4m.evaluate.sample_results import Diversity
from nano4m.generation.guidance import ChainStep
from nano4m.generation.sampler import generate
from nano4m.inference.clips_of_run import choose_rows, read_rows
from nano4m.inference.inputs import GenerationInput, read_files
from nano4m.inference.loaded_run import LoadedRun, open_run
from nano4m.inference.options import MOST_SAMPLES, Options, names_of
from nano4m.inference.outputs import (
    Made,
    decode,
    made_aside,
    prepare_folder,
    write_ids,
    write_media,
    write_record,
)
from nano4m.inference.plan import Plan, find_targets, make_plan
from nano4m.inference.sheet import Row, only, write_sheet
from nano4m.media.base import Item
from nano4m.modalities import TEXT_END
from nano4m.progress import bar, log_info
from nano4m.stage import provenance, writable
from nano4m.storage.lock import owned


def read_inputs(options: Options, run: LoadedRun) -> list[GenerationInput]:
    """Return the inputs: one from a set of files, one a clip of the run, or an empty one.

    Raises:
        UserError: Files and clips at once, or something that cannot be read.
    """
    from_files = bool(options.inputs) or options.caption is not None
    from_rows = bool(options.clips or options.split or options.rows)
    if from_files and from_rows:
        raise UserError(
            "files (--in, --caption) and clips of the run (--clips, --split, --rows) cannot be "
            "given at once; choose one"
        )
    if options.clips and (options.split or options.rows):
        raise UserError("--clips names clips, --split and --rows count them; choose one")
    if options.input_modalities and not from_rows:
        raise UserError(
            "--input-modalities chooses modalities of clips of the run; add --clips or --split"
        )
    if not from_rows:
        return [read_files(options.inputs, options.caption, run, log_info)]
    rows = choose_rows(run, names_of(options.clips), options.split, options.rows)
    targets = find_targets(options, run)
    kept = [text.partition("=")[0] for text in options.keep]
    names = names_of(options.input_modalities) or [n for n in run.by_name if n not in targets]
    for name in names:
        if name not in run.by_name:
            raise UserError(
                f"--input-modalities {name}: {run.folder} has no {name!r}; choose from "
                f"{', '.join(run.by_name)}"
            )
    return read_rows(run, rows, [*names, *(k for k in kept if k in run.by_name)])


def inputs_names(inputs: Sequence[GenerationInput], run: LoadedRun) -> list[str]:
    """Return the modalities of which some input has a token."""
    some_L = torch.stack([g.inputs_L for g in inputs]).any(0)
    spans = zip(run.by_name, run.tokens.slices, strict=True)
    return [name for name, span in spans if bool(some_L[span].any())]


def seeds_of(seed: int, inputs: Sequence[GenerationInput], n: int, stream: int) -> list[int]:
    """Return one seed a sample, those of one input after the other.

    A seed depends on ``seed``, the input's name, the number of the sample and ``stream``.
    """
    found = []
    for one in inputs:
        name = int.from_bytes(one.name.encode(), "little")
        for sample in range(n):
            state = np.random.SeedSequence([seed, name, sample, stream])
            found.append(int(state.generate_state(1, np.uint64)[0] >> 1))
    return found


def _keep_only(inputs_BL: Tensor, plan: Plan, run: LoadedRun) -> Tensor:
    """Return ``inputs_BL`` without those parts of outputs that are not kept."""
    inputs_BL = inputs_BL.clone()
    for name, (first, last) in plan.keep.items():
        modality, span = run.by_name[name], run.tokens.slices[run.tokens.index(name)]
        unit = modality.length // modality.shape[0]
        is_kept = torch.zeros(modality.length, dtype=torch.bool)
        is_kept[first * unit : last * unit] = True
        inputs_BL[:, span] &= is_kept
    return inputs_BL


def generate_media(
    run: LoadedRun, plan: Plan, inputs: Sequence[GenerationInput], n: int, seed: int
) -> tuple[list[Made], dict[str, list[int]]]:
    """Generate and decode ``n`` samples of each input.

    Returns:
        The samples of each output, and their seeds by name of the output.
    """
    made: list[Made] = []
    seeds: dict[str, list[int]] = {}
    ids_BL = torch.stack([g.ids_L for g in inputs]).repeat_interleave(n, 0)
    inputs_BL = torch.stack([g.inputs_L for g in inputs]).repeat_interleave(n, 0)
    inputs_BL = _keep_only(inputs_BL, plan, run)
    with bar("generate", len(plan.targets), "output") as progress:
        for chain in plan.chains:
            # Outputs of different chains have random streams of their own.
            stream = run.tokens.index(chain[0].target)
            own = seeds_of(seed, inputs, n, stream)
            found, known = generate(
                run.model, run.tokens, ids_BL, inputs_BL, chain, plan.config, own
            )
            whole = torch.where(known, found, TEXT_END)
            for step in chain:
                modality = run.by_name[step.target]
                part = whole[:, run.tokens.slices[run.tokens.index(step.target)]]
                media = decode(run.tokenizers[step.target], modality, part)
                made.append(Made(modality=modality, ids_NT=part, media=media))
                seeds[step.target] = own
                progress.advance(note=modality.title)
    return made, seeds


def measure(run: LoadedRun, made: Made, classes: Sequence[str]) -> Diversity:
    """Return the diversity of samples beside as many real ones, of test clips if any has it."""
    is_there = run.table.present(made.modality.name)
    rows = next(
        (
            own
            for split in ("test", "train")
            if len(own := np.flatnonzero(is_there & (run.table.splits == split)))
        ),
        np.flatnonzero(is_there),
    )
    count = min(len(rows), len(made.ids_NT))
    rows = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
    ids, valid = run.table.gather(rows, None)
    span = run.tokens.slices[run.tokens.index(made.modality.name)]
    real = np.where(valid, ids, TEXT_END)[:, span]
    labels = run.table.labels[rows].tolist()
    return diversity(made.ids_NT.numpy(), classes, real, labels, made.modality)


def _line(name: str, found: Diversity) -> str:
    """Return the measures as one line."""

    def gap(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    made, real = found.generated, found.real
    return (
        f"diversity of {name} (real clips): distinct {made.distinct_sequences:.2f} "
        f"({real.distinct_sequences:.2f}), token entropy {made.entropy:.2f} ({real.entropy:.2f}) "
        f"nats, distance within an input {gap(made.within)} (within a class {gap(real.within)}), "
        f"between {gap(made.between)} ({gap(real.between)})"
    )


def sheet_rows(
    run: LoadedRun, inputs: Sequence[GenerationInput], made: Sequence[Made], n: int, rate: int
) -> list[Row]:
    """Return a row for each input and output; input tokens are shown decoded."""
    rows = []
    for number, one in enumerate(inputs):
        items = [
            Item(media=run.by_name[name].media, value=value, sample_rate=rate)
            for name, value in (one.media or _decoded(run, one)).items()
        ]
        for output in made:
            media = output.modality.media
            own = output.media[number * n : (number + 1) * n]
            title = f"{one.name}: {output.modality.title}"
            samples = [Item(media=media, value=value, sample_rate=rate) for value in own]
            rows.append(Row(source=one.name, title=title, inputs=items, made=samples))
    return rows


def _decoded(run: LoadedRun, one: GenerationInput) -> dict[str, Any]:
    """Return the decoded input tokens of a clip, by modality."""
    found = {}
    ids_L = torch.where(one.inputs_L, one.ids_L, TEXT_END)
    for (name, modality), span in zip(run.by_name.items(), run.tokens.slices, strict=True):
        if bool(one.inputs_L[span].any()):
            found[name] = decode(run.tokenizers[name], modality, ids_L[None, span])[0]
    return found


def _about(step: ChainStep) -> dict[str, Any]:
    """Return a step as JSON."""
    return {
        "target": step.target,
        "conditions": None if step.conditions is None else [
            {"sources": list(c.sources), "weight": c.weight} for c in step.conditions
        ],
        "negative": list(step.negative),
        "settings": step.settings.model_dump(mode="json") if step.settings else None,
    }  # fmt: skip


@float32_math()
def run_command(options: Options, chosen: Mapping[str, Any]) -> Path:
    """Run ``nano4m generate`` and return the folder that it wrote.

    Args:
        options: Of the command line.
        chosen: Sampling settings of the command line; the others are the run's own.

    Raises:
        UserError: A mistake of the user; nothing is written then.
    """
    started = time.perf_counter()
    run = open_run(options.run, options.device)
    inputs = read_inputs(options, run)
    count = len(inputs) * options.n
    if count > MOST_SAMPLES:
        raise UserError(
            f"--n {options.n} of {len(inputs)} inputs are {count} samples, at most {MOST_SAMPLES}; "
            "give fewer --rows or a smaller --n"
        )
    plan = make_plan(options, chosen, inputs_names(inputs, run), run)
    prepare_folder(options.dir, options.overwrite)
    with writable(options.dir), owned(options.dir), made_aside(options.dir) as folder:
        count_files = _make(options, run, plan, inputs, folder, started)
    log_info(f"generate: {count_files} files in {options.dir}")
    return options.dir


def _make(
    options: Options,
    run: LoadedRun,
    plan: Plan,
    inputs: Sequence[GenerationInput],
    folder: Path,
    started: float,
) -> int:
    """Generate, write everything into ``folder``, and return how many files that were."""
    made, seeds = generate_media(run, plan, inputs, options.n, options.seed)
    digits = max(2, len(str(options.n - 1)))
    names = [f"{one.name}-{k:0{digits}}" for one in inputs for k in range(options.n)]
    rate, measured, files = run.config.clips.sample_rate, {}, []
    for output in made:
        files += write_media(folder, names, output, rate)
        if len(names) > 1:
            classes = [one.name for one in inputs for _ in range(options.n)]
            found = measure(run, output, classes)
            measured[output.modality.name] = found.model_dump(mode="json")
            log_info(_line(output.modality.name, found))
    files.append(write_ids(folder, names, made))
    if options.sheet:
        rows = sheet_rows(run, inputs, made, options.n, rate)
        for name, part in (("sheet.png", rows), ("sounds.png", only(rows, "sound"))):
            written = write_sheet(folder / name, part)
            files += [written] if written else []
    record = {
        "run": str(options.run),
        "fingerprints": run.fingerprints,
        "preset": run.config.preset,
        "masking": run.config.masking.model_dump(mode="json"),
        "inputs": [{"name": one.name} | one.about for one in inputs],
        "keep": {name: list(part) for name, part in plan.keep.items()},
        "chains": [[_about(step) for step in chain] for chain in plan.chains],
        "batch_size": plan.config.batch_size,
        "n": options.n,
        "seed": options.seed,
        "samples": names,
        "seeds": seeds,
        "diversity": measured,
        "seconds": round(time.perf_counter() - started, 2),
        "provenance": provenance(),
    }
    write_record(folder, record, files)
    return len(files)
