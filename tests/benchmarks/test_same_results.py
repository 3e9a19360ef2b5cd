"""Two runs are compared: what is equal, and a planted difference of each kind."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nano4m.cli import main
from tiny_run import TINY

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import same_results  # noqa: E402


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("same") / "run"
    main(["run", "farm", "--out", str(out), *TINY])
    return out


def test_a_run_is_equal_to_its_copy_and_a_planted_difference_is_seen(finished, tmp_path):
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    equal = {"weights": True, "log": True, "generated": True, "figures_that_differ": []}
    assert same_results.compare(finished, copy) == equal
    weights = copy / "train" / "checkpoint" / "model.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).view(-1)[0] += 1e-6
    save_file(tensors, weights)
    log = copy / "train" / "log.jsonl"
    first, *others = log.read_text().splitlines()
    log.write_text("\n".join([json.dumps(json.loads(first) | {"grad_norm": 9.0}), *others]))
    made = dict(np.load(copy / "evaluate" / "generated.npz"))
    made["rgb->depth"][0, 0] += 1
    np.savez(copy / "evaluate" / "generated.npz", **made)
    figures = json.loads((copy / "results.json").read_text())
    figures["probes"][0]["score"]["value"] += 0.5
    figures["seconds"]["train"] += 1
    (copy / "results.json").write_text(json.dumps(figures))
    found = same_results.compare(finished, copy)
    assert not found["weights"] and not found["log"] and not found["generated"]
    assert len(found["figures_that_differ"]) == 1
    assert found["figures_that_differ"][0].startswith("probes[0].score.value")
