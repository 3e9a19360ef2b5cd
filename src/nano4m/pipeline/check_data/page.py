"""A check as a page: tables, warnings, and clips as they would be cut, seen and heard."""

from pathlib import Path

from nano4m.media import media_kind
from nano4m.pipeline.check_data.facts import FolderCheck, counted
from nano4m.pipeline.check_data.sheet import Shown
from nano4m.pipeline.check_data.words import (
    LINES,
    class_head,
    class_rows,
    classes_used,
    left_out_line,
    verdict,
)
from nano4m.report.color_scale import ColorScale, shared_color_scale
from nano4m.report.markup import Html, facts, join, section, short, span, table, tag
from nano4m.report.render import render
from nano4m.report.template import page_text
from nano4m.stage import provenance
from nano4m.storage.files import write_text


def _card(what: str, figure: object, beside: object = "") -> Html:
    return tag(
        "li",
        tag("span", what, class_="what"),
        tag("span", figure, class_="figure"),
        tag("span", beside, class_="against"),
    )


def _headline(check: FolderCheck) -> Html:
    said = verdict(check)
    parts = [tag("b", f"{said[0].upper()}{said[1:]}.")]
    if check.reason:
        parts.append(tag("p", check.reason))
    box = tag("div", *parts, class_="verdict" if check.ok else "verdict wrong")
    kept = sum(kept for kept, _ in check.splits.values())
    planned = sum(planned for _, planned in check.splits.values())
    cards = [
        _card("clips", short(kept), f"of {short(planned)} planned"),
        _card(
            "classes", short(classes_used(check)), f"of {short(len(check.classes))} in the folder"
        ),
    ]
    if check.groups.get("clips"):
        cards.append(_card("recordings, each in one split", short(check.groups["groups"])))
    if check.durations.get("seconds"):
        length = check.durations["seconds"]
        cards.append(
            _card("of recordings", Html(span(length).replace(" ", "&nbsp;")), "by their headers")
        )
    if check.tokens:
        cards.append(
            _card(
                "tokens a clip",
                short(check.tokens["a_clip"]),
                f"{short(check.tokens['in_all'])} in all",
            )
        )
    if check.time:
        least, most = check.time["seconds"]
        cards.append(
            _card(
                "time of a run",
                Html(span(most).replace(" ", "&nbsp;")),
                f"at most; at least {span(least)}; estimated",
            )
        )
    return join([box, tag("ul", *cards, class_="cards") if kept else ""])


def _warnings(check: FolderCheck) -> Html | None:
    if not check.warnings:
        return None
    lines = [tag("li", warning) for warning in check.warnings]
    how = "What looks like a mistake. None of it keeps a run from working, unless it says so above."
    return section("warnings", "Look at", how, tag("ul", *lines, class_="warnings"))


def _folder(check: FolderCheck) -> Html:
    lines = {name: said for name, line in LINES.items() if (said := line(check))}
    how = "How the folder is read, and what a run would make of it. " + (
        "All clips were decoded and cut as a run does it."
        if check.decoded
        else "Nothing was decoded: lengths and sizes are those of headers."
    )
    return section("folder", "The folder", how, facts(lines))


def _classes(check: FolderCheck) -> Html | None:
    if not check.classes:
        return None
    head = class_head(check)
    largest = max((sum(own["kept"].values()) for own in check.classes.values()), default=0) or 1
    rows = []
    for label, cells in class_rows(check):
        kept = [check.classes[label]["kept"][split] for split in check.splits]
        parts = [tag("i", style=f"width:{180 * n / largest:.0f}px") for n in kept]
        rows.append(
            [
                label,
                *(short(cell) if cell else "" for cell in cells),
                tag("span", *parts, class_="bars"),
            ]
        )
    if not check.splits:
        rows = [row[:-1] for row in rows]
    bars = f"; the bars are clips of {', '.join(check.splits)}" if check.splits else ""
    how = f"Files and clips of each class{bars}."
    return section(
        "classes", "Classes", how, table([*head, ""][: len(rows[0])], rows, label="Classes")
    )


def _left_out(check: FolderCheck) -> Html | None:
    if not check.left_out:
        return None
    rows = [
        [
            left_out_line(own),
            join(own["first"], "<br>"),
            counted(own["count"], own["what"].removesuffix("s")),
        ]
        for own in check.left_out
    ]
    how = (
        "Files that no clip reads, and clips that would not be kept, with the first names of each."
    )
    head = ("why", "first", "how many")
    return section("left-out", "Left out", how, table(head, rows, text=2, label="Left out"))


def _clip(shown: Shown, scale: ColorScale) -> Html:
    plan = shown.plan
    pictures = [item for item in shown.items if media_kind(item.media).is_plane]
    others = [item for item in shown.items if not media_kind(item.media).is_plane]
    media = [render(item, scale, plan.label) for item in others]
    frames = [render(item, scale, plan.label) for item in pictures]
    parts = [tag("b", plan.label), tag("small", f"{plan.split}: {plan.caption}")]
    parts += [tag("div", *frames, class_="frames")] if frames else []
    parts += media
    if shown.reason:
        parts.append(tag("small", f"not kept: {shown.reason}"))
    return tag("li", *parts, tag("small", plan.clip_id))


def _sheet(shown: list[Shown]) -> Html | None:
    if not shown:
        return None
    scale = shared_color_scale(item for own in shown for item in own.items)
    clips = [_clip(own, scale) for own in shown]
    how = (
        "Some clips of each class, decoded and cut as a run does it: the window of the sound, and "
        "pictures of the clip after the crop."
    )
    return section("clips", "Clips as they would be cut", how, tag("ul", *clips, class_="contact"))


def _notes(check: FolderCheck) -> Html | None:
    if not check.notes:
        return None
    how = "What a run prints when it reads this folder."
    return section("notes", "As a run says it", how, tag("pre", "\n".join(check.notes)))


def write_page(check: FolderCheck, shown: list[Shown], path: Path) -> None:
    """Write the page of a check, whole or not at all; media are inlined."""
    sections = [
        _warnings(check), _folder(check), _classes(check), _left_out(check), _sheet(shown),
        _notes(check),
    ]  # fmt: skip
    links = {
        "warnings": "Look at", "folder": "The folder", "classes": "Classes", "left-out": "Left out",
        "clips": "Clips", "notes": "As a run says it",
    }  # fmt: skip
    text = page_text(
        title=f"{Path(check.folder).resolve().name}: what a run would make of it",
        lead=f"nano4m check-data {check.folder} with the settings of {check.preset}.",
        headline=_headline(check),
        links=links,
        sections=sections,
        footer=f"nano4M-Audio, commit {provenance()['commit']}",
    )
    write_text(path, text)
