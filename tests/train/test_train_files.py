"""Bundles and checkpoints have the mode of any new file."""

import ctypes
import os
import stat
import threading

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ebbtide.train.checkpoint import CheckpointFolder
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.files import default_mode, put_in_place
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


def written(folder, content):
    folder.mkdir()
    (folder / "content").write_text(content)
    return folder


def test_folder_is_there_at_every_moment_when_others_take_its_name(tmp_path):
    folder, other = written(tmp_path / "bundle", "0"), tmp_path / "partial"
    missing, over = [], threading.Event()

    def look():
        while not over.is_set():
            if not (folder / "content").exists():
                missing.append(1)

    looker = threading.Thread(target=look)
    looker.start()
    written(other, "1")
    for _ in range(500):
        put_in_place(other, folder)
    over.set()
    looker.join()
    assert missing == []
    assert [(path / "content").read_text() for path in (folder, other)] == ["0", "1"]


def test_folders_change_their_names_when_the_system_cannot_exchange_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    folder, other = written(tmp_path / "bundle", "old"), written(tmp_path / ".bundle.7.partial", "new")
    put_in_place(other, folder)
    assert [(path / "content").read_text() for path in (folder, other)] == ["new", "old"]
    assert len(list(tmp_path.iterdir())) == 2
    put_in_place(other, tmp_path / "third")
    assert (tmp_path / "third" / "content").read_text() == "old"
