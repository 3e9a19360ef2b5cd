"""Captions of the farm: short ones, and free ones in many wordings, all true of their clip."""

from itertools import combinations

import numpy as np

from nano4m.data.sources.farm_animals import ANIMALS
from nano4m.data.sources.farm_factors import DISTANCES, SIZES, Factors, middle

FACTORS = ("size", "coat", "distance", "heading")
MENTIONED = [frozenset(own) for n in (2, 3, 4) for own in combinations(FACTORS, n)]
"""What a free caption may tell: two of the factors, three or all, each choice as often."""

SIZE_WORDS = (("small", "little"), ("large", "big"))
"""Of the lower and of the upper half of SIZES."""
DISTANCE_WORDS = (
    ("nearby", "close by", "close to us", "close to the camera", "not far off"),
    ("far away", "in the distance", "a long way off", "far from us", "far from the camera"),
)
"""Of the lower and of the upper half of DISTANCES."""
NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}
TURNED = 30.0
"""Degrees from the side, from which an animal is said to be turned to the camera or away."""

# s: the animal with its adjectives; g, v: its voice (meowing, meows); d: where; h: which way.
FRAMES = {
    frozenset({"distance", "heading"}): (
        "{s} {g} {d}, {h}",
        "{s}, {h}, {v} {d}",
        "{d}, {s} {v}, {h}",
        "there is {s} {g} {d}; it is {h}",
        "{s} is {g} {d} while {h}",
        "{h}, {s} {v} {d}",
        "we see and hear {s} {d}, {h} and {g}",
        "{s} that is {h} {v} {d}",
    ),
    frozenset({"distance"}): (
        "there is {s} {d}, and it is {g}",
        "{d}, {s} can be heard {g}",
        "this is {s} that is {g} {d}",
        "the sound of {s} {g} {d}",
        "you can hear {s} {g} {d}",
    ),
    frozenset({"heading"}): (
        "there is {s} {h}, and it is {g}",
        "{h}, {s} can be heard {g}",
        "this is {s} {h} and {g}",
        "{s} that is {h} is {g}",
        "{s} keeps {g} while {h}",
    ),
    frozenset(): (
        "here is {s} that is {g}",
        "{s} can be seen and heard {g}",
        "the {g} comes from {s}",
        "you can see {s} that is {g}",
    ),
}
"""Sentences for what is told beside the adjectives."""


def short_caption(label: str, factors: Factors) -> str:
    """Return "small cat meowing": the half of its sizes, class and voice."""
    return f"{SIZE_WORDS[_is_upper(factors.size, SIZES)][0]} {ANIMALS[label].phrase}"


def free_caption(label: str, factors: Factors, rng: np.random.Generator) -> str:
    """Return a sentence that tells class, voice and some of FACTORS, in words drawn by ``rng``."""

    def one_of(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    told = MENTIONED[rng.integers(len(MENTIONED))]
    size = one_of(SIZE_WORDS[_is_upper(factors.size, SIZES)])
    adjectives = [word for name, word in (("size", size), ("coat", factors.coat)) if name in told]
    voice = ANIMALS[label].phrase.removeprefix(f"{label} ")
    return one_of(FRAMES[told & {"distance", "heading"}]).format(
        s=" ".join(["a", *adjectives, label]),
        g=voice,
        v=f"{voice.removesuffix('ing')}s",
        d=one_of(_distance_words(factors.distance)),
        h=one_of(_heading_words(factors.heading)),
    )


def _is_upper(value: float, limits: tuple[float, float]) -> bool:
    return value >= middle(*limits)


def _distance_words(distance: float) -> tuple[str, ...]:
    number = NUMBERS[round(distance)]
    measured = (f"about {number} metres away", f"roughly {number} metres off")
    return DISTANCE_WORDS[_is_upper(distance, DISTANCES)] + measured


def _heading_words(heading: float) -> tuple[str, ...]:
    angle = np.deg2rad(heading)
    side = "right" if np.cos(angle) > 0 else "left"
    words: tuple[str, ...] = (f"facing {side}", f"looking to the {side}", f"turned to the {side}")
    if abs(np.sin(angle)) >= np.sin(np.deg2rad(TURNED)):
        where = "away from" if np.sin(angle) > 0 else "towards"
        words += (
            f"half turned {where} us",
            f"facing {side} and {where} us",
            f"turned {where} the camera",
        )
    return words
