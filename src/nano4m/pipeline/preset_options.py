"""Options of a command that starts from a preset: the configuration, and its own."""

import argparse
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from nano4m.config.presets import preset, with_size, with_tokenizer_kind, without_modalities

_Own = TypeVar("_Own")


def parse_preset_options(
    name: str, args: Sequence[str], own: type[_Own], prog: str, purpose: str
) -> tuple[Any, _Own]:
    """Return the configuration that options make of a preset, and the command's own options.

    Args:
        name: Of the preset.
        args: Options alone.
        own: Dataclass of the command's own options; its fields size and without are applied.
        prog: Beginning of the usage line.
        purpose: What the command does, a sentence.

    Raises:
        UserError: A preset, an option or a value that there is not.
        SystemExit: After help, or a mistake that has been printed.
    """
    import tyro

    from nano4m.config.command_line import parse_options, with_none
    from nano4m.config.compatibility import refuse_old_options
    from nano4m.config.run import Config

    refuse_old_options(args)
    base = _start(preset(name), args)

    def parse(options: Any, config: Any) -> Any:
        return config, options

    # tyro reads the types of the arguments, and their defaults, from the function.
    parse.__annotations__ |= {
        "options": Annotated[own, tyro.conf.arg(name="")],
        "config": Annotated[Config, tyro.conf.arg(name="")],
    }
    parse.__defaults__ = (own(), base)
    return parse_options(
        parse,
        with_none(args, Config),
        prog,
        f"{purpose} Preset {name}: {describe(base)}.",
        (tyro.conf.AvoidSubcommands,),
    )


def _start(base: Any, args: Sequence[str]) -> Any:
    """Return a preset with the options set that decide which others there are, and their
    defaults: its size, its modalities, and the kind of each tokenizer.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--size", nargs="?")
    first.add_argument("--without", nargs="?")
    for name in base.tokenizers:
        first.add_argument(f"--tokenizers.{name}.kind", nargs="?")
    chosen = vars(first.parse_known_args(args)[0])
    if chosen["size"] is not None:
        base = with_size(base, chosen["size"])
    if chosen["without"] is not None:
        base = without_modalities(base, chosen["without"].split(","))
    for name in base.tokenizers:
        kind = chosen[f"tokenizers.{name}.kind"]
        if kind is not None:
            base = with_tokenizer_kind(base, name, kind)
    return base


def describe(config: Any) -> str:
    """Return what a preset reads, in a few words."""
    needs = "" if config.dataset.name == "farm" else " (needs --data)"
    # python -OO strips docstrings.
    about = (config.dataset.__doc__ or config.dataset.name).splitlines()[0]
    return f"{about.rstrip('.')}{needs}"
