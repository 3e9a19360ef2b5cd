"""The options of ``nano4m generate``; importing this loads no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from tyro import conf

from nano4m.config import command_line
from nano4m.config.generation import GenerateConfig, GuidanceWeight
from nano4m.config.numbers import Range
from nano4m.config.section import Section, Seed
from nano4m.errors import UserError

PURPOSE = """\
Make media from media with a finished run.

Inputs are one set of files (a sound, a picture, depth, normals, a video, a caption), clips of the
run, or nothing. Outputs go to one folder: pictures and normals as PNG, depth as 16-bit PNG, sounds
as WAV, captions as text, all ids as ids.npz, and generate.json with every setting, seed and
fingerprint. Files are cut as the clips of the run were: the same window, crop and level; what is
cut away or padded is printed. A sampling setting that is left out (None) is the run's own.

examples
  a picture and its depth from a sound, 8 samples of each:
    nano4m generate --run runs/farm --in dog.wav --out rgb,depth --n 8 --dir made/dog --sheet
  a sound from a picture and a caption, guided:
    nano4m generate --run runs/farm --in dog.png --caption "small dog barking" --out sound \\
      --steps 12 --guidance 3 --dir made/bark
  a chain, in which each finished modality is an input of the next:
    nano4m generate --run runs/farm --caption "small pig oinking" --chain rgb,depth,normals \\
      --dir made/pig
  the first eight clips of the test split, from their sound alone:
    nano4m generate --run runs/farm --split test --rows 0:8 --input-modalities sound --out rgb \\
      --dir made/test
  the first half of a sound continued, and the top of a picture completed:
    nano4m generate --run runs/farm --in dog.wav --out sound --keep sound=0:12 --dir made/on
    nano4m generate --run runs/farm --in dog.png --out rgb --keep rgb=0:4 --dir made/below
  towards the sound, away from the caption:
    nano4m generate --run runs/farm --in dog.wav --caption "small cow lowing" --out rgb \\
      --conditions sound=2 caption=-1 --dir made/no-cow
"""


MOST_SAMPLES = 4096
"""Most samples of one call; each leaves a file for each output."""
Samples = Annotated[int, Range(1, MOST_SAMPLES)]


class Numbers(Section):
    """The numbers of a call that are no sampling settings."""

    n: Samples
    seed: Seed


class Weight(Section):
    """The weight of a condition."""

    weight: GuidanceWeight


def _option(field: FieldInfo) -> Any:
    """Return type and default of a field that may be left out."""
    kind: Any = (
        Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    )
    if field.default_factory is not None:  # a collection: empty is left out
        factory: Any = field.default_factory
        return kind, Field(default_factory=factory, description=field.description)
    return kind | None, Field(None, description=field.description)


# Every field of the section, without a value: what is left out is the run's own setting.
SamplerOptions: Any = create_model(
    "SamplerOptions",
    **{name: _option(field) for name, field in GenerateConfig.model_fields.items()},
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to generate from which inputs.

    Attributes:
        run: Folder of a run whose training is finished.
        inputs: Input file, PATH or MODALITY=PATH; repeat it for several. Sounds, pictures, videos
            (both), .npy or 16-bit PNG (depth); a PNG of normals must be named:
            normals=FILE.
        caption: Input text.
        clips: Clips of the run as inputs instead of files: ID,ID.
        split: Split of the run whose clips are inputs instead of files.
        rows: Which clips of the split, FIRST:LAST, the last one not included; all if left out.
        input_modalities: Modalities of those clips that are inputs; all but outputs if left out.
        out: Modalities to generate, each from the inputs alone: NAME,NAME.
        chain: Modalities to generate one after another, each from the inputs and those before it.
        keep: Parts of outputs that are inputs: MODALITY=FIRST:LAST in rows of a picture, frames
            of a sound, words of a caption, the last one not included.
        conditions: Conditions with a weight each, MODALITY=WEIGHT: l_u + sum w_i (l_i - l_u). A
            negative weight leads away. In a chain, finished modalities join with weight --guidance.
        negative: Modality that guidance leads away from, in place of the unconditional prediction.
        n: Samples of each input.
        seed: Random seed. A sample depends on it, on the name of its input and on its own number,
            not on the other samples.
        dir: Folder to write to, made if missing.
        overwrite: Write into a folder that is not empty; files of an earlier call are replaced,
            others stay.
        sheet: Also write sheet.png, inputs beside samples, and sounds.png, their spectrograms.
        device: Where to compute: cpu, cuda, cuda:N or mps; auto: the GPU if there is one.
    """

    run: Path
    dir: Path
    inputs: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="in")] = ()
    caption: str | None = None
    clips: str | None = None
    split: Literal["train", "val", "test"] | None = None
    rows: str | None = None
    input_modalities: str | None = None
    out: str | None = None
    chain: str | None = None
    keep: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    negative: str | None = None
    n: Samples = 1
    seed: Seed = 0
    overwrite: bool = False
    sheet: bool = False
    device: str = "auto"


RENAMED = {"--given": "--input-modalities"}
"""Options of earlier versions -> their names now."""


def parse_options(args: Sequence[str]) -> tuple[Options, dict[str, Any]]:
    """Return the options, and the sampling settings that are set.

    Raises:
        UserError: An invalid sampling setting.
        SystemExit: After help, or a mistake that tyro has printed.
    """
    for word in args:
        if word.split("=")[0] in RENAMED:
            old = word.split("=")[0]
            raise UserError(f"{old} is {RENAMED[old]} now")

    def parse(
        options: Annotated[Options, conf.arg(name="")],
        sampler: Annotated[SamplerOptions, conf.arg(name="")] = SamplerOptions(),  # noqa: B008
    ) -> tuple[Options, Any]:
        return options, sampler

    options, sampler = command_line.parse_options(parse, args, "nano4m generate", PURPOSE)
    chosen = {k: v for k, v in sampler.model_dump().items() if v not in (None, {})}
    try:
        GenerateConfig(**chosen)
        Numbers(n=options.n, seed=options.seed)
        for text in options.conditions:
            condition(text)
    except ValidationError as error:
        raise UserError(command_line.explain(error)) from error
    return options, chosen


def condition(text: str) -> tuple[str, float]:
    """Return modality and weight of ``MODALITY=WEIGHT``.

    Raises:
        UserError: Not of this form, or a weight out of range.
    """
    name, _, weight = text.partition("=")
    try:
        return name, Weight(weight=weight).weight
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise UserError(
            f"--conditions {text}: MODALITY=WEIGHT, such as {name or 'sound'}=2; the weight "
            f"{message}; a negative one leads away"
        ) from None


def names_of(text: str | None) -> list[str]:
    """Return the names of ``A,B``, in order, without empty ones."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
