"""The command line: a dictionary of subcommands, options from the configuration by tyro."""

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from nano4m import __version__
from nano4m.compute.cores import patient_threads
from nano4m.compute.launch import rank_of_process
from nano4m.config.presets import PRESETS
from nano4m.errors import UserError, nearest
from nano4m.failures import in_words, staying
from nano4m.modalities import MODALITIES
from nano4m.pipeline.preset_options import describe, parse_preset_options
from nano4m.pipeline.stages import STAGES
from nano4m.standard_streams import OutputClosed, standing_messages, standing_results

EPILOG = """\
examples
  nano4m run farm                              everything, from nothing, into runs/farm
  nano4m run digits --data DIR                 real digits
  nano4m run farm --out runs/big --size d6-w512 --train.steps 20000
  nano4m run farm --help                       every option of a preset, with its value
  nano4m run farm --without depth,normals      fewer modalities
  nano4m generate --run runs/farm --caption "small pig oinking" --out rgb,sound --n 8 --dir made
  nano4m check-data DIR                        what a run would make of your folder
  nano4m info farm                             parameters, modalities, masks; memory and time
  nano4m info runs/farm --json                 what a run reached
  nano4m convert FILE --out FOLDER             a published nano4M checkpoint, or back

Run a stopped command again to resume it.
"""

TEXTS = {"--caption"}
"""Options whose value may be empty."""


@dataclass(frozen=True)
class Options:
    """Where to read and write.

    Attributes:
        data: Folder of the source's recordings and pictures; the farm needs none, and a run that
            has its clips remembers it.
        out: Folder of the run; runs/PRESET unless given.
        size: Size of the model by name instead of the preset's, see nano4m info sizes; options
            under --model still change it.
        without: Modalities of the preset that are left out: NAME,NAME.
        overwrite: Replace results of another configuration, and all that follow from them; results
            of the same configuration stay.
        json: Print the summary as JSON on standard output.
    """

    data: Path | None = None
    out: Path | None = None
    size: str | None = None
    without: str | None = None
    overwrite: bool = False
    json: bool = False


