"""Training in several processes and in 16 bits gives what one process in 32 bits gives."""

import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ebbtide.train.bundle import InterestBundle
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import DeviceConfig, Devices
from ebbtide.train.errors import CheckpointError, DeviceError
from ebbtide.train.trainer import fit
from ports import free_port

MODEL = ModelConfig(dimensions=8)
# 7 windows are no even number: shares differ, and at the end of an epoch one may be empty.
SAME = TrainConfig(epochs=1, windows_per_batch=7, dropout=0.0, residual_dropout=0.0, refit=False)
DRAWS = TrainConfig(epochs=2, windows_per_batch=7, loss="sampled-softmax", refit=False)
# A script of its own, since the other process runs the command that started the first one.
PROCESS = """
import sys
from itertools import count
from pathlib import Path
import numpy as np
from safetensors.torch import load_file, save_file
from ebbtide.data.catalog import read_catalog
from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.devices import DeviceConfig, Devices
from ebbtide.data.events import EventColumns, build_log, read_events
from ebbtide.train.trainer import fit

class Interrupted(BaseException):
    pass

class Interrupting(Devices):
    steps = count(1)

    def total(self, *values):
        # Batch 20, as two calls are not of batches: not right after a checkpoint, which the first process may still be
        # writing when the other one reads it.
        if next(self.steps) == 22:
            raise Interrupted
        return super().total(*values)

files, out = Path(sys.argv[1]), Path(sys.argv[2])
model, same, draws = ModelConfig.model_validate_json(sys.argv[3]), *map(TrainConfig.model_validate_json, sys.argv[4:])
catalog, _ = read_catalog(files / "movies.parquet", "movieId", "{title} ({year}). {genres}")
columns = EventColumns(user="userId", item="movieId", time="timestamp")
log = build_log(read_events(files / "ratings.parquet", columns, catalog.index)[0], catalog.index)
two = DeviceConfig(devices=2)

def train(name, config, devices, checkpoints=None):
    result = fit(log, np.ones(log.events, bool), np.load(out / "vectors.npy"), model, config, None, checkpoints,
                 devices=devices)
    if devices.is_first:
        save_file(result.model.state_dict(), out / f"{name}.safetensors")

train("same", same, Devices(two))
train("whole", draws, Devices(two))
try:
    train("never", draws, Interrupting(two), CheckpointFolder(out / "kept", every_batches=3))
except Interrupted:
    (out / f"interrupted-{Devices(two).rank}").touch()
train("resumed", draws, Devices(two), CheckpointFolder(out / "kept", resume=True, every_batches=10_000))
"""


@pytest.fixture(scope="module")
def trained_by_two(small_files, small_vectors, tmp_path_factory):
    """The folder where two processes left what they trained."""
    out = tmp_path_factory.mktemp("two")
    np.save(out / "vectors.npy", small_vectors)
    script = out / "process.py"
    script.write_text(PROCESS)
    settings = [config.model_dump_json() for config in (MODEL, SAME, DRAWS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, small_files, out, *settings], env=environment, check=True, timeout=300)
    return out


def test_two_processes_give_the_parameters_of_one(trained_by_two, small_log, small_vectors):
    log, _ = small_log
    one = fit(log, np.ones(log.events, bool), small_vectors, MODEL, SAME).model.state_dict()
    two = load_file(trained_by_two / "same.safetensors")
    # What is solved in closed form differs with the number of threads, by up to a thousandth on some processors.
    torch.testing.assert_close(two, dict(one), rtol=2e-3, atol=2e-4)


def test_two_processes_resume_exactly_when_both_were_broken_off(trained_by_two):
    assert (trained_by_two / "interrupted-0").exists()
    assert (trained_by_two / "interrupted-1").exists()
    whole, resumed = (load_file(trained_by_two / f"{name}.safetensors") for name in ("whole", "resumed"))
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_processes_draw_for_themselves(trained_by_two):
    (state,) = (trained_by_two / "kept").glob("state-*.safetensors")
    first, second = load_file(state)["torch_generators"]
    assert not torch.equal(first, second)


