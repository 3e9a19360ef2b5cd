"""The configuration of a run: frozen, validated, the same object for every stage.

Every field is an option of the command line (``--clips.window-seconds 2``), its description is the
help text, an unknown field is an error. Presets are objects of this type, in ``presets.py``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nano4m.config.clips import ClipsConfig
from nano4m.config.compatibility import with_new_names
from nano4m.config.datasets import FREE_TEXT, DatasetConfig, FarmDataset
from nano4m.config.generation import GenerateConfig
from nano4m.config.masking import MaskingConfig, default_num_inputs_weights
from nano4m.config.model import ModelConfig
from nano4m.config.numbers import Range
from nano4m.config.section import Section, Seed, Steps, Workers
from nano4m.config.tokenizers import Bpe, TokenizerConfig
from nano4m.config.training import TrainConfig
from nano4m.modalities import MODALITIES


class EvaluateConfig(Section):
    """Probes, each with chance, majority, controls, round trip, n and an interval."""

    split: Literal["val", "test"] = Field("test", description="Split that is evaluated.")
    clips: Annotated[int, Range(2, 10**7)] = Field(220, description="Most clips of a probe.")
    classifier_steps: Steps = Field(
        400, description="Training steps of each classifier, on real media."
    )
    caption_predictions: Annotated[int, Range(1, 10**9)] = Field(
        100_000,
        description="Most rows of forward passes of a classification by caption; one that needs "
        "more is left out.",
    )
    workers: Workers = Field(
        "auto",
        description="Processes of one thread each; 0 works in this one, with the same results; "
        "auto: one a core, at most 16.",
    )


class ReportConfig(Section):
    """The report page."""

    samples: Annotated[int, Range(1, 1024)] = Field(
        11, description="Clips shown; one a class first."
    )


class Config(Section):
    """One run of nano4M-Audio, from clips to report."""

    preset: str = Field("farm", description="Name of the preset that this is based on.")
    seed: Seed = Field(0, description="Random seed of every stage.")
    device: str = Field(
        "auto",
        description="Where every stage computes: cpu, cuda, cuda:N or mps (untested); auto: the "
        "GPU if there is one.",
    )
    broken_tokenizers: Literal["refuse", "accept"] = Field(
        "refuse",
        description="What tokenizers, table and train do with a tokenizer whose round trip of real "
        "media is silence, one colour, no numbers or another clip's, or whose ids do not fit.",
    )
    dataset: DatasetConfig = FarmDataset()
    clips: ClipsConfig = ClipsConfig()
    tokenizers: dict[str, TokenizerConfig] = Field(
        default_factory=dict, description="One a modality; the modalities of the run, in order."
    )
    masking: MaskingConfig = MaskingConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("device")
    @classmethod
    def _is_a_device(cls, name: str) -> str:
        kind, _, number = name.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (
            ":" in name and not (kind == "cuda" and number.isdigit())
        ):
            raise ValueError("allowed are auto, cpu, cuda, cuda:N and mps")
        return name

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, given: Any) -> Any:
        return with_new_names(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _follows_from_the_modalities(self) -> "Config":
        if self.masking.num_inputs_weights is None:
            weights = default_num_inputs_weights(len(self.tokenizers))
            masking = self.masking.model_copy(update={"num_inputs_weights": weights})
            # Sections are filled in here and below only; nobody has read the configuration yet.
            object.__setattr__(self, "masking", masking)
        return self

    @model_validator(mode="after")
    def _has_room_for_captions(self) -> "Config":
        if isinstance(self.dataset, FarmDataset) and self.dataset.captions == "free":
            roomy = {
                name: section.model_copy(
                    update={key: max(getattr(section, key), n) for key, n in FREE_TEXT.items()}
                )
                if isinstance(section, Bpe)
                else section
                for name, section in self.tokenizers.items()
            }
            object.__setattr__(self, "tokenizers", roomy)
        return self

    @property
    def masks(self) -> MaskingConfig:
        """The masking section with the decoding orders and codebooks of ``generate`` filled in."""
        drawn = [n for n, section in self.tokenizers.items() if section.layout != "text"]
        settings = [self.generate.for_modality(name) for name in drawn]
        coded = [n for n in drawn if self.tokenizers[n].layout == "codebooks"]
        coarse_first = [self.generate.for_modality(n).codebooks == "levels" for n in coded]
        levels = any(coarse_first) or not coded
        return self.masking.as_generated({own.order for own in settings}, levels)

    @model_validator(mode="after")
    def _belongs_together(self) -> "Config":
        unknown = sorted(set(self.tokenizers) - set(MODALITIES))
        if unknown:
            raise ValueError(
                f"tokenizers of unknown modalities {unknown}; known: {list(MODALITIES)}"
            )
        for name, section in self.tokenizers.items():
            if section.layout != MODALITIES[name].layout:
                raise ValueError(
                    f"tokenizers.{name}.kind {section.kind} makes tokens of the layout "
                    f"{section.layout!r}, and {name} has {MODALITIES[name].layout!r}"
                )
        if len(self.tokenizers) < 2:
            raise ValueError("an any-to-any model needs at least two modalities under tokenizers")
        if self.train.batch_size % self.masking.group_size:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} is not a multiple of "
                f"masking.group_size {self.masking.group_size}"
            )
        groups = self.train.batch_size // self.masking.group_size
        if groups % self.train.accumulate:
            raise ValueError(
                f"train.accumulate {self.train.accumulate} does not divide the {groups} groups of "
                f"a step (train.batch_size over masking.group_size)"
            )
        if self.train.init_from_codebook and self.model.tables == "shared":
            raise ValueError(
                "train.init_from_codebook starts the table of each modality, and with model.tables "
                "shared there is one for all; add --train.no-init-from-codebook"
            )
        guided = [self.generate.for_modality(name).guidance for name in self.tokenizers]
        if any(g != 1 for g in guided) and not self.masking.drops_all:
            raise ValueError(
                "generate.guidance needs predictions without inputs, and this masking never "
                "trains them; add --generate.guidance 1, or give masking.any_to_any and the first "
                "of masking.num_inputs_weights a weight"
            )
        for name, tokenizer in self.tokenizers.items():
            try:
                tokenizer.check_clips(self.clips)
            except ValueError as error:
                raise ValueError(f"tokenizers.{name}.{error}") from None
        return self
