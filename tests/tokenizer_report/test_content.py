"""Probes find what is there and nothing else; measures of cost and use against brute force."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nano4m.tokenizer_report.content import (
    BAG,
    MEAN,
    VECTORS,
    Split,
    bag_of_ids,
    in_segments,
    probe_features,
    token_features,
)
from nano4m.tokenizer_report.measures import cost, level_use

CLASSES, TRAIN, JUDGED = 4, 120, 80


def split_of(seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels, judged = (np.sort(rng.integers(CLASSES, size=n)) for n in (TRAIN, JUDGED))
    return Split(
        np.arange(TRAIN), np.arange(JUDGED), labels, np.arange(TRAIN) // 2, judged,
        np.arange(JUDGED), np.ones(JUDGED, bool),
    )  # fmt: skip


def features(split: Split, strength: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise of 12 channels in which the class moves one channel by ``strength``."""
    g = torch.Generator().manual_seed(seed)
    parts = []
    for labels in (split.labels, split.judged_labels):
        x = torch.randn(len(labels), 12, generator=g)
        x[torch.arange(len(labels)), torch.from_numpy(labels)] += strength
        parts.append(x)
    return parts[0], parts[1]


@pytest.mark.parametrize("seed", range(2))
def test_probes_find_a_class_that_is_there_and_none_that_is_not(seed):
    split = split_of(seed)
    cases = {name: features(split, s, seed) for name, s in (("there", 6.0), ("noise", 0.0))}
    cases["constant"] = (torch.ones(TRAIN, 3), torch.ones(JUDGED, 3))
    cases["oracle"] = tuple(
        torch.nn.functional.one_hot(torch.from_numpy(labels)).float()
        for labels in (split.labels, split.judged_labels)
    )
    found = probe_features({k: v for k, v in cases.items() if k != "constant"}, split)
    for how in ("linear", "nearest"):
        assert found["oracle"][how]["accuracy"] == 1
        assert found["there"][how]["accuracy"] > 0.9
        noise = found["noise"][how]
        assert noise["accuracy"] < 0.25 + 4 * (0.25 * 0.75 / JUDGED) ** 0.5
        assert noise["low"] < noise["accuracy"] < noise["high"]


def test_only_clips_that_count_are_scored():
    split = split_of(0)
    there = features(split, 6.0, 0)
    wrong = split.judged_labels.copy()
    wrong[:20] = (wrong[:20] + 1) % CLASSES
    spoilt = split._replace(judged_labels=wrong)
    all_count = probe_features({"x": there}, spoilt)["x"]["linear"]["accuracy"]
    counted = np.arange(JUDGED) >= 20
    some = probe_features({"x": there}, spoilt._replace(counted=counted))["x"]["linear"]
    assert all_count < 0.8 < some["accuracy"]


@pytest.mark.parametrize("seed", range(3))
def test_features_of_ids_are_those_of_brute_force(seed):
    g = torch.Generator().manual_seed(seed)
    frames, books, size, width = 9, 2, 5, 3
    own = torch.randint(size, (4, frames, books), generator=g)
    ids = own + torch.arange(books) * size
    book = torch.randn(books * size, width, generator=g)
    tokenizer = SimpleNamespace(
        num_codebooks=books, vocab_size=books * size, shape=(frames, books),
        codebook=lambda: book,
    )  # fmt: skip
    found = token_features(tokenizer, ids)
    for i in range(4):
        counts = Counter(ids[i].flatten().tolist())
        share = [math.sqrt(counts[v] / (frames * books)) for v in range(books * size)]
        assert found[BAG][i].tolist() == pytest.approx(share)
        mean = [book[ids[i, :, k]].mean(0) for k in range(books)]
        assert torch.allclose(found[MEAN][i], torch.cat(mean), atol=1e-6)
    assert found[VECTORS].shape == (4, books * width * 8)
    assert torch.allclose(bag_of_ids(ids, 10).square().sum(1), torch.ones(4))


def test_a_picture_has_places_and_a_sound_parts():
    x = torch.arange(64.0).view(1, 1, 64)
    assert in_segments(x, (64,)).tolist() == [[3.5 + 8 * i for i in range(8)]]
    assert in_segments(x[..., :3], (3,)).tolist() == [[0, 1, 2]]
    quarters = in_segments(x, (8, 8)).view(4, 4)
    assert quarters[0, 0] == x.view(8, 8)[:2, :2].mean()
    for shape, books, length in (((8, 1), 1, 8), ((4, 4), 1, 16)):
        ids = torch.zeros(2, *shape, dtype=torch.int64)
        tokenizer = SimpleNamespace(
            num_codebooks=books, vocab_size=3, codebook=lambda: torch.eye(3)
        )
        assert token_features(tokenizer, ids)[VECTORS].shape == (2, 3 * length)


def test_costs_and_use_of_each_level():
    tokenizer = SimpleNamespace(shape=(10, 2), vocab_size=64, num_codebooks=2)
    found = cost(tokenizer, seconds=2.0)
    assert found == {
        "tokens": 20, "bits": 20 * 5, "tokens_a_second": 10, "bits_a_second": 50,
    }  # fmt: skip
    ids = torch.stack([torch.arange(10) % 4, 32 + torch.zeros(10, dtype=torch.int64)], 1)[None]
    coarse, fine = level_use(tokenizer, ids)
    shares = np.array([3, 3, 2, 2]) / 10
    assert coarse["perplexity"] == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert (coarse["codes_used_share"], fine["codes_used_share"]) == (4 / 32, 1 / 32)
    assert fine["perplexity"] == pytest.approx(1) and coarse["vocab"] == 32
