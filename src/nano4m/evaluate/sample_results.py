"""The parts of ``results.json`` about generated sequences as such: diversity and memorisation."""

from pydantic import Field

from nano4m.evaluate.results_part import Part


class Spread(Part):
    """Diversity of a set of token sequences of one modality."""

    entropy: float = Field(description="Entropy of the tokens at all positions, in nats.")
    distinct_sequences: float = Field(description="Distinct sequences over sequences.")
    distinct_tokens: float = Field(description="Ids in use over the vocabulary.")
    within: float | None = Field(
        None, description="Mean share of tokens in which two sequences of one class differ."
    )
    between: float | None = Field(None, description="The same for different classes.")


class Diversity(Part):
    """Diversity of generated and of as many real clips: a collapsed sampler has less."""

    generated: Spread
    real: Spread


class ClosestPair(Part):
    """A generated sequence and the train sequence that it is nearest to."""

    clip_id: str = Field(description="The evaluated clip that it was generated for.")
    source: str = Field(description="The modality that it was generated from.")
    train_clip_id: str
    train_view: int = Field(description="View of the train clip, as in the token table.")
    equal: float = Field(description="Share of slots whose tokens are equal.")


class Memorization(Part):
    """Share of generated sequences that are nearer to the train split than the real clip is.

    About one half if samples are as new as the evaluated clips, near one if they are copies.
    """

    source: str | None = Field(None, description="Null: all sources together.")
    target: str
    is_text: bool = Field(
        description="Captions that come from few templates are equal to train captions, real ones "
        "too: expected."
    )
    value: float = Field(description="Ties count half.")
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")
    n: int = Field(description="Number of generated sequences.")
    clusters: int = Field(description="Clusters of clips that the interval is over.")
    effective: float = Field(description="Independent clips that would be as informative.")
    made_equal: float = Field(
        description="Median share of tokens that a generated sequence has in common, at equal "
        "slots, with its nearest train sequence."
    )
    real_equal: float = Field(description="The same of the real sequences of the clips.")
    closest: list[ClosestPair] = Field(description="The closest pairs, each of another clip.")
