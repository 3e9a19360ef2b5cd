"""The weights of a codec: where they are, whether they suit the settings, how to find them again.

A tokenizer's folder has the hashes of its weights, and ``weights.json`` says where they were. The
weights themselves are in its ``weights/`` only if they were copied, by an option or by hand; those
are used before all others.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

from nano4m.config.tokenizers import SECTIONS
from nano4m.config.tokenizers.codec import CodecSection
from nano4m.config.tokenizers.sound import SoundSection
from nano4m.errors import UserError
from nano4m.modalities import MODALITIES
from nano4m.storage.damage import reading
from nano4m.storage.json_files import read_object, write_json
from nano4m.tokenizers.pretrained_weights import Found, Source, locate, same_content

COPIED = "weights"
"""Folder inside a tokenizer's folder with a copy of its weights."""


class Weighted(Protocol):
    """What is asked here of a class of tokenizers with weights of others."""

    key: str
    files: tuple[str, ...]
    subfolder: str


class Codec(Weighted, Protocol):
    """What is asked here of a class of codecs, see ``CodecTokenizer``."""

    def sizes(self, config: dict[str, Any]) -> tuple[int, int, int, int]:
        """Return rate, hop, ids of a codebook and most codebooks of a ``config.json``."""


def source_of(kind: Codec, section: CodecSection) -> Source:
    """Return the source of the weights that a section names."""
    return Source(section.weights, section.revision, kind.files, kind.subfolder)


def words_of(kind: Codec, media: str) -> tuple[str, str, str]:
    """Return what messages call the tokenizer, the option of its weights, what works without."""
    names = [m.name for m in MODALITIES.values() if m.media == media] or ["NAME"]
    free = [
        key
        for key, own in SECTIONS.items()
        if issubclass(own, SoundSection) and "weights" not in own.model_fields
    ]
    return (
        f"the tokenizer {kind.key}",
        f"--tokenizers.{names[0]}.weights",
        " or ".join(f"--tokenizers.{names[0]}.kind {key}" for key in free),
    )


def require_sizes(kind: Codec, section: CodecSection, folder: Path) -> None:
    """Refuse weights of other sizes than the section has.

    Raises:
        UserError: Names the options that would suit the weights.
    """
    config = read_object(folder / "config.json")
    with reading(folder / "config.json"):
        rate, hop, vocab, most = kind.sizes(config)
    there = {"codec_rate": rate, "codec_hop": hop, "codec_vocab": vocab}
    differ = {n: v for n, v in there.items() if getattr(section, n) != v}
    if differ:
        words = ", ".join(f"--tokenizers.NAME.{n.replace('_', '-')} {v}" for n, v in differ.items())
        raise UserError(f"{folder}: weights of {kind.key} with other sizes; take {words}")
    if section.codebooks > most:
        raise UserError(
            f"{folder}: these weights have {most} codebooks, and {section.codebooks} are to be "
            f"used; take --tokenizers.NAME.codebooks {most} or fewer"
        )


def write_origin(folder: Path, source: Source, found: Found, licence: str) -> None:
    """Write ``weights.json``: where the weights of a tokenizer were, and their licence."""
    given = str(found.folder.resolve()) if source.is_folder else source.given
    origin = {"weights": given, "revision": found.commit or source.revision, "licence": licence}
    write_json(folder / "weights.json", origin)


def copy_weights(folder: Path, found: Found) -> None:
    """Copy the weights into the tokenizer's folder."""
    (folder / COPIED).mkdir(exist_ok=True)
    for name in found.hashes:
        shutil.copyfile(found.folder / name, folder / COPIED / name)


def find_again(folder: Path, kind: Weighted, hashes: dict[str, str]) -> tuple[Found, Source]:
    """Return the weights of a stored tokenizer: those in its folder, else where they were.

    Raises:
        UserError: They are in neither place, or have other content.
    """
    if not (folder / "weights.json").is_file():
        raise UserError(
            f"no whole tokenizer in {folder}: weights.json is missing, which says where its "
            "weights are; run: nano4m tokenizers PRESET --out OUT --overwrite"
        )
    origin = read_object(folder / "weights.json")
    with reading(folder / "weights.json"):
        given, revision = str(origin["weights"]), str(origin["revision"])
    source = Source(given, revision, kind.files, kind.subfolder)
    inside = folder / COPIED
    for place in (source._replace(given=str(inside.resolve())), source):
        found = locate(place)
        if found is None:
            continue
        if wrong := same_content(found.hashes, hashes):
            raise UserError(
                f"{found.folder}: {', '.join(wrong)} is not what made the tokens of {folder}; put "
                f"{' and '.join(kind.files)} of {given} ({revision}) into {inside}"
            )
        return found, source
    again = (
        "put them back, or"
        if source.is_folder
        else f"run: hf download {given} --revision {revision}, or put them"
    )
    raise UserError(
        f"{folder} needs the weights of {kind.key}, which were {given} ({revision}) and are not on "
        f"this machine; {again} ({' and '.join(kind.files)}) into {inside}"
    )
