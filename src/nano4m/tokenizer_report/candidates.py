"""The tokenizers that are compared: loaded from folders, or fitted on the train split."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import ValidationError

from nano4m.config.command_line import explain
from nano4m.config.run import Config
from nano4m.config.tokenizers import SECTIONS, TokenizerConfig
from nano4m.data.clip_table import ClipTable
from nano4m.errors import UserError, nearest
from nano4m.media import media_kind
from nano4m.modalities import MODALITIES
from nano4m.tokenizers import TOKENIZERS, load_tokenizer
from nano4m.tokenizers.fit import Job, finished, fit_here

if TYPE_CHECKING:
    from nano4m.tokenizers.base import Tokenizer


class Spec(NamedTuple):
    """A tokenizer as the command line names it: a folder, or a kind with settings."""

    name: str
    folder: Path | None
    kind: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A tokenizer that is compared.

    Attributes:
        name: Unlike that of all others.
        tokenizer: On the device of the report.
        quality: What its fit has measured; empty if it was loaded.
    """

    name: str
    tokenizer: "Tokenizer"
    quality: dict[str, Any]


def parse_spec(text: str) -> Spec:
    """Return the parts of ``[NAME=]FOLDER`` or ``[NAME=]KIND[:FIELD=VALUE,...]``.

    Raises:
        UserError: Neither a folder nor a kind, or settings that are no FIELD=VALUE.
    """
    named = re.fullmatch(r"([^=:/]+)=(.+)", text)
    name, rest = named.groups() if named else ("", text)
    path = Path(rest)
    kind, _, fields = rest.partition(":")
    if path.is_dir() or ("/" in rest and kind not in TOKENIZERS):
        parts = path.resolve().parts
        return Spec(name or "/".join(parts[-3:]), path, "", {})
    if kind not in TOKENIZERS:
        raise UserError(f"--tokenizer {text}: no folder, and no kind; {nearest(kind, TOKENIZERS)}")
    settings: dict[str, Any] = {}
    for field in filter(None, fields.split(",")):
        key, equals, value = field.partition("=")
        if not equals:
            raise UserError(f"--tokenizer {text}: {field!r} is no FIELD=VALUE")
        values = [_value(part) for part in value.split(";")]
        settings[key.replace("-", "_")] = values if len(values) > 1 else values[0]
    # Names are names of folders too; weights may be a path or a repository.
    return Spec(name or re.sub(r"[^=,;:]*/", "", rest), None, kind, settings)


def _value(text: str) -> Any:
    # A number, true, false or null; anything else is text. A choice of numbers takes no text.
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def section_of(spec: Spec, config: Config, media: str) -> TokenizerConfig:
    """Return the settings of a kind: those of the run, if it has one of this kind, and the spec's.

    Raises:
        UserError: A field or a value that the kind does not have, or settings that do not suit the
            media.
    """
    section = SECTIONS[spec.kind]
    if section.layout not in media_kind(media).layouts:
        fitting = [k for k, s in SECTIONS.items() if s.layout in media_kind(media).layouts]
        raise UserError(
            f"--tokenizer {spec.kind} makes no tokens of {media}; {nearest(spec.kind, fitting)}"
        )
    own = [
        known for name, known in config.tokenizers.items()
        if known.kind == spec.kind and MODALITIES[name].media == media
    ]  # fmt: skip
    base = own[0].model_dump() if own else {}
    unknown = [field for field in spec.settings if field not in section.model_fields]
    if unknown:
        raise UserError(
            f"--tokenizer {spec.kind}: no field {unknown[0]!r}; "
            f"{nearest(unknown[0], section.model_fields)}"
        )
    try:
        found = section(**base | spec.settings)
        found.check_clips(config.clips)
    except ValidationError as error:
        raise UserError(f"--tokenizer {spec.kind}: {explain(error)}") from error
    except ValueError as error:
        raise UserError(f"--tokenizer {spec.kind}: {error}") from error
    # SECTIONS holds the members of this union.
    return found  # type: ignore[return-value]


def gather(
    specs: list[Spec],
    clips: ClipTable,
    config: Config,
    media: str,
    folder: Path,
    seed: int,
    device: torch.device,
) -> list[Candidate]:
    """Return the tokenizers of some specifications, fitted ones in ``folder``.

    Raises:
        UserError: Two of one name, a folder without a tokenizer, or settings that do not suit.
    """
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two tokenizers have the name {twice[0]!r}; give one another: "
            f"--tokenizer NAME={twice[0]}"
        )
    sections = {s.name: section_of(s, config, media) for s in specs if s.folder is None}
    for section in sections.values():
        TOKENIZERS[section.kind].load().check(section, media, config.clips)
    found = []
    for spec in specs:
        if spec.folder is not None:
            found.append(Candidate(spec.name, load_tokenizer(spec.folder, device), {}))
            continue
        section = sections[spec.name]
        own = folder / re.sub(r"[^A-Za-z0-9._=-]+", "_", spec.name)
        settings = {
            "section": section.model_dump(), "seed": seed, "clips": clips.fingerprint,
            "media": media,
        }  # fmt: skip
        quality = finished(own, section, settings)
        if quality is None:
            name = next(m.name for m in MODALITIES.values() if m.media == media)
            job = Job(name, media, section, seed, own, settings)
            quality = next(fit_here(clips, [job], device))
        found.append(Candidate(spec.name, load_tokenizer(own, device), quality))
    return found
