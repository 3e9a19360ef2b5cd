"""A scene of ellipsoids on a ground plane -> picture, exact depth and exact normals, in NumPy.

One ray goes through the centre of each pixel; its hit gives depth, normal and colour. Pixels on an
outline or a shadow's edge get four more rays, for the colour alone: a depth must never be a mixture
of two surfaces. World axes: x right, y up, z to the viewer; the ground is y = 0.

Shapes: P points or rays, E ellipsoids, S pixels a side, W waves.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SKY, GROUND = -2, -1
FOCAL = 2.35
"""Focal length over the height of the picture (24 degrees of view)."""
RIPPLE = np.array([[52.0, -31.0, 17.0], [23.0, 58.0, -44.0], [-29.0, 21.0, 61.0]])
"""Columns are the wave vectors of the fine texture, in radians a metre."""
BLOCK_RAYS = 4096
"""Rays that are traced at once: those of a picture of 64 pixels."""
SHADOW_REACH = 25.0
"""Shadows are traced within these metres; beyond, a shadow is smaller than a pixel."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that a picture shows; colours are RGB in [0, 1].

    Attributes:
        centres: (E, 3) metres.
        shapes: (E, 3, 3); columns are the three semi-axes in metres, at right angles.
        colours: (E, 3) main colour of each ellipsoid.
        seconds: (E, 3) colour of its patches.
        patches: (E,) share of the surface in the second colour, about; 0 is none, 1 is all.
        ripple: (E,) strength of a fine light-dark texture (wool, leaves).
        waves: (W, 4) wave vectors in radians a metre and phases, whose sum places the patches.
        sun: (3,) unit vector to the sun.
        ground, grass: (3,) the two colours of the ground.
        zenith, horizon: (3,) the two ends of the sky.
        ambient: Light without the sun, in [0, 1].
        eye_height: Metres of the camera above the ground; it is at x = z = 0 and looks along -z.
        pitch: Radians that the camera looks down.
        subject_parts: The first so many ellipsoids are the subject's; None: all.
    """

    centres: np.ndarray
    shapes: np.ndarray
    colours: np.ndarray
    seconds: np.ndarray
    patches: np.ndarray
    ripple: np.ndarray
    waves: np.ndarray
    sun: np.ndarray
    ground: np.ndarray
    grass: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    ambient: float
    eye_height: float
    pitch: float
    subject_parts: int | None = None


class Rendering(NamedTuple):
    """One picture of S pixels a side, with exact depth, normals and subject.

    Attributes:
        rgb: uint8 (S, S, 3).
        depth: float32 (S, S), metres along the ray, inf for the sky.
        normals: float32 (S, S, 3) unit vectors in camera axes (x right, y up, z to the viewer); the
            sky is (0, 0, 1).
        subject: bool (S, S), whether the ray through the pixel's centre meets the subject.
    """

    rgb: np.ndarray
    depth: np.ndarray
    normals: np.ndarray
    subject: np.ndarray


def camera_axes(pitch: float) -> np.ndarray:
    """Return (3, 3) whose columns are the camera's x, y and z axes in the world."""
    c, s = np.cos(pitch), np.sin(pitch)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, s], [0.0, -s, c]])


def rays(columns: np.ndarray, rows: np.ndarray, size: int, pitch: float) -> np.ndarray:
    """Return unit directions (P, 3) in the world through points of the picture, in pixels."""
    x = columns / size - 0.5
    y = 0.5 - rows / size
    direction = np.stack([x, y, np.full_like(x, -FOCAL)], axis=1)
    direction /= np.sqrt(np.einsum("pi,pi->p", direction, direction))[:, None]
    return direction @ camera_axes(pitch).T


def _monomials(v: np.ndarray) -> np.ndarray:
    """Return (6, P) so that v' M v = _coefficients(M) @ _monomials(v) for a symmetric M."""
    x, y, z = v.T
    return np.stack([x * x, y * y, z * z, x * y, x * z, y * z])


def _coefficients(m: np.ndarray) -> np.ndarray:
    """Return (E, 6) for symmetric (E, 3, 3)."""
    twice = 2.0 * m
    return np.stack(
        [m[:, 0, 0], m[:, 1, 1], m[:, 2, 2], twice[:, 0, 1], twice[:, 0, 2], twice[:, 1, 2]], axis=1
    )


