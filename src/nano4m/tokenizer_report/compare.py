"""The comparison: the same clips through every tokenizer, and every measure of each."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from nano4m.compute.precision import float32_math, resolve_device
from nano4m.config.compatibility import read_stored, with_new_names
from nano4m.config.run import Config
from nano4m.data.clip_table import ClipTable, open_clips
from nano4m.errors import UserError, nearest
from nano4m.evaluate.classifiers import train_classifier
from nano4m.evaluate.context import choose_clips
from nano4m.media import MEDIA, media_kind
from nano4m.media.base import Item
from nano4m.modalities import MODALITIES
from nano4m.progress import log_info
from nano4m.stage import provenance
from nano4m.storage.damage import reading
from nano4m.storage.json_files import read_object
from nano4m.tokenizer_report import measures
from nano4m.tokenizer_report.candidates import Candidate, Spec, gather, parse_spec
from nano4m.tokenizer_report.chain import ask_model, links, modality_of
from nano4m.tokenizer_report.content import (
    Split,
    media_features,
    probe_features,
    score_classes,
    token_features,
)
from nano4m.tokenizer_report.options import Options
from nano4m.tokenizers.verdict import judge, verdict_figures

ENOUGH_RECORDINGS = 5
"""Judged recordings that a class needs to count; if fewer than two classes have them, all count."""

FORMAT = 1


class Shown(NamedTuple):
    """One clip of the page: the original, and the round trip through each tokenizer."""

    title: str
    original: Item
    made: dict[str, Item]


class Comparison(NamedTuple):
    """The figures, as JSON, and what is to be seen and heard."""

    report: dict[str, Any]
    shown: list[Shown]


def read_config(folder: Path) -> Config:
    """Return the configuration of the run whose folder, or whose clips, this is.

    Raises:
        UserError: No run.
    """
    for path in (folder / "config.json", folder.parent / "config.json"):
        if path.is_file():
            with reading(path):
                return read_stored(Config, with_new_names(read_object(path)))
    raise UserError(
        f"{folder} is no folder of a run (config.json is missing); make one with: "
        f"nano4m clips PRESET --out {folder}"
    )


def choose_split(clips: ClipTable, options: Options) -> Split:
    """Return the clips that probes are trained on and judged on.

    Raises:
        UserError: Fewer than two clips of a split have such media, or all are of one class.
    """
    groups = np.unique(clips.groups, return_inverse=True)[1]
    labels = np.searchsorted(clips.classes, clips.labels)
    rows = {}
    for name, most in (("train", options.train), (options.split, options.judge)):
        there = clips.rows(name)[clips.present(options.media)[clips.rows(name)]]
        if len(there) < 2:
            raise UserError(
                f"{len(there)} {name} clips of {clips.folder} have {options.media}, and a "
                "comparison needs two; make more clips, or choose another --split"
            )
        rng = np.random.default_rng([options.seed, len(name)])
        rows[name] = choose_clips(there, clips.labels[there], groups[there], most, rng)
    train, judged = rows["train"], rows[options.split]
    known = np.isin(labels[judged], labels[train])
    recordings = {
        label: len(np.unique(groups[judged[labels[judged] == label]]))
        for label in np.unique(labels[judged][known])
    }
    enough = [label for label, count in recordings.items() if count >= ENOUGH_RECORDINGS]
    counted = np.isin(labels[judged], enough) if len(enough) > 1 else known
    return Split(
        train, judged, labels[train], groups[train], labels[judged], groups[judged], counted
    )


def _specs(options: Options, config: Config) -> list[Spec]:
    texts = list(options.tokenizers)
    runs = [options.run] if options.run else []
    home = options.clips if (options.clips / "config.json").is_file() else options.clips.parent
    if not texts and not runs:
        runs = [home]
    specs = [parse_spec(text) for text in texts]
    for run in runs:
        own = read_config(run)
        for name in own.tokenizers:
            folder = run / "tokenizers" / name
            known = {spec.folder.resolve() for spec in specs if spec.folder}
            is_other = MODALITIES[name].media != options.media or folder.resolve() in known
            if not is_other and folder.is_dir():
                specs.append(parse_spec(str(folder)))
    if not specs:
        raise UserError(
            f"{home} has no tokenizer of {options.media} yet; name some with --tokenizer, or run: "
            f"nano4m tokenizers {config.preset} --out {home}"
        )
    return specs


def _item(media: str, value: Tensor, sample_rate: int) -> Item:
    return Item(media=media, value=value.numpy(), sample_rate=sample_rate)


@float32_math(fast=False)
def compare(options: Options) -> Comparison:
    """Return the comparison that the options ask for.

    Raises:
        UserError: No such clips, tokenizers or run.
    """
    if options.media not in MEDIA or MEDIA[options.media].form == "text":
        fitting = [name for name, kind in MEDIA.items() if kind.form != "text"]
        raise UserError(f"--media {options.media}: {nearest(options.media, fitting)}")
    config = read_config(options.clips)
    inner = options.clips / "clips"
    clips = open_clips(inner if inner.is_dir() else options.clips)
    clips.require(options.media)
    device = resolve_device(options.device)
    split = choose_split(clips, options)
    specs = _specs(options, config)
    fitted = options.dir / "tokenizers"
    found = gather(specs, clips, config, options.media, fitted, options.seed, device)
    is_plane = media_kind(options.media).is_plane
    frame = 0 if is_plane else None
    train = clips.media(options.media, split.train, frame=frame)
    judged = clips.media(options.media, split.judged, frame=frame)
    for candidate in found:
        _check_form(candidate, judged, clips, options.media)
    features = [media_features(options.media, part, clips.sample_rate) for part in (train, judged)]
    probes = probe_features({"media": (features[0], features[1])}, split)["media"]
    classifier = train_classifier(
        options.media, clips, split.train, split.labels, len(clips.classes),
        options.classifier_steps, options.seed, device,
    )  # fmt: skip
    part, listened = _decoded_rows(split, options)
    originals, of_part, shown = judged[part], _only(split, part), {}
    # On the clips that are decoded too, so that both are of the same clips.
    probes["classifier"] = score_classes(classifier.predict(originals), of_part)
    entries = []
    for candidate in found:
        log_info(f"tokenizer-report: {candidate.name}")
        entry, made = _measure(candidate, options, clips, split, train, judged, part)
        entry["classifier"] = score_classes(classifier.predict(made), of_part)
        shown[candidate.name] = made[listened]
        entries.append(entry)
    report: dict[str, Any] = {
        "format": FORMAT,
        "clips": str(clips.folder),
        "media": options.media,
        "split": options.split,
        "judged": int(split.counted.sum()),
        "recordings": len(np.unique(split.judged_groups[split.counted])),
        "trained_on": len(split.train),
        "decoded": len(part),
        "classes": [clips.classes[k] for k in np.unique(split.judged_labels[split.counted])],
        "majority": _majority(split),
        "seconds": None if is_plane else judged.shape[1] / clips.sample_rate,
        "media_probes": probes,
        "tokenizers": entries,
        "provenance": provenance(),
    }
    if options.run is not None:
        report["chain"] = _chain(options, clips, split, report, found)
    items = []
    for number, place in enumerate(listened.tolist()):
        row = split.judged[part[place]]
        original = _item(options.media, originals[place], clips.sample_rate)
        made_of = {
            name: _item(options.media, own[number], clips.sample_rate)
            for name, own in shown.items()
        }
        items.append(Shown(f"{clips.labels[row]}, {clips.clip_ids[row]}", original, made_of))
    return Comparison(report, items)


def _majority(split: Split) -> float:
    own = split.judged_labels[split.counted]
    return float(np.unique(own, return_counts=True)[1].max() / len(own))


def _check_form(candidate: Candidate, media: Tensor, clips: ClipTable, kind: str) -> None:
    tokenizer, length = candidate.tokenizer, media.shape[-1]
    rate = getattr(tokenizer, "sample_rate", clips.sample_rate)
    own = getattr(tokenizer, "media", kind)
    size = getattr(tokenizer, "picture_size" if media.ndim == 4 else "samples", length)
    if (rate, own, size) != (clips.sample_rate, kind, length):
        raise UserError(
            f"{candidate.name} is a tokenizer of {own} of size {size} at {rate} Hz, and these "
            f"clips have {kind} of size {length} at {clips.sample_rate} Hz; give its kind and "
            "settings in place of its folder, and it is fitted on them"
        )


def _decoded_rows(split: Split, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the judged clips that are decoded, a class after another, and which are shown."""
    labels = split.judged_labels
    seen: dict[int, int] = {}
    turn = []
    for label in labels.tolist():
        seen[label] = seen.get(label, -1) + 1
        turn.append(seen[label])
    order = np.lexsort((labels, np.array(turn)))
    part = order[: options.decode]
    return part, np.arange(min(options.listen, len(part)))


