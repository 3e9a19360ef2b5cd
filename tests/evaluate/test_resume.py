"""An evaluation that is stopped goes on task by task, and ends in the same bytes."""

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_class_consistency import FakeClips
from test_evaluate import make_table, random_model

from nano4m.config.generation import GenerateConfig
from nano4m.config.run import Config, EvaluateConfig
from nano4m.evaluate import class_consistency, tasks
from nano4m.evaluate.context import RunArtifacts, open_context
from nano4m.evaluate.run import evaluate_run
from nano4m.evaluate.task_results import Likelihoods, Made, TaskFiles
from nano4m.storage.finished_units import _check

ABOUT = {"provenance": {}, "clips": {}, "tokenizers": {}, "training": {}, "seconds": {}}
NUM_TASKS = 3 + 3 + 3
NUM_DIRECTIONS = 3 * 2 + 3


def configured(workers: int = 0, **generate) -> Config:
    return Config(
        tokenizers={
            "rgb": {"kind": "image_vq"}, "sound": {"kind": "mel_vq"}, "caption": {"kind": "bpe"},
        },
        generate=GenerateConfig(**{"steps": 2} | generate),
        evaluate=EvaluateConfig(clips=12, classifier_steps=3, workers=workers),
        device="cpu",
    )  # fmt: skip


@dataclass(frozen=True)
class SmallRun:
    """Opens the same small run in every process."""

    def __call__(self) -> RunArtifacts:
        table = make_table(8)
        clips = FakeClips(table)
        model = random_model(table)
        for parameter in model.parameters():
            parameter.data.mul_(0.3)  # so that no id is almost certain
        return RunArtifacts(clips, clips.tokenizers, table, model)


def evaluated(folder: Path, workers: int = 0) -> tuple[bytes, bytes]:
    """Return what an evaluation ends in, without its time."""
    evaluate_run(configured(workers), SmallRun(), folder, ABOUT)
    results = json.loads((folder / "results.json").read_text())
    assert results.pop("seconds").keys() == {"evaluate"}
    results["config"]["evaluate"].pop("workers")
    assert sorted(p.name for p in folder.iterdir()) == ["generated.npz", "results.json"]
    return json.dumps(results).encode(), (folder / "generated.npz").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    found = evaluated(folder)
    with np.load(folder / "generated.npz") as arrays:
        assert all(len(np.unique(own)) > 4 for own in arrays.values())
    return found


@pytest.fixture
def counted(monkeypatch):
    """Count the tasks that are begun and the directions that are generated."""
    count = {"tasks": 0, "directions": 0}
    generate = class_consistency.generate_from

    def generated(*args):
        count["directions"] += 1
        return generate(*args)

    def begun(work):
        def counts(*args):
            count["tasks"] += 1
            return work(*args)

        counts.__name__, counts.__annotations__ = work.__name__, work.__annotations__
        return counts

    monkeypatch.setattr(class_consistency, "generate_from", generated)
    for name in ("generate_and_classify", "score_likelihoods", "classify_by_caption"):
        monkeypatch.setattr(tasks, name, begun(getattr(tasks, name)))
    return count


def stop_after(monkeypatch, name: str, calls: int, before: bool = False) -> None:
    """Let the method ``name`` of TaskFiles stop everything at its call of this number, from 1."""
    method, count = getattr(TaskFiles, name), [0]

    def stopped(self, *args):
        count[0] += 1
        if before and count[0] == calls:
            raise KeyboardInterrupt
        found = method(self, *args)
        if count[0] == calls:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(TaskFiles, name, stopped)


def test_stops_after_any_task_and_any_direction_change_no_byte(
    tmp_path, monkeypatch, capsys, whole, counted
):
    # After 1 task, after 1 more, in the middle of the third, before its result is stored, then at
    # the fourth of the rest.
    for name, calls, before in (
        ("write", 1, False), ("write", 1, False), ("recall", 2, False), ("write", 1, True),
        ("write", 4, False),
    ):  # fmt: skip
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stop_after(patch, name, calls, before)
            evaluate_run(configured(), SmallRun(), tmp_path, ABOUT)
        assert not (tmp_path / "results.json").exists()
    said = capsys.readouterr().err
    after = [line for line in said.splitlines() if "goes on after" in line]
    assert after == [f"evaluate: goes on after {k} of {NUM_TASKS} tasks" for k in (1, 2, 2, 2)]
    assert evaluated(tmp_path) == whole
    assert f"goes on after 6 of {NUM_TASKS} tasks" in capsys.readouterr().err
    # Two tasks were stopped; what they had generated was there.
    assert counted == {"tasks": NUM_TASKS + 2, "directions": NUM_DIRECTIONS}


