"""Bundles are not tied to a working folder, and their files may move."""

import json
import shutil

import pytest


@pytest.fixture
def place(log, tmp_path):
    """A folder with a log of its own."""
    (tmp_path / "data").mkdir()
    shutil.copy(log, tmp_path / "data" / "log.csv")
    return tmp_path


@pytest.fixture
def relative(place, ebbtide, monkeypatch):
    """A bundle that was trained with relative paths; the working folder is another one afterwards."""
    monkeypatch.chdir(place)
    done = ebbtide("train", "--events", "data/log.csv", "--out", "b", "--epochs", 1, "--holdout", "time:0.2")
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir("/")
    return place / "b"


def test_a_bundle_is_evaluated_from_another_folder(relative, ebbtide):
    assert ebbtide("evaluate", relative).returncode == 0
    done = ebbtide("evaluate", relative, "--against", relative)
    assert done.returncode == 0, done.stderr


def test_a_log_that_has_moved_is_given(relative, place, ebbtide):
    (place / "data" / "log.csv").rename(place / "moved.csv")
    done = ebbtide("evaluate", relative)
    assert done.returncode == 1
    assert b"no such file, which the bundle was trained on; --events gives its place now" in done.stderr
    done = ebbtide("evaluate", relative, "--events", place / "moved.csv", "--against", relative)
    assert done.returncode == 0, done.stderr


def test_refresh_remembers_its_log(relative, place, ebbtide):
    text = (place / "data" / "log.csv").read_text()
    (place / "grown.csv").write_text(text + "u1,i1,1701000000\n")
    assert ebbtide("refresh", relative, "--events", place / "grown.csv").returncode == 0
    (place / "grown.csv").write_text(text + "u1,i1,1701000000\nu2,i2,1702000000\n")
    done = ebbtide("refresh", relative)
    assert done.returncode == 0, done.stderr
    config = json.loads((relative / "bundle.json").read_text())
    assert config["prior_counted_at_ms"] == 1_702_000_000_001
    assert config["counted"]["events"] == str(place / "grown.csv")
    assert config["data"]["events"] == str(place / "data" / "log.csv")


def test_refresh_refuses_to_go_back_in_time_unless_told_to(relative, place, ebbtide):
    text = (place / "data" / "log.csv").read_text()
    (place / "grown.csv").write_text(text + "u1,i1,1701000000\n")
    assert ebbtide("refresh", relative, "--events", place / "grown.csv").returncode == 0
    before = (relative / "bundle.json").read_bytes()
    done = ebbtide("refresh", relative, "--events", place / "data" / "log.csv")
    assert done.returncode == 1
    assert b"up to when the bundle has counted already" in done.stderr
    assert (relative / "bundle.json").read_bytes() == before
    assert ebbtide("refresh", relative, "--as-of", "2023-11-20").returncode == 0
