"""Eleven toy animals, ray-traced and voiced on the fly: no download, no licence, any number.

A clip depends on (seed, index) and the settings alone. Picture and sound share the class, the body
size (enlarges the body, lowers pitch and formants) and the distance (shrinks the picture, lowers
the level). All else varies independently: colour, pose, place, sun, ground, sky, clutter, noise.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from nano4m.config.datasets import FarmDataset
from nano4m.data.sources.base import ClipPlan, RawMedia, Split
from nano4m.data.sources.farm_animals import ANIMALS, COMMON, Colour
from nano4m.data.sources.farm_render import FOCAL, Scene, render
from nano4m.data.sources.farm_voice import SAMPLE_RATE, speak

LICENCE = "CC0-1.0"
SIZES = {"small": (0.86, 0.93), "large": (1.1, 1.18)}
"""Body sizes in metres: two separate ranges."""
DISTANCES = (3.2, 4.0)
"""Metres from the camera."""
SKIES: tuple[Colour, ...] = (
    (0.24, 0.52, 0.92),
    (0.4, 0.66, 0.94),
    (0.56, 0.68, 0.82),
    (0.88, 0.56, 0.46),
)
SOILS: tuple[tuple[Colour, Colour], ...] = (
    ((0.36, 0.56, 0.22), (0.5, 0.68, 0.3)),
    ((0.48, 0.6, 0.26), (0.66, 0.68, 0.32)),
    ((0.72, 0.6, 0.4), (0.84, 0.74, 0.52)),
    ((0.66, 0.52, 0.38), (0.6, 0.62, 0.32)),
)
_CLASSES, _IDENTITY, _PICTURE, _VOICE = range(4)
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
        _plan_clip(seed, index, labels[order[index % len(labels)]], split)
        for index, split in enumerate(splits)
    ]


def _plan_clip(seed: int, index: int, label: str, split: Split) -> ClipPlan:
    rng = _generator(seed, index, _IDENTITY)
    word = ("small", "large")[rng.integers(2)]
    clip_id = f"farm_{index:06d}"
    return ClipPlan(
        clip_id=clip_id,
        source="farm",
        video_id=clip_id,
        start_s=0.0,
        label=label,
        caption=f"{word} {ANIMALS[label].phrase}",
        split=split,
        licence=LICENCE,
        details={
            "seed": seed,
            "index": index,
            "class": label,
            "size": float(rng.uniform(*SIZES[word])),
            "distance": float(rng.uniform(*DISTANCES)),
        },
    )


def load(plan: ClipPlan, settings: object) -> RawMedia:
    """Return one clip: a still picture, its exact depth, normals and silhouette, and a sound."""
    assert isinstance(settings, FarmDataset)
    seen = render(draw_scene(plan), settings.picture_size)
    return RawMedia(
        sound=voice(plan, settings.seconds),
        sample_rate=SAMPLE_RATE,
        frames=(seen.rgb,),
        planes={
            "depth": (seen.depth,),
            "normals": (seen.normals,),
            "silhouette": (seen.subject,),
        },
    )


def _facts(plan: ClipPlan) -> tuple[int, int, str, float, float]:
    """Return seed, index, class, size and distance of a clip."""
    details = plan.details
    seed, index, label = details["seed"], details["index"], details["class"]
    size, distance = details["size"], details["distance"]
    assert isinstance(seed, int) and isinstance(index, int) and isinstance(label, str)
    assert isinstance(size, float) and isinstance(distance, float)
    return seed, index, label, size, distance


def voice(plan: ClipPlan, seconds: float) -> np.ndarray:
    """Return the sound of one clip, float32 (samples,)."""
    seed, index, label, size, distance = _facts(plan)
    return speak(label, size, distance, seconds, _generator(seed, index, _VOICE))


def draw_scene(plan: ClipPlan) -> Scene:
    """Return the scene of one clip: the animal in its surroundings."""
    seed, index, label, size, distance = _facts(plan)
    rng = _generator(seed, index, _PICTURE)
    eye_height = rng.uniform(0.8, 1.1)
    # Aim at the middle of an average body, so that the animal's height shows in the picture.
    pitch = float(np.arctan2(eye_height - 0.48, distance) + rng.uniform(-0.01, 0.01))
    centres, shapes = _pose(label, size, rng)
    centres += np.array([_place(centres, shapes, distance, rng), 0.0, -distance])
    colours, seconds, patches, ripple = _paint(label, rng)
    clutter_centres, clutter_shapes, clutter_colours = _clutter(distance, rng)
    num_clutter = len(clutter_centres)
    sun_height, sun_side = rng.uniform(0.6, 1.1), rng.uniform(-0.9, 0.9)
    waves = np.column_stack([rng.normal(0.0, 6.5 / size, (5, 3)), rng.uniform(0, 6.3, 5)])
    sky = _tint(SKIES[rng.integers(len(SKIES))], 0.06, rng)
    soil = SOILS[rng.integers(len(SOILS))]
    return Scene(
        centres=np.concatenate([centres, clutter_centres]),
        shapes=np.concatenate([shapes, clutter_shapes]),
        colours=np.concatenate([colours, clutter_colours]),
        seconds=np.concatenate([seconds, clutter_colours]),
        patches=np.concatenate([patches, np.zeros(num_clutter)]),
        ripple=np.concatenate([ripple, np.full(num_clutter, 0.12)]),
        waves=waves,
        sun=np.array(
            [
                np.cos(sun_height) * np.sin(sun_side),
                np.sin(sun_height),
                np.cos(sun_height) * np.cos(sun_side),
            ]
        ),
        ground=_tint(soil[0], 0.08, rng),
        grass=_tint(soil[1], 0.08, rng),
        zenith=sky,
        horizon=0.35 * sky + 0.65 * _tint((0.97, 0.93, 0.88), 0.05, rng),
        ambient=float(rng.uniform(0.42, 0.58)),
        eye_height=float(eye_height),
        pitch=pitch,
        subject_parts=len(centres),
    )


def _tint(colour: Colour, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Return a colour (3,) near ``colour``."""
    shade = 1.0 + spread * (rng.uniform(-1, 1) + 0.5 * rng.uniform(-1, 1, 3))
    return np.clip(np.array(colour) * shade, 0.02, 0.98)


