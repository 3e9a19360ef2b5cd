"""The options of ``nano4m tokenizer-report``; importing this loads no PyTorch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationError
from tyro import conf

from nano4m.config import command_line
from nano4m.config.numbers import Range
from nano4m.config.section import Section, Seed, Steps
from nano4m.errors import UserError

PURPOSE = """\
Compare tokenizers on the clips of a run: bitrate, codebook use, distances between original and
round trip, what a linear probe finds of the class in their ids, speed, players side by side.

examples
  those of a run:
    nano4m tokenizer-report runs/digits --dir compared
  with others, fitted on its train clips:
    nano4m tokenizer-report runs/digits --tokenizer runs/digits/tokenizers/sound \\
      --tokenizer fine=mel_vq:vocab=1024,codebooks=2 --tokenizer wave_vq:steps=800 --dir compared
  where the class gets lost on the way to the model:
    nano4m tokenizer-report runs/digits --run runs/digits --dir compared
  tokenizers of pictures:
    nano4m tokenizer-report runs/digits --media picture --tokenizer image_vq:vocab=512 --dir seen
"""


class Numbers(Section):
    """The numbers of a call."""

    judge: Annotated[int, Range(2, 10**6)]
    train: Annotated[int, Range(2, 10**6)]
    decode: Annotated[int, Range(1, 10**6)]
    listen: Annotated[int, Range(0, 256)]
    classifier_steps: Steps
    seed: Seed


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to compare on which clips.

    Attributes:
        clips: Folder of a run, or of its clips.
        dir: Folder to write to, made if missing. Tokenizers that were fitted for it stay there and
            are not fitted again.
        tokenizers: A tokenizer: its folder; or a kind with settings, KIND or
            KIND:FIELD=VALUE,FIELD=VALUE (values of a list are separated by ";"), which is fitted
            on the train split, with the other settings of the clips' run if that has one of this
            kind, else the kind's defaults. NAME=... gives it a name. Repeat it for several; none:
            those of the run.
        run: Run whose model is asked too: the chain from media through its tokenizer to the class
            that it finds.
        media: Kind of media.
        split: Split on which everything is measured; probes are trained on the train split.
        judge: Most clips of that split, as many of each class if possible.
        train: Most clips that probes are trained on.
        decode: Most clips that are decoded; a decoder that makes one sample at a time is slow.
        listen: Clips on the page, one a class first.
        classifier_steps: Of the classifier of real media that is asked about round trips.
        seed: Of everything random.
        device: Where to compute: cpu, cuda, cuda:N or mps; auto: the GPU if there is one. Speeds
            are always those of one thread.
        json: Print the report as JSON on standard output, in place of the table.
    """

    clips: Annotated[Path, conf.Positional]
    dir: Path
    tokenizers: Annotated[conf.UseAppendAction[tuple[str, ...]], conf.arg(name="tokenizer")] = ()
    run: Path | None = None
    media: str = "sound"
    split: Literal["val", "test"] = "val"
    judge: int = 256
    train: int = 1000
    decode: int = 64
    listen: int = 6
    classifier_steps: int = 400
    seed: int = 0
    device: str = "auto"
    json: bool = False


def parse_options(args: Sequence[str]) -> Options:
    """Return the options.

    Raises:
        UserError: A number out of range.
        SystemExit: After help, or a mistake that tyro has printed.
    """

    def parse(options: Annotated[Options, conf.arg(name="")]) -> Options:
        return options

    options = command_line.parse_options(parse, args, "nano4m tokenizer-report", PURPOSE)
    try:
        Numbers(**{name: getattr(options, name) for name in Numbers.model_fields})
    except ValidationError as error:
        raise UserError(command_line.explain(error)) from error
    return options
