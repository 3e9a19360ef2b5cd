"""The command ``nano4m check-data``: what it refuses, and the order of its parts."""

import os
from pathlib import Path

from nano4m.config.datasets import FolderDataset
from nano4m.config.presets import PRESETS
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.media.gate import printable, reason
from nano4m.pipeline.check_data.facts import FolderCheck

DEFAULT_PRESET = "animals"


def folder_presets() -> list[str]:
    """Return the presets that read a folder of any form."""
    return [name for name, own in PRESETS.items() if isinstance(own.dataset, FolderDataset)]


def refuse_no_folder(data: Path) -> None:
    """Refuse what is no folder, cannot be read, or is empty.

    Raises:
        UserError: One sentence.
    """
    name = printable(data)
    try:
        with os.scandir(data) as listed:
            is_empty = next(listed, None) is None
    except FileNotFoundError:
        raise UserError(f"there is no folder {name}; give the one that holds your data") from None
    except NotADirectoryError:
        raise UserError(f"{name} is a file; give the folder that holds your data") from None
    except OSError as error:
        raise UserError(f"the folder {name} cannot be read: {reason(error, data)}") from error
    if is_empty:
        raise UserError(f"the folder {name} is empty; give the one that holds your data")


def refuse_page(page: Path, data: Path) -> None:
    """Refuse a page that cannot be written, or that would lie in the folder that is checked.

    Raises:
        UserError: One sentence.
    """
    if page.is_dir():
        raise UserError(f"--html {printable(page)} is a folder; give a file, such as check.html")
    if data.resolve() in page.resolve().parents:
        raise UserError(
            f"--html {printable(page)} lies in {printable(data)}, into which nothing is written; "
            "give a file elsewhere"
        )
    if not page.resolve().parent.is_dir():
        raise UserError(f"--html {printable(page)}: there is no folder {printable(page.parent)}")


def check_data(
    config: Config, data: Path, *, deep: bool = False, page: Path | None = None
) -> FolderCheck:
    """Return what a run of ``config`` would make of a folder, and write the page.

    Args:
        config: Of the run.
        data: The folder; nothing is written into it.
        deep: Decode all clips as a run would.
        page: An HTML file to write.

    Raises:
        UserError: It is no folder, is empty or cannot be read; or the page cannot be written.
    """
    refuse_no_folder(data)
    if page is not None:
        refuse_page(page, data)
    from nano4m.pipeline.check_data.look import fill, look

    check, planned = look(config, data)
    if deep and planned is not None and not planned.refusal:
        from nano4m.pipeline.check_data.deep import decode, warnings_of_decoded

        # What headers tell is no reason any more: the clips themselves do.
        check = FolderCheck(folder=str(data), preset=config.preset)
        decode(check, config, planned, data)
        fill(check, config, planned)
        check.warnings += warnings_of_decoded(check)
    if page is not None:
        from nano4m.pipeline.check_data.page import write_page
        from nano4m.pipeline.check_data.sheet import sheet

        write_page(check, sheet(config, planned.used if planned else []), page)
    return check
