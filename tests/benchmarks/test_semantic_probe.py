"""The probe of ids: an oracle, a null model, and bags without order."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def semantic_probe(monkeypatch):
    import importlib

    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("semantic_probe")


def test_a_bag_counts_ids_without_their_order(semantic_probe):
    ids = torch.randint(0, 7, (5, 12))
    counts = semantic_probe.bag(ids, 7)
    assert counts.shape == (5, 7) and (counts.sum(1) == 12).all()
    assert (counts == semantic_probe.bag(ids.flip(1), 7)).all()


@pytest.mark.parametrize("seed", range(3))
def test_ids_that_name_the_class_are_read_and_others_are_not(semantic_probe, seed):
    g = np.random.default_rng(seed)
    labels = g.integers(0, 4, 300)
    train, val = np.arange(200), np.arange(200, 300)
    groups = np.array([str(i) for i in range(300)])
    naming = torch.from_numpy(labels[:, None] * 2 + g.integers(0, 2, (300, 10)))
    nothing = torch.from_numpy(g.integers(0, 8, (300, 10)))
    right, guessed = (
        (semantic_probe.probe(semantic_probe.bag(ids, 8), labels, groups, train, seed)(val)
         == labels[val]).mean()
        for ids in (naming, nothing)
    )  # fmt: skip
    assert right == 1 and guessed < 0.45