@pytest.mark.slow
def test_command_trains_in_two_processes_and_one_speaks(small_files, tmp_path):
    data = ["--events", small_files / "ratings.parquet", "--user-col", "userId", "--item-col", "movieId"]
    data += ["--time-col", "timestamp", "--catalog", small_files / "movies.parquet", "--text-template", "{title}"]
    training = ["--epochs", "1", "--no-refit", "--dimensions", "8", "--devices", "2", "--precision", "bf16"]
    command = [Path(sys.executable).with_name("ebbtide"), "train", *data, *training, "--out", tmp_path / "bundle"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("start at the texts: epoch 1 ") == 1
    assert done.stdout.count("✓ bundle") == 1
    assert InterestBundle.load(tmp_path / "bundle").model.text_vectors.shape == (300, 384)


@pytest.mark.slow
def test_command_trains_on_two_machines_and_the_first_writes_what_one_writes(small_files, tmp_path):
    port = free_port()
    data = ["--events", small_files / "ratings.parquet", "--user-col", "userId", "--item-col", "movieId"]
    data += ["--time-col", "timestamp", "--catalog", small_files / "movies.parquet", "--text-template", "{title}"]
    training = ["--epochs", "1", "--no-refit", "--dimensions", "8", "--devices", "1"]
    programs = Path(sys.executable).parent
    machines = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = []
    for machine in range(2):
        ranked = [programs / "torchrun", *machines, "--node-rank", str(machine), "--no-python"]
        command = [*ranked, programs / "ebbtide", "train", *data, *training, "--out", tmp_path / f"of-{machine}"]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        running.append(subprocess.Popen(command, env=environment, **output))
    told = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    assert [output.count("✓ bundle") for output in told] == [1, 0]
    assert not (tmp_path / "of-1").exists()
    alone = [programs / "ebbtide", "train", *data, *training, "--devices", "2", "--out", tmp_path / "alone"]
    subprocess.run(alone, env=environment, check=True, timeout=300)
    two = InterestBundle.load(tmp_path / "of-0").model.state_dict()
    torch.testing.assert_close(two, InterestBundle.load(tmp_path / "alone").model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precision_keeps_validation_near_that_of_fp32(small_log, small_vectors, precision):
    log, _ = small_log
    config = TrainConfig(epochs=2, windows_per_batch=8, refit=False)
    everything = np.ones(log.events, bool)
    full = fit(log, everything, small_vectors, MODEL, config)
    devices = Devices(DeviceConfig(precision=precision))
    half = fit(log, everything, small_vectors, MODEL, config, devices=devices)
    differing = (half.model.item_residual - full.model.item_residual).abs().max()
    assert 0 < differing < 0.01
    assert half.model.item_residual.dtype == torch.float32
    assert half.epochs[1].loss != full.epochs[1].loss
    for ours, theirs in zip(half.epochs, full.epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.01, nan_ok=True)
        assert ours.validation.ndcg_at_10 == pytest.approx(theirs.validation.ndcg_at_10, abs=0.005)


class Interrupted(BaseException):
    """Nothing catches it."""


class Interrupting(Devices):
    """Breaks off."""

    def __init__(self, config, after):
        super().__init__(config)
        self._after = after
        self._steps = count(1)

    def total(self, *values):
        if next(self._steps) == self._after:
            raise Interrupted
        return super().total(*values)


@pytest.fixture
def broken_off(random_log, tmp_path):
    """Trains on the random log, first until it breaks off, in 16 bits and with checkpoints."""

    def train(devices, checkpoints=None):
        config = TrainConfig(epochs=2, windows_per_batch=3, targets_per_window=4, validation_fraction=0.3)
        vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
        return fit(
            random_log, np.ones(random_log.events, bool), vectors, MODEL, config, None, checkpoints, devices=devices
        )

    with pytest.raises(Interrupted):
        train(Interrupting(DeviceConfig(precision="fp16"), 6), CheckpointFolder(tmp_path / "kept", every_batches=2))
    return train


def test_resumed_training_keeps_the_scale_of_the_loss_when_in_fp16(broken_off, tmp_path):
    fp16 = DeviceConfig(precision="fp16")
    whole = broken_off(Devices(fp16))
    resumed = broken_off(Devices(fp16), CheckpointFolder(tmp_path / "kept", resume=True))
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"devices": 2, "precision": "fp16"}, "devices: got 2; expected 1"),
        ({"precision": "bf16"}, "precision: got 'bf16'; expected 'fp16'"),
    ],
)
def test_checkpoint_is_refused_when_it_is_of_other_devices(broken_off, tmp_path, other, message):
    with pytest.raises(CheckpointError, match=message):
        broken_off(Devices(DeviceConfig(**other)), CheckpointFolder(tmp_path / "kept", resume=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_devices_are_refused_in_one_line_when_there_is_no_gpu():
    with pytest.raises(DeviceError, match=r"^device: got 'cuda'; expected 'cpu' or 'auto': .*$"):
        Devices(DeviceConfig(device="cuda"))
    assert Devices(DeviceConfig(device="auto")).kind == "cpu"


def test_devices_are_refused_when_torchrun_started_another_number(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=r"^devices: got 1; expected 2, the number that torchrun started here"):
        Devices()


def test_devices_are_refused_when_there_are_none_of_them():
    with pytest.raises(ValidationError):
        DeviceConfig(devices=0)
