"""What of a folder looks like a mistake, a sentence each."""

from collections import Counter

from nano4m.config.run import Config
from nano4m.data.sources.folder_contents import shortened
from nano4m.pipeline.check_data.facts import FolderCheck, counted
from nano4m.pipeline.check_data.planned import Planned

DOMINANT = 0.5
"""Share of the training clips from which on one of three classes or more dominates."""

DOMINANT_OF_TWO = 0.8
"""The same of two classes."""

FEW_CLIPS = 200
"""Training clips below which a model mostly learns them by heart."""


POLICIES = {"cut": "cut at a word", "leave_out": "left out", "refuse": "refused"}


def warnings_of(check: FolderCheck, config: Config, planned: Planned) -> list[str]:
    """Return all warnings, those about classes first."""
    found = [*_of_classes(check), *_of_sounds(check, config, planned)]
    found += [*_of_pictures(check, config), *_of_captions(check)]
    if check.groups.get("in_two_splits"):
        found.append(
            f"{counted(check.groups['in_two_splits'], 'recording')} with clips in two splits; only "
            "those of the later split are used"
        )
    return found


def _of_classes(check: FolderCheck) -> list[str]:
    found = []
    used = {label: own for label, own in check.classes.items() if sum(own["clips"].values())}
    for split, what in (("train", "training"), ("val", "validation")):
        without = [label for label, own in used.items() if not own["kept"][split]]
        if without:
            is_lost = [label for label in without if used[label]["clips"][split]]
            how = f" ({len(is_lost)} of them lose all of theirs)" if is_lost else ""
            found.append(f"no {what} clip of {_count(without)}{how}: {shortened(without)}")
    one = [
        label
        for label, own in used.items()
        if own["groups"] == 1 and sum(own["clips"].values()) > 1
    ]
    if one:
        found.append(
            f"all clips of {_count(one)} are of one recording, so it is in one split: "
            f"{shortened(one)}"
        )
    out = [label for label in check.classes if label not in used]
    if out and used:
        found.append(f"no clip at all of {_count(out)}: {shortened(out)}")
    train = Counter({label: own["kept"]["train"] for label, own in used.items()})
    if len(train) > 1 and train.total():
        label, most = train.most_common(1)[0]
        share = most / train.total()
        if share > (DOMINANT if len(train) > 2 else DOMINANT_OF_TWO):
            found.append(f"class {label!r} has {share:.0%} of the training clips")
    if 0 < train.total() < FEW_CLIPS:
        found.append(
            f"few training clips ({train.total()}): a model will know them by heart rather than "
            "what they have in common"
        )
    if set(used) == {"unlabelled"}:
        found.append("no class is known, so there is no figure by class")
    return found


def _count(labels: list[str]) -> str:
    return counted(len(labels), "class")


def _of_sounds(check: FolderCheck, config: Config, planned: Planned) -> list[str]:
    found = []
    clips = config.clips
    rates = {int(rate): count for rate, count in check.sample_rates.items()}
    low = {rate: count for rate, count in rates.items() if rate < clips.sample_rate}
    if low:
        listed = shortened([f"{count} of {rate} Hz" for rate, count in sorted(low.items())])
        found.append(
            f"{counted(sum(low.values()), 'recording')} with a lower sample rate than the "
            f"{clips.sample_rate} Hz of clips, so that the highest frequencies are empty: {listed}"
        )
    told = [header.seconds for header in planned.headers.values() if header.seconds]
    short = sum(seconds < clips.window_seconds / 4 for seconds in told)
    if short:
        found.append(
            f"{short} of {counted(len(told), 'recording')} shorter than a quarter of the window of "
            f"{clips.window_seconds:.2f} s (by their headers); the rest of it is silence"
        )
    empty = sum(not header.seconds for header in planned.headers.values())
    if empty:
        found.append(f"{counted(empty, 'recording')} whose header says no length (--deep finds it)")
    kinds = {"no picture": "without a picture", "no sound": "without a sound"}
    for start, what in kinds.items():
        count = sum(why.startswith(start) for why in planned.lost.values())
        if count:
            found.append(f"{counted(count, 'clip')} {what}, which --clips.require asks for")
    return found


def _of_pictures(check: FolderCheck, config: Config) -> list[str]:
    found = []
    sizes = check.picture_sizes
    if sizes.get("small"):
        size = config.clips.picture_size
        found.append(
            f"{sizes['small']} of {counted(sizes['looked_at'], 'picture')} with a side below the "
            f"{size} pixels of clips, enlarged"
        )
    lone = [
        label
        for label, own in check.classes.items()
        if own["sounds"] and not own["pictures"] and sum(own["clips"].values())
    ]
    if lone and any(own["pictures"] for own in check.classes.values()):
        found.append(f"sounds and no picture in {_count(lone)}: {shortened(lone)}")
    return found


def _of_captions(check: FolderCheck) -> list[str]:
    found = []
    captions = check.captions
    clips = check.groups.get("clips", 0)
    if captions.get("different") == 1 and clips > 1:
        found.append(
            f"all captions are equal ({captions['longest']!r}): nothing can be learnt from them"
        )
    if captions.get("too_long"):
        found.append(
            f"{captions['too_long']} of {captions['captions']} captions have more than the "
            f"{captions['limit']} tokens of their tokenizer's max_length and are "
            f"{POLICIES[captions['policy']]} (first that of {captions['first'][0]})"
        )
    return found
