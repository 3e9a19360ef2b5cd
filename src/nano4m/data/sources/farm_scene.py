"""The scene of a farm's clip: the animal as its factors say, in surroundings that vary freely."""

from functools import lru_cache

import numpy as np

from nano4m.data.sources.farm_animals import ANIMALS, COMMON
from nano4m.data.sources.farm_factors import COATS, Colour, Factors, tint
from nano4m.data.sources.farm_render import FOCAL, Scene

AIM = 0.61
"""Metres above the ground in the middle of the picture: half of a tall body."""
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


def compose(label: str, factors: Factors, rng: np.random.Generator) -> Scene:
    """Return the scene of an animal of a class; ``rng`` draws what is no factor."""
    distance = factors.distance
    eye_height = rng.uniform(0.8, 1.1)
    # Aim at one height whatever the body's, so that the animal's height shows in the picture.
    pitch = float(np.arctan2(eye_height - AIM, distance) + rng.uniform(-0.01, 0.01))
    centres, shapes = _pose(label, factors, rng)
    centres += np.array([_place(centres, shapes, distance, rng), 0.0, -distance])
    colours, seconds, patches, ripple = _paint(label, factors, rng)
    clutter_centres, clutter_shapes, clutter_colours = _clutter(distance, rng)
    num_clutter = len(clutter_centres)
    sun_height, sun_side = rng.uniform(0.6, 1.1), rng.uniform(-0.9, 0.9)
    waves = np.column_stack([rng.normal(0.0, 6.5 / factors.size, (5, 3)), rng.uniform(0, 6.3, 5)])
    sky = tint(SKIES[rng.integers(len(SKIES))], 0.06, rng)
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
        ground=tint(soil[0], 0.08, rng),
        grass=tint(soil[1], 0.08, rng),
        zenith=sky,
        horizon=0.35 * sky + 0.65 * tint((0.97, 0.93, 0.88), 0.05, rng),
        ambient=float(rng.uniform(0.42, 0.58)),
        eye_height=float(eye_height),
        pitch=pitch,
        subject_parts=len(centres),
    )


def surroundings(scene: Scene) -> dict[str, float]:
    """Return what else was drawn of a scene: name -> number.

    The sun stands over the horizon in degrees, and beside the camera, positive to the right; 0 is
    in the back of the viewer.
    """
    x, y, z = scene.sun.tolist()
    subject = len(scene.centres) if scene.subject_parts is None else scene.subject_parts
    return {
        "clutter": float(len(scene.centres) - subject),
        "sun_height_degrees": float(np.rad2deg(np.arcsin(y))),
        "sun_side_degrees": float(np.rad2deg(np.arctan2(x, z))),
        "eye_height_m": scene.eye_height,
    }


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


def _pose(label: str, factors: Factors, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centres (E, 3) and shapes (E, 3, 3) in metres, feet on the ground, about x = z = 0."""
    centres, shapes, groups, _ = _parts(label)
    centres, shapes, group = centres.copy(), shapes.copy(), np.array(groups)
    shapes *= rng.uniform(0.94, 1.06, (len(shapes), 1, 3))

    def turn(chosen: np.ndarray, pivot: np.ndarray, rotation: np.ndarray) -> None:
        centres[chosen] = (centres[chosen] - pivot) @ rotation.T + pivot
        shapes[chosen] = rotation @ shapes[chosen]

    yaw = np.deg2rad(factors.heading)
    # The head turns towards the camera, or a little away from it.
    head_yaw = -np.cos(yaw) * rng.uniform(-0.1, 0.5)
    head_pitch = rng.uniform(-0.16, 0.16)
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
    scale = factors.size / max(height, length)
    centres[:, 1] -= bottom
    return centres * scale, shapes * scale


@lru_cache
def _length(label: str) -> float:
    """Return the length of a class in its own axes, before it turns."""
    centres, shapes, _, _ = _parts(label)
    reach = np.linalg.norm(shapes[:, 0], axis=1)
    return float(np.max(centres[:, 0] + reach) - np.min(centres[:, 0] - reach))


def _paint(
    label: str, factors: Factors, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return colours (E, 3), second colours (E, 3), patches (E,) and ripple (E,) of the parts."""
    animal, roles = ANIMALS[label], _parts(label)[3]
    seconds = COATS[factors.coat][1]
    colours = {**COMMON, "second": seconds[rng.integers(len(seconds))], **dict(animal.roles)}
    tinted = {role: tint(colour, 0.12, rng) for role, colour in colours.items()}
    tinted["coat"] = np.array(factors.colour)
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
    colours = [tint(bush if rng.random() < 0.6 else stone, 0.2, rng) for _ in range(number)]
    return centres, shapes, np.array(colours).reshape(number, 3)
