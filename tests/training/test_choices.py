"""What is chosen for a machine, what is refused on it, and what is said beforehand."""

import json

import pytest
import torch

from conftest import small_config
from nano4m.cli import main
from nano4m.compute.distributed import DistributedContext
from nano4m.config.presets import PRESETS, preset
from nano4m.config.run import Config
from nano4m.errors import UserError
from nano4m.model.attention import has_varlen_kernel
from nano4m.model.fourm import FourM
from nano4m.pipeline.forecast import forecast
from nano4m.pipeline.info import layouts
from nano4m.pipeline.settings import with_defaults
from nano4m.pipeline.stages import Run, settings_of
from nano4m.training import engine
from nano4m.training.accounting import memory_needed
from nano4m.training.checks import too_large
from nano4m.training.engine import Engine, choose, mask_workers

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
HALF, FULL = torch.bfloat16, torch.float32
LONG, SHORT = 1e18, 1e12


def _chosen(device, dtype=HALF, operations=LONG, size=1, model=None, dropout=0.0, **train):
    config = small_config(model, dropout=dropout, **train)
    return choose(config, DistributedContext(device, size=size), dtype, operations, 1e14)


@pytest.fixture(autouse=True)
def ampere(monkeypatch):
    """A card from Ampere on, where one is asked for."""
    monkeypatch.setattr(
        engine, "has_varlen_kernel", lambda device, dtype, head: device == CUDA and dtype != FULL
    )


def test_a_gpu_packs_compiles_and_captures_and_a_cpu_does_not(monkeypatch):
    monkeypatch.setattr(engine, "why_no_compiler", lambda: None)
    assert _chosen(CUDA) == Engine(packed=True, compiled=True, graphs=True)
    # A short run gains less than compiling takes; float32 has no kernel for any lengths.
    assert _chosen(CUDA, operations=SHORT) == Engine(packed=True, compiled=False, graphs=True)
    assert _chosen(CUDA, dtype=FULL) == Engine(packed=True, compiled=False, graphs=False)
    assert _chosen(CPU) == Engine(packed=False, compiled=False, graphs=False)
    assert _chosen(CUDA, size=2) == Engine(packed=False, compiled=False, graphs=False)
    assert _chosen(CUDA, compile="off", graphs="off") == Engine(True, False, False)
    assert _chosen(CUDA, packed="off") == Engine(False, False, False)


def test_blocks_that_are_computed_twice_are_captured_without_dropout_alone(monkeypatch):
    monkeypatch.setattr(engine, "why_no_compiler", lambda: None)
    twice = {"checkpointing": True}
    assert _chosen(CUDA, model=twice).graphs
    assert not _chosen(CUDA, model=twice, dropout=0.1).graphs


def test_where_every_step_is_new_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(engine, "has_varlen_kernel", lambda device, dtype, head: False)
    monkeypatch.setattr(engine, "why_no_compiler", lambda: None)
    assert _chosen(CUDA) == Engine(packed=True, compiled=False, graphs=False)
    with pytest.raises(UserError, match="give --train.packed off too"):
        _chosen(CUDA, compile="on")
    assert _chosen(CUDA, compile="on", packed="off").compiled


def test_heads_that_the_kernel_does_not_take_are_known():
    assert not has_varlen_kernel(CPU, HALF, 64)
    for width in (4, 12, 260, 512):
        assert not has_varlen_kernel(CUDA, HALF, width)


def test_a_missing_compiler_is_said_and_refused_if_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(engine, "why_no_compiler", lambda: "there is no C compiler")
    assert not _chosen(CUDA).compiled
    assert "not compiled, there is no C compiler" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no C compiler; give --train.compile off"):
        _chosen(CUDA, compile="on")


def test_what_cannot_be_had_is_refused():
    with pytest.raises(UserError, match="--train.packed on is for cpu and cuda, not mps"):
        _chosen(torch.device("mps"), packed="on")
    with pytest.raises(UserError, match="--train.packed on takes one process, and there are 2"):
        _chosen(CPU, size=2, packed="on")
    for device, dtype in ((CPU, HALF), (CUDA, FULL)):
        with pytest.raises(UserError, match="--train.graphs on captures packed steps in bf16"):
            _chosen(device, dtype, graphs="on")


def test_masks_are_made_ahead_for_a_gpu_alone():
    assert mask_workers(small_config().train, CPU) == 0
    assert mask_workers(small_config().train, CUDA) >= 1
    assert mask_workers(small_config(workers=3).train, CPU) == 3


