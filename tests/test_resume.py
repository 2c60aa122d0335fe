"""Killed at any instant, also inside a checkpoint write, training ends with the same weights, bit by bit."""

import json
import os
import random
import resource
import signal
import sys
import time
from functools import partial
from unittest.mock import patch

import pytest
import torch
from conftest import ranked
from ranks import CONTEXT
from safetensors.torch import load_file
from torch import nn

from gcl_toolkit import Fields, GCLModel, MachineConfig, TrainConfig, UserError, train
from gcl_toolkit.training.runs import Run, load_model, read_steps

STEPS = 10
CONFIG = TrainConfig(steps=STEPS, batch=8, learning_rate=1e-2)


@pytest.fixture(autouse=True)
def one_thread():
    """As in the processes: sums in another order end in other bits, whatever ran here before."""
    torch.set_num_threads(1)


def small_model():
    """A tiny model with dropout on its texts."""
    model = GCLModel("small", right=Fields(image=0.6, title=0.4), dimension=16, image_size=16, width=8)
    model.encoder.text_tower.append(nn.Dropout(0.3))
    return model


def learn(folder, workers=0, **settings):
    """Start or resume training, with random shifts and flips of pictures that are decoded anew each time."""
    module = sys.modules["gcl_toolkit.training.batches"]
    late = patch.object(module, "Inputs", partial(module.Inputs, cache_bytes=0))
    machine, run = MachineConfig(precision="float32", workers=workers, save_minutes=0), Run(folder, resume=True)
    with late:
        yield from train(small_model(), ranked(6, 12), config=CONFIG, machine=machine, run=run, **settings)


def learn_and_die(folder, workers, event):
    """Killed at its `event`-th look at the folder: opening, renaming or removing a file."""
    torch.set_num_threads(1)
    seen = 0

    def count(name, arguments):
        nonlocal seen
        if name.startswith(("open", "os.", "shutil.")) and any(str(folder) in str(a) for a in arguments[:2]):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    for _ in learn(folder, workers):
        pass
    (folder / "events").write_text(str(seen))


def in_process(*arguments, kill_after=None):
    """Exit code of learn_and_die in its own process, killed after some seconds."""
    process = CONTEXT.Process(target=learn_and_die, args=arguments)
    process.start()
    process.join(kill_after)
    process.kill()
    process.join()
    return process.exitcode


