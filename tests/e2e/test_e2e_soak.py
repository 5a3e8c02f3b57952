"""The short form of the hour-long soak: nothing fails, and the server does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_server_neither_fails_nor_grows_under_load_while_versions_and_items_change(trained, tmp_path):
    report = tmp_path / "soak.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "--minutes",
        "3",
        "--bundle",
        trained.bundle_folder,
        "--json",
        report,
    ]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    found = json.loads(report.read_text())
    assert (found["failed"], found["first_failures"], found["failed_changes"]) == (0, [], [])
    assert found["calls"] > 1000
    assert (found["deployments"], found["item_changes"] > 10) == (12, True)
    growth = {name: values["last_over_first"] for name, values in found["growth"].items()}
    # Three minutes are short for what allocators keep; the hour is held to 2 %.
    assert growth["memory_mib"] < 1.05
    assert max(growth["descriptors"], growth["threads"], growth["shared_mib"]) < 1.02
