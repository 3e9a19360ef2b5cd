"""Numbers of the configuration: every field has a range, and what is outside is refused by name.

The fields are found by their types, so a new field is covered by itself.
"""

import random
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from nano4m.cli import _parse
from nano4m.config.generation import GenerateConfig
from nano4m.config.numbers import Range, ranges
from nano4m.config.presets import PRESETS
from nano4m.config.run import Config
from nano4m.config.tokenizers.spectrogram import empty_bands
from nano4m.errors import UserError
from nano4m.inference.options import Options, parse_options
from nano4m.media.mel import mel_filters

NEVER = ["inf", "-inf", "nan", "-1e300", "1e300", str(10**30), "1e999", "many", "", "true", "1,5"]
MAYBE = ["0", "-1", "1e-300", "12.5", "1e3", "3"]


def sections(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the models in a type, and those in their fields."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)
    else:
        for member in get_args(kind):
            yield from sections(member)


def numbers(section: type[BaseModel]) -> dict[str, list[tuple[Any, Range | None]]]:
    """Return type and range of all numbers of the fields of a section that have some."""
    found = {
        name: list(ranges(field.annotation, field.metadata))
        for name, field in section.model_fields.items()
        if (section, name) != (GenerateConfig, "modalities")  # those of ``Sampling``, as text
    }
    return {name: own for name, own in found.items() if own}


def options(config: Any, path: str = "") -> dict[str, list[tuple[Any, Range | None]]]:
    """Return type and range of the numbers of each option of a preset."""
    own = {f"--{path}{name}": found for name, found in numbers(type(config)).items()}
    for name in type(config).model_fields:
        value = getattr(config, name)
        inner = value.items() if name == "tokenizers" else [("", value)]
        for key, section in inner:
            if isinstance(section, BaseModel):
                own |= options(section, f"{path}{name}." + (f"{key}." if key else ""))
    return {name.replace("_", "-"): found for name, found in own.items()}


def words_of(kind: Any, option: str, value: str) -> list[str]:
    """Return the words that give a value to an option: after a key where it needs one."""
    return [option, *(["sound"] if "dict" in str(kind) else []), value]


def is_number(kind: Any, value: str) -> bool:
    """Return whether a text is a number of a field's type."""
    try:
        (int if int in (kind, *get_args(kind)) else float)(value)
    except ValueError:
        return False
    return True


def test_every_number_has_a_range():
    found = {section: numbers(section) for section in dict.fromkeys(sections(Config))}
    every = [(s.__name__, f, own) for s, fs in found.items() for f, rs in fs.items() for own in rs]
    assert len(every) > 90
    assert [entry for entry in every if entry[2][1] is None] == []


def test_a_number_without_a_range_is_found():
    for kind in (int, float | None, tuple[int, ...], dict[str, tuple[int, int]]):
        assert {own for _, own in ranges(kind)} == {None}


def refusal(parse: Any, words: list[str]) -> str | None:
    """Return what the user reads, or None where the words are accepted."""
    try:
        parse(words)
    except UserError as error:
        return str(error)
    return None


def check(parse: Any, option: str, own: Any, values: list[str], before: list[str] = []) -> None:  # noqa: B006
    """Check that values of an option are accepted, or refused with option, value and range."""
    (kind, span), value = own[0], ""
    for value in values:
        words = [f"{option}={value}"] if not before else [option, *before, value]
        said = refusal(parse, words)
        if value in NEVER:
            assert said is not None, (option, value)
        if said is not None and (value in NEVER or not is_number(kind, value)):
            assert said.startswith(option) and span.says(kind).split("; ")[0] in said, said


FARM = options(PRESETS["farm"])


def single(found: list[tuple[Any, Range | None]], option: str) -> bool:
    """Return whether an option takes one word."""
    field: Any = Config
    for name in option.removeprefix("--").replace("-", "_").split("."):
        field = field.model_fields[name].annotation if hasattr(field, "model_fields") else None
    return len(found) == 1 and "dict" not in str(field) and "uple" not in str(field)


@pytest.mark.parametrize("option", random.Random(0).sample(sorted(FARM), 12))
def test_an_option_out_of_range_is_refused_with_its_range(option):
    if single(FARM[option], option):
        values = random.Random(option).sample(NEVER, 2)
        check(lambda words: _parse("run", ["farm", *words]), option, FARM[option], values)


@pytest.mark.parametrize("section", list(dict.fromkeys(sections(Config))))
def test_a_field_out_of_range_is_refused_with_its_range(section):
    """By the section itself, which is much faster than the command line."""
    for name, found in numbers(section).items():
        kind, span = found[0]
        for value in [*NEVER, *MAYBE, True, float("inf"), float("nan"), 1e300, -1e300, 10**30, 0]:
            given = with_form(section.model_fields[name].annotation, value)
            try:
                section(**{name: given})
            except ValueError as error:
                said = str(error)
                is_wrong = not (isinstance(value, int | str) and is_number(kind, str(value)))
                if isinstance(value, bool) or value in NEVER or is_wrong:
                    assert f"must be {span.says(kind)}" in said, (name, value, said)
            else:
                assert value not in NEVER and value is not True, (name, value)


def with_form(kind: Any, value: Any) -> Any:
    """Return a value in the form of a field: in a tuple, or of a modality."""
    if "dict" in str(kind):
        return {"sound": with_form(get_args(kind)[1], value)}
    if str(kind).lower().startswith(("tuple", "typing.optional[tuple")) or "uple[" in str(kind):
        return (value,) if "..." in str(kind) else (value, value)
    return value


def generate(words: list[str]) -> Any:
    return parse_options(["--run", "here", "--dir", "there", *words])


def test_the_numbers_of_a_call_are_refused_when_they_are_parsed():
    for name, found in numbers(GenerateConfig).items():
        check(generate, "--" + name.replace("_", "-"), found, ["nan", "1e300", "many"])
    refused = ["--n 0", "--seed -1", "--n x", "--conditions sound=inf"]
    refused += ["--conditions sound=1e300", "--modalities sound.guidance=nan"]
    for words in map(str.split, refused):
        said = refusal(generate, words) or ""
        assert words[0] in said and " to " in said, words
    assert {"n", "seed"} <= set(Options.__dataclass_fields__)


def test_none_switches_clipping_off():
    for words in (["--train.clip-norm", "none"], ["--train.clip-norm=none"]):
        config = _parse("run", ["farm", *words])[0]
        assert config.train.clip_norm is None and config.train.max_norm == float("inf")
    assert "or none" in (
        refusal(lambda w: _parse("run", ["farm", *w]), ["--train.clip-norm=inf"]) or ""
    )


def test_bands_without_a_bin_are_counted_as_by_the_filters():
    draw, seen = random.Random(0), set()
    for _ in range(150):
        rate, n_fft = draw.choice([16000, 24000, 48000]), 2 * draw.randint(2, 1024)
        mels = draw.randint(1, 128)
        try:
            mel_filters(rate, n_fft, mels)
            empty = 0
        except UserError as error:
            empty = int(str(error).split()[0])
        assert empty_bands(rate, n_fft, mels) == empty
        seen.add(empty > 0)
    assert seen == {True, False}
