"""A check of a folder without decoding: counts, headers, captions, tokens and time."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nano4m.config.run import Config
from nano4m.data.plan_checks import least_clips
from nano4m.data.sources.base import Split
from nano4m.data.sources.folder_contents import Picture
from nano4m.errors import UserError
from nano4m.media.picture import picture_size
from nano4m.pipeline.check_data.captions import text_figures
from nano4m.pipeline.check_data.estimate import check_modalities, time_figures, token_figures
from nano4m.pipeline.check_data.facts import FolderCheck, spread
from nano4m.pipeline.check_data.planned import Planned, plan_folder, read_headers
from nano4m.pipeline.check_data.suspicions import warnings_of

SPLITS: tuple[Split, ...] = ("train", "val", "test")

MOST_PICTURES = 20_000
"""Pictures whose headers are read here; those that a run looks at anyway are no part of it."""

FIRST = 3
"""Names of a reason that are listed."""


def look(config: Config, data: Path) -> tuple[FolderCheck, Planned | None]:
    """Return what a run of ``config`` would make of a folder; nothing is decoded or written.

    A folder that cannot be read at all gives a check with its reason, and no plan.
    """
    check = FolderCheck(folder=str(data), preset=config.preset)
    try:
        planned = plan_folder(config, data)
    except UserError as error:
        check.refuse(str(error))
        return check, None
    read_headers(planned, config.clips)
    fill(check, config, planned)
    return check, planned


def fill(check: FolderCheck, config: Config, planned: Planned) -> None:
    """Set all fields of ``check`` that follow from a plan and its headers."""
    check.form, check.notes = planned.contents.form, planned.notes
    check.pairing = dict(planned.plans.pairing)
    check.groups = _groups(planned)
    check.classes = _classes(planned)
    check.splits = _splits(planned)
    check.durations, check.sample_rates = _recordings(planned)
    check.picture_sizes = _pictures(planned, config.clips.picture_size)
    check.left_out = _left_out(planned)
    if planned.refusal:
        check.refuse(planned.refusal)
    else:
        _estimate(check, config, planned)
    check.warnings = warnings_of(check, config, planned)


def _estimate(check: FolderCheck, config: Config, planned: Planned) -> None:
    """Set captions, tokens and time, and refuse what would end a run later."""
    try:
        _check_expected(planned, config)
        check.captions = text_figures(config, planned)
        check.tokens = token_figures(config, planned, check.captions)
        check.time = time_figures(config, planned, check.tokens)
        check_modalities(config, planned)
    except UserError as error:
        check.refuse(str(error))


def _check_expected(planned: Planned, config: Config) -> None:
    """Refuse a folder of which headers tell that too few clips will be left.

    Raises:
        UserError: With the reasons.
    """
    by_split = Counter[str](plan.split for plan in planned.used)
    empty = [split for split, least in least_clips(config).items() if by_split[split] < least]
    if empty:
        reasons = Counter(why.split(":")[0] for why in planned.lost.values())
        listed = ", ".join(f"{count} {why}" for why, count in reasons.most_common())
        raise UserError(
            f"too few clips for {', '.join(empty)}: of {len(planned.plans)} planned, "
            f"{len(planned.lost)} will not be kept ({listed}); fix the media or the settings"
        )


def _groups(planned: Planned) -> dict[str, Any]:
    members: dict[str, list[str]] = defaultdict(list)
    splits: dict[str, set[str]] = defaultdict(set)
    for plan in planned.plans:
        pictures = plan.details.get("pictures")
        names = pictures if isinstance(pictures, list) and pictures else [plan.clip_id]
        members[plan.video_id].append(Path(str(plan.details.get("file", names[0]))).name)
        splits[plan.video_id].add(plan.split)
    largest = max(sorted(members), key=lambda name: len(members[name]), default="")
    return {
        "clips": len(planned.plans),
        "groups": len(members),
        "largest": len(members[largest]) if largest else 0,
        "name": largest,
        "example": sorted(members[largest])[:2] if largest else [],
        "in_two_splits": sum(len(own) > 1 for own in splits.values()),
    }


def _classes(planned: Planned) -> dict[str, dict[str, Any]]:
    contents, expected = planned.contents, planned.expected()
    clips = Counter((plan.label, plan.split) for plan in planned.plans)
    groups: dict[str, set[str]] = defaultdict(set)
    for plan in planned.plans:
        groups[plan.label].add(plan.video_id)
    seconds: Counter[str] = Counter()
    sounds: Counter[str] = Counter()
    films: Counter[str] = Counter()
    for recording in contents.recordings:
        (films if recording.is_video else sounds)[recording.label] += 1
        header = planned.headers.get(str(recording.path))
        seconds[recording.label] += header.seconds if header else 0.0  # type: ignore[assignment]
    pictures = Counter(picture.label for picture in contents.pictures)
    return {
        label: {
            "sounds": sounds[label],
            "films": films[label],
            "pictures": pictures[label],
            "groups": len(groups[label]),
            "clips": {split: clips[label, split] for split in SPLITS},
            "kept": {split: expected[label, split] for split in SPLITS},
            "seconds": round(seconds[label], 1),
        }
        for label in sorted({*sounds, *films, *pictures})
    }


def _splits(planned: Planned) -> dict[str, list[int]]:
    planned_clips = Counter(plan.split for plan in planned.plans)
    kept = Counter(plan.split for plan in planned.used)
    return {split: [kept[split], planned_clips[split]] for split in SPLITS if planned_clips[split]}


def _recordings(planned: Planned) -> tuple[dict[str, Any], dict[str, int]]:
    headers = list(planned.headers.values())
    files = {str(p.details["file"]) for p in planned.plans if "file" in p.details}
    told = [header.seconds for header in headers if header.seconds]
    rates = Counter(header.rate for header in headers if header.rate)
    durations = {"files": len(files), "looked_at": len(headers), "seconds": round(sum(told), 1)}
    return durations | spread(told), {str(rate): n for rate, n in rates.most_common()}


def _pictures(planned: Planned, least: int) -> dict[str, Any]:
    pictures: Sequence[Picture] = planned.contents.pictures
    unknown = [picture for picture in pictures if picture.size is None][:MOST_PICTURES]
    sizes = [picture.size for picture in pictures if picture.size]
    sizes += [size for picture in unknown if (size := picture_size(picture.path))]
    found: dict[str, Any] = {"pictures": len(pictures), "looked_at": len(sizes)}
    if not sizes:
        return found
    ordered = sorted(sizes, key=lambda size: (min(size), size))
    return found | {
        "smallest": list(ordered[0]),
        "median": list(ordered[len(ordered) // 2]),
        "largest": list(ordered[-1]),
        "small": sum(min(size) < least for size in ordered),
    }


def _left_out(planned: Planned) -> list[dict[str, Any]]:
    """Return files that are not read, then clips that will not be kept, the most first."""
    unread = planned.plans.unread or planned.contents.unread_by_reason()
    found = [
        {
            "what": "files",
            "reason": why,
            "count": sum(by_class.values()),
            "classes": {label: n for label, n in by_class.items() if label},
            "first": planned.contents.unread.names_of(why)[:FIRST]
            or _few(planned, set(by_class))[:FIRST],
        }
        for why, by_class in unread.items()
    ]
    lost: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    labels = {plan.clip_id: plan.label for plan in planned.plans}
    for clip, why in planned.lost.items():
        kind, _, more = why.partition(":")
        lost[kind].append((labels[clip], clip, more.strip()))
    for kind, clips in sorted(lost.items(), key=lambda item: -len(item[1])):
        found.append(
            {
                "what": "clips",
                "reason": kind,
                "count": len(clips),
                "classes": dict(Counter(label for label, _, _ in clips).most_common()),
                "first": [f"{clip}: {more}" if more else clip for _, clip, more in clips[:FIRST]],
            }
        )
    return found


def _few(planned: Planned, labels: set[str]) -> list[str]:
    """Return names of recordings of classes that are left out as a whole."""
    return [r.name for r in planned.contents.recordings if r.label in labels]
