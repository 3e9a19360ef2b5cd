"""Configurations and runs as they were written before their fields were renamed; no tests."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors.torch import load_file

from nano4m.config.compatibility import RENAMED
from nano4m.evaluate.results_part import RENAMED as RENAMED_FIGURES
from nano4m.tokenizers.base import fingerprint_of


def with_old_names(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration, or some of its sections, with the names of before."""
    found = _copy(config)
    for old, new in RENAMED.items():
        before, now = old.split("."), new.split(".")
        for name in found.get("tokenizers", {}) if "*" in before else [""]:
            paths = [[name if part == "*" else part for part in path] for path in (before, now)]
            owner: Any = found
            for part in paths[1][:-1]:
                owner = owner.get(part, {})
            if paths[1][-1] in owner:
                value = owner.pop(paths[1][-1])
                place = found
                for part in paths[0][:-1]:
                    place = place.setdefault(part, {})
                place[paths[0][-1]] = value
    return found


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def age(out: Path) -> None:
    """Rewrite a finished run as it was written before formats were numbered and names changed."""
    for path in out.rglob("*.json"):
        if path.name in ("results.json",):
            continue
        value = json.loads(path.read_text())
        if isinstance(value, dict):
            value.pop("format", None)
            if path.name == "manifest.json":
                for later in ("files", "settings", "inputs"):
                    value.pop(later, None)
            path.write_text(json.dumps(value))
    for path in (out / "config.json", *out.glob("*/settings.json")):
        old = with_old_names(json.loads(path.read_text()))
        # An option that came later: it has its default.
        old.get("masking", {}).pop("max_spans", None)
        path.write_text(json.dumps(old))
    _age_results(out / "results.json")
    _age_results(out / "evaluate" / "results.json")
    prints = {path.parent.name: _age_tokenizer(path) for path in out.glob("tokenizers/*/*r.json")}
    spec = out / "train" / "checkpoint" / "modalities.json"
    aged_spec = _age_spec(json.loads(spec.read_text()), prints)
    for modality in aged_spec["modalities"]:
        # A title that has changed since makes no checkpoint foreign to its table.
        modality["title"] = f"the {modality['title']}"
    spec.write_text(json.dumps(aged_spec))
    arrow = out / "table" / "tokens.arrow"
    table = pa.ipc.open_file(pa.memory_map(str(arrow))).read_all()
    about = json.loads(table.schema.metadata[b"nano4m"])
    about.pop("format")
    aged = {b"nano4m": json.dumps(_age_spec(about, prints)).encode()}
    table = table.replace_schema_metadata(aged)
    with pa.ipc.new_file(arrow.with_suffix(".new"), table.schema) as writer:
        writer.write_table(table)
    os.replace(arrow.with_suffix(".new"), arrow)


def _age_tokenizer(path: Path) -> str:
    """Give the settings of a tokenizer their old names; return its fingerprint of then."""
    entry = json.loads(path.read_text())
    if "augmentations" in entry["settings"].get("section", {}):
        section = entry["settings"]["section"]
        section["views"] = section.pop("augmentations")
        tensors = load_file(path.with_suffix(".safetensors"))
        entry["fingerprint"] = fingerprint_of(entry["key"], entry["settings"], tensors)
        path.write_text(json.dumps(entry))
    return entry["fingerprint"]


def _age_spec(entry: dict[str, Any], fingerprints: dict[str, str]) -> dict[str, Any]:
    """Return a token spec with the keys of before."""
    for modality in entry["modalities"]:
        modality["views"] = modality.pop("frame_group")
        modality["layout"] = {"codebooks": "codes"}.get(modality["layout"], modality["layout"])
    return entry | {"tokenizers": fingerprints}


def _age_results(path: Path) -> None:
    new = {new: old for old, new in RENAMED_FIGURES.items()}

    def aged(value: Any) -> Any:
        if isinstance(value, dict):
            return {new.get(k, k): aged(v) for k, v in value.items()}
        return [aged(v) for v in value] if isinstance(value, list) else value

    found = aged(json.loads(path.read_text()))
    found.pop("format")
    found["config"] = with_old_names(found["config"])
    path.write_text(json.dumps(found | {"schema_version": 3}))