@lru_cache
def _parts(label: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return centres (E, 3), shapes (E, 3, 3), groups and roles of a class in its own axes."""
    centres, shapes, groups, roles = [], [], [], []
    for group, role, ax, ay, bx, by, thick, wide, z in ANIMALS[label].parts:
        along = np.array([bx - ax, by - ay, 0.0]) / 2.0
        across = np.array([-along[1], along[0], 0.0]) * (thick / np.hypot(along[0], along[1]))
        for side in (z, -z) if z else (0.0,):
            centres.append([(ax + bx) / 2.0, (ay + by) / 2.0, side])
            shapes.append(np.column_stack([along, across, [0.0, 0.0, wide]]))
            groups.append(group)
            roles.append(role)
    return np.array(centres), np.array(shapes), tuple(groups), tuple(roles)


def _turn(yaw: float, pitch: float) -> np.ndarray:
    """Return the (3, 3) rotation about z by ``pitch`` (front up), then about y by ``yaw``."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    return about_y @ np.array([[cp, -sp, 0.0], [sp, cp, 0.0], [0.0, 0.0, 1.0]])


def _place(
    centres: np.ndarray, shapes: np.ndarray, distance: float, rng: np.random.Generator
) -> float:
    """Return metres to the right of the centre at which the animal, if it fits, is in view."""
    reach = np.linalg.norm(shapes, axis=2)
    left, right = np.min(centres - reach, axis=0)[0], np.max(centres + reach, axis=0)[0]
    nearest = distance - np.max(centres + reach, axis=0)[2]
    room = max(0.03, 0.47 * nearest / FOCAL - 0.5 * (right - left))
    return float(rng.uniform(-0.5, 0.5) * room - 0.5 * (left + right))


def _pose(label: str, size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (E, 3) and shapes (E, 3, 3) in metres, feet on the ground, about x = z = 0."""
    centres, shapes, groups, _ = _parts(label)
    centres, shapes, group = centres.copy(), shapes.copy(), np.array(groups)
    shapes *= rng.uniform(0.94, 1.06, (len(shapes), 1, 3))

    def turn(chosen: np.ndarray, pivot: np.ndarray, rotation: np.ndarray) -> None:
        centres[chosen] = (centres[chosen] - pivot) @ rotation.T + pivot
        shapes[chosen] = rotation @ shapes[chosen]

    # Mostly from the side, rather towards the camera than away from it.
    facing_left = rng.integers(2) == 1
    yaw = -rng.uniform(-0.3, 0.6)
    head_yaw = -rng.uniform(-0.1, 0.5)
    head_pitch = rng.uniform(-0.16, 0.16)
    if facing_left:
        yaw, head_yaw = np.pi - yaw, -head_yaw
    neck = np.array([*ANIMALS[label].neck, 0.0])
    turn(group == "head", neck, _turn(head_yaw, head_pitch))
    for leg in np.flatnonzero(group == "leg"):
        hip = centres[leg] + np.abs(shapes[leg, :, 0])
        turn(np.array([leg]), hip, _turn(0.0, rng.uniform(-0.14, 0.14)))
    tail = np.flatnonzero(group == "tail")
    turn(tail, centres[tail[0]] - shapes[tail[0], :, 0], _turn(rng.uniform(-0.3, 0.3), 0.0))
    turn(np.arange(len(centres)), np.zeros(3), _turn(yaw, 0.0))

    reach = np.linalg.norm(shapes[:, 1], axis=1)
    bottom = float(np.min(centres[:, 1] - reach))
    height = float(np.max(centres[:, 1] + reach)) - bottom
    length = _length(label)
    scale = size / max(height, 0.85 * length)
    centres[:, 1] -= bottom
    return centres * scale, shapes * scale


@lru_cache
def _length(label: str) -> float:
    """Return the length of a class in its own axes, before it turns."""
    centres, shapes, _, _ = _parts(label)
    reach = np.linalg.norm(shapes[:, 0], axis=1)
    return float(np.max(centres[:, 0] + reach) - np.min(centres[:, 0] - reach))


def _paint(
    label: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return colours (E, 3), second colours (E, 3), patches (E,) and ripple (E,) of the parts."""
    animal, roles = ANIMALS[label], _parts(label)[3]
    coat, second = animal.coats[rng.integers(len(animal.coats))]
    colours = {**COMMON, "coat": coat, "second": second, **dict(animal.roles)}
    tinted = {role: _tint(colour, 0.12, rng) for role, colour in colours.items()}
    is_coat = np.array([role == "coat" for role in roles])
    return (
        np.array([tinted[role] for role in roles]),
        np.array([tinted["second"]] * len(roles)),
        np.where(is_coat, rng.uniform(*animal.patches), 0.0),
        np.where(is_coat, animal.ripple, 0.0),
    )


def _clutter(
    distance: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centres (C, 3), shapes (C, 3, 3) and colours (C, 3) of a few bushes and stones."""
    number = int(rng.integers(0, 4))
    radii = rng.uniform(0.08, 0.22, (number, 3))
    depth = distance + rng.uniform(0.9, 3.5, number)
    across = rng.uniform(-1.0, 1.0, number) * 0.45 * depth / FOCAL
    centres = np.column_stack([across, 0.5 * radii[:, 1], -depth])
    shapes = radii[:, :, None] * np.eye(3)
    bush, stone = (0.2, 0.4, 0.16), (0.55, 0.54, 0.52)
    colours = [_tint(bush if rng.random() < 0.6 else stone, 0.2, rng) for _ in range(number)]
    return centres, shapes, np.array(colours).reshape(number, 3)