def outcome(folder):
    weights = load_file(folder / "checkpoints" / f"step_{STEPS}" / "model.safetensors")
    lines = (folder / "steps.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))
    return weights, [record["loss"] for record in records]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(weights, losses) of a run that was not killed, its number of events and its seconds."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    started = time.perf_counter()
    assert in_process(folder, 0, None) == 0
    return outcome(folder), int((folder / "events").read_text()), time.perf_counter() - started


def assert_same(folder, expected):
    weights, losses = outcome(folder)
    assert losses == expected[1]
    assert weights.keys() == expected[0].keys()
    assert all(torch.equal(weights[name], expected[0][name]) for name in weights)


def test_killed_three_times_it_ends_with_the_same_weights(uninterrupted, tmp_path):
    expected, events, _ = uninterrupted
    for workers, event in ((0, events // 3), (2, events // 4 + 3), (4, 7)):
        assert in_process(tmp_path, workers, event) == -signal.SIGKILL
    assert in_process(tmp_path, 2, None) == 0
    assert_same(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_at_many_random_kill_points(uninterrupted, tmp_path, workers):
    """pytest -m slow tests/test_resume.py: 20 points a number of workers, half by event, half by the clock."""
    expected, events, seconds = uninterrupted
    dice = random.Random(workers)
    killed = []
    for point in range(20):
        folder = tmp_path / str(point)
        if point % 2:
            at, code = None, in_process(folder, workers, None, kill_after=dice.uniform(0.1, seconds))
        else:
            at = dice.randint(1, events)
            code = in_process(folder, workers, at)
            assert code == -signal.SIGKILL
        left = sorted(path.name for path in folder.rglob("step_*")) if folder.is_dir() else []
        killed.append((at, code, len(read_steps(folder)), left))
        assert in_process(folder, workers, None) == 0
        assert_same(folder, expected)
    print(f"\nworkers {workers}: killed at {killed}")


# -- corrupt files -----------------------------------------------------------------------------------------------------


def stopped(folder, steps):
    """A run that was stopped after some steps, with a checkpoint for each."""
    for record in learn(folder):
        if record["step"] == steps:
            break


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def altered(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "model.json", "manifest.json"])
@pytest.mark.parametrize("harm", [cut, altered, os.unlink], ids=["cut", "altered", "missing"])
def test_a_corrupt_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, uninterrupted, name, harm):
    stopped(tmp_path, 4)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_3", "step_4"}
    harm(tmp_path / "checkpoints" / "step_4" / name)
    with pytest.warns(
        UserWarning, match=rf"step_4 is corrupt or incomplete: ({name}|.*not the manifest's|it is empty)"
    ):
        records = list(learn(tmp_path))
    assert records[0]["step"] == 4
    assert_same(tmp_path, uninterrupted[0])


def test_without_an_intact_checkpoint_it_starts_at_step_0(tmp_path, uninterrupted):
    stopped(tmp_path, 2)
    for path in (tmp_path / "checkpoints").glob("*/state.safetensors"):
        cut(path)
    with pytest.warns(UserWarning, match="is corrupt or incomplete"):
        assert len(list(learn(tmp_path))) == STEPS
    assert_same(tmp_path, uninterrupted[0])


def test_a_half_written_last_record_is_removed(tmp_path, uninterrupted):
    stopped(tmp_path, 4)
    with (tmp_path / "steps.jsonl").open("a") as steps:
        steps.write('{"step": 5, "lo')
    assert len(read_steps(tmp_path)) == 4
    list(learn(tmp_path))
    assert_same(tmp_path, uninterrupted[0])


@pytest.mark.parametrize("full", ["steps.jsonl", "model.safetensors", "state.safetensors"])
def test_a_full_disk_is_one_clear_line_and_leaves_the_old_checkpoint(tmp_path, uninterrupted, full):
    """A limit on the size of files stands for the full disk: the system refuses to write on, as it does there."""
    stopped(tmp_path, 4)
    room = (tmp_path / full).stat().st_size if full == "steps.jsonl" else 0
    room = room or (tmp_path / "checkpoints" / "step_4" / full).stat().st_size - 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(UserError, match=r"could not be written \((I/O error: )?File too large.*step.4 is intact"):
            list(learn(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step_3", "step_4"}
    list(learn(tmp_path))
    assert_same(tmp_path, uninterrupted[0])


def test_resuming_with_other_settings_is_an_error(tmp_path):
    stopped(tmp_path, 2)
    with pytest.raises(UserError, match=r"started with train.steps 10, not 20; resume it with the same settings"):
        list(learn(tmp_path, steps=20))
    with pytest.raises(UserError, match=r"started with train.accumulate 1, not 2"):
        list(learn(tmp_path, accumulate=2))
    with pytest.raises(UserError, match=r"started with method 'graded', not 'graded-noscores'"):
        list(learn(tmp_path, method="graded-noscores"))


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    list(learn(tmp_path))
    assert list(learn(tmp_path)) == []
    assert len(read_steps(tmp_path)) == STEPS


def test_a_new_run_replaces_the_old_one(tmp_path):
    stopped(tmp_path, 3)
    list(train(small_model(), ranked(6, 12), run=Run(tmp_path), steps=1, batch=8))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_1"]
    assert len(read_steps(tmp_path)) == 1


def test_only_checkpoints_make_room_for_others(tmp_path):
    notes = tmp_path / "checkpoints" / "notes"
    notes.mkdir(parents=True)
    stopped(tmp_path, 3)
    list(train(small_model(), ranked(6, 12), run=Run(tmp_path), steps=1, batch=8))
    assert {path.name for path in notes.parent.iterdir()} == {"notes", "step_1"}


def test_a_checkpoint_without_a_manifest_is_read(tmp_path):
    model = GCLModel("small", dimension=16, vocabulary=["mug"])
    model.save(tmp_path / "checkpoints" / "step_7")
    assert load_model(tmp_path).encoder.vocabulary == ["mug"]
