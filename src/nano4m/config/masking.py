"""The masking section of the configuration: a mixture of strategies and their settings."""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, Section, Share
from nano4m.errors import nearest

Weight = Annotated[float, Range(1e-6, 1e6, or_zero=True)]
Alpha = Annotated[float, Range(1e-3, 1e4)]
Tokens = Annotated[int, Range(0, 10**6)]
SomeTokens = Annotated[int, Range(1, 10**6)]
Order = Literal["random", "spread", "raster"]

STRATEGY_NAMES = (
    "any_to_any",
    "dirichlet",
    "span",
    "reference_span",
    "inference_aligned",
    "suffix",
    "infill",
)
"""The strategies; each is a field that holds its weight."""


def default_num_inputs_weights(modalities: int) -> tuple[float, ...]:
    """Return the weights of 0, 1, 2, ... sources: mostly one, all others at once too.

    Two fifths go to two sources or more. With up to five modalities the weights are those of five:
    numbers that leave no target are not drawn. With more, all others at once get a larger share,
    as each target is drawn less often, and all of many sources are less often whole.
    """
    if modalities <= 5:
        return (0.08, 0.52, 0.2, 0.1, 0.1)
    every = round(min(0.3, 0.1 * modalities / 5 / 0.85 ** (modalities - 5)), 4)
    rest = 0.4 - every
    between = [round(rest / 2 / (modalities - 4), 4)] * (modalities - 4)
    return (0.08, 0.52, round(rest / 2, 4), *between, every)


