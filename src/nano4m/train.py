"""Training: from a token table to a checkpoint, the same bits with or without stops.

Everything random in a step (order of samples, views, masks, dropout) is drawn from the seed and the
number of the step alone, so weights, optimizer and average are all there is to save.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nano4m.batch import MaskedBatch, TokenSequence
from nano4m.checkpoint import (
    newest_state,
    pack_optimizers,
    save_model,
    save_state,
    unpack_optimizers,
)
from nano4m.config import Config, MaskingConfig, TrainConfig
from nano4m.errors import UserError
from nano4m.loss import count_targets, modality_weights, token_cross_entropy
from nano4m.masking import mask
from nano4m.model.fourm import FourM
from nano4m.optim import WeightAverage, build_optimizers, learning_rate
from nano4m.progress import bar, say
from nano4m.table import TokenTable

# Streams of random numbers: one name, one number, never reused for something else.
ORDER, VIEWS, MASKS, WEIGHTS, VALIDATION, DROPOUT = range(6)


def derive_seed(seed: int, stream: int, index: int = 0) -> int:
    """Return an independent seed for (seed, stream, index)."""
    return int(np.random.SeedSequence([seed, stream, index]).generate_state(1, np.uint64)[0] >> 1)


def generator(seed: int, stream: int, index: int = 0) -> torch.Generator:
    """Return a torch generator for (seed, stream, index)."""
    return torch.Generator().manual_seed(derive_seed(seed, stream, index))


@dataclass(frozen=True)
class SampleOrder:
    """Which rows a step sees: every epoch a new permutation, in groups of equal text length.

    Groups of one length stay dense when a caption is given or asked for whole. The last group of a
    length is filled up with other rows of that length.
    """

    rows: np.ndarray
    text_lengths: np.ndarray
    group_size: int
    groups_per_step: int
    seed: int

    def _epoch(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        groups = []
        for length in np.unique(self.text_lengths):
            rows = rng.permutation(self.rows[self.text_lengths == length])
            missing = -len(rows) % self.group_size
            rows = np.concatenate([rows, rng.choice(rows, size=missing)])
            groups.append(rows.reshape(-1, self.group_size))
        return rng.permutation(np.concatenate(groups))

    @property
    def groups_per_epoch(self) -> int:
        """Number of groups of an epoch."""
        return len(self._epoch(0))

    def steps(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield the rows of steps ``start`` to ``stop``, (groups_per_step * group_size,) each."""
        per_epoch = self.groups_per_epoch
        held: tuple[int, np.ndarray] = (-1, np.zeros(0))
        for step in range(start, stop):
            picked = []
            for index in range(step * self.groups_per_step, (step + 1) * self.groups_per_step):
                if held[0] != index // per_epoch:
                    held = (index // per_epoch, self._epoch(index // per_epoch))
                picked.append(held[1][index % per_epoch])
            yield np.concatenate(picked)


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


def resolve_device(config: TrainConfig) -> torch.device:
    """Return the device to compute on.

    Raises:
        UserError: ``cuda`` is asked for and there is none.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device cuda: this machine has no CUDA device; use auto or cpu")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def autocast(config: TrainConfig, device: torch.device) -> Any:
    """Return the context of a forward pass: bf16 autocast or nothing."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def accumulate(
    model: FourM, batches: list[MaskedBatch], config: TrainConfig, device: torch.device, train: bool
) -> tuple[Tensor, Tensor]:
    """Return summed cross-entropy and number of targets of each modality, float32 (C,) on the CPU.

    With ``train``, gradients of the loss (see ``modality_weights``) are added to the parameters.
    """
    counts_C = count_targets(batches, len(model.modalities))
    weights_C = modality_weights(counts_C).to(device)
    total = torch.zeros(len(model.modalities))
    with torch.set_grad_enabled(train):
        for batch in batches:
            batch = batch.to(device)
            with autocast(config, device):
                sums_C = token_cross_entropy(model, model(batch), batch)
            if train:
                (sums_C * weights_C).sum().backward()
            total += sums_C.detach().cpu()
    return total, counts_C


class Interrupt:
    """Ctrl-C or a termination asks training to stop after the running step; twice stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def watch(self) -> Iterator["Interrupt"]:
        """Listen while training; elsewhere than in the main thread, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def ask(signum: int, frame: object) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True

        old = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)


