"""The options of ``nano4m check-data``."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.pipeline.check_data.command import DEFAULT_PRESET, folder_presets
from nano4m.pipeline.preset_options import parse_preset_options

USAGE = """\
usage: nano4m check-data DIR [--preset NAME] [--deep] [--json] [--html FILE] [options of a run]

Say what a run would make of a folder, without writing into it and without decoding: how it is read,
classes and clips of each split, which files are of one recording, lengths, sample rates and picture
sizes (of headers), what is left out and why, captions, tokens, about how long a run takes, and what
looks like a mistake. Ends with 0 if a run would work, and with 2 and the reason if it would not.

  --preset NAME   whose settings the run would have: {presets} (default {default})
  --deep          decode all clips and cut them as the run would, in a temporary folder: real
                  lengths, silence, clipping, what two splits share; takes as long as nano4m clips
  --json          print the check as JSON; docs/CHECK_DATA.md lists the fields
  --html FILE     write a page with some clips of each class to look at and listen to

examples
  nano4m check-data recordings
  nano4m check-data recordings --deep --html check.html
  nano4m check-data recordings --dataset.min-per-class 2 --clips.window-seconds 1
  nano4m check-data recordings --preset reference --without depth,normals --json

nano4m check-data DIR --help lists every option that a run takes, with its value."""


@dataclass(frozen=True)
class CheckOptions:
    """What a check does.

    Attributes:
        size: Size of the model by name, as a run takes it; the time of a run depends on it.
        without: Modalities of the preset that are left out: NAME,NAME.
        deep: Decode all clips and cut them as the run would, in a temporary folder.
        json: Print the check as JSON on standard output; docs/CHECK_DATA.md lists the fields.
        html: Write a page with some clips of each class to look at and listen to.
    """

    size: str | None = None
    without: str | None = None
    deep: bool = False
    json: bool = False
    html: Path | None = None


def usage() -> str:
    """Return the help of the command."""
    return USAGE.format(presets=" or ".join(folder_presets()), default=DEFAULT_PRESET)


def parse_check_options(command: str, args: Sequence[str]) -> tuple[Path, Config, CheckOptions]:
    """Return the folder, the configuration of the run, and the options of the check.

    Raises:
        UserError: No folder, or an option or a value that there is not.
        SystemExit: After help, or a mistake that has been printed.
    """
    if not args or args[0].startswith("-"):
        raise UserError(
            f"the folder comes first: nano4m {command} {' '.join(['DIR', *args])}; "
            f"nano4m {command} --help says more"
        )
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", nargs="?", default=DEFAULT_PRESET)
    chosen, rest = first.parse_known_args(args[1:])
    if chosen.preset not in folder_presets():
        raise UserError(
            f"--preset {chosen.preset}: {command} looks at a folder as "
            f"{' or '.join(folder_presets())} would read it"
        )
    config, options = parse_preset_options(
        chosen.preset,
        rest,
        CheckOptions,
        f"nano4m {command} {args[0]} --preset {chosen.preset}",
        "Say what a run would make of a folder, without writing into it.",
    )
    return Path(args[0]), config, options
