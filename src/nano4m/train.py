"""Training: from a token table to a checkpoint, the same bits with or without stops.

Everything random in a step (order of samples, views, masks, dropout) is drawn from the seed and the
number of the step alone, so weights, optimizers, average and running sums are all there is to save.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.accounting import Operations, count_tokens, peak_memory
from nano4m.allocation import keep_freed_memory
from nano4m.batch import MaskedBatch, TokenSequence
from nano4m.checkpoint import save_model, save_reproducer
from nano4m.config import Config, MaskingConfig
from nano4m.devices import World, open_world
from nano4m.errors import UserError
from nano4m.interrupt import Interrupt
from nano4m.masking import mask
from nano4m.masking.check import check_masking
from nano4m.model.fourm import FourM
from nano4m.optim import WeightAverage, build_optimizers, gradient_norm, learning_rate
from nano4m.order import (
    DROPOUT,
    MASKS,
    VALIDATION,
    VIEWS,
    WEIGHTS,
    SampleOrder,
    derive_seed,
    generator,
)
from nano4m.precision import measured_peak, prepare_matmul, resolve_device, resolve_dtype
from nano4m.progress import bar, say
from nano4m.replica import Replica
from nano4m.state import TrainingState
from nano4m.table import TokenTable
from nano4m.tracking import Silence, Tracker


def masked_batches(
    table: TokenTable,
    rows: np.ndarray,
    config: MaskingConfig,
    seed: int,
    stream: int,
    index: int,
    progress: float = 1.0,
) -> list[MaskedBatch]:
    """Gather ``rows`` with random views and mask them; depends on the arguments alone."""
    ids, valid = table.gather(rows, np.random.default_rng([seed, VIEWS, stream, index]))
    tokens = TokenSequence(table.modalities)
    draw = generator(seed, stream, index)
    return mask(torch.from_numpy(ids), torch.from_numpy(valid), tokens, config, draw, progress)


class Trainer:
    """One training run: what ``train_model`` builds, resumes and steps through.

    Args:
        config: ``masking``, ``model``, ``train`` and ``seed`` are used.
        table: Token table.
        folder: Where to write; the newest state in it is resumed.
        world: The processes that train together.
    """

    def __init__(self, config: Config, table: TokenTable, folder: Path, world: World) -> None:
        self.config, self.table, self.folder, self.world = config, table, folder, world
        settings, seed = config.train, config.seed
        rows, val_rows = table.rows("train"), table.rows("val")
        if not len(rows) or not len(val_rows):
            raise UserError(
                f"training needs clips in the train and val splits; the table has {len(rows)} and "
                f"{len(val_rows)}: add data, or change the shares under --source"
            )
        check_masking(config.masking, TokenSequence(table.modalities))
        group = config.masking.group_size
        groups = settings.batch_size // group
        if groups % world.size:
            raise UserError(
                f"--train.batch-size {settings.batch_size} is {groups} groups of "
                f"--masking.group-size {group}, which {world.size} processes cannot share evenly; "
                f"give a batch size that is a multiple of {group * world.size}"
            )
        self.epochs = settings.steps * settings.batch_size / len(rows)
        self.order = SampleOrder(rows, table.text_lengths(rows), group, groups, seed)
        val_rows = np.resize(val_rows, settings.val_samples)
        self.validation = masked_batches(table, val_rows, config.masking, seed, VALIDATION, 0)

        model = FourM(config.model, table.modalities, settings.dropout)
        use_codes = settings.codes and config.model.tables == "modality"
        codes = {n: torch.from_numpy(c) for n, c in table.codes.items()} if use_codes else None
        model.init_weights(generator(seed, WEIGHTS), codes)
        self.model = model.to(world.device)
        self.dtype = resolve_dtype(settings, world.device)
        self.operations = Operations.of(model)
        self.replica = Replica(model, self.dtype, world, settings.compile)
        self.optimizers = build_optimizers(model, settings)
        self.average = WeightAverage(model, settings.ema)
        self.peak = measured_peak(self.dtype, world.device)
        self.names = [m.name for m in table.modalities]
        self.state = TrainingState(folder, world, model, self.optimizers, self.average)
        none = [0.0] * len(self.names)
        fresh = {"seconds": 0.0, "tokens": 0, "operations": 0, "skipped": 0, "good": 0}
        self.note: dict[str, Any] = fresh | {"sums": none, "counts": none}
        self.note["scale"] = self.replica.scale
        self.first = self.state.resume(self.note)
        self.replica.scale = self.note["scale"]
        self.replica.refresh()
        if self.first and not world.rank:
            say(f"train: goes on after step {self.first}")

    def step(self, number: int, picked: np.ndarray) -> dict[str, float]:
        """Take step ``number`` (from 0) on the rows ``picked``; return its rate and norm."""
        settings, seed = self.config.train, self.config.seed
        progress = number / settings.steps
        batches = masked_batches(
            self.table, picked, self.config.masking, seed, MASKS, number, progress
        )
        torch.manual_seed(derive_seed(seed, DROPOUT, number) + self.world.rank)
        rate = learning_rate(number, settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        sums, counts = self.replica.gradients(batches)
        norm = gradient_norm(self.model, settings.clip_norm)
        if np.isfinite(norm) and bool(torch.isfinite(sums).all()):
            for optimizer in self.optimizers:
                optimizer.step()
            self.average.update(self.model)
            self.replica.refresh()
            self.note["good"] += 1
            if self.dtype == torch.float16 and self.note["good"] % 1000 == 0:
                self.replica.scale *= 2
        elif self.dtype == torch.float16 and self.replica.scale > 1:
            # Too large a scale overflows by design; the step is left out and the scale halved.
            self.replica.scale /= 2
            self.note["skipped"] += 1
            sums, counts = torch.zeros_like(sums), torch.zeros_like(counts)
        else:
            self._refuse(number, picked, batches, sums, norm)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.note["scale"] = self.replica.scale
        self.note["tokens"] += count_tokens(batches)
        self.note["operations"] += self.operations.count(batches)
        for key, values in (("sums", sums), ("counts", counts)):
            self.note[key] = [a + b for a, b in zip(self.note[key], values.tolist(), strict=True)]
        return {"lr": rate, "grad_norm": norm}

    def _refuse(
        self,
        number: int,
        picked: np.ndarray,
        batches: list[MaskedBatch],
        sums: Tensor,
        norm: float,
    ) -> None:
        shown = dict(zip(self.names, sums.tolist(), strict=True))
        where = self.folder / f"nonfinite-{number + 1}"
        clips = [str(self.table.clip_ids[row]) for row in picked]
        vocabulary = self.table.vocabulary
        save_reproducer(where, self.model, vocabulary, batches, clips, self.dtype, self.world)
        raise UserError(
            f"the loss is not finite at step {number + 1} ({shown}, gradient norm {norm}); "
            f"clips: {', '.join(clips[:8])}, ...; weights and batches of the step are in {where}; "
            f"lower --train.lr or --train.clip-norm, or train with --train.precision fp32, and "
            f"start again with --overwrite"
        )

    def losses(self) -> dict[str, float]:
        """Return the mean training loss of each modality since the last call."""
        means = _means(self.names, self.note["sums"], self.note["counts"])
        self.note["sums"] = self.note["counts"] = [0.0] * len(self.names)
        return means

    def validate(self) -> dict[str, float]:
        """Return the loss of the averaged weights on the fixed validation batches, by modality."""
        self.average.swap(self.model)
        self.replica.refresh()
        sums, counts = self.replica.evaluate(self.validation)
        self.average.swap(self.model)
        self.replica.refresh()
        return _means(self.names, sums.tolist(), counts.tolist())

    def run(self, stop: Callable[[int], bool]) -> dict[str, Any]:
        """Take the steps that are left; see ``train_model``."""
        settings = self.config.train
        every = max(1, min(20, settings.steps // 50))
        val: dict[str, float] = {}
        note = self.note
        tracker = Tracker if not self.world.rank else Silence
        with (
            bar("train", settings.steps, "steps", self.first) as progress,
            Interrupt().watch() as interrupt,
            tracker(
                self.folder, settings.tracker, self.first, self.config.model_dump(mode="json")
            ) as log,
        ):
            started = time.perf_counter()
            logged = (started, note["tokens"], note["operations"])
            for number, picked in enumerate(
                self.order.steps(self.first, settings.steps), self.first
            ):
                line: dict[str, Any] = {"step": number + 1} | self.step(number, picked)
                done, last = number + 1, number + 1 == settings.steps
                if done % every == 0 or last:
                    now = time.perf_counter()
                    line["loss"] = self.losses()
                    passed = now - logged[0]
                    line["tokens_per_second"] = round((note["tokens"] - logged[1]) / passed)
                    speed = (note["operations"] - logged[2]) / passed / self.world.size
                    line["mfu"] = round(speed / self.peak, 4)
                    line["memory_gb"] = round(peak_memory(self.world.device) / 1e9, 3)
                    if done % settings.val_every < every or last:
                        line["val"] = val = self.validate()
                    logged = (time.perf_counter(), note["tokens"], note["operations"])
                    log.write(line)
                    shown = " ".join(f"{k} {v:.2f}" for k, v in line["loss"].items())
                    progress.advance(0, note=f"{line['tokens_per_second']:,} tokens/s {shown}")
                progress.advance()
                wanted = self.world.any(interrupt.asked or stop(done))
                if done % settings.save_every == 0 or wanted or last:
                    now = time.perf_counter()
                    note["seconds"], started = note["seconds"] + now - started, now
                    self.state.save(done, note)
                if wanted and not last:
                    raise KeyboardInterrupt
        if not val:  # all steps were done before, only the checkpoint was missing
            val = self.validate()
        self.average.swap(self.model)
        save_model(self.model.eval(), self.table.vocabulary, self.folder / "checkpoint", self.world)
        if self.world.any(interrupt.asked):
            raise KeyboardInterrupt
        seconds = max(note["seconds"], 1e-9)
        return {
            "steps": settings.steps,
            "parameters": self.model.num_parameters,
            "device": str(self.world.device),
            "processes": self.world.size,
            "precision": str(self.dtype).removeprefix("torch."),
            "train_seconds": round(note["seconds"], 1),
            "tokens": int(note["tokens"]),
            "tokens_per_second": round(note["tokens"] / seconds),
            "mfu": round(note["operations"] / seconds / self.world.size / self.peak, 4),
            "peak_gflops": round(self.peak / 1e9),
            "memory_gb": round(peak_memory(self.world.device) / 1e9, 3),
            "skipped_steps": note["skipped"],
            "epochs": round(self.epochs, 1),
            "val": val,
        }


def train_world(config: Config) -> World:
    """Join the processes that torchrun started, or be alone."""
    dtype = resolve_dtype(config.train, resolve_device(config.device))
    return open_world(config.train, config.device, dtype)


def train_model(
    config: Config,
    table: TokenTable,
    folder: Path,
    stop: Callable[[int], bool] = lambda step: False,
    world: World | None = None,
) -> dict[str, Any]:
    """Train on the table's train split; resume the newest state of ``folder``.

    Writes ``log.jsonl`` (a line every few steps), ``step-*`` (to resume from) and ``checkpoint``.

    Args:
        config: ``masking``, ``model``, ``train`` and ``seed`` are used.
        table: Token table.
        folder: Where to write.
        stop: Asked after every step; True saves the state and raises KeyboardInterrupt.
        world: The processes that train together; None joins those of torchrun, if any.

    Returns:
        Summary: steps, seconds, parameters, tokens, use of the machine, last validation loss by
        modality.

    Raises:
        UserError: No clips to train or validate on, a batch that the processes cannot share, or a
            loss that is not finite.
    """
    torch.set_flush_denormal(True)
    prepare_matmul()
    keep_freed_memory()
    if world is None:
        world = train_world(config)
    return Trainer(config, table, folder, world).run(stop)


def _means(names: list[str], sums: list[float], counts: list[float]) -> dict[str, float]:
    """Return the mean cross-entropy of each modality that had targets."""
    return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}
