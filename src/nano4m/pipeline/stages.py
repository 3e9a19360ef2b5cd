"""The stages of a run in order, what each depends on and what it calls."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nano4m.config.compatibility import read_stored, with_new_names
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.pipeline.settings import NOT_SETTINGS, without_usual
from nano4m.stage import manifest_of, provenance, writable
from nano4m.storage import replaced
from nano4m.storage.json_files import read_object, write_json

if TYPE_CHECKING:
    from nano4m.compute.distributed import DistributedContext
    from nano4m.evaluate.context import RunArtifacts
    from nano4m.pipeline.source_data import SourceData
    from nano4m.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Run:
    """One run: configuration, data folder, output folder, and the processes that train it.

    ``is_data_given`` is false if ``data`` is only what the run remembers, see ``look_at_data``.
    """

    config: Config
    out: Path
    data: Path | None = None
    world: "DistributedContext | None" = None
    is_data_given: bool = True

    @cached_property
    def source_data(self) -> "SourceData":
        """The data, compared with those that the clips were cut from."""
        from nano4m.pipeline.source_data import look_at_data

        return look_at_data(self.data, self.out, self.is_data_given)


def _tokenizers(run: Run) -> "dict[str, Tokenizer]":
    from nano4m.compute.precision import resolve_device
    from nano4m.tokenizers import load_tokenizer

    device = resolve_device(run.config.device)
    return {n: load_tokenizer(run.out / "tokenizers" / n, device) for n in run.config.tokenizers}


def _clips(run: Run, folder: Path) -> dict[str, Any]:
    from nano4m.data.build import build_clips

    found = run.source_data
    listing = found.settings["data_files"]
    return build_clips(run.config, run.data, folder, listing, found.record())


def _fit(run: Run, folder: Path) -> dict[str, Any]:
    from nano4m.data.clip_table import open_clips
    from nano4m.tokenizers.fit import fit_tokenizers

    before = list(replaced.folders_of(run.out, folder.name))
    return fit_tokenizers(run.config, open_clips(run.out / "clips"), folder, before)


def _refuse_broken(run: Run) -> None:
    """Refuse tokenizers that their stage found broken, unless the run accepts them."""
    from nano4m.tokenizers.verdict import refuse_broken

    summary = (manifest_of(run.out, "tokenizers") or {}).get("summary", {})
    refuse_broken(summary, run.config.broken_tokenizers == "accept")


def _table(run: Run, folder: Path) -> dict[str, Any]:
    _refuse_broken(run)
    from nano4m.data.clip_table import open_clips
    from nano4m.tokenizers.apply import build_table

    return build_table(run.config, open_clips(run.out / "clips"), _tokenizers(run), folder)


def _train(run: Run, folder: Path) -> dict[str, Any]:
    _refuse_broken(run)
    from nano4m.tokens.table import open_table
    from nano4m.training.trainer import train_model

    table = run.out / "table"
    return train_model(
        run.config, open_table(table), folder, world=run.world, table_folder=table.resolve()
    )


@dataclass(frozen=True)
class TrainedRun:
    """Function that loads a run for evaluation; small, to be sent to another process.

    ``device``, as ``Config.device``, is that of the tokenizers; the caller moves the model.
    """

    out: Path
    modalities: tuple[str, ...]
    device: str = "cpu"

    def __call__(self) -> "RunArtifacts":
        """Return the loaded run.

        Raises:
            UserError: A part is missing, or parts do not match.
        """
        from nano4m.checkpoints.folder import load_model
        from nano4m.compute.precision import resolve_device
        from nano4m.data.clip_table import open_clips
        from nano4m.evaluate.context import RunArtifacts
        from nano4m.tokenizers import load_tokenizer
        from nano4m.tokens.table import open_table

        table = open_table(self.out / "table")
        model, token_spec = load_model(self.out / "train" / "checkpoint")
        token_spec.require_same(table.token_spec, "the checkpoint", "the token table")
        device, folder = resolve_device(self.device), self.out / "tokenizers"
        tokenizers = {n: load_tokenizer(folder / n, device) for n in self.modalities}
        return RunArtifacts(open_clips(self.out / "clips"), tokenizers, table, model)


def _evaluate(run: Run, folder: Path) -> dict[str, Any]:
    from nano4m.evaluate.run import evaluate_run

    manifests = {
        n: manifest_of(run.out, n) or {} for n in STAGES if n not in ("evaluate", "report")
    }
    context = {
        "preset": run.config.preset,
        "provenance": provenance(),
        "clips": manifests["clips"]["summary"],
        "tokenizers": manifests["tokenizers"]["summary"],
        "training": manifests["train"]["summary"],
        "seconds": {n: m["seconds"] for n, m in manifests.items()},
    }
    modalities = tuple(run.config.tokenizers)
    load_run = TrainedRun(run.out.resolve(), modalities, run.config.device)
    results = evaluate_run(run.config, load_run, folder, context)
    return {"directions": len(results.matrix), "probes": len(results.probes)}


def _report(run: Run, folder: Path) -> dict[str, Any]:
    from nano4m.data.clip_table import open_clips
    from nano4m.evaluate.results import read_results
    from nano4m.report.overview import overview_png
    from nano4m.report.page import write_report
    from nano4m.storage.arrays import read_arrays
    from nano4m.tokens.table import open_table

    results = read_results(run.out / "evaluate" / "results.json")
    generated = read_arrays(run.out / "evaluate" / "generated.npz")
    clips, table = open_clips(run.out / "clips"), open_table(run.out / "table")
    shown = (clips, _tokenizers(run), table, generated)
    page = write_report(results, run.out / "train" / "log.jsonl", *shown, run.config, folder)
    picture = overview_png(results, *shown, folder / "overview.png")
    return {"page": str(page), "picture": str(picture)}


@dataclass(frozen=True)
class Stage:
    """A stage: a one-line description, the sections that it adds to its dependencies, its work."""

    summary: str
    sections: tuple[str, ...]
    work: Callable[[Run, Path], dict[str, Any]]


STAGES: dict[str, Stage] = {
    "clips": Stage(
        "cut sounds and pictures of a source into a table of clips",
        ("seed", "dataset", "clips"),
        _clips,
    ),
    "tokenizers": Stage(
        "fit a tokenizer for each modality on the train split", ("tokenizers",), _fit
    ),
    "table": Stage("turn all clips into the token table", (), _table),
    "train": Stage("train the transformer", ("masking", "model", "train"), _train),
    "evaluate": Stage(
        "evaluate it: probes, classifiers, any-to-any matrix", ("generate", "evaluate"), _evaluate
    ),
    "report": Stage("write the page to look at and listen to", ("report",), _report),
}


def settings_of(run: Run, name: str) -> dict[str, Any]:
    """Return the JSON of everything that stage ``name`` depends on."""
    return _settings(run.config, run.source_data, name)


def _settings(config: Config, data: "SourceData", name: str) -> dict[str, Any]:
    settings = dict(data.settings)
    for stage_name, stage in STAGES.items():
        for section in stage.sections:
            value = config.model_dump(mode="json", include={section})[section]
            if isinstance(value, dict):
                value = {k: v for k, v in value.items() if k not in NOT_SETTINGS.get(section, ())}
            settings[section] = value
        if "masking" in stage.sections:
            # Masks follow generation: a run that was trained for another is another run.
            settings["masking"] = without_usual(config.masks.model_dump(mode="json"))
        if stage_name == name:
            break
    return settings


def inputs_of(run: Run, name: str) -> dict[str, str]:
    """Return the digest of the result of each earlier stage."""
    inputs = {}
    for earlier in list(STAGES)[: list(STAGES).index(name)]:
        manifest = manifest_of(run.out, earlier)
        inputs[earlier] = manifest.get("digest", "") if manifest else ""
    return inputs


def is_said(run: Run) -> bool:
    """Whether ``config.json`` is there and says what this run is."""
    try:
        stored = read_stored(Config, with_new_names(read_object(run.out / "config.json")))
    except (FileNotFoundError, UserError, ValueError):
        return False
    return _settings(stored, run.source_data, "report") == settings_of(run, "report")


def write_config(run: Run) -> None:
    """Write the resolved configuration beside the results."""
    with writable(run.out):
        run.out.mkdir(parents=True, exist_ok=True)
        write_json(run.out / "config.json", run.config.model_dump(mode="json"))