class Tracer:
    """The quadratic forms of a scene's ellipsoids, made once: (p - c)' A (p - c) = 1.

    The discriminant of a ray is itself a quadratic form of its direction, so that one matrix
    product tests all rays against all ellipsoids.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        inverse = np.linalg.inv(scene.shapes)
        self.forms = np.einsum("eki,ekj->eij", inverse, inverse)
        self.eye = np.array([0.0, scene.eye_height, 0.0])
        offset = self.eye - scene.centres
        self._linear = np.einsum("eij,ej->ei", self.forms, offset)
        constant = np.einsum("ei,ei->e", self._linear, offset) - 1.0
        self._square = _coefficients(self.forms)
        outer = self._linear[:, :, None] * self._linear[:, None, :]
        self._discriminant = _coefficients(outer - constant[:, None, None] * self.forms)
        self._prepare_shadows()

    def _prepare_shadows(self) -> None:
        scene = self.scene
        self._to_sun = self.forms @ scene.sun
        length = self._to_sun @ scene.sun
        form = self._to_sun[:, :, None] * self._to_sun[:, None, :]
        form -= length[:, None, None] * self.forms
        middle = np.einsum("eij,ej->ei", form, scene.centres)
        self._sun_square = _coefficients(form)
        self._sun_linear = -2.0 * middle
        self._sun_constant = np.einsum("ei,ei->e", middle, scene.centres) + length
        self._sun_offset = np.einsum("ei,ei->e", self._to_sun, scene.centres)

    def hit(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first surface along each unit direction (P, 3).

        Returns:
            Distance (P,) in metres, inf for the sky, and what was hit (P,): SKY, GROUND or an
            index.
        """
        monomials = _monomials(directions)
        discriminant = self._discriminant @ monomials
        which, ray = np.nonzero(discriminant > 0.0)
        square = np.einsum("pi,ip->p", self._square[which], monomials[:, ray])
        linear = np.einsum("pi,pi->p", self._linear[which], directions[ray])
        root = (-linear - np.sqrt(discriminant[which, ray])) / square
        distance = np.full(len(directions), np.inf)
        down = directions[:, 1] < 0.0
        distance[down] = -self.scene.eye_height / directions[down, 1]
        what = np.where(down, GROUND, SKY)
        ahead = root > 0.0
        which, ray, root = which[ahead], ray[ahead], root[ahead]
        np.minimum.at(distance, ray, root)
        # Of two at one distance, the first of the scene wins, so it is written last.
        first = np.flatnonzero(root == distance[ray])[::-1]
        what[ray[first]] = which[first]
        return distance, what

    def normals(self, points: np.ndarray, what: np.ndarray) -> np.ndarray:
        """Return outward unit normals (P, 3) in the world of points on ellipsoids ``what`` >= 0."""
        normal = np.einsum("pij,pj->pi", self.forms[what], points - self.scene.centres[what])
        return normal / np.sqrt(np.einsum("pi,pi->p", normal, normal))[:, None]

    def shaded(self, points: np.ndarray) -> np.ndarray:
        """Return whether something is between each point (P, 3) of a visible surface and the sun.

        A visible point lies outside every other ellipsoid, so the sun ray meets one ahead of it
        exactly if the discriminant is positive and the ray approaches. On its own ellipsoid the
        same test says that the surface faces away from the sun, with no epsilon.
        """
        discriminant = self._sun_square @ _monomials(points) + self._sun_linear @ points.T
        discriminant += self._sun_constant[:, None]
        approaches = self._to_sun @ points.T < self._sun_offset[:, None]
        return np.any(approaches & (discriminant > 0.0), axis=0)

    def colours(
        self, directions: np.ndarray, distance: np.ndarray, what: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return colour (P, 3) in [0, 1], normal (P, 3) in the world (0: sky), and shadow."""
        scene = self.scene
        up = np.clip(directions[:, 1:2] * 3.5, 0.0, 1.0)
        sky = scene.horizon + (scene.zenith - scene.horizon) * up
        colour = sky.copy()
        normal = np.zeros_like(directions)
        shadow = np.zeros(len(what), dtype=bool)
        solid = np.flatnonzero(what != SKY)
        points = self.eye + directions[solid] * distance[solid, None]
        hit = what[solid]
        body, floor = np.flatnonzero(hit >= 0), np.flatnonzero(hit == GROUND)
        facing = np.zeros((len(solid), 3))
        facing[:, 1] = 1.0
        facing[body] = self.normals(points[body], hit[body])
        albedo = np.empty((len(solid), 3))
        albedo[body] = self._coat(points[body], hit[body])
        albedo[floor] = self._soil(points[floor])
        near = np.flatnonzero(distance[solid] < SHADOW_REACH)
        shade = np.zeros(len(solid), dtype=bool)
        shade[near] = self.shaded(points[near])
        lambert = np.maximum(facing @ scene.sun, 0.0) * ~shade
        light = scene.ambient * (0.75 + 0.25 * facing[:, 1]) + (1.12 - scene.ambient) * lambert
        haze = (1.0 - np.exp(-distance[solid] / 40.0))[:, None]
        colour[solid] = albedo * light[:, None] * (1.0 - haze) + scene.horizon * haze
        normal[solid] = facing
        shadow[solid] = shade
        return np.clip(colour, 0.0, 1.0), normal, shadow

    def _coat(self, points: np.ndarray, what: np.ndarray) -> np.ndarray:
        scene = self.scene
        waves = np.sin(points @ scene.waves[:, :3].T + scene.waves[:, 3])
        # The sum of the waves is nearly normal; the logistic function turns it into a rank.
        rank = 1.0 / (1.0 + np.exp(-1.7 * waves.sum(axis=1) / np.sqrt(0.5 * len(scene.waves))))
        second = (rank < scene.patches[what])[:, None]
        colour = np.where(second, scene.seconds[what], scene.colours[what])
        fine = np.sin(points @ RIPPLE).sum(axis=1)
        return colour * (1.0 + scene.ripple[what] * fine / 3.0)[:, None]

    def _soil(self, points: np.ndarray) -> np.ndarray:
        scene = self.scene
        flat = points[:, [0, 2]]
        wave = np.sin(flat @ scene.waves[:3, [0, 2]].T * 0.35 + scene.waves[:3, 3]).sum(axis=1)
        mix = 0.5 + 0.16 * wave / (1.0 + 0.003 * np.einsum("pi,pi->p", flat, flat))
        return scene.ground + (scene.grass - scene.ground) * mix[:, None]


def _edges(labels: np.ndarray) -> np.ndarray:
    """Return flat indices of the pixels of (S, S) that differ from a neighbour."""
    edge = np.zeros(labels.shape, dtype=bool)
    across = labels[:, 1:] != labels[:, :-1]
    along = labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= along
    edge[:-1] |= along
    return np.flatnonzero(edge)


def render(scene: Scene, size: int) -> Rendering:
    """Return the traced picture of ``size`` pixels a side."""
    tracer = Tracer(scene)

    def trace(directions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return distance, what was hit, colour, normal and shadow of each ray (P, 3)."""
        # One block fits the cache of a core; a larger picture does not.
        found = []
        for start in range(0, len(directions), BLOCK_RAYS):
            block = directions[start : start + BLOCK_RAYS]
            distance, what = tracer.hit(block)
            found.append((distance, what, *tracer.colours(block, distance, what)))
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    row, column = np.divmod(np.arange(size * size), size)
    directions = rays(column + 0.5, row + 0.5, size, scene.pitch)
    distance, what, colour, normal, shadow = trace(directions)

    edge = _edges((2 * what + shadow).reshape(size, size))
    inner = np.array([0.25, 0.75])
    columns = (column[edge, None, None] + inner[None, :, None] + np.zeros((1, 1, 2))).ravel()
    rows = (row[edge, None, None] + inner[None, None, :] + np.zeros((1, 2, 1))).ravel()
    finer = rays(columns, rows, size, scene.pitch)
    if len(edge):
        colour[edge] = trace(finer)[2].reshape(-1, 4, 3).mean(axis=1)

    rgb = np.rint(colour * 255.0).astype(np.uint8).reshape(size, size, 3)
    depth = distance.astype(np.float32).reshape(size, size)
    seen = normal @ camera_axes(scene.pitch)
    seen[what == SKY] = 0.0, 0.0, 1.0
    parts = len(scene.centres) if scene.subject_parts is None else scene.subject_parts
    subject = ((what >= 0) & (what < parts)).reshape(size, size)
    return Rendering(rgb, depth, seen.astype(np.float32).reshape(size, size, 3), subject)