def _only(split: Split, part: np.ndarray) -> Split:
    counted = split.counted[part]
    return split._replace(
        judged=split.judged[part],
        judged_labels=split.judged_labels[part],
        judged_groups=split.judged_groups[part],
        counted=counted if counted.any() else np.ones_like(counted),
    )


def _measure(
    candidate: Candidate,
    options: Options,
    clips: ClipTable,
    split: Split,
    train: Tensor,
    judged: Tensor,
    part: np.ndarray,
) -> tuple[dict[str, Any], Tensor]:
    """Return the entry of a tokenizer, and the round trips of the decoded clips."""
    tokenizer, kind = candidate.tokenizer, options.media
    seconds = None if media_kind(kind).is_plane else judged.shape[1] / clips.sample_rate
    ids = [measures.encoded(tokenizer, media) for media in (train, judged)]
    made = measures.decoded(tokenizer, ids[1][part])
    pairs = [token_features(tokenizer, own) for own in ids]
    content = {name: (pairs[0][name], pairs[1][name]) for name in pairs[0]}
    section = getattr(tokenizer, "section", None)
    verdict = judge(tokenizer, kind, judged[part], ids[1][part], made)
    entry = {
        "name": candidate.name,
        "kind": tokenizer.key,
        "fingerprint": tokenizer.fingerprint,
        "licence": tokenizer.licence,
        "shape": list(tokenizer.shape),
        "settings": section.model_dump(mode="json") if section is not None else {},
        "fit_seconds": candidate.quality.get("fit_seconds"),
        **verdict_figures(verdict),
        **measures.cost(tokenizer, seconds),
        "levels": measures.level_use(tokenizer, ids[1]),
        "fidelity": measures.fidelity(tokenizer, kind, judged[part], made, clips.sample_rate),
        "speed": measures.speed(tokenizer, judged, seconds),
        "content": probe_features(content, split),
    }
    return entry, made


def _chain(
    options: Options, clips: ClipTable, split: Split, report: dict[str, Any], found: list[Candidate]
) -> dict[str, Any]:
    run = options.run
    assert run is not None
    config = read_config(run)
    folder = (run / "tokenizers" / modality_of(config, options.media)).resolve()
    fingerprint = read_object(folder / "tokenizer.json")["fingerprint"]
    names = [c.name for c in found if c.tokenizer.fingerprint == fingerprint]
    tokens = next(entry for entry in report["tokenizers"] if entry["name"] == names[-1])
    asked = ask_model(run, config, clips, options.media, split, options.split)
    return {
        "run": str(run),
        "tokenizer": names[-1],
        "left_out": asked.left_out,
        "links": links(report["media_probes"], tokens, asked),
    }
