"""The notebook for researchers, cell by cell in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "research.ipynb"


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def test_notebook_is_stored_without_outputs_and_with_ids() -> None:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] for cell in found if cell["cell_type"] == "code")
    assert len({cell["id"] for cell in found}) == len(found)
    for source in cells():
        compile(source, NOTEBOOK.name, "exec")


@pytest.mark.slow
def test_notebook_runs_when_jupyter_executes_it_in_its_own_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n\n".join(cells())],
        cwd=NOTEBOOK.parent,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for words in ("validation NDCG@10", "by time:", "with decay", "popularity", "alpha"):
        assert words in done.stdout
