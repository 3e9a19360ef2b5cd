"""Where a class gets lost between a sound and what a model says of it: media, tokens, model.

All links are judged on the same clips: a linear probe on the media, one on the tokens of the run's
own tokenizer, and the class whose captions the model finds likeliest, given the tokens.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.evaluate.caption_classification import (
    CaptionCandidates,
    candidates,
    chosen_classes,
    conditions,
)
from nano4m.evaluate.class_search import TooCostly
from nano4m.evaluate.context import open_context
from nano4m.modalities import MODALITIES
from nano4m.pipeline.stages import TrainedRun
from nano4m.tokenizer_report.content import BAG, VECTORS, Split, score_classes

if TYPE_CHECKING:
    from nano4m.data.clip_table import ClipTable


class Asked(NamedTuple):
    """What a model found of the judged clips.

    Attributes:
        scores: Rule -> the scores of ``score_classes``.
        left_out: Why there are none; empty otherwise.
    """

    scores: dict[str, dict[str, float]]
    left_out: str


def modality_of(config: Config, media: str) -> str:
    """Return the first modality of a run that is tokens of this kind of media.

    Raises:
        UserError: There is none.
    """
    found = [name for name in config.tokenizers if MODALITIES[name].media == media]
    if not found:
        raise UserError(f"the run has no modality of {media}, only {', '.join(config.tokenizers)}")
    return found[0]


def ask_model(
    run: Path, config: Config, clips: "ClipTable", media: str, split: Split, of_split: str
) -> Asked:
    """Return the class that the model of a run finds for each judged clip, from its tokens alone.

    Args:
        run: Folder of the run; its training is finished.
        config: Of the run.
        clips: Those that are judged; the run's own table must have them.
        media: Kind of media that the model is given.
        split: The judged clips.
        of_split: Its name.

    Raises:
        UserError: The run lacks some of these clips, has no captions, or other classes.
    """
    evaluate = config.evaluate.model_copy(update={"split": of_split, "clips": 10**7})
    whole = config.model_copy(update={"evaluate": evaluate})
    name = modality_of(config, media)
    context = open_context(whole, TrainedRun(run.resolve(), tuple(config.tokenizers)))
    evaluator = context.evaluator
    place = {clip: i for i, clip in enumerate(context.table.clip_ids[evaluator.rows].tolist())}
    wanted = clips.clip_ids[split.judged].tolist()
    missing = [clip for clip in wanted if clip not in place]
    if missing:
        raise UserError(
            f"{run} has no clip {missing[0]!r} in its {of_split} split; compare on the clips that "
            f"it was trained with: nano4m tokenizer-report {run} --run {run}"
        )
    if evaluator.classes != clips.classes:
        raise UserError(f"{run} has other classes than the clips in {clips.folder}")
    if context.text is None:
        return Asked({}, f"{run} has no captions, so its model names no class")
    order = np.array([place[clip] for clip in wanted], dtype=np.int64)
    rows = np.sort(order)
    own = evaluator.take(rows)
    texts = candidates(
        context.table, evaluator.names[context.text], context.train_rows, evaluator.classes
    )
    captions = CaptionCandidates(own, context.text, texts, config.evaluate.caption_predictions)
    if captions.too_many is not None:
        return Asked({}, captions.too_many)
    try:
        found = chosen_classes(captions, own, conditions(own, context.text)[name])
    except TooCostly:
        return Asked({}, captions.too_costly)
    back = np.searchsorted(rows, order)
    return Asked({rule: score_classes(own[back], split) for rule, own in found.items()}, "")


def links(media: dict[str, Any], tokens: dict[str, Any], asked: Asked) -> list[dict[str, Any]]:
    """Return the chain, a link each: what is looked at, how, and its scores.

    Args:
        media: The report's scores of the media themselves.
        tokens: Its entry of the run's tokenizer.
        asked: What the model found.
    """
    found = [
        {"link": "media", "how": "linear probe", **media["linear"]},
        {"link": "media", "how": "classifier", **media["classifier"]},
        {"link": "round trip", "how": "classifier", **tokens["classifier"]},
    ]
    for name in (VECTORS, BAG):
        if name in tokens["content"]:
            scores = tokens["content"][name]["linear"]
            found.append({"link": f"tokens, {name}", "how": "linear probe", **scores})
    for rule, scores in asked.scores.items():
        found.append({"link": "model", "how": f"likeliest caption, {rule}", **scores})
    return found
