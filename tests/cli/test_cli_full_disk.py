"""Commands on a disk that is full end in one line, leave nothing half-written, and keep what was there."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pytest

import commands

FULL_AFTER = {"at once": 0, "after some kilobytes": 30_000, "after a megabyte": 1_000_000}


@contextmanager
def no_file_larger_than(size):
    """Lets the system refuse to write any file beyond so many bytes; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained(tiny_bundle, tmp_path):
    tiny_bundle.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(size, *arguments):
    """The error line of a command that cannot write."""
    with no_file_larger_than(size):
        done = commands.run(*arguments)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
    assert "file too large" in done.stderr.lower()
    return done.stderr


@pytest.mark.parametrize("size", [0, 30_000])
def test_train_leaves_nothing_when_the_disk_is_full(log, tmp_path, size):
    error = refused(size, "train", "--events", log, "--out", tmp_path / "bundle", "--epochs", 1)
    assert str(tmp_path) in error
    assert content(tmp_path) == {}


@pytest.mark.parametrize("size", FULL_AFTER.values(), ids=FULL_AFTER)
def test_export_leaves_nothing_when_the_disk_is_full(trained, tmp_path, size):
    error = refused(size, "export", trained, "--out", tmp_path / "out" / "repository")
    assert str(tmp_path / "out") in error
    assert content(tmp_path / "out") == {}


def test_new_version_leaves_the_repository_as_it_was_when_the_disk_is_full(trained, tmp_path):
    out = tmp_path / "repository"
    commands.ebbtide("export", trained, "--out", out)
    before = content(tmp_path)
    refused(30_000, "export", trained, "--out", out, "--version", 2)
    assert content(tmp_path) == before


def test_refresh_keeps_the_bundle_when_the_disk_is_full(log, tmp_path):
    bundle = tmp_path / "bundle"
    commands.ebbtide("train", "--events", log, "--out", bundle, "--epochs", 1)
    before = content(tmp_path)
    refused(1_000, "refresh", bundle, "--as-of", "2023-11-20")
    assert content(tmp_path) == before
