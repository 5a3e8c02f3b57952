"""`ebbtide refresh --every`: counts again while the log grows, and goes on after a log that cannot be read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
import typer

from ebbtide.cli.refresh import seconds_of


def line_with(lines, text):
    return next(line for line in lines if text in line)


def test_refresh_counts_again_while_the_log_grows(bundle, log, tmp_path):
    copy, grown = tmp_path / "bundle", tmp_path / "log.csv"
    shutil.copytree(bundle, copy)
    rows = log.read_text()
    grown.write_text(rows)
    arguments = ["refresh", str(copy), "--events", str(grown), "--every", "0.1s"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert "200 events counted" in line_with(process.stdout, "events counted")
        grown.write_text("nothing\n")
        assert "the next refresh tries again" in line_with(process.stdout, "error:")
        grown.write_text(rows + "u1,i1,1800000000\n")
        assert "up to 2027-01-15 08:00:00 UTC" in line_with(process.stdout, "201 events counted")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130


@pytest.mark.parametrize("text", ["10", "m", "0s", "infs", "-1h", "5y"])
def test_wrong_pause_is_named(text):
    with pytest.raises(typer.BadParameter, match=f"--every: got '{text}'; expected a number with a unit"):
        seconds_of(text)
