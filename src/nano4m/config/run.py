"""The configuration of a run: frozen, validated, the same object for every stage.

Every field is an option of the command line (``--clips.window-seconds 2``), its description is the
help text, an unknown field is an error. Presets are objects of this type, in ``presets.py``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nano4m.config.generation import GenerateConfig as GenerateConfig
from nano4m.config.masking import MaskingConfig as MaskingConfig
from nano4m.config.model import ModelConfig as ModelConfig
from nano4m.config.section import Positive, Section, Share
from nano4m.config.stored import with_new_names
from nano4m.modalities import MODALITIES

Workers = Annotated[int, Field(ge=0)] | Literal["auto"]
"""A number of processes; ``workers.count_workers`` says what auto is."""

# -- sources -----------------------------------------------------------------------------------


class FarmDataset(Section):
    """Eleven toy animals, ray-traced and voiced on the fly; nothing to download."""

    name: Literal["farm"] = "farm"
    train: Positive = Field(3000, description="Clips to train on.")
    val: Positive = Field(220, description="Clips to validate on.")
    test: Positive = Field(330, description="Clips that only the probes see.")
    picture_size: Annotated[int, Field(ge=16, le=512)] = Field(64, description="Pixels a side.")
    seconds: Annotated[float, Field(gt=0.2, le=10)] = Field(1.024, description="Length of a sound.")


class DigitsDataset(Section):
    """Spoken digits (Free Spoken Digit Dataset, under --data), scikit-learn's handwritten ones."""

    name: Literal["digits"] = "digits"
    picture_size: Annotated[int, Field(ge=8, le=128)] = Field(32, description="Pixels a side.")
    pictures_per_sound: Positive = Field(
        8, description="Pictures of its class a recording is paired with."
    )
    val_takes: tuple[int, int] = Field(
        (5, 9), description="First and last take of the validation split."
    )


class FolderDataset(Section):
    """A folder of videos, of sounds and pictures by class, or with a pairs.csv (--data)."""

    name: Literal["folder"] = "folder"
    val_share: Share = Field(0.15, description="Share of recordings for validation, by class.")
    test_share: Share = Field(0.0, description="Share of recordings for the test split, by class.")
    pictures_per_sound: Positive = Field(
        4, description="Pictures of its class a sound is paired with."
    )
    min_per_class: Positive = Field(
        5, description="A class with fewer recordings is left out, said so."
    )


DatasetConfig = Annotated[FarmDataset | DigitsDataset | FolderDataset, Field(discriminator="name")]


# -- media to ids ------------------------------------------------------------------------------


class ClipsConfig(Section):
    """Cutting: one sound window, keyframes inside it, one crop for all pictures of a frame."""

    window_seconds: Annotated[float, Field(gt=0.1, le=30)] = Field(
        1.024, description="Sound window."
    )
    sample_rate: Literal[16000, 22050, 24000, 44100, 48000] = Field(24000, description="In Hz.")
    frames: Positive = Field(1, description="Keyframes a clip, evenly spaced inside the window.")
    picture_size: Annotated[int, Field(ge=8, le=512)] = Field(
        64, description="Pixels after the crop."
    )
    window: Literal["loudest", "start", "centre"] = Field(
        "loudest", description="Which part of a longer recording is kept; shorter ones are padded."
    )
    target_rms_db: float | None = Field(
        None,
        description="RMS level that every window is set to, in dB of full scale; none: untouched.",
    )
    min_seconds: Annotated[float, Field(ge=0)] = Field(
        0.05, description="A recording shorter than this is not kept."
    )
    silence_db: float = Field(-60.0, description="A window quieter than this is not kept.")
    depth_near: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Distance in metres that is stored as 1 (inverse depth, 0 is infinity)."
    )
    workers: Workers = Field(
        "auto", description="Processes; 0 works in this one; auto: one a core, at most 16."
    )


