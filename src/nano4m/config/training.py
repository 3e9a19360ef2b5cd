"""How the transformer is trained."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from nano4m.config.numbers import Range
from nano4m.config.section import BatchSize, LearningRate, Section, Share, Steps

Switch = Literal["auto", "on", "off"]
Minutes = Annotated[float, Range(0, 1e6, above=True, note="1000000: by steps alone")]


class TrainConfig(Section):
    """Optimisation of the transformer."""

    @field_validator("compile", mode="before")
    @classmethod
    def _was_a_flag(cls, given: Any) -> Any:
        return {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given

    steps: Steps = Field(1200, description="Optimizer steps.")
    batch_size: BatchSize = Field(
        64, description="Samples a step; a multiple of masking.group_size."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="Muon for the matrices between hidden states and AdamW for the rest, or AdamW.",
    )
    lr: LearningRate = Field(3e-3, description="Peak learning rate.")
    min_lr: Annotated[float, Range(0, 10)] = Field(3e-5, description="Learning rate at the end.")
    warmup: Annotated[int, Range(0, 10**8)] = Field(30, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Range(0, 100)] = Field(0.05, description="On matrices only.")
    beta2: Annotated[float, Range(0, 0.999999, above=True)] = Field(
        0.95, description="AdamW's second moment."
    )
    clip_norm: Annotated[float | None, Range(1e-6, 1e9)] = Field(
        1.0, description="Largest gradient norm; none: gradients are not clipped."
    )
    ema: Annotated[float, Range(0, 1, below=True)] = Field(
        0.995, description="Decay of the averaged weights."
    )
    init_from_codebook: bool = Field(
        True, description="Initialise a modality's table from the codebook of its tokenizer."
    )
    dropout: Annotated[float, Range(0, 1, below=True)] = Field(
        0.0, description="In attention output and MLP."
    )
    decay_tables: bool = Field(
        False, description="Decay token and modality tables too, as the reference does."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Of activations and compute weights; master weights, averages and sums are "
        "always fp32. auto: bf16 on a GPU and on a CPU that multiplies it natively.",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="Of several processes started by torchrun: each holds all weights, or a shard.",
    )
    packed: Switch = Field(
        "auto",
        description="Concatenate all samples of a step and update without reads by the host; "
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
    quantum: Annotated[int | None, Range(1, 65536)] = Field(
        None,
        description="A packed batch is padded to a multiple of this many tokens, so that there are "
        "few shapes; none: 64 where all steps are equally long, else an eighth of the longest.",
    )
    accumulate: BatchSize = Field(
        1, description="Passes that a packed step is cut into: less memory, the same gradients."
    )
    workers: Annotated[int | None, Range(0, 1024)] = Field(
        None,
        description="Processes that mask packed batches ahead; none: half of the cores with a GPU, "
        "at most 8, and 0 without.",
    )
    ahead: Annotated[int, Range(1, 4096)] = Field(
        16, description="Packed steps that are prepared ahead."
    )
    tracker: Literal["auto", "none", "tensorboard", "wandb"] = Field(
        "auto",
        description="Beside log.jsonl, which is always written; auto: tensorboard if installed.",
    )
    keep: Literal["last", "best"] = Field(
        "last",
        description="Weights of the checkpoint: the last averaged ones, or those of the validation "
        "with the least mean over modalities of loss over that of a uniform guess.",
    )
    by_heart: Literal["go_on", "weigh_down"] = Field(
        "go_on",
        description="What happens to a modality whose validation loss is above its best, because "
        "it is learnt by heart: nothing, or its loss counts half at each such validation.",
    )
    balance: Share = Field(
        0.0,
        description="Sampling of classes: 0 takes every clip equally often, 1 every class, values "
        "between are between (a clip's frequency is its class's size to the power of -balance).",
    )
    corruption: Annotated[float, Range(0, 1, below=True)] = Field(
        0.0,
        description="Share of the tokens given in training that are replaced by random ones of "
        "the same codebook; the end of a text stays.",
    )
    init: str | None = Field(
        None,
        description="Run or checkpoint whose weights training begins with, where names and shapes "
        "agree; tables and heads of a modality only if its tokenizer is the same.",
    )
    val_every: Steps = Field(200, description="Steps between validations.")
    val_samples: Annotated[int, Range(1, 10**7)] = Field(
        256, description="Fixed masked samples of the validation loss."
    )
    save_every: Steps = Field(200, description="Steps between checkpoints to resume from.")
    save_minutes: Minutes = Field(
        5.0,
        description="Minutes after which one is saved between them, so that a kill loses no more.",
    )

    @property
    def max_norm(self) -> float:
        """The largest gradient norm; infinity if gradients are not clipped."""
        return math.inf if self.clip_norm is None else self.clip_norm