def _parse(command: str, args: Sequence[str]) -> tuple[Any, Options]:
    """Parse ``PRESET [options]`` into a configuration and where to write."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: nano4m {command} PRESET [--data DIR] [--out DIR] [options]\n")
        print(_purpose(command) + "\n\npresets")
        for name, config in PRESETS.items():
            print(f"  {name:<16}{describe(config)}")
        print(f"\nnano4m {command} PRESET --help lists every option with the preset's value.")
        if args:
            raise SystemExit(0)
        raise UserError(f"nano4m {command} needs a preset; choose from {', '.join(PRESETS)}")
    if args[0].startswith("-"):
        raise UserError(
            f"the preset comes first: nano4m {command} PRESET {' '.join(args)}; "
            f"choose from {', '.join(PRESETS)}"
        )
    prog = f"nano4m {command} {args[0]}"
    return parse_preset_options(args[0], args[1:], Options, prog, _purpose(command))


def _purpose(command: str) -> str:
    return COMMANDS[command][1][0].upper() + COMMANDS[command][1][1:] + "."


def _run(command: str, args: Sequence[str]) -> None:
    from nano4m.pipeline.run import run_one_stage, run_pipeline
    from nano4m.pipeline.source_data import remembered_data
    from nano4m.pipeline.stages import Run
    from nano4m.progress import log_info
    from nano4m.stage import writable
    from nano4m.storage.lock import owned

    config, options = _parse(command, args)
    out = options.out or Path("runs") / config.preset
    # One process of a training that torchrun started holds the folder for all.
    held = contextlib.nullcontext() if rank_of_process() else owned(out)
    with writable(out), held, staying(out):
        is_given = options.data is not None or options.overwrite
        data = options.data or remembered_data(out)
        run = Run(config, out, data, is_data_given=is_given)
        if command == "run":
            run_pipeline(run, options.overwrite)
        else:
            manifest = run_one_stage(run, command, options.overwrite)
    if command == "run":
        log_info(f"report: {(run.out / 'report' / 'index.html').resolve()}")
        if options.json:
            print((run.out / "results.json").read_text(encoding="utf-8"))
    elif options.json and not rank_of_process():
        print(json.dumps(manifest, indent=1))


def _info(command: str, args: Sequence[str]) -> None:
    from nano4m.pipeline import info

    parser = argparse.ArgumentParser(f"nano4m {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="auto")
    options, rest = parser.parse_known_args(args)
    if "-h" in rest or "--help" in rest:
        print(info.usage())
        return
    if len(rest) != 1:
        raise UserError(
            "usage: nano4m info WHAT [--json] [--device DEVICE]; WHAT is a preset, a run's folder "
            "or a registry"
        )
    print(info.info(rest[0], options.json, options.device))


def _convert(command: str, args: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        f"nano4m {command}", description=_purpose(command), allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="a published file, or the folder of a checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the folder, or the file, to write")
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    options = parser.parse_args(args)

    from nano4m.checkpoints.convert import convert
    from nano4m.progress import log_info

    summary = convert(options.source, options.out)
    log_info(f"convert: {options.out}")
    if options.json:
        print(json.dumps(summary, indent=1))


def _generate(command: str, args: Sequence[str]) -> None:
    from nano4m.inference.options import parse_options

    options, chosen = parse_options(args)
    from nano4m.inference.command import run_command

    run_command(options, chosen)


def _check_data(command: str, args: Sequence[str]) -> None:
    from nano4m.pipeline.check_data.command import check_data
    from nano4m.pipeline.check_data.options import parse_check_options, usage

    if args and args[0] in ("-h", "--help"):
        print(usage())
        return
    data, config, options = parse_check_options(command, args)
    check = check_data(config, data, deep=options.deep, page=options.html)
    if options.json:
        print(json.dumps(check.as_json(), indent=1))
    else:
        from rich.console import Console

        from nano4m.pipeline.check_data.table import as_tables

        Console().print(as_tables(check), highlight=False)
    if check.reason:
        raise UserError(f"a run would not work: {check.reason}")


def _tokenizer_report(command: str, args: Sequence[str]) -> None:
    from nano4m.tokenizer_report.options import parse_options

    options = parse_options(args)
    from nano4m.tokenizer_report.command import run_command

    print(run_command(options))


COMMANDS: dict[str, tuple[Callable[[str, Sequence[str]], None], str]] = {
    "run": (_run, "run all stages, from clips to report"),
    **{name: (_run, stage.summary) for name, stage in STAGES.items()},
    "generate": (_generate, "make media from media with a finished run"),
    "tokenizer-report": (
        _tokenizer_report,
        "compare tokenizers on clips: cost, round trips, class, speed",
    ),
    "convert": (
        _convert,
        "turn a published nano4M file into a checkpoint folder, or such a folder into a file",
    ),
    "check-data": (_check_data, "say what a run would make of a folder, without writing into it"),
    "info": (_info, "describe a preset, a run, a checkpoint, a token table or a registry"),
}


def check_registries() -> None:
    """Refuse a kind of media or a modality that lacks a part, before anything is computed.

    Raises:
        UserError: With what is missing, and where.
    """
    from nano4m.config.tokenizers import SECTIONS
    from nano4m.media import MEDIA
    from nano4m.media.base import check_kinds

    check_kinds(MEDIA, MODALITIES.values())
    for name, entry in MODALITIES.items():
        section = SECTIONS.get(entry.tokenizer)
        if section is None or section.layout != entry.layout:
            fitting = [kind for kind, own in SECTIONS.items() if own.layout == entry.layout]
            raise UserError(
                f"the modality {name!r} has the tokenizer {entry.tokenizer!r}, which makes no "
                f"tokens of the layout {entry.layout!r}; {nearest(entry.tokenizer, fitting)}"
            )


def usage() -> str:
    """Return the help of the program."""
    lines = [
        f"nano4M-Audio {__version__}: one small transformer from any of {{picture, depth, normals, "
        "sound, caption}",
        "to any other: train it, measure it, look at and listen to what it makes.",
        "",
        "usage: nano4m COMMAND ...",
        "",
    ]
    lines += [f"  {name:<18}{summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", EPILOG])


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line; failures that are no bug exit with 2 and one message, Ctrl-C with 130."""
    args = list(sys.argv[1:] if argv is None else argv)
    with standing_messages(), patient_threads():
        try:
            with standing_results():
                _main(args)
        except OutputClosed:
            raise SystemExit(0) from None
        except KeyboardInterrupt:
            print("nano4m: stopped; run the same command to go on from here", file=sys.stderr)
            raise SystemExit(130) from None
        except Exception as error:
            said = str(error) if isinstance(error, UserError) else in_words(error)
            if said is None:
                raise
            print(f"nano4m: {said}", file=sys.stderr)
            raise SystemExit(2) from None


def _main(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
    elif args[0] == "--version":
        print(__version__)
    elif args[0] in COMMANDS:
        _refuse_empty(args)
        check_registries()
        COMMANDS[args[0]][0](args[0], args[1:])
    else:
        raise UserError(f"unknown command {args[0]!r}; {nearest(args[0], COMMANDS)}")


def _refuse_empty(args: Sequence[str]) -> None:
    """Refuse an empty value, which an unset variable of a shell gives: as a path it means here."""
    for before, word in pairwise(args):
        joined = re.fullmatch(r"(--[^=]+)=(.*)", word, re.DOTALL)
        option, value = joined.groups() if joined else (before, word)
        if not value.strip() and option not in TEXTS:
            raise UserError(f"the value after {option} is empty; give one, or leave the option out")