def test_ids_do_not_depend_on_which_clips_are_generated_together(monkeypatch):
    """In float32 only nearly so; these few differ nowhere, and those of another seed widely."""
    monkeypatch.setattr(class_consistency, "sampling_precision", lambda _: nullcontext())
    found = []
    for together, seed in ((1024, 0), (5, 0), (5, 1)):
        monkeypatch.setattr(class_consistency, "GENERATED_AT_ONCE", together)
        config = configured().model_copy(update={"seed": seed})
        context = open_context(config, SmallRun())
        drawn = class_consistency.directions_into(
            context.evaluator, 0, config.generate, context.tokenizers, None, None
        )
        found.append(np.stack([*drawn[2].values()]))
    assert np.array_equal(found[0], found[1]) and (found[1] != found[2]).mean() > 0.5


def test_results_of_one_process_and_of_two_can_be_put_together(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, "write", 5)
        evaluate_run(configured(workers=2), SmallRun(), tmp_path, ABOUT)
    assert len(list((tmp_path / "tasks").glob("*_*.json"))) == 5
    assert evaluated(tmp_path) == whole


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """Return the folder of an evaluation that was stopped after its seventh task."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, "write", 7)
        evaluate_run(configured(), SmallRun(), tmp_path, ABOUT)
    return tmp_path


def test_files_are_json_and_plain_arrays_and_any_damage_of_them_is_made_again(
    stopped, capsys, whole
):
    files = sorted((stopped / "tasks").iterdir())
    assert {p.suffix for p in files} == {".json", ".npz"}
    for path in files:
        if path.suffix == ".json":
            assert json.loads(path.read_text())["format"] == 1
        else:
            with np.load(path, allow_pickle=False) as arrays:
                assert all(a.dtype.kind in "uif" for a in arrays.values())
    # Each in another way; what a JSON says of its arrays is seen too.
    rng, contents = np.random.default_rng(0), [p.read_bytes() for p in files]
    for i, (path, own) in enumerate(zip(files, contents, strict=True)):
        middle = int(rng.integers(1, len(own) - 1))
        flipped = own[:middle] + bytes([own[middle] ^ 1]) + own[middle + 1 :]
        ways = (b"", own[:middle], contents[i - 1], flipped, b"\xef\xbb\xbf[]", None)
        content = ways[i % len(ways)]
        path.unlink() if content is None else path.write_bytes(content)
    assert evaluated(stopped) == whole
    said = capsys.readouterr().err
    assert said.count("cannot be used") > len(files) / 4 and "made again" in said


def test_each_unit_says_so_if_it_is_damaged_or_of_another_run(tmp_path, capsys):
    result = Made(
        classifier=None, cells=[], all_sources=None, memorization=[],
        ids={"rgb->sound": np.arange(6, dtype=np.uint16).reshape(2, 3)},
    )  # fmt: skip
    (tmp_path / "inputs.json").write_text('{"train": "a"}')

    def read(config=None, kind=Made, name="a"):
        capsys.readouterr()
        files = TaskFiles(tmp_path, config or configured())
        return files.read(name, kind), files.seconds, capsys.readouterr().err

    TaskFiles(tmp_path, configured()).write("a", result, 12.5)
    found, seconds, said = read(configured(workers=7))
    assert found.ids["rgb->sound"].tolist() == [[0, 1, 2], [3, 4, 5]] and not said
    assert seconds == 12.5 and found.model_dump() == result.model_dump()
    assert read(name="b")[0] is None and not read(name="b")[2]
    for change in ("config", "inputs", "kind", "name", "newer"):
        config, kind, name = configured(), Made, "a"
        stored = tmp_path / "tasks" / "a.json"
        kept = stored.read_text()
        if change == "config":
            config = configured(steps=3)
        elif change == "inputs":
            (tmp_path / "inputs.json").write_text('{"train": "b"}')
        elif change == "kind":
            kind = Likelihoods
        elif change == "name":
            name = "b"
            stored.with_name("b.json").write_text(kept)
        else:
            stored.write_text(json.dumps(json.loads(kept) | {"format": 99}))
        found, seconds, said = read(config, kind, name)
        assert found is None and seconds == 0 and "cannot be used" in said, change
        stored.write_text(kept)
        (tmp_path / "inputs.json").write_text('{"train": "a"}')
    assert read()[0] is not None


def test_the_time_of_all_attempts_adds_up(stopped):
    for path in (stopped / "tasks").glob("*_*.json"):
        unit = json.loads(path.read_text())
        unit["value"]["seconds"] += 1000
        path.write_text(json.dumps(unit | {"check": _check(unit)}))
    found = evaluate_run(configured(), SmallRun(), stopped, ABOUT)
    assert 1000 < found.seconds["evaluate"] < 1500
