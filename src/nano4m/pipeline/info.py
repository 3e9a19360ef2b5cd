"""Descriptions of presets, runs, token tables and registries, as text or JSON."""

import json
import textwrap
from pathlib import Path
from typing import Any

from nano4m.config.presets import PRESETS, SIZE_FIELDS, SIZES, preset
from nano4m.config.run import Config
from nano4m.errors import UserError, nearest
from nano4m.modalities import MODALITIES, Modality, modality


def _sources() -> dict[str, Any]:
    from nano4m.data.sources import SOURCES

    return {n: {"description": s.description, "licence": s.licence} for n, s in SOURCES.items()}


def _tokenizers() -> dict[str, Any]:
    from nano4m.tokenizers import TOKENIZERS

    return {n: {"description": t.description, "licence": t.licence} for n, t in TOKENIZERS.items()}


def _labellers() -> dict[str, Any]:
    from nano4m.data.cut import LABELLERS

    return LABELLERS


def _filters() -> dict[str, Any]:
    from nano4m.data import cut, duplicates

    return cut.FILTERS | duplicates.FILTERS


def _modalities() -> dict[str, Any]:
    return {
        n: {"media": m.media, "layout": m.layout, "tokenizer": m.tokenizer, "labeller": m.labeller}
        for n, m in MODALITIES.items()
    }


def _presets() -> dict[str, Any]:
    return {
        n: {"dataset": c.dataset.name, "modalities": list(c.tokenizers)} for n, c in PRESETS.items()
    }


def _sizes() -> dict[str, Any]:
    import torch

    from nano4m.model.fourm import FourM

    # Any modality works: the trunk does not depend on it.
    anything = next(iter(MODALITIES.values())).with_tokens((1, 1), 1)
    summary = {}
    for name, config in SIZES.items():
        with torch.device("meta"):
            model = FourM(config, (anything,))
        summary[name] = config.model_dump(include=SIZE_FIELDS) | {"trunk": model.trunk_parameters}
    return summary


REGISTRIES = {
    "presets": _presets,
    "sizes": _sizes,
    "modalities": _modalities,
    "sources": _sources,
    "tokenizers": _tokenizers,
    "labellers": _labellers,
    "filters": _filters,
}


def _model(model: Any) -> dict[str, Any]:
    """Return size, parameters, options and modalities of a model."""
    return {
        "parameters": model.num_parameters,
        "trunk_parameters": model.trunk_parameters,
        **model.config.model_dump(exclude={"checkpointing"}),
        "modalities": {
            m.name: {
                "layout": m.layout,
                "shape": list(m.shape),
                "tokens": m.length,
                "vocabulary": m.vocab_size,
            }
            for m in model.modalities
        },
        "tokens_a_clip": sum(m.length for m in model.modalities),
    }


def layouts(config: Config) -> tuple[Modality, ...]:
    """Return the modalities of a configuration as its tokenizers will fix them."""
    found = []
    for name, section in config.tokenizers.items():
        tokens = section.token_shape(config.clips)
        found.append(modality(name).with_tokens(tokens.shape, sum(tokens.vocab_sizes)))
    return tuple(found)


def describe_preset(config: Config) -> dict[str, Any]:
    """Return parameters, modalities and budgets of a configuration, the share of each task in its
    masks, and memory and time of its training.
    """
    import torch

    from nano4m.masking.conditions import condition_shares, least_states, rarest, used
    from nano4m.model.fourm import FourM
    from nano4m.pipeline.forecast import forecast
    from nano4m.tokens.batch import TokenSequence

    entries = layouts(config)
    tokens = TokenSequence(entries)
    shares = condition_shares(config.masks, tokens, samples=8000)
    with torch.device("meta"):
        model = FourM(config.model, entries)
    return {
        "preset": config.preset,
        "dataset": config.dataset.name,
        **_model(model),
        "steps": config.train.steps,
        "batch_size": config.train.batch_size,
        "masking": config.masking.model_dump(mode="json"),
        "never_trained": config.masking.untrained(len(entries)) or "nothing that is asked",
        "rarest_in_training": rarest(used(shares, tokens)),
        "target_tokens_as_generated": least_states(shares),
        "on_this_device": forecast(config, entries, model),
    }


