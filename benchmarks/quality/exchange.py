"""Runs library models in their own environment: writes a split to Parquet and JSON files and reads the lists back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import polars as pl

from benchmarks.quality.cache import Fitted
from benchmarks.quality.split import Split
from ebbtide.train.evaluation.lists import read_predictions

Settings = dict[str, float]


def library_lists(python: Path, folder: Path, split: Split, model: str, settings: Settings) -> Fitted:
    """Fits a library model on the training events and ranks the catalog for every test basket.

    Args:
        python: Python interpreter of the environment of requirements.txt.
        folder: Folder for the exchanged files, which are overwritten.
        split: Data and protocol.
        model: Name of the model in library.py.
        settings: Hyperparameters of the fit.

    Raises:
        subprocess.CalledProcessError: The library model failed; its message is on standard error.
    """
    test = split.test
    users = pl.Series(test.log.users, dtype=pl.String)
    ids = pl.Series(test.catalog.item_id, dtype=pl.String)
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        {
            "user": users.gather(test.log.user),
            "item": ids.gather(test.log.item),
            "time": test.log.time_ms,
            "training": split.training,
        }
    ).write_parquet(folder / "events.parquet")
    pl.DataFrame({"user": users.gather(test.owner), "time": test.log.time_ms[test.baskets.head]}).write_parquet(
        folder / "baskets.parquet"
    )
    job = {"model": model, "settings": settings, "repeats": split.repeats}
    (folder / "job.json").write_text(json.dumps(job))
    # implicit uses its own threads, and BLAS threads slow it down. The libraries' warnings would hide the results.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    script = Path(__file__).parent / "library.py"
    subprocess.run([str(python), str(script), str(folder)], check=True, env=environment)
    took = json.loads((folder / "took.json").read_text())
    lists = read_predictions(folder / "lists.parquet", test.log, test.baskets, test.catalog)
    return Fitted(lists, took["train_s"], took["cpu_s"])
