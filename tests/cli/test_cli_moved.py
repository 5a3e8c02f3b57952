"""Bundles are not tied to a working folder, and their files may move."""

import json
import shutil

import pytest


@pytest.fixture
def folder(log, tmp_path):
    """A folder with a log of its own."""
    (tmp_path / "data").mkdir()
    shutil.copy(log, tmp_path / "data" / "log.csv")
    return tmp_path


@pytest.fixture
def relative(folder, ebbtide, monkeypatch):
    """A bundle that was trained with relative paths; the working folder is another one afterwards."""
    monkeypatch.chdir(folder)
    done = ebbtide("train", "--events", "data/log.csv", "--out", "b", "--epochs", 1, "--holdout", "time:0.2")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir("/")
    return folder / "b"


def test_a_bundle_is_evaluated_from_another_folder(relative, ebbtide):
    assert ebbtide("evaluate", relative).returncode == 0
    done = ebbtide("evaluate", relative, "--against", relative)
    assert done.returncode == 0, done.stderr


def test_a_log_that_has_moved_is_given(relative, folder, ebbtide):
    (folder / "data" / "log.csv").rename(folder / "moved.csv")
    done = ebbtide("evaluate", relative)
    assert done.returncode == 1
    assert b"no such file, which the bundle was trained on; --events gives its new path" in done.stderr
    done = ebbtide("evaluate", relative, "--events", folder / "moved.csv", "--against", relative)
    assert done.returncode == 0, done.stderr


def test_refresh_remembers_its_log(relative, folder, ebbtide):
    text = (folder / "data" / "log.csv").read_text()
    (folder / "grown.csv").write_text(text + "u1,i1,1701000000\n")
    assert ebbtide("refresh", relative, "--events", folder / "grown.csv").returncode == 0
    (folder / "grown.csv").write_text(text + "u1,i1,1701000000\nu2,i2,1702000000\n")
    done = ebbtide("refresh", relative)
    assert done.returncode == 0, done.stderr
    config = json.loads((relative / "bundle.json").read_text())
    assert config["prior_counted_at_ms"] == 1_702_000_000_001
    assert config["counted"]["events"] == str(folder / "grown.csv")
    assert config["data"]["events"] == str(folder / "data" / "log.csv")


def test_refresh_refuses_to_go_back_in_time_unless_told_to(relative, folder, ebbtide):
    text = (folder / "data" / "log.csv").read_text()
    (folder / "grown.csv").write_text(text + "u1,i1,1701000000\n")
    assert ebbtide("refresh", relative, "--events", folder / "grown.csv").returncode == 0
    before = (relative / "bundle.json").read_bytes()
    done = ebbtide("refresh", relative, "--events", folder / "data" / "log.csv")
    assert done.returncode == 1
    assert b"up to when the bundle has counted already" in done.stderr
    assert (relative / "bundle.json").read_bytes() == before
    assert ebbtide("refresh", relative, "--as-of", "2023-11-20").returncode == 0
