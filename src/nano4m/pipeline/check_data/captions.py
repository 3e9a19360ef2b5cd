"""Lengths of the captions of a folder, in words and in tokens of the run's own vocabulary."""

from typing import Any

from nano4m.config.run import Config
from nano4m.config.tokenizers import Bpe
from nano4m.data.sources.base import ClipPlan
from nano4m.pipeline.check_data.facts import spread
from nano4m.pipeline.check_data.planned import Planned
from nano4m.progress import collected_log

FIRST = 3
"""Clips that are named."""


def captions_of(plan: ClipPlan) -> list[str]:
    """Return all captions of a clip; [] if it has none."""
    return [text for text in (plan.caption, *plan.more_captions) if text]


def text_figures(config: Config, planned: Planned) -> dict[str, Any]:
    """Return lengths of the captions in words and tokens, and those that are too long.

    The vocabulary is learnt on the captions of the train split, as the run does it, and what that
    says is added to the notes.

    Raises:
        UserError: As the caption tokenizer of the run.
    """
    named = [(plan, text) for plan in planned.used for text in captions_of(plan)]
    texts = sorted({text for _, text in named})
    found: dict[str, Any] = {
        "captions": len(named),
        "different": len(texts),
        "words": spread([len(text.split()) for _, text in named], 0),
        "tokens": {},
        "all": None,
        "too_long": 0,
        "longest": max(texts, key=lambda text: (len(text), text), default=""),
        "limit": None,
        "policy": None,
        "first": [],
    }
    chosen = [(n, s) for n, s in config.tokenizers.items() if isinstance(s, Bpe)]
    train = [text for plan, text in named if plan.split == "train"]
    if not chosen or not train:
        return found
    import torch

    from nano4m.tokenizers.base import Material
    from nano4m.tokenizers.bpe import BpeTokenizer

    name, section = chosen[0]
    material = Material(
        media="",
        train=train,
        val=[],
        val_clips=0,
        sample_rate=0,
        texts=[text for _, text in named],
        clip_ids=[plan.clip_id for plan, _ in named],
        modality=name,
    )
    with collected_log() as notes:
        fitted = BpeTokenizer.prepare(section, material, config.seed, torch.device("cpu"))
    planned.notes += notes
    counts = {text: fitted.count(text) for text in texts}
    lengths = [counts[text] for _, text in named]
    limit = section.max_length
    long = [plan.clip_id for plan, text in named if counts[text] > limit]
    return found | {
        "tokens": spread([float(count) for count in lengths], 0),
        "all": sum(min(count, limit) for count in lengths),
        "too_long": len(long),
        "limit": limit,
        "policy": section.too_long,
        "first": long[:FIRST],
    }