def test_a_step_that_is_too_large_is_refused_with_one_that_fits(monkeypatch):
    config = preset("reference")
    with torch.device("meta"):
        model = FourM(config.model, layouts(config))
    needed = [memory_needed(model, config.train, config.masking, HALF, n) for n in (1, 2, 4)]
    assert needed == sorted(needed, reverse=True)

    class Card:
        total_memory = int(needed[1] / 0.9) + 1

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    said = too_large(config, model, HALF, RuntimeError("CUDA out of memory. Tried 2 GiB"))
    assert "--train.accumulate 2 needs about" in said and "Tried 2 GiB" in said
    Card.total_memory = 10**9
    said = too_large(config, model, HALF, RuntimeError("CUDA out of memory."))
    assert "needs about" not in said and "give a smaller --masking.group-size, and then" in said
    said = too_large(config, model, HALF, RuntimeError("CUDA out of memory."), is_packed=False)
    assert said.endswith("give a smaller --masking.group-size")


def test_memory_is_near_what_a_card_held():
    """d6-6w512 with the reference's shapes, bf16, AdamW, no average: 4.8 and 11.8 GB on an H200."""
    config = preset("reference")
    model = config.model.model_copy(update={"tables": "modality", "register_token": True})
    with torch.device("meta"):
        whole = FourM(model, layouts(config))
    for batch, measured in ((64, 4.8e9), (256, 11.8e9)):
        train = config.train.model_copy(update={"batch_size": batch})
        assert memory_needed(whole, train, config.masking, HALF, 1) == pytest.approx(
            measured, rel=0.2
        )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_forecast(name):
    config = preset(name).model_copy(update={"device": "cpu"})
    with torch.device("meta"):
        model = FourM(config.model, layouts(config))
    told = forecast(config, layouts(config), model)
    assert told["device"] == "cpu" and told["engine"] == "by groups"
    assert told["training_takes_about"].split()[1] in ("s", "minutes", "hours")


def test_info_of_a_device_that_is_not_there_is_refused(capsys):
    for device, said in (("tpu", "allowed are auto, cpu, cuda"), ("cuda:0:1", "allowed are")):
        with pytest.raises(SystemExit):
            main(["info", "farm", "--device", device])
        assert said in capsys.readouterr().err


def test_old_options_are_refused_with_their_new_names(capsys):
    for old, new in (("--train.device", "--device"), ("--train.no-compile", "--train.compile off")):
        with pytest.raises(SystemExit):
            main(["train", "farm", old, "cpu"])
        assert f"{old} is {new} now" in capsys.readouterr().err


def test_an_option_that_is_not_there_any_more_is_refused_with_the_reason(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "farm", "--evaluate.bootstrap", "100"])
    assert "not there any more: intervals need no resamples" in capsys.readouterr().err


def test_a_configuration_of_before_is_read():
    old = json.loads(preset("farm").model_dump_json())
    del old["device"], old["masking"]["paired_totals"]
    old["train"] |= {"device": "cpu", "compile": False}
    for new in ("packed", "graphs", "quantum", "accumulate", "workers", "ahead"):
        del old["train"][new]
    found = Config(**old)
    assert found.device == "cpu" and found.train.compile == "off"


def test_settings_of_before_an_option_are_those_of_now():
    config = preset("farm").model_dump(mode="json")
    now = {"seed": 0, "masking": config["masking"], "data": None}
    before = {**now, "masking": {k: v for k, v in now["masking"].items() if k != "paired_totals"}}
    assert with_defaults(before) == now
    # What differs stays another one, and so does what no version knows.
    other = {**before, "masking": before["masking"] | {"suffix": 0.5}}
    assert with_defaults(other)["masking"]["suffix"] == 0.5
    strange = {"masking": {"no such": 1}}
    assert with_defaults(strange) == strange


def test_a_run_that_is_trained_for_another_generation_is_another_run(tmp_path):
    farm = preset("farm")

    def settings(masking=None, **generate):
        update = {"generate": farm.generate.model_copy(update=generate)}
        update |= {"masking": farm.masking.model_copy(update=masking or {})}
        return settings_of(Run(farm.model_copy(update=update), tmp_path, None), "train")

    usual = settings()
    assert usual["masking"] == farm.model_dump(mode="json")["masking"]  # as stored before
    assert settings(steps=3) == settings(order="random") == with_defaults(usual) == usual
    for other in ({"order": "halton"}, {"codebooks": "together"}):
        assert settings(**other) != usual and with_defaults(settings(**other)) == settings(**other)
    said = {"decode_orders": ("random",), "codebooks": "levels"}
    assert settings(said, order="halton", codebooks="together") == usual
    stored = farm.masking.model_copy(update=said).model_dump(mode="json")
    assert with_defaults({"masking": stored}) == {"masking": usual["masking"]}


def test_parts_of_a_step_divide_its_groups():
    with pytest.raises(ValueError, match="train.accumulate 3 does not divide the 2 groups"):
        small_config(accumulate=3)
    assert small_config(accumulate=2).train.accumulate == 2
