"""Is a tokenizer broken? Its round trip of real media says so, before a model learns its ids.

A verdict rests on what no working tokenizer does, so that a weak one passes and a broken one does
not: ids that do not fit the vocabulary, the same ids for different media, values that are no
numbers, silence for sounds that can be heard, one colour for pictures that have several, and round
trips that are no nearer to their own original than to another one. Media that are silent, of one
colour or all alike say nothing about a tokenizer: they are left out of each check.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nano4m.errors import UserError
from nano4m.media import media_kind
from nano4m.progress import log_info

LEAST_ITEMS = 8
"""Items that differ, below which they are not told apart by their round trips."""

AUDIBLE_DB, LOST_DB = -60.0, 40.0
"""A sound above the first, in dB of full scale, must not come back lower by the second or more."""

SEEN, FLAT = 0.02, 0.002
"""Standard deviation of a picture's values that has several colours, and of one that has one."""

ALIKE = {"plane": 0.02, "sound": 2.0}
"""Form -> root mean square of the difference from the mean of all below which an item is like it:
in values of a pixel, and in dB of a mel band."""

CAUSES = {
    "ids": "its codebooks, shape or vocabulary are not those it was fitted with; fit it again",
    "constant ids": "its codebook collapsed, or its encoder ignores its input; fit it for more "
    "steps (--tokenizers.NAME.steps) or at a lower rate (--tokenizers.NAME.lr)",
    "not finite": "its fit diverged; lower --tokenizers.NAME.lr",
    "silence": "its decoder gives nothing: the fit diverged or was too short; raise "
    "--tokenizers.NAME.steps, or lower --tokenizers.NAME.lr",
    "one colour": "its decoder ignores its ids: the fit was too short or diverged; raise "
    "--tokenizers.NAME.steps, or lower --tokenizers.NAME.lr",
    "another's": "it decodes other ids than it encodes, or its fit was far too short; raise "
    "--tokenizers.NAME.steps, or fit it again",
    "texts": "its vocabulary is not that of these texts; fit it again",
}
"""What is wrong -> its likely cause, and what to do; NAME is the modality."""

PRETRAINED = (
    "its weights were never trained, or are those of another network; give others "
    "(--tokenizers.NAME.weights)"
)
"""The likely cause of anything wrong with a tokenizer whose weights come from elsewhere."""


class Fault(NamedTuple):
    """What is wrong: a key of CAUSES, and what was found."""

    fault: str
    reason: str


class Verdict(NamedTuple):
    """What the round trip of real media says.

    Attributes:
        fault: A key of CAUSES, or none.
        reason: What was found, with its figure; empty without a fault.
        own_nearer_share: Share of pairs of items whose round trip is nearer to its own original
            than to the other's: 1 is right, 0.5 is chance. None where items are too few or alike.
    """

    fault: str | None
    reason: str
    own_nearer_share: float | None

    def advice(self, name: str, is_pretrained: bool = False) -> str:
        """Return the likely cause and what to do, for the tokenizer of a modality."""
        cause = PRETRAINED if is_pretrained else CAUSES.get(self.fault or "", "unknown")
        return cause.replace("NAME", name)


def judge(tokenizer: Any, kind: str, media: Any, ids: Tensor, decoded: Any) -> Verdict:
    """Return the verdict on a tokenizer whose ids fit, see ``check_ids_fit``.

    Args:
        tokenizer: Its sample rate is read, of sounds.
        kind: Of the media.
        media: Originals, as tokenizers take them.
        ids: Of them, (B, *shape).
        decoded: Round trips, in the form of ``media``.
    """
    form = media_kind(kind).form
    if isinstance(media, list):
        return _of_texts(media, decoded)
    x, y = media.float().cpu(), decoded.float().cpu()
    bad = ~torch.isfinite(y).flatten(1).all(1)
    if bool(bad.any()):
        said = f"{int(bad.sum())} of {len(y)} round trips have values that are no numbers"
        return Verdict("not finite", said, None)
    check, features = CHECKS[form], FEATURES[form]
    found = check(x, y)
    before, after = (features(values, tokenizer) for values in (x, y))
    differ = _distinct(before, ALIKE[form])
    if found is None and len(differ) >= 2:
        found = _check_constant_ids(ids.cpu()[differ])
    share = None
    if len(differ) >= LEAST_ITEMS:
        share = own_nearer_share(before[differ], after[differ])
        if found is None and share < least_share(len(differ)):
            found = Fault(
                "another's",
                f"in {100 * share:.0f} % of the pairs of {len(differ)} media a round trip is "
                "nearer to its own original than to the other; chance is 50 %",
            )
    return Verdict(None, "", share) if found is None else Verdict(found.fault, found.reason, share)


def check_ids_fit(tokenizer: Any, ids: Tensor) -> Verdict | None:
    """Return the verdict on ids that do not fit their tokenizer's own shape and vocabulary.

    None: they fit, each in the range of its codebook.
    """
    shape, size = tuple(tokenizer.shape), tokenizer.vocab_size
    if tuple(ids.shape[1:]) != shape:
        return Verdict("ids", f"its ids have the shape {tuple(ids.shape[1:])}, not {shape}", None)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        said = f"its ids are {low} to {high}, and its vocabulary allows 0 to {size - 1}"
        return Verdict("ids", said, None)
    books = tokenizer.num_codebooks
    if books > 1:
        wrong = ids // (size // books) != torch.arange(books, device=ids.device)
        if bool(wrong.any()):
            share = 100 * float(wrong.float().mean())
            return Verdict("ids", f"{share:.3g} % of its ids are those of another codebook", None)
    return None


