"""What the command line loads at its start."""

import subprocess
import sys

CHECK = """
import sys
import ebbtide.cli.refresh
import ebbtide.cli.train
import ebbtide.train.watcher
print(sorted({"torch", "polars", "transformers", "pydantic"} & sys.modules.keys()))
"""


def test_commands_and_watcher_load_neither_torch_nor_polars():
    found = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
