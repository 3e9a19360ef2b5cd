"""What differs from clip to clip of the farm and is told in columns: the factors of an instance.

Each is drawn on its own, so no factor tells another one; the coat alone hints at the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

Colour = tuple[float, float, float]

SIZES = (0.8, 1.25)
"""Least and largest body size in metres: the larger one of height and length."""
DISTANCES = (3.4, 3.9)
"""Metres from the camera. Nearer, the largest animals would not fit into the picture; farther, the
smallest are too few pixels for a small tokenizer."""
YAWS = (-20.0, 20.0)
"""Degrees by which an animal turns from the side; straight from the front or from behind, some
classes look alike."""
SNRS = (15.0, 30.0)
"""Level of the voice above the background, in dB."""

BLACK, GREY, WHITE = (0.13, 0.12, 0.13), (0.52, 0.53, 0.55), (0.94, 0.93, 0.9)
BROWN, GINGER, GOLD = (0.36, 0.21, 0.11), (0.72, 0.32, 0.1), (0.9, 0.68, 0.2)
PINK, BLUE = (0.94, 0.58, 0.6), (0.3, 0.42, 0.66)

COATS: dict[str, tuple[Colour, tuple[Colour, ...]]] = {
    "black": (BLACK, (GREY, WHITE, GINGER)),
    "grey": (GREY, (WHITE, BLACK, BROWN)),
    "white": (WHITE, (BLACK, BROWN, GREY)),
    "brown": (BROWN, (WHITE, GOLD, GREY)),
    "ginger": (GINGER, (WHITE, BLACK, GOLD)),
    "golden": (GOLD, (WHITE, BROWN, BLACK)),
    "pink": (PINK, (WHITE, BLACK, GREY)),
    "blue": (BLUE, (WHITE, BLACK, GREY)),
}
"""Name -> colour and second colours to choose from. Every class has all of them."""
USUAL = 0.8
"""Share of a class's clips that have its usual coat; the others have any coat, equally often. So a
colour hints at the class, as it does in films, and does not give it away."""


def tint(colour: Colour, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Return a colour (3,) near ``colour``."""
    shade = 1.0 + spread * (rng.uniform(-1, 1) + 0.5 * rng.uniform(-1, 1, 3))
    return np.clip(np.array(colour) * shade, 0.02, 0.98)


def middle(low: float, high: float) -> float:
    """Return the geometric middle, on either side of which half of the clips are."""
    return float(np.sqrt(low * high))


@dataclass(frozen=True, kw_only=True)
class Factors:
    """The factors of one clip.

    Attributes:
        size: Metres, log-uniform in SIZES; enlarges the body, lowers pitch and formants.
        distance: Metres, log-uniform in DISTANCES; shrinks the picture, lowers the level.
        heading: Degrees in [0, 360), where the animal faces, seen from above: 0 is to the right of
            the picture, 90 away from the camera, 180 to the left. Uniform within YAWS of either
            side.
        coat: Name of the coat's colour, a key of COATS.
        colour: The coat itself, near the colour of that name.
        snr: Level of the voice above the background in dB, uniform in SNRS.
    """

    size: float
    distance: float
    heading: float
    coat: str
    colour: Colour
    snr: float

    @classmethod
    def draw(cls, usual: str, rng: np.random.Generator) -> Self:
        """Return random factors of a class whose usual coat is ``usual``, a key of COATS."""
        size = float(np.exp(rng.uniform(*np.log(SIZES))))
        distance = float(np.exp(rng.uniform(*np.log(DISTANCES))))
        heading = float((180 * rng.integers(2) + rng.uniform(*YAWS)) % 360)
        any_coat, is_usual = list(COATS)[rng.integers(len(COATS))], rng.random() < USUAL
        coat = usual if is_usual else any_coat
        red, green, blue = tint(COATS[coat][0], 0.12, rng).tolist()
        snr = float(rng.uniform(*SNRS))
        return cls(
            size=size,
            distance=distance,
            heading=heading,
            coat=coat,
            colour=(red, green, blue),
            snr=snr,
        )

    def measures(self) -> dict[str, float]:
        """Return the columns of the clips table: name -> number."""
        angle = np.deg2rad(self.heading)
        red, green, blue = self.colour
        return {
            "size_m": self.size,
            "distance_m": self.distance,
            "heading_degrees": self.heading,
            "heading_cos": float(np.cos(angle)),
            "heading_sin": float(np.sin(angle)),
            "coat": float(list(COATS).index(self.coat)),
            "coat_red": red,
            "coat_green": green,
            "coat_blue": blue,
            "snr_db": self.snr,
        }

    @classmethod
    def of(cls, measures: Mapping[str, float]) -> Self:
        """Return the factors with these ``measures``; the one inverse of the other."""
        return cls(
            size=measures["size_m"],
            distance=measures["distance_m"],
            heading=measures["heading_degrees"],
            coat=list(COATS)[int(measures["coat"])],
            colour=(measures["coat_red"], measures["coat_green"], measures["coat_blue"]),
            snr=measures["snr_db"],
        )
