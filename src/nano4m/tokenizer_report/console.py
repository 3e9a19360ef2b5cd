"""A comparison as text: aligned columns, or tables of Markdown."""

from typing import Any

from nano4m.tokenizer_report.rows import about, tables


def as_text(report: dict[str, Any]) -> str:
    """Return the tables with aligned columns, for a terminal."""
    parts = [about(report)]
    for title, (head, rows) in tables(report).items():
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            "  ".join(
                cell.ljust(width) if not i else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, *rows]
        ]
        parts.append("\n".join([title, *lines]))
    return "\n\n".join(parts + [_broken(report)] if _broken(report) else parts)


def as_markdown(report: dict[str, Any]) -> str:
    """Return the tables as Markdown, for a page of documentation."""
    parts = [about(report)]
    for head, rows in tables(report).values():
        lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in lines))
    return "\n\n".join(parts)


def _broken(report: dict[str, Any]) -> str:
    return "\n".join(
        f"{entry['name']} is broken: {entry['verdict_reason']}"
        for entry in report["tokenizers"]
        if entry["verdict"] == "broken"
    )
