"""How many tokens a run would make of a folder, and about how long it would take here."""

from collections import Counter
from typing import Any

from nano4m.compute.cores import usable_cores
from nano4m.compute.workers import count_workers
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.modalities import Layout, modality
from nano4m.pipeline.check_data.captions import captions_of
from nano4m.pipeline.check_data.planned import Planned, media_of

# Seconds on one core of the machine of docs/RESULTS.md (animals, AMD EPYC): a clip is cut, a view
# is tokenised, a picture or sound passes a training step of its tokenizer, a clip is evaluated.
CLIP_SECONDS = 6 / 431
VIEW_SECONDS = 17 / (431 * 12)
FIT_PIXEL_SECONDS = 78 / (500 * 64 * 64**2)
FIT_SAMPLE_SECONDS = 78 / (500 * 64 * 65536)
EVALUATE_SECONDS = 30.0
EVALUATE_CLIP_SECONDS = 41 / 64

LEAST, MOST = 0.5, 2.5
"""Of the estimate: machines, and what else they do, differ by that much."""

GPU_SHARE = 0.2
"""Of the time of tokenizers, table and evaluation on a GPU."""


def token_figures(config: Config, planned: Planned, captions: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of one view of a clip that has everything, and those of all views.

    A clip has as many views of a modality as it has frames, or augmented sounds, and of captions as
    many as the clip with the most.
    """
    views: dict[Layout, Any] = {
        "grid": lambda section: config.clips.frames,
        "codebooks": lambda section: getattr(section, "augmentations", 1),
        "text": lambda section: max((len(captions_of(plan)) for plan in planned.used), default=1),
    }
    clips = _clips_with(planned)
    modalities: dict[str, dict[str, Any]] = {}
    for name, section in config.tokenizers.items():
        shape = section.token_shape(config.clips)
        entry = modality(name).with_tokens(shape.shape, sum(shape.vocab_sizes))
        count = clips[entry.media]
        each: float = entry.length
        if entry.is_text:
            each = captions["all"] / captions["captions"] if captions["all"] else 0
        times = views[shape.layout](section)
        modalities[name] = {
            "clips": count,
            "tokens": round(each, 1) if entry.is_text else entry.length,
            "views": times,
            "in_all": round(count * each * times),
        }
    there = [own for own in modalities.values() if own["clips"]]
    return {
        "a_clip": round(sum(own["tokens"] for own in there)),
        "in_all": sum(own["in_all"] for own in there),
        "modalities": modalities,
    }


def _clips_with(planned: Planned, split: str = "") -> Counter[str]:
    """Return how many clips have each kind of media, of all splits or of one."""
    found: Counter[str] = Counter()
    for plan in planned.used:
        if split in ("", plan.split):
            has = media_of(plan, planned.headers.get(str(plan.details.get("file"))))
            found.update(kind for kind, there in has.items() if there)
    return found


def check_modalities(config: Config, planned: Planned) -> None:
    """Refuse modalities that no clip has, as their tokenizers would when they are fitted.

    Raises:
        UserError: With the options that leave them out.
    """
    missing = []
    for split in ("train", "val"):
        clips = _clips_with(planned, split)
        missing += [(name, split) for name in config.tokenizers if not clips[modality(name).media]]
    if missing:
        name, split = missing[0]
        names = ",".join(dict.fromkeys(name for name, _ in missing))
        raise UserError(
            f"no {split} clip has {modality(name).media} to fit the tokenizer of {name} with; "
            f"leave it out (--without {names}), or add data"
        )


def time_figures(config: Config, planned: Planned, tokens: dict[str, Any]) -> dict[str, Any]:
    """Return about how many seconds each stage of a run takes on this machine.

    The training is forecast from the speed of the machine (``pipeline.forecast``), the other stages
    from those of docs/RESULTS.md.

    Raises:
        UserError: The device does not exist.
    """
    import torch

    from nano4m.model.fourm import FourM
    from nano4m.pipeline.forecast import forecast
    from nano4m.pipeline.info import layouts

    entries = layouts(config)
    with torch.device("meta"):
        model = FourM(config.model, entries)
    training = forecast(config, entries, model)
    is_gpu = training["device"] != "cpu"
    share = GPU_SHARE if is_gpu else 1.0
    clips = len(planned.used)
    views = sum(own["clips"] * own["views"] for own in tokens["modalities"].values())
    fits = {
        "grid": FIT_PIXEL_SECONDS * config.clips.picture_size**2,
        "codebooks": FIT_SAMPLE_SECONDS * config.clips.window_seconds * config.clips.sample_rate,
        "text": 0.0,
    }
    fitted = [
        getattr(section, "steps", 0) * getattr(section, "batch_size", 0) * fits[section.layout]
        for section in config.tokenizers.values()
    ]
    evaluated = sum(plan.split == config.evaluate.split for plan in planned.used)
    at_once = max(1, min(usable_cores(), len(fitted)))
    stages = {
        "clips": clips * CLIP_SECONDS / max(1, count_workers(config.clips.workers)),
        "tokenizers": sum(fitted) / at_once * share,
        "table": views * VIEW_SECONDS * share,
        "train": float(training["training_seconds"]),
        "evaluate": share
        * (EVALUATE_SECONDS + EVALUATE_CLIP_SECONDS * min(evaluated, config.evaluate.clips)),
    }
    whole = sum(stages.values())
    return {
        "seconds": [round(LEAST * whole), round(MOST * whole)],
        "stages": {name: round(seconds) for name, seconds in stages.items()},
        "device": training["device"],
    }