class MaskingConfig(Section):
    """Which tokens are inputs and which are targets, as a mixture of strategies."""

    any_to_any: Weight = Field(
        0.45, description="Weight of: each modality is input, target, split or left out."
    )
    dirichlet: Weight = Field(
        0.05, description="Weight of: 4M's random budgets over all modalities."
    )
    span: Weight = Field(
        0.0, description="Weight of: dirichlet budgets, sounds in runs of frames in any order."
    )
    reference_span: Weight = Field(
        0.0, description="Weight of: dirichlet budgets, one input run of frames, then a target run."
    )
    inference_aligned: Weight = Field(
        0.4, description="Weight of: inputs and targets of a random step of the sampler."
    )
    suffix: Weight = Field(0.06, description="Weight of: a first part is input, the rest target.")
    infill: Weight = Field(0.04, description="Weight of: a gap is target, both sides are input.")
    end_weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="Weights at the last step, by strategy; linear in between, others constant.",
    )
    group_size: BatchSize = Field(
        16, description="Samples that share one strategy and its token totals."
    )
    paired_totals: bool = Field(
        False,
        description="Groups of dirichlet and the spans come in pairs whose totals sum to minimum "
        "plus maximum: each total stays uniform, and all steps have equally many tokens.",
    )

    alphas: tuple[Alpha, ...] = Field(
        (0.1, 1.0, 10.0), description="Dirichlet concentrations; each sample draws one."
    )
    input_alphas: dict[str, Alpha] = Field(
        default_factory=dict, description="Factor on alpha by modality, for inputs; others 1."
    )
    target_alphas: dict[str, Alpha] = Field(
        default_factory=dict, description="Factor on alpha by modality, for targets; others 1."
    )
    min_inputs: Tokens = Field(1, description="Fewest input tokens of dirichlet and the spans.")
    max_inputs: Annotated[int | None, Range(1, 10**6)] = Field(
        None, description="Most input tokens of dirichlet and the spans; none: no limit."
    )
    min_targets: SomeTokens = Field(
        1, description="Fewest target tokens of dirichlet and the spans."
    )
    max_targets: Annotated[int | None, Range(1, 10**6)] = Field(
        None, description="Most target tokens of dirichlet and the spans; none: no limit."
    )
    input_limits: dict[str, tuple[Tokens, Tokens]] = Field(
        default_factory=dict, description="Fewest and most input tokens by modality, as above."
    )
    target_limits: dict[str, tuple[Tokens, Tokens]] = Field(
        default_factory=dict, description="Fewest and most target tokens by modality, as above."
    )
    max_spans: SomeTokens = Field(3, description="Most input runs and most target runs, of span.")
    no_audio_input_prob: Share = Field(
        0.3, description="Share of samples of span without sound inputs."
    )

    num_inputs_weights: tuple[Weight, ...] | None = Field(
        None,
        description="How often 0, 1, 2, ... modalities are sources (any_to_any, "
        "inference_aligned); numbers that leave no target are not drawn. none: chosen for the "
        "number of modalities, so that all others at once are sources too.",
    )
    whole_input: Share = Field(
        0.85, description="Share of sources whose tokens are all inputs, of any_to_any."
    )
    target_share: Share = Field(0.7, description="Share of the other modalities that are targets.")
    all_targets_whole: Share = Field(
        0.2, description="Share of groups whose targets are all whole."
    )
    whole_target: Share = Field(
        0.15, description="Share of the other targets that are whole; the rest are partly input."
    )
    next_token: Share = Field(
        1.0,
        description="Share of text targets that are the next token alone, as in generation, of all "
        "strategies but reference_span; the others are all remaining tokens.",
    )
    prefixes: Annotated[int | None, Range(1, 1024)] = Field(
        None,
        description="Rows of a batch that a clip fills where the next token of its text is asked "
        "for, each with another prefix; none: one for every four tokens, at most four.",
    )

    decode_steps: tuple[SomeTokens, SomeTokens] = Field(
        (4, 16), description="Fewest and most sampling steps, of inference_aligned."
    )
    decode_orders: tuple[Order, ...] | None = Field(
        None,
        description="Which tokens of a modality are known first in a partly decoded one: random, "
        "spread (Halton) or raster; each group draws one. none: as the run generates.",
    )
    codebooks: Literal["levels", "together"] | None = Field(
        None,
        description="Residual codebooks are targets coarse to fine, each with the earlier ones "
        "known, or all at once. none: as the run generates.",
    )
    levels_together: Share = Field(
        0.02,
        description="Share of the targets by levels that have all codebooks at once, as retrieval "
        "rates them.",
    )
    other_input_prob: Share = Field(
        0.5, description="How often each other modality is input, of suffix and infill."
    )

    def weights(self, progress: float) -> list[float]:
        """Return the weight of each of STRATEGY_NAMES at ``progress`` in [0, 1]."""
        start = [float(getattr(self, name)) for name in STRATEGY_NAMES]
        end = [self.end_weights.get(n, w) for n, w in zip(STRATEGY_NAMES, start, strict=True)]
        return [a + (b - a) * progress for a, b in zip(start, end, strict=True)]

    def uses(self, *names: str) -> bool:
        """Return whether one of these strategies has a weight at some step."""
        both = zip(STRATEGY_NAMES, self.weights(0.0), self.weights(1.0), strict=True)
        return any(name in names and start + end > 0 for name, start, end in both)

    def untrained(self, modalities: int) -> str:
        """Return what these masks never train and every evaluation asks, as a sentence, or "".

        Only the strategies that take whole modalities as sources train one from all others.
        """
        weights = self.weights_of_num_inputs(modalities)
        takes_whole = self.uses("any_to_any", "inference_aligned")
        if takes_whole and any(weights[modalities - 1 : modalities]):
            return ""
        return (
            "these masks never train a modality from all others, which the evaluation asks for "
            f"(masking.num_inputs_weights {weights}, any_to_any {self.any_to_any}, "
            f"inference_aligned {self.inference_aligned})"
        )

    @property
    def orders(self) -> tuple[Order, ...]:
        """The decoding orders; random if they were not filled in."""
        return self.decode_orders or ("random",)

    def prefixes_of(self, tokens: int) -> int:
        """Return how many prefixes of a text of some tokens a group asks for at most."""
        return self.prefixes or min(4, max(1, round(tokens / 4)))

    def as_generated(self, orders: Collection[str], levels: bool) -> "MaskingConfig":
        """Return the settings with ``decode_orders`` and ``codebooks`` filled in.

        Args:
            orders: Decoding orders of generation, see ``Sampling.order``.
            levels: Whether generation decodes codebooks coarse to fine.
        """
        same: dict[str, Order] = {"halton": "spread", "raster": "raster"}
        found = tuple(sorted({same.get(order, "random") for order in orders}))
        return self.model_copy(
            update={
                "decode_orders": self.decode_orders or found or ("random",),
                "codebooks": self.codebooks or ("levels" if levels else "together"),
            }
        )

    @property
    def totals_repeat(self) -> bool:
        """Whether all steps of whole pairs of groups have equally many inputs and targets."""
        own = {"dirichlet", "span", "reference_span"}
        others = [name for name in STRATEGY_NAMES if name not in own]
        limits = self.max_inputs is not None and self.max_targets is not None
        return self.paired_totals and limits and not self.uses(*others)

    @property
    def drops_all(self) -> bool:
        """Whether some samples have no inputs; classifier-free guidance needs them."""
        without = self.weights_of_num_inputs(0)[0] > 0
        return without and self.uses("any_to_any", "inference_aligned")

    def weights_of_num_inputs(self, modalities: int) -> tuple[float, ...]:
        """Return how often 0, 1, 2, ... of some modalities are sources."""
        if self.num_inputs_weights is not None:
            return self.num_inputs_weights
        return default_num_inputs_weights(modalities)

    @field_validator("decode_orders", mode="before")
    @classmethod
    def _old_order(cls, value: Any) -> Any:
        """Read the order "coarse" of before, which ``codebooks`` now says."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(dict.fromkeys("random" if order == "coarse" else order for order in value))

    @model_validator(mode="after")
    def _some_strategy(self) -> "MaskingConfig":
        for name in self.end_weights:
            if name not in STRATEGY_NAMES:
                raise ValueError(f"end_weights.{name}: {nearest(name, STRATEGY_NAMES)}")
        for when, progress in (("", 0.0), (" at the end", 1.0)):
            if sum(self.weights(progress)) <= 0:
                raise ValueError(
                    f"every strategy has weight 0{when}; "
                    f"give one of {', '.join(STRATEGY_NAMES)} a weight"
                )
        return self

    @model_validator(mode="after")
    def _draws_are_possible(self) -> "MaskingConfig":
        if not self.alphas or self.decode_orders == ():
            field = "decode_orders" if self.alphas else "alphas"
            raise ValueError(f"{field} is empty; give at least one")
        if sum(self.weights_of_num_inputs(0)) <= 0:
            raise ValueError(
                f"num_inputs_weights {self.num_inputs_weights}: "
                "every number of sources has weight 0"
            )
        for field in ("input_limits", "target_limits"):
            for name, (low, high) in getattr(self, field).items():
                if not 0 <= low <= high:
                    raise ValueError(
                        f"{field}.{name} {low} {high}: fewest and most, 0 <= fewest <= most"
                    )
        low, high = self.decode_steps
        if not 1 <= low <= high:
            raise ValueError(f"decode_steps {low} {high}: fewest and most, 1 <= fewest <= most")
        for what in ("inputs", "targets"):
            fewest, most = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if most is not None and fewest > most:
                raise ValueError(f"min_{what} {fewest} is above max_{what} {most}")
        return self
