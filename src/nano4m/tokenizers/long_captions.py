"""What becomes of captions that a tokenizer cannot take whole, and how it is said."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from nano4m.config.tokenizers import Bpe
from nano4m.errors import UserError
from nano4m.progress import log_info

MOST_LETTERS = 80
"""Of a caption that is quoted."""

_JOINERS = {"\u200d"}
"""Signs after which a character goes on."""


def cut_at_word(text: str, end: int, fits: Callable[[str], bool]) -> str:
    """Return the longest beginning of a text that fits and ends with a word, or "".

    Where no word fits, as in Chinese, Thai or emoji, it ends with a whole character instead, its
    accents and joined signs included; a single word of letters with cases is not cut.

    Args:
        text: The text.
        end: Number of letters after which it may end, at most.
        fits: Whether a beginning is short enough.
    """
    words = [m.start() for m in re.finditer(r"\s+", text) if m.start()]
    signs = [i for i in range(1, len(text)) if not _goes_on(text, i)]
    has_words = not any(unicodedata.category(sign) in ("Lo", "So") for sign in text)
    for ends in [words] if has_words else [words, signs]:
        for i in reversed(ends):
            if i <= end and fits(text[:i].rstrip()):
                return text[:i].rstrip()
    return ""


def _goes_on(text: str, i: int) -> bool:
    """Whether the sign at ``i`` belongs to the character before it."""
    is_modifier = "\U0001f3fb" <= text[i] <= "\U0001f3ff"
    return (
        unicodedata.category(text[i]).startswith("M")
        or text[i] in _JOINERS
        or text[i - 1] in _JOINERS
        or is_modifier
    )


def quoted(text: str) -> str:
    """Return a caption as a message quotes it."""
    return repr(text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 3]}...")


def tell_long(
    name: str,
    long: Sequence[tuple[str, str, int]],
    captions: int,
    section: Bpe,
    within: Callable[[str], str],
) -> None:
    """Log what becomes of captions that are too long, or refuse them.

    Args:
        name: Of the modality.
        long: Clip, caption and number of tokens of each that is too long.
        captions: How many there are of all lengths.
        section: Says what becomes of them.
        within: Returns what is left of one, or "".

    Raises:
        UserError: ``section.too_long`` is refuse, and there is one.
    """
    if not long:
        return
    clip, text, count = long[0]
    option = f"--tokenizers.{name}"
    said = (
        f"{name}: {len(long)} of {captions} captions have more than {section.max_length} tokens, "
        f"their end included (first that of clip {clip}: {quoted(text)}, {count} tokens)"
    )
    room = f"{option}.max_length {max(count for _, _, count in long)} has room for all"
    if section.too_long == "refuse":
        raise UserError(
            f"{said}; {room}, {option}.too_long cut cuts them at a word, and leave_out leaves them "
            "out"
        )
    left = within(text)
    became = f"cut at a word, this one to {quoted(left)}" if left else "left out"
    other = "leave_out" if section.too_long == "cut" else "cut"
    log_info(f"{said}; they are {became}. {room}; or {option}.too_long {other}, or refuse")


def tell_strange(name: str, strange: Sequence[tuple[str, str]], captions: int) -> None:
    """Log captions with bytes that no train caption has: clip and caption of each, of how many."""
    if strange:
        clip, text = strange[0]
        log_info(
            f"{name}: {len(strange)} of {captions} captions have signs that no train caption has, "
            f"which become an unknown one (first that of clip {clip}: {quoted(text)})"
        )