class ImageVQ(Section):
    """Small convolutional VQ or FSQ autoencoder for pictures, depth and normals."""

    kind: Literal["image_vq"] = "image_vq"
    grid: Annotated[int, Field(ge=1, le=64)] = Field(4, description="Tokens a side.")
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Codebook size.")
    quantizer: Literal["vq", "fsq"] = Field("vq", description="Learnt codebook (EMA), or FSQ.")
    width: Positive = Field(48, description="Channels of the widest layer.")
    code_dim: Positive = Field(16, description="Width of a code; FSQ ignores it.")
    steps: Positive = Field(500, description="Training steps.")
    batch_size: Positive = Field(64, description="Pictures a step.")
    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="Peak of the one-cycle schedule.")


class MelVQ(Section):
    """Log-mel spectrogram, convolutional VQ over time, and Griffin-Lim back to a waveform."""

    kind: Literal["mel_vq"] = "mel_vq"
    n_fft: Positive = Field(1024, description="Samples of the Hann window.")
    hop: Positive = Field(256, description="Samples between frames.")
    mels: Positive = Field(64, description="Mel bands.")
    downsample: Literal[1, 2, 4, 8, 16] = Field(4, description="Frames a token.")
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Size of each codebook.")
    codebooks: Annotated[int, Field(ge=1, le=8)] = Field(1, description="Residual codebooks.")
    width: Positive = Field(128, description="Channels.")
    code_dim: Positive = Field(32, description="Width of a code.")
    steps: Positive = Field(500, description="Training steps.")
    batch_size: Positive = Field(64, description="Windows a step.")
    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="Peak of the one-cycle schedule.")
    griffin_lim: Positive = Field(32, description="Iterations of phase reconstruction.")
    augmentations: Positive = Field(
        1,
        description="Tokenised versions of a training sound: 1 is as recorded, each further one is "
        "shifted and scaled in level at random.",
    )
    shift_seconds: Annotated[float, Field(ge=0)] = Field(
        0.1, description="Largest shift of a view."
    )
    gain_db: Annotated[float, Field(ge=0)] = Field(
        6.0, description="Largest change of level of a view."
    )


class Bpe(Section):
    """Byte-pair encoding learnt on the captions of the train split, word by word, no padding."""

    kind: Literal["bpe"] = "bpe"
    vocab: Annotated[int, Field(ge=2, le=65536)] = Field(512, description="Largest vocabulary.")
    max_length: Positive = Field(16, description="Longest caption in tokens, its end included.")


TokenizerConfig = Annotated[ImageVQ | MelVQ | Bpe, Field(discriminator="kind")]


# -- ids to ids --------------------------------------------------------------------------------


Switch = Literal["auto", "on", "off"]


