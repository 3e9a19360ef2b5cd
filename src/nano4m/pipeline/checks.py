"""Checks before any work: what a later stage would refuse, in the order of the stages.

They take a second at most, so that a run with a missing tracker fails now and not after its clips.
"""

from collections.abc import Sequence

from nano4m.pipeline.info import layouts
from nano4m.pipeline.stages import Run

COMPUTES = {"tokenizers", "table", "train", "evaluate"}


def check_before(run: Run, names: Sequence[str], replaced: Sequence[str] = ()) -> None:
    """Refuse settings that one of these stages cannot work with.

    Args:
        run: To be made.
        names: Its stages that are to be made.
        replaced: Those of which there are results, for whose sake the source is looked through
            now; otherwise that is the first thing that the stage does.

    Raises:
        UserError: The first of them, as the stage would say it.
    """
    config = run.config
    if "clips" in replaced:
        from nano4m.data.build import plan_clips

        plan_clips(config, run.data)
    if COMPUTES & set(names):
        from nano4m.compute.precision import resolve_device

        resolve_device(config.device)
    if "tokenizers" in names:
        from nano4m.modalities import modality
        from nano4m.tokenizers import TOKENIZERS

        for name, section in config.tokenizers.items():
            TOKENIZERS[section.kind].load().check(section, modality(name).media, config.clips)
    if "table" in names:
        from nano4m.tokenizers.apply import check_vocabulary

        for entry in layouts(config):
            check_vocabulary(entry.name, entry.vocab_size)
    if "train" in names:
        from nano4m.masking.check import check_masking
        from nano4m.tokens.batch import TokenSequence
        from nano4m.training.tracking import check_tracker

        check_tracker(config.train.tracker)
        check_masking(config.masks, TokenSequence(layouts(config)))
