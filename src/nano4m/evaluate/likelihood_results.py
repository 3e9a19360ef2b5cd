"""The parts of ``results.json`` that come from likelihoods, with their counting baselines."""

from pydantic import Field

from nano4m.evaluate.results_part import CLUSTERS, EFFECTIVE, Part


class Baseline(Part):
    """A counting baseline on the tokens of one figure, in nats a token."""

    value: float
    used: str = Field(
        description="The distribution that it is of: its own name, or uniform where counting came "
        "out worse than that on these tokens."
    )


class CrossEntropy(Part):
    """Cross-entropy of one modality in nats a token, on fixed clips."""

    modality: str
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(
        description="Train frequencies of each position and codebook; never above uniform."
    )
    bigram: float = Field(
        description="Train frequencies of each position and codebook given the true previous "
        "token; never above uniform."
    )
    baselines: dict[str, dict[str, Baseline]] = Field(
        default_factory=dict,
        description="By condition and name: the counting baselines that are given what the model "
        "is given there, and no more. Nothing: uniform and unigram. Half of itself: bigram, where "
        "the previous token is an input, else unigram. The caption: unigram of the clip's class. "
        "A text has its earlier tokens everywhere, so its baselines are uniform and bigram.",
    )
    conditions: dict[str, float] = Field(
        description="By inputs: nothing, half of itself (the targets are the other half; of a text "
        "the second half), each other modality alone, all others, shuffled others."
    )
    clips: dict[str, int] = Field(
        default_factory=dict,
        description="Number of clips by condition: those that have the modality and its inputs, of "
        "several inputs any.",
    )
    tokens: int = Field(description="Number of target tokens.")
    unit: str = Field(description="Unit of the bits: a picture, a second or a text.")
    bits: dict[str, float] = Field(
        description="Bits a unit, comparable across vocabularies: uniform, unigram, bigram and the "
        "conditions whose targets are all tokens."
    )


class Continuation(Part):
    """Nats a token of the second half of a sound or text, given its first half only."""

    modality: str
    value: float = Field(
        description="By the chain rule: each frame (of a text each token) given all earlier ones."
    )
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    at_once: float = Field(
        description="Second half predicted at once, several codebooks level by level; of a text "
        "equal to value."
    )
    n: int = Field(description="Number of clips.")
    clusters: int | None = CLUSTERS
    effective: float | None = EFFECTIVE
    tokens: int = Field(description="Number of target tokens.")
    uniform: float = Field(description="ln of the ids that a position may hold.")
    unigram: float = Field(description="Of the same tokens, see CrossEntropy.")
    bigram: float = Field(
        description="Of the same tokens, given the true previous token, as for value."
    )
    baselines: dict[str, dict[str, Baseline]] = Field(
        default_factory=dict,
        description="By figure and name, those that are given the same. Value: uniform and bigram. "
        "At once (not for texts): uniform and unigram.",
    )
    controls: dict[str, float] = Field(
        description="As at_once, given another clip's first half (shuffled), or none (nothing; not "
        "for texts)."
    )
