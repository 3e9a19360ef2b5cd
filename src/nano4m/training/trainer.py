"""Training: from a token table to a checkpoint, bit-identical with or without interruptions.

All random numbers of a step (order of samples, views, masks, dropout) depend on the seed and the
step number only, so the saved state is weights, optimizers, average and running sums.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from nano4m.checkpoints.folder import save_model, save_reproducer
from nano4m.compute.distributed import DistributedContext, open_training
from nano4m.compute.malloc import tune_malloc
from nano4m.compute.precision import float32_math, measured_peak, resolve_dtype
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.masking.check import check_masking
from nano4m.progress import bar, log_info
from nano4m.tokens.batch import MaskedBatch, TokenSequence
from nano4m.tokens.table import Samples, TokenTable
from nano4m.training.accounting import Operations, count_tokens
from nano4m.training.batch_sampler import (
    DROPOUT,
    BatchSampler,
    balanced_rows,
    derive_seed,
)
from nano4m.training.batches import BatchMaker
from nano4m.training.checks import check_shares, fitting, not_finite
from nano4m.training.device_step import DeviceStep
from nano4m.training.engine import choose, mask_workers
from nano4m.training.host_step import HostStep
from nano4m.training.interrupt import Interrupt
from nano4m.training.kept_weights import FACTORS, Judge
from nano4m.training.learning_rate import learning_rate
from nano4m.training.loss import count_targets
from nano4m.training.mixed_precision import MixedPrecisionModule
from nano4m.training.optim import WeightAverage, build_optimizers
from nano4m.training.packed_batch import PackedBatch, packer
from nano4m.training.schedule import Request, SaveClock, Schedule
from nano4m.training.speed import SpeedMeter
from nano4m.training.start import starting_model
from nano4m.training.state import TrainingState
from nano4m.training.tracking import NullTracker, Tracker
from nano4m.training.validation import validation_batches, validation_rows


class Trainer:
    """One training run, which ``train_model`` builds, resumes and runs.

    Args:
        config: ``masking``, ``model``, ``train`` and ``seed`` are used.
        table: Token table.
        folder: Output folder; its newest state is resumed.
        world: The processes that train together.
        table_folder: Folder of the table, for processes that make batches in advance.
    """

    def __init__(
        self,
        config: Config,
        table: TokenTable,
        folder: Path,
        world: DistributedContext,
        table_folder: Path | None = None,
    ) -> None:
        self.config, self.table, self.folder, self.world = config, table, folder, world
        self.table_folder = table_folder
        settings, seed = config.train, config.seed
        rows, val_rows = table.rows("train"), table.rows("val")
        check_shares(config, len(rows), len(val_rows), world.size)
        check_masking(config.masks, TokenSequence(table.modalities))
        group = config.masking.group_size
        groups = settings.batch_size // group
        rows = balanced_rows(rows, table.labels[rows], settings.balance, seed)
        self.epochs = settings.steps * settings.batch_size / len(rows)
        samples = table.variants(rows)
        self.sampler = BatchSampler(samples, table.counts(*samples), group, groups, seed)
        val_rows = validation_rows(val_rows, table.labels[val_rows], settings.val_samples)
        self.validation = validation_batches(table, val_rows, config)

        model, taken = starting_model(config, table)
        self.model = model.to(world.device)
        self.dtype = resolve_dtype(settings, world.device)
        self.operations = Operations.of(model)
        self.names = [m.name for m in table.modalities]
        self.peak = measured_peak(self.dtype, world.device)
        whole = self.operations.about(table.modalities, config.masking, settings)
        self.fast = choose(config, world, self.dtype, whole, self.peak)
        self.maker = BatchMaker(
            masking=config.masks,
            seed=seed,
            steps=settings.steps,
            passes=settings.accumulate,
            corruption=settings.corruption,
            packer=packer(
                table.modalities, config.model.register_token,
                settings.batch_size // settings.accumulate, config.masks, settings.quantum,
            ),
        )  # fmt: skip
        # Before the optimizers, because it may shard the weights.
        module, threads = None, None
        if not self.fast.packed:
            module = MixedPrecisionModule(model, self.dtype, world, self.fast.compiled)
            threads = module.update_threads
        self.optimizers = build_optimizers(model, settings, self.fast.packed, threads)
        self.average = WeightAverage(model, settings.ema)
        self.judge = Judge(settings, table.modalities, self.average, world)
        self.state = TrainingState(
            folder, world, model, self.optimizers, self.average, self.judge.kept
        )
        self.first, self.progress_state = self.state.resumed(len(self.names), self.dtype)
        self.settled = self.first
        self.norm = 0.0
        self.host: HostStep | None = None
        self.on_device: DeviceStep | None = None
        moved = self.optimizers, settings.max_norm, self.progress_state
        if module is None:
            self.on_device = DeviceStep(
                model, self.dtype, *moved, self.fast.compiled, self.fast.graphs
            )
        else:
            self.host = HostStep(module, moved[0], self.average, *moved[1:])
        computing: Any = self.on_device or module
        self.computing = computing
        self.computing.set_factors(self.progress_state[FACTORS])
        if module and module.is_laid_out and module.threads.number == 1:
            log_info("train: one thread, as OMP_NUM_THREADS or the container's quota says")
        if self.first and not world.rank:
            log_info(f"train: goes on after step {self.first}")
        elif taken and not world.rank:
            log_info(f"train: begins with the {taken}")

    def step(
        self, number: int, picked: Samples, packed: list[PackedBatch] | None = None
    ) -> dict[str, float]:
        """Take step ``number`` (from 0) on ``picked``; return its known metrics."""
        settings, seed, progress_state = self.config.train, self.config.seed, self.progress_state
        rate = learning_rate(number, settings)
        if settings.dropout or self.host:
            torch.manual_seed(derive_seed(seed, DROPOUT, number) + self.world.rank)
        if self.on_device:
            packed = packed or self.maker.packed(self.table, number, picked)
            self.on_device(packed, rate)
            self.average.update(self.model)
            for part in packed:
                progress_state["tokens"] += part.tokens
                real = part.groups[: part.num_real]
                progress_state["operations"] += self.operations.of_groups(
                    real, [sum(n) for n in part.counts]
                )
            return {"lr": rate}
        assert self.host is not None
        batches = self.maker.masked(self.table, number, picked)
        sums, norm, is_good = self.host(batches, rate)
        if not is_good:
            self._refuse(number, picked, batches, sums.tolist(), norm)
        progress_state["tokens"] += count_tokens(batches)
        progress_state["operations"] += self.operations.count(batches)
        self.norm = norm
        return {"lr": rate, "grad_norm": norm}

    def settle(self, done: int) -> None:
        """Read the device's counters after ``done`` steps into the progress state.

        Raises:
            UserError: A loss that was not finite.
        """
        if self.on_device is None:
            return
        progress_state = self.progress_state
        before = progress_state["good"] + progress_state["skipped"]
        found = self.on_device.update.read()
        if found.bad:
            number = self.settled + found.good + found.skipped - before
            (picked,) = self.sampler.steps(number, number + 1)
            batches = self.maker.masked(self.table, number, picked)
            self._refuse(number, picked, batches, *found.bad)
        for key, values in (("sums", found.sums), ("counts", found.counts)):
            progress_state[key] = [a + b for a, b in zip(progress_state[key], values, strict=True)]
        progress_state |= {"scale": found.scale, "good": found.good, "skipped": found.skipped}
        self.norm, self.settled = found.norm, done

    def _refuse(
        self,
        number: int,
        picked: Samples,
        batches: list[MaskedBatch],
        sums: list[float],
        norm: float,
    ) -> None:
        where = self.folder / f"nonfinite-{number + 1}"
        clips = [str(self.table.clip_ids[row]) for row in picked.rows]
        token_spec = self.table.token_spec
        save_reproducer(where, self.model, token_spec, batches, clips, self.dtype, self.world)
        shown = dict(zip(self.names, sums, strict=True))
        raise UserError(not_finite(number, shown, norm, clips, where))

    def losses(self) -> dict[str, float]:
        """Return the mean training loss of each modality since the last call."""
        means = _means(self.names, self.progress_state["sums"], self.progress_state["counts"])
        self.progress_state["sums"] = self.progress_state["counts"] = [0.0] * len(self.names)
        return means

    def validate(self) -> dict[str, float]:
        """Return the loss of the averaged weights on the fixed validation batches, by modality."""
        self.average.swap(self.model)
        self.computing.refresh()
        with fitting(self.config, self.model, self.dtype, self.fast.packed):
            if self.on_device:
                sums = self.on_device.evaluate(self.packed_validation).cpu()
            else:
                sums = self.computing.evaluate(self.validation)[0]
        self.average.swap(self.model)
        self.computing.refresh()
        counts = count_targets(self.validation, len(self.names))
        return _means(self.names, sums.tolist(), counts.tolist())

    @cached_property
    def packed_validation(self) -> list[PackedBatch]:
        """The validation batches, packed with about as many samples as in a pass."""
        settings = self.config.train
        a_pass = settings.batch_size // settings.accumulate
        return self.maker.packer.parts(self.validation, -(-settings.val_samples // a_pass))

    def _steps(self) -> Iterator[tuple[int, Samples, list[PackedBatch] | None]]:
        """Yield the remaining steps, with their batches if these are made in advance."""
        settings = self.config.train
        steps = enumerate(self.sampler.steps(self.first, settings.steps), self.first)
        if self.on_device is None:
            yield from ((number, picked, None) for number, picked in steps)
        else:
            workers = mask_workers(settings, self.world.device)
            folder = self.table_folder
            yield from self.maker.ahead(self.table, folder, steps, workers, settings.ahead)

    def _request(self, stops: bool, clock: SaveClock) -> Request:
        """Return what all processes do after a step: one exchange, and one clock for all of them.

        States by time change no result, so the clocks of two runs may differ.
        """
        is_due = not self.world.rank and clock.is_due
        own = Request.STOP if stops else Request.SAVE if is_due else Request.NOTHING
        return Request(self.world.all_max(own))

    def run(self, stop: Callable[[int], bool]) -> dict[str, Any]:
        """Run the remaining steps; see ``train_model``."""
        settings = self.config.train
        schedule, clock = Schedule(settings), SaveClock(settings.save_minutes)
        val: dict[str, float] = {}
        totals = self.progress_state
        tracker = Tracker if not self.world.rank else NullTracker
        with (
            bar("train", settings.steps, "steps", self.first) as progress,
            Interrupt().watch() as interrupt,
            tracker(
                self.folder, settings.tracker, self.first, self.config.model_dump(mode="json")
            ) as log,
        ):
            speed = SpeedMeter(totals, self.peak, self.world)
            for number, picked, packed in self._steps():
                with fitting(self.config, self.model, self.dtype, self.fast.packed):
                    line: dict[str, Any] = {"step": number + 1} | self.step(number, picked, packed)
                done = number + 1
                is_logged = schedule.is_logged(done)
                request = self._request(interrupt.requested or stop(done), clock)
                is_saved = schedule.is_saved(done, request)
                if is_logged or is_saved:
                    self.settle(done)
                if is_logged:
                    line |= {"grad_norm": self.norm, "loss": self.losses()} | speed.line()
                    if schedule.is_validated(done):
                        line["val"] = val = self.validate()
                        self.judge(done, val, self.progress_state)
                        self.computing.set_factors(self.progress_state[FACTORS])
                    speed.restart()
                    log.write(line)
                    shown = " ".join(f"{k} {v:.2f}" for k, v in line["loss"].items())
                    progress.advance(0, note=f"{line['tokens_per_second']:,} tokens/s {shown}")
                progress.advance()
                if is_saved:
                    speed.count_seconds()
                    # A state without its lines of the log could not be resumed to the same log.
                    log.sync()
                    clock.saving(partial(self.state.save, done, totals))
                if request == Request.STOP and not schedule.is_last(done):
                    raise KeyboardInterrupt
        if not val:  # all steps were done, only the checkpoint was missing
            val = self.validate()
        self.judge.finish(self.model, self.progress_state)
        save_model(self.model.eval(), self.table.token_spec, self.folder / "checkpoint", self.world)
        if self.world.any_rank(interrupt.requested):
            raise KeyboardInterrupt
        return {
            "steps": settings.steps,
            "parameters": self.model.num_parameters,
            "device": str(self.world.device),
            "processes": self.world.size,
            "precision": str(self.dtype).removeprefix("torch."),
            **speed.summary(),
            "skipped_steps": totals["skipped"],
            "engine": f"{self.fast}{self.on_device.warming if self.on_device else ''}",
            "epochs": round(self.epochs, 1),
            "val": val,
            **self.judge.summary(self.progress_state),
        }


def train_model(
    config: Config,
    table: TokenTable,
    folder: Path,
    stop: Callable[[int], bool] = lambda step: False,
    world: DistributedContext | None = None,
    table_folder: Path | None = None,
) -> dict[str, Any]:
    """Train on the table's train split, resuming the newest state of ``folder``; return a summary.

    Writes ``log.jsonl`` (a line every few steps), ``step-*`` (training states) and ``checkpoint``.

    Args:
        config: ``masking``, ``model``, ``train`` and ``seed`` are used.
        table: Token table.
        folder: Output folder.
        stop: Called after every step; True saves the state and raises KeyboardInterrupt.
        world: The processes that train together; None: those of torchrun, if any.
        table_folder: Folder of the table, for processes that make batches in advance.

    Returns:
        Summary: steps, seconds, parameters, tokens, machine utilization, last validation loss by
        modality.

    Raises:
        UserError: No clips to train or validate on, a batch that the processes cannot share, or a
            loss that is not finite.
    """
    tune_malloc()
    # Dropout uses the global generator of the CPU; on a GPU the graphs own that of the card.
    with float32_math(), torch.random.fork_rng(devices=[]):
        if world is None:
            world = open_training(config)
        return Trainer(config, table, folder, world, table_folder).run(stop)


def _means(names: list[str], sums: list[float], counts: list[float]) -> dict[str, float]:
    """Return the mean cross-entropy of each modality that had targets."""
    return {n: s / c for n, s, c in zip(names, sums, counts, strict=True) if c}
