"""Shared fixtures: a tiny token_spec and token table, made here, no files needed."""

import locale
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allowed_skips import DATA as SHARED
from allowed_skips import pytest_make_collect_report as pytest_make_collect_report
from allowed_skips import pytest_runtest_makereport as pytest_runtest_makereport
from nano4m.compute.precision import flushes_denormals
from nano4m.config.masking import MaskingConfig
from nano4m.config.model import ModelConfig
from nano4m.config.run import Config
from nano4m.config.tokenizers import ImageVQ, MelVQ
from nano4m.config.training import TrainConfig
from nano4m.modalities import MODALITIES, Modality
from nano4m.tokens.table import TokenSpec, TokenTable

torch.set_num_threads(1)
# A shell starts a job in the background with SIGINT ignored; tests of interrupts deliver it.
signal.signal(signal.SIGINT, signal.default_int_handler)
# One that nohup starts has SIGHUP ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

SET_BY_OTHERS = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_", "KINETO_", "KMP_")
"""Beginnings of variables that pytest, PyTorch and scikit-learn set when they are first used."""


def global_settings() -> dict[str, object]:
    """Return what of the process a test could leave changed for those that follow."""
    return {
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "denormals count as 0": flushes_denormals(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "numpy errors": np.geterr(),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith(SET_BY_OTHERS)},
        "folder": os.getcwd(),
        "sys.path": list(sys.path),
        "sys.argv": list(sys.argv),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
        "locale": locale.setlocale(locale.LC_ALL),
    }


@pytest.fixture(autouse=True)
def process_is_left_as_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Refuse a test that leaves a global setting behind; start each with the same random stream.

    The order of tests then plays no role: none sees what another has set or drawn.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    before = global_settings()
    yield
    after = global_settings()
    left = []
    for name, now in after.items():
        then = before[name]
        if isinstance(now, dict) and isinstance(then, dict):
            keys = {k for k in now.keys() | then.keys() if now.get(k) != then.get(k)}
            then, now = ({k: d.get(k) for k in keys} for d in (then, now))
        if now != then:
            left.append(f"{name}: {then!r} before, {now!r} after")
    if left:
        pytest.fail(f"{request.node.nodeid} leaves a global setting behind: {'; '.join(left)}")


@pytest.fixture
def shared_data() -> Path:
    """The folder of real recordings; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data of ../shared ({SHARED})")
    return SHARED


@pytest.fixture
def golden(shared_data: Path) -> Path:
    """Weights of the reference's architecture, and what the reference computed with them."""
    folder = shared_data / "golden" / "nano4m_seed"
    if not folder.is_dir():
        pytest.skip(f"needs the data of ../shared ({folder})")
    return folder


def tiny_modalities() -> tuple[Modality, ...]:
    """Five modalities of unequal lengths and vocabularies."""
    sizes = {
        "rgb": ((2, 2), 11),
        "depth": ((2, 2), 7),
        "normals": ((2, 3), 9),
        "sound": ((4, 2), 16),
        "caption": ((6,), 13),
    }
    return tuple(MODALITIES[name].with_tokens(*size) for name, size in sizes.items())


def tiny_table(num_clips: int = 48, num_classes: int = 4, seed: int = 0) -> TokenTable:
    """A table in which the class decides 90 % of the tokens; captions are two to five tokens."""
    rng = np.random.default_rng(seed)
    modalities = tiny_modalities()
    classes = np.arange(num_clips) % num_classes
    ids, lengths = {}, {}
    for m in modalities:
        views = {"frame": 3, "sound": 2, "caption": 1}[m.frame_group]
        low = 1 if m.is_text else 0
        prototype = rng.integers(low, m.vocab_size, (num_classes, 1, m.length))
        noise = rng.integers(low, m.vocab_size, (num_clips, views, m.length))
        noisy = rng.random(noise.shape) < 0.1
        drawn = np.where(noisy, noise, prototype[classes])
        # Each slot has an id of its own codebook.
        codebook = np.arange(m.length) % m.num_codebooks
        drawn = drawn % m.codebook_size + codebook * m.codebook_size
        ids[m.name] = drawn.astype(np.uint16)
        if m.is_text:
            ids[m.name] = np.repeat(prototype[classes], views, axis=1).astype(np.uint16)
            lengths[m.name] = np.broadcast_to(2 + classes[:, None] % 4, (num_clips, views)).copy()
            for i, length in enumerate(lengths[m.name][:, 0]):
                ids[m.name][i, :, length - 1 :] = 0
    splits = np.array(["val" if i % 6 == 5 else "train" for i in range(num_clips)])
    token_spec = TokenSpec(modalities, {m.name: f"print-{m.name}" for m in modalities})
    names = np.array([f"clip{i:03d}" for i in range(num_clips)])
    labels = np.array([f"class{c}" for c in classes])
    codes = {"rgb": rng.normal(size=(11, 4)).astype(np.float32)}
    return TokenTable(token_spec, names, labels, splits, ids, lengths, codes)


def with_codebooks(table: TokenTable, frames: int, books: int, size: int) -> TokenTable:
    """Return a table with a random sound of several codebooks of ``size`` ids."""
    sound = MODALITIES["sound"].with_tokens((frames, books), books * size)
    modalities = tuple(sound if m.name == "sound" else m for m in table.modalities)
    shape = (*table.ids["sound"].shape[:2], frames, books)
    ids = np.random.default_rng(0).integers(size, size=shape) + size * np.arange(books)
    return TokenTable(
        replace(table.token_spec, modalities=modalities),
        table.clip_ids,
        table.labels,
        table.splits,
        dict(table.ids) | {"sound": ids.reshape(*shape[:2], -1).astype(np.uint16)},
        {m.name: table.lengths[m.name] for m in modalities if m.is_text},
    )


@pytest.fixture
def table() -> TokenTable:
    """See ``tiny_table``."""
    return tiny_table()


def small_config(model: dict | None = None, device: str = "cpu", **train) -> Config:
    """Twelve steps of a one-block model, the same on every machine; ``train`` and ``model`` change
    it."""
    settings = {"steps": 12, "batch_size": 16, "warmup": 2, "val_every": 6, "val_samples": 16}
    settings |= {"save_every": 4, "dropout": 0.1, "tracker": "none"}
    settings["init_from_codebook"] = (model or {}).get("tables") != "shared"
    return Config(
        device=device,
        tokenizers={"rgb": ImageVQ(), "sound": MelVQ()},
        masking=MaskingConfig(group_size=8),
        model=ModelConfig(
            **{"encoder_depth": 1, "decoder_depth": 1, "dim": 16, "head_dim": 8} | (model or {})
        ),
        train=TrainConfig(**settings | {"precision": "fp32"} | train),
    )
