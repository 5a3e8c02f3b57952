"""A small event log, and the command line."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from unittest import mock

import pytest

import commands


@pytest.fixture(scope="session")
def log(tmp_path_factory):
    """200 events of 5 users on 9 items, in Unix seconds."""
    draw = random.Random(3)  # noqa: S311 - data of a test
    path = tmp_path_factory.mktemp("log") / "log.csv"
    rows = [f"u{draw.randrange(5)},i{draw.randrange(9)},{1_700_000_000 + 3_600 * hour}" for hour in range(200)]
    path.write_text("user,item,time\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def ebbtide():
    """Runs ``ebbtide`` with arguments and environment variables, in this process; its output as bytes."""

    def run(*arguments, **environment):
        with mock.patch.dict(os.environ, {"COLUMNS": "200", **environment}):
            done = commands.run(*arguments)
        return subprocess.CompletedProcess(arguments, done.returncode, done.stdout.encode(), done.stderr.encode())

    return run


@pytest.fixture(scope="session")
def ebbtide_process():
    """The same in a process of its own, for what is decided when a process starts."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *map(str, arguments)],
            capture_output=True,
            timeout=300,
            check=False,
            env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **environment},
        )

    return run


@pytest.fixture(scope="session")
def bundle(log, ebbtide, tmp_path_factory):
    """A bundle of the log with the last fifth held out."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    done = ebbtide("train", "--events", log, "--out", folder, "--epochs", 1, "--holdout", "time:0.2")
    assert done.returncode == 0, done.stderr
    return folder
