"""Trains RecTools' SASRec one epoch at a time and ranks after each epoch.

    python benchmarks/training/sasrec.py FOLDER

It runs in the environment of the quality benchmark's library models. It reads three files:

- ``events.parquet``: ``user``, ``item``, ``time`` (Unix ms) and ``training`` of each event;
- ``baskets.parquet``: ``user`` and ``time`` of each basket to predict;
- ``job.json``: the settings, the number of epochs, the number of items that the model knows (the most frequent ones),
  and whether seen items may be recommended.

It writes ``lists-1.parquet`` (``case``, ``position``, ``item``) after the first epoch and so on, and the times of the
epochs (``epochs.json``).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

LENGTH = 20


def dataset(user: object, item: object, timestamp: object) -> Dataset:
    """Interactions as a RecTools data set."""
    columns = {Columns.User: user, Columns.Item: item, Columns.Datetime: pd.to_datetime(timestamp, unit="ms")}
    return Dataset.construct(pd.DataFrame(columns).assign(**{Columns.Weight: 1.0}))


def past_of(events: pd.DataFrame, baskets: pd.DataFrame, length: int) -> Dataset:
    """A data set in which each basket is a user whose events are the newest ones before the basket."""
    rows_of_user = events.groupby("user", sort=False).indices
    time_ms, item = events["time"].to_numpy(), events["item"].to_numpy()
    past = []
    for user, timestamp in zip(baskets["user"], baskets["time"], strict=True):
        rows = rows_of_user.get(user, np.empty(0, dtype=np.int64))
        past.append(rows[: np.searchsorted(time_ms[rows], timestamp)][-length:])
    counts = [len(rows) for rows in past]
    order = np.concatenate([np.arange(count) for count in counts])
    return dataset(np.repeat(np.arange(len(past)), counts), item[np.concatenate(past)], order * 1000)


def main(folder: Path) -> None:
    """Trains and ranks after each epoch; only the training is timed."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    job = json.loads((folder / "job.json").read_text())
    events = pd.read_parquet(folder / "events.parquet")
    training = events[events["training"]]
    items = training["item"].value_counts().index[: job["items"]]
    known, training = events[events["item"].isin(items)], training[training["item"].isin(items)]
    length = job["settings"]["session_max_len"]
    past = past_of(known, pd.read_parquet(folder / "baskets.parquet"), length)
    cases = past.user_id_map.external_ids
    data = dataset(training["user"].to_numpy(), training["item"].to_numpy(), training["time"].to_numpy())
    # Each epoch predicts every user's newest events except the first.
    predicted = int(np.minimum(training.groupby("user").size() - 1, length).sum())
    seed_everything(0, verbose=False)
    model = SASRecModel(**job["settings"], deterministic=True, verbose=0)
    seconds = []
    for epoch in range(1, job["epochs"] + 1):
        began = time.monotonic()
        model.fit_partial(data, min_epochs=1, max_epochs=1)
        seconds.append(time.monotonic() - began)
        found = model.recommend(
            cases, past, k=LENGTH, filter_viewed=not job["repeats"], on_unsupported_targets="ignore"
        )
        lists = pd.DataFrame(
            {"case": found[Columns.User], "position": found[Columns.Rank] - 1, "item": found[Columns.Item]}
        )
        lists.to_parquet(folder / f"lists-{epoch}.partial")
        (folder / f"lists-{epoch}.partial").rename(folder / f"lists-{epoch}.parquet")
        (folder / "epochs.json").write_text(json.dumps({"seconds": seconds, "events_per_epoch": predicted}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