def _trim_log(path: Path, step: int) -> None:
    """Forget what was logged after ``step``, so that a resumed run logs it once."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        # A killed process may have left half a line at the end.
        with suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(f"{line}\n")
    part = path.with_name(path.name + ".part")
    part.write_text("".join(kept))
    os.replace(part, path)


def train_model(
    config: Config,
    table: TokenTable,
    folder: Path,
    stop: Callable[[int], bool] = lambda step: False,
) -> dict[str, Any]:
    """Train on the table's train split; resume the newest state of ``folder``.

    Writes ``log.jsonl`` (a line every few steps), ``step-*`` (to resume from) and ``checkpoint``.

    Args:
        config: ``masking``, ``model``, ``train`` and ``seed`` are used.
        table: Token table.
        folder: Where to write.
        stop: Asked after every step; True saves the state and raises KeyboardInterrupt.

    Returns:
        Summary: steps, seconds, parameters, tokens, last validation loss by modality.

    Raises:
        UserError: No clips to train or validate on, or a loss that is not finite.
    """
    settings, seed = config.train, config.seed
    torch.set_flush_denormal(True)
    device = resolve_device(settings)
    rows, val_rows = table.rows("train"), table.rows("val")
    if not len(rows) or not len(val_rows):
        raise UserError(
            f"training needs clips in the train and val splits; the table has {len(rows)} and "
            f"{len(val_rows)}: add data, or change the shares under --source"
        )
    group = config.masking.group_size
    lengths = table.text_lengths(rows)
    order = SampleOrder(rows, lengths, group, settings.batch_size // group, seed)
    val_rows = np.resize(val_rows, settings.val_samples)
    validation = masked_batches(table, val_rows, config.masking, seed, VALIDATION, 0)

    model = FourM(config.model, table.modalities, settings.dropout)
    codes = {n: torch.from_numpy(c) for n, c in table.codes.items()} if settings.codes else None
    model.init_weights(generator(seed, WEIGHTS), codes)
    model.to(device)
    optimizers = build_optimizers(model, settings)
    average = WeightAverage(model, settings.ema)
    first, history = 0, {"seconds": 0.0, "tokens": 0}
    resumed = newest_state(folder)
    if resumed is not None:
        first, tensors, note = resumed
        history = {k: note[k] for k in history}
        model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        unpack_optimizers(optimizers, tensors)
        average.updates = first
        for i, weight in enumerate(average.weights):
            weight.copy_(tensors[f"average.{i}"])
        say(f"train: goes on after step {first}")
    _trim_log(folder / "log.jsonl", first)

    def save(step: int) -> None:
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"average.{i}": w for i, w in enumerate(average.weights)}
        save_state(folder, step, tensors | pack_optimizers(optimizers), history)

    def validate() -> tuple[Tensor, Tensor]:
        average.swap(model)
        model.eval()
        result = accumulate(model, validation, settings, device, train=False)
        model.train()
        average.swap(model)
        return result

    names = [m.name for m in table.modalities]
    val: dict[str, float] = {}
    seen_C, sums_C = torch.zeros(len(names)), torch.zeros(len(names))
    every = max(1, min(20, settings.steps // 50))
    with (
        bar("train", settings.steps, "steps", first) as progress,
        Interrupt().watch() as interrupt,
        (folder / "log.jsonl").open("a") as log,
    ):
        started = time.perf_counter()
        for step, picked in enumerate(order.steps(first, settings.steps), first):
            batches = masked_batches(
                table, picked, config.masking, seed, MASKS, step, step / settings.steps
            )
            torch.manual_seed(derive_seed(seed, DROPOUT, step))
            rate = learning_rate(step, settings)
            for optimizer in optimizers:
                for entry in optimizer.param_groups:
                    entry["lr"] = rate
            sums, counts = accumulate(model, batches, settings, device, train=True)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            if not bool(torch.isfinite(norm)) or not bool(torch.isfinite(sums).all()):
                shown = dict(zip(names, sums.tolist(), strict=True))
                raise UserError(
                    f"the loss is not finite at step {step + 1} ({shown}); "
                    f"clips: {', '.join(table.clip_ids[picked[:8]])}, ...; "
                    f"lower --train.lr or --train.clip-norm and start again with --overwrite"
                )
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            average.update(model)
            history["tokens"] += sum(b.enc_ids_BN.numel() + b.dec_ids_BM.numel() for b in batches)
            seen_C, sums_C = seen_C + counts, sums_C + sums
            done = step + 1
            last = done == settings.steps
            if done % every == 0 or last:
                line: dict[str, Any] = {"step": done, "lr": rate, "grad_norm": float(norm)}
                line["loss"] = _means(names, sums_C, seen_C)
                seen_C, sums_C = torch.zeros_like(seen_C), torch.zeros_like(sums_C)
                if done % settings.val_every < every or last:
                    val = _means(names, *validate())
                    line["val"] = val
                log.write(json.dumps(line) + "\n")
                log.flush()
                progress.advance(0, note=" ".join(f"{k} {v:.2f}" for k, v in line["loss"].items()))
            progress.advance()
            wanted = interrupt.asked or stop(done)
            if done % settings.save_every == 0 or wanted or last:
                now = time.perf_counter()
                history["seconds"], started = history["seconds"] + now - started, now
                save(done)
            if wanted and not last:
                raise KeyboardInterrupt
    if not val:  # all steps were done before, only the checkpoint was missing
        val = _means(names, *validate())
    average.swap(model)
    save_model(model.eval(), table.vocabulary, folder / "checkpoint")
    if interrupt.asked:
        raise KeyboardInterrupt
    return {
        "steps": settings.steps,
        "parameters": model.num_parameters,
        "device": str(device),
        "train_seconds": round(history["seconds"], 1),
        "tokens": int(history["tokens"]),
        "tokens_per_second": round(history["tokens"] / max(history["seconds"], 1e-9)),
        "epochs": round(settings.steps * settings.batch_size / len(rows), 1),
        "val": val,
    }


def _means(names: list[str], sums_C: Tensor, counts_C: Tensor) -> dict[str, float]:
    """Return the mean cross-entropy of each modality that had targets."""
    pairs = zip(names, sums_C.tolist(), counts_C.tolist(), strict=True)
    return {name: total / count for name, total, count in pairs if count}