class TrainConfig(Section):
    """Optimisation of the transformer."""

    @field_validator("compile", mode="before")
    @classmethod
    def _was_a_flag(cls, given: Any) -> Any:
        return {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given

    steps: Positive = Field(1200, description="Optimizer steps.")
    batch_size: Positive = Field(
        64, description="Samples a step; a multiple of masking.group_size."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="Muon for the matrices between hidden states and AdamW for the rest, or AdamW.",
    )
    lr: Annotated[float, Field(gt=0)] = Field(3e-3, description="Peak learning rate.")
    min_lr: Annotated[float, Field(ge=0)] = Field(3e-5, description="Learning rate at the end.")
    warmup: Annotated[int, Field(ge=0)] = Field(30, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.05, description="On matrices only.")
    beta2: Annotated[float, Field(gt=0, lt=1)] = Field(0.95, description="AdamW's second moment.")
    clip_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="Largest gradient norm.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.995, description="Decay of the averaged weights."
    )
    init_from_codebook: bool = Field(
        True, description="Start the table of a modality from the codebook of its tokenizer."
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="In attention output and MLP."
    )
    decay_tables: bool = Field(
        False, description="Decay token and modality tables too, as the reference does."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Of activations and of the weights that compute; what is updated, averaged and "
        "summed is always fp32. auto: bf16 on a GPU and on a CPU that multiplies it natively.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="Of several processes started by torchrun: each holds all weights, or a shard.",
    )
    packed: Switch = Field(
        "auto",
        description="Lay all samples of a step end to end and decide the update on the device; "
        "auto: on a GPU.",
    )
    compile: Switch = Field(
        "auto",
        description="Compile blocks and loss (torch.compile); auto: on a GPU with a C compiler, in "
        "bf16 or fp16, if the training takes more than about 90 s there.",
    )
    graphs: Switch = Field(
        "auto",
        description="Capture packed passes and the update as CUDA graphs; auto: on a GPU from "
        "Ampere on, in bf16 or fp16.",
    )
    quantum: Positive | None = Field(
        None,
        description="Tokens that a packed batch is filled up to a multiple of, so that few shapes "
        "come up; none: 64 where all steps are equally long, else an eighth of the longest.",
    )
    accumulate: Positive = Field(
        1, description="Passes that a packed step is cut into: less memory, the same gradients."
    )
    workers: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Processes that mask packed batches ahead; none: half of the cores with a GPU, "
        "at most 8, and 0 without.",
    )
    ahead: Positive = Field(16, description="Packed steps that are made ahead.")
    tracker: Literal["auto", "none", "tensorboard", "wandb"] = Field(
        "auto",
        description="Beside log.jsonl, which is always written; auto: tensorboard if installed.",
    )
    val_every: Positive = Field(200, description="Steps between looks at the validation split.")
    val_samples: Positive = Field(256, description="Fixed masked samples of the validation loss.")
    save_every: Positive = Field(200, description="Steps between checkpoints to resume from.")


# -- leaves ------------------------------------------------------------------------------------


class EvaluateConfig(Section):
    """Probes, each with chance, majority, controls, upper bound, n and a bootstrap interval."""

    split: Literal["val", "test"] = Field("test", description="Clips that are judged.")
    clips: Positive = Field(220, description="Most clips a probe looks at.")
    classifier_steps: Positive = Field(
        400, description="Training steps of each classifier, on real media."
    )
    bootstrap: Annotated[int, Field(ge=100)] = Field(1000, description="Resamples of an interval.")
    workers: Workers = Field(
        "auto",
        description="Processes of one thread each; the results are those of 0, which is none; "
        "auto: one a core, at most 16.",
    )


class ReportConfig(Section):
    """The page to look at and listen to."""

    samples: Positive = Field(11, description="Clips shown; one a class first.")


class Config(Section):
    """One run of nano4M-Audio, from clips to report."""

    preset: str = Field("farm", description="Name of the preset that this started from.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="Random seed of every stage."
    )
    device: str = Field(
        "auto",
        description="Where every stage computes: cpu, cuda, cuda:N or mps (untested); auto: the "
        "GPU if there is one.",
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
    def _belongs_together(self) -> "Config":
        unknown = sorted(set(self.tokenizers) - set(MODALITIES))
        if unknown:
            raise ValueError(
                f"tokenizers of unknown modalities {unknown}; known: {list(MODALITIES)}"
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
                "generate.guidance compares with what is made from nothing, and this masking never "
                "trains that; add --generate.guidance 1, or give masking.any_to_any and the first "
                "of masking.num_inputs_weights a weight"
            )
        for name, tokenizer in self.tokenizers.items():
            if isinstance(tokenizer, ImageVQ) and self.clips.picture_size % tokenizer.grid:
                raise ValueError(
                    f"tokenizers.{name}.grid {tokenizer.grid} does not divide "
                    f"clips.picture_size {self.clips.picture_size}"
                )
            window = self.clips.window_seconds
            if isinstance(tokenizer, MelVQ) and tokenizer.shift_seconds >= window:
                raise ValueError(
                    f"tokenizers.{name}.shift_seconds {tokenizer.shift_seconds} moves a view out "
                    f"of its window; it must be below clips.window_seconds {window}"
                )
        return self
