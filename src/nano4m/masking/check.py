"""Check of the masking settings against the modalities of a run, before the first step."""

from nano4m.config.masking import MaskingConfig
from nano4m.errors import UserError, nearest
from nano4m.tokens.batch import TokenSequence

BUDGETED = ("dirichlet", "span", "reference_span")


def check_masking(config: MaskingConfig, sequence: TokenSequence) -> None:
    """Refuse settings that these modalities cannot satisfy.

    Settings of strategies without a weight are not checked, but modality names always are. A text
    counts with its maximum length for upper limits and with one token for lower limits.

    Raises:
        UserError: Names the field, its value and what is allowed.
    """
    _names(config, sequence)
    budgeted = [n for n in BUDGETED if config.uses(n)]
    if budgeted:
        _limits(config, sequence, in_frames=budgeted != ["dirichlet"])
        _totals(config, sequence, without_sound=budgeted != ["dirichlet"])
        if config.uses("reference_span"):
            _first_frames(config, sequence)
    num = len(sequence.modalities)
    weights = config.weights_of_num_inputs(num)[:num]
    if config.uses("any_to_any", "inference_aligned") and not sum(weights):
        raise UserError(
            f"masking.num_inputs_weights {config.num_inputs_weights}: {num} modalities allow 0 to "
            f"{num - 1} sources; give one of the first {num} numbers a weight"
        )
    layouts = [m.layout for m in sequence.modalities]
    units = [number for number, _ in sequence.units]
    for name in ("span", "reference_span"):
        if config.uses(name) and ("codebooks" not in layouts or set(layouts) == {"codebooks"}):
            raise UserError(
                f"masking.{name} {getattr(config, name)}: needs a modality of layout codebooks "
                f"beside others; the layouts are {', '.join(layouts)}; set its weight to 0"
            )
    if config.uses("suffix") and max(units) < 2:
        raise UserError(
            f"masking.suffix {config.suffix}: no modality has two rows, frames or words; "
            f"set its weight to 0"
        )
    inner = [n for n, layout in zip(units, layouts, strict=True) if layout != "text"]
    if config.uses("infill") and max(inner, default=0) < 3:
        raise UserError(
            f"masking.infill {config.infill}: no modality has three rows or frames; "
            f"set its weight to 0"
        )


def _names(config: MaskingConfig, sequence: TokenSequence) -> None:
    names = [m.name for m in sequence.modalities]
    for field in ("input_alphas", "target_alphas", "input_limits", "target_limits"):
        for name in getattr(config, field):
            if name not in names:
                raise UserError(f"masking.{field}.{name}: no such modality; {nearest(name, names)}")


def _limits(config: MaskingConfig, sequence: TokenSequence, in_frames: bool) -> None:
    """Check the limits of each modality."""
    for modality, (_, size) in zip(sequence.modalities, sequence.units, strict=True):
        fewest = 0
        for field in ("input_limits", "target_limits"):
            if modality.name not in (limits := getattr(config, field)):
                continue
            low, high = limits[modality.name]
            fewest += low
            what = f"masking.{field}.{modality.name} {low} {high}"
            if high > modality.length:
                raise UserError(f"{what}: a clip holds at most {modality.length} tokens of it")
            if in_frames and modality.layout == "codebooks" and -(-low // size) > high // size:
                raise UserError(f"{what}: whole frames of {size} tokens do not fit in between")
        if fewest > modality.length:
            raise UserError(
                f"masking.input_limits and target_limits of {modality.name} need at least "
                f"{fewest} tokens; a clip holds {modality.length}"
            )


def _totals(config: MaskingConfig, sequence: TokenSequence, without_sound: bool) -> None:
    """Check the totals against the tokens of a clip."""
    for what, limits in (("inputs", config.input_limits), ("targets", config.target_limits)):
        most = getattr(config, f"max_{what}")
        least = sum(low for low, _ in limits.values())
        if most is None:
            continue
        if most < least:
            raise UserError(
                f"masking.max_{what} {most} is below {least}, the sum of the fewest tokens of "
                f"all modalities"
            )
        held = sum(min(m.length, limits.get(m.name, (0, m.length))[1]) for m in sequence.modalities)
        if most > held - (what == "inputs"):
            raise UserError(
                f"masking.max_{what} {most}: the longest clip can have "
                f"{held - (what == 'inputs')} of them; lower it, or leave it out for no limit"
            )
    shortest = _shortest(sequence, without_sound)
    if config.min_inputs + config.min_targets > shortest:
        beside = " beside its sounds, which take whole frames only" if without_sound else ""
        raise UserError(
            f"masking.min_inputs {config.min_inputs} and min_targets {config.min_targets}: the "
            f"shortest clip holds {shortest} tokens{beside}"
        )


def _shortest(sequence: TokenSequence, without_sound: bool) -> int:
    """Return the tokens of a clip whose texts are one token long."""
    lengths = [
        1 if m.is_text else m.length
        for m in sequence.modalities
        if not (without_sound and m.layout == "codebooks")
    ]
    return sum(lengths)


def _first_frames(config: MaskingConfig, sequence: TokenSequence) -> None:
    """Check that a frame of each sound can be input, as ``reference_span`` may force it."""
    pairs = zip(sequence.modalities, sequence.units, strict=True)
    frames = sum(size for m, (_, size) in pairs if m.layout == "codebooks")
    shortest = _shortest(sequence, without_sound=True)
    if frames + config.min_targets > shortest:
        raise UserError(
            f"masking.min_targets {config.min_targets}: reference_span may force {frames} input "
            f"tokens of sound; the shortest clip holds {shortest} tokens beside its sounds"
        )
