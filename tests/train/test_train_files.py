"""Bundles and checkpoints have the mode of any new file."""

import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.files import default_mode
from ebbtide.train.trainer import fit


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_tensor_file_has_the_default_mode_when_written(umask, tmp_path):
    path = tmp_path / "weights.safetensors"
    for content in (np.zeros(3), np.ones(2)):
        with default_mode(path):
            save_file({"rows": content}, str(path))
    assert modes(tmp_path) == {"weights.safetensors": 0o666 & ~umask}
    np.testing.assert_array_equal(load_file(str(path))["rows"], np.ones(2))


def test_checkpoint_files_have_the_default_mode_when_saved(umask, random_log, tmp_path):
    vectors = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    everything = np.ones(random_log.events, bool)
    checkpoints = CheckpointFolder(tmp_path / "state")
    fit(random_log, everything, vectors, ModelConfig(dimensions=2), TrainConfig(epochs=1), checkpoints=checkpoints)
    found = modes(tmp_path / "state")
    assert sorted(name.partition("-")[0] for name in found) == ["checkpoint.json", "state"]
    assert set(found.values()) == {0o666 & ~umask}