def _check_constant_ids(ids: Tensor) -> Fault | None:
    if bool((ids == ids[:1]).all()):
        return Fault("constant ids", f"{len(ids)} different media all have the same ids")
    return None


def _check_level(x: Tensor, y: Tensor) -> Fault | None:
    from nano4m.media.sound import rms_db

    before, after = rms_db(x), rms_db(y)
    audible = before > AUDIBLE_DB
    if not bool(audible.any()):
        return None
    lost = audible & (after < before - LOST_DB)
    if 2 * int(lost.sum()) <= int(audible.sum()):
        return None
    levels = [float(values[lost].median()) for values in (before, after)]
    return Fault(
        "silence",
        f"{int(lost.sum())} of {int(audible.sum())} audible sounds come back as silence: "
        f"{levels[0]:.0f} dB before, {levels[1]:.0f} dB or less after",
    )


def _check_colours(x: Tensor, y: Tensor) -> Fault | None:
    def spread(planes: Tensor) -> Tensor:
        return planes.flatten(2).std(2).amax(1)

    several = spread(x) > SEEN
    if not bool(several.any()):
        return None
    flat = several & (spread(y) < FLAT)
    if 2 * int(flat.sum()) <= int(several.sum()):
        return None
    return Fault(
        "one colour",
        f"{int(flat.sum())} of {int(several.sum())} media of several colours come back as one "
        f"colour: standard deviation {float(spread(x)[flat].median()):.2g} before, "
        f"{float(spread(y)[flat].median()):.2g} after",
    )


def _of_texts(texts: list[str], decoded: list[str]) -> Verdict:
    exact = sum(a == b for a, b in zip(texts, decoded, strict=True))
    if not exact and len(set(texts)) > 1 and len(set(decoded)) == 1:
        said = f"{len(set(texts))} different texts all come back as {decoded[0]!r}"
        return Verdict("texts", said, None)
    return Verdict(None, "", None)


def _mel_levels(media: Tensor, tokenizer: Any) -> Tensor:
    # Levels of mel bands, as the phase of a sound does not matter.
    from nano4m.media.mel import MelSpectrogram
    from nano4m.media.sound import SPECTRUM

    return MelSpectrogram(tokenizer.sample_rate, **SPECTRUM)(media).flatten(1)


CHECKS: dict[str, Callable[[Tensor, Tensor], Fault | None]] = {
    "plane": _check_colours,
    "sound": _check_level,
}
FEATURES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "plane": lambda media, _: media.flatten(1),
    "sound": _mel_levels,
}
"""Form -> what of media is compared with their round trips."""


def _distinct(features: Tensor, least: float) -> Tensor:
    """Return rows that are no copies and differ from the mean of all, int64."""
    _, which = features.unique(dim=0, return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(which), dtype=torch.int64)
    first.scatter_reduce_(0, which, torch.arange(len(which)), "amin")
    rows = first.sort().values
    away = (features[rows] - features[rows].mean(0)).square().mean(1).sqrt()
    return rows[away > least]


def own_nearer_share(x: Tensor, y: Tensor) -> float:
    """Return how often y[i] correlates more with x[i] than with x[j], over all pairs i, j.

    Both are (B, features), B > 1, without their mean over the batch: what all have in common says
    nothing of a single one. Chance, and where all y are alike, is 0.5.
    """
    x, y = (values.double() - values.double().mean(0) for values in (x, y))
    unit = [values / values.norm(dim=1, keepdim=True).clamp_min(1e-9) for values in (y, x)]
    product = unit[0] @ unit[1].T
    others = ~torch.eye(len(x), dtype=torch.bool)
    own, other = product.diagonal()[:, None].expand_as(product)[others], product[others]
    return float(((own > other).double() + 0.5 * (own == other).double()).mean())


def least_share(count: int) -> float:
    """Return the share of ``own_nearer_share`` below which round trips are as good as shuffled.

    Pairs of one item depend on each other, so it is three standard deviations of as many
    independent uniform ranks as there are items.
    """
    return 0.5 + 3 * (1 / 12 / count) ** 0.5


def verdict_figures(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as it stands in ``fit.json`` and in the manifest."""
    if verdict.fault is None:
        return {"verdict": "fine"}
    return {"verdict": "broken", "verdict_fault": verdict.fault, "verdict_reason": verdict.reason}


def refuse_broken(qualities: Mapping[str, Any], accepts: bool) -> None:
    """Refuse to go on with a broken tokenizer, or say that it is accepted.

    Args:
        qualities: Modality -> figures, as the manifest of the stage has them; those of before have
            no verdict.
        accepts: Whether to go on anyway.

    Raises:
        UserError: With what was found, the likely cause and what to do.
    """
    broken = {
        name: Verdict(own.get("verdict_fault"), own.get("verdict_reason", ""), None)
        for name, own in qualities.items()
        if isinstance(own, Mapping) and own.get("verdict") == "broken"
    }
    said = [
        f"the tokenizer of {name} is broken: {verdict.reason}. Likely cause: "
        + verdict.advice(name, "weights" in qualities[name])
        for name, verdict in broken.items()
    ]
    if said and accepts:
        for line in said:
            log_info(f"note: {line}")
    elif said:
        raise UserError(
            "\n".join(said) + "\nTo go on with it anyway, add --broken-tokenizers accept"
        )
