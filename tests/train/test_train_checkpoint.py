"""A training that was killed and resumed gives what an unbroken one gives, to the byte."""

import json
import os
import signal
import subprocess
import sys
from itertools import count

import numpy as np
import pytest
import torch

from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.errors import CheckpointError
from ebbtide.train.stage import train_bundle
from ebbtide.train.trainer import fit
from ebbtide.train.watcher import Watcher
from films import films_in

MODEL = ModelConfig(dimensions=8, exclude_seen=False, repeat_score=True)
TRAINING = TrainConfig(epochs=2, windows_per_batch=3, targets_per_window=4, validation_fraction=0.3)
KILLED = """
import os, signal, sys
from pathlib import Path
from ebbtide.data.dataset import DataReference
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.stage import train_bundle
from ebbtide.train.watcher import Watcher

class Killer(Watcher):
    parts = 0

    def epoch_part_done(self, part):
        self.parts += 1
        if self.parts == int(sys.argv[5]):
            os.kill(os.getpid(), signal.SIGKILL)

train_bundle(
    DataReference.model_validate_json(sys.argv[1]), "packaged", ModelConfig.model_validate_json(sys.argv[2]),
    TrainConfig.model_validate_json(sys.argv[3]), Killer(), CheckpointFolder(Path(sys.argv[4]), every_batches=3),
)
"""


class Interrupted(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class Counter(Watcher):
    """Counts the parts of the first epoch."""

    def __init__(self):
        self.parts = 0
        self._ended = False

    def epoch_part_done(self, _part):
        self.parts += not self._ended

    def epoch_ended(self, epoch):
        self._ended |= epoch.number > 0


class Interrupter(Watcher):
    def __init__(self, after):
        self._after = after
        self._parts = count(1)

    def epoch_part_done(self, _part):
        if next(self._parts) == self._after:
            raise Interrupted


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)


def train(log, vectors, watcher=None, checkpoints=None, **changes):
    config = TRAINING.model_copy(update=changes)
    return fit(log, np.ones(log.events, bool), vectors, MODEL, config, watcher, checkpoints)


def told(result):
    """What a fit says of itself, but for its seconds."""
    # Before the first step loss and alpha are NaN, which equals nothing.
    epochs = [(epoch.number, str(epoch.loss), str(epoch.alpha), epoch.validation) for epoch in result.epochs]
    return result.start, result.best_epoch, epochs


@pytest.mark.parametrize(
    ("model", "fraction", "start", "step"),
    [
        (MODEL, 0.3, Start.texts, 5),
        # Of two starts, the one that is raced first goes on, then the other one.
        (ModelConfig(dimensions=2), 0.3, Start.items, 5),
        pytest.param(MODEL, 0.3, Start.texts, 1, marks=pytest.mark.slow),
        pytest.param(ModelConfig(dimensions=8), 0.3, Start.texts, 2, marks=pytest.mark.slow),
        pytest.param(ModelConfig(dimensions=2), 0.3, Start.items, 2, marks=pytest.mark.slow),
    ],
)
def test_fit_is_the_same_when_it_was_broken_off_after_any_batch_and_resumed(
    random_log, vectors, tmp_path, model, fraction, start, step
):
    config = TRAINING.model_copy(update={"epochs": 4, "validation_fraction": fraction, "interest_scales": (1.0,)})

    def train(*watcher_and_checkpoints):
        return fit(random_log, np.ones(random_log.events, bool), vectors, model, config, *watcher_and_checkpoints)

    whole = train()
    assert whole.start is start
    expected = whole.model.state_dict()
    for after in count(1, step):
        folder = tmp_path / str(after)
        try:
            train(Interrupter(after), CheckpointFolder(folder, every_batches=2))
            break
        except Interrupted:
            again = train(None, CheckpointFolder(folder, resume=True))
        assert told(again) == told(whole)
        torch.testing.assert_close(again.model.state_dict(), expected, rtol=0, atol=0)
    assert after > 10


@pytest.fixture(scope="module")
def data(small_files):
    return films_in(small_files)


def test_bundle_is_the_same_to_the_byte_when_training_was_killed_and_resumed(data, tmp_path):
    model, training = ModelConfig(dimensions=8), TrainConfig(epochs=2, windows_per_batch=8)
    counter = Counter()
    train_bundle(data, "packaged", model, training, counter)[0].save(tmp_path / "whole")
    arguments = [data.model_dump_json(), model.model_dump_json(), training.model_dump_json()]
    # As many threads as here: sums are split over them.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, str(tmp_path / "kept"), str(counter.parts + 5)],
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    progress = json.loads((tmp_path / "kept" / "checkpoint.json").read_text())["progress"]
    assert [epoch["number"] for epoch in progress["tried"]["epochs"]] == [0, 1]
    assert progress["batches"] == 3
    checkpoints = CheckpointFolder(tmp_path / "kept", resume=True)
    train_bundle(data, "packaged", model, training, None, checkpoints)[0].save(tmp_path / "resumed")
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "resumed" / file.name).read_bytes(), file.name
    checkpoints.clear()
    assert not (tmp_path / "kept").exists()


def broken_off(log, vectors, folder):
    with pytest.raises(Interrupted):
        train(log, vectors, Interrupter(4), CheckpointFolder(folder, every_batches=2))


def test_checkpoint_is_refused_with_the_setting_when_it_is_of_other_settings(random_log, vectors, tmp_path):
    broken_off(random_log, vectors, tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"learning_rate: got 0\.1; expected 0\.004"):
        train(random_log, vectors, None, CheckpointFolder(tmp_path / "kept", resume=True), learning_rate=0.1)


def test_checkpoint_is_refused_when_the_data_has_changed(random_log, vectors, tmp_path):
    broken_off(random_log, vectors, tmp_path / "kept")
    with pytest.raises(CheckpointError, match="have changed"):
        train(random_log, vectors + 1, None, CheckpointFolder(tmp_path / "kept", resume=True))


def test_checkpoint_is_not_overwritten_when_resuming_is_not_asked_for(random_log, vectors, tmp_path):
    broken_off(random_log, vectors, tmp_path / "kept")
    with pytest.raises(CheckpointError, match="--resume"):
        train(random_log, vectors, None, CheckpointFolder(tmp_path / "kept"))


def test_checkpoint_is_refused_when_its_tensors_are_damaged(random_log, vectors, tmp_path):
    broken_off(random_log, vectors, tmp_path / "kept")
    (state,) = (tmp_path / "kept").glob("state-*.safetensors")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        train(random_log, vectors, None, CheckpointFolder(tmp_path / "kept", resume=True))


def test_checkpoint_survives_when_a_kill_left_half_written_files(random_log, vectors, tmp_path):
    whole = train(random_log, vectors)
    broken_off(random_log, vectors, tmp_path / "kept")
    for name in ("state-99.safetensors", "state-100.partial", "checkpoint.partial"):
        (tmp_path / "kept" / name).write_bytes(b"half")
    again = train(random_log, vectors, None, CheckpointFolder(tmp_path / "kept", resume=True))
    torch.testing.assert_close(again.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert [file.name for file in (tmp_path / "kept").glob("state-*.safetensors")] != ["state-99.safetensors"]
