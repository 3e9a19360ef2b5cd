"""A check in short sentences, for the table on the console and for the page alike."""

from collections.abc import Mapping
from typing import Any

from nano4m.pipeline.check_data.facts import FolderCheck
from nano4m.report.markup import short, span


def verdict(check: FolderCheck) -> str:
    """Return whether a run would work, and how many clips it would have."""
    if not check.ok:
        return "a run would not work"
    kept = sum(kept for kept, _ in check.splits.values())
    planned = sum(planned for _, planned in check.splits.values())
    most = f"{short(kept)} clips" if kept == planned else f"{short(kept)} of {short(planned)} clips"
    return f"a run would work, on {most} of {short(classes_used(check))} classes"


def classes_used(check: FolderCheck) -> int:
    """Return how many classes have a clip that is expected to be kept."""
    return sum(bool(sum(own["kept"].values())) for own in check.classes.values())


def split_line(check: FolderCheck) -> str:
    """Return the clips of each split: ``train 367, val 60 of 64``."""
    parts = [
        f"{split} {short(kept)}" + (f" of {short(planned)}" if kept < planned else "")
        for split, (kept, planned) in check.splits.items()
    ]
    return ", ".join(parts)


def group_line(check: FolderCheck) -> str:
    """Return how many clips are of how many recordings, with an example."""
    own = check.groups
    if not own.get("clips"):
        return ""
    said = f"{short(own['clips'])} clips of {short(own['groups'])} recordings"
    if own["largest"] > 1:
        said += f"; the largest has {short(own['largest'])}, such as {' and '.join(own['example'])}"
    return f"{said}; no recording is in two splits" if not own["in_two_splits"] else said


def pairing_line(check: FolderCheck) -> str:
    """Return how clips have their pictures."""
    return ", ".join(f"{short(n)} {how}" for how, n in check.pairing.items())


def duration_line(check: FolderCheck) -> str:
    """Return the lengths of recordings, decoded or of their headers."""
    own, source = check.durations, "by their headers"
    if check.decoded and check.decoded["lengths"].get("files"):
        own, source = check.decoded["lengths"], "decoded; films are not in it"
    if "median" not in own:
        return ""
    looked = own.get("looked_at", own["files"])
    some = f" ({short(looked)} of {short(own['files'])} looked at)" if looked < own["files"] else ""
    return (
        f"{span(own['seconds'])} in all, {span(own['shortest'])} to {span(own['longest'])}, median "
        f"{span(own['median'])} ({source}){some}"
    )


def rate_line(check: FolderCheck) -> str:
    """Return the sample rates with the recordings that have them."""
    return ", ".join(f"{short(n)} at {int(r):,} Hz" for r, n in check.sample_rates.items())


def picture_line(check: FolderCheck) -> str:
    """Return the sizes of pictures."""
    own = check.picture_sizes
    if "median" not in own:
        return ""
    sizes = {name: " x ".join(map(str, own[name])) for name in ("smallest", "median", "largest")}
    return (
        f"{short(own['pictures'])} pictures, {sizes['smallest']} to {sizes['largest']}, median "
        f"{sizes['median']}"
    )


def caption_line(check: FolderCheck) -> str:
    """Return how many captions there are and how long."""
    own = check.captions
    if not own:
        return ""
    said = f"{short(own['different'])} different, {_range(own['words'])} words"
    if own["tokens"]:
        said += f", {_range(own['tokens'])} tokens of at most {own['limit']}"
    return said


def _range(own: Mapping[str, float]) -> str:
    if not own:
        return "no"
    ends = (short(own["shortest"]), short(own["longest"]))
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def token_line(check: FolderCheck) -> str:
    """Return the tokens of a clip and of all."""
    own = check.tokens
    if not own:
        return ""
    parts = [f"{name} {short(m['tokens'])}" for name, m in own["modalities"].items() if m["clips"]]
    return (
        f"about {short(own['a_clip'])} a clip ({', '.join(parts)}); {short(own['in_all'])} in all "
        "views of all clips"
    )


def time_line(check: FolderCheck) -> str:
    """Return about how long a run takes, as a range."""
    own = check.time
    if not own:
        return ""
    least, most = own["seconds"]
    return f"about {span(least)} to {span(most)} on this machine ({own['device']}), an estimate"


LINES = {
    "read as": lambda check: check.form.removeprefix("read as "),
    "splits": split_line,
    "recordings": group_line,
    "pictures": pairing_line,
    "lengths": duration_line,
    "sample rates": rate_line,
    "picture sizes": picture_line,
    "captions": caption_line,
    "tokens": token_line,
    "time of a run": time_line,
}
"""What a person reads first: name -> line, "" where there is nothing to say."""


def class_rows(check: FolderCheck) -> list[tuple[str, list[Any]]]:
    """Return for each class what stands beside it: files by kind, recordings, clips by split."""
    rows = []
    for label, own in check.classes.items():
        clips = [own["kept"][split] for split in check.splits]
        files = [own["sounds"], own["films"], own["pictures"], own["groups"]]
        rows.append((label, [*files, *clips, span(own["seconds"]) if own["seconds"] else ""]))
    return rows


def class_head(check: FolderCheck) -> list[str]:
    """Return the titles of ``class_rows``."""
    return ["class", "sounds", "films", "pictures", "recordings", *check.splits, "length"]


def left_out_line(own: Mapping[str, Any]) -> str:
    """Return a reason with its classes and first names."""
    of = ", ".join(f"{short(n)} of {label}" for label, n in list(own["classes"].items())[:6])
    more = len(own["classes"]) - 6
    of += f" and {more} more classes" if more > 0 else ""
    return f"{own['reason']}" + (f" ({of})" if of else "")
