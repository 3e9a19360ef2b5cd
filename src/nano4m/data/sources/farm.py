"""Eleven toy animals, ray-traced and voiced on the fly: no download, no licence, any number.

A clip depends on (seed, index) and the settings alone. Picture and sound share the class, the body
size (enlarges the body, lowers pitch and formants) and the distance (shrinks the picture, lowers
the level). All else varies independently: colour, heading, pose, place, sun, ground, sky, clutter,
noise. What was drawn is in the clips table: ``farm_factors`` and ``surroundings``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nano4m.config.datasets import FarmDataset
from nano4m.data.sources.base import ClipPlan, RawMedia, Split
from nano4m.data.sources.farm_animals import ANIMALS
from nano4m.data.sources.farm_captions import free_caption, short_caption
from nano4m.data.sources.farm_factors import Factors
from nano4m.data.sources.farm_render import Scene, render
from nano4m.data.sources.farm_scene import compose, surroundings
from nano4m.data.sources.farm_voice import SAMPLE_RATE, speak

LICENCE = "CC0-1.0"
_CLASSES, _IDENTITY, _PICTURE, _VOICE, _WORDING = range(5)
"""Streams of random numbers: one more draw from one does not change the others."""


def _generator(seed: int, index: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(stream,)))


def plan(settings: object, data: Path | None, seed: int) -> Sequence[ClipPlan]:
    """Return the train, val and test clips; each eleven in a row have each class once.

    ``data`` is not used: the farm needs no files.
    """
    assert isinstance(settings, FarmDataset)
    labels = sorted(ANIMALS)
    order = _generator(seed, 0, _CLASSES).permutation(len(labels))
    counts: tuple[tuple[Split, int], ...] = (
        ("train", settings.train),
        ("val", settings.val),
        ("test", settings.test),
    )
    splits = [split for split, count in counts for _ in range(count)]
    return [
        _plan_clip(settings, seed, index, labels[order[index % len(labels)]], split)
        for index, split in enumerate(splits)
    ]


def _plan_clip(settings: FarmDataset, seed: int, index: int, label: str, split: Split) -> ClipPlan:
    factors = Factors.draw(ANIMALS[label].coat, _generator(seed, index, _IDENTITY))
    caption = short_caption(label, factors)
    if settings.captions == "free":
        caption = free_caption(label, factors, _generator(seed, index, _WORDING))
    clip_id = f"farm_{index:06d}"
    return ClipPlan(
        clip_id=clip_id,
        source="farm",
        video_id=clip_id,
        start_s=0.0,
        label=label,
        caption=caption,
        split=split,
        licence=LICENCE,
        measures=factors.measures(),
        details={"seed": seed, "index": index},
    )


def load(plan: ClipPlan, settings: object) -> RawMedia:
    """Return one clip: a still picture, its exact depth, normals and silhouette, and a sound."""
    assert isinstance(settings, FarmDataset)
    scene = draw_scene(plan)
    seen = render(scene, settings.picture_size)
    return RawMedia(
        sound=voice(plan, settings.seconds),
        sample_rate=SAMPLE_RATE,
        frames=(seen.rgb,),
        planes={
            "depth": (seen.depth,),
            "normals": (seen.normals,),
            "silhouette": (seen.subject,),
        },
        measures=surroundings(scene),
    )


def _stream(plan: ClipPlan, stream: int) -> np.random.Generator:
    seed, index = plan.details["seed"], plan.details["index"]
    assert isinstance(seed, int) and isinstance(index, int)
    return _generator(seed, index, stream)


def voice(plan: ClipPlan, seconds: float) -> np.ndarray:
    """Return the sound of one clip, float32 (samples,)."""
    factors = Factors.of(plan.measures)
    return speak(
        plan.label,
        factors.size,
        factors.distance,
        factors.snr,
        seconds,
        _stream(plan, _VOICE),
    )


def draw_scene(plan: ClipPlan) -> Scene:
    """Return the scene of one clip: the animal in its surroundings."""
    return compose(plan.label, Factors.of(plan.measures), _stream(plan, _PICTURE))