def describe_run(out: Path) -> dict[str, Any]:
    """Return the finished stages of a run and, if it was evaluated, its results."""
    from nano4m.pipeline.stages import STAGES
    from nano4m.stage import manifest_of
    from nano4m.storage.lock import owner_of

    stages = {n: manifest_of(out, n) for n in STAGES}
    summary: dict[str, Any] = {
        "run": str(out),
        "finished": {n: m["seconds"] for n, m in stages.items() if m},
        "unfinished": [n for n, m in stages.items() if m is None],
    }
    if owner := owner_of(out):
        summary["being_written_by"] = owner
    results = out / "results.json"
    # Results of an earlier configuration may stay there until this one is evaluated.
    if stages["evaluate"] and results.exists():
        from nano4m.evaluate.results import read_results

        found = read_results(results)
        summary["probes"] = {p.name: p.score.value for p in found.probes}
        summary["class_consistency"] = {
            f"{source} -> {target}": score.value
            for (source, target), score in found.consistencies.items()
        }
        # Texts that come from few templates are equal to train texts anyway.
        summary["nearer_to_train_than_real"] = {
            f"{m.source or 'all'} -> {m.target}": m.value
            for m in found.memorization
            if not m.is_text
        }
    return summary


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Return what the model of a checkpoint is."""
    from nano4m.checkpoints.folder import load_model

    model, token_spec = load_model(folder)
    summary = {"checkpoint": str(folder), "fingerprint": token_spec.fingerprint}
    return summary | {"tokenizers": dict(token_spec.tokenizers)} | _model(model)


def describe_table(folder: Path) -> dict[str, Any]:
    """Return what a token table holds."""
    from nano4m.tokens.table import open_table

    table = open_table(folder)
    return {
        "table": str(folder),
        "fingerprint": table.token_spec.fingerprint,
        "tokenizers": dict(table.token_spec.tokenizers),
        "clips": {s: len(table.rows(s)) for s in ("train", "val", "test")},
        "classes": table.classes,
        "modalities": {
            m.name: {
                "shape": list(m.shape),
                "vocabulary": m.vocab_size,
                "views": table.ids[m.name].shape[1],
            }
            for m in table.modalities
        },
    }


def usage() -> str:
    """Return the help of ``nano4m info``."""
    rows = {
        "a preset": f"{', '.join(PRESETS)}: parameters, modalities, masks, and what its training "
        "takes on the device: memory of a step, time (auto, cpu, cuda, cuda:N or mps)",
        "the folder of a run": "what is finished and what it reached",
        "a checkpoint's": "parameters, choices, modalities, fingerprints",
        "a token table's": "clips, modalities, fingerprints",
        "a registry": f"{', '.join(REGISTRIES)}; with licences",
    }
    lines = ["usage: nano4m info WHAT [--json] [--device DEVICE]", "", "WHAT is"]
    for name, text in rows.items():
        first, *rest = textwrap.wrap(text, 66)
        lines += [f"  {name:<22}{first}", *(" " * 24 + line for line in rest)]
    return "\n".join(lines)


def info(what: str, as_json: bool, device: str = "auto") -> str:
    """Return what ``usage`` lists, for a person or as JSON.

    Args:
        what: A preset, a registry, or the folder of a run, a checkpoint or a token table.
        as_json: Return JSON.
        device: Of a preset: where its training is to run.

    Raises:
        UserError: Nothing of these.
    """
    path = Path(what)
    if what in REGISTRIES:
        summary = REGISTRIES[what]()
    elif what in PRESETS:
        summary = describe_preset(preset(what).model_copy(update={"device": device}))
    elif (path / "tokens.arrow").exists():
        summary = describe_table(path)
    elif (path / "model.safetensors").exists():
        summary = describe_checkpoint(path)
    elif (path / "config.json").exists():
        summary = describe_run(path)
    else:
        raise UserError(
            f"{what!r} is no preset, no registry and no folder of a run, a checkpoint or a token "
            f"table; {nearest(what, [*PRESETS, *REGISTRIES])}"
        )
    return json.dumps(summary, indent=1) if as_json else "\n".join(_lines(summary))


def _lines(value: Any, indent: str = "") -> list[str]:
    """Return a dictionary as aligned lines."""
    lines = []
    width = max((len(str(k)) for k in value), default=0) + 2
    for key, entry in value.items():
        if (
            isinstance(entry, dict)
            and entry
            and any(isinstance(v, (dict, list)) for v in entry.values())
        ):
            lines += [f"{indent}{key}", *_lines(entry, indent + "  ")]
        elif isinstance(entry, dict):
            shown = ", ".join(f"{k} {_plain(v)}" for k, v in entry.items())
            lines.append(f"{indent}{key:<{width}}{shown}")
        else:
            lines.append(f"{indent}{key:<{width}}{_plain(entry)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.3g}"
        if isinstance(value, float)
        else str(value)
    )
